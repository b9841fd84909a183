"""Losses against formulas written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from advpt import losses


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
