"""Objectives against formulas written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from advpt.attacks.objectives import AT_REST, OBJECTIVES, is_wrong

Y = torch.tensor([0, 2, 1, 2])


def softmax(values: np.ndarray) -> np.ndarray:
    e = np.exp(values - values.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(out: np.ndarray, clean: np.ndarray) -> np.ndarray:
    p, q = softmax(clean), softmax(out)
    return (p * (np.log(p) - np.log(q))).sum(1)


def ce(out: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return -np.log(softmax(out)[np.arange(4), Y.numpy()])


def margin(out: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return np.array([max(np.delete(row, label)) - row[label] for row, label in zip(out, Y.tolist())])


ORACLES = {
    "fkl": kl,
    "kl": kl,
    "ce": ce,
    "margin": margin,
    "target": lambda out, clean: -ce(out, clean),
    "l2": lambda out, clean: ((out - clean) ** 2).sum(1),
    "l1": lambda out, clean: abs(out - clean).sum(1),
}


@pytest.fixture
def outputs() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return 3 * torch.randn(4, 3, generator=g), 3 * torch.randn(4, 3, generator=g)


@pytest.mark.parametrize("name", ORACLES)
def test_formula(name: str, outputs: tuple[Tensor, Tensor]) -> None:
    out, clean = outputs
    found = OBJECTIVES[name].loss(out, clean, Y)
    assert found.shape == (4,)  # one number per image
    expected = ORACLES[name](out.double().numpy(), clean.double().numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_number_per_image_that_depends_on_that_image_alone(name: str, outputs: tuple[Tensor, Tensor]) -> None:
    out, clean = outputs
    loss = OBJECTIVES[name].loss
    together = loss(out, clean, Y)
    for i in range(4):
        assert torch.allclose(loss(out[i : i + 1], clean[i : i + 1], Y[i : i + 1]), together[i : i + 1])


def test_kl_is_from_clean_to_adversarial_not_back(outputs: tuple[Tensor, Tensor]) -> None:
    out, clean = outputs
    loss = OBJECTIVES["fkl"].loss
    assert not torch.allclose(loss(out, clean, Y), loss(clean, out, Y), rtol=0.05)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_some_have_no_gradient_at_the_clean_image_and_say_so(name: str, outputs: tuple[Tensor, Tensor]) -> None:
    _, clean = outputs
    for moved, at_rest in ((clean, name in AT_REST), (clean + 0.1 * torch.randn(4, 3), False)):
        point = moved.clone().requires_grad_()
        loss = OBJECTIVES[name].loss(point, clean, Y)
        (gradient,) = torch.autograd.grad(loss.sum(), point)
        assert (loss.abs().max() < 1e-6) == at_rest
        assert (gradient.abs().max() < 1e-6) == at_rest


def test_margin_is_positive_where_the_image_is_misclassified(outputs: tuple[Tensor, Tensor]) -> None:
    out, clean = outputs
    assert torch.equal(OBJECTIVES["margin"].loss(out, clean, Y) > 0, is_wrong(out, Y))
    assert is_wrong(out, out.argmax(1)).sum() == 0


def test_what_each_objective_says_of_itself() -> None:
    assert OBJECTIVES["fkl"].space == "embedding" and not OBJECTIVES["fkl"].uses_labels
    for name, objective in OBJECTIVES.items():
        assert objective.name == name and objective.summary
        g = torch.Generator().manual_seed(1)
        out, clean = torch.randn(4, 3, generator=g), torch.randn(4, 3, generator=g)
        same = torch.equal(objective.loss(out, clean, Y), objective.loss(out, clean, (Y + 1) % 3))
        assert same == (not objective.uses_labels)
