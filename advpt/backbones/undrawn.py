"""Building a model without drawing the random values of its parameters, whose tensors are loaded right after: drawing
them takes most of the time."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

MADE = ("rand", "randn")
FILLED = ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_")


class Undrawn(TorchFunctionMode):
    """Within the block random tensors keep whatever their memory holds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in MADE:
            kwargs.pop("generator", None)
            return torch.empty(*args, **kwargs)
        if name in FILLED:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
