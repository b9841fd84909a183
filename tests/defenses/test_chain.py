"""Chains of defenses: one stream of random numbers, and gradients through all stages."""

from __future__ import annotations

import torch

from advpt.defenses.chain import Chain
from advpt.defenses.rescale import RandomRescale
from advpt.defenses.super_resolution import SuperResolution
from tests.helpers.defenses import noise


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


def test_stages_of_a_chain_share_one_stream(pixels):
    chain = Chain("x", (RandomRescale(), RandomRescale()))
    draws = noise()
    assert torch.equal(chain(pixels, noise()), chain.stages[1](chain.stages[0](pixels, draws), draws))
