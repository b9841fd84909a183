"""The types of the catalogue of data sets, which stands in ``catalog.toml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DEFAULT_TEMPLATE = "a photo of a {}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksums:
    """What a file is recognised by.

    size:     bytes, 0 where it is not on record.
    sha256:   whole, or the first 16 hexadecimal digits; "" where it is not on record, as with the other hashes.
    git_blob: the object id that git gives to the file.
    """

    size: int = 0
    sha256: str = ""
    md5: str = ""
    git_blob: str = ""


@dataclass(frozen=True, slots=True)
class Source(Checksums):
    """One file that can be fetched, with its checksums.

    what:    "images", "split", "names" or "annotations".
    where:   "url", "drive" (Google Drive id), "github" (raw file) or "manual" (an account or a dead link).
    optional: only needed to rebuild a split, which ``prepare`` never does.
    gives:   targets of the parts that are in this archive; () for all of them.
    inner:   archives inside this archive that hold the images.
    skip:    members, files or folders, that are not unpacked.
    """

    what: Literal["images", "split", "names", "annotations"]
    where: Literal["url", "drive", "github", "manual"]
    address: str
    filename: str
    note: str = ""
    optional: bool = False
    gives: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """What a browser opens."""
        return f"https://drive.google.com/uc?id={self.address}" if self.where == "drive" else self.address

    def brings(self, target: str) -> bool:
        """Whether a part of the layout is in this archive."""
        return not self.gives or target in self.gives


@dataclass(frozen=True, slots=True)
class BinaryFile(Checksums):
    """A file that holds many images or their labels, in the folder ``Part.inside``."""

    filename: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFacts:
    """How files hold images and labels as plain bytes: records of one length, one after the other, an image in each.

    labels:    bytes before the pixels of a record: labels; 0 where those lie in files of their own, a byte each.
    label:     which of them is that of the class.
    first:     the label of the first class.
    by_column: a plane (red, green, blue) is stored column by column, instead of row by row.
    names:     the file with the names of the classes, one on each line, in the order of the labels.
    """

    names: str
    labels: int = 0
    label: int = 0
    first: int = 0
    by_column: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A folder or file of a data set's layout, and its places in archives and other layouts.

    target: relative to the data set's folder.
    inside: other relative paths that hold the same thing, the likeliest first.
    even:   every class has the same number of images.
    files:  the binary files with its images, in order, where it comes in such (:class:`RecordFacts`).
    labels: the files with the labels of ``files``, where those are not in them.
    """

    target: str
    inside: tuple[str, ...] = ()
    even: bool = False
    files: tuple[BinaryFile, ...] = ()
    labels: tuple[BinaryFile, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitFacts(Checksums):
    """A split file and the checksums of the official one.

    content: SHA-256 of the parsed content in canonical form (:meth:`advpt.data.split.Split.digest`).
    drive:   its id on CoOp's Google Drive; such a file has another copy in the mirror of :mod:`advpt.data.catalog`.
    """

    filename: str
    content: str = ""
    drive: str = ""


@dataclass(frozen=True, slots=True)
class Lookalike:
    """Paths, relative to DATASET.ROOT, that show another layout, and the advice for it."""

    paths: tuple[str, ...]
    advice: str


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """The facts of one data set.

    name:       name in the registry; also the key of the prompt template.
    aliases:    names of its configuration files, the short one first.
    folder:     folder under DATASET.ROOT.
    image_dir:  folder of the images inside ``folder``; "" where it is ``folder`` itself.
    other:      other files of ``folder``; those only needed to rebuild a split are marked in ``notes``.
    classes:    number of classes, 0 where the data decide.
    counts:     images in train, val and test; 0 where there is none or the data decide.
    class_folders: first 16 hexadecimal digits of the SHA-256 of the sorted class folders, joined by newline.
    classnames: the file beside the catalogue with a class folder, a space and a class name on each line, in the order
        of the labels, where it is not ImageNet's.
    native:     pixels of a side where all images are squares of one size, else 0.
    records:    how the binary files of its parts are read, where it comes in such.
    parts:      the folders and files that an archive has to bring.
    spare:      images in the archive that no list names; -1 where their number is not on record.
    gigabytes:  size packed and unpacked, roughly; for the look at the free disk and the limit against bombs.
    """

    name: str
    aliases: tuple[str, ...]
    folder: str
    image_dir: str
    classes: int
    counts: tuple[int, int, int]
    template: str = DEFAULT_TEMPLATE
    other: tuple[str, ...] = ()
    split: SplitFacts | None = None
    class_folders: str = ""
    classnames: str = ""
    native: int = 0
    records: RecordFacts | None = None
    sources: tuple[Source, ...] = ()
    lookalikes: tuple[Lookalike, ...] = ()
    licence: str = ""
    disk: str = ""
    notes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    spare: int = 0
    gigabytes: tuple[float, float] = (0.0, 0.0)

    @property
    def config(self) -> str:
        """The name on command lines: the first alias."""
        return self.aliases[0]
