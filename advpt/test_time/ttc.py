"""TTC, test-time counterattacks (Xing et al., CVPR 2025): steps away from the image's own embedding, for images that
random noise hardly moves.

``released`` computes the image tower in half precision under autocast without loss scaling, so that small gradients
become zero. What else its published code does is not repeated: noise from a global generator (here by id and seed),
the original CLIP's tower in the gate of a robust one (here the tower in use), its text and its preprocessing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from advpt.bank.defended_input import CachedForward, Encode
from advpt.errors import DefenseError, unknown_name
from advpt.test_time.base import TEST_TIME, Cost, Draws, Variant
from advpt.test_time.counter import (
    CONSTANT,
    SMOOTH,
    CounterPerturbation,
    StepRule,
    check_ball,
    climb,
    plain,
    sign_with_smooth_gradient,
)

OTHERWISE = ("noise", "zero")
DTYPES = ("fp32", "fp16")


@dataclass(frozen=True)
class TTCSettings:
    """Settings of :class:`TTC`.

    Args:
        eps: the ball, in 1/255. step: of one step, in 1/255. steps: their number.
        tau: images whose embedding noise moves by less than this share of its length are counterattacked.
        beta: the iterates' weights are ``softmax(beta i)``.
        otherwise: what other images get, ``noise`` or ``zero``.
        dtype: of the image tower, ``fp32`` or ``fp16``.
    """

    eps: float = 4.0
    step: float = 1.0
    steps: int = 2
    tau: float = 0.2
    beta: float = 2.0
    otherwise: str = "noise"
    dtype: str = "fp32"


@dataclass(frozen=True, eq=False)
class Counterattack:
    """Of a batch: how far the noise moved embeddings, ``ratio [b]``, and all iterates, the noise first,
    ``deltas [steps + 1, b, 3, h, w]``."""

    ratio: Tensor
    deltas: Tensor


def counterattack(
    encode: Encode, pixels: Tensor, noise: Tensor, rule: StepRule, unrolled: bool = False
) -> Counterattack:
    """Steps that raise ``|f(x + d) - f(x)|^2`` from ``d = noise``, f the embedding as it is, not normalised.
    ``unrolled``: differentiable in the pixels, as :func:`advpt.test_time.counter.climb`."""
    with torch.set_grad_enabled(unrolled and torch.is_grad_enabled()):
        still = encode(pixels)

    def distance(point: Tensor) -> Tensor:
        return (encode(point) - still).square().sum(-1)

    path = climb(distance, pixels, noise, rule, unrolled)
    with torch.no_grad():
        first = path.values[0] if path.values else distance(pixels + path.deltas[0])
    return Counterattack(first.sqrt() / torch.linalg.vector_norm(still, dim=-1), path.deltas)


def iterate_weights(beta: float, deltas: Tensor) -> Tensor:
    """``softmax(beta i)`` over the iterates ``i = 0 .. N``, ``[N + 1]``."""
    return (beta * torch.arange(len(deltas), dtype=deltas.dtype, device=deltas.device)).softmax(0)


def weighted(beta: float, deltas: Tensor) -> Tensor:
    """The weighted sum ``[b, 3, h, w]`` of iterates ``[N + 1, b, 3, h, w]``."""
    return torch.tensordot(iterate_weights(beta, deltas), deltas, 1)


@TEST_TIME.add
class TTC(CounterPerturbation):
    """Counterattacks images that are stable under noise; the others keep the noise."""

    name = "ttc"
    summary = "counterattack on images that noise hardly moves (Xing et al., CVPR 2025)"
    profiles = {"sound": TTCSettings(), "released": TTCSettings(dtype="fp16")}
    settings: TTCSettings

    @classmethod
    def check(cls, settings: TTCSettings) -> None:
        check_ball(eps=settings.eps, step=settings.step, steps=settings.steps, tau=settings.tau, beta=settings.beta)
        if settings.otherwise not in OTHERWISE:
            raise DefenseError(unknown_name("value of otherwise", settings.otherwise, OTHERWISE))
        if settings.dtype not in DTYPES:
            raise DefenseError(unknown_name("dtype", settings.dtype, DTYPES))

    @property
    def draws_noise(self) -> bool:
        return self.settings.eps > 0

    @property
    def rule(self) -> StepRule:
        """Sign steps in the ball."""
        s = self.settings
        return StepRule(s.steps, s.step / 255, torch.sign, s.eps / 255)

    def noise(self, pixels: Tensor, draws: Draws) -> Tensor:
        """The random start, not clipped."""
        return draws.noise("ttc").uniform(pixels, -self.rule.radius, self.rule.radius)

    def precise(self, encode: Encode) -> Encode:
        """The encoder in this dtype. What a cache has of other methods is in float32."""
        if self.settings.dtype == "fp32":
            return encode
        if isinstance(encode, CachedForward):
            encode = encode.encode

        def half(pixels: Tensor) -> Tensor:
            with torch.autocast(pixels.device.type, torch.float16):
                return encode(pixels).to(pixels.dtype)

        return half

    def logits(self, encode: Encode, pixels: Tensor) -> Tensor:
        return super().logits(self.precise(encode), pixels)

    def counterattack(self, encode: Encode, pixels: Tensor, draws: Draws) -> Counterattack:
        """The noise and the steps of these images, constants."""
        return counterattack(self.precise(encode), pixels.detach(), self.noise(pixels, draws), self.rule)

    def delta(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        return self.gated(self.counterattack(encode, pixels, draws))

    def gated(self, attack: Counterattack) -> Tensor:
        """What each image gets, by its ratio."""
        stable = (attack.ratio < self.settings.tau)[:, None, None, None]
        return torch.where(stable, weighted(self.settings.beta, attack.deltas), self.unstable(attack))

    def unstable(self, attack: Counterattack) -> Tensor:
        """What images above the threshold get."""
        noise = attack.deltas[0]
        return noise if self.settings.otherwise == "noise" else torch.zeros_like(noise)

    def always_weighted(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        """Logits as if every image was stable."""
        attack = self.counterattack(encode, pixels, draws)
        return self.logits(encode, pixels + weighted(self.settings.beta, attack.deltas))

    def only_noise(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        """Logits as if no image was stable."""
        noise = self.rule.project(pixels.detach(), self.noise(pixels, draws))
        return self.logits(encode, pixels + noise)

    def unrolled(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        """The defense's logits, differentiable through its steps with the derivative of a smooth sign."""
        rule = dataclasses.replace(self.rule, direction=sign_with_smooth_gradient)
        attack = counterattack(self.precise(encode), pixels, self.noise(pixels, draws), rule, unrolled=True)
        return self.logits(encode, pixels + self.gated(attack))

    def through_gate(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        """Logits of both branches, mixed by a gate that opens linearly: all weight on the counterattack where noise
        moves nothing, half at the threshold, none at twice the threshold. The ratio has its own gradient, so that an
        attacker who raises a loss crosses the threshold in the direction of the weaker branch."""
        attack = self.counterattack(encode, pixels, draws)
        precise, classifier = self.precise(encode), self.model.classifier
        still, noisy = precise(pixels), precise(pixels + attack.deltas[0])
        ratio = torch.linalg.vector_norm(noisy - still, dim=-1) / torch.linalg.vector_norm(still, dim=-1)
        share = (1 - ratio / (2 * max(self.settings.tau, 1e-6))).clamp(0, 1)[:, None]
        counter = self.logits(encode, pixels + weighted(self.settings.beta, attack.deltas))
        other = classifier.logits(noisy if self.settings.otherwise == "noise" else still)
        return share * counter + (1 - share) * other

    def cost(self) -> Cost:
        return Cost(max(self.settings.steps, 1) + 2, self.settings.steps)

    def variants(self) -> tuple[Variant, ...]:
        forward, backward = self.cost().forward, self.cost().backward
        gate = f"{CONSTANT}; a gate that opens linearly up to twice the threshold"
        passes = forward + 2 * self.settings.steps
        return (
            self.frozen_delta(),
            self.variant("smooth sign", self.unrolled, SMOOTH, Cost(passes, passes), second_derivative=True),
            self.variant("gate evasion", self.through_gate, gate, Cost(forward + 2, backward + 3)),
            self.variant("always weighted", self.always_weighted, CONSTANT),
            self.variant("noise", self.only_noise, CONSTANT, Cost(1, 1))
            if self.settings.otherwise == "noise"
            else plain(self.model),
        )
