"""``NAME[:PROFILE][/OPTION=VALUE...]``: what texts mean, and what errors tell about mistakes."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advpt.errors import ConfigError
from advpt.options import Option, parse_options, write_options

PROFILES: dict[str, dict[str, Option]] = {
    "sound": {"steps": 2, "size": 0.5, "clip": True, "rule": "sign"},
    "released": {"steps": 5, "size": 1.0, "clip": False, "rule": "raw"},
}
WORDS = st.text(string.ascii_letters + string.digits + " .-_=:,'", max_size=12)


def read(text: str) -> tuple[str, dict[str, Option]]:
    """With a noun for messages."""
    return parse_options("gadget", text, PROFILES)


def test_a_text_changes_some_options_of_a_profile() -> None:
    assert read("name") == read("name:sound") == ("sound", PROFILES["sound"])
    assert read("name:released") == ("released", PROFILES["released"])
    assert read("name/size=2/clip=false") == ("sound", PROFILES["sound"] | {"size": 2.0, "clip": False})
    assert read("name/steps=3/steps=4")[1]["steps"] == 4, "the last one counts"
    assert list(read("name/rule=x/steps=1")[1]) == ["steps", "size", "clip", "rule"], "in the profile's order"
    assert PROFILES["sound"]["steps"] == 2, "the profile itself is left alone"


@pytest.mark.parametrize(
    ("text", "value"), (("True", True), ("true", True), ("1", True), ("False", False), ("FALSE", False), ("0", False))
)
def test_switches(text: str, value: bool) -> None:
    assert read(f"name/clip={text}")[1]["clip"] is value


@pytest.mark.parametrize(("text", "value"), (("2", 2.0), ("1e-3", 0.001), ("-0.5", -0.5)))
def test_numbers_keep_the_type_of_the_profile(text: str, value: float) -> None:
    read_value = read(f"name/size={text}")[1]["size"]
    assert read_value == value and type(read_value) is float


def test_large_numbers_are_written_without_a_plus() -> None:
    """It separates defenses in the texts that options are part of."""
    assert write_options("name", "sound", {"size": 1e16}) == "name:sound/size=1e16"
    assert read("name/size=1e16")[1]["size"] == 1e16


def test_words_may_hold_equals_signs() -> None:
    assert read("name/rule=a=b")[1]["rule"] == "a=b"
    assert read("name/rule=")[1]["rule"] == ""


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(PROFILES)), st.integers(), st.floats(-1e300, 1e300), st.booleans(), WORDS
)  # fmt: skip
def test_what_is_written_is_read_back(profile: str, steps: int, size: float, clip: bool, rule: str) -> None:
    options: dict[str, Option] = {"steps": steps, "size": size, "clip": clip, "rule": rule}
    assert read(write_options("name", profile, options)) == (profile, options)
    changed = {key: value for key, value in options.items() if value != PROFILES[profile][key]}
    assert read(write_options("name", profile, changed)) == (profile, options), "so does the shortest text"


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        profile, options = read(text)
    except ConfigError as error:
        assert "gadget" in str(error)
    else:
        assert profile in PROFILES
        assert [type(value) for value in options.values()] == [int, float, bool, str]


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("name:sond", "unknown profile 'sond'. Did you mean 'sound'.*Known: released, sound"),
        ("name/step=3", "unknown option 'step'. Did you mean 'steps'.*OPTION=VALUE"),
        ("name/steps", "OPTION=VALUE"),
        ("name//steps=3", "unknown option ''"),
        ("name/size=inf", "size is 'inf'; expected a finite number, for instance 0.5"),
        ("name/size=nan", "size is 'nan'; expected a finite number"),
        ("name/size=1e999", "size is '1e999'; expected a finite number"),
        ("name/steps=2.5", "steps is '2.5'; expected a whole number, for instance 2"),
        ("name/size=big", "size is 'big'; expected a finite number, for instance 0.5"),
        ("name/size=", "size is ''; expected a finite number"),
        ("name/clip=maybe", "clip is 'maybe'; expected True or False, for instance True"),
    ),
)
def test_mistakes_are_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(text)
    assert str(caught.value).startswith(f"gadget {text!r}: "), "it says which text"
