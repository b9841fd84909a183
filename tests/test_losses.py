"""Losses against formulas written out by hand, and against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt import losses
from tests.helpers.fine_tuning import example


def test_advpt_is_cross_entropy_of_scaled_cosines() -> None:
    g = torch.Generator().manual_seed(0)
    features, text = torch.randn(5, 7, generator=g) * 3, torch.randn(4, 7, generator=g) * 0.1
    labels = torch.tensor([0, 3, 1, 1, 2])
    f, t = features.double().numpy(), text.double().numpy()
    cosine = (f @ t.T) / np.linalg.norm(f, axis=1)[:, None] / np.linalg.norm(t, axis=1)[None]
    odds = np.exp(20.0 * cosine)
    expected = -np.log(odds[np.arange(5), labels.numpy()] / odds.sum(1)).mean()
    assert losses.advpt(features, text, 20.0, labels).item() == pytest.approx(expected, rel=1e-5)


def test_lengths_do_not_matter_and_the_gradient_goes_to_the_text() -> None:
    features, labels = torch.randn(5, 7), torch.tensor([0, 1, 2, 0, 1])
    text = torch.randn(3, 7, requires_grad=True)
    loss = losses.advpt(features, text, 10.0, labels)
    assert torch.allclose(losses.advpt(features * 9, text * 0.3, 10.0, labels), loss, rtol=1e-4)
    (gradient,) = torch.autograd.grad(loss, text)
    along = (gradient * text).sum(1) / text.norm(dim=1)
    assert gradient.norm() > 1e-3
    assert along.abs().max() < 1e-5  # a longer vector changes nothing


LABELS = torch.tensor([0, 1, 2, 1])


def logits(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


def softmax(row: list[float]) -> list[float]:
    e = [math.exp(v - max(row)) for v in row]
    return [v / sum(e) for v in e]


def kl_by_hand(p: Tensor, q: Tensor) -> list[float]:
    rows = zip(p.double().tolist(), q.double().tolist())
    return [sum(a * math.log(a / b) for a, b in zip(softmax(one), softmax(other))) for one, other in rows]


def test_divergence() -> None:
    reference, attacked = logits(0), logits(1).requires_grad_()
    found = losses.divergence(reference, attacked)
    assert found.tolist() == pytest.approx(kl_by_hand(reference, attacked), rel=1e-4, abs=1e-6)
    reverse = losses.divergence(reference, attacked, "reverse")
    assert reverse.tolist() == pytest.approx(kl_by_hand(attacked, reference), rel=1e-4, abs=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), attacked)
    assert torch.allclose(gradient, attacked.softmax(-1) - reference.softmax(-1), atol=1e-6)
    assert losses.divergence(reference, reference).abs().max() < 1e-6
    half = losses.divergence(reference.bfloat16(), attacked.bfloat16())
    assert half.dtype == torch.float32


def test_fap_by_hand() -> None:
    clean, attacked = logits(0).requires_grad_(), logits(1).requires_grad_()
    one, other = (torch.randn(4, 5, generator=torch.Generator().manual_seed(s)) for s in (2, 3))
    loss, parts = losses.fap(clean, attacked, one, other, LABELS, 1.5)
    kl, total = kl_by_hand(clean, attacked), 0.0
    for a, b, k in zip(one.tolist(), other.tolist(), kl):
        cos = sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)
        total += (1 + cos) * k / 4
    ce = sum(-math.log(softmax(row)[y]) for row, y in zip(clean.tolist(), LABELS.tolist())) / 4
    assert loss.item() == pytest.approx(ce + 1.5 * total, rel=1e-5)
    assert float(parts["ce"]) == pytest.approx(ce, rel=1e-5)
    assert float(parts["kl"]) == pytest.approx(sum(kl) / 4, rel=1e-5)
    loss.backward()
    assert clean.grad is not None and attacked.grad is not None and attacked.grad.abs().sum() > 0


def capt(alpha: float, weight: float, clean: Tensor, attacked: Tensor, frozen: Tensor, **more: object) -> Tensor:
    each = torch.full((4,), alpha)
    return losses.capt(clean, attacked, frozen, LABELS, each, weight=weight, **more)[0]


@pytest.mark.parametrize("scale", (1.0, 10.0, 100.0))
def test_capt_contains_trades_distillation_and_clean_tuning(scale: float) -> None:
    clean, attacked, frozen = (logits(s, scale).requires_grad_() for s in range(3))
    assert torch.isfinite(capt(0.5, 1.0, clean, attacked, frozen))
    assert torch.allclose(capt(0.0, 2.0, clean, attacked, frozen), losses.trades(clean, attacked, LABELS, 2.0)[0])
    distilled = F.cross_entropy(clean, LABELS) + 2 * losses.divergence(frozen, attacked).mean()
    assert torch.allclose(capt(1.0, 2.0, clean, attacked, frozen), distilled)
    assert torch.allclose(capt(0.3, 0.0, clean, attacked, frozen), F.cross_entropy(clean, LABELS))


def test_capt_mixes_per_image_and_its_options_do_what_they_say() -> None:
    clean, attacked, frozen = (logits(s).requires_grad_() for s in range(3))
    alpha = torch.tensor([0.0, 1.0, 0.25, 0.5])
    train, guided = losses.divergence(clean, attacked), losses.divergence(frozen, attacked)
    expected = F.cross_entropy(clean, LABELS) + 3 * ((1 - alpha) * train + alpha * guided).mean()
    loss, parts = losses.capt(clean, attacked, frozen, LABELS, alpha, weight=3.0)
    assert torch.allclose(loss, expected)
    assert float(parts["alpha"]) == pytest.approx(0.4375) and not parts["ce"].requires_grad
    assert torch.allclose(parts["kl"], train.mean()) and torch.allclose(parts["kl_frozen"], guided.mean())

    reverse = capt(0.0, 1.0, clean, attacked, frozen, direction="reverse")
    by_hand = sum(kl_by_hand(attacked, clean)) / 4
    assert (reverse - F.cross_entropy(clean, LABELS)).item() == pytest.approx(by_hand, rel=1e-4)
    warm = capt(0.0, 1.0, clean, attacked, frozen, temperature=2.0)
    assert (warm - F.cross_entropy(clean, LABELS)).item() == pytest.approx(
        sum(kl_by_hand(clean / 2, attacked / 2)) / 4, rel=1e-4
    )
    through = torch.autograd.grad(capt(0.0, 1.0, clean, attacked, frozen), clean)[0]
    stopped = torch.autograd.grad(capt(0.0, 1.0, clean, attacked, frozen, detach_clean=True), clean)[0]
    ce_alone = torch.autograd.grad(F.cross_entropy(clean, LABELS), clean)[0]
    assert torch.allclose(stopped, ce_alone) and not torch.allclose(through, ce_alone)
    assert torch.autograd.grad(loss, frozen, allow_unused=True) == (None,), "the frozen model gets no gradient"


RIGHT, WRONG = torch.tensor([[6.0, 0.0, 0.0]]), torch.tensor([[0.0, 6.0, 0.0]])


@pytest.mark.parametrize(
    ("rule", "expected"),
    (("confidence", (0.5, 0.998, 0.002, 0.5)), ("loss", (0.5, 0.999, 0.001, 0.5)), ("entropy", (0.5, 0.5, 0.5, 0.5))),
)
def test_rules_for_alpha(rule: str, expected: tuple[float, ...]) -> None:
    """Both right, tuned wrong, frozen wrong, both wrong (section 1.5 of the specification)."""
    label = torch.tensor([0])
    cases = ((RIGHT, RIGHT), (WRONG, RIGHT), (RIGHT, WRONG), (WRONG, WRONG))
    for (clean, frozen), wanted in zip(cases, expected):
        assert float(losses.capt_alpha(rule, clean, frozen, label, 0.0)) == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("rule", (*losses.ALPHA_RULES, "const"))
@pytest.mark.parametrize("scale", (1.0, 10.0, 100.0, 1e4))
def test_alpha_is_a_share_without_gradient(rule: str, scale: float) -> None:
    clean, frozen = logits(0, scale).requires_grad_(), logits(1, scale).requires_grad_()
    alpha = losses.capt_alpha(rule, clean, frozen, LABELS, 0.7)
    assert alpha.shape == (4,) and bool(((alpha >= 0) & (alpha <= 1)).all()) and not alpha.requires_grad


def test_trades_by_hand():
    clean, attacked = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    labels = torch.tensor([0, 1])

    def softmax(row):
        e = [math.exp(v) for v in row]
        return [v / sum(e) for v in e]

    ce = sum(-math.log(softmax(row)[y]) for row, y in zip(clean.tolist(), labels.tolist())) / 2
    kl = 0.0
    for one, other in zip(clean.tolist(), attacked.tolist()):
        kl += sum(p * (math.log(p) - math.log(q)) for p, q in zip(softmax(one), softmax(other))) / 2
    assert float(losses.trades(clean, attacked, labels, 6.0)[0]) == pytest.approx(ce + 6 * kl, rel=1e-5)
    clean.requires_grad_()
    attacked.requires_grad_()
    losses.trades(clean, attacked, labels, 6.0)[0].backward()
    assert clean.grad.abs().sum() > 0 and attacked.grad.abs().sum() > 0, "the KL's gradient flows through both branches"


def test_tecoas_worked_example() -> None:
    given, made = example("tecoa")
    features = given["features_adv"].requires_grad_()
    loss = losses.advpt(features, given["texts"], given["scale"], given["labels"])
    assert loss.item() == pytest.approx(made["loss"], abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(gradient, made["gradient"], rtol=0, atol=1e-5)
    arguments = (given["texts"], given["scale"], given["labels"])
    assert torch.autograd.gradcheck(lambda f: losses.advpt(f, *arguments), features)


def test_fares_worked_example() -> None:
    given, made = example("fare")
    attacked, clean = given["embedding_adv"].requires_grad_(), given["embedding_orig_clean"]
    loss = losses.fare(attacked, clean)
    assert loss.item() == pytest.approx(made["l2"], abs=1e-5)
    assert losses.fare(attacked, clean, "l1").item() == pytest.approx(made["l1"], abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, attacked)
    torch.testing.assert_close(gradient, made["gradient_l2"], rtol=0, atol=1e-5)
    assert F.mse_loss(attacked, clean).item() == pytest.approx(made["mse_wrong"], abs=1e-5)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_fare_is_a_distance_of_embeddings_as_they_are(norm: str) -> None:
    g = torch.Generator().manual_seed(0)
    attacked, clean = (torch.randn(3, 5, generator=g, dtype=torch.float64) for _ in range(2))
    loss = losses.fare(attacked, clean, norm)
    mean = F.mse_loss(attacked, clean) if norm == "l2" else F.l1_loss(attacked, clean)
    torch.testing.assert_close(loss, 5 * mean)
    power = 2 if norm == "l2" else 1
    torch.testing.assert_close(losses.fare(3 * attacked, 3 * clean, norm), 3**power * loss)
    at_rest = clean.clone().requires_grad_()
    nothing = losses.fare(at_rest, clean, norm)
    assert nothing == 0 and not torch.autograd.grad(nothing, at_rest)[0].any()
    assert torch.autograd.gradcheck(lambda a: losses.fare(a, clean, norm), attacked.requires_grad_())
