"""Whole runs in a folder of their own: a tiny CLIP in a file, a data set of generated pictures in CoOp's style."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import torch
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from PIL import Image

import train
from advpt.backbones.clip import Architecture, build
from advpt.checkpoints import load_checkpoint
from advpt.evaluation import record as records
from advpt.files import tensor_digest

ROOT = Path(__file__).resolve().parents[2]
TINY = Architecture(32, 16, 1, 64, 8, 77, 49408, 64, 1)
NAMES = ("red_fox", "owl", "sea")


class TinyPhotos(DatasetBase):
    """Written as CoOp's dataset files are: few-shot sampling and class subsampling included."""

    dataset_dir = "tiny_photos"

    def __init__(self, cfg):
        root = Path(cfg.DATASET.ROOT).absolute() / self.dataset_dir

        def read(split):
            found = []
            for label, name in enumerate(NAMES):
                for path in sorted((root / split / name).glob("*.png")):
                    found.append(Datum(impath=str(path), label=label, classname=name))
            return found

        from datasets.oxford_pets import OxfordPets

        train_x, val, test = read("train"), read("val"), read("test")
        if cfg.DATASET.NUM_SHOTS >= 1:
            train_x = self.generate_fewshot_dataset(train_x, num_shots=cfg.DATASET.NUM_SHOTS)
        chosen = cfg.DATASET.SUBSAMPLE_CLASSES
        train_x, val, test = OxfordPets.subsample_classes(train_x, val, test, subsample=chosen)
        super().__init__(train_x=train_x, val=val, test=test)


if "TinyPhotos" not in DATASET_REGISTRY.registered_names():
    DATASET_REGISTRY.register(TinyPhotos)

YAML = """
MODEL: {BACKBONE: {NAME: "tiny"}}
INPUT: {SIZE: [16, 16], INTERPOLATION: "bicubic", TRANSFORMS: ["random_resized_crop", "normalize"],
        PIXEL_MEAN: [0.48145466, 0.4578275, 0.40821073], PIXEL_STD: [0.26862954, 0.26130258, 0.27577711]}
DATALOADER: {NUM_WORKERS: 0, TRAIN_X: {BATCH_SIZE: 4}, TEST: {BATCH_SIZE: 5}}
OPTIM: {NAME: "sgd", LR: 0.01, MAX_EPOCH: 3, LR_SCHEDULER: "cosine", WARMUP_EPOCH: 1, WARMUP_TYPE: "constant"}
TRAIN: {CHECKPOINT_FREQ: 1}
TRAINER: {ADVPT: {N_CTX: 4}, COOP: {N_CTX: 4, PREC: "fp32"}}
BANK: {ATTACK: "pgd2-fkl@4", CHUNK: 4}
EVAL: {ATTACKS: ["pgd2-fkl@8", "pgd2-ce@8"], PROTOCOLS: ["transfer", "adaptive"]}
"""


class Workspace:
    """Runs ``train.py`` in this process, in its own folder."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder, self.weights = folder, weights
        self.output = folder / "run"
        (folder / "tiny.yaml").write_text(YAML)
        (folder / "set.yaml").write_text('DATASET: {NAME: "TinyPhotos"}\n')
        rng = np.random.default_rng(0)
        for split, n in (("train", 5), ("val", 2), ("test", 4)):
            for label, name in enumerate(NAMES):
                for i in range(n):
                    path = folder / "data" / "tiny_photos" / split / name / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pixels = rng.integers(0, 120, (18, 20, 3)) + 60 * np.eye(3, dtype=int)[label]
                    Image.fromarray(pixels.astype(np.uint8)).save(path)

    def argv(
        self, *more: str, trainer: str = "AdvPT", output: Path | None = None, seed: int = 1, flags=()
    ) -> list[str]:
        return [
            "--root", str(self.folder / "data"), "--seed", str(seed), "--trainer", trainer,
            "--dataset-config-file", str(self.folder / "set.yaml"), "--config-file", str(self.folder / "tiny.yaml"),
            "--output-dir", str(output or self.output), *flags, "VERBOSE", "False",
            "MODEL.WEIGHTS", str(self.weights), "MODEL.ACTIVATION", "quickgelu",
            "BANK.DIR", str(self.folder / "banks"), *more,
        ]  # fmt: skip

    def run(self, *more: str, **how) -> str:
        """What ``train.py`` prints; fails the test when it does not exit with 0."""
        code, printed = self.call(*more, **how)
        assert code == 0, printed
        return printed

    def call(self, *more: str, **how) -> tuple[int, str]:
        return self.call_words(self.argv(*more, **how))

    def call_words(self, words: list[str]) -> tuple[int, str]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = train.main(words)
        return code, out.getvalue()


def write_weights(path: Path, architecture: Architecture) -> Path:
    """A file with random weights, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(build(architecture).state_dict(), path)
    return path


def results(folder: Path) -> dict[str, dict]:
    return {path.name: records.read(path).result.to_json() for path in sorted((folder / "records").glob("*.json"))}


def parse_as_coop(log: Path, keyword: str, gate: str = "Finish training") -> float:
    """CoOp's parse_test_res.py in four lines: the last match after the gate line."""
    value, open_gate = None, False
    for line in log.read_text().splitlines():
        open_gate = open_gate or line == gate
        if open_gate and (found := re.search(rf"\* {keyword}: ([\.\deE+-]+)%", line)):
            value = float(found[1])
    assert value is not None
    return value


def folders(where: Path, names: tuple[str, ...], parts: dict[str, int]) -> Path:
    """A data set of one's own: so many pictures of every class in every part."""
    rng = np.random.default_rng(0)
    for part, n in parts.items():
        for label, name in enumerate(names):
            for i in range(n):
                path = where / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 120, (18, 20, 3)) + 60 * np.eye(3, dtype=int)[label % 3]
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return where


def own_data(workspace, names=("red fox", "owl", "sea"), **parts) -> list[str]:
    """The command line of a run on such a set; by default 5 training and 4 test pictures a class."""
    where = folders(workspace.folder / "own", names, parts or {"train": 5, "test": 4})
    (workspace.folder / "own.yaml").write_text('DATASET: {NAME: "ImageFolder"}\n')
    return ["--root", str(where), "--dataset-config-file", str(workspace.folder / "own.yaml")]


def learned(folder: Path, last: int) -> dict[str, object]:
    """What counts of a run: parameters, optimizer and schedule after the last epoch, and the result of each record."""
    saved = load_checkpoint(folder / "prompt_learner" / f"model.pth.tar-{last}")
    states = saved["optimizer"]["state"]
    momentum = {str(k): v["momentum_buffer"] for k, v in states.items()}
    return {
        "parameters": tensor_digest(saved["state_dict"]),
        "optimizer": tensor_digest(momentum),
        "rates": [group["lr"] for group in saved["optimizer"]["param_groups"]],
        "schedule": saved["scheduler"]["last_epoch"],
        "records": {p.name: records.read(p).id for p in sorted((folder / "records").glob("*.json"))},
    }


def write_jpeg(path: Path, seed: int) -> None:
    """A random photograph of 22 x 18 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (18, 22, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG")


def context(folder: Path, epoch: int = 3) -> torch.Tensor:
    return load_checkpoint(folder / "prompt_learner" / f"model.pth.tar-{epoch}")["state_dict"]["ctx"]


# --- what nothing reads, what cannot be told apart, what is chosen on ------------------------------------------------


def first(folder: Path) -> dict:
    return next(iter(results(folder).values()))
