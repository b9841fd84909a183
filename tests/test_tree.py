"""The tests mirror the tree: the name of a module says where it is tested."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS, LIBRARY = REPOSITORY / "tests", REPOSITORY / "advpt"

# Modules without a test file of their name, and why.
EXCEPTIONS = {
    "advpt/advice.py": "tests/runs/test_peer_files.py looks at each sentence where a user meets it",
    "advpt/cli/bank.py": "arguments of advpt/bank; tests/bank/test_statistics.py",
    "advpt/cli/prepare.py": "arguments of advpt/data/prepare.py",
    "advpt/cli/prompt.py": "arguments of advpt/prompts/exchange.py",
    "advpt/cli/report.py": "tests/results/test_groups.py and test_report.py",
    "advpt/cli/run.py": "tests/scripts",
    "advpt/cli/statistics.py": "tests/bank/test_statistics.py, tests/trainers/test_tapt.py",
    "advpt/data/facts.py": "dataclasses without a rule of their own",
    "advpt/test_time/dbd_transforms.py": "tests/test_time/test_dbd.py",
    "advpt/evaluation/measure.py": "tests/evaluation/test_evaluator.py, and test_test_time.py for attackers in parts",
    "advpt/jobs/backends.py": "tests/jobs/test_executor.py runs on this machine, test_backends_on_ray.py on a cluster",
    "advpt/jobs/methods.py": "names",
    "advpt/jobs/scripts.py": "tests/scripts",
    "advpt/results/exhibit.py": "dataclasses without a rule of their own",
    "advpt/version.py": "one constant",
}
DATA = ("advpt/jobs/exhibits/",)  # tables and figures: tests/jobs/test_exhibits.py
# A class that registers itself is under the contract of all of its kind (test_base.py, test_every_defense.py) without a
# file of its own.
CONTRACTS = ("@ATTACKS.add\n", "@DEFENSES.add\n", "@TEST_TIME.add\n")
# Tests of more than one module.
TOPICS = {
    "tests/backbones/test_every_tower.py": "backbones/ and prompts/ over models of every family",
    "tests/test_time/test_every_defense.py": "what all defenses at test time share",
    "tests/cli/test_main.py": "main() of advpt/cli/__init__.py",
    "tests/test_citations.py": "what is said of papers",
    "tests/test_contributing.py": "CONTRIBUTING.md",
    "tests/test_docs.py": "README.md, DATASETS.md, CONTRIBUTING.md and docs/",
    "tests/test_docs_examples.py": "Python in README.md and docs/",
    "tests/test_glossary.py": "docs/glossary.md",
    "tests/test_guard.py": "the guard against the network in tests/conftest.py",
    "tests/test_imports.py": "layers",
    "tests/test_readme.py": "README.md",
    "tests/test_train.py": "train.py",
    "tests/test_tree.py": "this file",
    "tests/test_v1.py": "what version 1 left on disk",
    "tests/benchmarks/": "benchmarks/",
    "tests/configs/": "yaml files",
    "tests/faults/": "damage, confusions and kills in whole runs",
    "tests/golden/": "keys, configurations and small runs that stay as they are",
    "tests/runs/": "whole runs through train.py, seen from outside",
    "tests/scripts/": "scripts/",
}


def has_code(path: Path) -> bool:
    """Whether there is more than imports and docstrings."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return not all(isinstance(node, ast.Import | ast.ImportFrom | ast.Expr) for node in body)


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


MODULES = [p for p in sorted(LIBRARY.rglob("*.py")) if not p.name.startswith("__") and has_code(p)]


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_has_a_test_file_of_its_name(module: Path) -> None:
    name, inner = name_of(module), module.relative_to(LIBRARY)
    mirrored = TESTS / inner.parent / f"test_{inner.name}"
    if mirrored.exists():
        assert name not in EXCEPTIONS, f"{name} is no exception any more"
    elif not any(mark in module.read_text(encoding="utf-8") for mark in CONTRACTS):
        assert name in EXCEPTIONS or name.startswith(DATA), f"{name} is to be tested in {name_of(mirrored)}"


def test_exceptions_and_topics_exist() -> None:
    assert [name for name in (*EXCEPTIONS, *TOPICS, *DATA) if not (REPOSITORY / name).exists()] == []


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=name_of)
def test_a_test_file_is_named_after_a_module_or_a_part_of_one(path: Path) -> None:
    """``test_store.py`` of ``store.py``, or ``test_store_topic.py``."""
    if name_of(path).startswith(tuple(TOPICS)):
        return
    inner = path.relative_to(TESTS).parent
    folder = REPOSITORY / inner if inner.parts[:1] in (("datasets",), ("trainers",)) else LIBRARY / inner
    words = path.stem.removeprefix("test_").split("_")
    names = ["_".join(words[:n]) for n in range(1, len(words) + 1)]
    tested = [n for n in names if (folder / f"{n}.py").exists() or (folder / n).is_dir()]
    assert tested, f"{name_of(path)} names no module of {name_of(folder)}"
