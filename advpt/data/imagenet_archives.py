"""ImageNet's archives: 1,000 tars inside one, and 50,000 val images that another file sorts into classes."""

from __future__ import annotations

import csv
import logging
import re
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from advpt import files
from advpt.data import archives, imagenet, listing, staging, steps
from advpt.data.archives import Budget
from advpt.data.facts import Part, Source
from advpt.data.preparation import Preparation
from advpt.errors import DataError

log = logging.getLogger(__name__)

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
SOLUTION = "LOC_val_solution.csv"  # Kaggle's list of the classes of the val images; as good as the devkit
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


class ImageNetPreparation(Preparation):
    """ImageNet: a tar per class inside one, or lying in images/train; val images that another file sorts."""

    train: Path | None = None  # the folder that ILSVRC2012_img_train.tar was unpacked to

    def repair(self) -> None:
        """Unpack class tars that lie in images/train, and sort loose val images if that was asked for.

        Raises:
            DataError: if there are loose val images and it was not asked for, or there is no file with their classes.
        """
        train, val = self.folder / "images" / "train", self.folder / "images" / "val"
        if tars := inner_tars(train):
            self.sources.refuse_full_disk(sum(path.stat().st_size for path in tars))
            remove_partial_classes(train)
            for tar in tqdm(tars, desc="unpack classes", unit="class", disable=None):
                with files.atomic_folder(train / tar.stem) as partial:
                    archives.extract(tar, partial, self.budget)
            log.info("%s: %d class tars unpacked; the .tar files may be deleted", train, len(tars))
        loose = listing.images(val)
        if not loose:
            return
        if not self.options.sort_val:
            raise DataError(
                f"ImageNet: {val} has {len(loose):,} files {'beside' if listing.folders(val) else 'and no'} class "
                f"folders. Run `{steps.command(self.facts, self.root, '--sort-val', '--archive', DEVKIT)}`: it moves "
                f"them into one folder per class. Kaggle's {SOLUTION} does as well as the devkit"
            )
        done = sort_val(val, val, self.truth())
        log.info("%s: %d images sorted into class folders", val, done)

    def place(self, part: Part, path: Path, staged: Path, action: str) -> None:
        target = staged / part.target
        if part.target == "images/val" and not listing.folders(path) and listing.images(path):
            target.mkdir(parents=True)
            sort_val(path, target, self.truth(), action)
        elif part.target == "images/train" and inner_tars(path):
            for tar in inner_tars(path):
                archives.extract(tar, target / tar.stem, self.budget)
        else:
            super().place(part, path, staged, action)

    def unpack_archive(self, source: Source, path: Path, unpacked: Path) -> None:
        if source.filename == "ILSVRC2012_img_train.tar":
            self.train = self.work / "train"  # not removed on failure: classes that are complete are kept
            unpack_train(path, self.train, self.budget)
        elif source.filename == "ILSVRC2012_img_val.tar":
            archives.extract(path, unpacked / "images" / "val", self.budget)
        else:
            super().unpack_archive(source, path, unpacked)

    def find_part(self, part: Part, unpacked: Path) -> Path | None:
        if part.target == "images/train" and self.train is not None:
            return self.train
        return super().find_part(part, unpacked)

    def truth(self) -> Mapping[int, str]:
        """The class of each val image, from a file of the user."""
        for name in (DEVKIT, SOLUTION):
            in_origin = self.options.origin / name if self.options.origin else None
            path = self.sources.given.get(name) or in_origin
            if path is None or not path.is_file():
                continue
            if source := self.sources.by_name.get(name):
                self.sources.verify_given(path, source)
            return truth(path)
        raise DataError(
            f"ImageNet: the val images are not sorted, and nothing here says which class each belongs to. Add "
            f"--archive {DEVKIT} (from image-net.org) or --archive {SOLUTION} (Kaggle's copy).\n"
            f"{self.sources.by_hand()}"
        )


def unpack_train(archive: Path, target: Path, budget: Budget) -> None:
    """Unpack ``ILSVRC2012_img_train.tar``: a folder per class, straight from the tars inside it.

    Classes that are complete in ``target`` are passed over, so an interrupted run continues.

    Raises:
        DataError: as :func:`advpt.data.archives.extract`.
    """
    remove_partial_classes(target)
    with archives.opened(archive) as outer:
        if not isinstance(outer, tarfile.TarFile):
            raise DataError(f"{archive} is a zip; expected ILSVRC2012_img_train.tar with one tar per class inside")
        for member in outer:
            path = archives.member_path(member.name, archive.name)
            wnid = path[-1].removesuffix(".tar") if path else ""
            if not member.isreg() or not imagenet.is_wnid(wnid):
                raise DataError(
                    f"{archive} holds {member.name!r}; expected nothing but one tar per class (n01440764.tar)"
                )
            if not (target / wnid).is_dir():
                with (
                    files.atomic_folder(target / wnid) as partial,
                    tarfile.open(fileobj=outer.extractfile(member)) as inner,
                ):
                    archives.extract_members(inner, f"{archive.name}/{member.name}", partial, budget)


def remove_partial_classes(folder: Path) -> None:
    """Remove the class folders that a killed run was filling."""
    for path in folder.glob(".n*.partial"):
        archives.remove(path)


def inner_tars(folder: Path) -> list[Path]:
    """The tars of classes in ``folder`` whose class folder is not there."""
    tars = [path for path in sorted(folder.glob("n*.tar")) if imagenet.is_wnid(path.stem)]
    return [path for path in tars if not path.with_suffix("").is_dir()]


def truth(path: Path) -> Mapping[int, str]:
    """The wnid of every val image by its number (from 1), from the devkit or Kaggle's solution file.

    Raises:
        DataError: if the file is neither.
    """
    if path.suffix == ".csv":
        return _truth_of_solution(path)
    with tempfile.TemporaryDirectory(prefix="advpt-devkit-", ignore_cleanup_errors=True) as work:
        archives.extract(path, Path(work), Budget(1 << 30))
        folder = next((item.parent for item in sorted(Path(work).rglob("meta.mat"))), Path(work))
        return _truth_of_devkit(folder, path)


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
            f"read ({type(error).__name__}: {error})"
        ) from error


def _truth_of_solution(path: Path) -> Mapping[int, str]:
    wnids = {}
    for row in csv.reader(files.read_text(path, DataError).splitlines()):
        image = _VAL.fullmatch(f"{row[0]}.JPEG") if len(row) == 2 else None
        wnid = row[1].split(" ", 1)[0] if image else ""
        if image and imagenet.is_wnid(wnid):
            wnids[int(image[1])] = wnid
    if not wnids:
        raise DataError(f"{path} is not {SOLUTION}: no line of the form ILSVRC2012_val_00000001,n01440764 ... in it")
    return wnids


def sort_val(loose: Path, target: Path, wnids: Mapping[int, str], action: str = "move") -> int:
    """Put the val images that lie loose in ``loose`` into ``target/<wnid>/``; returns their number.

    Args:
        action: as of :func:`advpt.data.staging.put`.

    Raises:
        DataError: if an image has another name or number; nothing was moved then.
    """
    images = listing.images(loose)
    numbered = {name: _VAL.fullmatch(name) for name in images}
    odd = [name for name, match in numbered.items() if match is None or int(match[1]) not in wnids]
    if odd:
        raise DataError(
            f"{loose} has {len(odd):,} of {len(images):,} images that are not among the {len(wnids):,} val images of "
            f"2012: {listing.some(odd, 5)}. Expected ILSVRC2012_val_00000001.JPEG and so on"
        )
    for wnid in set(wnids.values()):
        (target / wnid).mkdir(parents=True, exist_ok=True)
    for name, match in tqdm(numbered.items(), desc="sort val", unit="image", disable=None):
        staging.put(loose / name, target / wnids[int(match[1] if match else 0)] / name, action)
    return len(images)
