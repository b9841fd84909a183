"""A plan in words: what it takes, and options as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.errors import ConfigError
from advpt.jobs import reproduce
from advpt.jobs.exhibits import plan_exhibits
from advpt.jobs.local import slots_here
from advpt.jobs.places import Places
from advpt.jobs.setup import PAPER

ROOT = Path(__file__).resolve().parents[2]


def test_an_estimate_counts_what_is_to_do(tmp_path):
    plan = plan_exhibits(["table1"], PAPER.narrowed(["pets"], ["vit_b16"], []), ROOT).plan
    places = Places(ROOT, tmp_path, tmp_path, tmp_path)
    counts, time = reproduce.estimate(plan, places, 1, {"ZeroshotCLIP", "AdvPT"})
    # 3,669 images clean and under PGD-40 for all; PGD-40 on each of the three prompts and on the hand-written one
    assert counts.startswith(
        f"4 of 4 runs to do: 3,669 images to evaluate, {3669 * (1 + 41 + 4 * 41):,} forward passes"
    )
    assert "(rap400-ce@16" in counts and "are free" in counts and "nothing is recorded yet" in time


def test_weights_come_as_words():
    assert reproduce.weights(["vit_b16=a=b.pt"]) == {"vit_b16": "a=b.pt"}
    with pytest.raises(ConfigError, match="BACKBONE=FILE"):
        reproduce.weights(["vit_b16"])
    with pytest.raises(ConfigError, match="--jobs"):
        slots_here(-1)
    assert slots_here(3)[0] == 3


@pytest.mark.parametrize(
    ("text", "means"), [("8xH200", (8, "H200")), ("2xhere", (2, "here")), ("16xa100", (16, "a100"))]
)
def test_clusters(text, means):
    assert reproduce.parse_cluster(text) == means


@pytest.mark.parametrize("text", ["8", "0xH200", "xH200", "H200x8"])
def test_no_cluster(text):
    with pytest.raises(ConfigError, match="not of the form 8xH200"):
        reproduce.parse_cluster(text)
