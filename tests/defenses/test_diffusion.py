"""The schedule of diffusion, and one step of it."""

from __future__ import annotations

import pytest
import torch

from advpt.attacks.noise import SampleNoise
from advpt.defenses import diffusion
from tests.helpers.defenses import noise

# --- schedule and samplers --------------------------------------------------------------------------------------


def test_the_noise_of_150_steps():
    assert diffusion.alpha_bars()[149] == pytest.approx(0.788321, abs=5e-7)
    x = torch.zeros(4, 3, 64, 64)
    assert diffusion.diffuse(x, 150, noise(4)).std() == pytest.approx(0.46009, abs=0.005)
    assert diffusion.diffuse(x + 1, 150, noise(4)).mean() == pytest.approx(0.88787, abs=0.01)


def test_indices():
    assert diffusion.ddpm_indices(150) == list(range(149, -1, -1))
    times = diffusion.sde_times(150)
    assert [i for _, _, i in times] == [149, 148, *range(148, 0, -1)]
    assert sum(dt for _, dt, _ in times) == pytest.approx(0.15 - 1e-5, abs=1e-6)
    assert times[0][0] == pytest.approx(0.15, abs=1e-6)
    assert [diffusion.calls(s, 150) for s in ("ddpm", "sde")] == [150, 150]
    assert [diffusion.calls(s, 150, 10) for s in ("ddpm", "sde")] == [15, 15]
    assert diffusion.calls("ddpm", 0) == 0


@pytest.mark.parametrize("index", [149, 100, 10, 1, 0])
@pytest.mark.parametrize("channels", [3, 6])
def test_a_step_is_diffusers_step(diffusers, index, channels):
    kind = {6: "learned_range", 3: "fixed_small"}[channels]
    scheduler = diffusers.DDPMScheduler(
        1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", variance_type=kind, clip_sample=True,
        clip_sample_range=1.0, prediction_type="epsilon",
    )  # fmt: skip
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(index))
    out = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)

    class Zero(SampleNoise):
        def normal(self, like):
            return torch.ones_like(like) * self.value

    means = []
    for value in (0.0, 1.0):
        draws = Zero(["x"], 0)
        draws.value = value
        ours = diffusion.ddpm_step(lambda *a: out, x, index, index - 1, draws)
        with pytest.MonkeyPatch.context() as patch:
            fixed = lambda shape, **kw: torch.full(shape, value)  # noqa: E731, B023
            patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", fixed)
            theirs = scheduler.step(out, index, x).prev_sample
        torch.testing.assert_close(ours, theirs, atol=6e-5, rtol=1e-4)
        means.append(ours)
    assert torch.equal(*means) == (index == 0)
