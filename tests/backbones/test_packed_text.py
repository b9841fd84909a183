"""Prompts packed row by row: which of them lie in one group. Their features: test_text_encoder.py."""

from __future__ import annotations

from advpt.backbones import packed_text


def test_groups_hold_prompts_of_about_one_length() -> None:
    eos = (4, 9, 4, 5, 5, 8, 2)
    assert packed_text.group_by_length(eos, 0) == [[1], [5], [3, 4], [0, 2], [6]]
    assert packed_text.group_by_length(eos, 2) == [[1, 5], [3, 4, 0, 2], [6]]
    assert packed_text.group_by_length(eos, 100) == [[1, 5, 3, 4, 0, 2, 6]]
