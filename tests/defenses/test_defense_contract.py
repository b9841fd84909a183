"""Every defense keeps the contract; the text form says what is built; gradients are what they are said to be."""

from __future__ import annotations

import inspect

import pytest
import torch

from advpt.attacks.noise import SampleNoise
from advpt.defenses import DEFENSES, parse, parse_all
from advpt.defenses.base import Defense, attackable
from advpt.defenses.chain import Chain
from advpt.defenses.diffpure import DiffPure
from advpt.defenses.edsr import EDSR
from advpt.defenses.rescale import RandomRescale
from advpt.defenses.super_resolution import SuperResolution
from advpt.errors import ConfigError, DefenseError


def small_edsr() -> EDSR:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EDSR(2, 8).eval().requires_grad_(False)


def blur(x, index):
    """A noise model with a gradient and no weights."""
    return torch.tanh(x + 0.1 * x.roll(1, -1)) * (1 + index / 1000)


def one_of_each() -> list[Defense]:
    return [
        RandomRescale(),
        RandomRescale(interp="bilinear", flip=True, low=1.0368),
        SuperResolution(),
        SuperResolution(sigma=0.01, space="channel").use(small_edsr()),
        DiffPure(t=4, model=blur, size=24),
        DiffPure(t=4, sampler="sde", model=blur, size=24),
        DiffPure(t=150, model=blur, size=24),
    ]


CASES = one_of_each()
NAMES = [f"{type(d).__name__}-{i}" for i, d in enumerate(CASES)]


@pytest.fixture
def pixels():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def noise(n: int = 4, seed: int = 0) -> SampleNoise:
    return SampleNoise([f"image {i}" for i in range(n)], seed)


def test_all_registered_defenses_are_tested():
    assert {type(d) for d in CASES} == {DEFENSES.get(name) for name in DEFENSES}


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


def test_bpda_replaces_all_but_linear_gradients(pixels):
    chain = Chain("x", (SuperResolution(), RandomRescale()))
    x = pixels.clone().requires_grad_()
    assert chain.gradients() == {"1 super": "own", "2 rescale": "own"}
    assert chain.gradients(bpda=True) == {"1 super": "straight through", "2 rescale": "own"}
    out = chain.attackable(x, noise(), bpda=True)
    assert torch.equal(out, chain(pixels, noise()))
    (bpda,) = torch.autograd.grad(out.sum(), x)
    (own,) = torch.autograd.grad(chain.attackable(x, noise()).sum(), x)
    (linear,) = torch.autograd.grad(chain.stages[1](x, noise()).sum(), x)
    torch.testing.assert_close(bpda, linear)
    assert not torch.allclose(bpda, own)


def test_a_gradient_that_is_not_there_is_noticed(pixels):
    class Cut(SuperResolution):
        def apply(self, x, noise):
            return x.detach()

    with pytest.raises(DefenseError, match="has_gradient"):
        attackable(Cut(), pixels.requires_grad_())


def test_stages_of_a_chain_share_one_stream(pixels):
    chain = Chain("x", (RandomRescale(), RandomRescale()))
    draws = noise()
    assert torch.equal(chain(pixels, noise()), chain.stages[1](chain.stages[0](pixels, draws), draws))


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("rescale", "rescale:iclr/low=1.0/canvas=1.107/fill=grey/interp=nearest/flip=False"),
        ("super", "super:advpt/sigma=0.02/space=rgb/sr=none/weights="),
        ("super:mustafa/sigma=0.03", "super:mustafa/sigma=0.03/space=channel/sr=edsr/weights="),
        ("diffpure:sde/t=75", "diffpure:sde/t=75/sampler=sde/stride=1/dtype=fp32/weights="),
    ],
)
def test_short_forms_expand(short, full):
    spec = parse(short)
    assert spec.expanded == full
    assert parse(full) == spec == parse(str(spec))


def test_chains_and_repeats():
    chain = parse("super:advpt + rescale")
    assert str(chain) == "super:advpt+rescale:iclr" and chain.draws_noise and not chain.costly
    assert parse("rescale+diffpure").costly
    assert [str(s) for s in parse_all(["rescale", "rescale:iclr", "super"])] == ["rescale:iclr", "super:advpt"]
    assert [type(s) for s in chain.build().stages] == [SuperResolution, RandomRescale]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reskale", "Did you mean 'rescale'"),
        ("super:advtp", "Did you mean 'advpt'"),
        ("super/sigm=0.1", "Did you mean 'sigma'"),
        ("super/sigma=much", "expected a number"),
        ("super/sigma=20", "expected 0 to 1"),
        ("super/sr=rcan", "unknown super-resolution network"),
        ("rescale/flip=maybe", "expected True or False"),
        ("rescale/fill=pink", "unknown fill"),
        ("rescale/low=2", "low <= canvas"),
        ("diffpure/t=1001", "expected 0 to 1000"),
        ("diffpure/t=1.5", "expected a whole number"),
        ("diffpure/dtype=int8", "unknown dtype"),
        ("diffpure/sampler=ddim", "unknown sampler"),
        ("super++rescale", "not of the form"),
        ("", "not of the form"),
        ("super/sigma", "OPTION=VALUE"),
    ],
)
def test_mistakes_are_explained(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


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
