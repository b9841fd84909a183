"""ImageNet's own archives: 1,000 tars inside one, and 50,000 val images that another file sorts into classes."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from advpt import files
from advpt.data import archives, imagenet, listing
from advpt.data.archives import Budget
from advpt.errors import DataError

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
SOLUTION = "LOC_val_solution.csv"
"""Kaggle's list of the classes of the val images; as good as the devkit."""
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def unpack_train(archive: Path, target: Path, budget: Budget) -> None:
    """Unpack ``ILSVRC2012_img_train.tar``: a folder per class, straight from the tars inside it.

    Classes that are complete in ``target`` are passed over, so an interrupted run continues.

    Raises:
        DataError: as :func:`advpt.data.archives.extract`.
    """
    with archives.opened(archive) as outer:
        if not isinstance(outer, tarfile.TarFile):
            raise DataError(f"{archive} is a zip; expected ILSVRC2012_img_train.tar with one tar per class inside.")
        for member in outer:
            path = archives.member_path(member.name, archive.name)
            wnid = path[-1].removesuffix(".tar") if path else ""
            if not member.isreg() or not imagenet.is_wnid(wnid):
                raise DataError(
                    f"{archive} holds {member.name!r}; expected nothing but one tar per class (n01440764.tar)."
                )
            if not (target / wnid).is_dir():
                with _class_folder(target / wnid) as partial, tarfile.open(fileobj=outer.extractfile(member)) as inner:
                    archives.extract_members(inner, f"{archive.name}/{member.name}", partial, budget)


@contextlib.contextmanager
def _class_folder(path: Path) -> Iterator[Path]:
    """A working folder that becomes ``path`` if all goes well, else is removed."""
    partial = path.with_name(f".{path.name}.partial")
    archives.remove(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
    finally:
        archives.remove(partial)


def inner_tars(folder: Path) -> list[Path]:
    """The tars of classes in ``folder`` whose class folder is not there."""
    return [path for path in sorted(folder.glob("n*.tar")) if imagenet.is_wnid(path.stem) and not _has(folder, path)]


def _has(folder: Path, tar: Path) -> bool:
    return (folder / tar.stem).is_dir()


def unpack_inner_tars(folder: Path, budget: Budget) -> int:
    """Unpack the tars of classes that somebody left in ``images/train``; returns how many. The tars stay.

    Raises:
        DataError: as :func:`advpt.data.archives.extract`.
    """
    tars = inner_tars(folder)
    for tar in tqdm(tars, desc="unpack classes", unit="class", disable=None):
        with _class_folder(folder / tar.stem) as partial:
            archives.extract(tar, partial, budget)
    return len(tars)


def truth(path: Path) -> Mapping[int, str]:
    """The wnid of every val image by its number (from 1), from the devkit or Kaggle's solution file.

    Raises:
        DataError: if the file is neither.
    """
    if path.suffix == ".csv":
        return _truth_of_solution(path)
    work = Path(tempfile.mkdtemp(prefix="advpt-devkit-"))
    try:
        archives.extract(path, work, Budget(1 << 30))
        folder = next((item.parent for item in sorted(work.rglob("meta.mat"))), work)
        return _truth_of_devkit(folder, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _truth_of_devkit(folder: Path, origin: Path) -> Mapping[int, str]:
    from scipy.io import loadmat

    try:
        synsets: Any = loadmat(str(folder / "meta.mat"), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
        lines = (folder / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
        return {number: wnids[int(line)] for number, line in enumerate(lines, 1)}
    except Exception as error:  # noqa: BLE001 - a damaged .mat file can raise anything
        raise DataError(
            f"{origin} is not {DEVKIT}: its data/meta.mat and data/ILSVRC2012_validation_ground_truth.txt cannot be "
            f"read ({type(error).__name__}: {error})."
        ) from error


def _truth_of_solution(path: Path) -> Mapping[int, str]:
    found = {}
    for row in csv.reader(files.read_text(path, DataError).splitlines()):
        image = _VAL.fullmatch(f"{row[0]}.JPEG") if len(row) == 2 else None
        wnid = row[1].split(" ", 1)[0] if image else ""
        if image and imagenet.is_wnid(wnid):
            found[int(image[1])] = wnid
    if not found:
        raise DataError(f"{path} is not {SOLUTION}: no line of the form ILSVRC2012_val_00000001,n01440764 ... in it.")
    return found


def sort_val(loose: Path, target: Path, wnids: Mapping[int, str], how: str = "move") -> int:
    """Put the val images that lie loose in ``loose`` into ``target/<wnid>/``; returns how many.

    Args:
        how: "move", "copy" or "link" (a symbolic link to the original).

    Raises:
        DataError: if an image has another name or number; nothing was moved then.
    """
    images = listing.images(loose)
    numbered = {name: _VAL.fullmatch(name) for name in images}
    odd = [name for name, match in numbered.items() if match is None or int(match[1]) not in wnids]
    if odd:
        raise DataError(
            f"{loose} has {len(odd):,} of {len(images):,} images that are not among the {len(wnids):,} val images of "
            f"2012: {listing.some(odd, 5)}. Expected ILSVRC2012_val_00000001.JPEG and so on."
        )
    for wnid in set(wnids.values()):
        (target / wnid).mkdir(parents=True, exist_ok=True)
    for name, match in tqdm(numbered.items(), desc="sort val", unit="image", disable=None):
        place = target / wnids[int(match[1] if match else 0)] / name
        if how == "move":
            (loose / name).rename(place)
        elif how == "link":
            place.symlink_to(Path(os.path.realpath(loose / name)))
        else:
            shutil.copyfile(loose / name, place)
    return len(images)
