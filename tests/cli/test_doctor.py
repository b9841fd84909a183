"""The verb ``doctor``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advpt.cli import main
from advpt.signals import TERMINATED
from tests.helpers.dataset_trees import content, tree
from tests.helpers.injection import outcome
from tests.helpers.script_calls import start_verb, verb_here
from tests.helpers.waiting import wait_for


def test_doctor_says_what_is_there_and_which_setting_decided(capsys, tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.setenv("ADVPT_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--chs20--fare2-clip").mkdir()
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path} (from $ADVPT_DATA)" in said and "digits" in said and "dassl       0.6.3+lite" in said
    assert f"{tmp_path} (from $HF_HUB_CACHE)\n            chs20/fare2-clip\n" in said
    assert main(["doctor", "--root", "/nowhere"]) == 0
    assert "/nowhere (from --root): not there yet" in capsys.readouterr().out


@pytest.mark.parametrize("words", (["--images", "40"], ["--set", "SEED", "2"], ["--weights", "F"], ["--dry-run"]))
def test_options_of_a_check_do_nothing_alone(words, capsys):
    assert main(["doctor", *words]) == 2
    assert f"{words[0]}: of a check alone; add --check SET MODEL" in capsys.readouterr().err


def check(folder: Path, *words: str, data: str = "data") -> list[str]:
    places = {"--root": data, "--output": "out", "--banks": "banks"}
    return ["doctor", *words, *(word for name, path in places.items() for word in (name, str(folder / path)))]


DIGITS = ("--check", "digits", "democlip", "--images", "40")


def test_democlip_gives_its_numbers_on_digits_also_after_an_interruption(tmp_path):
    """The embedded variant of a first contact with real weights: end to end, stopped and continued, then at once."""
    log = tmp_path / "stopped"
    pid = start_verb(log, *check(tmp_path, *DIGITS))
    wait_for(lambda: len(list((tmp_path / "banks").rglob("manifest.json"))) == 1)  # the clean one: the attack goes on
    os.kill(pid, signal.SIGTERM)
    assert outcome(pid) == TERMINATED
    printed = log.read_text()
    assert "time      about" in printed and "40 images x 40 passes" in printed and "result" not in printed
    done = verb_here(tmp_path, *check(tmp_path, *DIGITS))
    assert done.returncode == 0, done.stdout
    assert "result    all is as on record" in done.stdout and "47.5, 19 of 40" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    names = [row.split("|")[1].strip() for row in rows[1:]]
    assert [name for name in names if not name.startswith("INPUT.")] == [
        "prompt", "weights", "image tower", "text tower", "split", "attack", "clean accuracy",
        "accuracy under the attack",
    ]  # fmt: skip
    assert len(list((tmp_path / "out" / "runs").rglob("done.json"))) == 1
    again = verb_here(tmp_path, *check(tmp_path, *DIGITS))
    assert again.returncode == 0 and [line for line in again.stdout.splitlines() if line.startswith("| ")] == rows
    assert "time      " not in again.stdout and "started" not in again.stdout


def test_a_tiny_machine_where_everything_differs(tmp_path, tiny_weights):
    """Another CLIP, other pixels, another prompt and another split than the published ones: each has its next step."""
    pets = content([(f"breed_{label}_{{}}.jpg", f"cat {label}") for label in range(3)], train=1, val=1)
    images = tree(tmp_path / "data", "OxfordPets", pets) / "images"
    for i, path in enumerate(sorted(images.iterdir())):
        Image.fromarray(np.full((36, 40, 3), 20 * i, np.uint8)).save(path)
    settings = {
        "MODEL.BACKBONE.NAME": "tiny",
        "MODEL.ACTIVATION": "quickgelu",
        "INPUT.SIZE": "(32, 32)",
        "TRAINER.ZEROSHOTCLIP.TEMPLATE": "a photo of a {}.",
        "EVAL.ATTACKS": "('pgd1-fkl@16:transfer',)",
        "DATALOADER.NUM_WORKERS": "0",
    }
    pairs = [word for pair in settings.items() for word in ("--set", *pair)]
    words = ("--check", "pets", "vit_b16", "--images", "4", "--weights", str(tiny_weights), *pairs)
    dry = verb_here(tmp_path, *check(tmp_path, *words, "--dry-run"))
    assert dry.returncode == 0 and "time      about" in dry.stdout and not (tmp_path / "out").exists()
    done = verb_here(tmp_path, *check(tmp_path, *words))
    assert done.returncode == 1, done.stdout
    steps = {line.split()[1].rstrip(":"): line for line in done.stdout.splitlines() if line.startswith("next")}
    assert {"INPUT.SIZE", "prompt", "weights", "image", "text", "split", "attack"} <= steps.keys()
    assert 'leave out --set INPUT.SIZE "(32, 32)"' in steps["INPUT.SIZE"] and "curl" in steps["weights"]
    assert "prepare pets" in steps["split"] and "leave out --set TRAINER.ZEROSHOTCLIP.TEMPLATE" in steps["prompt"]
    assert "89.1" in done.stdout and "result    not all is as published" in done.stdout


def test_a_machine_without_data_and_weights_is_told_what_to_bring(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ADVPT_CLIP_CACHE", str(tmp_path / "clip"))
    assert main(check(tmp_path, "--check", "pets", "vit_b16")) == 1
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("missing")]
    assert len(lines) == 2 and "advpt prepare pets" in lines[0] and "curl -L" in lines[1]
    assert not (tmp_path / "out").exists() and not (tmp_path / "clip").exists()
    assert main(check(tmp_path, "--check", "pets", "nobody")) == 2
    assert "no number of zero-shot CLIP is known" in capsys.readouterr().err


def test_a_run_that_fails_is_no_agreement(tmp_path):
    done = verb_here(tmp_path, *check(tmp_path, *DIGITS, "--set", "BANK.CHUNK", "none"))
    assert done.returncode == 1 and "FAILED" in done.stdout and "result" not in done.stdout
