"""Classifiers of prompts: ensembles of templates, and their digest."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from advpt.attacks.objectives import OBJECTIVES
from advpt.errors import PromptError
from advpt.prompts.classifier import Classifier, from_templates
from tests.helpers.prompts import tokenize

# --- classifier ---------------------------------------------------------------------------------------------------


def test_ensemble_is_the_normalised_mean_of_normalised_features(towers) -> None:
    model, encoder = towers
    templates, names = ["a photo of a {}.", "a blurry {}", "{}"], ["cat", "great_white_shark"]
    made = from_templates(encoder, names, templates, 50.0)
    with torch.no_grad():
        each = [model.encode_text(tokenize([t.format(n.replace("_", " ")) for n in names])) for t in templates]
        mean = torch.stack([F.normalize(e, dim=-1) for e in each]).mean(0)
    assert torch.allclose(made.features, F.normalize(mean, dim=-1), atol=1e-5)
    assert not made.features.requires_grad
    embeddings = torch.randn(4, 64)
    cosine = F.cosine_similarity(embeddings[:, None], made.features[None], dim=-1)
    assert torch.allclose(made.logits(embeddings), 50 * cosine, atol=1e-4)


def test_templates_that_cannot_be_used(towers) -> None:
    _, encoder = towers
    with pytest.raises(PromptError, match="no template"):
        from_templates(encoder, ["cat"], [], 1.0)
    with pytest.raises(PromptError, match="'a photo' has no {}"):
        from_templates(encoder, ["cat"], ["a photo"], 1.0)


def dlr(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """AutoAttack's difference of logits ratio (Croce & Hein, ICML 2020)."""
    ordered = logits.sort(1, descending=True).values
    return OBJECTIVES["margin"].loss(logits, logits, labels) / (ordered[:, 0] - ordered[:, 2])


def test_a_bias_changes_probabilities_and_nothing_else() -> None:
    """Logits, and with them predictions and attacks, know differences between classes alone."""
    made, embeddings = Classifier(F.normalize(torch.randn(4, 8), dim=-1), 12.0), torch.randn(5, 8)
    logits = made.logits(embeddings)
    assert torch.equal(made.probabilities(embeddings), logits.softmax(-1))
    each = made.probabilities(embeddings, -10.0)
    assert torch.allclose(each, 1 / (1 + (10 - logits).exp())) and torch.equal(each.argmax(1), logits.argmax(1))
    labels = torch.tensor([0, 1, 2, 3, 0])
    for name in ("ce", "kl", "margin"):
        one, other = (OBJECTIVES[name].loss(moved, moved.flip(1), labels) for moved in (logits, logits - 10))
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5), name
    assert torch.allclose(dlr(logits, labels), dlr(logits - 10, labels), rtol=1e-4)


def test_classifier_digest_depends_on_features_and_scale() -> None:
    features = torch.eye(3)
    digests = {
        Classifier(features, 100.0).digest,
        Classifier(features, 50.0).digest,
        Classifier(features[[1, 0, 2]], 100.0).digest,
    }
    digests |= {Classifier(features, 100.0, visual=torch.full((1, 2, 4), value)).digest for value in (0.0, 1.0)}
    assert len(digests) == 5
    assert Classifier(features.clone(), 100.0).digest in digests
