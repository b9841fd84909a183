"""Running averages."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch


class AverageMeter:
    """Last value, sum, count and average.

    Args:
        ema: average with weight 0.9 on the past, starting from 0, in place of the plain mean.
    """

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        self.val = 0.0
        self.avg = 0.0
        self.sum = 0.0
        self.count = 0

    def update(self, val: Any, n: int = 1) -> None:
        """Add ``n`` samples whose mean is ``val`` (a number or a one-element tensor)."""
        if isinstance(val, torch.Tensor):
            val = val.item()
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * val if self.ema else self.sum / self.count


class MetricMeter:
    """A row of meters that prints as ``name value (average)``."""

    def __init__(self, delimiter: str = " ") -> None:
        self.meters: defaultdict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: Mapping[str, Any] | None) -> None:
        """Update each named meter. None is ignored; TypeError for anything else than a dict."""
        if input_dict is None:
            return
        if not isinstance(input_dict, dict):
            raise TypeError(
                f"the losses of a step must come as a dict of name to number, got {type(input_dict).__name__}"
            )
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())
