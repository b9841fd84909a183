"""Digits, which scikit-learn brings along, and the demo's sets; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import demo_sets
from advpt.data.split import Split

from .split_file import CatalogDataset, Place, SplitDataset, TestOnlyDataset


class MadeDataset(CatalogDataset):
    """A data set whose images are written under ``<DATASET.ROOT>`` at first use."""

    made: ClassVar[demo_sets.MadeSet]

    def locate(self, cfg: Any) -> Place:
        demo_sets.prepare(self.made, Path(cfg.DATASET.ROOT).expanduser().absolute())
        return super().locate(cfg)


@DATASET_REGISTRY.register()
class Digits(MadeDataset, SplitDataset):
    """1,797 real handwritten digits (8x8); a rule makes the split file."""

    made = demo_sets.DIGITS
    info = made.facts


class DemoDataset(MadeDataset):
    """A set whose split is a rule, without a file."""

    def origin(self) -> str:
        return "the rule"

    def read(self) -> tuple[Split, bool]:
        return self.made.split(), True


@DATASET_REGISTRY.register()
class RenderedDigits(DemoDataset, SplitDataset):
    """Printed digits as DemoCLIP was pre-trained on."""

    made = demo_sets.RENDERED
    info = made.facts


@DATASET_REGISTRY.register()
class NoisyDigits(DemoDataset, TestOnlyDataset):
    """Handwritten digits under Gaussian noise; test only."""

    made = demo_sets.NOISY
    info = made.facts


@DATASET_REGISTRY.register()
class RotatedDigits(DemoDataset, TestOnlyDataset):
    """Handwritten digits, turned by 20 to 45 degrees to either side; test only."""

    made = demo_sets.ROTATED
    info = made.facts
