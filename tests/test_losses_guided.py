"""Losses that keep a tuned tower near a frozen one: PMG-AFT's KLs, and TGA-ZSR's maps of where a class is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt import losses
from tests.helpers.fine_tuning import example

LABELS = torch.tensor([0, 2])


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def differentiable(loss: Callable[..., Tensor], *inputs: Tensor) -> None:
    """The gradient is that of central differences."""
    assert torch.autograd.gradcheck(loss, [x.clone().requires_grad_() for x in inputs])


# --- PMG-AFT ----------------------------------------------------------------------------------------------------------

# Logits of two images and three classes whose probabilities are simple: of (0, log 2, log 5) they are 1/8, 2/8, 5/8.
ATTACKED = torch.tensor([[1.0, 2, 5], [4, 2, 2]], dtype=torch.float64).log()
CLEAN = torch.tensor([[5.0, 2, 1], [2, 2, 4]], dtype=torch.float64).log()
FROZEN = torch.tensor([[2.0, 4, 2], [1, 6, 1]], dtype=torch.float64).log()
LOG2, LOG5, LOG3 = math.log(2), math.log(5), math.log(3)
CE = (3 * LOG2 + 2 * LOG2) / 2  # labels 0 and 2: probabilities 1/8 and 1/4
# KL(p || q) = sum p log(p / q), of each image.
GENERAL = {
    "target_is_reference": (0.75 * LOG2 + 0.25 * (LOG2 - LOG5), 0.75 * LOG3 - 0.375 * LOG2),
    "reverse": (-0.375 * LOG2 + 0.625 * (LOG5 - LOG2), 1.25 * LOG2 - 0.25 * LOG3),
}
OWN = {"target_is_reference": (0.5 * LOG5, 0.25 * LOG2), "reverse": (0.5 * LOG5, 0.25 * LOG2)}


@pytest.mark.parametrize("direction", losses.KL_DIRECTIONS)
@pytest.mark.parametrize("reduction", losses.KL_REDUCTIONS)
def test_pmg_aft_by_hand(direction: str, reduction: str) -> None:
    images = 2 if reduction == "mean" else 1
    loss, parts = losses.pmg_aft(
        ATTACKED, CLEAN, FROZEN, LABELS, alpha=0.7, beta=3.0, direction=direction, reduction=reduction
    )
    general, own = sum(GENERAL[direction]) / images, sum(OWN[direction]) / images
    assert parts["ce"].item() == pytest.approx(CE) and parts["general"].item() == pytest.approx(general)
    assert parts["clean"].item() == pytest.approx(own)
    assert loss.item() == pytest.approx(CE + 0.7 * general + 3 * own)


def pmg(*logits: Tensor, **options: object) -> Tensor:
    return losses.pmg_aft(*logits, LABELS, **options)[0]


@pytest.mark.parametrize(("direction", "reduction"), [*itertools.product(losses.KL_DIRECTIONS, losses.KL_REDUCTIONS)])
def test_pmg_aft_and_its_gradient(direction: str, reduction: str) -> None:
    chosen = {"direction": direction, "reduction": reduction, "alpha": 0.7, "beta": 2.0}
    differentiable(lambda a, c: pmg(a, c, FROZEN, **chosen), draw(2, 3, seed=1), draw(2, 3, seed=2))


def test_every_branch_of_pmg_aft_but_the_frozen_one_has_a_gradient() -> None:
    attacked, clean, frozen = (x.clone().requires_grad_() for x in (ATTACKED, CLEAN, FROZEN))
    both = torch.autograd.grad(pmg(attacked, clean, frozen), (attacked, clean, frozen), allow_unused=True)
    assert both[0].abs().max() > 0.01 and both[1].abs().max() > 0.01 and both[2] is None
    (through,) = torch.autograd.grad(pmg(attacked, clean, frozen, alpha=0.0), clean)
    (stopped,) = torch.autograd.grad(pmg(attacked, clean.detach(), frozen, alpha=0.0), clean, allow_unused=True)
    assert stopped is None and torch.allclose(through, both[1])


def test_the_kls_vanish_with_their_gradients_where_nothing_differs() -> None:
    attacked, clean = ATTACKED.clone().requires_grad_(), ATTACKED.clone().requires_grad_()
    for direction in losses.KL_DIRECTIONS:
        loss, parts = losses.pmg_aft(attacked, clean, ATTACKED, LABELS, direction=direction)
        assert parts["general"].abs() < 1e-12 and parts["clean"].abs() < 1e-12
        of_ce = torch.autograd.grad(F.cross_entropy(attacked, LABELS), attacked)[0]
        one, other = torch.autograd.grad(loss, (attacked, clean))
        assert (one - of_ce).abs().max() < 1e-12 and other.abs().max() < 1e-12


@pytest.mark.parametrize("scale", (1.0, 100.0))
def test_kls_are_not_negative_and_their_gradient_is_a_difference_of_probabilities(scale: float) -> None:
    attacked, clean, frozen = (draw(2, 3, seed=s, scale=scale).requires_grad_() for s in range(3))
    loss, parts = losses.pmg_aft(attacked, clean, frozen, LABELS, beta=0.0, reduction="sum")
    assert parts["general"] >= 0 and parts["clean"] >= 0 and torch.isfinite(loss)
    (gradient,) = torch.autograd.grad(loss - F.cross_entropy(attacked, LABELS), attacked)
    assert torch.allclose(gradient, attacked.softmax(-1) - frozen.softmax(-1), atol=1e-12)


def test_a_sum_doubles_with_the_batch_and_a_mean_does_not() -> None:
    twice = [x.repeat(2, 1) for x in (ATTACKED, CLEAN, FROZEN)]
    for reduction, times in (("mean", 1), ("sum", 2)):
        once = losses.pmg_aft(ATTACKED, CLEAN, FROZEN, LABELS, reduction=reduction)[1]
        again = losses.pmg_aft(*twice, LABELS.repeat(2), reduction=reduction)[1]
        assert again["ce"].item() == pytest.approx(once["ce"].item()), "the cross-entropy is a mean in all profiles"
        for part in ("general", "clean"):
            assert again[part].item() == pytest.approx(times * once[part].item())


# --- maps of where a class is -----------------------------------------------------------------------------------------

# Bilinear, 3 to 6, corners not aligned: nothing of the middle row reaches 1.
ENLARGE = np.array([[4, 0, 0], [3, 1, 0], [1, 3, 0], [0, 3, 1], [0, 1, 3], [0, 0, 4]]) / 4


@pytest.mark.parametrize(("axis", "section"), (("channels", "channels"), ("tokens", "tokens_released")))
def test_the_map_of_the_worked_example(axis: str, section: str) -> None:
    given, made = example("tga_map")
    tokens, text = given["tokens"], given["texts_of_true_class"]
    grid = losses.attention_map(tokens, text, (2, 2), axis=axis)
    torch.testing.assert_close(grid, made[section]["minmax"], rtol=0, atol=1e-6)
    large = losses.attention_map(tokens, text, (given["size"],) * 2, axis=axis)
    torch.testing.assert_close(large, made[section]["map_4x4_flat"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("axis", "section"), (("channels", "channels"), ("tokens", "tokens_released")))
def test_the_complementary_map_of_the_worked_example(axis: str, section: str) -> None:
    given, made = example("comp_tga_map")
    texts = given["texts_of_true_class"], given["texts_negated"]
    shown, negated = (losses.attention_map(given["tokens"], text, (4, 4), axis=axis) for text in texts)
    torch.testing.assert_close(losses.complement(shown, negated), made[section], rtol=0, atol=1e-6)


@pytest.mark.parametrize("first", (False, True))
def test_what_is_rescaled(first: bool) -> None:
    tokens, text = draw(4, 1 + 9, 5), draw(4, 5, seed=1)
    made = losses.attention_map(tokens, text, (6, 6), resize_first=first)
    for image, (mine, word) in enumerate(zip(tokens.numpy(), text.numpy())):
        cosines = mine[1:] @ word / np.linalg.norm(mine[1:], axis=1) / np.linalg.norm(word)
        large = ENLARGE @ cosines.reshape(3, 3) @ ENLARGE.T
        rescaled = large if first else cosines
        wanted = (large - rescaled.min()) / (rescaled.max() - rescaled.min())
        np.testing.assert_allclose(made[image].numpy(), wanted.ravel(), atol=1e-12)
    assert bool((made.amax(1) == 1).all()) == first


@pytest.mark.parametrize("axis", losses.AXES)
def test_what_a_map_depends_on(axis: str) -> None:
    tokens, text = draw(3, 1 + 9, 5), draw(3, 5, seed=1)
    grid = losses.attention_map(tokens, text, (3, 3), axis=axis)
    assert torch.equal(grid.amin(1), torch.zeros(3, dtype=grid.dtype)) and bool((grid.amax(1) == 1).all())
    for first in (False, True):
        large = losses.attention_map(tokens, text, (12, 12), axis=axis, resize_first=first)
        assert large.shape == (3, 144) and large.min() >= 0 and large.max() <= 1
        longer = losses.attention_map(tokens, 7 * text, (12, 12), axis=axis, resize_first=first)
        assert torch.allclose(large, longer, atol=1e-12)
    other = tokens.clone()
    other[:, 0] += 5  # the class token
    assert torch.allclose(losses.attention_map(other, text, (3, 3), axis=axis), grid) == (axis == "channels")
    longer = tokens.clone()
    longer[:, 4] *= 3  # one patch, or below one channel
    assert torch.allclose(losses.attention_map(longer, text, (3, 3), axis=axis), grid) == (axis == "channels")
    scaled = tokens * torch.tensor([1, 2, 3, 4, 5])
    assert torch.allclose(losses.attention_map(scaled, text, (3, 3), axis=axis), grid) == (axis == "tokens")
    alone = losses.attention_map(tokens[1:2], text[1:2], (3, 3), axis=axis)
    assert torch.allclose(alone, grid[1:2], atol=1e-12), "no other image counts"


def test_a_grid_that_is_no_square_is_row_by_row() -> None:
    text = torch.tensor([[1.0, 0.0]])
    patches = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1]])  # the class is at the top left
    tokens = torch.cat([torch.zeros(1, 2), patches])[None]
    made = losses.attention_map(tokens, text, (2, 3), grid=(2, 3)).view(2, 3)
    assert made.tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("first", (False, True))
def test_a_constant_map_is_finite(first: bool) -> None:
    tokens = torch.ones(1, 5, 3, dtype=torch.float64, requires_grad=True)
    maps = losses.attention_map(tokens, draw(1, 3), (4, 4), resize_first=first)
    assert not maps.any()
    loss, _ = losses.tga(ATTACKED[:1], LABELS[:1], maps, maps, draw(1, 16).sigmoid())
    (gradient,) = torch.autograd.grad(loss, tokens)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all() and gradient.abs().max() < 100


# --- TGA-ZSR ----------------------------------------------------------------------------------------------------------

MAPS = torch.tensor([[1.0, 0, 0, 1], [0, 3, 4, 0]], dtype=torch.float64)
OTHER = torch.tensor([[1.0, 2, 2, 2], [0, 3, 4, 0]], dtype=torch.float64)


def test_distances_of_maps_by_hand() -> None:
    assert losses.map_distance(MAPS, OTHER).tolist() == [3, 0]
    assert losses.map_distance(MAPS, OTHER, "l1").tolist() == [5 / 4, 0]
    cosine = losses.map_distance(MAPS, OTHER, "cosine").tolist()
    assert cosine == pytest.approx([1 - 3 / math.sqrt(2 * 13), 0])


@pytest.mark.parametrize(("distance", "apart"), (("l2", 3.0), ("l1", 1.25), ("cosine", 1 - 3 / math.sqrt(26))))
def test_tga_by_hand(distance: str, apart: float) -> None:
    still = OTHER.clone()
    loss, parts = losses.tga(ATTACKED, LABELS, MAPS, still, OTHER, alpha=0.5, beta=7.0, distance=distance)
    assert loss.item() == pytest.approx(CE + 0.5 * apart / 2)
    loss, parts = losses.tga(ATTACKED, LABELS, still, MAPS, OTHER, alpha=7.0, beta=0.5, distance=distance)
    assert loss.item() == pytest.approx(CE + 0.5 * apart / 2)
    assert parts["refinement"].item() == pytest.approx(0) and parts["constraint"].item() == pytest.approx(apart / 2)
    assert losses.tga(ATTACKED, LABELS, MAPS, MAPS, OTHER, alpha=0, beta=0)[0] == F.cross_entropy(ATTACKED, LABELS)


@pytest.mark.parametrize("distance", losses.DISTANCES)
def test_equal_maps_have_no_distance_and_no_gradient(distance: str) -> None:
    maps = MAPS.clone().requires_grad_()
    loss = losses.map_distance(maps, MAPS, distance).sum()
    (gradient,) = torch.autograd.grad(loss, maps)
    assert abs(loss.item()) < 1e-12 and gradient.abs().max() < 1e-12


@pytest.mark.parametrize(("axis", "first"), [*itertools.product(losses.AXES, (False, True))])
def test_the_gradient_through_the_map(axis: str, first: bool) -> None:
    text, reference = draw(2, 3, seed=1), draw(2, 16, seed=2).sigmoid()

    def loss(attacked: Tensor, clean: Tensor, logits: Tensor) -> Tensor:
        maps = [losses.attention_map(t, text, (4, 4), axis=axis, resize_first=first) for t in (attacked, clean)]
        return losses.tga(logits, LABELS, *maps, reference, alpha=0.8, beta=0.5)[0]

    differentiable(loss, draw(2, 5, 3, seed=3), draw(2, 5, 3, seed=4), draw(2, 3, seed=5))


@pytest.mark.parametrize("distance", losses.DISTANCES)
def test_the_gradient_of_complementary_maps(distance: str) -> None:
    text, negated, reference = draw(2, 3, seed=1), draw(2, 3, seed=6), draw(2, 16, seed=2).sigmoid()

    def loss(tokens: Tensor) -> Tensor:
        shown, hidden = (losses.attention_map(tokens, t, (4, 4)) for t in (text, negated))
        maps = losses.complement(shown, hidden)
        return losses.tga(ATTACKED, LABELS, maps, maps, reference, distance=distance)[0]

    differentiable(loss, draw(2, 5, 3, seed=3))
