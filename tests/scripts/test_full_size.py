"""scripts/advpt/main.sh from the files of published models: random weights of full size, two pictures.

Minutes for each of them, and up to 6 GB of memory: ``ADVPT_FULL_SIZE=1 python -m pytest -s`` with this file. Otherwise
AdvPT alone, on the quickest. Small networks of the same kinds are in tests/runs/test_backbones.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advpt.evaluation import record as records
from tests.helpers.published import PUBLISHED, Published
from tests.helpers.workspace import ROOT, write_jpeg

ALL = bool(os.environ.get("ADVPT_FULL_SIZE"))
SHORT = ("ResNet",)
QUICK = ("OPTIM.MAX_EPOCH", "2", "DATALOADER.NUM_WORKERS", "0", "DATALOADER.TRAIN_X.BATCH_SIZE", "2",
         "BANK.ATTACK", "pgd1-fkl@4")  # fmt: skip
ATTACKS = ("EVAL.ATTACKS", "('pgd1-ce@4:transfer','pgd1-ce@4:adaptive')")


class Runs:
    """Runs on one model, in a folder of their own."""

    def __init__(self, folder: Path, model: Published) -> None:
        self.folder, self.model = folder, model
        for part in ("train", "test"):
            for label, name in enumerate(("fox", "owl")):
                write_jpeg(folder / "data/image_folder" / part / name / "0.jpg", 10 * label + len(part))
        self.environment = os.environ | model.write(folder) | {
            "PYTHON": sys.executable, "SEEDS": "1", "JOBS": "1", "OMP_NUM_THREADS": "1", "DATA": str(folder / "data"),
            "OUTPUT": str(folder / "out"), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }  # fmt: skip

    def call(self, what: str, words: list[str], **environment: str) -> str:
        """What a command prints, which is shown with its duration, and ends with its exit status."""
        start, words = time.monotonic(), [*words, *self.model.words, *QUICK, "BANK.DIR", str(self.folder / "banks")]
        done = subprocess.run(
            words, cwd=ROOT, env=self.environment | environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        print(f"\n--- {self.model.architecture}, {what}: {time.monotonic() - start:.0f} s\n{done.stdout}")
        return f"{done.stdout}\nexit {done.returncode}"

    def main_sh(self, trainer: str, *settings: str, data: str = "") -> str:
        """What ``main.sh`` prints."""
        words = ["bash", "scripts/advpt/main.sh", "image_folder", self.model.backbone, *settings]
        return self.call(f"main.sh, {trainer}", words, TRAINER=trainer, DATA=data or str(self.folder / "data"))

    def of(self, trainer: str) -> Path:
        return self.folder / f"out/image_folder/{trainer}/{self.model.backbone}_allshots/seed1"


@pytest.fixture(params=PUBLISHED if ALL else SHORT)
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Runs:
    """Runs on a model of :data:`PUBLISHED`."""
    pytest.importorskip("open_clip")
    return Runs(tmp_path, PUBLISHED[request.param])


@pytest.mark.slow
def test_a_published_model_is_tuned_and_evaluated(runs: Runs) -> None:
    for trainer in ("AdvPT", "CoOp") if ALL else ("AdvPT",):
        assert runs.main_sh(trainer, *ATTACKS).endswith("exit 0")
        made = [records.read(path).result for path in (runs.of(trainer) / "records").glob("*.json")]
        assert {result.protocol for result in made} >= {"transfer", "adaptive"}
        assert all(result.robust.n == 2 for result in made)
    if not ALL:
        return
    if not runs.model.tokens:
        for trainer in ("AdvIVLP", "TAPTVLI"):
            refused = runs.main_sh(trainer, data="/nowhere")
            assert "and has none: use LAYOUT text or text_deep" in refused and not refused.endswith("exit 0")
        return
    assert runs.main_sh("AdvIVLP", *ATTACKS).endswith("exit 0")
    tuned = ["train.py", "--trainer", "TAPTVLI", "--eval-only", "--model-dir", str(runs.of("AdvIVLP"))]
    yaml = f"configs/trainers/TAPTVLI/{runs.model.backbone}.yaml"
    where = ["--root", runs.environment["DATA"], "--dataset-config-file", "configs/datasets/image_folder.yaml",
             "--config-file", yaml, "--output-dir", str(runs.of("TAPTVLI"))]  # fmt: skip
    weights = ["MODEL.WEIGHTS", runs.environment["WEIGHTS"]] if "WEIGHTS" in runs.environment else []
    views = ["TRAINER.TAPT.VIEWS", "4", "TRAINER.TAPT.RHO", "0.5", "TRAINER.TAPT.CLEAN_RUN", str(runs.of("AdvIVLP"))]
    words = [sys.executable, *tuned, *where, *views, *weights, "EVAL.ATTACKS", "('pgd1-ce@4:static',)"]
    assert runs.call("TAPTVLI", words).endswith("exit 0")
    made = [records.read(path).result for path in (runs.of("TAPTVLI") / "records").glob("*.json")]
    assert any(list(result.defenses) == ["tapt"] for result in made)
