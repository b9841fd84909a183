"""The verbs that only look."""

from __future__ import annotations

from pathlib import Path

import pytest
from dassl.config import get_cfg_default

from advpt.cli import main
from advpt.defenses.base import DEFENSES
from advpt.settings import extend_cfg, merge_yaml, plain

ROOT = Path(__file__).resolve().parents[1]


def test_doctor_says_what_is_there_and_which_setting_decided(capsys, tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.setenv("ADVPT_DATA", str(tmp_path))
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path} (from $ADVPT_DATA)" in said and "digits" in said and "dassl       0.6.3+lite" in said
    assert main(["doctor", "--root", "/nowhere"]) == 0
    assert "/nowhere (from --root): not there yet" in capsys.readouterr().out


def test_attacks_expand(capsys):
    assert main(["attacks", "pgd40@16"]) == 0
    assert "pgd40@16 = pgd40-fkl@16/a0.5" in capsys.readouterr().out
    assert main(["attacks"]) == 0
    assert "cross-entropy to the true label" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["AdvPT/democlip", "AdvPT/vit_b16", "AdvPT/rn50_ep50_ctxv1", "TAPTV/vit_b16"])
def test_a_flat_configuration_says_the_same_to_a_host_that_knows_no_base(capsys, tmp_path, name):
    path = ROOT / "configs/trainers" / f"{name}.yaml"
    assert main(["config", str(path)]) == 0
    flat = tmp_path / "flat.yaml"
    flat.write_text(capsys.readouterr().out)
    assert "_BASE_" not in flat.read_text()
    theirs, ours = get_cfg_default(), get_cfg_default()
    for cfg in (theirs, ours):
        extend_cfg(cfg)
    theirs.merge_from_file(str(flat))
    merge_yaml(ours, path)
    assert plain(theirs) == plain(ours) != plain(get_cfg_default())


def test_mistakes_exit_with_two(capsys):
    assert main(["attacks", "pdg40@16"]) == 2
    assert "Did you mean 'pgd'" in capsys.readouterr().err


def test_names_that_are_not_utf8_are_a_sentence(capsys):
    assert main(["report", "caf\udce9"]) == 2
    assert r"the name 'caf\xe9' is not UTF-8" in capsys.readouterr().err


def test_the_verb_lists_defenses(capsys):
    from advpt.cli import main

    assert main(["defenses"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}:" in shown for name in DEFENSES)
    assert main(["defenses", "super+rescale"]) == 0
    assert "super:advpt/sigma=0.02/" in capsys.readouterr().out
