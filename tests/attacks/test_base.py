"""What every registered attack must keep, on every objective and norm that it accepts."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advpt.attacks import ATTACKS, Attack, SampleNoise
from advpt.attacks.objectives import OBJECTIVES
from advpt.errors import AdvPTError, AttackError
from advpt.files import digest

IDS = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "b/3.jpg"]


def make(name: str, objective: str, norm: str, **wanted: Any) -> Attack:
    """The attack with a few steps; keywords that its constructor does not know are left out."""
    cls = ATTACKS.get(name)
    keywords = {"eps": 8.0, "steps": 6, "objective": objective, "norm": norm} | wanted
    known = inspect.signature(cls.__init__).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in known.values())
    return cls(**{k: v for k, v in keywords.items() if free or k in known})


# Images made elsewhere have no objective and no forward pass: their contract is in test_attack_files.py.
CARRIED_OUT = [name for name in ATTACKS if ATTACKS.get(name).source_model != "files"]


def accepted() -> list[tuple[str, str, str]]:
    found = []
    for name in CARRIED_OUT:
        for objective in OBJECTIVES:
            for norm in ("linf", "l2"):
                try:
                    attack = make(name, objective, norm)
                except AdvPTError:
                    continue
                if (attack.objective.name, attack.norm) == (objective, norm):
                    found.append((name, objective, norm))
    return found


ACCEPTED = accepted()
everywhere = pytest.mark.parametrize(("name", "objective", "norm"), ACCEPTED)
# Attacks that may give an image back as it was (AutoAttack) are not bound to gain on every image.
ascending = pytest.mark.parametrize(
    ("name", "objective", "norm"), [c for c in ACCEPTED if ATTACKS.get(c[0]).perturbs_all]
)


def test_pgd_takes_every_objective_and_norm() -> None:
    assert {(o, n) for name, o, n in ACCEPTED if name == "pgd"} == {(o, n) for o in OBJECTIVES for n in ("linf", "l2")}
    assert {name for name, _, _ in ACCEPTED} == set(CARRIED_OUT) == set(ATTACKS) - {"files"}


class Net(nn.Module):
    """A small network that looks at one image at a time, so that a batch cannot change a bit of it."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(192, 16, generator=g) / 4)
        self.second = nn.Parameter(torch.randn(16, 5, generator=g))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([torch.tanh(row.reshape(1, -1) @ self.first) @ self.second for row in pixels])


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def x() -> Tensor:
    pixels = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    pixels[0].round_()  # one image lies on the walls of the box
    return pixels


@pytest.fixture
def y() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4])


def brighter(pixels: Tensor) -> Tensor:
    """Two outputs whose best attack is known: change every pixel in the same direction."""
    total = 20 * (pixels - 0.5).flatten(1).mean(1)
    return torch.stack([-total, total], 1)


@everywhere
@pytest.mark.parametrize("eps", (1.0, 16.0))
def test_reaches_but_never_leaves_the_ball(name: str, objective: str, norm: str, eps: float) -> None:
    x = torch.full((3, 3, 8, 8), 0.5)
    out = make(name, objective, norm, eps=eps, steps=20)(
        brighter, x, torch.zeros(3, dtype=torch.int64), SampleNoise(IDS[:3], 0)
    )
    delta = (out.images - x).flatten(1)
    size = 255 * (delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1))
    assert torch.equal(out.distance, size)
    assert (size <= eps + 1e-3).all()
    if name == "pgd":
        assert (size >= eps - 1e-3).all()
        assert (delta.sum(1).abs() > 0.5 * delta.abs().sum(1)).all()  # in the direction that is best
        assert out.changed.all()


@everywhere
def test_stays_in_the_box_and_comes_back_clean(name: str, objective: str, norm: str, net, x, y) -> None:
    before = x.clone()
    out = make(name, objective, norm, eps=64.0)(net, x, y, SampleNoise(IDS, 0))
    assert torch.equal(x, before) and not x.requires_grad
    assert out.images.min() >= 0 and out.images.max() <= 1
    assert out.images.shape == x.shape
    for value, dtype in (
        (out.images, torch.float32),
        (out.loss, torch.float32),
        (out.distance, torch.float32),
        (out.changed, torch.bool),
        (out.stage, torch.int64),
    ):
        assert value.dtype == dtype and not value.requires_grad and len(value) == 5
    assert all(p.grad is None for p in net.parameters())


@ascending
def test_the_reported_loss_is_that_of_the_images_and_above_the_start(name, objective, norm, net, x, y) -> None:
    attack = make(name, objective, norm)
    out = attack(net, x, y, SampleNoise(IDS, 0))
    with torch.no_grad():
        clean = net(x)
        assert torch.allclose(out.loss, attack.objective.loss(net(out.images), clean, y), atol=1e-6)
        start = (x + SampleNoise(IDS, 0).uniform(x, -attack.radius, attack.radius)) if norm == "linf" else x
        at_start = attack.objective.loss(net(attack.project(start, x)), clean, y)
    assert (out.loss >= at_start).all() and (out.loss > at_start).any()


@everywhere
def test_global_random_state_is_not_touched(name: str, objective: str, norm: str, net, x, y) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    make(name, objective, norm)(net, x, y, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@everywhere
def test_follows_its_seed(name: str, objective: str, norm: str, net, x, y) -> None:
    attack = make(name, objective, norm, steps=2)

    def images(seed: int) -> Tensor:
        return attack(net, x, y, torch.Generator().manual_seed(seed)).images

    assert torch.equal(images(1), images(1))
    if ATTACKS.get(name).perturbs_all:
        assert not torch.equal(images(1), images(2))
    assert torch.equal(attack(net, x, y, SampleNoise(IDS, 1)).images, attack(net, x, y, SampleNoise(IDS, 1)).images)


@everywhere
def test_works_where_gradients_are_switched_off(name: str, objective: str, norm: str, net, x, y) -> None:
    attack = make(name, objective, norm)
    expected = attack(net, x, y, SampleNoise(IDS, 0)).images
    with torch.no_grad():
        assert torch.equal(attack(net, x, y, SampleNoise(IDS, 0)).images, expected)
        assert not torch.is_grad_enabled()
    net.requires_grad_(False)
    assert torch.equal(attack(net, x, y, SampleNoise(IDS, 0)).images, expected)


def test_an_attack_has_to_say_that_it_looks_at_one_image_at_a_time() -> None:
    assert not Attack.by_image
    assert {name for name in ATTACKS if ATTACKS.get(name).by_image} == {"pgd", "rap"}


@pytest.mark.parametrize(("name", "objective", "norm"), [c for c in ACCEPTED if ATTACKS.get(c[0]).by_image])
def test_an_image_gets_the_same_in_every_batch(name: str, objective: str, norm: str, net, x, y) -> None:
    attack = make(name, objective, norm, restarts=2)
    whole = attack(net, x, y, SampleNoise(IDS, 7))
    for rows in ([0], [3], [4, 3, 2, 1, 0], [1, 4], [2, 0, 3]):
        part = attack(net, x[rows], y[rows], SampleNoise([IDS[i] for i in rows], 7))
        assert torch.equal(part.images, whole.images[rows])
        assert torch.equal(part.stage, whole.stage[rows])


@everywhere
@pytest.mark.parametrize("shift", (-0.01, 0.01, float("nan")))
def test_pixels_outside_the_box_are_refused(name, objective, norm, shift: float, net, y) -> None:
    for edge in (0.0, 1.0):
        pixels = torch.full((5, 3, 8, 8), edge)
        pixels[2, 1, 4, 4] += shift
        if pixels.min() >= 0 and pixels.max() <= 1:
            continue
        with pytest.raises(AttackError, match=r"need pixels in \[0, 1\], got"):
            make(name, objective, norm)(net, pixels, y, SampleNoise(IDS, 0))


@everywhere
def test_half_precision_images_are_refused(name: str, objective: str, norm: str, net, x, y) -> None:
    with pytest.raises(AttackError, match="float32, got torch.float16"):
        make(name, objective, norm)(net, x.half(), y, SampleNoise(IDS, 0))


@ascending
def test_damaged_weights_are_noticed(name: str, objective: str, norm: str, net, x, y) -> None:
    with torch.no_grad():
        net.first[3, 3] = float("nan")
    with pytest.raises(AttackError, match=f"{name}: a non-finite image, objective or gradient; check the encoder"):
        make(name, objective, norm)(net, x, y, SampleNoise(IDS, 0))


@everywhere
def test_one_image_with_a_non_finite_output_is_noticed(name: str, objective: str, norm: str, net, x, y) -> None:
    def forward(pixels: Tensor) -> Tensor:
        out = net(pixels)
        return torch.cat([out[:-1], out[-1:] * float("inf")])

    with pytest.raises(AttackError, match="non-finite"):
        make(name, objective, norm)(forward, x, y, SampleNoise(IDS, 0))


@everywhere
def test_parameters_are_json_and_determine_the_attack(name: str, objective: str, norm: str) -> None:
    attack = make(name, objective, norm)
    found = attack.parameters()
    assert found["name"] == name and found["objective"] == objective and found["norm"] == norm
    assert "version" in found and found["eps"] == 8.0
    assert digest(found) == digest(make(name, objective, norm, eps=8).parameters())  # 8 is 8.0
    assert digest(found) != digest(make(name, objective, norm, eps=7.9).parameters())
    assert type(attack).__name__ in repr(attack) and "eps=8.0" in repr(attack)


# --- the base class -------------------------------------------------------------------------------------------------


class Reckless(Attack):
    """Proposes whatever it is told to."""

    name = "reckless"

    def __init__(self, propose, norm: str = "linf", loss: float = 0.0) -> None:
        super().__init__(eps=8.0, norm=norm)
        self.propose, self.value = propose, loss

    def run(self, forward, x, y, noise):
        return self.propose(x), torch.full((len(x),), self.value), torch.zeros(len(x), dtype=torch.int64)


@pytest.mark.parametrize("norm", ("linf", "l2"))
@pytest.mark.parametrize("propose", (lambda x: x + 1, lambda x: x - 3, lambda x: torch.rand_like(x) * 9 - 4))
def test_proposals_outside_the_ball_are_brought_back(norm: str, propose, net, x, y) -> None:
    out = Reckless(propose, norm)(net, x, y, SampleNoise(IDS, 0))
    assert out.distance.max() <= 8 + 1e-3
    assert out.images.min() >= 0 and out.images.max() <= 1
    delta = (out.images - x).flatten(1)
    assert torch.allclose(out.distance, 255 * (delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)))


def test_what_the_base_class_refuses(net, x, y) -> None:
    noise = SampleNoise(IDS, 0)
    with pytest.raises(AttackError, match="non-finite"):
        Reckless(lambda x: x / 0 * 0)(net, x, y, noise)
    with pytest.raises(AttackError, match="non-finite"):
        Reckless(lambda x: x, loss=float("inf"))(net, x, y, noise)
    with pytest.raises(AttackError, match=r"returned shape \[1, 3, 8, 8\] for images \[5, 3, 8, 8\]"):
        Reckless(lambda x: x[:1])(net, x, y, noise)


def test_double_precision_proposals_come_back_as_float32(net, x, y) -> None:
    out = Reckless(lambda x: x.double() + 0.01)(net, x, y, SampleNoise(IDS, 0))
    assert out.images.dtype == torch.float32


def test_a_projection_that_does_not_project_is_caught(net, x, y) -> None:
    attack = Reckless(lambda x: (x + 0.2).clamp(0, 1))
    attack.project = lambda images, x: images
    with pytest.raises(AttackError, match=r"reckless left its budget: distance 51\.\d+/255 > eps 8.0/255"):
        attack(net, x, y, SampleNoise(IDS, 0))


def test_unchanged_images_say_so(net, x, y) -> None:
    out = Reckless(lambda x: torch.cat([x[:2], x[2:] * 0.999]))(net, x, y, SampleNoise(IDS, 0))
    assert out.changed.tolist() == [False, False, True, True, True]
    assert out.distance[:2].tolist() == [0, 0]


@pytest.mark.parametrize("eps", (0, -1, 255.5, float("nan"), float("inf")))
def test_budgets_out_of_range(eps: float) -> None:
    with pytest.raises(AttackError, match=r"give eps in units of 1/255, in \(0, 255\]"):
        make("pgd", "ce", "linf", eps=eps)


def test_unknown_norm_and_objective() -> None:
    with pytest.raises(AttackError, match="norm linf or l2"):
        make("pgd", "ce", "l1")
    with pytest.raises(AttackError, match="unknown objective 'kfl'. Did you mean 'f?kl'"):
        make("pgd", "kfl", "linf")


@pytest.mark.parametrize("where", ["output", "gradient"])
def test_a_gradient_that_is_not_a_number_is_an_error_and_not_a_step_of_nothing(where: str) -> None:
    """sign(NaN) is 0 in torch: without a look at it the images would stay at their random start."""
    attack = make("pgd", "ce", "linf", steps=3)
    calls = 0

    def forward(pixels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        out = pixels.flatten(1)[:, :5] * 3
        if calls == 2:  # the first step's
            if where == "gradient":
                out.register_hook(lambda gradient: gradient * float("nan"))
            else:
                out = out * float("nan")
        return out

    generator = torch.Generator().manual_seed(0)
    with pytest.raises(AttackError, match="non-finite"):
        attack(forward, torch.rand(2, 3, 8, 8, generator=generator), torch.tensor([0, 1]), generator)
