"""The identity of a model: equal for equal ones, another where a tensor, a number or the code is another."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from advpt.outside.identity import frozen, parts_of
from advpt.outside.model import OutsideModel
from tests.helpers.outside import LeftHalf, LooksAway

SCALE = 2.0


class Holder:
    """What a user's object may be made of."""

    def __init__(self, **changes: Any) -> None:
        self.values = {"eps": 0.1, "names": ["a", "b"]} | changes
        self.network = LeftHalf()
        self.array = np.arange(3.0)
        self.partial = functools.partial(torch.add, torch.ones(2), alpha=2)
        self.itself = self  # a circle

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return SCALE * self.network(pixels)


def facts(value: Any) -> dict[str, Any]:
    return parts_of({"model": value}).facts()


def test_equal_objects_are_equal_and_calls_do_not_change_them():
    one, model = Holder(), OutsideModel(Holder())
    before = facts(one)
    one(torch.rand(2, 3, 8, 8))
    one.network.eval()
    assert facts(Holder()) == before and model.digest == OutsideModel(Holder()).digest


@pytest.mark.parametrize(
    "change",
    [
        lambda holder: holder.values.update(eps=0.2),
        lambda holder: holder.values["names"].append("c"),
        lambda holder: holder.network.mix.weight.data.add_(1e-6),
        lambda holder: holder.network.norm.running_mean.add_(1e-6),
        lambda holder: setattr(holder.network, "scale", 41.0),
        lambda holder: setattr(holder.network.norm, "eps", 1e-4),
        lambda holder: setattr(holder.network, "_own", 1),
        lambda holder: holder.network.half(),
        lambda holder: holder.values.update(some={"a", "b", "c"}),
        lambda holder: holder.network.register_forward_hook(lambda module, given, output: output + 1),
        lambda holder: holder.array.__setitem__(0, 7.0),
        lambda holder: setattr(holder, "partial", functools.partial(torch.add, torch.zeros(2), alpha=2)),
        lambda holder: setattr(holder, "more", nn.Conv2d(1, 1, 1).requires_grad_(False)),
    ],
)
def test_any_part_counts(change):
    holder = Holder()
    change(holder)
    assert facts(holder) != facts(Holder())


def test_what_a_function_refers_to_counts(monkeypatch):
    def made(scale: float):
        network = LeftHalf()
        return lambda pixels: scale * network(pixels)

    assert facts(made(1.0)) == facts(made(1.0)) != facts(made(2.0))
    assert [type(each) for each in parts_of({"model": made(1.0)}).modules.values()] == [LeftHalf]
    before = facts(Holder())
    monkeypatch.setattr(f"{__name__}.SCALE", 3.0)
    assert facts(Holder()) != before, "a global of the class's methods"


def test_the_code_counts_wherever_it_lies(tmp_path):
    import importlib.util

    def load(folder: str, text: str) -> Any:
        path = tmp_path / folder / "own_model.py"
        path.parent.mkdir()
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("own_model", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return facts(module.model)

    code = "def model(pixels):\n    return {} * pixels.mean((2, 3))\n"
    one, same, other = load("a", code.format(2)), load("b", code.format(2)), load("c", code.format(3))
    assert one == same != other and len(one["code"]) == 1


def test_code_of_torch_and_of_this_library_is_not_part_of_a_model():
    files = parts_of({"model": nn.Sequential(nn.Flatten(), nn.Linear(3, 2))}).files
    assert files == {} and Path(__file__) in parts_of({"model": Holder()}).files


def test_name_seed_and_variants_are_part_of_the_digest():
    digests = {
        OutsideModel(LooksAway(), **each).digest
        for each in ({}, {"name": "a"}, {"seed": 9}, {"variants": {"b": LeftHalf()}})
    }
    assert len(digests) == 4


def test_modules_are_frozen_and_come_back():
    one, other = LeftHalf(), LeftHalf().eval()
    other.mix.weight.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), frozen([one, other]):
        assert not one.training and not one.norm.training and not any(w.requires_grad for w in one.parameters())
        raise ZeroDivisionError
    assert one.training and not other.training and one.mix.weight.requires_grad and not other.mix.weight.requires_grad
