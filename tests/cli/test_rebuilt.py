"""A run's settings and files again, from its folder and its records."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.cli import rebuilt
from advpt.cli.rebuilt import Places
from advpt.errors import ConfigError
from advpt.evaluation.record import Observed, Record
from advpt.files import write_json
from tests.evaluation.test_arithmetic import record


def test_files_are_where_they_were_or_in_a_copy_of_the_folder_above(tmp_path):
    run = tmp_path / "new" / "digits" / "TAPTV" / "seed1"
    tower = tmp_path / "new" / "digits" / "TeCoA" / "seed1" / "tower.safetensors"
    tower.parent.mkdir(parents=True)
    tower.touch()
    run.mkdir(parents=True)
    assert rebuilt.near(str(tower), run) == tower
    assert rebuilt.near("/old/output/digits/TeCoA/seed1/tower.safetensors", run) == tower
    (tmp_path / "new" / "digits" / "tower.safetensors").touch()  # as much of the path as possible is the same
    assert rebuilt.near("/old/output/digits/TeCoA/seed1/tower.safetensors", run) == tower
    assert rebuilt.near("output/digits/TeCoA/seed1/other.safetensors", run) is None
    assert rebuilt.model_of(run, Places()) == run and rebuilt.model_of(run, Places(model="there")) == Path("there")
    write_json(run / "done.json", {"model": "/old/digits/TeCoA/seed1"})
    assert rebuilt.model_of(run, Places()) == tower.parent
    write_json(run / "done.json", {"model": "/old/digits/CoOp/seed1"})
    with pytest.raises(
        ConfigError, match="an evaluation of the run /old/digits/CoOp/seed1, which is not there any more"
    ):
        rebuilt.model_of(run, Places())


def test_settings_are_the_records_over_the_folders(tmp_path):
    saved = {"SEED": 1, "MODEL.WEIGHTS": "", "MODEL.BACKBONE.NAME": "DemoCLIP", "OPTIM.LR": 0.1}
    config = {"SEED": 2, "EVAL.EOT": 3}
    settings = rebuilt.settings_of(saved, config, tmp_path, Places())
    assert (settings["SEED"], settings["EVAL.EOT"], settings["OPTIM.LR"]) == (2, 3, 0.1)
    assert settings["MODEL.ACTIVATION"] == "quickgelu"
    (conflict,) = rebuilt.conflicts(saved, config)
    assert str(conflict) == "config.SEED: the record has 2, config.json beside it has 1"
    assert list(rebuilt.conflicts(saved, {"SEED": 1})) == []
    away = saved | {"MODEL.IMAGE_WEIGHTS": "/away/tower.pt"}
    with pytest.raises(ConfigError, match="/away/tower.pt is not there any more; name its place with --image-weights"):
        rebuilt.settings_of(away, config, tmp_path, Places())
    given = rebuilt.settings_of(away, config, tmp_path, Places(image_weights="tower.pt"))
    assert given["MODEL.IMAGE_WEIGHTS"] == "tower.pt"
    hub = rebuilt.settings_of(saved | {"MODEL.IMAGE_WEIGHTS": "hf-hub:org/tower"}, config, tmp_path, Places())
    assert hub["MODEL.IMAGE_WEIGHTS"] == "hf-hub:org/tower"


def test_images_made_elsewhere_stand_in_for_their_digest_or_are_left_out(tmp_path):
    settings = {"EVAL.ATTACKS": ["pgd1-ce@4", "files:0123456789ab@8:transfer"]}
    made, left_out = rebuilt.with_files(settings, [record()])
    assert made["EVAL.ATTACKS"] == ["pgd1-ce@4"] and left_out
    other = Record(record().result, Observed(files=str(tmp_path)))  # a folder with other images
    assert rebuilt.with_files(settings, [other]) == ({"EVAL.ATTACKS": ["pgd1-ce@4"]}, True)
    assert rebuilt.with_files({"EVAL.ATTACKS": ["pgd1-ce@4"]}, [record()])[1] is False
