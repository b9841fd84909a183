"""Counter-perturbations: ``x' = x + delta(x)``, with delta from a few gradient steps on the model's own output.

One loop (:func:`climb`) with an objective, a start and a :class:`StepRule`; TTC, Anti-Adversaries, Hedge Defense and
ET3 are four settings of it. Objectives give one value per image and are summed, so that images do not mix.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.errors import DefenseError
from advpt.schema import JsonObject
from advpt.test_time.base import OWN, Cost, DefendedModel, Draws, TestTimeDefense, Variant

Objective = Callable[[Tensor], Tensor]  # pixels [b, 3, h, w] to one value per image [b], to be raised
TINY = 1e-12  # below it a length counts as zero
CONSTANT = "delta held constant"  # of Variant.gradient
SMOOTH = "own, the sign's as that of g / (|g| + mean |g|)"


def smooth_sign(gradient: Tensor) -> Tensor:
    """``g / (|g| + mean |g|)``, the mean over each image of ``[b, ...]``: a sign that has a derivative."""
    size = gradient.abs()
    around = size.flatten(1).mean(1).reshape(-1, *[1] * (gradient.dim() - 1))
    return gradient / (size + around + TINY)


def sign_with_smooth_gradient(gradient: Tensor) -> Tensor:
    """The values of the sign with the derivative of :func:`smooth_sign`."""
    smooth = smooth_sign(gradient)
    return smooth + (gradient.sign() - smooth).detach()


def l2_direction(gradient: Tensor) -> Tensor:
    """``[b, ...]`` divided by each image's L2 norm; zero where that is zero."""
    return gradient / _length(gradient).clamp_min(TINY)


@dataclass(frozen=True)
class StepRule:
    """How a gradient becomes a step, and where iterates stay.

    Args:
        steps: their number. size: of one, in pixel values in [0, 1], or as an L2 length.
        direction: of a gradient ``[b, 3, h, w]``, like ``torch.sign``.
        radius: of the ball around the image. l2: the ball is one of the L2 norm, not of the largest change.
        box: images plus delta stay in [0, 1].
    """

    steps: int
    size: float
    direction: Callable[[Tensor], Tensor]
    radius: float
    l2: bool = False
    box: bool = True

    def project(self, pixels: Tensor, delta: Tensor) -> Tensor:
        """``delta`` inside box and ball. The ball shortens it towards the image, so that it stays in the box."""
        if self.box:
            delta = (pixels + delta).clamp(0, 1) - pixels
        if self.l2:
            return delta * (self.radius / _length(delta).clamp_min(TINY)).clamp_max(1)
        return delta.clamp(-self.radius, self.radius)


@dataclass(frozen=True, eq=False)
class Path:
    """What :func:`climb` went through.

    Args:
        deltas: ``[steps + 1, b, 3, h, w]``, the projected start first.
        values: of the objective at all but the last, ``[b]`` each.
    """

    deltas: Tensor
    values: tuple[Tensor, ...]


def climb(objective: Objective, pixels: Tensor, start: Tensor, rule: StepRule, unrolled: bool = False) -> Path:
    """Raise the objective from ``pixels + start``, image by image.

    Args:
        pixels, start: ``[b, 3, h, w]``.
        unrolled: deltas are differentiable in the pixels, through the gradients (a double backward pass), where
            gradients are enabled and the pixels have one. Else they are constants.
    """
    unrolled = unrolled and torch.is_grad_enabled() and pixels.requires_grad
    pixels = pixels if unrolled else pixels.detach()
    deltas, values = [rule.project(pixels, start)], []
    for _ in range(rule.steps):
        with torch.enable_grad():
            point = pixels + deltas[-1]
            point = point if unrolled else point.detach().requires_grad_()
            value = objective(point)
            (gradient,) = torch.autograd.grad(value.sum(), point, create_graph=unrolled)
        values.append(value if unrolled else value.detach())
        deltas.append(rule.project(pixels, deltas[-1] + rule.size * rule.direction(gradient)))
    return Path(torch.stack(deltas), tuple(values))


class CounterPerturbation(TestTimeDefense):
    """A defense that classifies ``x + delta(x)``. Subclasses write :meth:`delta`, :meth:`variants` and ``steps``, the
    number of gradient steps, among the settings."""

    uses_gradients: ClassVar[bool] = True

    @abstractmethod
    def delta(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        """The perturbation ``[b, 3, h, w]`` of ``pixels``, a constant."""

    def shifted(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        """Logits ``[b, K]`` at ``pixels + delta(pixels)``; differentiable in the pixels with delta held constant."""
        return self.logits(encode, pixels + self.delta(encode, pixels.detach(), draws))

    def logits(self, encode: Encode, pixels: Tensor) -> Tensor:
        """The plain model's logits ``[b, K]``."""
        return self.model.classifier.logits(encode(pixels))

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        return self.shifted(encode, pixels, draws)

    def cost(self) -> Cost:
        return Cost(self.settings.steps + 1, self.settings.steps)

    def variant(
        self,
        name: str,
        logits: Callable[[Encode, Tensor, Draws], Tensor],
        gradient: str = OWN,
        cost: Cost | None = None,
        second_derivative: bool = False,
    ) -> Variant:
        """A variant of this defense with these settings. ``cost``: that of ``frozen delta`` if it is not given, the
        attacker's backward pass included."""
        parameters: dict[str, Any] = {
            "name": name,
            "defense": self.name,
            "version": self.version,
            "settings": dataclasses.asdict(self.settings),
            "text": self.model.classifier.digest,
        }
        cost = cost or Cost(self.cost().forward, self.cost().backward + 1)
        return Variant(name, logits, parameters, gradient, cost, second_derivative, draws=self.draws_noise)

    def frozen_delta(self) -> Variant:
        """The defense itself, with the gradient at the shifted point. Sign steps have no other one."""
        return self.variant("frozen delta", self.shifted, CONSTANT)


def plain(model: DefendedModel) -> Variant:
    """The model without the defense. The variants of all defenses of one model are equal."""

    def logits(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        return model.classifier.logits(encode(pixels))

    about: JsonObject = {"name": "plain", "text": model.classifier.digest}
    return Variant("plain", logits, about, cost=Cost(1, 1), draws=False, undefended=True)


def check_ball(**values: float) -> None:
    """Raises DefenseError for a negative length or number of steps, or one that is not finite."""
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise DefenseError(f"{name}={value}: expected 0 or more, and finite")


def _length(x: Tensor) -> Tensor:
    """The L2 norm of each image, ``[b, 1, 1, 1]``."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *[1] * (x.dim() - 1))
