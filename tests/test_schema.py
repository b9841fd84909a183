"""The annotations of a dataclass are the schema of its JSON object."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advpt.schema import FieldError, Json, from_json, optional, other_names, to_json


@dataclass(frozen=True, kw_only=True)
class Leaf:
    name: str
    share: float = 0.0

    def __post_init__(self) -> None:
        if self.share < 0:
            raise FieldError(f"share is {self.share}, expected a number from 0")


@dataclass(frozen=True, kw_only=True)
class Root:
    n: int
    on: bool = False
    leaf: Leaf | None = None
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[str, float] = ("", 0.0)
    counts: Mapping[str, int] = field(default_factory=dict)
    anything: Json = None
    late: str | None = optional()
    more: Mapping[str, Json] = other_names()


leaves = st.builds(Leaf, name=st.text(max_size=3), share=st.floats(0, 9))
roots = st.builds(
    Root,
    n=st.integers(),
    on=st.booleans(),
    leaf=st.none() | leaves,
    leaves=st.lists(leaves, max_size=2).map(tuple),
    pair=st.tuples(st.text(max_size=3), st.floats(0, 9)),
    counts=st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    anything=st.none() | st.lists(st.integers(), max_size=2),
    late=st.none() | st.text(max_size=3),
    more=st.dictionaries(st.sampled_from(["x", "y"]), st.integers(), max_size=2),
)


@given(roots)
def test_what_is_written_is_what_is_read(root: Root) -> None:
    assert from_json(Root, to_json(root)) == root


def test_optional_fields_stand_in_the_json_where_they_differ_from_their_default() -> None:
    assert "late" not in to_json(Root(n=1)) and to_json(Root(n=1, late="x"))["late"] == "x"
    assert to_json(Root(n=1))["leaf"] is None


def test_names_without_a_field_are_kept_beside_the_others_or_ignored() -> None:
    assert from_json(Root, {"n": 1, "x": 2}).more == {"x": 2}
    assert to_json(Root(n=1, more={"x": 2}))["x"] == 2
    assert from_json(Leaf, {"name": "a", "x": 2}) == Leaf(name="a")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "Root is [], expected an object"),
        ({}, "n is missing"),
        ({"n": True}, "n is True, expected a whole number"),
        ({"n": 1.0}, "n is 1.0, expected a whole number"),
        ({"n": 1, "on": 0}, "on is 0, expected true or false"),
        ({"n": 1, "leaf": 3}, "leaf is 3, expected an object or null"),
        ({"n": 1, "leaf": {}}, "leaf.name is missing"),
        ({"n": 1, "leaf": {"name": "a", "share": math.inf}}, "leaf.share is inf, expected a number"),
        ({"n": 1, "leaf": {"name": "a", "share": -1}}, "leaf.share is -1, expected a number from 0"),
        ({"n": 1, "leaves": "abc"}, "leaves is 'abc', expected a list"),
        ({"n": 1, "leaves": [{"name": "a"}, {"name": 2}]}, "leaves[1].name is 2, expected a text"),
        ({"n": 1, "pair": ["a"]}, "pair is ['a'], expected a list of 2"),
        ({"n": 1, "pair": ["a", "b"]}, "pair[1] is 'b', expected a number"),
        ({"n": 1, "counts": {"a": None}}, "counts.a is None, expected a whole number"),
        ({"n": 1, "late": 1}, "late is 1, expected a text or null"),
    ],
)
def test_what_does_not_fit_is_named_with_what_was_expected(value: Json, sentence: str) -> None:
    with pytest.raises(FieldError) as error:
        from_json(Root, value)
    assert str(error.value) == sentence


def test_texts_of_a_class_of_their_own_are_texts() -> None:
    """As torch's version is one."""

    class Version(str):
        pass

    assert from_json(Leaf, {"name": Version("2.6")}).name == "2.6"


def test_fields_keep_whole_numbers_that_stand_for_others() -> None:
    """So that the JSON of a record, and with it its id, is that of its file."""
    assert to_json(from_json(Leaf, {"name": "a", "share": 2})) == {"name": "a", "share": 2}
    assert type(to_json(dataclasses.replace(Leaf(name="a"), share=2))["share"]) is int
