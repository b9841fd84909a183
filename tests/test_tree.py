"""The tests mirror the tree: what a module is tested by is found by its name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = REPOSITORY / "tests"

# Modules without a test file of their name, and where they are tested instead.
EXCEPTIONS = {
    "advpt/version.py": "one constant",
}
# Folders of tests that mirror no package: what they test is more than one module.
TOPICS = {
    "configs": "the yaml files",
    "faults": "damage, confusions and kills in whole runs",
    "helpers": "no tests",
    "runs": "whole runs through train.py, seen from outside",
    "scripts": "scripts/",
    "v1": "files of version 1",
}
# What registers itself is under the contract of all of its kind (test_base.py); a file of its own is for the rest.
CONTRACTS = ("@ATTACKS.add\n", "@DEFENSES.add\n")


def has_code(path: Path) -> bool:
    """Whether a module has more than imports, constants' names and its docstring."""
    plain = (ast.Import, ast.ImportFrom, ast.Expr)
    lines = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if not isinstance(n, plain)]
    return bool(lines)


MODULES = [p for p in sorted((REPOSITORY / "advpt").rglob("*.py")) if p.name != "__init__.py" and has_code(p)]


def mirrored(module: Path) -> Path:
    inner = module.relative_to(REPOSITORY / "advpt")
    return TESTS / inner.parent / f"test_{inner.name}"


def place(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_a_module_has_a_test_file_of_its_name(module: Path) -> None:
    if (name := place(module)) in EXCEPTIONS:
        assert not mirrored(module).exists(), f"{name} has tests: take it out of EXCEPTIONS"
    elif not any(mark in module.read_text(encoding="utf-8") for mark in CONTRACTS):
        assert mirrored(module).exists(), f"{name} is tested in {place(mirrored(module))}, which is not there"
