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

# One block, worked by hand: tokens behind the norm and without prompts, two of them images, and three experts.
TOKENS = [[[-0.368, 0.671, 0.161], [-0.435, -0.944, 0.081], [0.969, 1.16, -1.86], [-0.651, -0.792, -0.395]],
          [[-1.154, 0.295, 1.554], [0.953, -0.572, 0.055], [0.21, 1.209, -0.089], [1.804, -0.373, -0.241]]]  # fmt: skip
GATE = [[1.353, -1.612, 0.838], [-0.387, -0.233, -2.874], [-0.956, 1.694, 1.426]]
EXPERTS = [[[0.267, -0.354, 0.331], [0.809, 0.101, -0.394]], [[-0.633, 0.093, -0.555], [0.639, 0.25, -0.146]],
           [[-0.419, 0.041, 0.426], [-0.414, 0.825, -0.67]]]  # fmt: skip
BASE = [[-0.162, -0.073, 0.067], [0.345, 0.492, -0.403]]
# raw tau and alpha; weights, contexts and balance of both images
WORKED = {
    "initial": (0.541325, 0.541325, [[0.068822, 0.266576, 0.664602], [0.042853, 0.002505, 0.954642]],
                [[[-0.428835, 0.027677, 0.157951], [-0.049127, 0.621892, -0.51132]],
                 [[-0.390139, 0.024203, 0.419471], [-0.358953, 0.792534, -0.65686]]], 0.114458),
    "clamped high": (2.0, 3.0, [[0.104645, 0.296551, 0.598804], [0.083352, 0.009383, 0.907265]],
                     [[[-0.65935, 0.103172, 0.183285], [-0.292502, 0.66544, -0.568451]],
                      [[-0.565657, 0.090128, 0.750754], [-0.94936, 1.026516, -0.881156]]], 0.088654),
    "clamped low": (-3.0, -2.0, [[0.029903, 0.206939, 0.763159], [0.011729, 0.000203, 0.988068]],
                    [[[-0.197638, -0.058664, 0.086439], [0.280962, 0.516416, -0.422079]],
                     [[-0.193605, -0.059117, 0.1124], [0.25051, 0.533174, -0.436465]]], 0.148175),
}  # fmt: skip


def worked(tau: float, alpha: float, router: str = "hybrid") -> Mixture:
    parts = (EXPERTS, BASE, GATE, [-0.045, -0.002, -0.01], tau, alpha)
    return Mixture(*(torch.tensor([part], dtype=torch.float64) for part in parts), router=router)


def drawn(e: int = 3, layers: int = 2, n: int = 2, d: int = 5, s: int = 0, seed: int = 0, router: str = "hybrid"):
    g, lead = torch.Generator().manual_seed(seed), (s,) if s else ()
    shapes = ((layers, e, n, d), (layers, n, d), (layers, e, d), (layers, e), (layers,), (layers,))
    return Mixture(*(torch.randn(*lead, *shape, generator=g, dtype=torch.float64) for shape in shapes), router=router)


def tokens(b: int = 4, t: int = 6, d: int = 5, seed: int = 9) -> Tensor:
    return torch.randn(b, t, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("case", WORKED)
def test_worked_block(case: str) -> None:
    tau, alpha, weights, context, balance = WORKED[case]
    mixture, x = worked(tau, alpha), torch.tensor(TOKENS, dtype=torch.float64)
    close = {"rtol": 0, "atol": 2e-6}
    torch.testing.assert_close(mixture.weights(1, x), torch.tensor(weights, dtype=torch.float64), **close)
    torch.testing.assert_close(mixture.prompts(1, x), torch.tensor(context, dtype=torch.float64), **close)
    assert losses.balance(mixture.weights(1, x)).item() == pytest.approx(balance, abs=1e-6)
    assert losses.diversity(mixture.experts).item() == pytest.approx(0.084702, abs=1e-6)


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
    start, x = drawn(s=samples, seed=4), tokens().requires_grad_()
    inside = {"tau": torch.tensor([0.4, 0.6]), "alpha": torch.tensor([0.3, -1.0])}  # where no range cuts off
    inside = {name: value.double().expand(samples, 2) if samples else value.double() for name, value in inside.items()}
    start = dataclasses.replace(start, **inside)
    target = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

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
        mixture.prompts(1, torch.tensor(TOKENS, dtype=torch.float64))[0, 0, 0].backward()
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
