"""The contract of every attack: a subclass proposes images, the base class clips, measures and re-checks them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from advpt.attacks.noise import SampleNoise, as_noise
from advpt.attacks.objectives import NONE, OBJECTIVES, Objective
from advpt.data.images import ImageSet
from advpt.errors import AttackError, unknown_name
from advpt.registry import Registry

Forward = Callable[[Tensor], Tensor]
TOLERANCE = 1e-6  # of one pixel's range; clipping in float32 is exact to less


@dataclass(frozen=True)
class AttackOutput:
    """Images returned by an attack.

    images:   ``[b, 3, h, w]`` float32 in [0, 1], detached.
    changed:  ``[b]`` bool, True where the image differs from its input.
    distance: ``[b]`` float32, the largest pixel change (``linf``) or the L2 norm of the change, in units of 1/255.
    loss:     ``[b]`` float32, the objective at the returned image.
    stage:    ``[b]`` int64, which stage of the attack broke the image (an index into the ``stages`` of its parameters
              where it has several); -1 where none did, or where the attack looks at no logits.
    """

    images: Tensor
    changed: Tensor
    distance: Tensor
    loss: Tensor
    stage: Tensor


class FiniteCheck:
    """Wraps a model and checks that its outputs, and the gradients at its pixels, are finite. The sign of NaN is 0, so
    an attack on NaN would stand still without an error."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.finite = torch.tensor(True)  # whether all was so far, on the device: read once, at the end

    def __call__(self, pixels: Tensor) -> Tensor:
        if pixels.requires_grad:
            pixels.register_hook(self._check)
        output = self.forward(pixels)
        self._check(output.detach())
        return output

    def _check(self, value: Tensor) -> None:
        self.finite = self.finite & torch.isfinite(value).all()


class Attack(ABC):
    """An attack within a norm ball in pixel space. Subclasses write :meth:`run` only.

    Args:
        eps: the budget in units of 1/255.
        norm: ``linf`` or ``l2`` (the L2 norm over all pixels and channels of [0, 1] images, times 255).
        objective: name of the maximised function (:data:`~advpt.attacks.objectives.OBJECTIVES`).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # of the algorithm: part of every bank's key
    summary: ClassVar[str] = ""
    # The attacked network: "encoder" for CLIP, "surrogate" for a network of the attacker's own, "files" for none.
    source_model: ClassVar[str] = "encoder"
    stochastic_variant: ClassVar[str] = ""  # name of the attack that replaces it on models that draw noise
    # True: an attacked image depends on that image, its id and the seed alone (but for rounding), not on its batch.
    # Then its row may be taken from a bank of more images.
    by_image: ClassVar[bool] = False
    whole_batches: ClassVar[bool] = False  # True: every forward pass gets all images of the batch
    perturbs_all: ClassVar[bool] = True  # False: images that need no change come back as they were
    thread_safe: ClassVar[bool] = True  # False: it uses the global random state and must not run concurrently
    objectives: ClassVar[tuple[str, ...]] = tuple(OBJECTIVES)  # names of those that it can maximise
    default_objective: ClassVar[str] = "ce"  # for a text form without one
    default_steps: ClassVar[int] = 0  # for a text form without a number; 0: the attack has no steps

    def __init__(self, *, eps: float, norm: str = "linf", objective: str = "ce") -> None:
        if not 0 < eps <= 255 or norm not in ("linf", "l2"):
            raise AttackError(f"eps={eps}, norm={norm!r}: give eps in units of 1/255, in (0, 255], and norm linf or l2")
        if objective not in self.objectives:
            raise AttackError(f"{self.name}: {unknown_name('objective', objective, self.objectives)}")
        self.eps, self.norm = float(eps), norm
        self.objective: Objective = OBJECTIVES.get(objective, NONE)

    @classmethod
    def default_options(cls, objective: str, eps: float, steps: int) -> dict[str, Any]:
        """Options that the text form always spells out, with their defaults."""
        return {}

    @classmethod
    def profiles(cls, steps: int) -> dict[str, dict[str, Any]]:
        """Options by the name of a profile."""
        return {}

    def provenance(self) -> dict[str, str]:
        """Versions of the packages that the images depend on, for a bank's manifest."""
        return {}

    def starting_at(self, images: Tensor) -> Attack:
        """The same attack from ``images [b, 3, h, w]`` of a batch in the place of its own start. Raises AttackError."""
        raise AttackError(f"{self.name} has a start of its own; use pgd to go on from other attacks' images")

    def against(self, clean: Tensor) -> Attack:
        """The same attack whose objective compares with ``clean [b, ...]``, the output of another model at the clean
        images of a batch, in the place of the attacked model's own. Raises AttackError."""
        raise AttackError(f"{self.name} compares with the attacked model alone; use pgd to compare with another one")

    def require(self, images: ImageSet) -> None:  # noqa: B027 - most attacks take any images
        """Check the list of images, without reading them, before anything is attacked. Raises AttackError."""

    def examine(self, images: ImageSet, workers: int = 0) -> None:  # noqa: B027 - as above
        """Check the images, read in ``workers`` processes, before the first is attacked. Raises AttackError."""

    @property
    def radius(self) -> float:
        """The budget in pixel units of [0, 1]."""
        return self.eps / 255

    @abstractmethod
    def run(self, forward: Forward, x: Tensor, y: Tensor, noise: SampleNoise) -> tuple[Tensor, Tensor, Tensor]:
        """Proposed images, their objective ``[b]`` and stage ``[b]``. Gradients are enabled, parameters frozen."""

    def parameters(self) -> dict[str, Any]:
        """Everything that determines what the attack does, as JSON values: part of every bank's key."""
        return {
            "name": self.name,
            "version": self.version,
            "objective": self.objective.name,
            "norm": self.norm,
            "eps": self.eps,
        }

    @final
    def __call__(
        self, forward: Forward, x: Tensor, y: Tensor, generator: SampleNoise | torch.Generator
    ) -> AttackOutput:
        """Attack images. No parameter keeps a gradient, no global random state is touched.

        Args:
            forward: pixels to embeddings or logits, as the objective needs.
            x: ``[b, 3, h, w]`` float32 in [0, 1].
            y: ``[b]`` int64 labels, or target classes for a targeted objective.

        Raises:
            AttackError: pixels outside [0, 1] or not float32, a non-finite result, or a result outside the ball.
        """
        x = x.detach()
        if x.dtype != torch.float32:
            raise AttackError(f"attacks work in float32, got {x.dtype}")
        low, high = (float(v) for v in x.aminmax())
        if not (low >= 0 and high <= 1):
            raise AttackError(
                f"attacks need pixels in [0, 1], got [{low:.3f}, {high:.3f}]; normalisation belongs inside the model"
            )
        checked = FiniteCheck(forward)
        with torch.enable_grad():
            images, loss, stage = self.run(checked, x, y, as_noise(generator, len(x)))
        if images.shape != x.shape:
            raise AttackError(f"{self.name} returned shape {list(images.shape)} for images {list(x.shape)}")
        images = self.project(images.detach().float(), x)
        distance = self.measure(images - x)
        if not bool(checked.finite and torch.isfinite(images).all() and torch.isfinite(loss).all()):
            raise AttackError(
                f"{self.name}: a non-finite image, objective or gradient; check the encoder's weights and precision"
            )
        worst = float(distance.max()) if len(x) else 0.0
        if len(x) and worst > self.eps + self.tolerance(x):
            raise AttackError(f"{self.name} left its budget: distance {worst:.6f}/255 > eps {self.eps}/255")
        return AttackOutput(images, (images != x).flatten(1).any(1), distance, loss.detach(), stage)

    def tolerance(self, x: Tensor) -> float:
        """The rounding error that one of the images ``x`` may have beyond the budget, in units of 1/255."""
        return 255 * TOLERANCE * (1 if self.norm == "linf" else x[0].numel() ** 0.5)

    def project(self, images: Tensor, x: Tensor) -> Tensor:
        """The nearest images inside both the ball around ``x`` and [0, 1]."""
        delta = images - x
        if self.norm == "linf":
            delta = delta.clamp(-self.radius, self.radius)
        else:
            size = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
            delta = delta * (self.radius / size).clamp_max(1)[:, None, None, None]
        return (x + delta).clamp(0, 1)

    def measure(self, delta: Tensor) -> Tensor:
        """``[b]`` size of a change in units of 1/255."""
        flat = delta.flatten(1)
        return 255 * (flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1))

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={v!r}" for k, v in self.parameters().items() if k != "name")
        return f"{type(self).__name__}({inside})"


ATTACKS: Registry[Attack] = Registry("attack")  # a new attack is one file with ``@ATTACKS.add``
