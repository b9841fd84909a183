"""Models of open_clip's classes: built of a card's configuration, filled with tensors that were read here.

open_clip gives the modules alone. Its loaders resample what does not fit and take random weights where there are none;
its tokenizers can run code of a repository. So files, configurations and texts are read by this project.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from advpt.backbones.backbone import Backbone
from advpt.backbones.card import JSON, Card
from advpt.backbones.extras import need
from advpt.backbones.tokenizers import Tokenizer
from advpt.backbones.undrawn import Undrawn
from advpt.errors import WeightsError

TEXT = ("token_embedding", "transformer", "ln_final", "positional_embedding", "text_projection")
POSITIONS = ("visual.positional_embedding", "visual.attnpool.positional_embedding", "visual.trunk.pos_embed")


def build(card: Card) -> nn.Module:
    """The model of a card's configuration, randomly initialised.

    Raises:
        WeightsError: the extra is not installed, or open_clip's classes refuse the configuration.
    """
    config = json.loads(card.config)
    classes = need("open_clip", card.name).model
    kind = classes.CustomTextCLIP if config.pop("custom_text", False) else classes.CLIP
    try:
        with torch.random.fork_rng(devices=[]):  # building draws random numbers
            return kind(**config)
    except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
        raise WeightsError(f"open_clip cannot build {card.name} of its configuration: {error}") from error


def load(
    card: Card,
    tensors: Mapping[str, Tensor],
    source: str,
    device: torch.device | str = "cpu",
    tokenizer: Tokenizer | None = None,
    facts: Mapping[str, JSON] | None = None,
) -> Backbone:
    """A backbone of these tensors; every one of them fits, and nothing is resampled.

    Args:
        tensors: by open_clip's names; those of the text tower may lack ``text.``, as in old files.
        source: their file, for messages.
        tokenizer: of its texts; None: OpenAI's.
        facts: where the tensors came from, for records.

    Raises:
        WeightsError: names that are missing or left over, another shape, or values that are not finite.
    """
    with Undrawn():
        model: Any = build(card)
    wanted = model.state_dict()
    if "token_embedding.weight" in tensors and "token_embedding.weight" not in wanted:
        tensors = {f"text.{k}" if k.split(".")[0] in TEXT else k: value for k, value in tensors.items()}
    lacking, more = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if lacking or more:
        raise WeightsError(
            f"{source} does not hold {card.name}: {len(lacking)} of {len(wanted)} tensors are missing"
            f"{f' (the first is {lacking[0]})' if lacking else ''}, {len(more)} are unknown"
            f"{f' (the first is {more[0]})' if more else ''}; name the architecture that they are of"
        )
    for name, value in wanted.items():
        require_tensor(card, name, tensors[name], value, source)
    model.load_state_dict(dict(tensors))
    return Backbone(card, model, device, tokenizer, facts)


def require_tensor(card: Card, name: str, given: Tensor, wanted: Tensor, source: str) -> None:
    """Refuse a tensor of another shape than ``wanted``, or with values that are not finite.

    Raises:
        WeightsError: with both shapes; of positions, with the size of images that they are for.
    """
    if given.shape != wanted.shape:
        why = "name the architecture that it is of"
        if name in POSITIONS and given.dim() == wanted.dim():
            rows, expected = (each.shape[-2] for each in (given, wanted))
            grid = math.isqrt(expected)
            side = card.image.size[0] // grid * math.isqrt(max(0, rows - expected + grid * grid))
            why = (
                f"the file is for images of {side} pixels, and {card.name} reads {card.image.size[0]}: positions are "
                "never resampled, so name the model of that size"
            )
        raise WeightsError(
            f"{source} does not hold {card.name}: {name} has shape {list(given.shape)}, expected {list(wanted.shape)}; "
            f"{why}"
        )
    if not bool(torch.isfinite(given).all()):
        raise WeightsError(f"{source} is damaged: {name} is not finite; compare its SHA-256 with its source's")
