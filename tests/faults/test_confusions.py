"""Right inputs in the wrong place: nothing is damaged, and what does not belong to the run is not taken for its own."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from injection import content, times
from PIL import Image
from small_world import TINY, World

from advpt.backbones.clip import build

NAMES = ("fox", "owl", "sea")
OWN = ("DATASET.NAME", "ImageFolder", "EVAL.ATTACKS", "('pgd1-fkl@8',)", "EVAL.PROTOCOLS", "('transfer',)",
       "OPTIM.MAX_EPOCH", "1", "BANK.ATTACK", "pgd1-fkl@4")  # fmt: skip
POSITIONS = ("end", "middle", "front")


def pictures(folder: Path, names: tuple[str, ...] = NAMES, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for part, n in (("train", 4), ("test", 3)):
        for name in names:
            for i in range(n):
                path = folder / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (18, 20, 3), dtype=np.uint8)).save(path)
    return folder


# --- data behind one path -------------------------------------------------------------------------------------------


def other_classes(data: Path, rng: random.Random) -> None:
    shutil.rmtree(data)
    names = rng.sample(["crow", "heron", "kite", "wren", *NAMES], rng.choice((3, 4)))
    pictures(data, tuple(names) if set(names) != set(NAMES) else ("crow", *NAMES), rng.randrange(99))


def other_images(data: Path, rng: random.Random) -> None:
    shutil.rmtree(data)
    pictures(data, seed=rng.randrange(100, 199))


def grown(data: Path, rng: random.Random) -> None:
    folder = data / rng.choice(("train", "test")) / rng.choice(NAMES)
    shutil.copy(folder / "0.png", folder / f"{rng.choice(('0a', '7', 'z'))}.png")


def shrunk(data: Path, rng: random.Random) -> None:
    (data / rng.choice(("train", "test")) / rng.choice(NAMES) / f"{rng.randrange(3)}.png").unlink()


def moved_between(data: Path, rng: random.Random) -> None:
    one, other = rng.sample(NAMES, 2)
    part = rng.choice(("train", "test"))
    shutil.move(data / part / one / "0.png", data / part / other / "from another class.png")


DATA = {"another data set": other_classes, "other images of the same names": other_images, "grown data": grown,
        "shrunk data": shrunk, "an image under another class": moved_between}  # fmt: skip


@pytest.mark.parametrize("kind", DATA)
def test_other_data_behind_the_same_path(world, tally, kind):
    data, kept = pictures(world.folder / "own"), world.folder / "kept"
    shutil.copytree(data, kept)
    flags = ("--root", str(data))
    world.run(*OWN, flags=flags)
    before, count, wrong = content(world.output, "records/*", "prompt_learner/*"), times(30), 0
    for i in range(count):
        DATA[kind](data, random.Random(i))
        code, printed = world.call(*OWN, flags=(*flags, *(("--skip-done",) if i % 2 else ())))
        refused = code == 2 and "holds a run on other data" in printed and "Traceback" not in printed
        wrong += not refused or content(world.output, "records/*", "prompt_learner/*") != before
        shutil.rmtree(data)
        shutil.copytree(kept, data)
    tally(f"confusion: {kind} behind the same path", count, wrong=wrong)
    assert "done already" in world.run(*OWN, flags=(*flags, "--skip-done")), "its own data go on"


# --- prompts of something else --------------------------------------------------------------------------------------


def other_layout(world: World, rng: random.Random) -> list[str]:
    tuned = rng.choice(POSITIONS)
    asked = rng.choice([position for position in POSITIONS if position != tuned])
    world.run("EVAL.ATTACKS", "()", "OPTIM.MAX_EPOCH", "1", "TRAINER.ADVPT.CLASS_TOKEN_POSITION", tuned)
    return ["TRAINER.ADVPT.CLASS_TOKEN_POSITION", asked]


def other_backbone(world: World, rng: random.Random) -> list[str]:
    world.run("EVAL.ATTACKS", "()", "OPTIM.MAX_EPOCH", "1")
    torch.manual_seed(rng.randrange(10**6))
    torch.save(build(TINY).state_dict(), world.folder / "other.pt")
    return ["MODEL.WEIGHTS", str(world.folder / "other.pt")]


def unknown_tensors(world: World, rng: random.Random) -> list[str]:
    world.run("EVAL.ATTACKS", "()", "OPTIM.MAX_EPOCH", "1")
    path = world.output / "prompt_learner" / "model.pth.tar-1"
    saved = torch.load(path, weights_only=True)
    for name in rng.sample(["proj.weight", "compound_prompts_text.0", "meta_net.linear1.bias", "VPT"], 2):
        saved["state_dict"][name] = torch.zeros(3)
    torch.save(saved, path)
    return []


PROMPTS: dict[str, tuple[Callable[[World, random.Random], list[str]], str]] = {
    "another layout": (other_layout, "another prompt"),
    "another CLIP": (other_backbone, "was tuned on another CLIP"),
    "tensors of another method": (unknown_tensors, "also holds"),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_of_something_else(world, tally, kind):
    confuse, words = PROMPTS[kind]
    count, wrong = times(20), 0
    for i in range(count):
        world.output = world.folder / f"tuned{i}"
        more = confuse(world, random.Random(i))
        target = world.folder / f"evaluated{i}"
        flags = ("--eval-only", "--model-dir", str(world.output))
        code, printed = world.call("EVAL.ATTACKS", "()", *more, flags=flags, output=target)
        wrong += code != 2 or words not in printed or (target / "records").exists()
    tally(f"confusion: prompts of {kind}", count, wrong=wrong)
