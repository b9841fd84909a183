"""A world small enough for whole runs: a tiny CLIP in a file, a data set of generated pictures in CoOp's style."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from PIL import Image

from advpt.backbones.clip import Architecture, build

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import train  # noqa: E402

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


class World:
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


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.pt", TINY)


@pytest.fixture
def world(tmp_path, tiny_file) -> World:
    return World(tmp_path, tiny_file)


@pytest.fixture(autouse=True)
def _restore_streams():
    """Dassl's logger replaces sys.stdout; put it back after each test."""
    out, err = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = out, err
