"""Forward noise and two samplers back to an image, for DiffPure (Nie et al., ICML 2022).

Written from the papers (Ho et al., 2020; Nichol and Dhariwal, 2021; Song et al., 2021), not from DiffPure's code, whose
licence is non-commercial. A noise model is any callable ``(x [b, 3, s, s] in [-1, 1] plus noise, index) -> [b, 3 or
6, s, s]``: the noise, and for six channels the fraction that interpolates the log-variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from advpt.attacks.noise import SampleNoise

NoiseModel = Callable[[Tensor, int], Tensor]
STEPS = 1000
BETA_MIN, BETA_MAX = 0.1, 20.0  # of the continuous schedule; the discrete one is a thousandth of it
SDE_END = 1e-5


def alpha_bars() -> np.ndarray:
    """``[1000]`` float64: the share of signal power left at each index; 0.788321 at index 149. Betas are linear from
    1e-4 to 0.02."""
    return np.cumprod(1 - np.linspace(BETA_MIN / STEPS, BETA_MAX / STEPS, STEPS))


def diffuse(x: Tensor, t: int, noise: SampleNoise) -> Tensor:
    """``x`` in [-1, 1] after ``t`` forward steps (index t - 1)."""
    kept = float(alpha_bars()[t - 1])
    return math.sqrt(kept) * x + math.sqrt(1 - kept) * noise.normal(x)


def ddpm_indices(t: int, stride: int = 1) -> list[int]:
    """The indices of the network calls, t - 1 first; a stride above 1 leaves steps out."""
    return list(range(t - 1, -1, -stride))


def ddpm_step(model: NoiseModel, x: Tensor, index: int, previous: int, noise: SampleNoise) -> Tensor:
    """One ancestral step from ``index`` to ``previous`` (-1: the image). The predicted image is clipped to [-1, 1].

    The variance is learned where the model has six channels, else the posterior's (``fixed_small``).
    """
    bars = alpha_bars()
    bar, before = float(bars[index]), float(bars[previous]) if previous >= 0 else 1.0
    beta = 1 - bar / before
    out = model(x, index).float()
    predicted, fraction = (out, None) if out.shape[1] == 3 else (out[:, :3], (out[:, 3:] + 1) / 2)
    image = ((x - math.sqrt(1 - bar) * predicted) / math.sqrt(bar)).clamp(-1, 1)
    mean = math.sqrt(before) * beta / (1 - bar) * image + math.sqrt(1 - beta) * (1 - before) / (1 - bar) * x
    if previous < 0:
        return mean
    low = math.log(beta * (1 - before) / (1 - bar))
    if fraction is None:
        return mean + math.exp(low / 2) * noise.normal(x)
    log_variance = fraction * math.log(beta) + (1 - fraction) * low
    return mean + (log_variance / 2).exp() * noise.normal(x)


def ddpm(model: NoiseModel, x: Tensor, t: int, noise: SampleNoise, stride: int = 1) -> Tensor:
    """Ancestral sampling from ``x`` at index t - 1 back to an image in [-1, 1]."""
    indices = ddpm_indices(t, stride)
    for index, previous in zip(indices, [*indices[1:], -1]):
        x = ddpm_step(model, x, index, previous, noise)
    return x


def sde_times(t: int, stride: int = 1) -> list[tuple[float, float, int]]:
    """(time, step, network index) of each Euler step of the reverse SDE from ``t`` / 1000 to 1e-5.

    The solver that DiffPure uses counts float32 seconds 1 - time upwards, so the truncated indices repeat near the
    start (149, 148, 148, 147, ..., 1 for t = 150); they are computed the same way here.
    """
    times = []
    clock, end, step = np.float32(1 - t / STEPS), np.float32(1 - SDE_END), np.float32(stride / STEPS)
    while clock < end:
        following = min(np.float32(clock + step), end)
        now = np.float32(1) - clock
        times.append((float(now), float(following - clock), int(np.float32(now * np.float32(STEPS)))))
        clock = following
    return times


def sde(model: NoiseModel, x: Tensor, t: int, noise: SampleNoise, stride: int = 1) -> Tensor:
    """Euler-Maruyama on the reverse variance-preserving SDE; no clipping and no last denoising step."""
    for now, dt, index in sde_times(t, stride):
        beta = BETA_MIN + (BETA_MAX - BETA_MIN) * now
        kept = math.exp(-(BETA_MAX - BETA_MIN) / 2 * now**2 - BETA_MIN * now)
        score = -model(x, index).float()[:, :3] / math.sqrt(1 - kept)
        x = x + (beta / 2 * x + beta * score) * dt + math.sqrt(beta * dt) * noise.normal(x)
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddpm": ddpm, "sde": sde}


def calls(sampler: str, t: int, stride: int = 1) -> int:
    """Network calls per image."""
    return len(ddpm_indices(t, stride)) if sampler == "ddpm" else len(sde_times(t, stride))
