"""The contract of every attack: a subclass proposes images, the base class clips, measures and re-checks them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from advpt.attacks.noise import SampleNoise, as_noise
from advpt.attacks.objectives import NONE, OBJECTIVES, Objective
from advpt.data.images import ImageSet
from advpt.errors import AttackError, ConfigError, unknown_name

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
              where it has several); -1 where none did or none could tell.
    """

    images: Tensor
    changed: Tensor
    distance: Tensor
    loss: Tensor
    stage: Tensor


class FiniteCheck:
    """A model that remembers whether an output, or a gradient that came back to its pixels, was not finite. The sign of
    NaN is 0: an attack would stand still and never say so."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self._finite: Tensor | None = None  # on the device: asked for once, at the end

    def __call__(self, pixels: Tensor) -> Tensor:
        if pixels.requires_grad:
            pixels.register_hook(self._look)
        output = self.forward(pixels)
        self._look(output.detach())
        return output

    def _look(self, value: Tensor) -> None:
        finite = torch.isfinite(value).all()
        self._finite = finite if self._finite is None else self._finite & finite

    @property
    def finite(self) -> bool:
        """Whether all was finite so far."""
        return self._finite is None or bool(self._finite)


class Attack(ABC):
    """An attack within a norm ball in pixel space. Subclasses write :meth:`run` only.

    Args:
        eps: the budget in units of 1/255.
        norm: ``linf`` or ``l2`` (the L2 norm over all pixels and channels of [0, 1] images, times 255).
        objective: name of what is made large (:data:`~advpt.attacks.objectives.OBJECTIVES`).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # of the algorithm: part of every bank's key
    summary: ClassVar[str] = ""
    # or "surrogate": a network of the attacker's own, whatever is attacked; or "files": nothing, they are made already
    source_model: ClassVar[str] = "encoder"
    stochastic_variant: ClassVar[str] = ""  # the attack that takes its place where what is attacked draws noise
    # Whether what becomes of an image depends on that image, its id and the seed alone, but for rounding, and on no
    # other of its batch. Then its rows may be taken from a bank of more images. An attack of that kind says so.
    by_image: ClassVar[bool] = False
    perturbs_all: ClassVar[bool] = True  # False: images that need no change come back as they were
    thread_safe: ClassVar[bool] = True  # False: it needs the process's random state, so never two at once
    objectives: ClassVar[tuple[str, ...]] = tuple(OBJECTIVES)  # that it can make large
    default_objective: ClassVar[str] = "ce"  # where its text form names none
    default_steps: ClassVar[int] = 0  # where its text form names none; 0: it has no such number

    def __init__(self, *, eps: float, norm: str = "linf", objective: str = "ce") -> None:
        if not 0 < eps <= 255 or norm not in ("linf", "l2"):
            raise AttackError(f"eps={eps}, norm={norm!r}: give eps in units of 1/255, in (0, 255], and norm linf or l2")
        if objective not in self.objectives:
            raise AttackError(f"{self.name}: {unknown_name('objective', objective, self.objectives)}")
        self.eps, self.norm = float(eps), norm
        self.objective: Objective = OBJECTIVES.get(objective, NONE)

    @classmethod
    def default_options(cls, objective: str, eps: float, steps: int) -> dict[str, Any]:
        """Options that the text form always spells out, with what they are where it leaves them out."""
        return {}

    @classmethod
    def profiles(cls, steps: int) -> dict[str, dict[str, Any]]:
        """Options that go by one name."""
        return {}

    def provenance(self) -> dict[str, str]:
        """Versions of other software that the images depend on, for a bank's manifest."""
        return {}

    def require(self, images: ImageSet) -> None:  # noqa: B027 - most attacks take any images
        """Look at what can be told of these images before anything is attacked.

        Raises:
            AttackError: they cannot be attacked; the message says which.
        """

    def examine(self, images: ImageSet, workers: int = 0) -> None:  # noqa: B027 - as above
        """Look at all of these images, read in ``workers`` processes, before the first of them is attacked.

        Raises:
            AttackError: as :meth:`require`.
        """

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
        """Attack ``x [b, 3, h, w]`` float32 in [0, 1] with labels ``y [b]`` through ``forward`` (pixels to embeddings
        or logits, as the objective wants). No parameter keeps a gradient, no global random state is touched.

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
        if not (checked.finite and bool(torch.isfinite(images).all() and torch.isfinite(loss).all())):
            raise AttackError(
                f"{self.name}: a non-finite image, objective or gradient; check the encoder's weights and precision"
            )
        worst = float(distance.max()) if len(x) else 0.0
        if len(x) and worst > self.eps + self.tolerance(x):
            raise AttackError(f"{self.name} left its budget: distance {worst:.6f}/255 > eps {self.eps}/255")
        return AttackOutput(images, (images != x).flatten(1).any(1), distance, loss.detach(), stage)

    def tolerance(self, x: Tensor) -> float:
        """How far beyond the budget rounding may bring one of the images ``x``, in units of 1/255."""
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


class Registry:
    """Attack classes by name: a new attack is one file with ``@ATTACKS.add``."""

    def __init__(self) -> None:
        self._items: dict[str, type[Attack]] = {}

    def add(self, cls: type[Attack]) -> type[Attack]:
        if cls.name in self._items:
            raise ConfigError(f"two attacks are called {cls.name!r}; rename one")
        self._items[cls.name] = cls
        return cls

    def get(self, name: str) -> type[Attack]:
        if name not in self._items:
            raise ConfigError(unknown_name("attack", name, self._items))
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))


ATTACKS = Registry()
