"""The archives of data sets in class folders that are not ImageNet's: binary files, which become PNG files, images that
another file sorts into classes, and folders with other files among the images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from advpt import files
from advpt.data import imagenet, listing, staging
from advpt.data.facts import Part
from advpt.data.image_records import RecordFiles
from advpt.data.preparation import Preparation
from advpt.errors import DataError

log = logging.getLogger(__name__)

ANNOTATIONS = "val_annotations.txt"


class RecordPreparation(Preparation):
    """CIFAR-10, CIFAR-100, STL-10: each image in the binary files becomes a PNG file, which keeps every pixel, in the
    folder of its class; its name is its number in the files."""

    converted = False

    def in_origin(self, part: Part) -> Path | None:
        origin = self.options.origin
        if origin is not None and any((origin / file.filename).is_file() for file in part.files):
            return origin
        return super().in_origin(part)

    def stage(self, wanted: Sequence[Part], staged: Path) -> str:
        manner = super().stage(wanted, staged)
        return "unpacked" if self.converted else manner

    def place(self, part: Part, path: Path, staged: Path, action: str) -> None:
        there = any((path / file.filename).is_file() for file in (*part.files, *part.labels))
        if listing.folders(path) and not there:
            super().place(part, path, staged, action)
            return
        self.converted = True
        records = RecordFiles(self.facts, part, path, hashes=not self.options.unverified)
        write_images(records, staged / part.target)


def write_images(records: RecordFiles, target: Path) -> None:
    """Write every image as ``target/<class folder>/<number>.png``."""
    folders = [target / name for name in records.names]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    images = zip(records.labels, records.images())
    bar = tqdm(images, desc=f"write {target.name}", total=len(records.labels), unit="image", disable=None)
    for number, (label, pixels) in enumerate(bar):
        Image.fromarray(pixels).save(folders[label] / f"{number:05d}.png", compress_level=1)


class TinyImageNetPreparation(Preparation):
    """TinyImageNet: training images lie one folder deeper than in the layout, val images are sorted by a list."""

    def place(self, part: Part, path: Path, staged: Path, action: str) -> None:
        target = staged / part.target
        if part.target == "val" and listing.images(path / "images"):
            sort_val(path / "images", target, val_classes(path / ANNOTATIONS), action)
            return
        target.mkdir(parents=True)
        for wnid in listing.folders(path):
            inner = path / wnid / "images"
            staging.put(inner if inner.is_dir() else path / wnid, target / wnid, action)


def val_classes(path: Path) -> Mapping[str, str]:
    """The class of each val image by its name, from ``val_annotations.txt``: an image, a wnid and four numbers on each
    line, with tabs between them.

    Raises:
        DataError: the file is missing, or a line has another form.
    """
    wnids = {}
    try:
        lines = files.read_text(path, DataError).splitlines()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: nothing else says which class each image of val belongs to") from None
    for number, line in enumerate(lines, 1):
        image, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if not image or not imagenet.is_wnid(wnid):
            raise DataError(f"{path}, line {number} is {line[:80]!r}; expected the name of an image, a tab and a wnid")
        wnids[image] = wnid
    return wnids


def sort_val(loose: Path, target: Path, wnids: Mapping[str, str], action: str) -> None:
    """Put the images that lie in ``loose`` into ``target/<wnid>/``.

    Args:
        action: as of :func:`advpt.data.staging.put`.

    Raises:
        DataError: an image is in no line of the list; nothing was moved then.
    """
    images = listing.images(loose)
    if odd := [name for name in images if name not in wnids]:
        raise DataError(
            f"{loose} has {len(odd):,} of {len(images):,} images that {ANNOTATIONS} does not name: "
            f"{listing.some(odd, 5)}. Take both from one tiny-imagenet-200.zip"
        )
    for name in tqdm(images, desc="sort val", unit="image", disable=None):
        staging.put(loose / name, target / wnids[name] / name, action)


class Caltech256Preparation(Preparation):
    """Caltech-256: only the .jpg files that lie in the class folders themselves are images of it; the archive has a few
    other files and a folder among them."""

    def place(self, part: Part, path: Path, staged: Path, action: str) -> None:
        every = sorted(name for name, _ in listing.files(path))
        images = [name for name in every if name.count("/") == 1 and name.endswith(".jpg")]
        if other := sorted(set(every) - set(images)):
            log.info("%s: %d files are no images of it and are left out: %s", path, len(other), listing.some(other, 5))
        for name in tqdm(images, desc="sort", unit="image", disable=None):
            staging.put(path / name, staged / part.target / name, action)
