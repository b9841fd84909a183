"""PGD: its step rule, its starts, its restarts, its two norms, and what official profiles do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advpt.attacks.noise import SampleNoise
from advpt.attacks.objectives import AT_REST, OBJECTIVES
from advpt.attacks.pgd import PGD, PROFILES, default_step
from advpt.errors import AttackError
from tests.helpers.fine_tuning import example

IDS = ["1", "2", "3", "4"]
Y = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def x() -> Tensor:
    return torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2


@pytest.fixture
def net():
    g = torch.Generator().manual_seed(1)
    first, second = torch.randn(108, 12, generator=g) / 3, torch.randn(12, 3, generator=g)
    return lambda pixels: torch.sin(2 * pixels.flatten(1) @ first) @ second


class Spy:
    """Keeps every batch that goes through a network."""

    def __init__(self, net) -> None:
        self.net, self.seen = net, []

    def __call__(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels.detach().clone())
        return self.net(pixels)


@pytest.mark.parametrize(
    ("objective", "eps", "steps", "step"),
    (
        ("fkl", 8, 10, 1.0),
        ("fkl", 16, 40, 0.5),
        ("ce", 4, 100, 0.1),
        ("ce", 8, 10, 2.0),
        ("margin", 8, 10, 2.0),
        ("ce", 8, 2, 8.0),  # never above the budget
        ("ce", 8, 1, 8.0),
        ("fkl", 8, 1, 8.0),
    ),
)
def test_step_rule(objective: str, eps: float, steps: int, step: float) -> None:
    assert default_step(objective, eps, steps) == pytest.approx(step)
    attack = PGD(eps=eps, steps=steps, objective=objective)
    assert attack.step == pytest.approx(step)
    assert isinstance(attack.parameters()["step"], float)


def test_every_step_moves_each_pixel_by_the_step_size(net, x) -> None:
    spy = Spy(net)
    out = PGD(eps=8, steps=4, step=1.5, objective="ce", start="none")(spy, x, Y, SampleNoise(IDS, 0))
    points = spy.seen[1:]  # after the clean images
    assert torch.equal(points[0], x) and torch.equal(points[-1], out.images)
    for before, after in zip(points, points[1:]):
        assert torch.allclose((after - before).abs() * 255, torch.full_like(x, 1.5), atol=1e-3)


def test_steps_follow_the_sign_of_the_gradient(net, x) -> None:
    out = PGD(eps=8, steps=1, step=3, objective="ce", start="none")(net, x, Y, SampleNoise(IDS, 0))
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(OBJECTIVES["ce"].loss(net(point), None, Y).sum(), point)
    assert torch.allclose(out.images, x + 3 / 255 * gradient.sign(), atol=1e-6)


def test_l2_steps_have_the_length_of_the_step_and_follow_the_gradient(net, x) -> None:
    out = PGD(eps=100, steps=1, step=30, objective="ce", norm="l2", start="none")(net, x, Y, SampleNoise(IDS, 0))
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(OBJECTIVES["ce"].loss(net(point), None, Y).sum(), point)
    delta = (out.images - x).flatten(1)
    assert torch.allclose(delta.norm(dim=1) * 255, torch.full((4,), 30.0), atol=1e-2)
    assert torch.allclose(torch.cosine_similarity(delta, gradient.flatten(1)), torch.ones(4), atol=1e-4)
    assert torch.allclose(out.distance, torch.full((4,), 30.0), atol=1e-2)


def test_l2_projection() -> None:
    attack = PGD(eps=51, steps=1, norm="l2", objective="ce")  # radius 0.2
    x = torch.full((2, 3, 4, 4), 0.5)
    far, near = x.clone(), x.clone()
    far[:, 0, 0, 0] += 0.3
    far[:, 1, 1, 1] += 0.4  # length 0.5
    near[:, 0, 0, 0] += 0.1
    projected = attack.project(far, x)
    assert torch.allclose(projected - x, (far - x) * 0.4, atol=1e-6)
    assert torch.allclose(attack.project(near, x), near)
    assert torch.equal(attack.project(x, x), x)
    assert torch.allclose(attack.measure(far - x), torch.full((2,), 0.5 * 255))


def test_fkl_starts_away_from_the_clean_image_because_its_gradient_vanishes_there(net, x) -> None:
    point = x.clone().requires_grad_()
    loss = OBJECTIVES["fkl"].loss(net(point), net(x).detach(), Y)
    (gradient,) = torch.autograd.grad(loss.sum(), point)
    assert gradient.abs().max() < 1e-6
    for objective in AT_REST:
        with pytest.raises(AttackError, match=f"'{objective}' has no gradient at the clean image"):
            PGD(eps=8, steps=4, objective=objective, start="none")


def first_points(profile: str, x: Tensor, net) -> Tensor:
    """The images at which the first gradient is taken."""
    spy, chosen = Spy(net), PROFILES[profile]
    attack = PGD(eps=8, steps=2, objective="fkl", start=chosen.start, clip_first=chosen.clip_first)
    attack(spy, x, Y, SampleNoise(IDS, 0))
    return spy.seen[1]


def test_profile_released_starts_one_sided_and_unclipped(net, x) -> None:
    released = first_points("released", x, net) - x
    assert released.min() >= -1e-6 and released.max() <= 8 / 255 + 1e-6
    assert 3.5 < released.mean() * 255 < 4.5
    white = torch.ones(4, 3, 6, 6)
    assert first_points("released", white, net).max() > 1
    for profile in ("sound", "paper"):
        start = first_points(profile, x, net) - x
        assert start.min() < -7 / 255 and start.max() > 7 / 255 and abs(start.mean()) * 255 < 0.7
        assert first_points(profile, white, net).max() <= 1
        assert first_points(profile, 0 * white, net).min() >= 0


def test_profiles_resize_bank_images_as_their_sources_do() -> None:
    assert {name: p.bank_interpolation for name, p in PROFILES.items()} == {
        "sound": "bicubic",
        "paper": "bilinear",
        "released": "bilinear",
    }


def test_gaussian_start_is_trades(net, x) -> None:
    spy = Spy(net)
    PGD(eps=8, steps=1, objective="kl", start="gaussian")(spy, x, Y, SampleNoise(IDS, 0))
    assert (spy.seen[1] - x).std().item() == pytest.approx(0.001, rel=0.2)


@pytest.mark.parametrize("norm", ("linf", "l2"))
@pytest.mark.parametrize("objective", ("ce", "fkl"))
def test_restarts_keep_the_best_of_each_image(objective: str, norm: str, net, x) -> None:
    def attack(restarts: int):
        made = PGD(eps=16 if norm == "linf" else 64, steps=3, objective=objective, norm=norm, restarts=restarts)
        return made(net, x, Y, SampleNoise(IDS, 0))

    one, many = attack(1), attack(6)  # the first restart is the same in both
    assert (many.loss >= one.loss).all() and (many.loss > one.loss).any()
    same = many.loss == one.loss
    assert torch.equal(many.images[same], one.images[same])
    with torch.no_grad():
        found = OBJECTIVES[objective].loss(net(many.images), net(x), Y)
    assert torch.allclose(many.loss, found, atol=1e-5)


def test_stage_says_whether_the_image_was_broken(net, x) -> None:
    labels = net(x).argmax(1)
    out = PGD(eps=4, steps=5, objective="ce")(net, x, labels, SampleNoise(IDS, 0))
    wrong = net(out.images).argmax(1) != labels
    assert torch.equal(out.stage == 0, wrong) and set(out.stage.tolist()) <= {0, -1}
    assert (PGD(eps=4, steps=5, objective="fkl")(net, x, labels, SampleNoise(IDS, 0)).stage == -1).all()


def test_targeted_goes_to_the_label_it_is_given(net, x) -> None:
    labels = net(x).argmax(1)
    aim = (labels + 1) % 3
    before = net(x).softmax(1).gather(1, aim[:, None])
    out = PGD(eps=16, steps=20, objective="target")(net, x, aim, SampleNoise(IDS, 0))
    after = net(out.images).softmax(1).gather(1, aim[:, None])
    assert (after > before).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    (
        ({"steps": 0}, "steps=0"),
        ({"restarts": 0}, "restarts=0"),
        ({"start": "middle"}, "start='middle'"),
        ({"step": 0}, "step=0"),
        ({"step": -1.0}, "step=-1.0"),
        ({"restarts": 2, "start": "none"}, "restarts need a random start"),
    ),
)
def test_values_that_cannot_be_used(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(AttackError, match=says):
        PGD(**({"eps": 8, "steps": 5} | wrong))


# --- worked examples: FARE's and TeCoA's attacks ---------------------------------------------------------------------


class Scripted:
    """A model of two logits whose gradient at pixels, in the objective ``logit``, is given for each step."""

    def __init__(self, gradients: Tensor) -> None:
        self.gradients, self.points = list(gradients), []

    def __call__(self, pixels: Tensor) -> Tensor:
        slope = self.gradients[min(len(self.points), len(self.gradients) - 1)]
        if pixels.requires_grad:
            self.points.append(pixels.detach())
        true = -(pixels * slope).flatten(1).sum(1)
        return torch.stack([true, torch.zeros_like(true)], 1)


def trajectory(gradients: Tensor, image: Tensor, start: Tensor, **settings: float) -> Tensor:
    """``[steps, n]`` changes in 1/255 after each step from an unclipped start, all ``[n]``."""
    x, model = image.float()[None, None, None], Scripted(gradients.float())
    attack = PGD(objective="logit", steps=len(gradients), clip_first=False, **settings)  # type: ignore[arg-type]
    attacked = attack.starting_at(x + start.float() / 255)(model, x, torch.tensor([0]), SampleNoise(["1"], 0))
    return torch.stack([255 * (point - x).flatten() for point in (*model.points[1:], attacked.images)])


def test_fares_steps_and_its_momentum_that_changes_nothing() -> None:
    given, made = example("fare_pgd_step")
    image, start, gradients = given["image"][0], given["start_255"][0], given["gradients"]
    budget = {"eps": given["eps_255"], "step": given["step_255"]}
    plain = trajectory(gradients, image, start, **budget)
    torch.testing.assert_close(plain.double(), made["without"], rtol=0, atol=1e-4)
    moved = (gradients != 0).all(0)  # the momentum is of signs: it decides where the gradient is exactly 0 alone
    torch.testing.assert_close(plain.double()[:, moved], made["with_momentum"][:, moved], rtol=0, atol=1e-4)


def velocity(gradients: Tensor, x: Tensor, start: Tensor, eps: float, decay: float) -> Tensor:
    """FARE's ascent: the sign of ``decay`` times the last sign and that of the gradient."""
    delta, v = start, torch.zeros_like(x)
    for gradient in gradients:
        v = (decay * v + gradient.sign()).sign()
        delta = ((x + (delta + v).clamp(-eps, eps) / 255).clamp(0, 1) - x) * 255
    return delta


def test_fares_momentum_is_none_where_no_gradient_is_zero() -> None:
    g = torch.Generator().manual_seed(3)
    gradients, x = torch.randn(6, 40, generator=g), torch.rand(40, generator=g)
    start = 4 * torch.rand(40, generator=g) - 2
    theirs = velocity(gradients, x, start, 2.0, 0.9)
    assert torch.equal(theirs, velocity(gradients, x, start, 2.0, 0.0))
    torch.testing.assert_close(trajectory(gradients, x, start, eps=2.0, step=1.0)[-1], theirs, rtol=0, atol=1e-4)


def test_tecoas_two_steps_of_a_linear_model() -> None:
    given, made = example("pgd2_linear")
    x, points = given["image"].float()[None, None, None], []

    def model(pixels: Tensor) -> Tensor:
        points.append(pixels.detach())
        return pixels.flatten(1) @ given["W"].float().T

    start = x + given["start_255"].float() / 255
    attack = PGD(eps=1, steps=2, step=1, objective="ce").starting_at(start)
    attacked = attack(model, x, torch.tensor([given["label"]]), SampleNoise(["1"], 0))
    deltas = torch.stack([255 * (point - x).flatten() for point in (*points[1:3], attacked.images)])
    torch.testing.assert_close(deltas.double(), made["deltas_255"], rtol=0, atol=1e-4)


# --- another model's output in the place of the attacked one's -------------------------------------------------------


def test_an_attack_may_compare_with_another_model(net, x) -> None:
    other = net(x) + 1
    spy = Spy(net)
    attack = PGD(eps=8, steps=2, objective="l2")
    attacked = attack.against(other)(spy, x, Y, SampleNoise(IDS, 0))
    assert len(spy.seen) == 3, "the clean images are not embedded"
    assert attack.given_clean is None, "the attack is as it was"
    torch.testing.assert_close(attacked.loss, (net(attacked.images) - other).square().sum(1))
    assert not torch.equal(attacked.images, attack(net, x, Y, SampleNoise(IDS, 0)).images)
    same = attack.against(net(x))(net, x, Y, SampleNoise(IDS, 0))
    assert torch.equal(same.images, attack(net, x, Y, SampleNoise(IDS, 0)).images)
