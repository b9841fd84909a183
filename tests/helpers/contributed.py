"""What tests/test_contributing.py asks of the examples of CONTRIBUTING.md, inside the copy that it has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import train
from advpt.cli import main
from advpt.data import catalog
from advpt.evaluation.saved_run import load_run
from tests.helpers.dataset_trees import content, tree

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of the example, with images that differ by class."""
    root = tmp_path_factory.mktemp("data")
    classes = ("circle", "square", "star")
    made = content([(f"{name}/{{}}.png", name) for name in classes], train=2, val=1, test=2)
    folder = tree(root, "shapes", made) / catalog.get("shapes").image_dir
    rng = np.random.default_rng(0)
    for rows in made.values():
        for path, label, _ in rows:
            pixels = rng.integers(0, 120, (32, 32, 3)) + 60 * np.eye(3, dtype=int)[label]
            Image.fromarray(pixels.astype(np.uint8)).save(folder / path)
    return root


def test_contributed_additions_run_and_are_reported(data: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "run"
    words = [
        "--root", str(data), "--seed", "1", "--trainer", "Smooth", "--output-dir", str(output),
        "--dataset-config-file", str(ROOT / "configs/datasets/shapes.yaml"),
        "--config-file", str(ROOT / "configs/trainers/Smooth/democlip.yaml"),
        "OPTIM.MAX_EPOCH", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "3", "BANK.DIR", str(tmp_path / "banks"),
        "BANK.ATTACK", "rsfgsm-fkl@4", "EVAL.ATTACKS", "('rsfgsm-ce@8',)", "EVAL.DEFENSES", "('squeeze/levels=4',)",
        "EVAL.TEST_TIME", "('mirror/share=0.3',)",
        "TRAINER.SMOOTH.SMOOTHING", "0.2",
    ]  # fmt: skip
    assert train.main(words) == 0
    printed = capsys.readouterr().out
    assert "epoch [1/1]" in printed and "* robust_accuracy:" in printed
    made = [json.loads(path.read_text())["result"] for path in (output / "records").glob("*.json")]
    assert len(made) == 6, [(r["protocol"], r["attack"]["asked"]) for r in made]
    assert all(result["config"]["TRAINER.SMOOTH.SMOOTHING"] == 0.2 for result in made)
    assert load_run(output).classifier.digest == made[0]["prompt"]
    assert train.main([*words, "TRAINER.SMOOTH.SMOOTHING", "2"]) == 2
    assert "TRAINER.SMOOTH.SMOOTHING" in capsys.readouterr().err
    assert main(["report", str(output)]) == 0
    table = capsys.readouterr().out
    assert "Shapes, test split, 6 images" in table and "rsfgsm" in table and "squeeze:bits/levels=4" in table
    assert "mirror/share=0.3" in table or "mirror:sound/share=0.3" in table, table
    assert "not comparable" not in table


def test_a_contributed_fine_tuning_method_leaves_a_tower(data: Path, tmp_path: Path) -> None:
    def run(trainer: str, *more: str) -> dict[str, dict[str, Any]]:
        output = tmp_path / trainer
        words = [
            "--root", str(data), "--seed", "1", "--trainer", trainer, "--output-dir", str(output),
            "--dataset-config-file", str(ROOT / "configs/datasets/shapes.yaml"), *more,
            "BANK.DIR", str(tmp_path / "banks"), "EVAL.ATTACKS", "('pgd2-ce@2',)", "EVAL.PROTOCOLS", "('transfer',)",
        ]  # fmt: skip
        assert train.main(words) == 0
        return {path.name: json.loads(path.read_text())["result"] for path in (output / "records").glob("*.json")}

    tuned = run("Anchored", "OPTIM.MAX_EPOCH", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "3")
    tower = tmp_path / "Anchored" / "image_encoder" / "tower.safetensors"
    loaded = run("ZeroshotCLIP", "MODEL.IMAGE_WEIGHTS", str(tower))
    assert {n: (r["clean"], r["robust"], r["backbone"]["image"]) for n, r in tuned.items()} == {
        n: (r["clean"], r["robust"], r["backbone"]["image"]) for n, r in loaded.items()
    }
    assert all(result["training"]["attack"] == "pgd2-ce@2/a2" for result in tuned.values())


def test_contributed_additions_are_planned(data: Path, tmp_path: Path, capsys) -> None:
    more = ["--set", "EVAL.ATTACKS", "('rsfgsm-ce@8',)", "--set", "BANK.ATTACK", "rsfgsm-fkl@4"]
    words = ["sweep", "shapes", "--trainers", "Smooth,AdvPT", "--backbones", "democlip", "--seeds", "1,2"]
    assert main([*words, "--root", str(data), "--output", str(tmp_path / "out"), *more, "--dry-run"]) == 0
    assert "shapes" in capsys.readouterr().out


def test_contributed_additions_are_listed(capsys) -> None:
    assert main(["attacks"]) == 0 and "rsfgsm" in capsys.readouterr().out
    assert main(["defenses", "squeeze+mirror"]) == 0
    assert capsys.readouterr().out == "squeeze+mirror = squeeze:bits/levels=8+mirror:sound/share=0.5\n"
    assert main(["defenses"]) == 0
    printed = capsys.readouterr().out
    assert "squeeze:bits" in printed and "mirror:sound" in printed
    assert main(["prepare", "shapes", "--offline"]) == 0 and "https://example.org/shapes.zip" in capsys.readouterr().out
