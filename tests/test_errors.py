"""The sentences of errors, and what they have in common."""

from __future__ import annotations

from advpt.errors import AdvPTError, unknown_name

# --- errors ---------------------------------------------------------------------------------------------------------


def test_the_sentence_for_an_unknown_name() -> None:
    assert (
        unknown_name("fruit", "aple", ["pear", "apple"])
        == "unknown fruit 'aple'. Did you mean 'apple'? Known: apple, pear"
    )
    assert unknown_name("fruit", "xyz", []) == "unknown fruit 'xyz'. Known: none"


def test_one_except_clause_catches_all() -> None:
    from advpt import errors

    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) > 5 and all(issubclass(kind, AdvPTError) for kind in kinds)
