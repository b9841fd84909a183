"""The contract of every defense: an image in, an image out, in [0, 1] and of the same size.

A defense never sees the clean image, the label or the model, so nothing can be compared with or clamped to the clean
image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from advpt.attacks.noise import SampleNoise, as_noise
from advpt.errors import DefenseError
from advpt.options import Option
from advpt.registry import Registry

OWN, STRAIGHT = "own", "straight through"


class Defense(ABC):
    """A map of pixels ``[b, 3, h, w]`` to pixels of the same shape. Subclasses write :meth:`apply` and
    :attr:`profiles`.

    Every option of the constructor is keyword-only and stands in every profile with a value of its type.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # of the algorithm: part of every bank's key
    summary: ClassVar[str] = ""
    has_gradient: bool = True  # whether autograd through `apply` is worth following
    draws_noise: ClassVar[bool] = False  # whether two applications differ
    costly: ClassVar[bool] = False  # run on a recorded subset unless asked otherwise
    linear: ClassVar[bool] = False  # affine in the image for fixed draws: nothing to gain from BPDA
    gradient_note: str = ""  # what is not exact about the gradient, for the record
    profiles: ClassVar[Mapping[str, Mapping[str, Option]]]  # the first one is the default

    @abstractmethod
    def apply(self, pixels: Tensor, noise: SampleNoise | None) -> Tensor:
        """The defended pixels; values outside [0, 1] are clipped by the caller. ``noise`` is there for random
        defenses."""

    def parameters(self) -> dict[str, Any]:
        """Everything that determines the result, as JSON values: part of every bank's key."""
        return {"name": self.name, "version": self.version}

    def to(self, device: torch.device) -> Defense:
        """Move weights, if there are any."""
        for value in vars(self).values():
            if isinstance(value, nn.Module):
                value.to(device)
        return self

    @classmethod  # noqa: B027 - nothing to check is fine
    def check(cls, options: Mapping[str, Option]) -> None:
        """Check the values of a full set of options. Raises DefenseError."""

    @classmethod  # noqa: B027 - most need nothing
    def require(cls, options: Mapping[str, Option]) -> None:
        """Check before a long run that files and packages are there, without reading them. Raises WeightsError or
        DefenseError with what is missing and how to get it."""

    @final
    def __call__(self, pixels: Tensor, generator: SampleNoise | torch.Generator | None = None) -> Tensor:
        """Defend ``pixels [b, 3, h, w]`` float32 in [0, 1]. Gradients flow as far as the defense has them. Raises
        DefenseError for other input, no generator for a random defense, or a result that is not a finite image."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != torch.float32:
            raise DefenseError(f"defenses take float32 images [b, 3, h, w], got {pixels.dtype} {list(pixels.shape)}")
        if not len(pixels):
            return pixels
        low, high = (float(v) for v in pixels.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise DefenseError(
                f"defenses need pixels in [0, 1], got [{low:.3f}, {high:.3f}]; normalisation belongs inside the model"
            )
        noise = None
        if self.draws_noise:
            noise = self.needed(as_noise(generator, len(pixels)) if generator is not None else None)
        out = self.apply(pixels, noise)
        if out.shape != pixels.shape:
            raise DefenseError(f"{self.name} returned shape {list(out.shape)} for images {list(pixels.shape)}")
        if not bool(torch.isfinite(out.detach()).all()):
            raise DefenseError(f"{self.name} returned pixels that are not finite; check its weights and precision")
        return out.to(pixels.dtype).clamp(0, 1)

    def needed(self, noise: SampleNoise | None) -> SampleNoise:
        """The noise of a random defense. Raises DefenseError where none was given."""
        if noise is None:
            raise DefenseError(f"{self.name} draws noise: pass a torch.Generator or a SampleNoise")
        return noise

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={v!r}" for k, v in self.parameters().items() if k != "name")
        return f"{type(self).__name__}({inside})"


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, defended: Tensor) -> Tensor:
        return defended.view_as(defended)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        return gradients[0], None


def gradient_of(defense: Defense, bpda: bool = False) -> str:
    """The gradient that an adaptive attacker follows: :data:`OWN`, or :data:`STRAIGHT` (BPDA with the identity)."""
    return OWN if defense.has_gradient and not (bpda and not defense.linear) else STRAIGHT


def attackable(
    defense: Defense, pixels: Tensor, generator: SampleNoise | torch.Generator | None = None, *, bpda: bool = False
) -> Tensor:
    """Defended pixels with a usable gradient: the defense's own, or the identity's where it has none or ``bpda``
    asks for it (Athalye et al., ICML 2018)."""
    if gradient_of(defense, bpda) == OWN:
        out = defense(pixels, generator)
        if torch.is_grad_enabled() and pixels.requires_grad and not out.requires_grad:
            raise DefenseError(f"{defense.name} has no gradient although it says so; set has_gradient to False")
        return out
    with torch.no_grad():
        defended = defense(pixels.detach(), generator)
    return _StraightThrough.apply(pixels, defended)


DEFENSES: Registry[Defense] = Registry("defense")  # a new defense is one file with ``@DEFENSES.add``
