"""Every defense keeps the contract; gradients are what they are said to be."""

from __future__ import annotations

import inspect

import pytest
import torch

from advpt.attacks.noise import SampleNoise
from advpt.defenses import DEFENSES
from advpt.defenses.base import Defense, attackable
from advpt.defenses.diffpure import DiffPure
from advpt.defenses.rescale import RandomRescale
from advpt.defenses.super_resolution import SuperResolution
from advpt.errors import ConfigError, DefenseError
from tests.helpers.defenses import CASES, EXAMPLES, noise, small_edsr

NAMES = [f"{type(d).__name__}-{i}" for i, d in enumerate(CASES)]


def test_examples_are_of_registered_defenses():
    assert EXAMPLES.keys() <= set(DEFENSES) and {type(d) for d in CASES} == {DEFENSES.get(name) for name in DEFENSES}


@pytest.mark.parametrize("defense", CASES, ids=NAMES)
class TestContract:
    def test_pixels_in_pixels_out(self, defense, pixels):
        before = pixels.clone()
        out = defense(pixels, noise())
        assert out.shape == pixels.shape and out.dtype == torch.float32
        assert float(out.min()) >= 0 and float(out.max()) <= 1
        assert torch.equal(pixels, before), "the input was changed in place"
        assert not torch.equal(out, pixels)

    def test_batches_do_not_matter(self, defense, pixels):
        together = defense(pixels, noise())
        alone = [defense(pixels[i : i + 1], SampleNoise([f"image {i}"], 0)) for i in range(4)]
        torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=0)

    def test_the_same_generator_gives_the_same_image(self, defense, pixels):
        once = defense(pixels, torch.Generator().manual_seed(3))
        assert torch.equal(once, defense(pixels, torch.Generator().manual_seed(3)))
        same = torch.equal(once, defense(pixels, torch.Generator().manual_seed(4)))
        assert same != type(defense).draws_noise

    def test_global_random_state_is_left_alone(self, defense, pixels):
        torch.manual_seed(0)
        defense(pixels, noise())
        after = torch.rand(3)
        torch.manual_seed(0)
        assert torch.equal(after, torch.rand(3))

    def test_wrong_input_is_refused(self, defense, pixels):
        with pytest.raises(DefenseError, match="normalisation belongs inside"):
            defense(pixels * 2, noise())
        with pytest.raises(DefenseError, match="float32"):
            defense(pixels.double(), noise())
        with pytest.raises(DefenseError, match=r"\[4, 1, 32, 32\]"):
            defense(pixels[:, :1], noise())
        assert len(defense(pixels[:0], noise(0))) == 0

    def test_random_ones_need_a_generator(self, defense, pixels):
        if type(defense).draws_noise:
            with pytest.raises(DefenseError, match="pass a torch.Generator"):
                defense(pixels)
        else:
            defense(pixels)

    def test_it_never_sees_more_than_the_image(self, defense):
        assert list(inspect.signature(type(defense).apply).parameters) == ["self", "pixels", "noise"]
        assert list(inspect.signature(Defense.__call__).parameters) == ["self", "pixels", "generator"]

    def test_the_gradient_is_the_one_it_claims(self, defense, pixels):
        x = pixels[:2].double()
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        weight = torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        if not defense.has_gradient:
            x = x.float().requires_grad_()
            (attackable(defense, x, noise(2)) * weight.float()).sum().backward()
            assert torch.equal(x.grad, weight.float())  # straight through
            return
        if "8 bit" in defense.gradient_note:
            return  # rounding has no derivative: see test_rounding_is_passed_straight_through
        if isinstance(defense, DiffPure):
            direction, weight = direction.float(), weight.float()
            x = x.float()

        def value(at):
            return (defense.apply(at, noise(2)).double() * weight).sum()

        x.requires_grad_()
        (gradient,) = torch.autograd.grad(value(x), x)
        h = 1e-6 if x.dtype == torch.float64 else 1e-3
        slope = (value(x.detach() + h * direction) - value(x.detach() - h * direction)) / (2 * h)
        torch.testing.assert_close((gradient * direction).sum().double(), slope, rtol=2e-3, atol=1e-3)

    def test_parameters_are_json_and_named(self, defense):
        from advpt.files import canonical_json

        assert canonical_json(defense.parameters())
        assert {"name", "version"} <= defense.parameters().keys()
        assert defense.name in repr(defense) or type(defense).__name__ in repr(defense)


def test_rounding_is_passed_straight_through(pixels):
    network = small_edsr()
    defense = SuperResolution(sigma=0).use(network)
    x = (0.4 + 0.2 * pixels).requires_grad_()
    (own,) = torch.autograd.grad(defense.apply(x, None).sum(), x)
    smooth = torch.nn.functional.interpolate(network(x).clamp(0, 1), (32, 32), mode="bicubic", antialias=True)
    (expected,) = torch.autograd.grad(smooth.sum(), x)
    torch.testing.assert_close(own, expected)
    assert (255 * network(x.detach()).clamp(0, 1)).round().unique().numel() <= 256


def test_a_gradient_that_is_not_there_is_noticed(pixels):
    class Cut(SuperResolution):
        def apply(self, x, noise):
            return x.detach()

    with pytest.raises(DefenseError, match="has_gradient"):
        attackable(Cut(), pixels.requires_grad_())


def test_a_second_defense_of_one_name_is_refused():
    with pytest.raises(ConfigError, match="two defenses"):
        DEFENSES.add(type("Other", (RandomRescale,), {}))


def test_results_that_are_no_images_are_refused(pixels):
    class Broken(SuperResolution):
        def apply(self, x, noise):
            return x * float("nan")

    class Smaller(SuperResolution):
        def apply(self, x, noise):
            return x[..., ::2]

    with pytest.raises(DefenseError, match="not finite"):
        Broken()(pixels)
    with pytest.raises(DefenseError, match="returned shape"):
        Smaller()(pixels)


def test_weights_move_with_the_defense():
    edsr, model, meta = small_edsr(), torch.nn.Conv2d(3, 3, 1), torch.device("meta")
    for defense, network in ((SuperResolution().use(edsr), edsr), (DiffPure(t=2, model=model, size=8), model)):
        assert defense.to(meta) is defense
        assert {parameter.device for parameter in network.parameters()} == {meta}
