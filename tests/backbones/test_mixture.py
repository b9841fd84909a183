"""The router of TAME's prompts: worked values by hand, its limits, and its gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advpt import losses
from advpt.backbones.mixture import ALPHA, LEARNED, RAW_ONE, ROUTERS, TAU, Mixture, VisualMixture, visual_tensors
from tests.helpers.fine_tuning import example

INPUTS, OUTPUTS = example("tame_block")  # tokens behind the norm and without prompts; two images, three experts


def worked(tau: float, alpha: float) -> Mixture:
    parts = (INPUTS[name] for name in ("experts", "base", "gate_weight", "gate_bias"))
    return Mixture(*(part[None] for part in parts), torch.tensor([tau]).double(), torch.tensor([alpha]).double())


def drawn(e: int = 3, layers: int = 2, n: int = 2, d: int = 5, s: int = 0, seed: int = 0, router: str = "hybrid"):
    g, lead = torch.Generator().manual_seed(seed), (s,) if s else ()
    shapes = ((layers, e, n, d), (layers, n, d), (layers, e, d), (layers, e), (layers,), (layers,))
    return Mixture(*(torch.randn(*lead, *shape, generator=g, dtype=torch.float64) for shape in shapes), router=router)


def tokens(b: int = 4, t: int = 6, d: int = 5, seed: int = 9) -> Tensor:
    return torch.randn(b, t, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("case", ("initial", "clamped_high", "clamped_low"))
def test_worked_block(case: str) -> None:
    expected, x = OUTPUTS[case], INPUTS["tokens"]
    mixture = worked(float(expected["raw_tau"]), float(expected["raw_alpha"]))
    weights = mixture.weights(1, x)
    for name, made in (("weights", weights), ("context", mixture.prompts(1, x))):
        torch.testing.assert_close(made, expected[name], rtol=0, atol=2e-6)
    assert losses.balance(weights).item() == pytest.approx(expected["balance"], abs=2e-6)
    assert losses.diversity(mixture.experts).item() == pytest.approx(OUTPUTS["diversity"], abs=1e-6)
    assert INPUTS["lambda"] == ROUTERS["hybrid"]


@given(e=st.integers(1, 4), n=st.integers(1, 3), t=st.integers(1, 6), s=st.integers(0, 3), seed=st.integers(0, 99),
       router=st.sampled_from(sorted(ROUTERS)))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_what_holds_for_every_mixture(e: int, n: int, t: int, s: int, seed: int, router: str) -> None:
    mixture, x = drawn(e, 2, n, 5, s, seed, router), tokens(2 * (s or 1), t, seed=seed)
    weights, made = mixture.weights(2, x), mixture.prompts(2, x)
    assert weights.shape == (len(x), e) and made.shape == (len(x), n, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(x), dtype=torch.float64))
    order = torch.randperm(e, generator=torch.Generator().manual_seed(seed))
    gate = {name: getattr(mixture, name)[..., order, :] for name in ("gate_weight",)}
    other = dataclasses.replace(
        mixture, experts=mixture.experts[..., order, :, :], gate_bias=mixture.gate_bias[..., order], **gate
    )
    torch.testing.assert_close(other.prompts(2, x), made)  # experts have no order
    for i in range(s):  # many samples at once
        one = Mixture(*(part[i] for part in mixture.named().values()), router=router)
        torch.testing.assert_close(one.prompts(2, x[2 * i : 2 * i + 2]), made[2 * i : 2 * i + 2])
    if router == "cls":
        assert torch.equal(mixture.weights(2, torch.cat([x[:, :1], 1 + x[:, 1:]], 1)), weights)
    if e == 1:
        torch.testing.assert_close(mixture.prompts(2, x + 1), made)


def test_limits() -> None:
    mixture, x = drawn(), tokens()
    off = dataclasses.replace(mixture, alpha=torch.full((2,), -800.0, dtype=torch.float64))
    assert torch.equal(off.prompts(1, x), mixture.base[0].expand(4, -1, -1)), "without a residual the base remains"
    same = dataclasses.replace(mixture, experts=mixture.base[:, None].expand(-1, 3, -1, -1))
    assert torch.equal(same.prompts(2, x), mixture.base[1].expand(4, -1, -1)), "equal experts are plain prompts"
    one = torch.nn.functional.softplus(torch.tensor(RAW_ONE, dtype=torch.float64))
    assert one.item() == pytest.approx(1, abs=1e-9)
    assert (TAU, ALPHA, ROUTERS) == ((0.7, 1.3), (0.0, 2.0), {"hybrid": 0.7, "cls": 1.0, "token_mean": 0.0})


def test_half_precision_leaves_the_router_in_float32() -> None:
    mixture, x = drawn().each(Tensor.float), tokens().float()
    expected = mixture.prompts(1, x.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = mixture.prompts(1, x.bfloat16())
    assert made.dtype == mixture.weights(1, x.bfloat16()).dtype == torch.float32
    assert torch.equal(made, expected)


@pytest.mark.parametrize("samples", (0, 2))
def test_gradients_against_central_differences(samples: int) -> None:
    start, x = drawn(2, n=1, d=3, s=samples, seed=4), tokens(t=3, d=3).requires_grad_()
    inside = {"tau": torch.tensor([0.4, 0.6]), "alpha": torch.tensor([0.3, -1.0])}  # where no range cuts off
    inside = {name: value.double().expand(samples, 2) if samples else value.double() for name, value in inside.items()}
    start = dataclasses.replace(start, **inside)
    target = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        mixture = Mixture(*values)
        made = sum((mixture.prompts(layer, x) * target).square().sum() for layer in (1, 2))
        return made + losses.balance(mixture.weights(1, x)) + losses.diversity(mixture.experts.flatten(0, -4))

    values = [getattr(start, name).detach().clone().requires_grad_() for name in LEARNED]
    assert torch.autograd.gradcheck(loss, (x, *values), atol=1e-6)
    assert torch.autograd.gradgradcheck(lambda *v: loss(x.detach(), *v), tuple(values), atol=1e-5), "for attackers"


def test_no_gradient_where_a_range_cuts_off_and_none_for_the_base_at_first() -> None:
    for raw, moves in ((RAW_ONE, True), (-3.0, False), (3.0, False)):
        mixture = worked(raw, RAW_ONE).each(lambda part: part.clone().requires_grad_())
        mixture.prompts(1, INPUTS["tokens"])[0, 0, 0].backward()
        assert (mixture.tau.grad.abs().item() > 1e-6) == moves
        assert mixture.base.grad.abs().max() < 1e-9, "with a residual scale of 1 the context is the mixture"
        assert mixture.alpha.grad.abs() > 1e-6 and mixture.gate_weight.grad.abs().max() > 1e-3


def test_losses_of_experts() -> None:
    equal = torch.full((6, 4), 0.25)
    assert losses.balance(equal).item() == 0 and losses.balance(torch.eye(4)[[0, 0]]).item() == pytest.approx(0.1875)
    assert losses.diversity(torch.ones(2, 1, 3, 4)).item() == 0, "one expert has no pair"
    assert losses.diversity(torch.ones(2, 3, 3, 4)).item() == pytest.approx(2)
    assert losses.diversity(torch.tensor([[[[1.0, 0]], [[-1.0, 0]]]])).item() == 0, "apart is apart enough"


def test_the_weights_of_every_block_can_be_kept() -> None:
    kept: list[Tensor] = []
    mixture, x = dataclasses.replace(drawn(), routed=kept), tokens()
    mixture.prompts(1, x), mixture.prompts(2, x)
    assert torch.equal(torch.stack(kept), torch.stack([mixture.weights(1, x), mixture.weights(2, x)]))
    assert mixture.each(Tensor.detach).routed is None


def test_every_tensor_and_the_router_are_in_the_digest() -> None:
    plain = torch.zeros(2, 2, 5)
    assert visual_tensors(plain).keys() == {"visual"}
    names = {"visual", *(f"visual {name}" for name in LEARNED)}
    mixtures = [VisualMixture(plain[0], drawn(router=router)) for router in ROUTERS]
    assert all(names < visual_tensors(each).keys() for each in mixtures)
    assert len({frozenset(visual_tensors(each)) for each in mixtures}) == 3
