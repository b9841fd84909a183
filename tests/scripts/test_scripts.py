"""scripts/advpt/main.sh on generated JPEGs and a small tower; and ImageNet's 1,000 to 200 classes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from advpt.checkpoints import load_checkpoint
from advpt.data import imagenet
from advpt.errors import ConfigError
from advpt.evaluation import record as records
from advpt.files import file_digest
from tests.helpers.hub import COMMIT, hub_repository
from tests.helpers.open_clip import VIT, changed, write_folder
from tests.helpers.script_calls import plan_of, run_here, value
from tests.helpers.waiting import wait_for
from tests.helpers.workspace import ROOT, Workspace, write_jpeg

TINY = ("MODEL.BACKBONE.NAME", "tiny", "MODEL.ACTIVATION", "quickgelu", "INPUT.SIZE", "(16, 16)")


def main_sh(folder: Path, weights: Path | str, *more: str, seeds: str = "1 2", start=None, more_env=None,
            backbone: str = "vit_b16", model: tuple[str, ...] = TINY, **how):  # fmt: skip
    """What the script printed, and its status; with ``start``, which is subprocess.run or subprocess.Popen, in
    processes of its own."""
    env = {
        "SEEDS": seeds, "DATA": str(folder / "data"), "OUTPUT": str(folder / "out"), "WEIGHTS": str(weights),
        "JOBS": "1", **(more_env or {}),
    }  # fmt: skip
    words = [*model, "BANK.DIR", str(folder / "banks"),
             "DATALOADER.NUM_WORKERS", "0", "OPTIM.MAX_EPOCH", "2", "BANK.ATTACK", "pgd2-fkl@8",
             "TRAINER.ADVPT.N_CTX", "4", "DATALOADER.TRAIN_X.BATCH_SIZE", "4",
             "EVAL.ATTACKS", "('pgd2-fkl@16',)"]  # fmt: skip
    if start is None:
        return run_here(folder, "advpt/main.sh", "image_folder", backbone, *words, *more, **env)
    script = ["bash", str(ROOT / "scripts/advpt/main.sh"), "image_folder", backbone, *words, *more]
    path = os.pathsep.join(p for p in sys.path if p)
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | env
    return start(script, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)


@pytest.mark.parametrize("trainer", ("AdvPT", "CoOp", "AdvIVLP"))
def test_main_finds_a_robust_model_of_the_hub_by_its_short_name(folder, tmp_path, trainer):
    """A cache made by hand in the place of the hub's, with a small network of FARE's kind; no network."""
    pytest.importorskip("open_clip")
    config = changed(VIT, quick_gelu="TRUE", vision={"image_size": 16, "width": 64, "layers": 2})
    made = write_folder(tmp_path / "made", config)
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    hub_repository(tmp_path / "cache", "chs20/fare2-clip", files)
    env = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "TRAINER": trainer}
    depths = ("TRAINER.ADVIVLP.DEPTH_TEXT", "2", "TRAINER.ADVIVLP.DEPTH_VISION", "2")
    done = main_sh(folder, "", *depths, start=subprocess.run, backbone="fare2_l14", model=(), seeds="1", more_env=env)
    assert done.returncode == 0, done.stdout
    run = folder / f"out/image_folder/{trainer}/fare2_l14_allshots/seed1"
    result = records.read(next((run / "records").glob("*robust*.json"), next((run / "records").glob("*.json")))).result
    assert result.backbone.name == "hf-hub:chs20/fare2-clip" and result.backbone.reads is not None
    assert result.backbone.source == {
        "kind": "hf-hub", "repository": "chs20/fare2-clip", "revision": COMMIT, "file": "open_clip_model.safetensors",
        "sha256": file_digest(made / "open_clip_model.safetensors"),
    }  # fmt: skip
    assert result.config["INPUT.SIZE"] == [16, 16] and result.config["INPUT.INTERPOLATION"] == "bicubic"
    assert "open_clip" in records.read(next((run / "records").glob("*.json"))).observed.versions


def test_main_continues_after_a_kill_says_done_and_refuses_another_configuration(folder, tiny_file):
    first = folder / "out/image_folder/AdvPT/vit_b16_allshots/seed1/done.json"
    running = main_sh(folder, tiny_file, start=subprocess.Popen, start_new_session=True)
    wait_for(first.is_file, 300)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert first.is_file()

    again = main_sh(folder, tiny_file)
    assert again.returncode == 0, again.stdout
    assert "done already  image_folder/AdvPT/vit_b16_allshots/seed1\n" in again.stdout
    assert again.stdout.count("done already") == 1
    assert "1,2" in again.stdout and "ImageFolder, test split, 6 images, tiny" in again.stdout

    finished = main_sh(folder, tiny_file)
    assert finished.returncode == 0 and finished.stdout.count("done already") == 2

    other = main_sh(folder, tiny_file, "OPTIM.LR", "0.5", seeds="1")
    assert other.returncode != 0 and "OPTIM.LR: the folder has 0.005, this run 0.5" in other.stdout

    together = {"TOGETHER": "1"}
    more = main_sh(folder, tiny_file, seeds="1 2 3", more_env=together)
    assert more.returncode == 0 and "done already" not in more.stdout and "| 1,2,3 " in more.stdout, more.stdout
    assert records.read(next((first.parents[1] / "seed3/records").glob("*.json"))).result.seed == 3
    assert "done already" in main_sh(folder, tiny_file, seeds="1 2 3", more_env=together).stdout


def test_two_sets_of_ones_own_have_tables_of_their_own(folder, tiny_file):
    (folder / "data" / "image_folder").rename(folder / "animals")
    for split, n in (("train", 3), ("test", 3)):
        for label, name in enumerate(("crow", "heron")):
            for i in range(n):
                write_jpeg(folder / "birds" / split / name / f"{i}.jpg", 100 * label + i + n)
    for name, images in (("animals", 6), ("birds", 6)):
        env = {"DATA": str(folder / name)}
        made = main_sh(folder, tiny_file, seeds="1", more_env=env)
        assert made.returncode == 0 and f"done      {name}/AdvPT" in made.stdout, made.stdout
        assert f"{name}, test split, {images} images, tiny" in made.stdout and "done already" not in made.stdout
        assert "done already" in main_sh(folder, tiny_file, seeds="1", more_env=env).stdout
    named = main_sh(folder, tiny_file, seeds="1", more_env={"DATA": str(folder / "birds"), "NAME": "animals"})
    assert named.returncode != 0 and "done already" not in named.stdout, named.stdout
    assert "it has 3 classes (fox, owl, sea), this run 2 (crow, heron)" in named.stdout


def test_missing_things_stop_main_at_once_with_the_command_that_gets_them(folder, tiny_file):
    nothing = main_sh(folder, folder / "nowhere.pt", seeds="1")
    assert nothing.returncode != 0 and "no such file" in nothing.stdout
    unknown = run_here(folder, "advpt/main.sh", "petz", "vit_b16")
    assert unknown.returncode == 2 and "there is no configs/datasets/petz.yaml" in unknown.stdout


@pytest.mark.parametrize("script", ("main", "base_to_new"))
def test_a_model_without_a_short_name_takes_the_recipe_of_another(tmp_path, script):
    name = "hf-hub:chs20/tecoa2-clip"
    with pytest.raises(ConfigError, match=rf"{script} digits laion_b16 MODEL.BACKBONE.NAME {name}$"):
        plan_of(tmp_path, f"advpt/{script}.sh", "digits", name)
    made, _ = plan_of(tmp_path / "more", f"advpt/{script}.sh", "digits", "laion_b16", "MODEL.BACKBONE.NAME", name)
    assert value(made[0], "MODEL.BACKBONE.NAME") == name


@pytest.mark.filterwarnings("ignore:.*not comparable")
@pytest.mark.parametrize(("name", "place"), [("ImageNetA", "imagenet-adversarial/imagenet-a"),
                                             ("ImageNetR", "imagenet-rendition/imagenet-r")])  # fmt: skip
def test_a_prompt_of_a_thousand_classes_is_evaluated_over_two_hundred(tmp_path, tiny_file, name, place):
    workspace = Workspace(tmp_path, tiny_file)
    wnids = list(imagenet.shipped_names())
    for k, wnid in enumerate(wnids):
        write_jpeg(workspace.folder / "data/imagenet/images/train" / wnid / f"{wnid}_0.JPEG", k)
        write_jpeg(workspace.folder / "data/imagenet/images/val" / wnid / f"ILSVRC2012_val_{k:08d}.JPEG", k)
    for wnid in wnids[::5]:
        write_jpeg(workspace.folder / "data" / place / wnid / "0.jpg", int(wnid[1:]))
    quick = ("OPTIM.MAX_EPOCH", "1", "BANK.ATTACK", "pgd1-fkl@4", "EVAL.ATTACKS", "('pgd1-fkl@8',)", "BANK.LIMIT", "50",
             "EVAL.SUBSET", "20", "DATALOADER.TRAIN_X.BATCH_SIZE", "25", "BANK.CHUNK", "64")  # fmt: skip
    workspace.run("DATASET.NAME", "ImageNet", "DATASET.TEST_SUBSET", "paper1000", *quick)
    flags = ("--eval-only", "--model-dir", str(workspace.output))
    workspace.run("DATASET.NAME", name, "BANK.DIR", str(tmp_path / "b"), *quick, flags=flags, output=tmp_path / "shift")
    (path,) = (tmp_path / "shift" / "records").glob("*transfer*.json")
    found = records.read(path).result.to_json()
    (own,) = (workspace.output / "records").glob("*transfer*.json")
    assert found["dataset"] == name and found["clean"]["n"] == 20
    assert records.read(own).result.dataset == "ImageNet"
    assert found["prompt"] != records.read(own).result.prompt, "200 features, not 1,000"


@pytest.mark.parametrize(
    ("backbone", "dataset", "config"),
    (
        ("vit_b16", "imagenet", "vit_b16_imagenet"),
        ("vit_b16_ep3_ctxv1", "imagenet", "vit_b16_imagenet_ep3_ctxv1"),
        ("vit_b16_imagenet_released", "imagenet", "vit_b16_imagenet_released"),
        ("vit_b16_imagenet_ep3", "imagenet", "vit_b16_imagenet_ep3"),
        ("vit_b16_ep3", "dtd", "vit_b16_ep3"),
        ("nothing_ep3", "dtd", "nothing_ep3"),
    ),
)
def test_a_composed_name_keeps_the_recipe_of_its_data_set(tmp_path, backbone, dataset, config):
    (words,), _ = plan_of(tmp_path, "advpt/main.sh", dataset, backbone, SEEDS="1")
    assert value(words, "--config-file") == str(ROOT / f"configs/trainers/AdvPT/{config}.yaml")
    assert value(words, "--output-dir").endswith(f"/{config}_allshots/seed1")


NAMES = {"ctx", *(f"meta_net.linear{i}.{part}" for i in (1, 2) for part in ("weight", "bias"))}


def state_of(run: Path) -> dict:
    return load_checkpoint(run / "prompt_learner" / "model.pth.tar-2")["state_dict"]


def test_base_to_new(folder, tiny_file):
    """The script, with prompts of base classes on classes that they were not tuned on."""
    env = {
        "SEEDS": "1", "SHOTS": "2", "DATA": str(folder / "data"), "TRAINER": "CoCoOp", "OUTPUT": str(folder / "out")
    }  # fmt: skip
    words = ["MODEL.WEIGHTS", str(tiny_file), "MODEL.ACTIVATION", "quickgelu", "MODEL.BACKBONE.NAME", "tiny",
             "INPUT.SIZE", "(16, 16)", "BANK.DIR", str(folder / "banks"), "DATALOADER.NUM_WORKERS", "0",
             "OPTIM.MAX_EPOCH", "2", "EVAL.ATTACKS", "('pgd2-ce@8',)",
             "EVAL.PROTOCOLS", "('transfer','adaptive')"]  # fmt: skip
    done = run_here(folder, "advpt/base_to_new.sh", "image_folder", "vit_b16", *words, **env)
    assert done.returncode == 0, done.stdout
    assert "base classes" in done.stdout and "new classes" in done.stdout
    top = folder / "out" / "image_folder" / "CoCoOp" / "vit_b16_2shots"
    for part, classes in (("base", 2), ("new", 1)):
        kept = [records.read(p).result.to_json() for p in sorted((top / part / "seed1" / "records").glob("*.json"))]
        assert {r["protocol"] for r in kept} == {"transfer", "adaptive"}
        assert {r["clean"]["n"] for r in kept} == {2 * classes} and {r["trainer"] for r in kept} == {"CoCoOp"}
    assert set(state_of(top / "base" / "seed1")) == NAMES
