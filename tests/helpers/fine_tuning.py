"""Worked examples of fine-tuning the image tower, of TAME and of the data sets' files (float64, six digits), and steps
of a trainer."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

from tests.helpers.tiny_clip import vectors

EXAMPLES = Path(__file__).with_name("fine_tuning.json")


def example(section: str, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs of a section, as tensors."""
    about = vectors(section, dtype, EXAMPLES)
    return about["inputs"], about["outputs"]


def take_steps(trainer: Any, steps: int) -> None:
    """So many steps of training, over as many epochs as they take."""
    trainer.set_model_mode("train")
    trainer.num_batches = len(trainer.train_loader_x)
    batches = itertools.chain.from_iterable(itertools.repeat(trainer.train_loader_x))
    for step, batch in enumerate(itertools.islice(batches, steps)):
        trainer.epoch, trainer.batch_idx = divmod(step, trainer.num_batches)
        trainer.forward_backward(batch)
