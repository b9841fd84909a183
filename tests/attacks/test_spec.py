"""The text form of attacks: what it means, that it round-trips, and what it says of mistakes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from advpt.attacks.objectives import AT_REST, OBJECTIVES
from advpt.attacks.pgd import PGD, PROFILES, STARTS
from advpt.attacks.spec import parse, parse_eps
from advpt.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "full"),
    (
        ("pgd40-fkl@16", "pgd40-fkl@16/a0.5"),
        ("pgd40@16", "pgd40-fkl@16/a0.5"),
        ("pgd@16", "pgd40-fkl@16/a0.5"),
        ("pgd10-fkl@8", "pgd10-fkl@8/a1"),
        ("pgd100-ce@4/a1", "pgd100-ce@4/a1"),
        ("pgd100-ce@4/255/a1", "pgd100-ce@4/a1"),
        ("PGD10-CE@4", "pgd10-ce@4/a1"),
        (" pgd10-ce@4 ", "pgd10-ce@4/a1"),
        ("pgd20-margin@128/l2/r5", "pgd20-margin@128/a16/r5/l2"),
        ("pgd20-ce@8/a2/none", "pgd20-ce@8/a2/none"),
        ("pgd20-ce@2.67", "pgd20-ce@2.67/a0.3337"),
        ("pgd30-ce@100", "pgd30-ce@100/a8.333"),
    ),
)
def test_short_forms_and_their_expansion(text: str, full: str) -> None:
    assert str(parse(text)) == full
    assert parse(full) == parse(text)


def test_what_a_text_means() -> None:
    found = parse("pgd20-margin@128/255/a3.5/r5/l2/gaussian")
    means = {
        "objective": "margin", "eps": 128.0, "steps": 20, "step": 3.5, "restarts": 5, "norm": "l2",
        "start": "gaussian", "clip_first": True,
    }  # fmt: skip
    assert found.name == "pgd" and {name: found.get(name) for name in means} == means
    attack = found.build()
    assert isinstance(attack, PGD)
    assert {name: attack.parameters()[name] for name in means} == means


def test_profiles_fill_in_what_the_text_leaves_out() -> None:
    assert parse("pgd10@8", "released") == parse("pgd10@8/uniform_positive/unclipped") != parse("pgd10@8")
    assert parse("pgd10@8", "paper") == parse("pgd10@8", "sound")
    assert parse("pgd10@8/gaussian", "released").get("start") == "gaussian"
    with pytest.raises(ConfigError, match="unknown profile 'released-code'. Did you mean 'released'"):
        parse("pgd10@8", "released-code")


def test_another_objective_brings_its_own_step() -> None:
    assert str(parse("pgd40-fkl@16").with_objective("ce")) == "pgd40-ce@16/a1"


numbers = st.one_of(
    st.integers(1, 255).map(str),
    st.floats(0.1, 255).map(lambda v: format(v, "f")).filter(lambda t: 0.1 <= float(t) <= 255),
    st.floats(0.1, 255).map(lambda v: f"{v:.2f}").filter(lambda t: 0.1 <= float(t) <= 255),
)
steps_of = st.one_of(
    st.none(), st.floats(1e-6, 300).map(lambda v: format(v, ".9f")).filter(lambda t: float(t) > 0), numbers
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    objective = draw(st.sampled_from([None, *(name for name in OBJECTIVES if "-" not in name)]))
    start = draw(st.sampled_from([None, *STARTS]))
    count = draw(st.one_of(st.none(), st.integers(1, 10**6)))
    restarts = draw(st.one_of(st.none(), st.integers(1, 20)))
    if start == "none" and (objective in (None, *AT_REST) or (restarts or 1) > 1):
        start = None
    step = draw(steps_of)
    options = [
        f"a{step}" if step is not None else None,
        f"r{restarts}" if restarts is not None else None,
        draw(st.sampled_from([None, "l2", "linf"])),
        start,
    ]
    order = draw(st.permutations([o for o in options if o]))
    text = f"pgd{count or ''}" + (f"-{objective}" if objective else "")
    text += f"@{draw(numbers)}" + draw(st.sampled_from(["", "/255"])) + "".join(f"/{o}" for o in order)
    return draw(st.sampled_from([text, text.upper()]))


@settings(max_examples=300, deadline=None)
@given(texts(), st.sampled_from(sorted(PROFILES)))
def test_the_expansion_parses_to_the_same_attack(text: str, profile: str) -> None:
    try:
        found = parse(text, profile)
    except ConfigError as error:
        assert "looks like a fraction of 1" in str(error)
        reject()
    assert parse(str(found)) == found
    assert str(parse(str(found))) == str(found)
    assert found.build().parameters()["step"] == found.get("step")


@pytest.mark.parametrize(
    ("text", "says"),
    (
        ("pgd40", r"attack 'pgd40': it is not of the form NAME\[STEPS\]\[-OBJECTIVE\]@EPS.*examples: pgd40-fkl@16"),
        ("", "is not of the form"),
        ("pgd40@", "is not of the form"),
        ("pgd40-@8", "is not of the form"),
        ("40pgd@8", "is not of the form"),
        ("pdg40@8", "unknown attack 'pdg'. Did you mean 'pgd'"),
        ("pgd40-kfl@8", "unknown objective 'kfl'. Did you mean '(f?)kl'.*ce, fkl, kl"),
        ("pgd40@eight", "eps 'eight' is not a number; write it in units of 1/255, like 4 or 4/255"),
        ("pgd40@0", r"eps 0 is outside \(0, 255\]"),
        ("pgd40@256", r"eps 256 is outside \(0, 255\]"),
        ("pgd40@-8", "outside"),
        ("pgd40@nan", "outside"),
        ("pgd40@inf", "outside"),
        ("pgd40@0.0627", r"eps 0.0627 looks like a fraction of 1; the unit is 1/255, write 15.99"),
        ("pgd0-ce@8", "steps, restarts and step size must be above 0"),
        ("pgd5-ce@8/r0", "must be above 0"),
        ("pgd5-ce@8/a0", "must be above 0"),
        ("pgd5-ce@8/l1", "option 'l1' is not one of aSTEP, rRESTARTS, l2, uniform"),
        ("pgd5-ce@8/a", "option 'a' is not one of"),
        ("pgd5-ce@8/a1/255", "option '255' is not one of"),
        ("pgd5-ce@8/r1.5", "option 'r1.5'"),
        ("pgd5-fkl@8/none", "no gradient at the clean image"),
        ("pgd5-l2@8/none", "no gradient at the clean image, with which it compares; it needs a random start"),
        ("pgd5-ce@8/none/r2", "restarts need a random start"),
    ),
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(text)


@pytest.mark.parametrize("text", ("16", "16/255", "16.0", "16.0/255"))
def test_eps_in_its_two_forms(text: str) -> None:
    assert parse_eps(text) == 16.0
    assert parse(f"pgd40-fkl@{text}") == parse("pgd40-fkl@16")


@given(st.floats(1e-4, 0.0999))
def test_a_fraction_of_one_is_answered_with_what_was_meant(value: float) -> None:
    with pytest.raises(ConfigError, match="looks like a fraction of 1") as caught:
        parse_eps(repr(value))
    assert float(str(caught.value).rsplit(" ", 1)[1]) == pytest.approx(255 * value, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "write"),
    (
        ("pgd10-ce@16/a0.0157", "a4.003"),  # 4/255, ten steps
        ("pgd10-ce@8/a0.00784", "a1.999"),
        ("pgd10-ce@8/a0.03", "a7.65"),
        ("fgsm-ce@8/a0.03", "a7.65"),
        ("pgd100-ce@1/a0.00392", "a0.9996"),
        ("pgd40-ce@77/a0.01", "a2.55"),  # eps 0.3, step 0.01
        ("pgd40-fkl@16/a0.00196", "a0.4998"),
        ("pgd20-ce@128/l2/a0.1", "a25.5"),
        ("rap400@16/a0.00784", "a1.999"),
        ("rap400@16/n0.0627", "15.99"),
        ("pgd20-ce@0.5/l2", "127.5"),
        ("aa@0.5/l2", "127.5"),
    ),
)
def test_every_length_that_is_written_as_a_fraction_of_1_is_refused(text: str, write: str) -> None:
    with pytest.raises(ConfigError, match=rf"looks like a fraction of 1.*the unit is 1/255, write {re.escape(write)}$"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    (
        "pgd10-ce@2/a0.5",
        "pgd40-fkl@8/a0.25",
        "pgd10-kl@7.905/a0.765/gaussian",
        "pgd10-ce@8/a0.1",  # weak, but no fraction: 25.5 is three times the budget
        "pgd2-ce@8/a1",
        "pgd1-ce@8/a0.5",
        "pgd100-ce@1/a0.025",
        "pgd1000-ce@8/a0.02",
        "mifgsm200-ce@1",
        "pgd20-ce@128/l2/a16",
        "rap400@16/n0.5",
    ),
)
def test_small_steps_that_reach_their_budget_pass(text: str) -> None:
    spec = parse(text)
    assert parse(str(spec)) == spec


@pytest.mark.parametrize("steps", (1, 2, 10, 40, 400, 5000))
@pytest.mark.parametrize("objective", ("fkl", "ce", "margin"))
@pytest.mark.parametrize("eps", ("0.1", "1", "16", "255"))
def test_the_usual_steps_are_never_taken_for_fractions(steps: int, objective: str, eps: str) -> None:
    spec = parse(f"pgd{steps}-{objective}@{eps}")
    assert parse(str(spec)) == spec
