"""Test images of registered data sets, for models that no run of ``train.py`` makes."""

from __future__ import annotations

from pathlib import Path

from advpt.cli import common
from advpt.data import catalog
from advpt.data.images import ImageSet
from advpt.jobs.outside_models import ReadImages
from advpt.jobs.recipes import Recipes
from advpt.outside.model import OutsideModel

TRAINER = "ZeroshotCLIP"  # whose settings leave a data set as it is


def reader(name: str, root: Path) -> ReadImages:
    """Reads the test images of a data set of ``configs/datasets`` for a model. ``root``: of all data sets.

    Raises:
        ConfigError: no such data set. DataError, when it is called: its files are not there.
    """
    yaml = common.repository() / Recipes(common.repository()).dataset(name)
    words = ["--trainer", TRAINER, "--dataset-config-file", str(yaml), "--root", str(root)]

    def read(model: OutsideModel) -> tuple[ImageSet, list[str]]:
        from dassl.data.datasets import build_dataset  # brings torchvision, a second to import

        train = common.register_plugins()
        cfg = train.setup_cfg(train.parse_args(words))
        data = build_dataset(cfg)
        about = (catalog.bank_name(cfg.DATASET), "test", data.test, data.classnames, cfg.DATASET.ROOT)
        return ImageSet.from_datums(*about, model.preprocessing, cfg.DATASET.PROTOCOL), []

    return read
