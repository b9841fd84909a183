"""RAP: reverse adversarial perturbation (Qin et al., NeurIPS 2022), a transfer attack through a surrogate network.

The outer loop is :class:`~advpt.attacks.pgd.PGD`'s; from step ``late_start`` on its gradient is taken at the neighbour
that is worst for the attacker. It knows neither CLIP nor any prompt. Profiles:

* ``rap-ls`` (default; also ``sound`` and ``paper``): cross-entropy, late start after a quarter of the steps (100 of
  400).
* ``advpt-released`` (also ``released``): what AdvPT's code runs under this name: no inner loop at all, logit objective,
  random start, shrinking diverse input. (Its surrogate in training mode with CLIP's normalisation is not imitated.)
* ``di-logit``: the logit objective with the official enlarging diverse input, no inner loop.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.attacks.base import ATTACKS, Forward
from advpt.attacks.noise import SampleNoise
from advpt.attacks.pgd import PGD
from advpt.errors import AttackError

STEP = 2.0  # 1/255, whatever the budget and the number of steps, as in the official code


@ATTACKS.add
class RAP(PGD):
    """PGD, from step ``late_start`` on with an inner loop of ``inner_steps`` steps in a ball of ``eps_n`` / 255.

    ``late_start`` equal to ``steps`` is the plain iterative attack. Targeted objectives turn the inner loss round.
    """

    name = "rap"
    summary = "reverse adversarial perturbation through a surrogate network"
    source_model = "surrogate"
    objectives = ("ce", "logit", "target", "target-logit")
    default_objective, default_steps = "ce", 400
    resizes, whole_batches = True, False  # images of equal size go together

    def __init__(
        self,
        *,
        eps: float,
        steps: int = default_steps,
        step: float | None = None,
        objective: str = default_objective,
        start: str = "none",
        momentum: float = 0.0,
        diverse: str = "none",
        ti: bool = False,
        copies: int = 1,
        late_start: int | None = None,
        eps_n: float = 16.0,
        inner_steps: int = 8,
    ) -> None:
        super().__init__(
            eps=eps,
            steps=steps,
            step=min(eps, STEP) if step is None else step,
            objective=objective,
            start=start,
            momentum=momentum,
            diverse=diverse,
            ti=ti,
            copies=copies,
        )
        self.late_start = steps // 4 if late_start is None else late_start
        if not 0 <= self.late_start <= steps or not 0 < eps_n <= 255 or inner_steps < 1:
            raise AttackError(
                f"late_start={late_start}, eps_n={eps_n}, inner_steps={inner_steps}: give 0 to steps (={steps}), "
                "a budget in (0, 255] and at least 1 step"
            )
        self.eps_n, self.inner_steps = float(eps_n), inner_steps

    @classmethod
    def default_options(cls, objective: str, eps: float, steps: int) -> dict[str, Any]:
        return {"step": min(eps, STEP), "late_start": steps // 4, "eps_n": 16.0, "inner_steps": 8}

    @classmethod
    def profiles(cls, steps: int) -> dict[str, dict[str, Any]]:
        released = {"objective": "logit", "late_start": steps, "diverse": "shrink", "start": "uniform"}
        di_logit = {"objective": "logit", "late_start": steps, "diverse": "enlarge"}
        faithful: dict[str, dict[str, Any]] = {name: {} for name in ("rap-ls", "sound", "paper")}
        return faithful | {"advpt-released": released, "released": released, "di-logit": di_logit}

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {n: getattr(self, n) for n in ("late_start", "eps_n", "inner_steps")}

    def worst_neighbour(self, forward: Forward, z: Tensor, y: Tensor, noise: SampleNoise) -> Tensor:
        """The images ``[b, 3, h, w]`` within ``eps_n`` of ``z`` and in [0, 1] at which the attack's cross-entropy is
        worst for the attacker: sign steps of ``eps_n`` / ``inner_steps`` from a random start."""
        radius = self.eps_n / 255
        worst_sign = 1 if self.objective.targeted else -1  # away from the target, or back to the true class
        low, high = (z - radius).clamp_min(0), (z + radius).clamp_max(1)
        neighbour = (z + noise.uniform(z, -radius, radius)).clamp(0, 1)
        for _ in range(self.inner_steps):
            neighbour = neighbour.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(forward(neighbour), y, reduction="sum"), neighbour)
            moved = neighbour.detach() + worst_sign * radius / self.inner_steps * gradient.sign()
            neighbour = torch.minimum(torch.maximum(moved, low), high)
        return neighbour.detach()

    def _gradient(
        self, forward: Forward, images: Tensor, y: Tensor, clean: Tensor, noise: SampleNoise, t: int
    ) -> Tensor:
        if t >= self.late_start:
            images = self.worst_neighbour(forward, images.detach(), y, noise)
        return super()._gradient(forward, images, y, clean, noise, t)
