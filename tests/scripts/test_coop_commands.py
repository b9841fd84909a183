"""CoOp's documented commands, with CoOp's names of configurations, on a small Pets tree."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dassl.config import get_cfg_default
from PIL import Image

from advpt.errors import ConfigError
from advpt.evaluation import record as records
from advpt.settings import extend_cfg, leaves, merge_yaml
from tests.helpers.workspace import ROOT, Workspace

BREEDS = ("abyssinian", "beagle", "chihuahua", "pug")
RESULT = ["=> result", "* total: 12", "* correct: ", "* accuracy: ", "* error: ", "* macro_f1: "]
# Instead of a CLIP of 102 M parameters and 224 pixels, and of half precision on a CPU.
SMALL = ("MODEL.BACKBONE.NAME", "tiny", "INPUT.SIZE", "(16, 16)", "TRAINER.COOP.PREC", "fp32", "VERBOSE", "False",
         "DATALOADER.NUM_WORKERS", "0", "EVAL.ATTACKS", "('pgd1-fkl@8',)")  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A root with Oxford Pets as CoOp lays it out: images, and a split file; four breeds."""
    rng, split, parts = (
        np.random.default_rng(0),
        {},
        (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 11))),
    )
    images = tmp_path / "data" / "oxford_pets" / "images"
    images.mkdir(parents=True)
    for part, numbers in parts:
        split[part] = []
        for label, breed in enumerate(BREEDS):
            for i in numbers:
                pixels = rng.integers(0, 120, (18, 20, 3)) + 30 * label
                Image.fromarray(pixels.astype(np.uint8)).save(images / f"{breed}_{i}.jpg")
                split[part].append([f"{breed}_{i}.jpg", label, breed])
    (images.parent / "split_zhou_OxfordPets.json").write_text(json.dumps(split))
    return tmp_path


def script(pets: Path, weights: Path, name: str, *words: str, **env: str) -> str:
    """What a script prints: its calls of ``train.py`` are made in this process, which is faster than in their own."""
    calls, python = pets / "calls", pets / "python"
    calls.write_text("")
    python.write_text(f'#!/usr/bin/env bash\nprintf "%s\\t" "$@" >> {calls}; echo >> {calls}\n')
    python.chmod(0o755)
    given = os.environ | {"PYTHON": str(python), "DATA": str(pets / "data"), "OUTPUT": str(pets / "output")} | env
    more = [*SMALL, "MODEL.WEIGHTS", str(weights), "MODEL.ACTIVATION", "quickgelu", "BANK.DIR", str(pets / "banks")]
    command = ["bash", str(ROOT / "scripts" / name), *words, *more]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = []
    for line in calls.read_text().splitlines():
        program, *argv = line.rstrip("\t").split("\t")
        assert program == "train.py"
        with contextlib.chdir(ROOT):
            code, said = Workspace.call_words(None, argv)
        assert code == 0, said
        printed.append(said)
    return "".join(printed)


def result_lines(printed: str) -> list[str]:
    """The lines that Dassl's evaluator prints, of the last result."""
    lines = printed.splitlines()
    at = max(i for i, line in enumerate(lines) if line == "=> result")
    return lines[at : at + 6]


def check_result(printed: str, total: int = 12) -> list[str]:
    found = result_lines(printed)
    assert all(line.startswith(start) for line, start in zip(found, [*RESULT[:1], f"* total: {total}", *RESULT[2:]]))
    assert re.fullmatch(r"\* accuracy: \d+\.\d%", found[3]), found
    return found


def test_main_and_eval_and_zero_shot(pets, tiny_file):
    """``rn50_ep50 end 4 1 False``: 50 epochs, 4 context vectors, 1 shot; CoOp's folders and result lines."""
    words = ("coop/main.sh", "oxford_pets", "rn50_ep50", "end", "4", "1", "False")
    printed = script(pets, tiny_file, *words, SEEDS="1")
    run = "CoOp/rn50_ep50_1shots/nctx4_cscFalse_ctpend"
    folder = pets / "output/oxford_pets" / run / "seed1"
    assert "epoch [50/50]" in printed and "Creating a 1-shot dataset" in printed
    assert (folder / "prompt_learner/model.pth.tar-50").is_file()
    log = (folder / "log.txt").read_text().splitlines()
    assert "Finish training" in log and log.index("Finish training") < log.index("=> result")
    tuned = check_result(printed)
    config = records.read(next((folder / "records").glob("*.json"))).result.config
    assert (config["OPTIM.MAX_EPOCH"], config["TRAINER.COOP.N_CTX"], config["DATASET.NUM_SHOTS"]) == (50, 4, 1)
    assert "done already" in script(pets, tiny_file, *words, SEEDS="1")

    env = {"SEEDS": "1", "SOURCE": "oxford_pets", "SHOTS": "1", "NCTX": "4"}
    printed = script(pets, tiny_file, "coop/eval.sh", "oxford_pets", "rn50_ep50", **env)
    assert check_result(printed) == tuned and "epoch [1/" not in printed
    assert (pets / "output/evaluation" / run / "oxford_pets/seed1/records").is_dir()

    printed = script(pets, tiny_file, "zsclip/zeroshot.sh", "oxford_pets", "vit_b16_ep50")
    check_result(printed)
    assert (pets / "output/ZeroshotCLIP/vit_b16_ep50/oxford_pets/records").is_dir()


@pytest.mark.parametrize("trainer", ["CoCoOp", "CoOp"])
def test_base_to_new(pets, tiny_file, trainer):
    more = ("oxford_pets", "1", "OPTIM.MAX_EPOCH", "1", "TRAINER.COCOOP.PREC", "fp32")
    env = {"SHOTS": "2"} | ({"TRAINER": trainer} if trainer == "CoOp" else {})  # CoCoOp is the scripts' own
    base = check_result(script(pets, tiny_file, "cocoop/base2new_train.sh", *more, **env), total=6)
    printed = script(pets, tiny_file, "cocoop/base2new_test.sh", *more, **env)
    check_result(printed, total=6)
    assert "SUBSAMPLE NEW CLASSES!" in printed
    assert check_result(script(pets, tiny_file, "cocoop/base2new_test.sh", *more, **env, SUB="base"), total=6) == base
    path = f"output/base2new/test_new/oxford_pets/shots_2/{trainer}/vit_b16_c4_ep10_batch1_ctxv1/seed1/records"
    config = records.read(next((pets / path).glob("*.json"))).result.config
    assert config["DATALOADER.TRAIN_X.BATCH_SIZE"] == 1 and config["OPTIM.MAX_EPOCH"] == 1
    about = json.loads(next(pets.glob(f"output/base2new/train_base/**/{trainer}/**/prompt.json")).read_text())
    assert about["n_ctx"] == 4 and about["prompt"]["ctx_init"] == "a photo of a" and about["trainer"] == trainer


@pytest.mark.parametrize(
    "name",
    ["coop/main.sh", "coop/eval.sh", "zsclip/zeroshot.sh", "cocoop/base2new_train.sh", "cocoop/base2new_test.sh"],
)
def test_without_words_a_script_says_what_it_takes(name):
    done = subprocess.run(["bash", str(ROOT / "scripts" / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"bash scripts/{name} DATASET" in done.stdout


def test_the_folder_keeps_the_composed_name_and_val_is_the_validation_split(pets, tiny_file, monkeypatch):
    monkeypatch.chdir(pets)
    words = ["--root", str(pets / "data"), "--seed", "1", "--trainer", "CoOp",
             "--dataset-config-file", str(ROOT / "configs/datasets/oxford_pets.yaml"),
             "--config-file", str(ROOT / "configs/trainers/CoOp/rn50_ep2_val.yaml"), *SMALL,
             "DATASET.NUM_SHOTS", "1", "MODEL.WEIGHTS", str(tiny_file),
             "MODEL.ACTIVATION", "quickgelu", "BANK.DIR", str(pets / "banks")]  # fmt: skip
    code, printed = Workspace.call_words(None, words)
    assert code == 0 and "Evaluate on the *val* set" in printed, printed
    check_result(printed, total=4)  # one of each class
    assert (pets / "output/oxfordpets/CoOp/rn50_ep2_val_1shots/nctx16_cscFalse_ctpend/seed1/done.json").is_file()


def resolved(trainer: str, name: str) -> dict[str, object]:
    cfg = get_cfg_default()
    extend_cfg(cfg)
    merge_yaml(cfg, ROOT / "configs/trainers" / trainer / f"{name}.yaml")
    return dict(leaves(cfg))


@pytest.mark.parametrize("backbone", ["rn50", "rn101", "vit_b16", "vit_b32"])
@pytest.mark.parametrize(
    ("parts", "differ"),
    [
        ("ep50", {"OPTIM.MAX_EPOCH": 50}),
        ("ep100", {"OPTIM.MAX_EPOCH": 100}),
        ("ctxv1", {"TRAINER.COOP.CTX_INIT": "a photo of a"}),
        ("ep50_ctxv1", {"OPTIM.MAX_EPOCH": 50, "TRAINER.COOP.CTX_INIT": "a photo of a"}),
        ("ep100_ctxv1", {"OPTIM.MAX_EPOCH": 100, "TRAINER.COOP.CTX_INIT": "a photo of a"}),
        ("val", {"TEST.SPLIT": "val"}),
        ("c4_ep10_batch1", {"TRAINER.COOP.N_CTX": 4, "OPTIM.MAX_EPOCH": 10, "DATALOADER.TRAIN_X.BATCH_SIZE": 1}),
    ],
)
def test_a_composed_name_differs_from_its_backbones_file_in_what_it_says(backbone, parts, differ):
    plain, composed = resolved("CoOp", backbone), resolved("CoOp", f"{backbone}_{parts}")
    assert {name: value for name, value in composed.items() if plain[name] != value} == differ
    assert not (ROOT / f"configs/trainers/CoOp/{backbone}_{parts}.yaml").exists()


def test_every_trainer_has_composed_names_and_the_longest_file_is_their_base():
    assert resolved("AdvPT", "vit_b16_ctxv1")["TRAINER.ADVPT.CTX_INIT"] == "a photo of a"
    assert resolved("CAPT", "vit_b32_c4_ep7")["TRAINER.CAPT.N_CTX"] == 4
    imagenet = resolved("CoOp", "rn50_imagenet_ep50")
    assert imagenet["DATALOADER.TRAIN_X.BATCH_SIZE"] == 512 and imagenet["OPTIM.MAX_EPOCH"] == 50


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "rn50_eq50",
            "no configuration file at .*rn50_eq50.yaml; there are .*democlip, .*rn101, .* also with _ep50, _batch4",
        ),
        ("rn50_ep0", "no configuration file at .*rn50_ep0.yaml"),
        ("rn51_ep50", "no configuration file at .*rn51_ep50.yaml"),
        ("ep50", "no configuration file at .*ep50.yaml"),
    ],
)
def test_a_name_that_is_made_of_nothing_known_is_refused(name, says):
    with pytest.raises(ConfigError, match=says):
        resolved("CoOp", name)
    with pytest.raises(ConfigError, match="TRAINER.ZEROSHOTCLIP.CTX_INIT: no such key"):
        resolved("ZeroshotCLIP", "rn50_ctxv1")
