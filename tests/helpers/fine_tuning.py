"""Worked examples of fine-tuning the image tower, of TAME and of the data sets' files: float64, six digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.helpers.tiny_clip import vectors

EXAMPLES = Path(__file__).with_name("fine_tuning.json")


def example(section: str, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs of a section, as tensors."""
    about = vectors(section, dtype, EXAMPLES)
    return about["inputs"], about["outputs"]
