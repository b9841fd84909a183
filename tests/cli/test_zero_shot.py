"""The verb ``zero-shot``."""

from __future__ import annotations

import json
from pathlib import Path

from advpt.cli import main
from advpt.evaluation import record as records
from tests.helpers.script_calls import calls, run_here

RUN = ("democlip", "--attack-at", "native")
WORDS = {"SETS": "digits noisy_digits", "SUBSET": "4", "ATTACK": "pgd1-ce@32"}


def test_one_model_on_several_data_sets_and_again(tmp_path: Path) -> None:
    env = WORDS | {"DATA": str(tmp_path / "data"), "OUTPUT": str(tmp_path / "out"), "JOBS": "1"}
    done = run_here(tmp_path, "advpt/zero_shot.sh", *RUN, "--banks", str(tmp_path / "banks"), **env)
    assert done.returncode == 0, done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "data set", "Digits, attacked at its own size", "NoisyDigits, attacked at its own size", "mean of 2"
    ]  # fmt: skip
    assert "The mean is over Digits, NoisyDigits, each counted once" in done.stdout
    assert "democlip, protocol coop; accuracy in %" in done.stdout and "papers" not in done.stdout
    (path,) = (tmp_path / "out" / "runs" / "digits").rglob("*adaptive*@32*.json")
    result = records.read(path).result
    assert result.backbone.reads is not None and "bicubic, no antialias" in json.dumps(result.backbone.reads)
    assert result.config["EVAL.ATTACK_AT"] == "native" and result.images.n == 4
    assert result.robust is not None and 0 < (result.robust.largest_linf or 0) <= 32.001
    again = run_here(tmp_path, "advpt/zero_shot.sh", *RUN, "--banks", str(tmp_path / "banks"), **env)
    assert again.returncode == 0 and "0 runs in" in again.stdout and "2 were done before" in again.stdout
    assert [line for line in again.stdout.splitlines() if line.startswith("| ")] == rows


def test_data_sets_without_data_are_named_with_their_command(tmp_path: Path, capsys) -> None:
    words = ["zero-shot", "--model", "vit_b32", "--root", str(tmp_path), "--output", str(tmp_path / "out"), "--dry-run"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "no data set is under" in error and "advpt prepare eurosat" in error and "--model democlip" in error
    (tmp_path / "eurosat" / "2750").mkdir(parents=True)
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "zero-shot  eurosat     vit_b32" in printed and "1 of 1 runs to do" in printed
    missing = [line.split()[1] for line in printed.splitlines() if line.startswith("missing")]
    assert "EuroSAT:" not in missing and {"CIFAR10:", "OxfordPets:", "DescribableTextures:"} <= set(missing)
    list_of_dtd = next(line for line in printed.splitlines() if "DescribableTextures" in line)
    assert "curl -L" in list_of_dtd and "labels/test1.txt" in list_of_dtd and not (tmp_path / "out").exists()


def test_the_script_gives_its_words_to_the_verb(tmp_path: Path) -> None:
    (call,), _ = calls(tmp_path, "advpt/zero_shot.sh", "vit_b32", "--dry-run", ATTACK="aa@1 pgd10-ce@1/a1", SETS="pets")
    assert call[:5] == ["-m", "advpt", "zero-shot", "--model", "vit_b32"] and call[-1] == "--dry-run"
    assert [call[i + 1] for i, word in enumerate(call) if word == "--attack"] == ["aa@1", "pgd10-ce@1/a1"]
    none, printed = calls(tmp_path / "b", "advpt/zero_shot.sh")
    assert none == [] and "bash scripts/advpt/zero_shot.sh vit_b32" in printed
