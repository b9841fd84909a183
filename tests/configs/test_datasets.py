"""The yaml of every data set: one per alias, naming it and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY

import datasets  # noqa: F401 - registers the data sets
from advpt.data import catalog

FOLDER = Path(__file__).parents[2] / "configs" / "datasets"
ALIASES = {alias: name for name in catalog.names() for alias in catalog.get(name).aliases}


def test_there_is_one_for_every_alias() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(ALIASES)


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_it_sets_the_name_alone(alias: str) -> None:
    path = FOLDER / f"{alias}.yaml"
    assert yaml.safe_load(path.read_text()) == {"DATASET": {"NAME": ALIASES[alias]}}
    cfg = get_cfg_default()
    cfg.merge_from_file(str(path))
    assert cfg.DATASET.NAME in DATASET_REGISTRY.registered_names()
