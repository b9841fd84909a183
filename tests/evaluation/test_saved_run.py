"""A run's folder is a model: it is loaded where neither the trainers nor Dassl can be imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dassl.engine import TRAINER_REGISTRY

import advpt
from advpt.errors import WeightsError
from advpt.evaluation import record as records
from advpt.evaluation.saved_run import load_run
from tests.helpers.peers import DEEP
from tests.helpers.trainers import registered_trainers
from tests.helpers.workspace import Workspace, write_weights

LOAD = """
import json, sys
for name in ("dassl", "yacs", "trainers", "datasets", "train"):
    sys.modules[name] = None  # importing it fails
import advpt, torch
from pathlib import Path
from PIL import Image
torch.set_num_threads(1)
images, attack, *folders = sys.argv[1:]
answers = {}
for folder in folders:
    model = advpt.load(folder)
    paths = [path for name in model.classnames for path in sorted(Path(images, name).iterdir())]
    pixels = torch.stack([model.preprocess(Image.open(path)) for path in paths])
    labels = torch.tensor([model.classnames.index(path.parent.name) for path in paths])
    attacked = advpt.attack(attack, model, pixels, labels)
    outcomes = [(model(each).argmax(1) == labels).tolist() for each in (pixels, attacked)]
    digests = [model.classifier.digest, model.backbone.image_digest, str(model.saved.trainer)]
    answers[folder] = [digests, outcomes, list(model(pixels).shape), list(model.classnames)]
print(json.dumps(answers))
"""
ATTACK = "pgd3-ce@2/none"  # from the images themselves: no random numbers
QUICK = ("OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "-1", "EVAL.ATTACKS", f"('{ATTACK}',)",
         "EVAL.PROTOCOLS", "('adaptive',)", "OPTIM.LR", "0.1")  # fmt: skip


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
def test_every_trainers_run_is_loaded_without_its_trainer_dassl_and_yacs(workspace):
    """With the same tensors, the same answers to its test images, and the same answers under an attack through it."""
    folders = {}
    for trainer in trainers():
        folders[trainer] = workspace.folder / trainer
        workspace.run(*settings(trainer), trainer=trainer, output=folders[trainer])
    assert len(folders) > 14
    images = workspace.folder / "data" / "tiny_photos" / "test"
    words = [sys.executable, "-c", LOAD, str(images), ATTACK, *map(str, folders.values())]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    for trainer, folder in folders.items():
        (written,) = [records.read(path) for path in (folder / "records").glob("*.json")]
        result, (digests, outcomes, shape, names) = written.result, loaded[str(folder)]
        assert digests == [result.prompt, result.backbone.image, trainer]
        assert outcomes[0] == result.clean.outcomes().tolist(), trainer
        assert outcomes[1] == result.robust.outcomes().tolist(), trainer
        assert shape == [12, 3] and names == ["red_fox", "owl", "sea"]
    assert sum(outcomes[0] != outcomes[1] for _, outcomes, _, _ in loaded.values()) > len(loaded) / 2


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


def test_a_run_in_a_robust_tower_is_loaded_in_that_tower_alone(workspace, tmp_path):
    """Where MODEL.IMAGE_WEIGHTS lies is named by the run's folder, or by who loads it where it has moved."""
    tower, again = workspace.folder / "tower", ("EVAL.PROTOCOLS", "('untuned','adaptive')")
    workspace.run(*QUICK, *again, "BANK.CHUNK", "64", trainer="TeCoA", output=tower)
    file = Path(shutil.copy(tower / "image_encoder" / "tower.safetensors", tmp_path / "tower.safetensors"))
    run = workspace.folder / "in_tower"
    workspace.run(*QUICK, "MODEL.IMAGE_WEIGHTS", str(file), trainer="CoOp", output=run)
    tuned, model = advpt.load(tower), advpt.load(run)
    assert model.backbone.image_digest == tuned.backbone.image_digest
    moved = file.rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(WeightsError, match="tuned with MODEL.IMAGE_WEIGHTS .*/tower.safetensors, and there is no"):
        advpt.load(run)
    assert advpt.load(run, image_weights=moved).classifier.digest == model.classifier.digest
    workspace.run(*QUICK, "EVAL.ATTACKS", "()", trainer="TeCoA", output=tower.with_name("other"), seed=2)
    with pytest.raises(WeightsError, match="was tuned on another CLIP: .* image tower"):
        advpt.load(run, image_weights=tower.with_name("other") / "image_encoder" / "tower.safetensors")
    # whoever has the tower as it was before: the same images as train.py's
    folder, banks = workspace.folder / "data" / "tiny_photos" / "test", tmp_path / "banks"
    made = advpt.evaluate(tuned, folder, attacks=[ATTACK], protocols=["untuned", "adaptive"], banks=banks)
    theirs = {path.name: records.read(path).result for path in (tower / "records").glob("*.json")}
    assert [each.result.protocol for each in made] == ["untuned", "adaptive"]
    order = [4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11]  # folders come by name, red_fox after owl
    for each in made:
        answers = theirs[f"{each.name}.json"].robust.outcomes()
        assert each.result.robust.outcomes().tolist() == answers[order].tolist()
    assert len({each.result.robust.bank for each in made}) == 2


@pytest.mark.parametrize("name", ["weights", "image_weights"])
def test_a_file_that_has_moved_is_named_with_the_argument_that_says_where(workspace, tmp_path, name):
    run = tmp_path / "run"
    workspace.run(*QUICK, "EVAL.ATTACKS", "()", trainer="CoOp", output=run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {f"MODEL.{name.upper()}": "somewhere/clip.pt"}))
    with pytest.raises(WeightsError, match=f"{name.upper()} somewhere/clip.pt, .*give its place as {name}=FILE"):
        advpt.load(run)
