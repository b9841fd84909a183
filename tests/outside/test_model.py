"""What an outside model is told about itself, and that its logits are those of the user's functions, bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import advpt
from advpt.data.images import Preprocessing
from advpt.errors import ModelError
from advpt.outside.model import OutsideModel, outside_model, raised
from tests.helpers.outside import NAMES, SIDE, LeftHalf, LooksAway

PIXELS = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])


def test_attributes_say_what_arguments_do_not():
    model = OutsideModel(LooksAway())
    assert (model.name, model.classnames, model.seed) == ("LooksAway", NAMES, 3)
    assert model.preprocessing == Preprocessing((SIDE, SIDE), "bicubic") and list(model.variants) == [
        "masked",
        "mirrored",
    ]
    given = OutsideModel(LooksAway(), name="mine", size=(8, 9), seed=4, classnames=["a", "b"], passes=3)
    assert (given.name, given.classnames, given.seed, given.passes) == ("mine", ("a", "b"), 4, 3)
    assert given.preprocessing.size == (8, 9) and OutsideModel(nn.Flatten()).preprocessing.size == (224, 224)
    fields = {"size": 7, "interpolation": "nearest", "resize": "squash"}
    assert OutsideModel(nn.Flatten(), preprocessing=fields).preprocessing == Preprocessing((7, 7), "nearest", "squash")
    assert outside_model(model) is model and "its own defense" in repr(model)


def test_logits_are_those_of_the_functions_as_they_are():
    own, model = LooksAway(), OutsideModel(LooksAway())
    own.undefended.eval(), model.undefended.eval()
    assert torch.equal(model(PIXELS), own(PIXELS)) and torch.equal(model.embed(PIXELS), own.undefended(PIXELS))
    assert torch.equal(model.through("mirrored")(PIXELS), own.mirrored(PIXELS))
    assert model.through("the model") is model
    with pytest.raises(ModelError, match="unknown variant 'miror'. Did you mean 'mirrored'"):
        model.through("miror")
    half = OutsideModel(lambda x: x.mean((2, 3)).half(), name="half")
    assert torch.equal(half(PIXELS), PIXELS.mean((2, 3)).half().float())


@pytest.mark.parametrize("text", ["pgd3-ce@8", "pgd3-fkl@8", "apgd-ce3@8"])
def test_attacks_take_it_and_make_the_images_that_they_make_of_the_raw_object(text):
    network = LeftHalf()
    network.embed = network.forward
    attacked = advpt.attack(text, OutsideModel(network), PIXELS, LABELS)
    assert network.training and torch.equal(attacked, advpt.attack(text, network, PIXELS, LABELS))


def test_classes_in_another_order_are_the_same_classes():
    network, names = LeftHalf().eval(), ("red", "Blue", "green")
    model = OutsideModel(network)
    other = model.for_classes(names)
    assert torch.equal(other(PIXELS), network(PIXELS)[:, [2, 0, 1]]) and other.classnames == names
    assert other.digest != model.digest and model.for_classes(NAMES) is model
    with pytest.raises(ModelError, match="has 3 classes, and these images have 2 others, for instance not 'cat'"):
        model.for_classes(("cat", "dog"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classnames": "abc"}, "classnames is 'abc'; expected a list of different names"),
        ({"classnames": ["a", "a"]}, "different names"),
        ({"size": "224"}, "expected a side in pixels, or height and width"),
        ({"size": (1, 2, 3)}, "expected a side in pixels"),
        ({"preprocessing": lambda image: image}, "normalised in it"),
        ({"preprocessing": {"mean": 3}}, "has interpolation, mean; expected size, interpolation and resize"),
        ({"variants": [LeftHalf()]}, "variants is .*expected functions of pixels by name"),
        ({"variants": {"a": 3}}, "variant a is 3; expected a function of pixels"),
        ({"undefended": lambda x, y: x}, "undefended needs x, y"),
        ({"name": "\n"}, "expected a printable text"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        OutsideModel(LeftHalf(), **arguments)


def test_an_exception_of_the_user_is_a_sentence_with_its_place():
    def broken(pixels: Tensor) -> Tensor:
        raise KeyError("weights")

    with pytest.raises(ModelError, match=r"broken: it raised KeyError: 'weights' \(.*test_model.py, line \d+\)$"):
        OutsideModel(broken)(PIXELS)
    assert raised(ValueError()) == "it raised ValueError"
