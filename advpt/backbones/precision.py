"""The arithmetic of the frozen encoders: float32, TF32 or bfloat16. Pixels, prompts and losses are always float32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def half_precision(precision: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 for ``amp``, nothing for ``fp32``. ``fp16`` is the name in CoOp's configurations: bfloat16
    on CUDA devices that have it, float32 elsewhere, as float16 loses small gradients."""
    cuda = device.type == "cuda"
    able = torch.cuda.is_bf16_supported() if cuda else precision == "amp"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision in ("amp", "fp16") and able)


def in_precision(encode: Callable[[Tensor], Tensor], precision: str) -> Callable[[Tensor], Tensor]:
    """An encoder that computes in ``precision`` and gives float32; differentiable. ``tf32`` needs :func:`tf32` too.
    ``PRECISION+compiled`` uses ``torch.compile``: rounding differs, so it is another precision."""
    kind, _, compiled = precision.partition("+")
    if precision in ("fp32", "tf32"):
        return encode
    fast: list[Callable[[Tensor], Tensor]] = (
        [] if compiled else [encode]
    )  # compiled where it is used; a compiled function cannot be pickled

    def encoded(x: Tensor) -> Tensor:
        if not fast:
            fast.append(torch.compile(encode))
        with half_precision(kind, x.device):  # the device of a cluster's worker may be another than the driver's
            return fast[0](x).float()

    return encoded


@contextlib.contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Let CUDA multiply float32 matrices in TF32 (10 bits of mantissa) within the block; elsewhere without effect.

    The switch is the process's, forward and backward: put the block around all threads that take part.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
