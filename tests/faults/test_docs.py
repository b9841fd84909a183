"""docs/reliability.md points each promise at a test that exists."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_every_named_test_exists():
    named = re.findall(r"`((?:dassl-lite/)?tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 25
    for file, function in named:
        path = ROOT / file
        assert path.is_file(), f"{file} is not there"
        found = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
        assert not function or function in found, f"{file} has no {function}"


def test_every_row_of_a_table_names_a_test():
    lines = TEXT.splitlines()
    rows = [line for line, after in zip(lines, [*lines[1:], ""]) if line.startswith("| ") and after[:4] != "|---"]
    assert len(rows) > 40
    assert not [row for row in rows if "`tests/" not in row]


def test_every_named_rule_exists():
    for module, name in re.findall(r"`(advpt(?:\.\w+)+)\.(\w+)`", TEXT):
        assert callable(getattr(importlib.import_module(module), name))
