"""What people have keeps its meaning: configurations, bank keys and, on the machine of the golden file, every bit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDEN = json.loads((HERE / "golden.json").read_text())

specification = importlib.util.spec_from_file_location("make_golden", HERE / "make_golden.py")
assert specification is not None and specification.loader is not None
make_golden = importlib.util.module_from_spec(specification)
specification.loader.exec_module(make_golden)


@pytest.mark.parametrize("yaml", GOLDEN["configurations"])
def test_every_configuration_resolves_to_what_it_was(yaml: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wanted = GOLDEN["configurations"][yaml]
    assert {dataset: make_golden.configuration(yaml, dataset) for dataset in wanted} == wanted


@pytest.mark.parametrize("trainer", GOLDEN["runs"])
def test_every_trainer_has_its_bank_keys_and_its_bits(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    measured, wanted = make_golden.run(trainer, tmp_path), GOLDEN["runs"][trainer]
    assert measured["banks"] == wanted["banks"]
    assert sorted(measured["records"]) == sorted(wanted["records"])
    if make_golden.machine() != GOLDEN["machine"]:
        pytest.skip("keys are equal; results were made on another processor or with another torch")
    assert measured["records"] == wanted["records"]


def test_every_trainer_with_a_small_recipe_is_in_the_golden_file() -> None:
    assert sorted(GOLDEN["runs"]) == sorted(path.parent.name for path in ROOT.glob("configs/trainers/*/democlip.yaml"))
