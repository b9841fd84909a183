"""Scripts around several runs: which runs they make, in which order, from which prompt. No run is made here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.workspace import ROOT


def calls(tmp_path: Path, script: str, *words: str, **env: str) -> tuple[list[list[str]], str]:
    """The words of every Python call of a script, and what it printed."""
    log, fake = tmp_path / "calls", tmp_path / "python"
    fake.write_text(f'#!/usr/bin/env bash\nprintf "%s\\t" "$@" >> {log}; echo >> {log}\n')
    fake.chmod(0o755)
    given = os.environ | {"PYTHON": str(fake), "OUTPUT": str(tmp_path / "out"), "DATA": "/data"} | env
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / script), *words], env=given, capture_output=True, text=True, check=False
    )
    lines = log.read_text().splitlines() if log.is_file() else []
    return [line.rstrip("\t").split("\t") for line in lines], done.stdout + done.stderr


def value(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_base_to_new_evaluates_the_prompt_of_the_base_classes_on_the_others(tmp_path):
    made, _ = calls(tmp_path, "advpt/base_to_new.sh", "dtd", "vit_b32", "OPTIM.LR", "0.1", TRAINER="CAPT", SEEDS="0 1")
    base, new = made[0], made[1]
    assert len(made) == 6 and made[4][:3] == ["-m", "advpt", "report"]
    assert value(base, "DATASET.SUBSAMPLE_CLASSES") == "base" and "--eval-only" not in base
    assert value(new, "DATASET.SUBSAMPLE_CLASSES") == "new" and "--eval-only" in new
    assert value(new, "--model-dir") == value(base, "--output-dir") and value(base, "--seed") == "0"
    for words in (base, new):
        assert value(words, "OPTIM.LR") == "0.1" and value(words, "DATASET.NUM_SHOTS") == "16"
        assert (ROOT / value(words, "--config-file")).is_file()


@pytest.mark.parametrize("script", ("advpt/main.sh", "advpt/base_to_new.sh"))
def test_scripts_take_composed_configuration_names(tmp_path, script):
    made, _ = calls(tmp_path, script, "pets", "rn50_ep50", TRAINER="CoOp", SEEDS="1", SHOTS="16")
    assert value(made[0], "--config-file") == "configs/trainers/CoOp/rn50_ep50.yaml"
    assert "rn50_ep50_16shots" in value(made[0], "--output-dir")


def test_cross_dataset_takes_one_prompt_to_every_target(tmp_path):
    made, _ = calls(
        tmp_path, "advpt/cross_dataset.sh", "imagenet", "vit_b32", "pets", "imagenetv2", "noisy_digits",
        TRAINER="FAP", SEEDS="1", SHOTS="all", SETTINGS="EVAL.SUBSET 100",
    )  # fmt: skip
    source, *targets = made[:4]
    assert [Path(value(w, "--dataset-config-file")).stem for w in made[:4]] == [
        "imagenet", "pets", "imagenetv2", "noisy_digits",
    ]  # fmt: skip
    assert all(value(w, "--model-dir") == value(source, "--output-dir") and "--eval-only" in w for w in targets)
    assert all(value(w, "DATASET.NUM_SHOTS") == "-1" and value(w, "EVAL.SUBSET") == "100" for w in made[:4])
    assert all((ROOT / value(w, "--dataset-config-file")).is_file() for w in made[:4])
    assert [w[:3] for w in made[4:]] == [["-m", "advpt", "report"]] * 4


@pytest.mark.parametrize("script", ("advpt/base_to_new.sh", "advpt/cross_dataset.sh"))
def test_without_words_a_script_says_what_it_takes(tmp_path, script):
    made, said = calls(tmp_path, script)
    assert not made and f"bash scripts/{script}" in said


def test_the_check_of_a_robust_backbone(tmp_path):
    made, said = calls(tmp_path, "check_robust_backbone.sh")
    assert "WEIGHTS names no file" in said and [w[0] for w in made] == ["-c"], "it asks the library for the sources"
    weights = tmp_path / "vitb32_eps4.pth.tar"
    weights.write_bytes(b"x")
    _, said = calls(tmp_path, "check_robust_backbone.sh", WEIGHTS=str(weights), DATA=str(tmp_path))
    assert "no imagenet below" in said
    (tmp_path / "imagenet").mkdir()
    made, said = calls(tmp_path, "check_robust_backbone.sh", WEIGHTS=str(weights), DATA=str(tmp_path), SUBSET="100")
    run = made[-1]
    assert value(run, "EVAL.ATTACKS") == "('pgd100-ce@4/a1',)" and value(run, "MODEL.IMAGE_WEIGHTS") == str(weights)
    assert value(run, "EVAL.SUBSET") == "100" and value(run, "--trainer") == "ZeroshotCLIP"
