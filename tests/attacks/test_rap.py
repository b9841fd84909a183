"""RAP: its inner step, its profiles, and that it is the plain iterative attack where it should be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.attacks import SampleNoise, parse
from advpt.attacks.noise import choose_targets
from advpt.attacks.surrogate import Surrogate, small_cnn
from advpt.errors import AttackError, ConfigError

N, K = 6, 4
IDS = [f"{i}.png" for i in range(N)]
OFF = "late{0}/n16/inner3"


@pytest.fixture(scope="module")
def net() -> Surrogate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, head = small_cnn(K)
        body.train()(torch.rand(64, 3, 16, 16))  # batch norms that have seen something
    return Surrogate("small-cnn", body, head, "untrained")


@pytest.fixture
def x() -> Tensor:
    return torch.rand(N, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def y() -> Tensor:
    return torch.arange(N) % K


def noise(seed: int = 0) -> SampleNoise:
    return SampleNoise(IDS, seed)


@pytest.mark.parametrize("more", ("", "/uniform", "/mi/ti", "/si3", "/di-shrink"))
@pytest.mark.parametrize("objective", ("ce", "logit", "target-logit"))
def test_without_an_inner_loop_it_is_the_plain_attack(net, x, y, more: str, objective: str) -> None:
    rap = parse(f"rap6-{objective}@16/a2/late6{more}").build()(net, x, y, noise())
    start = "" if "uniform" in more else "/none"
    pgd = parse(f"pgd6-{objective}@16/a2{start}{more}").build()(net, x, y, noise())
    for name in ("images", "loss", "stage", "distance"):
        assert torch.equal(getattr(rap, name), getattr(pgd, name)), name


def test_the_inner_loop_changes_the_images_from_its_step_on(net, x, y) -> None:
    plain, late, early = (parse(f"rap6@16/late{t}").build()(net, x, y, noise()).images for t in (6, 4, 0))
    assert not torch.equal(plain, late) and not torch.equal(late, early)


def test_batch_norms_are_not_moved(net, x, y) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parse("rap4@16/late1/mi/ti/si2/di-enlarge").build()(net, x, y, noise())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training and all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("eps_n", (4.0, 16.0))
def test_the_neighbour_is_near_and_worst_for_the_attacker(net, x, y, eps_n: float) -> None:
    x = x.clone()
    x[0] = x[0].round()
    attack = parse(f"rap4@16/n{eps_n}").build()
    found = attack.worst_neighbour(net, x, y, noise())
    assert (found - x).abs().max() <= eps_n / 255 + 1e-6
    assert found.min() >= 0 and found.max() <= 1 and not found.requires_grad
    start = (x + noise().uniform(x, -eps_n / 255, eps_n / 255)).clamp(0, 1)
    ce = [F.cross_entropy(net(images), y, reduction="none") for images in (found, start, x)]
    assert (ce[0] < ce[1]).all() and (ce[0] < ce[2]).all()  # back to the true class


def test_the_neighbour_of_a_targeted_attack_is_away_from_the_target(net, x, y) -> None:
    found = parse("rap4-target@16").build().worst_neighbour(net, x, y, noise())
    assert (F.cross_entropy(net(found), y, reduction="none") > F.cross_entropy(net(x), y, reduction="none")).all()


@pytest.mark.parametrize("objective", ("target", "target-logit"))
def test_targeted_attacks_reach_for_the_target(net, x, y, objective: str) -> None:
    target = choose_targets(y, K, IDS, 0)
    assert (target != y).all() and target.min() >= 0 and target.max() < K
    out = parse(f"rap20-{objective}@16").build()(net, x, target, noise())
    before, after = (net(images).gather(1, target[:, None]) for images in (x, out.images))
    assert (after > before).all() and (out.stage == -1).all()


def test_targets_belong_to_images(y) -> None:
    turned = choose_targets(y.flip(0), K, IDS[::-1], 0).flip(0)
    assert torch.equal(turned, choose_targets(y, K, IDS, 0))
    assert {choose_targets(torch.tensor([1]), 3, ["a"], seed).item() for seed in range(20)} == {0, 2}
    with pytest.raises(AttackError, match="at least two classes"):
        choose_targets(y, 1, IDS, 0)


@pytest.mark.parametrize("more", ("", "/di-enlarge", "/di-shrink"))
def test_an_image_gets_the_same_in_every_batch(net, x, y, more: str) -> None:
    attack = parse(f"rap4@16/late1{more}").build()
    whole = attack(net, x, y, noise()).images
    rows = [4, 1]
    part = attack(net, x[rows], y[rows], SampleNoise([IDS[i] for i in rows], 0)).images
    assert ((part - whole[rows]).abs() < 1e-6).float().mean() > 0.99  # a sign may turn where a gradient is nearly zero


def test_profiles() -> None:
    released = "rap400-logit@16/a2/late400/n16/inner8/uniform/di-shrink"
    for text, full in (
        ("rap@16", "rap400-ce@16/a2/late100/n16/inner8"),
        ("rap400@16/rap-ls", "rap400-ce@16/a2/late100/n16/inner8"),
        ("rap400@16/advpt-released", released),
        ("rap400@16/di-logit", "rap400-logit@16/a2/late400/n16/inner8/di-enlarge"),
        ("rap400@16/di-logit/late0", "rap400-logit@16/a2/late0/n16/inner8/di-enlarge"),
        ("rap400-ce@16/advpt-released", released.replace("logit", "ce")),
        ("rap300-target@8/late0/n12/mi0.9/ti/si5", "rap300-target@8/a2/late0/n12/inner8/mi0.9/ti/si5"),
    ):
        assert str(parse(text)) == full and parse(full) == parse(text)
    assert str(parse("rap400@16", "released")) == released
    assert parse("rap400@16", "paper") == parse("rap400@16")
    assert str(parse("rap400@16/rap-ls", "released")) == "rap400-ce@16/a2/late100/n16/inner8"
    assert parse("rap400@16").build().parameters()["late_start"] == 100


@pytest.mark.parametrize(
    ("text", "says"),
    (
        ("rap4@8/late5", "late_start=5"),
        ("rap4@8/inner0", "inner_steps=0"),
        ("rap4-fkl@8", "unknown objective 'fkl'"),
        ("rap4@8/l2", "option 'l2' is not one of"),
        ("rap4@8/di-slant", "unknown diverse input 'slant'"),
        ("rap4@8/lat3", "'lat3' is not one of .*lateSTEP"),
        ("pgd4-ce@8/di-enlarge", "unknown diverse input 'enlarge'"),
    ),
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(text)
