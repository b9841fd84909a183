"""CONTRIBUTING.md, taken by its word in a copy of the project: its examples run, are planned, reported and tested."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.test_imports import LAYERS, REPOSITORY

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
PACKAGES = ("advpt", "trainers", "datasets")
COPIED = (*PACKAGES, "configs", "scripts", "tests", "docs", "dassl-lite", "train.py", "pyproject.toml")
# The tests that find what is new by themselves, and the names that they have then.
FOUND_BY = ("tests/helpers/contributed.py", "tests/attacks/test_base.py", "tests/defenses/test_base.py",
            "tests/bank/test_defended_input.py", "tests/data/test_catalog_entries.py", "tests/data/test_prepare.py",
            "tests/data/test_prepare_verb.py", "tests/datasets/test_split_file.py", "tests/configs",
            "tests/test_settings.py", "tests/test_time/test_every_defense.py", "tests/test_train.py",
            "tests/test_tree.py", "tests/trainers/test_finetune.py")  # fmt: skip
NAMES = ("contributed", "rsfgsm", "squeeze", "mirror", "Shapes", "shapes", "Smooth", "smooth", "Anchored", "registered",
         "unique", "shipped", "documented")  # fmt: skip


def blocks(section: str) -> dict[str, str]:
    """The examples below a heading, by the path in their first line."""
    inside = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    code = [textwrap.dedent(each).strip() for each in re.findall(r"(?:^ {4}.*\n|^\n)+", inside, flags=re.MULTILINE)]
    named = (re.fullmatch(r"# (\S+)\n(.*)", each, flags=re.DOTALL) for each in code)
    return {each[1]: each[2] + "\n" for each in named if each}


def add(top: Path, path: str, code: str) -> None:
    """A new file, or lines in the place that CONTRIBUTING.md says."""
    target = top / path
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        target.write_text(code, encoding="utf-8")
        return
    text = target.read_text(encoding="utf-8")
    if path.endswith("__init__.py"):
        at = text.rindex("\n", 0, re.search(r"^(from|import) ", text, flags=re.MULTILINE).start()) + 1  # type: ignore[union-attr]
        text = text[:at] + code + text[at:]
    else:
        text = f"{text}\n{code}"
    target.write_text(text, encoding="utf-8")


ADDITIONS = {
    "Add a trainer": ["configs/trainers/Smooth/democlip.yaml", "trainers/__init__.py", "trainers/smooth.py"],
    "Add an attack": ["advpt/attacks/__init__.py", "advpt/attacks/rsfgsm.py"],
    "Add a defense": ["advpt/defenses/__init__.py", "advpt/defenses/squeeze.py"],
    "Add a test-time defense": ["advpt/test_time/__init__.py", "advpt/test_time/mirror.py"],
    "Add a fine-tuning method": [
        "configs/trainers/Anchored/democlip.yaml",
        "trainers/__init__.py",
        "trainers/anchored.py",
    ],
    "Add a data set": ["advpt/data/catalog.toml", "configs/datasets/shapes.yaml"],
}


def test_the_layers_are_those_of_the_imports() -> None:
    shown = re.findall(
        r"^ {4}((?:\w+, )*\w+)$", TEXT.split("## Where things go")[1].split("\n## ")[0], flags=re.MULTILINE
    )
    layers = [{part for part in layer if part != "__main__"} for layer in LAYERS[1:]]
    assert [set(line.split(", ")) for line in shown] == layers[::-1]
    assert all((REPOSITORY / "advpt" / f"{part}.py").is_file() for part in LAYERS[0])


@pytest.mark.parametrize("section", ADDITIONS)
def test_an_addition_is_as_many_files_as_it_says(section: str) -> None:
    assert sorted(blocks(section)) == ADDITIONS[section]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project with the examples in it."""
    top = tmp_path / "copy"
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, top / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", ".*"))
        else:
            shutil.copy(source, top / name)
    for section in ADDITIONS:
        for path, code in blocks(section).items():
            add(top, path, code)
    return top


def test_its_examples_run_are_planned_reported_and_tested(copy: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{copy / 'dassl-lite'}", "OMP_NUM_THREADS": "1"}

    def python(*words: str) -> str:
        run = [sys.executable, *words]
        done = subprocess.run(run, cwd=copy, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-m", "ruff", "check", "--select", "I", "--fix", "-q", *PACKAGES)  # as `make format`
    python("-m", "ruff", "check", *PACKAGES)
    python("-m", "ruff", "format", "--check", *PACKAGES)
    (docs,) = re.findall(r"^docs:.*\n\t\$\(PYTHON\) -c '(.*)' > docs/settings.md", MAKEFILE, flags=re.MULTILINE)
    (copy / "docs" / "settings.md").write_text(python("-c", docs), encoding="utf-8")
    (words,) = re.findall(r"^ {4}bash scripts/advpt/benchmark\.sh (.*)$", TEXT, flags=re.MULTILINE)
    assert "mirror" in words and "7 of 7 runs to do" in python("-m", "advpt", "benchmark", *words.split(), "--dry-run")
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", *FOUND_BY, "-k", " or ".join(NAMES))
