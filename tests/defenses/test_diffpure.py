"""Diffusion purification: both samplers, its parameters, its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from advpt.attacks.noise import SampleNoise
from advpt.defenses import adm, diffusion
from advpt.defenses.diffpure import GRADIENT_CALLS, DiffPure
from tests.helpers.adm_reference import CONFIG, make_adm
from tests.helpers.defenses import picture


def noise(n: int = 2, seed: int = 0) -> SampleNoise:
    return SampleNoise([str(i) for i in range(n)], seed)


def oracle(image):
    """The noise that really is in x, if ``image`` in [-1, 1] was diffused."""

    def model(x, index):
        bar = diffusion.alpha_bars()[index]
        return (x - bar**0.5 * image) / (1 - bar) ** 0.5

    return model


@pytest.mark.parametrize("stride", [1, 7])
def test_perfect_noise_gives_the_image_back(stride):
    x = picture()
    model = oracle(2 * x - 1)
    out = DiffPure(t=150, model=model, size=16, stride=stride)(x, noise())
    torch.testing.assert_close(out, x, atol=2e-5, rtol=0)
    out = DiffPure(t=150, sampler="sde", model=model, size=16)(x, noise())
    assert (out - x).abs().mean() < 0.01  # no last denoising step: the noise of its last steps stays


def test_no_steps_are_the_resize_round_trip():
    x = picture(size=28)
    never = lambda *a: pytest.fail("a network call")  # noqa: E731
    for sampler in diffusion.SAMPLERS:
        out = DiffPure(t=0, sampler=sampler, model=never, size=32)(x, noise())
        there = F.interpolate(2 * x - 1, (32, 32), mode="bilinear", align_corners=False)
        back = F.interpolate(there, (28, 28), mode="bilinear", align_corners=False)
        torch.testing.assert_close(out, (back + 1) / 2)
    assert torch.equal(DiffPure(t=0, model=never, size=28)(x, noise()), (2 * x - 1 + 1) / 2)


def test_samplers_and_seeds_differ():
    model = oracle(torch.zeros(2, 3, 16, 16))
    make = lambda **how: DiffPure(t=20, model=lambda x, i: 0.5 * model(x, i), size=16, **how)  # noqa: E731
    one = make()(picture(), noise())
    assert torch.equal(one, make()(picture(), noise()))
    assert not torch.equal(one, make()(picture(), noise(seed=1)))
    assert not torch.equal(one, make(sampler="sde")(picture(), noise()))


def test_short_chains_have_a_gradient_long_ones_do_not():
    model = oracle(torch.zeros(2, 3, 16, 16))
    assert DiffPure(t=GRADIENT_CALLS, model=model, size=16).has_gradient
    assert not DiffPure(t=GRADIENT_CALLS + 1, model=model, size=16).has_gradient
    assert DiffPure(t=150, stride=10, model=model, size=16).has_gradient


def test_parameters_change_with_everything():
    base = {"t": 10, "model": lambda x, i: x, "size": 16}
    found = {str(DiffPure(**base).parameters())}
    for change in ({"t": 11}, {"sampler": "sde"}, {"stride": 2}, {"dtype": "bf16"}, {"size": 32}):
        found.add(str(DiffPure(**base | change).parameters()))
    assert len(found) == 6


def test_half_precision_is_close():
    model = torch.nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x, index):
            return self.net(x)

    full = DiffPure(t=5, model=Net(), size=16)(picture(), noise())
    half = DiffPure(t=5, model=Net(), size=16, dtype="bf16")(picture(), noise())
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.02, rtol=0)


def test_gradient_through_a_network_is_the_plain_one(diffusers):
    """Recomputing inner values must not change it."""
    from advpt.defenses.diffpure import UNet

    unet = UNet(adm.from_state(adm.convert(make_adm().state_dict(), CONFIG), CONFIG, "here"))
    x = picture().requires_grad_()
    (one,) = torch.autograd.grad(DiffPure(t=2, model=unet, size=16).apply(x, noise()).sum(), x)
    plain = DiffPure(t=2, model=lambda at, i: unet(at, i), size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("advpt.defenses.diffpure.checkpoint", lambda f, *a, **k: f(*a))
        (two,) = torch.autograd.grad(plain.apply(x, noise()).sum(), x)
    torch.testing.assert_close(one, two)
    assert all(p.grad is None for p in unet.parameters())
