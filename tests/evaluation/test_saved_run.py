"""A run's folder is a model: it is loaded where neither the trainers nor Dassl can be imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dassl.engine import TRAINER_REGISTRY

from advpt.errors import WeightsError
from advpt.evaluation.saved_run import load_run
from tests.helpers.peers import DEEP
from tests.helpers.trainers import registered_trainers
from tests.helpers.workspace import Workspace, results, write_weights

LOAD = """
import json, sys
for name in ("dassl", "trainers", "datasets", "train"):
    sys.modules[name] = None  # importing it fails
import torch
from pathlib import Path
from advpt.evaluation.saved_run import load_run
torch.set_num_threads(1)
found = {}
for folder in sys.argv[1:]:
    model = load_run(Path(folder))
    logits = model.logits(torch.full((1, 3, 16, 16), 0.5))
    found[folder] = [model.classifier.digest, model.backbone.image_digest, list(logits.shape), list(model.classnames)]
print(json.dumps(found))
"""
QUICK = ("OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "-1", "EVAL.ATTACKS", "()", "OPTIM.LR", "0.1")


def trainers() -> list[str]:
    """Those that leave a model, from the registry."""
    return [name for name in registered_trainers() if not TRAINER_REGISTRY.get(name).tunes_at_test_time]


def settings(trainer: str) -> tuple[str, ...]:
    node = TRAINER_REGISTRY.get(trainer).settings
    depths = [f"{node.node}.{leaf.name}" for leaf in node.declared() if leaf.name in ("DEPTH_TEXT", "DEPTH_VISION")]
    return (*QUICK, *(word for name in depths for word in (name, "2")))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    folder = tmp_path_factory.mktemp("saved")
    return Workspace(folder, write_weights(folder / "deep.pt", DEEP))


@pytest.mark.slow
def test_every_trainers_run_is_loaded_without_its_trainer_and_dassl(workspace):
    folders = {}
    for trainer in trainers():
        folders[trainer] = workspace.folder / trainer
        workspace.run(*settings(trainer), trainer=trainer, output=folders[trainer])
    assert len(folders) > 14
    words = [sys.executable, "-c", LOAD, *map(str, folders.values())]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    for trainer, folder in folders.items():
        (result,) = results(folder).values()
        classifier, image, shape, names = loaded[str(folder)]
        assert classifier == result["prompt"], trainer
        assert image == result["backbone"]["image"], trainer
        assert shape == [1, 3] and names == ["red_fox", "owl", "sea"]


def test_what_is_no_model_or_of_another_clip_is_refused(workspace, tmp_path, tiny_file):
    run = workspace.folder / "run"
    workspace.run(*QUICK)
    evaluation = workspace.folder / "evaluation"
    workspace.run(*QUICK, output=evaluation, flags=("--eval-only", "--model-dir", str(run)))
    with pytest.raises(WeightsError, match=f"holds no model.*it is an evaluation of {run}"):
        load_run(evaluation)
    with pytest.raises(WeightsError, match="holds no model"):
        load_run(tmp_path)
    with pytest.raises(WeightsError, match="was tuned on another CLIP"):
        load_run(run, weights=str(tiny_file))
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    (moved / "config.json").unlink()  # as another host's train.py leaves it
    model = load_run(moved, weights=str(workspace.weights))
    assert model.classifier.digest == load_run(run).classifier.digest
