"""RenderedDigits, NoisyDigits and RotatedDigits: the demo's source of printed digits and two shifted test sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from advpt.data import demo_sets
from advpt.data.split import Split

from .split_file import Place, SplitDataset, datums, locate, refuse_test_subset


@DATASET_REGISTRY.register()
class RenderedDigits(SplitDataset):
    """Printed digits as DemoCLIP was pre-trained on, written under ``<DATASET.ROOT>/rendered_digits`` at first use."""

    info = demo_sets.RENDERED.facts

    def locate(self, cfg: Any) -> Place:
        demo_sets.prepare(demo_sets.RENDERED, Path(cfg.DATASET.ROOT).expanduser().absolute())
        return locate(cfg, self.info)

    def origin(self) -> str:
        return "the rule"

    def read(self) -> tuple[Split, bool]:
        return demo_sets.RENDERED.split(), True


class ShiftedDigits(DatasetBase):
    """The test images of Digits, changed; test only: the same list is train_x and test, as for ImageNet's variants."""

    made: ClassVar[demo_sets.MadeSet]

    def __init__(self, cfg: Any) -> None:
        refuse_test_subset(cfg, self.made.facts)
        root = Path(cfg.DATASET.ROOT).expanduser().absolute()
        self.dataset_dir = str(demo_sets.prepare(self.made, root))
        place, split = locate(cfg, self.made.facts), self.made.split()
        self.comparable, self.split_digest = True, split.digest()
        test = datums(split.test, str(place.images))
        super().__init__(train_x=test, test=test)


@DATASET_REGISTRY.register()
class NoisyDigits(ShiftedDigits):
    """Handwritten digits under Gaussian noise."""

    made = demo_sets.NOISY
    dataset_dir = made.facts.folder


@DATASET_REGISTRY.register()
class RotatedDigits(ShiftedDigits):
    """Handwritten digits, turned by 20 to 45 degrees to either side."""

    made = demo_sets.ROTATED
    dataset_dir = made.facts.folder
