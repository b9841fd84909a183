"""Each rule that a model can break, and the sentence that it is refused with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advpt.errors import ModelError
from advpt.outside.identity import frozen
from advpt.outside.model import OutsideModel
from advpt.outside.rules import RANGES, binomial_tail, check, still_answers
from tests.helpers.outside import NAMES, SIDE, LeftHalf, LooksAway, image_set, no_gradient, photos

NETWORK = LeftHalf().eval().requires_grad_(False)
NOISE = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_set(photos(tmp_path_factory.mktemp("photos")))


def changes(pixels: Tensor) -> Tensor:
    return NETWORK(pixels + 0.01 * torch.randn(pixels.shape, generator=NOISE))


def by_batch(pixels: Tensor) -> Tensor:
    return NETWORK(pixels - pixels.mean(0) + 0.5)


class Remembers(nn.Module):
    """Its answers follow a mean over all images until then, as of an image stands in it once."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[bytes, Tensor] = {}

    def forward(self, pixels: Tensor) -> Tensor:
        for image in pixels:
            self.kept.setdefault(image.numpy(force=True).tobytes(), image.detach())
        return NETWORK(pixels) + 100 * torch.stack(list(self.kept.values())).mean((0, 2, 3))


class TrainingNorm(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return NETWORK(F.batch_norm(pixels, None, None, training=True) / 10 + 0.5)


def in_place(pixels: Tensor) -> Tensor:
    return NETWORK(pixels.mul_(0.9))


def sees_batch_size(pixels: Tensor) -> Tensor:
    return NETWORK(pixels) + (len(pixels) == 1) * torch.tensor([5.0, 0.0, 0.0])


def masked(pixels: Tensor) -> Tensor:
    """Its answers depend on the batch, and a class that no image can be taken for has a huge logit."""
    return by_batch(pixels) + torch.tensor([0.0, 0.0, -1e9])


def halves(pixels: Tensor) -> Tensor:
    """Probabilities in half precision, whose sums are not quite 1."""
    return NETWORK(pixels).bfloat16().softmax(1)


def nan(pixels: Tensor) -> Tensor:
    return NETWORK(pixels) / torch.tensor([1.0, 1.0, 0.0]) * torch.tensor([1.0, 1.0, 0.0])


def raises(pixels: Tensor) -> Tensor:
    return NETWORK(pixels[0])


def draws_and_says_nothing(pixels: Tensor) -> Tensor:
    torch.manual_seed(0)
    return NETWORK(pixels + 0.01 * torch.randn(pixels.shape[1:]))


def own_gradient(pixels: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(NETWORK(pixels).sum(), pixels)
    return NETWORK(pixels + gradient)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda pixels: NETWORK(pixels).softmax(1), "gives probabilities .* expected logits, .* leave the softmax out"),
        (changes, "the same pixels other logits in a second call .* Draw from a seed that the pixels of each image"),
        (by_batch, "an image other logits alone .* must depend on that image alone"),
        (TrainingNorm(), "an image other logits alone .* Batch norm belongs in evaluation mode"),
        (sees_batch_size, "an image other logits alone"),
        (Remembers(), "an image other logits (alone|in another order|beside other images)"),
        (in_place, "changes the pixels that it is given"),
        (nan, "gives logits that are not finite"),
        (lambda pixels: NETWORK(pixels)[:, :2], "gives 2 logits, and the images have 3 classes"),
        (lambda pixels: NETWORK(pixels).argmax(1), r"gave \[8\] for 8 images; expected a tensor of logits \[b, K\]"),
        (lambda pixels: (NETWORK(pixels),), "gave tuple for 8 images"),
        (lambda pixels: NETWORK(pixels).long(), "gave torch.int64; expected logits"),
        (raises, r"raises: it raised ValueError: expected 4D input .* \(.*outside.py, line \d+\)"),
        (draws_and_says_nothing, "draws random numbers and states no seed"),
        (masked, "gives an image other logits"),
        (halves, "gives probabilities"),
        (own_gradient, "does not require grad.*takes them under torch.enable_grad"),
    ],
)  # fmt: skip
def test_a_model_that_breaks_a_rule_is_refused_with_a_sentence(images, model, message):
    with pytest.raises(ModelError, match=message):
        check(OutsideModel(model, name=getattr(model, "__name__", "model").strip("<>")), images)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda pixels, labels: NETWORK(pixels),
            "needs pixels, labels: a model gets pixels alone, and never the labels",
        ),
        (lambda: NETWORK, "takes no pixels"),
    ],
)
def test_labels_are_asked_for_in_vain(model, message):
    with pytest.raises(ModelError, match=message):
        OutsideModel(model)


def shifted(mean: float, std: float, name: str) -> OutsideModel:
    """A network that is right where its pixels are ``(x - mean) / std`` and takes others all for one class."""

    def model(pixels: Tensor) -> Tensor:
        given = pixels * std + mean
        wrong = (given.mean((1, 2, 3)) - 0.47).abs() > 0.05
        return torch.where(wrong[:, None], torch.tensor([9.0, 0.0, 0.0]), NETWORK(given))

    return OutsideModel(model, name=name)


def test_a_model_of_another_range_is_refused_by_an_exact_test(images):
    with pytest.raises(
        ModelError,
        match=r"right on 5 of 15 images with pixels in \[0, 1\], and on 15 with pixels in 0 .. 255 .*p = 0.001",
    ):
        check(shifted(0, 1 / 255, "bytes"), images)
    few = images.select(range(0, 15, 2))  # too few to be sure
    assert (
        "in 0 .. 255 8" in next(r for r in check(shifted(0, 1 / 255, "bytes"), few).rules if r.name == "range").measured
    )
    for name, change in list(RANGES.items())[1:]:
        normalised = change(torch.full((1, 3, 1, 1), 0.0)), change(torch.full((1, 3, 1, 1), 1.0))
        mean, std = -normalised[0] / (normalised[1] - normalised[0]), 1 / (normalised[1] - normalised[0])
        model = OutsideModel(lambda x, m=mean, s=std: _only_near(x * s + m), name="n")
        with pytest.raises(ModelError, match=f"15 with pixels {name}|15 with pixels normalised"):
            check(model, images)
    assert binomial_tail(10, 10) == 2**-10 and binomial_tail(0, 5) == 1 and binomial_tail(3, 4) == 5 / 16


def _only_near(pixels: Tensor) -> Tensor:
    wrong = (pixels.mean((1, 2, 3)) - 0.47).abs() > 0.05
    return torch.where(wrong[:, None], torch.tensor([9.0, 0.0, 0.0]), NETWORK(pixels))


def test_log_probabilities_are_accepted_and_named(images):
    assert check(OutsideModel(lambda pixels: NETWORK(pixels).log_softmax(1), name="l"), images).log_probabilities
    assert not check(OutsideModel(NETWORK), images).log_probabilities


def test_gradients_are_looked_for_in_every_function(images):
    model = OutsideModel(LooksAway())
    with frozen(model.modules):
        checked = check(model, images)
    assert checked.gradients.keys() == {"", "undefended", "variant masked", "variant mirrored"}
    assert checked.gradients["variant masked"] == 0 < checked.gradients["undefended"] and checked.differentiable
    none = check(OutsideModel(no_gradient), images)
    assert not none.differentiable and "detach" in none.without[""]
    assert "do not require" in check(OutsideModel(lambda x: NETWORK(x).detach(), name="d"), images).without[""]
    not_finite = OutsideModel(lambda x: NETWORK(x) + 0 * (x - x).sum((1, 2, 3)).sqrt()[:, None], name="f")
    assert "not finite" in check(not_finite, images).without[""]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"variants": {"a": NETWORK}}, "has variants, and no gradient of its own .*, so that nothing stands"),
        ({"variants": {"a": no_gradient}}, "variant a, has no gradient to follow"),
        ({"undefended": no_gradient}, "undefended, has no gradient to follow"),
        ({"undefended": NETWORK, "variants": {"a": lambda x: NETWORK(x)[:, :2]}}, "variant a gives 2 logits"),
        ({"undefended": changes}, "undefended gives the same pixels other logits"),
    ],
)
def test_functions_beside_the_model_keep_the_rules_too(images, parts, message):
    with pytest.raises(ModelError, match=message):
        check(OutsideModel(no_gradient, **parts), images)


def test_what_a_model_keeps_shows_in_the_end(images):
    network, offset = LeftHalf().eval(), torch.zeros(3)
    model = OutsideModel(lambda pixels: network(pixels) + offset, name="kept")
    checked = check(model, images)
    assert still_answers(model, checked).measured == "0"
    offset[0] = 1.0
    with pytest.raises(ModelError, match="keeps something between images"):
        still_answers(model, checked)


def test_draws_of_a_stated_seed_are_taken(images):
    assert check(OutsideModel(draws_and_says_nothing, seed=0), images).differentiable


def test_every_rule_says_what_was_measured(images):
    checked = check(OutsideModel(NETWORK), images)
    assert [rule.name for rule in checked.rules] == ["repeats", "by image", "range", "memory"]
    assert all(rule.text and rule.measured for rule in checked.rules)
    assert checked.pixels.shape == (8, 3, SIDE, SIDE) and checked.answers.shape == (8, len(NAMES))
