"""What tests of prompts share: odd class names, and CoOp's way through the text tower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advpt.backbones.card import TextCard
from advpt.backbones.tokenizers import Bpe

BPE = Bpe(TextCard())
tokenize, word_tokens = BPE.batch, BPE.pieces

ODD_NAMES = [
    "cat",
    "St. Bernard",
    "great_white_shark",
    "cat!",
    "Boeing 737-200",
    "7-Eleven's (red) <tag>",
    "naïve café",
]


def run_all_positions(model: Any, prompts: Tensor, tokens: Tensor) -> Tensor:
    """CoOp's TextEncoder: every position of every prompt through OpenAI's transformer."""
    x = prompts + model.positional_embedding
    x = model.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    x = model.ln_final(x)
    return x[torch.arange(x.shape[0]), tokens.argmax(dim=-1)] @ model.text_projection
