"""ImageNet (ILSVRC 2012), and what its four variants share with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog, imagenet, layout, listing, steps
from advpt.data.facts import DatasetFacts
from advpt.data.split import Row, Split, triple
from advpt.errors import ConfigError, DataError, unknown_name

from .split_file import (
    CatalogDataset,
    Place,
    TestOnlyDataset,
    choose,
    notice,
    subsample_classes,
    wanted_classes,
    wanted_test_subset,
    warn_of,
)

TEST_SUBSETS = ("", "all", "paper1000")


@DATASET_REGISTRY.register()
class ImageNet(CatalogDataset):
    """Train is the official train, test the official val; ``val`` is the same list as test.

    Files are taken in sorted order (CoOp takes them as the disk lists them), so a few-shot subset is the same
    on every machine. ``DATASET.TEST_SUBSET paper1000`` tests on one image per class; results then are not comparable.
    """

    info = catalog.get("ImageNet")

    def __init__(self, cfg: Any) -> None:
        subset = wanted_test_subset(cfg)
        if subset not in TEST_SUBSETS:
            raise ConfigError(unknown_name("DATASET.TEST_SUBSET", subset, TEST_SUBSETS[1:]))
        subsample = wanted_classes(cfg)
        split = self.load(cfg)
        if subset:
            notice(f"TEST SUBSET {subset}: one image per class by a seeded rule; the authors' list is not public")
            split = Split(split.train, (), imagenet.paper1000(split.test))
            self.comparable = False
        train, _, test = choose(cfg, split, self.place, self.split_digest)
        train, test = subsample_classes(train, test, subsample=subsample)
        super().__init__(train_x=train, val=test, test=test)

    def read(self) -> tuple[Split, bool]:
        names, shipped = class_names(self.place)
        images, left_out = list_parts(self.place, self.info, names)
        self.warnings += left_out
        split = Split(rows("train", images["train"], names), (), rows("val", images["val"], names))
        return split, is_official(self.info, split.counts(), list(images["train"]), self.place) and shipped

    @staticmethod
    def read_classnames(text_file: str) -> dict[str, str]:
        """Class names by folder, of a text file with a folder, a space and a name on each line; CoOp's files of
        ImageNet's variants call this helper."""
        lines = Path(text_file).read_text(encoding="utf-8").splitlines()
        pairs = (line.strip().partition(" ") for line in lines if line.strip())
        return {folder: name.strip() for folder, _, name in pairs}


class ImageNetVariant(TestOnlyDataset):
    """A test-only set in ImageNet's class folders. Labels follow the sorted folders, names their wnid."""

    def read(self) -> tuple[Split, bool]:
        names, shipped = class_names(self.place)
        images, by_folder = self.classes(self.place.images, names)
        split = Split((), (), rows("", images, by_folder))
        return split, is_official(self.info, split.counts(), list(images), self.place) and shipped

    def classes(self, folder: Path, names: Mapping[str, str]) -> tuple[imagenet.Listing, Mapping[str, str]]:
        """The images of every class folder in the order of their labels, and the name of each folder."""
        folders, left_out = imagenet.class_folders(folder, names)
        images, doubts = imagenet.list_images(folder, folders)
        warn_of([*left_out, *doubts], self.warnings)
        return images, names


def class_names(place: Place) -> tuple[Mapping[str, str], bool]:
    """Class names by wnid, and whether they are the shipped ones; others are warned about."""
    names, warning = imagenet.names_for(place.folder)
    if warning:
        warnings.warn(warning, stacklevel=2)
    return names, not warning


def list_parts(
    place: Place, info: DatasetFacts, names: Mapping[str, str]
) -> tuple[dict[str, imagenet.Listing], list[str]]:
    """Images of train and val by class folder, and what was left out; an official count is kept as JSON for the next
    run, unless there is something to say about it.

    Raises:
        DataError: if folders are missing, empty, unsorted or not the same in train and val.
    """
    classes: dict[str, Sequence[str]] = {}
    sentences: list[str] = []
    for part in ("train", "val"):
        try:
            classes[part], left_out = imagenet.class_folders(place.images / part, names, part)
        except DataError as error:
            raise DataError(
                f"{info.name}: {error}.{layout.advice(info, place.root)} Run `{steps.command(info, place.root)}`"
            ) from None
        warn_of(left_out, sentences)
    only = sorted(set(classes["train"]) ^ set(classes["val"]))
    if only:
        raise DataError(
            f"ImageNet: images/train has {len(classes['train'])} class folders and images/val "
            f"{len(classes['val'])}, in {place.images}; only in one of them: {listing.some(only, 5)}. "
            "Labels follow the sorted folders, so both need the same ones"
        )
    path = place.folder / imagenet.LISTING
    made_from = imagenet.stamps(place.images, classes)
    listed = imagenet.kept_listing(path, made_from)
    if listed is not None:
        return listed, sentences
    listings: dict[str, imagenet.Listing] = {}
    doubts: list[str] = []
    for part, wnids in classes.items():
        listings[part], more = imagenet.list_images(place.images / part, wnids, part)
        doubts += more
    warn_of(doubts, sentences)
    sizes = {part: sum(map(len, by_class.values())) for part, by_class in listings.items()}
    if (sizes["train"], 0, sizes["val"]) == info.counts and not doubts:
        try:
            imagenet.keep_listing(path, made_from, listings)
        except OSError as error:
            warnings.warn(f"{path} could not be written ({error}); the run does not need it", stacklevel=2)
    return listings, sentences


def rows(part: str, images: imagenet.Listing, names: Mapping[str, str]) -> tuple[Row, ...]:
    prefix = f"{part}/" if part else ""
    return tuple(
        (f"{prefix}{folder}/{image}", label, names[folder])
        for label, (folder, files) in enumerate(images.items())
        for image in files
    )


def is_official(info: DatasetFacts, counts: tuple[int, int, int], classes: Sequence[str], place: Place) -> bool:
    """Whether counts and class folders are the published ones; if not, a warning says what differs."""
    differences = []
    if len(classes) != info.classes:
        differences.append(f"{len(classes):,} classes instead of {info.classes:,}")
    elif info.class_folders and imagenet.folders_digest(classes) != info.class_folders:
        differences.append("other class folders")
    if counts != info.counts:
        differences.append(f"{triple(counts)} images in train / val / test instead of {triple(info.counts)}")
    if differences:
        warnings.warn(
            f"{info.name} in {place.images} is not complete or not the official one: "
            f"{'; '.join(differences)}. Results are marked as not comparable with published ones",
            stacklevel=2,
        )
    return not differences
