"""The linear probe against scikit-learn called by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from advpt.errors import DataError
from advpt.prompts.linear import LinearClassifier
from advpt.tuning.linear_probe import GRID, Data, fit, search


def data(classes=3, n=60, d=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    features = rng.normal(size=(n, d)) + 1.2 * np.eye(max(classes, d))[labels][:, :d]
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_scikit_learns(classes):
    x, y = data(classes)
    probe = fit(x, y, classes, 0.5)
    by_hand = LogisticRegression(C=0.5, max_iter=1000).fit(x.double().numpy(), y.numpy())
    head = LinearClassifier(probe.weight, 1.0, probe.bias)
    assert probe.weight.shape == (classes, 5) and probe.converged
    np.testing.assert_allclose(head.logits(x).softmax(1).numpy(), by_hand.predict_proba(x.double().numpy()), atol=1e-4)
    assert probe.accuracy(x, y) == pytest.approx(100 * by_hand.score(x.double().numpy(), y.numpy()))
    assert head.digest != LinearClassifier(probe.weight, 1.0, probe.bias + 1).digest


def test_the_search_takes_the_best_c_on_the_validation_images():
    x, y = data()
    val_x, val_y = data(seed=1)
    probe, tried = search(Data(x, y, val_x, val_y, 3))
    assert {c for c, _ in tried} >= set(GRID) and len(tried) <= len(GRID) + 2 + 8
    assert probe.accuracy(val_x, val_y) == max(a for _, a in tried)


def test_a_class_without_images_is_a_sentence():
    x, y = data()
    with pytest.raises(DataError, match="1 of 4 have none, the first is class number 3"):
        fit(x, y, 4, 1.0)
