"""CLIPure-Cos: turn an image's embedding towards the text of no class (Zhang et al., ICLR 2025, arXiv 2502.18176).

The method ascends the cosine of the embedding and a null text: a step of size eta along the normalised gradient, then
back to unit length. The gradient is tangential, so a step is a rotation by ``arctan(eta)`` in the plane of the two,
and every result is ``a u + b t``. With eta 30, a step of 88 degrees, an even number of steps goes there and back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.errors import DefenseError
from advpt.files import tensor_digest
from advpt.test_time.base import TEST_TIME, Cost, Draws, TestTimeDefense, Variant
from advpt.test_time.counter import plain

TEMPLATES = Path(__file__).parents[1] / "data" / "imagenet_templates.txt"  # OpenAI's 80 for ImageNet


@dataclass(frozen=True)
class CLIPureSettings:
    """Settings of :class:`CLIPure`.

    Args:
        share: of the angle between embedding and null text that one rotation takes away, in [0, 1); 0 for none.
        steps: of the released iteration, after the rotation; 0 for none.
        eta: size of a step.
        batch: images whose gradients are divided by one norm, as they come; 1 for each by its own.
    """

    share: float = 0.5
    steps: int = 0
    eta: float = 0.0
    batch: int = 1


def tangent(u: Tensor, t: Tensor) -> Tensor:
    """``[b, L]``: the gradient in ``u`` of the cosine of ``u [b, L]`` and ``t [L]``, both of unit length. Its length is
    the sine of their angle."""
    return t - (u @ t)[:, None] * u


def step(u: Tensor, t: Tensor, eta: float, batch: int = 1, graph: bool = True) -> Tensor:
    """One step of the iteration, ``normalise(u + eta g / |g|)`` with ``g`` of :func:`tangent`.

    Args:
        u, t: of unit length, ``[b, L]`` and ``[L]``.
        batch: consecutive rows that share one norm: the release has one for the whole batch.
        graph: False for ``g / |g|`` as a constant, as the release has it.

    Returns:
        ``[b, L]`` of unit length. Rows that are at ``t`` already, where there is no direction, stay as they are.
    """
    g = tangent(u, t)
    length = torch.cat([part.norm().expand(len(part)) for part in g.split(batch)]) if batch > 1 else g.norm(dim=-1)
    there = (length <= _rounding(u))[:, None]
    g = torch.where(there, torch.zeros_like(g), g) / torch.where(there, torch.ones_like(u[:, :1]), length[:, None])
    return torch.where(there, u, F.normalize(u + eta * (g if graph else g.detach()), dim=-1))


def iterate(u: Tensor, t: Tensor, eta: float, steps: int, batch: int = 1, graph: bool = True) -> Tensor:
    """Several steps of :func:`step`; ``[b, L]`` of unit length."""
    for _ in range(steps):
        u = step(u, t, eta, batch, graph)
    return u


def angle(u: Tensor, t: Tensor) -> Tensor:
    """``[b]``: the angle in [0, pi] between ``u [b, L]`` and ``t [L]``, both of unit length."""
    return torch.atan2(tangent(u, t).norm(dim=-1), u @ t)


def angle_after(theta: Tensor, eta: float, steps: int) -> Tensor:
    """``[b]``: the signed angle to ``t`` that is left of ``theta [b]`` after steps with a norm per image. It falls by
    ``arctan(eta)`` a step while it is larger, and from then on changes between two values."""
    for _ in range(steps):
        theta = theta - theta.detach().sign() * torch.atan(torch.as_tensor(eta, dtype=torch.float64)).item()
    return theta


def at_angle(u: Tensor, t: Tensor, theta: Tensor, after: Tensor) -> Tensor:
    """The closed form ``a u + b t``: the embedding in the plane of ``u [b, L]`` and ``t [L]``, at the signed angle
    ``after [b]`` to ``t`` where ``u`` is at ``theta [b]``.

    Returns:
        ``[b, L]`` of unit length. Where ``u`` is ``t`` or its opposite there is no plane, and it stays as it is.
    """
    flat = theta.sin() <= _rounding(u)
    sine = torch.where(flat, torch.ones_like(theta), theta.sin())
    a = torch.where(flat, torch.ones_like(theta), after.sin() / sine)
    b = torch.where(flat, torch.zeros_like(theta), (theta - after).sin() / sine)
    return a[:, None] * u + b[:, None] * t


def rotate(u: Tensor, t: Tensor, share: float) -> Tensor:
    """``[b, L]``: ``u [b, L]`` turned towards ``t [L]`` by this share of their angle."""
    theta = angle(u, t)
    return at_angle(u, t, theta, (1 - share) * theta)


def closed_form(u: Tensor, t: Tensor, eta: float, steps: int) -> Tensor:
    """``[b, L]``: what :func:`iterate` gives with a norm per image, without iterating."""
    theta = angle(u, t)
    return at_angle(u, t, theta, angle_after(theta, eta, steps))


def _rounding(u: Tensor) -> float:
    """A sine below which the direction towards ``t`` is rounding error."""
    return 16 * torch.finfo(u.dtype).eps


def null_texts() -> list[str]:
    """OpenAI's 80 templates for ImageNet with an empty class name."""
    return [line.replace("{}", "") for line in TEMPLATES.read_text(encoding="utf-8").splitlines()]


@TEST_TIME.add
class CLIPure(TestTimeDefense):
    """Embeddings turned towards the null text, the mean of the text features of :func:`null_texts`.

    Profiles: ``sound`` rotates by a share of the angle; ``released`` iterates as the authors' code does, with one norm
    for a batch of two images; ``paper`` iterates with a norm per image, which is the identity.
    """

    name = "clipure"
    summary = "embeddings turned towards the text of no class (CLIPure-Cos, ICLR 2025)"
    settings: CLIPureSettings
    profiles: ClassVar[Mapping[str, CLIPureSettings]] = {
        "sound": CLIPureSettings(),
        "released": CLIPureSettings(share=0.0, steps=10, eta=30.0, batch=2),
        "paper": CLIPureSettings(share=0.0, steps=10, eta=30.0, batch=1),
    }

    @classmethod
    def check(cls, settings: CLIPureSettings) -> None:
        """Check the values. Raises DefenseError."""
        if not 0 <= settings.share < 1:
            raise DefenseError(f"share={settings.share}; expected 0 <= share < 1 (at 1 every image is the null text)")
        if settings.steps < 0 or settings.batch < 1:
            raise DefenseError(f"steps={settings.steps}, batch={settings.batch}; expected steps >= 0 and batch >= 1")
        if not 0 <= settings.eta < float("inf") or (settings.steps and not settings.eta):
            raise DefenseError(f"eta={settings.eta}; expected a size of the {settings.steps} steps, for instance 30")

    @property
    def by_image(self) -> bool:
        """False where images share a norm."""
        return self.settings.steps == 0 or self.settings.batch == 1

    @functools.cached_property
    def null(self) -> Tensor:
        """``[L]`` of unit length: the direction of the mean text feature of no class."""
        with torch.no_grad():
            return F.normalize(F.normalize(self.model.text.encode_texts(null_texts()), dim=-1).mean(0), dim=-1)

    def parameters(self) -> dict[str, Any]:
        """With the digest of the null text."""
        return super().parameters() | {"null": self._digest}

    @functools.cached_property
    def _digest(self) -> str:
        return tensor_digest({"null": self.null})

    def cost(self) -> Cost:
        """One pass: the rest is on embeddings."""
        return Cost(forward=1)

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        return self._logits(encode(pixels), graph=True)

    def _logits(self, embeddings: Tensor, graph: bool, closed: bool = False) -> Tensor:
        """Logits of purified embeddings; ``closed``: by the closed form, where the norm is each image's own."""
        s, t = self.settings, self.null.to(embeddings)
        length = embeddings.norm(dim=-1, keepdim=True)
        u = F.normalize(embeddings, dim=-1)
        if s.share:
            u = rotate(u, t, s.share)
        if s.steps:
            one = closed and s.batch == 1
            u = closed_form(u, t, s.eta, s.steps) if one else iterate(u, t, s.eta, s.steps, s.batch, graph)
        return self.model.classifier.logits(length * u)  # the paper changes the direction alone

    def variants(self) -> tuple[Variant, ...]:
        """``exact``: the derivative of the closed form, or of the iteration where images share a norm. ``released
        gradient``: without the part through the inner gradients, as the authors attack it. Each step divides what is
        left by eta, until in float32 the rounding error of the embedding's length, which has no gradient in exact
        arithmetic, is a million times larger. ``plain``: of the undefended model."""

        def exact(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
            return self._logits(encode(pixels), graph=True, closed=True)

        def released(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
            return self._logits(encode(pixels), graph=False)

        own = {
            "defense": self.name,
            "version": self.version,
            "settings": dataclasses.asdict(self.settings),
            "text": self.model.classifier.digest,
            "null": self._digest,
        }
        cost = Cost(1, 1)
        variants = [Variant("exact", exact, own | {"name": "exact"}, cost=cost, draws=False)]
        if self.settings.steps:
            note = "without the part through the inner gradients"
            about = own | {"name": "released gradient"}
            variants.append(Variant("released gradient", released, about, note, cost, draws=False))
        return (*variants, plain(self.model))
