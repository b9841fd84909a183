"""Linear layers of frozen float32 towers on a CPU: the faster one of PyTorch's two matrix libraries.

On AMD's processors MKL, which PyTorch multiplies with, reaches half of the rate of oneDNN, which PyTorch has for
convolutions. MKL adds up blocks of :data:`BLOCK` terms; with the same blocks oneDNN gives the same last bits. Where it
does not (other processors, where it is no faster either), PyTorch's own product is taken.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 192  # terms of a sum
AT_ONCE = 2**20  # numbers of an output that is added up, so that it stays in the processor's cache
RESTS = (0, 128)  # terms that may be left over; MKL shares out fewer in another way
ROWS = 256  # with fewer there is nothing to gain


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear(x, weight, bias)``, the same bits; differentiable in ``x``, and in the rest where it requires it."""
    if torch.compiler.is_compiling() or x.numel() < ROWS * x.shape[-1] or not _suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As :func:`linear`, but for the last bits; for any number of rows."""
    return _FastLinear.apply(x, weight, bias) if _suits_onednn(x, weight) else F.linear(x, weight, bias)


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether this is a product of a frozen float32 layer on a processor where oneDNN is the faster library."""
    float32 = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if not float32 or weight.requires_grad or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    return onednn_has_the_same_bits()


class _FastLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _FastLinear.apply(gradient, ctx.weight.t(), None), None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _by_onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Linear.apply(gradient, ctx.weight.t(), None), None, None


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    terms = x.shape[-1]
    if terms > BLOCK and terms % BLOCK not in RESTS:
        return F.linear(x, weight, bias)
    rows, columns = x.reshape(-1, terms), weight.split(BLOCK, -1)
    pieces = 1 if len(columns) == 1 else -(-len(rows) * len(weight) // AT_ONCE)
    sums = [_sum(piece, columns, bias) for piece in rows.tensor_split(pieces)]
    return (sums[0] if len(sums) == 1 else torch.cat(sums)).view(*x.shape[:-1], -1)


def _sum(x: Tensor, columns: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    first, *others = zip(x.split(BLOCK, -1), columns)
    output = _product(*first, bias)
    for part, weight in others:
        output += _product(part, weight, None)
    return output


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight.contiguous(), bias, "none", [], "")


@functools.cache
def onednn_has_the_same_bits() -> bool:
    """Whether its products are there, and are those of this process's MKL to the last bit."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for outputs, terms in ((384, 128), (128, 512), (768, 768)):
            x, weight = torch.randn(2 * ROWS, terms, generator=draws), torch.randn(outputs, terms, generator=draws)
            bias, back = torch.randn(outputs, generator=draws), torch.randn(2 * ROWS, outputs, generator=draws)
            if not torch.equal(_by_onednn(x, weight, bias), F.linear(x, weight, bias)):
                return False
            if not torch.equal(_by_onednn(back, weight.t(), None), back @ weight):
                return False
    return True
