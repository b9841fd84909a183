"""Projected gradient descent (Madry et al., 2018) on any objective; with ``fkl`` it is AdvPT's own attack.

FGSM, MI-FGSM, DI-FGSM, TI and SI are the same loop with other options (``advpt/attacks/spec.py`` has their names).

Profiles of the embedding attack (the paper's section 4.1 and equation 2, and its released code):

* ``sound`` (default): start uniform in [-eps, eps], clipped to [0, 1] before the first gradient; bicubic bank images.
* ``paper``: the same start, the training images resized bilinearly as they were for the paper's bank.
* ``released``: as in the official code: start uniform in [0, eps] (one-sided), first gradient at the unclipped
  image; bilinear bank images.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advpt.attacks.base import ATTACKS, Attack, Forward
from advpt.attacks.noise import SampleNoise
from advpt.attacks.objectives import AT_REST, is_wrong
from advpt.attacks.transforms import DIVERSE, accumulate, smooth, through_diverse
from advpt.errors import AttackError, unknown_name

STARTS = ("uniform", "uniform_positive", "gaussian", "none")


@dataclass(frozen=True)
class Profile:
    """A profile's random start, and the interpolation that resizes the images of its training bank."""

    start: str
    clip_first: bool
    bank_interpolation: str


PROFILES = {
    "sound": Profile("uniform", True, "bicubic"),
    "paper": Profile("uniform", True, "bilinear"),
    "released": Profile("uniform_positive", False, "bilinear"),
}


def default_step(objective: str, eps: float, steps: int) -> float:
    """Step size in 1/255: 1.25 eps/T for the embedding KL (AdvPT), 2.5 eps/T else (Madry); never above the budget."""
    step = min(eps, (1.25 if objective == "fkl" else 2.5) * eps / steps)
    return float(f"{step:.4g}")  # four digits, so that what is printed is what is done


@ATTACKS.add
class PGD(Attack):
    """``steps`` sign steps (L2: normalised steps) of ``step`` / 255, last iterate, best of ``restarts`` random starts.

    Args:
        step: in 1/255; None for :func:`default_step`.
        start: of :data:`STARTS`; ``clip_first`` False takes the first gradient at the unclipped start.
        momentum: decay of the accumulated gradient (MI), 0 for none.
        diverse: of :data:`~advpt.attacks.transforms.DIVERSE` (DI), or ``none``.
        ti: smooth the gradient (TI).
        copies: mean gradient over the image divided by 1, 2, 4, ... (SI, Lin et al., ICLR 2020).
        eot_samples: forward passes per gradient, for models that draw noise (EOT, Athalye et al., ICML 2018).
    """

    name = "pgd"
    summary = "projected gradient descent on any objective"
    default_objective, default_steps = "fkl", 40
    by_image, whole_batches = True, True
    given_start: Tensor | None = None  # images to start from, in the place of ``start``
    given_clean: Tensor | None = None  # another model's output at the clean images, in the place of the attacked one's
    resizes: ClassVar[bool] = False  # whether the attacked network takes images of any size

    def __init__(
        self,
        *,
        eps: float,
        steps: int,
        step: float | None = None,
        objective: str = "ce",
        norm: str = "linf",
        restarts: int = 1,
        start: str = "uniform",
        clip_first: bool = True,
        momentum: float = 0.0,
        diverse: str = "none",
        ti: bool = False,
        copies: int = 1,
        eot_samples: int = 1,
    ) -> None:
        super().__init__(eps=eps, norm=norm, objective=objective)
        kinds = ["none", *(k for k, v in DIVERSE.items() if v.canvas == 1 or self.resizes)]
        if diverse not in kinds:
            raise AttackError(f"{self.name}: {unknown_name('diverse input', diverse, kinds)}")
        if momentum < 0 or copies < 1 or eot_samples < 1:
            raise AttackError(f"momentum={momentum}, copies={copies}, eot_samples={eot_samples}: at least 0, 1 and 1")
        if steps < 1 or restarts < 1 or start not in STARTS:
            raise AttackError(f"steps={steps}, restarts={restarts}, start={start!r}: at least 1, 1, one of {STARTS}")
        if start == "none" and objective in AT_REST:
            raise AttackError(
                f"objective {objective!r} has no gradient at the clean image, with which it compares; it needs a "
                "random start"
            )
        if start == "none" and restarts > 1:
            raise AttackError("restarts need a random start")
        self.steps, self.restarts, self.start, self.clip_first = steps, restarts, start, clip_first
        self.momentum, self.diverse, self.ti, self.copies = float(momentum), diverse, ti, copies
        self.eot_samples = eot_samples
        self.step = float(default_step(objective, eps, steps) if step is None else step)
        if not self.step > 0:
            raise AttackError(f"step={step}: give the step size in units of 1/255, above 0")

    @classmethod
    def default_options(cls, objective: str, eps: float, steps: int) -> dict[str, Any]:
        return {"step": default_step(objective, eps, steps)}

    @classmethod
    def profiles(cls, steps: int) -> dict[str, dict[str, Any]]:
        return {name: {"start": p.start, "clip_first": p.clip_first} for name, p in PROFILES.items()}

    def parameters(self) -> dict[str, Any]:
        always = {name: getattr(self, name) for name in ("steps", "step", "restarts", "start", "clip_first")}
        # Options that came later are named only where they are used, so that older banks keep their keys.
        defaults = {"momentum": 0.0, "diverse": "none", "ti": False, "copies": 1}
        changed = {name: getattr(self, name) for name, value in defaults.items() if getattr(self, name) != value}
        changed |= {"draws": self.eot_samples} if self.eot_samples != 1 else {}
        return super().parameters() | changed | always

    def run(self, forward: Forward, x: Tensor, y: Tensor, noise: SampleNoise) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            clean = forward(x) if self.given_clean is None else self.given_clean
        best, best_loss = x, torch.full((len(x),), float("-inf"), device=x.device)
        stage = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        for _ in range(self.restarts):
            images = self._from_one_start(forward, x, y, clean, noise)
            with torch.no_grad():
                output = forward(images)
                loss = self.objective.loss(output, clean, y)
                for _ in range(self.eot_samples - 1):
                    loss = loss + self.objective.loss(forward(images), clean, y)
                loss = loss / self.eot_samples
            better = loss > best_loss
            best = torch.where(better[:, None, None, None], images, best)
            best_loss = torch.where(better, loss, best_loss)
            if self.objective.space == "logits" and not self.objective.targeted:
                stage = torch.where(better, is_wrong(output, y).long() - 1, stage)
        return best, best_loss, stage

    def _from_one_start(self, forward: Forward, x: Tensor, y: Tensor, clean: Tensor, noise: SampleNoise) -> Tensor:
        images = x + self._start(x, noise)
        if self.clip_first:
            images = self.project(images, x)
        velocity = torch.zeros_like(x) if self.momentum else x
        for t in range(self.steps):
            gradient = self._gradient(forward, images, y, clean, noise, t)
            if self.ti:
                gradient = smooth(gradient)
            if self.momentum:
                gradient = velocity = accumulate(gradient, velocity, self.momentum)
            moved = self._direction(gradient).mul_(self.step / 255).add_(images)
            del gradient, images  # as large as the images each
            images = self.project(moved, x)
        return images

    def _gradient(
        self, forward: Forward, images: Tensor, y: Tensor, clean: Tensor, noise: SampleNoise, t: int
    ) -> Tensor:
        """The objective's gradient in step ``t``, summed over scaled copies and samples (only its direction counts)."""
        images = images.detach().requires_grad_()

        def of_copy(scale: int) -> Tensor:
            scaled = images / 2**scale if scale else images
            if self.diverse == "none":
                output = forward(scaled)
            else:
                output = through_diverse(forward, scaled, DIVERSE[self.diverse], noise)
            return torch.autograd.grad(self.objective.loss(output, clean, y).sum(), images)[0]

        first, *others = [scale for scale in range(self.copies) for _ in range(self.eot_samples)]
        total = of_copy(first)
        for scale in others:
            total += of_copy(scale)
        return total

    def starting_at(self, images: Tensor) -> Attack:
        other = copy.copy(self)
        other.given_start = images
        return other

    def against(self, clean: Tensor) -> Attack:
        other = copy.copy(self)
        other.given_clean = clean
        return other

    def _start(self, x: Tensor, noise: SampleNoise) -> Tensor:
        if self.given_start is not None:
            return self.given_start - x
        r = self.radius
        if self.start == "none":
            return torch.zeros_like(x)
        if self.start == "gaussian":  # TRADES
            return 0.001 * noise.normal(x)
        return noise.uniform(x, 0.0 if self.start == "uniform_positive" else -r, r)

    def _direction(self, gradient: Tensor) -> Tensor:
        """The direction of the step, a new tensor."""
        if self.norm == "linf":
            return gradient.sign()
        size = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
        return gradient / size[:, None, None, None]
