"""Models of others under every protocol that applies: which attacks they have, and that equal models have equal
records."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import advpt
from advpt.errors import ConfigError, DataError, ModelError
from advpt.evaluation import record as records
from advpt.evaluation.flags import MASKED, NO_GRADIENT, VANISHING
from advpt.evaluation.record import Record
from advpt.outside import card
from advpt.outside.evaluate import evaluate
from advpt.outside.model import OutsideModel
from advpt.robustness import eval_settings
from tests.helpers.outside import NAMES, LeftHalf, LooksAway, Masks, image_set, no_gradient, photos

ATTACK = "pgd3-ce@4"
QUICK = {"attacks": [ATTACK], "protocols": ("static", "pseudo", "adaptive"), "queries": 20, "eot": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return photos(tmp_path_factory.mktemp("photos") / "test")


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory) -> list[Record]:
    return advpt.evaluate(LooksAway(), folder, **QUICK, banks=tmp_path_factory.mktemp("banks"))


def by_place(made: list[Record]) -> dict[tuple[str, str], records.Result]:
    return {(each.result.protocol or "", each.result.defense_name): each.result for each in made}


def accuracies(result: records.Result) -> dict[str, float]:
    assert result.robust is not None
    return {part.name: part.accuracy for part in result.robust.parts}


def test_a_network_is_attacked_itself_and_is_as_before(folder, tmp_path):
    network = LeftHalf().train()
    made = advpt.evaluate(network, folder, **QUICK, banks=tmp_path / "banks", output=tmp_path / "out")
    results = by_place(made)
    assert list(results) == [("static", ""), ("pseudo", ""), ("adaptive", "")]
    assert network.training and all(weight.requires_grad for weight in network.parameters())
    static, adaptive = results["static", ""], results["adaptive", ""]
    assert (static.trainer, static.is_trained, static.backbone.name) == ("Outside", False, "LeftHalf")
    assert static.clean.accuracy == 100 and static.robust.accuracy < 60 and adaptive.flags == ()
    names = ["the model, ce", "the model, ce from static", "the model, margin", "the model, margin from static"]
    assert {"static", "the model, ce"} <= set(accuracies(adaptive)) <= {"static", *names, "the model, APGD", "Square"}
    assert adaptive.robust.accuracy <= min(part.accuracy for part in adaptive.robust.parts if not part.left)
    assert made[0].observed.milliseconds > 0 and adaptive.cost["forward"] == 1
    there = card.read(tmp_path / "out")
    assert set(there.records) == {each.id for each in made} and there.digest == static.prompt == static.backbone.image
    assert len(list((tmp_path / "out" / "records").glob("*.json"))) == 3


def test_attackers_who_do_not_know_the_defense_go_round_it_and_the_others_through_each_variant(measured):
    results = by_place(measured)
    assert len(results) == 6 and results["static", ""].robust.accuracy < results["static", "its own"].robust.accuracy
    adaptive = results["adaptive", "its own"]
    parts = accuracies(adaptive)
    assert parts["masked, ce"] > 80 and parts["static"] > 80, "neither of both breaks it"
    assert parts["mirrored, ce"] < 60 and adaptive.robust.accuracy <= parts["mirrored, ce"]
    assert VANISHING in adaptive.flags and MASKED not in adaptive.flags
    gradients = {part.name: part.gradient for part in adaptive.robust.parts}
    assert gradients["masked, ce"] == 0 and gradients["mirrored, ce"] > 0.1
    assert adaptive.defense.spec == "its own" and "its own, mirrored" in adaptive.defense.gradient
    assert "its own" not in results["adaptive", ""].attacker_knows and results["adaptive", ""].defense is None


def test_a_masked_gradient_is_flagged_and_does_not_help_where_static_images_break_the_model(folder, tmp_path):
    quick = QUICK | {"protocols": ["adaptive"]}
    results = by_place(advpt.evaluate(Masks(), folder, **quick, banks=tmp_path))
    adaptive = results["adaptive", "its own"]
    parts = accuracies(adaptive)
    assert parts["masked, ce"] > 80 > 60 > parts["static"] and adaptive.robust.accuracy <= parts["static"]
    assert MASKED in adaptive.flags


def test_without_any_gradient_square_is_alone_and_flagged(folder, tmp_path):
    model = OutsideModel(no_gradient, classnames=NAMES, size=12)
    quick = QUICK | {"banks": tmp_path, "queries": 60}
    with pytest.raises(ConfigError, match=r"static pgd3-ce@4.* follows a gradient, and no_gradient has none .*detach"):
        advpt.evaluate(model, folder, **quick)
    with pytest.raises(ConfigError, match="queries is 0"):
        advpt.evaluate(model, folder, **quick | {"protocols": ["adaptive"], "queries": 0})
    (adaptive,) = advpt.evaluate(model, folder, **quick | {"protocols": ["adaptive"]})
    result = adaptive.result
    assert list(accuracies(result)) == ["Square"] and NO_GRADIENT in result.flags
    assert result.note == "by square60@4 alone: the model has no gradient"
    assert result.robust.n == 15 and result.robust.accuracy < result.clean.accuracy == 100
    (static,) = advpt.evaluate(model, folder, **quick | {"attacks": ["square60@4"], "protocols": ["static"]})
    assert static.result.robust.accuracy < 100, "an attack without a gradient needs no knowledge"


def test_equal_models_have_equal_records_and_others_have_others(folder, measured, tmp_path):
    again = advpt.evaluate(LooksAway(), folder, **QUICK | {"protocols": ["adaptive"]}, banks=tmp_path)
    theirs = by_place(measured)
    for place, result in by_place(again).items():
        assert (result.clean, result.robust, result.flags) == (
            theirs[place].clean,
            theirs[place].robust,
            theirs[place].flags,
        )
    once, twice, other = LooksAway(), LooksAway(), LooksAway()
    with torch.no_grad():
        other.undefended.norm.bias += 1e-3
    quick = QUICK | {"protocols": ["static"], "banks": tmp_path / "one"}
    first, second, third = ({e.id for e in advpt.evaluate(m, folder, **quick)} for m in (once, twice, other))
    assert first == second and not first & third


def test_halves_of_the_images_have_the_outcomes_of_the_whole(folder, measured, tmp_path):
    images = image_set(folder)
    images = dataclasses.replace(
        images, samples=tuple(dataclasses.replace(each, id=f"test/{each.id}") for each in images.samples)
    )
    settings = eval_settings(QUICK | {"protocols": ["static", "adaptive"]})
    halves = [
        by_place(evaluate(OutsideModel(LooksAway()), images.select(rows), settings, tmp_path / "banks").records)
        for rows in (range(0, 7), range(7, 15))
    ]
    for place in halves[0]:
        outcomes = [each[place].robust.outcomes() for each in halves]
        assert np.array_equal(by_place(measured)[place].robust.outcomes(), np.concatenate(outcomes)), place


def test_defenses_of_the_input_stand_before_the_model_and_before_its_own(folder, tmp_path):
    quick = QUICK | {"protocols": ["adaptive"], "banks": tmp_path, "defenses": ["noise/eps=6"], "defense_seeds": 1}
    quick |= {"attacks": ["pgd1-ce@4"], "queries": 0}
    results = by_place(advpt.evaluate(Masks(), folder, **quick, subset=6, adaptive_subset=3))
    names = ["", "noise:uniform/eps=6.0", "its own", "noise:uniform/eps=6.0+its own"]
    assert [name for _, name in results] == names and all(each.clean.n == 3 for each in results.values())
    assert any("masked" in name for name in accuracies(results["adaptive", names[-1]]))


def test_files_made_elsewhere_can_be_evaluated(folder, tmp_path):
    images = image_set(folder)
    network = LeftHalf().eval()
    batch = next(images.batches(range(len(images)), len(images)))
    attacked = advpt.attack(ATTACK, network, batch.pixels, batch.labels)
    np.save(tmp_path / "made.npy", attacked.numpy())
    (tmp_path / "made.ids.txt").write_text("".join(f"test/{name}\n" for name in images.ids))
    quick = {"attacks": [f"files:{tmp_path / 'made.npy'}@4:transfer"], "banks": tmp_path / "banks"}
    (made,) = advpt.evaluate(network, folder, **quick)
    right = (network(attacked).argmax(1) == batch.labels).sum()
    assert made.result.robust.correct == int(right) and made.result.attack.name == "files"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocols": ["transfer"]}, "transfer is about prompts and towers"),
        ({"test_time": ["ttc"]}, "defenses of CLIP"),
        ({"attacks": ["rap10@8"]}, "surrogate"),
        ({"attacks": ["aa-rand@4"], "protocols": ["adaptive"]}, "take means by themselves"),
        ({"chunk": 0}, "chunk is 0"),
        ({"attacks": ["pdg3-ce@4"]}, "pgd"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_model_is_called(folder, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        advpt.evaluate(_never, folder, **QUICK | change, banks=tmp_path)


def _never(pixels):
    raise AssertionError("called")


def test_what_is_no_model_and_other_classes_are_refused(folder, tmp_path):
    with pytest.raises(ModelError, match="expected a function of pixels"):
        advpt.evaluate("resnet50", folder)
    with pytest.raises(DataError, match="folders that are no class of the model: blue"):
        advpt.evaluate(OutsideModel(LeftHalf(), classnames=("a", "b", "c")), folder)
    network = LeftHalf()
    with pytest.raises(ModelError, match="gives 3 logits, and the images have 4 classes"):
        advpt.evaluate(OutsideModel(network, classnames=(*NAMES, "white")), folder, **QUICK, banks=tmp_path)


def test_a_model_that_remembers_is_refused_after_the_evaluation(folder, tmp_path):
    class Tires(LeftHalf):
        calls = 0

        def forward(self, pixels):
            self.calls += 1
            return super().forward(pixels) + (self.calls > 120) * torch.tensor([9.0, 0.0, 0.0])

    quick = QUICK | {"banks": tmp_path / "banks", "output": tmp_path / "out"}
    with pytest.raises(ModelError, match="other logits after other images .* keeps something between images"):
        advpt.evaluate(Tires(), folder, **quick | {"queries": 200})
    assert not (tmp_path / "out").exists()


def test_class_folders_give_names_to_a_model_without_them(folder, tmp_path):
    (made,) = advpt.evaluate(OutsideModel(LeftHalf().forward, size=12, name="mine"), folder, attacks=(), banks=tmp_path)
    assert made.result.clean.accuracy == 100 and made.result.protocol is None and made.result.backbone.name == "mine"
    assert dataclasses.asdict(made.result.images)["n"] == 15
