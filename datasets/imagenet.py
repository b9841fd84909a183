"""ImageNet (ILSVRC 2012), and what its four variants share with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog, classnames, imagenet, layout, listing, steps, zero_shot
from advpt.data.split import Row, Split, triple
from advpt.errors import ConfigError, DataError, unknown_name

from .split_file import (
    CatalogDataset,
    TestOnlyDataset,
    datums,
    notice,
    subsample_classes,
    wanted_classes,
    wanted_test_subset,
)

ROBUSTBENCH = {"robustbench5000": 5000, "robustbench1000": 1000}
TEST_SUBSETS = ("", "all", "paper1000", *ROBUSTBENCH)


class ClassFolders(CatalogDataset):
    """A data set in class folders that are named by wnid, by number or by class."""

    def class_names(self) -> tuple[Mapping[str, str], bool]:
        """Class names by class folder, and whether they are the shipped ones; others are warned about, and can be had
        for ImageNet's classes alone."""
        if self.info.classnames:
            return classnames.shipped(self.info), True
        names, warning = imagenet.names_for(self.place.folder)
        if warning:
            warnings.warn(warning, stacklevel=2)
        return names, not warning

    def is_official(self, split: Split, classes: Sequence[str]) -> bool:
        """Whether counts and class folders are the published ones; if not, a warning says what differs."""
        differences = []
        if len(classes) != self.info.classes:
            differences.append(f"{len(classes):,} classes instead of {self.info.classes:,}")
        elif self.info.class_folders and imagenet.folders_digest(classes) != self.info.class_folders:
            differences.append("other class folders")
        if split.counts() != self.info.counts:
            counts, official = triple(split.counts()), triple(self.info.counts)
            differences.append(f"{counts} images in train / val / test instead of {official}")
        if differences:
            warnings.warn(
                f"{self.info.name} in {self.place.images} is not complete or not the official one: "
                f"{'; '.join(differences)}. Results are marked as not comparable with published ones",
                stacklevel=2,
            )
        return not differences


@DATASET_REGISTRY.register()
class ImageNet(ClassFolders):
    """Train is the official train, test the official val; ``val`` is the same list as test.

    Files are taken in sorted order (CoOp takes them as the disk lists them), so a few-shot subset is the same
    on every machine. ``DATASET.TEST_SUBSET paper1000`` tests on one image per class; results then are not comparable.
    ``robustbench5000`` and ``robustbench1000`` are RobustBench's, in its order. Under DATASET.PROTOCOL tecoa train may
    be missing.
    """

    info = catalog.get("ImageNet")

    def __init__(self, cfg: Any) -> None:
        subset = wanted_test_subset(cfg)
        if subset not in TEST_SUBSETS:
            raise ConfigError(unknown_name("DATASET.TEST_SUBSET", subset, TEST_SUBSETS[1:]))
        subsample = wanted_classes(cfg)
        split = self.load(cfg)
        every = split.test  # all classes, where the test images are some and there is no train
        if subset in ROBUSTBENCH:
            notice(
                f"TEST SUBSET {subset}: the first {ROBUSTBENCH[subset]:,} images of RobustBench's list, in its order"
            )
            split = Split(split.train, (), imagenet.robustbench(split.test, ROBUSTBENCH[subset]))
        elif subset:
            notice(f"TEST SUBSET {subset}: one image per class by a seeded rule; the authors' list is not public")
            split = Split(split.train, (), imagenet.paper1000(split.test))
            self.comparable = False
        train, _, test = self.few_shot(cfg, split)
        train, test = subsample_classes(train or datums(every, self.image_dir), test, subsample=subsample)
        super().__init__(train_x=train, val=test, test=test)

    def read(self) -> tuple[Split, bool]:
        names, shipped = self.class_names()
        classes = self.class_folders(names)
        images = self.listings(classes)
        split = Split(rows("train", images.get("train", {}), names), (), rows("val", images["val"], names))
        if "train" not in classes:
            return split, shipped
        return split, self.is_official(split, classes["val"]) and shipped

    def class_folders(self, names: Mapping[str, str]) -> dict[str, list[str]]:
        """The sorted class folders of train and val.

        Raises:
            DataError: if they are missing, or not the same in both.
        """
        place, classes = self.place, {}
        only_val = self.protocol != zero_shot.COOP and not (place.images / "train").is_dir()
        for part in ("val",) if only_val else ("train", "val"):
            try:
                classes[part], left_out = imagenet.class_folders(place.images / part, names, part)
            except DataError as error:
                raise DataError(
                    f"ImageNet: {error}.{layout.advice(self.info, place.root)} "
                    f"Run `{steps.command(self.info, place.root)}`"
                ) from None
            self.warn_of(*left_out)
        only = [] if only_val else sorted(set(classes["train"]) ^ set(classes["val"]))
        if only:
            raise DataError(
                f"ImageNet: images/train has {len(classes['train'])} class folders and images/val "
                f"{len(classes['val'])}, in {place.images}; only in one of them: {listing.some(only, 5)}. "
                "Labels follow the sorted folders, so both need the same ones"
            )
        return classes

    def listings(self, classes: Mapping[str, Sequence[str]]) -> dict[str, imagenet.Listing]:
        """Images of train and val by class folder; an official count is kept as JSON for the next run, unless there is
        something to say about it."""
        path = self.place.folder / imagenet.LISTING
        made_from = imagenet.stamps(self.place.images, classes)
        if (listed := imagenet.kept_listing(path, made_from)) is not None:
            return listed
        listings: dict[str, imagenet.Listing] = {}
        doubts: list[str] = []
        for part, wnids in classes.items():
            listings[part], more = imagenet.list_images(self.place.images / part, wnids, part)
            doubts += more
        self.warn_of(*doubts)
        counts = {part: sum(map(len, by_class.values())) for part, by_class in listings.items()}
        if (counts.get("train"), 0, counts["val"]) == self.info.counts and not doubts:
            try:
                imagenet.keep_listing(path, made_from, listings)
            except OSError as error:
                warnings.warn(f"{path} could not be written ({error}); the run does not need it", stacklevel=2)
        return listings

    @staticmethod
    def read_classnames(text_file: str) -> dict[str, str]:
        """Class names by folder, of a text file with a folder, a space and a name on each line; CoOp's files of
        ImageNet's variants call this helper."""
        lines = Path(text_file).read_text(encoding="utf-8").splitlines()
        pairs = (line.strip().partition(" ") for line in lines if line.strip())
        return {folder: name.strip() for folder, _, name in pairs}


class TestFolders(ClassFolders, TestOnlyDataset):
    """A test-only set in class folders. Labels follow the sorted folders, names the folder."""

    def read(self) -> tuple[Split, bool]:
        names, shipped = self.class_names()
        images, by_folder = self.classes(self.place.images, names)
        split = Split((), (), rows("", images, by_folder))
        return split, self.is_official(split, list(images)) and shipped

    def classes(self, folder: Path, names: Mapping[str, str]) -> tuple[imagenet.Listing, Mapping[str, str]]:
        """The images of every class folder in the order of their labels, and the name of each folder."""
        folders, left_out = imagenet.class_folders(folder, names)
        images, doubts = imagenet.list_images(folder, folders)
        self.warn_of(*left_out, *doubts)
        return images, names


class ImageNetVariant(TestFolders):
    """A test-only set in ImageNet's class folders."""


def rows(part: str, images: imagenet.Listing, names: Mapping[str, str]) -> tuple[Row, ...]:
    """The rows of a split, labels in the order of the listing."""
    prefix = f"{part}/" if part else ""
    return tuple(
        (f"{prefix}{folder}/{image}", label, names[folder])
        for label, (folder, files) in enumerate(images.items())
        for image in files
    )
