"""ImageNet's class names, folders and listing, shared by ImageNet and its four variants."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advpt import files
from advpt.data import listing
from advpt.data.split import Row
from advpt.errors import DataError

CLASSNAMES = "classnames.txt"
LISTING = "listing_advpt.json"
PAPER1000 = "advpt-paper1000-1"  # version of the test subset's rule; the seed of the ranking in :func:`paper1000`

_FORMAT = 1
SHIPPED = Path(__file__).parent / "imagenet_classnames.txt"

Listing = dict[str, list[str]]  # class folder -> sorted image names


def shipped_names() -> dict[str, str]:
    """The 1,000 curated CLIP names by wnid, in the order of ImageNet's labels."""
    return read_names(SHIPPED)


def read_names(path: Path) -> dict[str, str]:
    """A ``classnames.txt``: one line per class, ``<wnid> <name>``, cut at the first space.

    Raises:
        DataError: for a line of another form or a wnid that comes twice, or text that is not UTF-8.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(files.read_text(path, DataError).splitlines(), 1):
        if not line.strip():
            continue
        wnid, _, name = line.strip().partition(" ")
        if not is_wnid(wnid) or not name or wnid in names:
            raise DataError(
                f"{path}, line {number} is {line!r}; expected a wnid, a space and a name, each wnid once. "
                "Delete the file to use the names that ship with the project"
            )
        names[wnid] = name
    return names


def names_for(folder: Path) -> tuple[dict[str, str], str]:
    """The class names for a data set's folder, and a warning ("" if there is none).

    A ``classnames.txt`` in the folder is used, and warned about if it differs from the shipped names:
    other names change zero-shot accuracy without any error.
    """
    shipped = shipped_names()
    path = folder / CLASSNAMES
    if not path.is_file():
        return shipped, ""
    names = read_names(path)
    if names == shipped and list(names) == list(shipped):
        return names, ""
    differ = sum(names.get(wnid) != name for wnid, name in shipped.items())
    actual, official = files.file_digest(path)[:16], files.file_digest(SHIPPED)[:16]
    return names, (
        f"{path} is not the list of CLIP's class names: its SHA-256 is {actual}, that of the shipped list "
        f"{official}; {differ} of {len(shipped)} names differ. It is used, and results are marked as not "
        "comparable. Delete it to use the shipped list"
    )


def is_wnid(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdigit()


def class_folders(folder: Path, names: Mapping[str, str], part: str = "") -> tuple[list[str], list[str]]:
    """The sorted class folders in ``folder``, and a sentence about the folders that are none, where there are any.

    Raises:
        DataError: if there is no class folder, or a wnid without a name.
    """
    there = listing.folders(folder)
    unknown = [name for name in there if name not in names]
    foreign = [name for name in unknown if is_wnid(name)]
    if foreign:
        raise DataError(
            f"{folder} has {len(foreign)} class folders without a class name: {listing.some(foreign, 5)}. "
            f"Expected the {len(names):,} classes of its list (or fewer); this may be another ImageNet"
        )
    classes = [name for name in there if name in names]
    if not classes:
        raise DataError(
            f"{folder} {without_classes(folder)}; expected one folder per class there, such as {next(iter(names))}. "
            f"Folders there: {listing.some(unknown)}"
        )
    prefix = f"{part}: " if part else ""
    sentence = f"{prefix}{len(unknown)} folders are no classes and are left out: {listing.some(unknown)}"
    return classes, [sentence] if unknown else []


def without_classes(folder: Path) -> str:
    """What is in the place of class folders, as the end of a sentence."""
    if not folder.is_dir():
        return "does not exist"
    if tars := len(list(folder.glob("n*.tar"))):
        return f"holds {tars:,} .tar files, one per class, that are not unpacked"
    if loose := len(listing.images(folder)):
        return f"has {loose:,} files and no class folders"
    return "has no class folders"


def list_images(folder: Path, classes: Sequence[str], part: str = "") -> tuple[Listing, list[str]]:
    """Image names of every class folder, sorted, and what was left out or lies deeper, as sentences.

    Raises:
        DataError: if class folders hold no image.
    """
    scans = {name: listing.scan(folder / name) for name in classes}
    images = {name: list(each.images) for name, each in scans.items()}
    empty = [name for name, names in images.items() if not names]
    if empty:
        raise DataError(
            f"{len(empty)} of {len(classes)} class folders in {folder} hold no image: "
            f"{listing.some(empty, 5)}. The archive was not unpacked to the end; unpack it again"
        )
    return images, listing.doubts(part, scans, listing.images(folder))


def folders_digest(classes: Sequence[str]) -> str:
    """First 16 hexadecimal digits of the SHA-256 over the sorted names, joined by newline."""
    return hashlib.sha256("\n".join(sorted(classes)).encode()).hexdigest()[:16]


def paper1000(val: Sequence[Row]) -> tuple[Row, ...]:
    """One image per class: the one whose SHA-256 of ``<rule>:<class>/<image>`` is smallest; rows are in order of label.

    The paper tests on 1,000 images; its authors' list is not public, so these are other images.
    """

    def rank(row: Row) -> bytes:
        return hashlib.sha256(f"{PAPER1000}:{row[0].removeprefix('val/')}".encode()).digest()

    return tuple(min(images, key=rank) for _, images in itertools.groupby(val, key=lambda row: row[1]))


@functools.cache
def robustbench_images() -> tuple[str, ...]:
    """RobustBench's 5,000 val images as ``wnid/file``, in its order; its smaller subsets are the first ones of them."""
    return tuple((SHIPPED.with_name("robustbench_imagenet5000.txt")).read_text(encoding="utf-8").split("\n"))


def robustbench(val: Sequence[Row], n: int) -> tuple[Row, ...]:
    """The first ``n`` of :func:`robustbench_images` in their order, labelled by the sorted wnids.

    Raises:
        DataError: some are not there.
    """
    rows, wanted = {row[0]: row for row in val}, [f"val/{name}" for name in robustbench_images()[:n]]
    if absent := [name for name in wanted if name not in rows]:
        raise DataError(
            f"ImageNet: {len(absent):,} of the {len(wanted):,} images of DATASET.TEST_SUBSET robustbench{n} are not in "
            f"images/: {listing.some(absent, 3)}. It needs the whole official val in class folders; check it with: "
            "python -m advpt prepare imagenet --check"
        )
    return tuple(rows[name] for name in wanted)


def stamps(images: Path, parts: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Modification time of every class folder; a changed folder makes a kept listing invalid."""
    return {
        f"{part}/{name}": (images / part / name).stat().st_mtime_ns for part, names in parts.items() for name in names
    }


def kept_listing(path: Path, wanted: Mapping[str, int]) -> dict[str, Listing] | None:
    """The listing kept in ``path`` if it was made from folders of the same stamps, else None."""
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("stamps") != wanted:
        return None
    listings: dict[str, Listing] = content["images"]
    return listings


def keep_listing(path: Path, made_from: Mapping[str, int], images: Mapping[str, Listing]) -> None:
    """Keep a listing for the next run.

    Raises:
        OSError: if the folder cannot be written.
    """
    files.write_text(path, json.dumps({"format": _FORMAT, "stamps": made_from, "images": images}))
