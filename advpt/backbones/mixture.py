"""Prompts of deeper blocks that a router mixes from experts, by what the block reads (TAME, arXiv 2605.17577).

At the input of block i the tokens without prompts pass the block's first norm; a linear gate reads of them their first
one (the class token of an image, the start token of a text), their mean, or both, and the softmax of its output are the
weights of the experts. So prompts differ by image in the image tower, and by class in the text tower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROUTERS = {"hybrid": 0.7, "cls": 1.0, "token_mean": 0.0}  # part of the first token in what a gate reads
TAU, ALPHA = (0.7, 1.3), (0.0, 2.0)  # ranges of temperature and residual scale
RAW_ONE = 0.5413248546  # softplus of it is 1
LEARNED = ("experts", "base", "gate_weight", "gate_bias", "tau", "alpha")


@dataclass(frozen=True, eq=False)
class Mixture:
    """Prompts of blocks 1 .. J - 1, ``base + alpha (sum of w_e expert_e - base)``.

    Each tensor may have a leading dimension S: the prompts of S samples.

    experts:     ``[J - 1, E, n, D]`` float32.
    base:        ``[J - 1, n, D]``.
    gate_weight: ``[J - 1, E, D]``; gate_bias: ``[J - 1, E]``.
    tau, alpha:  ``[J - 1]``; through softplus and into :data:`TAU` and :data:`ALPHA`.
    router:      of :data:`ROUTERS`.
    routed:      a list that gets the weights ``[b, E]`` of every block that is computed; None: nothing is kept.
    """

    experts: Tensor
    base: Tensor
    gate_weight: Tensor
    gate_bias: Tensor
    tau: Tensor
    alpha: Tensor
    router: str = "hybrid"
    routed: list[Tensor] | None = None

    @property
    def layers(self) -> int:
        """J - 1."""
        return self.tau.shape[-1]

    @property
    def samples(self) -> int:
        """S; 0 where all samples have the same prompts."""
        return len(self.tau) if self.tau.dim() == 2 else 0

    def weights(self, layer: int, tokens: Tensor) -> Tensor:
        """``[b, E]`` float32 in (0, 1) that sum to 1.

        Args:
            layer: 1 .. J - 1.
            tokens: ``[b, T, D]`` behind the block's first norm, without prompts; the first b / S are of the first
                sample, and so on.
        """
        share = ROUTERS[self.router]
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
            # a gate of the mean is the mean of the gates, as it is linear and the shares sum to 1
            read = share * tokens[:, 0] + (1 - share) * tokens.mean(1)
            gate, bias = self.gate_weight[..., layer - 1, :, :], self.gate_bias[..., layer - 1, None, :]
            tau = F.softplus(self.tau[..., layer - 1, None, None]).clamp(*TAU)
            return ((self._by_sample(read) @ gate.mT + bias) / tau).softmax(-1).flatten(0, -2)

    def prompts(self, layer: int, tokens: Tensor) -> Tensor:
        """The prompts ``[b, n, D]`` of a block; arguments are those of :meth:`weights`."""
        weights = self.weights(layer, tokens)
        if self.routed is not None:
            self.routed.append(weights)
        base = self.base[..., layer - 1, :, :]
        shifts = self.experts[..., layer - 1, :, :, :] - base.unsqueeze(-3)  # equal experts give the base to the bit
        alpha = F.softplus(self.alpha[..., layer - 1]).clamp(*ALPHA)[..., None, None, None]
        with torch.autocast(tokens.device.type, enabled=False):
            mixed = (self._by_sample(weights) @ shifts.flatten(-2)).unflatten(-1, base.shape[-2:])
            return (base.unsqueeze(-3) + alpha * mixed).flatten(0, -3)

    def each(self, change: Callable[[Tensor], Tensor]) -> Mixture:
        """The mixture of changed tensors, with no list of weights."""
        experts, base, gate_weight, gate_bias, tau, alpha = map(change, self.named().values())
        return Mixture(experts, base, gate_weight, gate_bias, tau, alpha, self.router)

    def detach(self) -> Mixture:
        """The same numbers without a graph."""
        return self.each(Tensor.detach)

    def clone(self) -> Mixture:
        """The numbers as they are now, in tensors of their own."""
        return self.each(Tensor.clone)

    def named(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name: getattr(self, name) for name in LEARNED}

    def _by_sample(self, rows: Tensor) -> Tensor:
        """``[b, ...]`` as ``[S, b / S, ...]``; as they are where all samples have the same prompts."""
        return rows.unflatten(0, (self.samples, -1)) if self.samples else rows


@dataclass(frozen=True, eq=False)
class VisualMixture:
    """Prompts of an image tower's first J blocks.

    first:  ``[n, D_v]`` float32 of the input layer, or ``[S, n, D_v]``.
    deeper: of the other blocks.
    """

    first: Tensor
    deeper: Mixture

    def each(self, change: Callable[[Tensor], Tensor]) -> VisualMixture:
        """The prompts of changed tensors."""
        return VisualMixture(change(self.first), self.deeper.each(change))

    def detach(self) -> VisualMixture:
        """The same numbers without a graph."""
        return self.each(Tensor.detach)

    def clone(self) -> VisualMixture:
        """The numbers as they are now, in tensors of their own."""
        return self.each(Tensor.clone)


Visual = Tensor | VisualMixture  # a tensor: [J, n, D_v], or [S, J, n, D_v]


def prompts_per_layer(visual: Visual) -> int:
    """n, the tokens that prompts take in every block."""
    return (visual.first if isinstance(visual, VisualMixture) else visual).shape[-2]


def visual_tensors(visual: Visual) -> dict[str, Tensor]:
    """Everything that prompts in the image depend on, by name, for digests."""
    if isinstance(visual, Tensor):
        return {"visual": visual}
    deeper = {f"visual {name}": each for name, each in visual.deeper.named().items()}
    return {"visual": visual.first, **deeper, f"visual router {visual.deeper.router}": torch.zeros(0)}
