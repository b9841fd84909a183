"""FGSM, MI-, DI-, TI-, SI-FGSM and CW are options of one loop, and have the names that papers give them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advpt.attacks import SampleNoise, parse, parse_all
from advpt.attacks.transforms import DIVERSE, accumulate, diverse, smooth, through_diverse
from advpt.errors import AttackError, ConfigError

N = 4
IDS = [f"{i}.png" for i in range(N)]


@pytest.fixture
def x() -> Tensor:
    return torch.rand(N, 3, 20, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def y() -> Tensor:
    return torch.arange(N) % 3


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Conv2d(8, 8, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(32, 3),
        )  # fmt: skip


def gradient(net: nn.Module, images: Tensor, y: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(net(images), y, reduction="sum"), images)[0]


@pytest.mark.parametrize(
    ("text", "full"),
    (
        ("fgsm-ce@8", "pgd1-ce@8/a8/none"),
        ("fgsm@8", "pgd1-ce@8/a8/none"),
        ("fgsm-margin@8/uniform", "pgd1-margin@8/a8"),
        ("mifgsm10-ce@8", "pgd10-ce@8/a0.8/none/mi"),
        ("mifgsm20-ce@8/a1/mi0.5", "pgd20-ce@8/a1/none/mi0.5"),
        ("difgsm10-ce@8", "pgd10-ce@8/a0.8/none/di-slight"),
        ("difgsm100-ce@1/a1", "pgd100-ce@1/a1/none/di-slight"),
        ("cw@8", "pgd40-margin@8/a0.5"),
        ("cw100@128/l2/r3", "pgd100-margin@128/a3.2/r3/l2"),
        ("pgd10-ce@8/ti/si5/mi/di-shrink", "pgd10-ce@8/a2/mi/di-shrink/ti/si5"),
        ("aa@16", "aa@16"),
        ("aa@4/255/l2", "aa@4/l2"),
        ("aa-rand@8", "aa-rand@8"),
        ("APGD-CE-T@8", "apgd-ce-t@8"),
        ("apgd-ce-t@8/every", "apgd-ce-t@8/every"),
    ),
)
def test_names_and_their_expansion(text: str, full: str) -> None:
    assert str(parse(text)) == full
    assert parse(full) == parse(text)


def test_a_list_of_budgets_is_several_attacks() -> None:
    assert [str(s) for s in parse_all("pgd40-ce@1,2,4/a1/r2")] == [f"pgd40-ce@{e}/a1/r2" for e in (1, 2, 4)]
    assert [s.get("step") for s in parse_all("pgd40-ce@8,16")] == [0.5, 1.0]
    assert parse_all("pgd40@16") == [parse("pgd40@16")]
    assert [s.eps for s in parse_all("aa@0.5, 1")] == [0.5, 1.0]
    with pytest.raises(ConfigError, match="names several budgets where one is needed; write the first as pgd40@8"):
        parse("pgd40@8,16")
    with pytest.raises(ConfigError, match="is not a number"):
        parse_all("pgd40@8,x")


@pytest.mark.parametrize(
    ("text", "says"),
    (
        ("fgsm3-ce@8", "fgsm takes one step; for 3 write pgd3-ce@8/none"),
        ("fgsm-fkl@8", "no gradient at the clean image"),
        ("aa40@8", "aa has no number of steps; write aa@8"),
        ("aa-ce@8", "unknown objective 'ce'. Known: margin"),
        ("aa@8/a1", "option 'a1' is not one of l2, every"),
        ("apgd@8", "unknown attack 'apgd'.*apgd-ce"),
        ("mifgm10@8", "unknown attack 'mifgm'. Did you mean 'mifgsm'"),
        ("pgd4-ce@8/ever", "option 'ever' is not one of"),
        ("pgd4-ce@8/a1/a2", "aSTEP is given twice"),
        ("pgd4-ce@8/si0", "copies=0"),
        ("aa@8:adaptive", "is not of the form NAME"),
    ),
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(text)


def test_options_at_their_default_are_not_in_the_key() -> None:
    assert parse("pgd40@16").build().parameters() == {
        "name": "pgd", "version": 1, "objective": "fkl", "norm": "linf", "eps": 16.0, "steps": 40, "step": 0.5,
        "restarts": 1, "start": "uniform", "clip_first": True,
    }  # fmt: skip
    assert parse("pgd4-ce@8/mi").build().parameters()["momentum"] == 1.0


def test_fgsm_is_one_signed_step(net, x, y) -> None:
    out = parse("fgsm-ce@8").build()(net, x, y, SampleNoise(IDS, 0))
    expected = (x + 8 / 255 * gradient(net, x, y).sign()).clamp(0, 1)
    torch.testing.assert_close(out.images, expected, atol=1e-6, rtol=0)


def test_momentum_is_dongs(net, x, y) -> None:
    out = parse("mifgsm5-ce@8").build()(net, x, y, SampleNoise(IDS, 0))
    images, velocity = x, torch.zeros_like(x)
    for _ in range(5):
        g = gradient(net, images, y)
        velocity = velocity + g / g.abs().mean((1, 2, 3), keepdim=True)
        images = x + (images + 1.6 / 255 * velocity.sign() - x).clamp(-8 / 255, 8 / 255)
        images = images.clamp(0, 1)
    torch.testing.assert_close(out.images, images, atol=1e-6, rtol=0)
    assert torch.equal(accumulate(g, velocity, 0.0), accumulate(g, torch.zeros_like(g), 1.0))


def test_scaled_copies_add_up(net, x, y) -> None:
    attack = parse("pgd1-ce@8/a8/none/si3").build()
    images = x.detach().requires_grad_()
    loss = sum(F.cross_entropy(net(images / s), y, reduction="sum") for s in (1, 2, 4))
    (g,) = torch.autograd.grad(loss, images)
    expected = (x + 8 / 255 * g.sign()).clamp(0, 1)
    found = attack(net, x, y, SampleNoise(IDS, 0)).images
    assert ((found - expected).abs() < 1e-6).float().mean() > 0.999


def test_smoothing_keeps_the_sum_and_the_shape() -> None:
    point = torch.zeros(1, 3, 11, 11)
    point[0, :, 5, 5] = 1
    found = smooth(point)
    assert found.shape == point.shape
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(1, 3))
    assert torch.equal(found[0, 0], found[0, 2]) and (found[0, 0, 3:8, 3:8] > 0).all() and found[0, 0, 2].sum() == 0
    torch.testing.assert_close(found[0, 0], found[0, 0].T)


@pytest.mark.parametrize("kind", sorted(DIVERSE))
def test_diverse_input_draws_for_each_image(kind: str, x) -> None:
    how, sides, applied = DIVERSE[kind], set(), 0
    ids = [f"{i}" for i in range(400)]
    many = torch.full((400, 3, 20, 20), 1.0)
    for image in diverse(many, how, SampleNoise(ids, 0)):
        black = (image == 0).any()
        sides.add(image.shape[-1])
        applied += bool(black)
        kept = int((image[0] > 0).any(1).sum())
        assert round(20 * how.low) <= kept <= max(20, round(20 * how.high))
    assert abs(applied / 400 - how.probability) < 0.08 or how.low == 0.9  # a slight one may draw the full side
    assert sides == ({20} if how.canvas == 1 else {20, 22})
    one, two = (diverse(x, how, SampleNoise(IDS, 0)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two))
    with pytest.raises(AttackError, match="square images"):
        diverse(x[..., :10], how, SampleNoise(IDS, 0))


def test_images_of_different_sides_keep_their_order(net) -> None:
    many = torch.rand(12, 3, 20, 20, generator=torch.Generator().manual_seed(2))
    ids = [str(i) for i in range(12)]
    together = through_diverse(net, many, DIVERSE["enlarge"], SampleNoise(ids, 0))
    alone = torch.cat([net(image[None]) for image in diverse(many, DIVERSE["enlarge"], SampleNoise(ids, 0))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_diverse_attacks_still_raise_the_loss(net, x, y) -> None:
    noise = SampleNoise(IDS, 0)
    with torch.no_grad():
        before = F.cross_entropy(net(x), y, reduction="none")
    for text in ("difgsm10-ce@16", "pgd10-ce@16/mi/ti/si2/di-shrink/none"):
        assert (parse(text).build()(net, x, y, noise).loss > before).all()
