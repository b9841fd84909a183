"""MTA: the worked example with its trace, and properties."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.errors import ConfigError
from advpt.test_time import parse
from advpt.test_time.mta import ModeSearch, MtaSettings, bandwidths
from tests.helpers.tiny_clip import DTYPES, central_differences, toy_model, vectors

EXAMPLE = MtaSettings(neighbours=0.3)  # of five other views: one


def search(dtype: torch.dtype = torch.float64, settings: MtaSettings = EXAMPLE, text: int = 1) -> ModeSearch:
    inputs = vectors("inputs", dtype)
    features = F.normalize(inputs["features_raw"], dim=-1)[None]
    words = F.normalize(inputs["text_raw"], dim=-1) * text
    return ModeSearch(features, (inputs["scale"] * features @ words.T).softmax(-1), settings)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_worked_example(dtype: torch.dtype) -> None:
    expected, modes, close = vectors("mta", dtype), search(dtype), DTYPES[dtype]
    torch.testing.assert_close(modes.bandwidth[0], expected["bandwidth_squared"], **close)
    torch.testing.assert_close(modes.affinity[0], expected["affinity"], **close)
    mode, log_y = modes.start()
    for outer in range(1, 6):
        mode, log_y = modes.round(mode, log_y)
        for stage in expected["trace"]:
            if stage["outer"] == outer:
                torch.testing.assert_close(mode[0], stage["mode"], **close)
                torch.testing.assert_close(log_y[0].exp(), stage["inlierness"], **close)
    inputs = vectors("inputs", dtype)
    defense = parse("mta").build(toy_model(inputs["text_raw"], inputs["scale"]))
    for views in ([0, 1, 2, 3, 4, 5], [0, 4, 5, 2, 1, 3]):
        logits = defense.combine(inputs["features_raw"][None, views])  # type: ignore[attr-defined]
        torch.testing.assert_close(logits[0], expected["logits"], **close)


def test_inlierness_is_a_distribution_and_the_mode_has_length_one() -> None:
    mode, y = search().run()
    torch.testing.assert_close(y.sum(1), torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(mode.norm(dim=1), torch.ones(1, dtype=torch.float64))
    assert float(y.min()) >= 0 and float(y[0, [3, 5]].max()) < 1e-8, "views of other classes count for nothing"


def test_outliers_hardly_move_the_mode() -> None:
    whole = search()
    without = ModeSearch(whole.features[:, [0, 1, 2, 4]], whole.predictions[:, [0, 1, 2, 4]], EXAMPLE)
    assert max(1, int(0.3 * 3)) == 1, "the same number of neighbours"
    assert float((whole.run()[0] - without.run()[0]).abs().max()) < 1e-6


def test_a_high_entropy_weight_makes_inlierness_equal() -> None:
    y = search(settings=dataclasses.replace(EXAMPLE, lambda_y=1e6)).run()[1]
    torch.testing.assert_close(y, torch.full((1, 6), 1 / 6, dtype=torch.float64), atol=1e-5, rtol=0)


def test_text_has_no_influence_without_agreement() -> None:
    alone, weighted = (dataclasses.replace(EXAMPLE, lambda_q=weight) for weight in (0.0, 4.0))
    assert torch.equal(search(settings=alone).run()[0], search(settings=alone, text=-1).run()[0])
    assert not torch.allclose(search(settings=weighted).run()[0], search(settings=weighted, text=-1).run()[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("views", (1, 2, 4, 6))
def test_equal_views_give_the_plain_logits(views: int, dtype: torch.dtype) -> None:
    inputs = vectors("inputs", dtype)
    model = toy_model(inputs["text_raw"], inputs["scale"])
    same = inputs["features_raw"][:2, None].expand(-1, views, -1)
    logits = parse("mta").build(model).combine(same)  # type: ignore[attr-defined]
    torch.testing.assert_close(logits, model.classifier.logits(same[:, 0]), **DTYPES[dtype])


def test_bandwidths_leave_a_view_itself_out() -> None:
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    assert bandwidths(features, 1)[0].tolist() == pytest.approx([1e-12, 1e-12, 1.0, 1.0])
    assert bandwidths(features, 3)[0].tolist() == pytest.approx([1.0, 1.0, 1.0, 5 / 3])


def test_an_image_ends_when_it_stays_whatever_others_do() -> None:
    one = search()
    other = F.normalize(torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0)).double(), dim=-1)
    words = F.normalize(vectors("inputs")["text_raw"], dim=-1)
    predictions = (10 * other @ words.T).softmax(-1)
    together = ModeSearch(torch.cat([one.features, other]), torch.cat([one.predictions, predictions]), EXAMPLE).run()
    for i, alone in enumerate((one, ModeSearch(other, predictions, EXAMPLE))):
        for ours, expected in zip(together, alone.run()):
            torch.testing.assert_close(ours[i], expected[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("wrong", ("lambda_y=0", "lambda_q=-1", "neighbours=0", "rounds=0", "inner=0"))
def test_settings_out_of_range_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse(f"mta/{wrong}")


def test_gradients_through_all_rounds_are_those_of_central_differences() -> None:
    inputs = vectors("inputs")
    unrolled, mean = parse("mta").build(toy_model(inputs["text_raw"], 10.0)).variants()
    assert (unrolled.name, mean.name) == ("unrolled", "mean of views")
    for error in central_differences("mta/rounds=3"):
        assert error < 1e-4


def test_the_gradient_of_equal_views_is_finite() -> None:
    inputs = vectors("inputs", torch.float32)
    defense = parse("mta").build(toy_model(inputs["text_raw"], 10.0))
    leaf: Tensor = inputs["features_raw"][:1].clone().requires_grad_()
    logits = defense.combine(leaf[:, None].expand(-1, 5, -1))  # type: ignore[attr-defined]
    assert bool(torch.autograd.grad(logits[0, 0], leaf)[0].isfinite().all())
