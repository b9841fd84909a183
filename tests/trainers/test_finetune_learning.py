"""That fine-tuning learns: on DemoCLIP, in a few steps, the robust loss of images that it was not trained on falls.

Methods are not ranked at this size. A new one is a line in ``METHODS``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.fine_tuning import take_steps
from trainers.finetune import EncoderTrainer

HELD_OUT = 64  # images under attack, of the test split
CLEAN = 400  # images for clean accuracy
FALL = 0.6  # of the loss before
SIXTEEN = ("DATALOADER.TRAIN_X.BATCH_SIZE", "16")
# Steps, and settings; the attack is the trainer's own objective in few and large steps.
METHODS = {
    "TeCoA": (14, ("TRAINER.TECOA.ATTACK", "pgd2-ce@8/a8", "OPTIM.LR", "4e-4", "DATALOADER.TRAIN_X.BATCH_SIZE", "16")),
    "FARE": (60, ("TRAINER.FARE.ATTACK", "pgd2-l2@8/a6", "OPTIM.LR", "15e-5", "DATALOADER.TRAIN_X.BATCH_SIZE", "12")),
    "PMGAFT": (10, ("TRAINER.PMGAFT.ATTACK", "pgd2-ce@8/a8", "OPTIM.LR", "4e-4", *SIXTEEN)),
    "TGAZSR": (28, ("TRAINER.TGAZSR.ATTACK", "pgd2-ce@8/a8", "OPTIM.LR", "2e-4", *SIXTEEN)),
}
KEEPS_CLEAN = {"FARE": 5}  # points that clean accuracy may lose


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first trainer writes the images that all read."""
    return tmp_path_factory.mktemp("data")


def make(data: Path, folder: Path, name: str, *more: str) -> EncoderTrainer:
    """The trainer as ``python train.py --trainer NAME`` has it."""
    from dassl.engine import build_trainer

    import train

    train.register_plugins()
    torch.manual_seed(0)
    words = ["--trainer", name, "--seed", "1", "--root", str(data), "--output-dir", str(folder / "run")]
    return build_trainer(train.setup_cfg(train.parse_args([*words, "VERBOSE", "False", *more])))


def pixels_of(trainer: EncoderTrainer, n: int) -> tuple[Tensor, Tensor]:
    images = trainer.image_set("test").first(n)
    (batch,) = images.batches(range(len(images)), n)
    return batch.pixels, batch.labels


def robust_loss(trainer: EncoderTrainer) -> float:
    trainer.set_model_mode("eval")
    return float(trainer.robust_loss(*pixels_of(trainer, HELD_OUT), seed=7).detach())


def clean_accuracy(trainer: EncoderTrainer) -> float:
    pixels, labels = pixels_of(trainer, CLEAN)
    with torch.no_grad():
        return 100 * float((trainer.logits(pixels).argmax(1) == labels).float().mean())


@pytest.mark.parametrize("method", METHODS)
def test_the_robust_loss_of_held_out_images_falls(data, tmp_path, method):
    steps, settings = METHODS[method]
    trainer = make(data, tmp_path, method, *settings)
    before, clean = robust_loss(trainer), clean_accuracy(trainer) if method in KEEPS_CLEAN else None
    take_steps(trainer, steps)
    assert robust_loss(trainer) < FALL * before
    assert clean is None or clean_accuracy(trainer) > clean - KEEPS_CLEAN[method]
