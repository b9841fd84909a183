"""What the README says can be typed can be typed; what it shows runs."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch

from advpt.attacks.base import ATTACKS
from advpt.cli import parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks() -> list[str]:
    blocks = re.findall(r"(?:^ {4}.*\n|^\n)+", README, flags=re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in blocks if block.strip()]


def block(starting: str) -> str:
    return next(b for b in code_blocks() if b.startswith(starting))


def test_every_file_it_names_exists():
    named = {name.removeprefix("CHECKOUT/") for name in re.findall(r"[\w./-]+\.(?:md|sh|py|yaml|cff)\b", README)}
    named -= {"mine.py"}
    invented = {"trainers/mine.py", "advpt/attacks/mine.py"}
    assert {"scripts/advpt/main.sh", "DATASETS.md"} <= named
    assert [name for name in sorted(named - invented) if not (ROOT / name).exists()] == []


def test_every_verb_it_types_exists():
    for line in re.findall(r"python -m advpt ([^#>`\n]+)", README):
        words = [w for w in line.split() if w not in ("...",)]
        parser().parse_args(words)


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)`?", README)) <= targets


def test_the_demo_table_was_printed_by_the_report():
    shown = README.split("<!-- demo -->")[1].split("<!-- /demo -->")[0]
    assert "DemoCLIP; accuracy in %" in shown and "AdvPT's training bank: pgd10-fkl@4" in shown
    for method in ("ZeroshotCLIP", "CoOp", "AdvPT"):
        assert re.search(rf"\| {method} +\|.*\d\d\.\d", shown)
    assert "adaptive" in shown and "transfer" in shown and "95 % interval" in shown


@pytest.fixture
def attack_example():
    yield block("# advpt/attacks/mine.py")
    ATTACKS.remove("mine")


def test_the_attack_example_works(attack_example):
    space = {"torch": torch}
    exec(attack_example, space)
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    attack = ATTACKS.get("mine")(eps=4)
    out = attack(lambda p: p.flatten(1)[:, :5], x, torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    assert out.changed.all() and (out.distance <= 4.001).all()
