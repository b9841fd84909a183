"""ZERO's votes, against examples worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.test_time import parse
from advpt.test_time.zero import count_votes
from tests.helpers.tiny_clip import central_differences, defended_model, images, vectors

# Views of four classes: for which class, and how far its logit is above the others, which are 0, 0.1, 0.2, 0.3 from
# class 0 on. The higher, the lower is the entropy.
View = tuple[int, float]


def views(*each: View) -> Tensor:
    logits = torch.arange(4.0).repeat(len(each), 1) / 10
    for row, (favourite, height) in zip(logits, each):
        row[favourite] = height
    return logits


def votes(kept: int, *each: View) -> tuple[list[int], int]:
    counted, winner = count_votes(views(*each)[None], kept)
    return counted[0].tolist(), int(winner)


def test_the_most_certain_views_vote() -> None:
    assert votes(3, (0, 2), (1, 9), (0, 3), (1, 8), (2, 7)) == ([0, 2, 1, 0], 1)
    assert votes(1, (0, 2), (1, 9), (0, 3)) == ([0, 1, 0, 0], 1)


def test_of_a_tie_the_first_other_view_for_one_of_the_tied_decides() -> None:
    assert votes(2, (0, 9), (2, 8), (3, 7), (2, 6), (0, 5)) == ([1, 0, 1, 0], 2), "the view for 3 is passed over"
    assert votes(2, (0, 9), (2, 8), (0, 5), (2, 6)) == ([1, 0, 1, 0], 2), "by rising entropy, not by number"
    assert votes(3, (0, 9), (2, 8), (3, 7), (1, 6), (3, 5)) == ([1, 0, 1, 1], 3), "of three"


def test_of_a_tie_without_such_a_view_the_logits_of_the_most_certain_other_view_decide() -> None:
    assert votes(2, (0, 9), (2, 8), (1, 7), (3, 6)) == ([1, 0, 1, 0], 2), "0.2 against 0"
    assert votes(2, (3, 9), (2, 8), (1, 7), (1, 6)) == ([0, 0, 1, 1], 3), "0.3 against 0.2"
    assert votes(2, (0, 8), (2, 9)) == ([1, 0, 1, 0], 2), "no other view: the most certain one's own"


def test_worked_example_of_eight_views() -> None:
    """Rows 3, 2, 6, 5 of the worked example are the most certain: for classes 1, 0, 0, 2; then 7 (class 0)."""
    logits = vectors("inputs")["logits8"][None]
    for kept, counted, winner in ((2, [1, 1, 0], 0), (3, [2, 1, 0], 0), (4, [2, 1, 1], 0), (1, [0, 1, 0], 1)):
        votes_of_each, wins = count_votes(logits, kept)
        assert (votes_of_each[0].tolist(), int(wins)) == (counted, winner)
    both = count_votes(torch.cat([logits, logits[:, :, [2, 0, 1]]]), 2)
    assert both[1].tolist() == [0, 1], "each image by itself"


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_logits_are_shares_of_votes_with_half_a_vote_for_the_winner(dtype: torch.dtype, tiny_clip: Backbone) -> None:
    defense = parse("zero/views=6/gamma=0.5").build(defended_model(tiny_clip))
    embeddings = torch.randn(5, 6, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    model = defense.model.classifier
    object.__setattr__(model, "features", model.features.to(dtype))
    logits = defense.combine(embeddings)  # type: ignore[attr-defined]
    counted, winner = count_votes(defense.logits_of_views(embeddings), 3)  # type: ignore[attr-defined]
    assert logits.dtype == dtype and torch.equal(logits.argmax(1), winner) and counted.sum(1).tolist() == [3] * 5
    assert torch.allclose(logits.sum(1), torch.full((5,), 3.5 / 3, dtype=dtype))
    gap = logits - counted / 3
    assert float(gap.max()) == pytest.approx(0.5 / 3, abs=1e-6) and float(gap.min()) >= -1e-6


def test_attackers_differentiate_the_kept_views(tiny_clip: Backbone) -> None:
    kept, mean = parse("zero").build(defended_model(tiny_clip)).variants()
    assert (kept.name, mean.name) == ("mean of kept views", "mean of views") and kept.parameters["kept"] == 2
    conf = parse("conf/rho=0.3").build(defended_model(tiny_clip)).variants()
    assert [each.parameters for each in conf] == [kept.parameters, mean.parameters], "one attack for both"
    for error in central_differences("zero"):
        assert error < 1e-4


def test_the_logit_scale_leaves_votes_alone(tiny_clip: Backbone) -> None:
    x, encode, model = images(3), tiny_clip.require_image(), defended_model(tiny_clip)
    all_vote = parse("zero/views=8/gamma=1").build(model)(x, ("a", "b", "c"), False, encode)
    object.__setattr__(model.classifier, "scale", 3 * model.classifier.scale)
    scaled = parse("zero/views=8/gamma=1").build(model)(x, ("a", "b", "c"), False, encode)
    assert torch.allclose(all_vote.sort().values[:, :2], scaled.sort().values[:, :2])
