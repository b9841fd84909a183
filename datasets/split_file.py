"""What all data sets share: find the folder, read and check the split, sample few shots, keep base or new."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dassl.data.datasets import DatasetBase, Datum

from advpt.data import fewshot, layout, listing, steps, zero_shot
from advpt.data.facts import DatasetFacts
from advpt.data.split import Row, Split, read, unofficial_warning
from advpt.errors import ConfigError, DataError, unknown_name

SUBSAMPLES = ("all", "base", "new")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a data set lies: DATASET.ROOT made absolute, the data set's folder, and that of its images."""

    root: Path
    folder: Path
    images: Path


class CatalogDataset(DatasetBase):
    """A data set of the catalogue: subclasses set ``info``, and their ``dataset_dir`` follows from it.

    Attributes:
        comparable: False for other images, classes or names than the official ones: results compare with nothing
            published.
        split_digest: SHA-256 of the whole split in canonical form, before few-shot and base/new.
        warnings: what was left out, for the records.
        protocol: DATASET.PROTOCOL.
        no_training: why nothing can be trained on it, "" where it can.
    """

    info: ClassVar[DatasetFacts]
    comparable: bool
    split_digest: str
    warnings: list[str]
    protocol: str
    no_training: str = ""

    def __init_subclass__(cls) -> None:
        if "info" in vars(cls):
            cls.dataset_dir = cls.info.folder

    def locate(self, cfg: Any) -> Place:
        """Find the data set's folders; nothing is created.

        Raises:
            DataError: if the image folder is not there; the message recognises common other layouts.
        """
        info = self.info
        root = Path(cfg.DATASET.ROOT).expanduser().absolute()
        folder = root / info.folder
        place = Place(root, folder, folder / info.image_dir)
        if place.images.is_dir():
            return place
        if root.is_dir():
            state = f"DATASET.ROOT is {root}; folders found there: {listing.some(listing.folders(root))}."
        else:
            state = f"DATASET.ROOT is {root}, which does not exist."
        raise DataError(
            f"{info.name}: expected images in {place.images}. {state}{layout.advice(info, root)} "
            f"Run `{steps.command(info, root)}`, or give the folder above {info.folder} as --root"
        )

    def read(self) -> tuple[Split, bool]:
        """Which images are in which part, and whether these are the official ones; others are warned about."""
        raise NotImplementedError

    def load(self, cfg: Any) -> Split:
        """Locate and read, and set the attributes."""
        self.protocol = wanted_protocol(cfg)
        rule = zero_shot.facts_of(self.info.name, self.protocol)
        if rule is not None:
            self.refuse_parts(cfg)
        self.place = self.locate(cfg)
        self.dataset_dir, self.image_dir = str(self.place.folder), str(self.place.images)
        self.warnings = []
        if rule is None:
            split, self.comparable = self.read()
        else:
            split, self.comparable = self.read_by(rule)
        self.split_digest = zero_shot.split_digest(self.protocol, split)
        return split

    def read_by(self, rule: zero_shot.ZeroShotFacts) -> tuple[Split, bool]:
        """As :meth:`read`, of DATASET.PROTOCOL's images."""
        official = True

        def lists() -> Split:
            nonlocal official
            split, official = self.read()
            return split

        split, different = zero_shot.lists_of(self.info, rule, self.place.folder, lists)
        self.warn_of(*different)
        if not split.train:
            self.no_training = (
                f"DATASET.PROTOCOL {self.protocol} tests it and has no training images of it; DATASET.PROTOCOL coop has"
            )
        return split, not different and (official or self.info.split is None)

    def refuse_parts(self, cfg: Any) -> None:
        """Raises ConfigError for base or new classes, which are CoOp's."""
        if (part := wanted_classes(cfg)) != "all":
            raise ConfigError(
                f"DATASET.SUBSAMPLE_CLASSES is {part}: halves of the classes are CoOp's, and DATASET.PROTOCOL is "
                f"{self.protocol}; leave it at all"
            )

    def warn_of(self, *sentences: str) -> None:
        """Warn, and keep the sentences for the records."""
        for text in sentences:
            warnings.warn(text, stacklevel=3)
        self.warnings += sentences

    def few_shot(self, cfg: Any, split: Split) -> tuple[list[Datum], list[Datum], list[Datum]]:
        """Apply NUM_SHOTS and SEED to train and val; a list of the chosen files is kept beside the images, unless their
        folder is read-only."""
        shots, seed = cfg.DATASET.NUM_SHOTS, cfg.SEED
        if shots >= 1 and split.train:
            notice(f"Creating a {shots}-shot dataset")
            split = fewshot.select(split, shots, seed)
            if seed >= 0 and self.place.folder.stat().st_mode & 0o222:
                self._record(split, shots, seed)
        train, val, test = (datums(rows, self.image_dir) for rows in split.parts().values())
        return train, val, test

    def _record(self, subset: Split, shots: int, seed: int) -> None:
        path = fewshot.list_path(self.place.folder, shots, seed)
        try:
            trouble = fewshot.record(subset, path, split_digest=self.split_digest, shots=shots, seed=seed)
        except OSError as error:
            warnings.warn(f"{path} could not be written ({error}); the run does not need it", stacklevel=2)
            return
        if trouble:
            notice(f"Few-shot list {path} was made anew: {trouble}")


class TestOnlyDataset(CatalogDataset):
    """A data set without a train part: the same list is train_x and test, as in CoOp.

    NUM_SHOTS and SUBSAMPLE_CLASSES do nothing here.
    """

    def __init__(self, cfg: Any) -> None:
        refuse_test_subset(cfg, self.info)
        test = datums(self.load(cfg).test, self.image_dir)
        super().__init__(train_x=test, test=test)


class SplitDataset(CatalogDataset):
    """A data set whose parts are fixed by a split file.

    Raises:
        DataError: if the folder, the split file or images are missing or damaged.
        ConfigError: for unknown values of SUBSAMPLE_CLASSES and TEST_SUBSET.
    """

    def __init__(self, cfg: Any) -> None:
        refuse_test_subset(cfg, self.info)
        subsample = wanted_classes(cfg)
        split = self.load(cfg)
        self.check_files(split)
        train, val, test = self.few_shot(cfg, split)
        parts = subsample_classes(train, val, test, subsample=subsample)
        super().__init__(train_x=parts[0] or parts[2], val=parts[1] or None, test=parts[2])

    def check_files(self, split: Split) -> None:
        """Raises DataError with the number of missing images and the first five."""
        paths = [row[0] for rows in split.parts().values() for row in rows]
        absent = listing.missing(self.place.images, paths)
        if absent:
            raise DataError(
                f"{self.info.name}: {len(absent):,} of {len(paths):,} files listed in {self.origin()} are missing "
                f"under {self.place.images}, first {min(5, len(absent))}: {', '.join(absent[:5])}."
                f"{layout.advice(self.info, self.place.root)} "
                f"Run `{steps.command(self.info, self.place.root, '--check')}`"
            )

    def origin(self) -> str:
        """The name of what lists the images, for messages."""
        rule = zero_shot.facts_of(self.info.name, self.protocol)
        if rule is not None and rule.file:
            return rule.file
        return self.info.split.filename if self.info.split else "the lists"

    def read(self) -> tuple[Split, bool]:
        if self.info.split is None:
            raise DataError(f"{self.info.name} has no split file in the catalogue")
        path = self.place.folder / self.info.split.filename
        if not path.is_file():
            raise DataError(
                f"{path.name} is missing: expected at {path}. Without it the images have no official train, "
                "val and test parts, and none are made up. "
                f"Run `{steps.command(self.info, self.place.root)}`"
            )
        split, data = read(path)
        notice(f"Reading split from {path}")
        warning = unofficial_warning(self.info, split, data, path)
        if warning:
            warnings.warn(warning, stacklevel=2)
        return split, not warning


def datums(rows: Sequence[Row], images: str) -> list[Datum]:
    return [Datum(impath=f"{images}/{path}", label=label, classname=name) for path, label, name in rows]


def subsample_classes(*args: list[Datum], subsample: str = "all") -> tuple[list[Datum], ...]:
    """Keep the first half of the classes ("base"), the rest ("new"), or "all", relabelled from 0.

    Labels are those of the first list; base has the odd one. Applied after few-shot sampling, as in CoOp.

    Raises:
        ConfigError: for another value, and where no class would be left.
    """
    check_subsample(subsample)
    if subsample == "all":
        return args
    notice(f"SUBSAMPLE {subsample.upper()} CLASSES!")
    labels = sorted({item.label for item in args[0]})
    middle = math.ceil(len(labels) / 2)
    kept = labels[:middle] if subsample == "base" else labels[middle:]
    if not kept:
        raise ConfigError(
            f"DATASET.SUBSAMPLE_CLASSES is {subsample!r}, but the data set has {len(labels)} class(es): none is left. "
            "Base and new classes need two or more"
        )
    relabel = {label: new for new, label in enumerate(kept)}
    return tuple(
        [
            Datum(impath=item.impath, label=relabel[item.label], classname=item.classname)
            for item in items
            if item.label in relabel
        ]
        for items in args
    )


def check_subsample(value: str) -> None:
    if value not in SUBSAMPLES:
        raise ConfigError(unknown_name("DATASET.SUBSAMPLE_CLASSES", value, SUBSAMPLES))


def wanted_classes(cfg: Any) -> str:
    """DATASET.SUBSAMPLE_CLASSES, "all" in a configuration without that key."""
    value: str = getattr(cfg.DATASET, "SUBSAMPLE_CLASSES", "all")
    check_subsample(value)
    return value


def wanted_protocol(cfg: Any) -> str:
    """DATASET.PROTOCOL, "coop" in a configuration without that key."""
    return str(getattr(cfg.DATASET, "PROTOCOL", zero_shot.COOP))


def wanted_test_subset(cfg: Any) -> str:
    """DATASET.TEST_SUBSET with "" for "all" and for a configuration without that key."""
    value: str = getattr(cfg.DATASET, "TEST_SUBSET", "")
    return "" if value == "all" else value


def refuse_test_subset(cfg: Any, info: DatasetFacts) -> None:
    """Raises ConfigError if a test subset is asked of a data set that has none."""
    subset = wanted_test_subset(cfg)
    if subset:
        raise ConfigError(
            f"DATASET.TEST_SUBSET is {subset!r}, but {info.name} has no test subsets; only ImageNet has some: "
            "paper1000, robustbench5000, robustbench1000. Leave it empty"
        )


def notice(text: str) -> None:
    """One line on standard output, where Dassl's lines go."""
    print(text)  # noqa: T201
