"""The text form of test-time defenses: what it means, and what errors tell about mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.bank.defended_input import Encode
from advpt.errors import ConfigError, DefenseError
from advpt.options import write_options
from advpt.test_time import TEST_TIME, parse, parse_all
from advpt.test_time.base import Cost, Draws, TestTimeDefense, Variant
from tests.helpers.tiny_clip import defended_model


@dataclass(frozen=True)
class Dimming:
    """Settings of :class:`Dim`."""

    factor: float = 0.5
    times: int = 1
    clip: bool = True
    rule: str = "linear"


class Dim(TestTimeDefense):
    """Classifies darker images."""

    name = "dim"
    settings: Dimming
    profiles = {"sound": Dimming(), "released": Dimming(factor=0.9, times=3, clip=False)}

    @classmethod
    def check(cls, settings: Dimming) -> None:
        if settings.factor > 1:
            raise DefenseError(f"factor={settings.factor}; expected 0 to 1")

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        return self.model.classifier.logits(encode(self.settings.factor * pixels))

    def variants(self) -> tuple[Variant, ...]:
        return ()

    def cost(self) -> Cost:
        return Cost()


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    TEST_TIME.add(Dim)
    yield
    TEST_TIME.remove("dim")


@pytest.mark.parametrize(
    ("short", "full"),
    (
        ("dim", "dim:sound/factor=0.5/times=1/clip=True/rule=linear"),
        ("dim:released", "dim:released/factor=0.9/times=3/clip=False/rule=linear"),
        ("dim:released/times=2", "dim:released/factor=0.9/times=2/clip=False/rule=linear"),
        (" dim/clip=0 ", "dim:sound/factor=0.5/times=1/clip=False/rule=linear"),
    ),
)
def test_short_forms_expand(short: str, full: str) -> None:
    spec = parse(short)
    assert spec.expanded == full and spec.kind is Dim
    assert parse(full) == spec == parse(str(spec))


def test_only_what_differs_from_the_profile_is_written() -> None:
    assert str(parse("dim")) == "dim:sound"
    assert str(parse("dim/factor=0.50/times=1")) == "dim:sound"
    assert str(parse("dim:released/factor=0.5/rule=cube")) == "dim:released/factor=0.5/rule=cube"


def test_defenses_of_the_input_stand_before_the_last_plus() -> None:
    spec = parse("rescale + super/sigma=0.05 + dim/times=2")
    assert (spec.name, spec.settings.times) == ("dim", 2) and spec.input is not None
    assert [stage.name for stage in spec.input.stages] == ["rescale", "super"]
    assert str(spec) == "rescale:iclr+super:advpt/sigma=0.05+dim:sound/times=2"
    assert spec.expanded.startswith("rescale:iclr/low=1.0/") and spec.expanded.endswith("/rule=linear")
    assert parse(spec.expanded) == spec == parse(str(spec)) != parse("dim/times=2")
    assert parse("dim").input is None
    assert parse("noise+rtpt:released/source=tensor").settings.source == "tensor"
    assert parse("rtpt:released").settings.source == "file"


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(("", "rescale+", "super:mustafa+rescale/flip=True+")), st.sampled_from(("sound", "released")),
    st.floats(-1e300, 1), st.integers(), st.booleans(), st.sampled_from(("linear", "a b", "")),
)  # fmt: skip
def test_both_forms_have_the_meaning_of_the_text(
    chain: str, profile: str, factor: float, times: int, clip: bool, rule: str
) -> None:
    values = Dimming(factor, times, clip, rule)
    spec = parse(chain + write_options("dim", profile, dataclasses.asdict(values)))
    assert spec.settings == values and spec.profile == profile
    for text in (str(spec), spec.expanded):
        again = parse(text)
        assert again == spec and (str(again), again.expanded) == (str(spec), spec.expanded)


def test_each_distinct_defense_comes_once() -> None:
    specs = parse_all(["dim", "rescale+dim", "dim:sound", "dim/factor=0.5", "dim:released", "rescale:iclr+dim"])
    assert [str(spec) for spec in specs] == ["dim:sound", "rescale:iclr+dim:sound", "dim:released"]
    assert parse_all([]) == []


def test_a_defense_is_built_from_its_text(tiny_clip: Backbone) -> None:
    defense = parse("dim:released/factor=0.25").build(defended_model(tiny_clip), seed=3)
    assert isinstance(defense, Dim) and defense.settings == Dimming(0.25, 3, False) and defense.seed == 3
    assert defense.parameters()["settings"] == {"factor": 0.25, "times": 3, "clip": False, "rule": "linear"}
    logits = defense(torch.rand(2, 3, 32, 32), ("a", "b"), True, tiny_clip.require_image())
    assert logits.shape == (2, 3)


@pytest.mark.parametrize("name", list(TEST_TIME))
def test_every_profile_of_every_defense_can_be_written(name: str) -> None:
    kind = TEST_TIME.get(name)
    assert next(iter(kind.profiles)) == "sound", "the default"
    assert {type(values) for values in kind.profiles.values()} == {type(kind.profiles["sound"])}
    for profile, values in kind.profiles.items():
        spec = parse(f"{name}:{profile}")
        assert spec.settings == values and parse(spec.expanded) == spec and str(spec) == f"{name}:{profile}"


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("dimm", "unknown test-time defense 'dimm'. Did you mean 'dim'"),
        ("dim:relaesed", "unknown profile 'relaesed'. Did you mean 'released'"),
        ("dim/facto=1", "unknown option 'facto'. Did you mean 'factor'"),
        ("dim/factor", "OPTION=VALUE"),
        ("dim/factor=dark", "factor is 'dark'; expected a finite number"),
        ("dim/times=1.5", "times is '1.5'; expected a whole number"),
        ("dim/clip=maybe", "expected True or False"),
        ("rescale+dim/factor=2", r"test-time defense 'rescale\+dim/factor=2': factor=2.0; expected 0 to 1"),
        ("reskale+dim", "unknown defense 'reskale'. Did you mean 'rescale'"),
        ("rescale/flip=maybe+dim", "defense 'rescale/flip=maybe'.*True or False"),
        ("dim/factor=nan", "factor is 'nan'; expected a finite number"),
        ("dim/factor=-inf", "factor is '-inf'; expected a finite number"),
        ("dim+rescale", r"'rescale' is a defense of the input, .* before the last '\+', for instance rescale\+mean"),
        ("noise:sound/x=1", "'noise' is a defense of the input.*EVAL.DEFENSES"),
        ("noise+rtpt/source=file", r"past the defenses of the input.*write rtpt/source=file/source=tensor"),
        ("noise+rtpt:released", r"past the defenses of the input.*write rtpt:released/source=tensor there"),
        ("dim+dim", "unknown defense 'dim'"),
        ("+dim", "not of the form"),
        ("dim+", "unknown test-time defense ''"),
        ("", "unknown test-time defense ''"),
    ),
)
def test_mistakes_are_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)
