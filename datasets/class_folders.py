"""Data sets in class folders that are not ImageNet's: with a train and a test part, or whole."""

from __future__ import annotations

from typing import Any

from advpt.data import imagenet, layout, listing, steps
from advpt.data.facts import Part
from advpt.data.split import Row, Split
from advpt.errors import DataError

from .imagenet import ClassFolders, TestFolders, rows
from .split_file import refuse_test_subset, subsample_classes, wanted_classes


class TrainTestFolders(ClassFolders):
    """``<train>/<class folder>/<image>`` and the same for test, the two parts of the facts; ``val`` is the same list as
    test, as ImageNet's. Labels follow the sorted folders. Images come in the order of their names where these are
    numbers, which is that of the official files, else by class."""

    def __init__(self, cfg: Any) -> None:
        refuse_test_subset(cfg, self.info)
        subsample = wanted_classes(cfg)
        train, _, test = self.few_shot(cfg, self.load(cfg))
        train, test = subsample_classes(train, test, subsample=subsample)
        super().__init__(train_x=train, val=test, test=test)

    def read(self) -> tuple[Split, bool]:
        (train, known), (test, _) = (self.read_part(part) for part in self.info.parts)
        classes = sorted({row[0].split("/")[1] for row in train})
        only = sorted(set(classes) ^ {row[0].split("/")[1] for row in test})
        if only:
            raise DataError(
                f"{self.info.name}: only one of the two parts in {self.place.images} has the class folders "
                f"{listing.some(only, 5)}. Labels follow the sorted folders, so both need the same ones. "
                f"Run `{steps.command(self.info, self.place.root, '--check')}`"
            )
        split = Split(train, (), test)
        return split, self.is_official(split, classes) and known

    def read_part(self, part: Part) -> tuple[tuple[Row, ...], bool]:
        """The rows of a part, and whether the class names are the shipped ones.

        Raises:
            DataError: its folder or its images are missing.
        """
        name = part.target.rpartition("/")[2]
        folder, (names, known) = self.place.images / name, self.class_names()
        try:
            folders, left_out = imagenet.class_folders(folder, names, name)
            images, doubts = imagenet.list_images(folder, folders, name)
        except DataError as error:
            raise DataError(
                f"{self.info.name}: {error}.{layout.advice(self.info, self.place.root)} "
                f"Run `{steps.command(self.info, self.place.root)}`"
            ) from None
        self.warn_of(*left_out, *doubts)
        listed = rows(name, images, names)
        return tuple(sorted(listed, key=_number)) if self.info.records else listed, known


def _number(row: Row) -> int:
    """The number in the name of an image, 0 where it is none."""
    stem = row[0].rpartition("/")[2].partition(".")[0]
    return int(stem) if stem.isdecimal() else 0


class WholeFolders(TestFolders):
    """A set without a split: all its images are tested, and nothing is trained on them."""

    no_training = (
        "it has no train part: every image of it is tested, and what is trained on them would be tested on its own "
        "training images"
    )
