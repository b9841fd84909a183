"""A plan in words: what it takes, and options as they are typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from advpt.cli import common, parser
from advpt.errors import ConfigError
from advpt.jobs.backends import slots_here
from advpt.jobs.exhibits import plan_exhibits
from advpt.jobs.places import Places
from advpt.jobs.plan import Plan
from advpt.jobs.setup import PAPER

ROOT = Path(__file__).resolve().parents[2]


def test_an_estimate_counts_what_is_to_do(tmp_path):
    plan = plan_exhibits(["table1"], PAPER.narrowed(["pets"], ["vit_b16"], []), ROOT).plan
    places = Places(ROOT, tmp_path, tmp_path, tmp_path)
    counts, time = common.estimate(plan, places, 1, {"ZeroshotCLIP", "AdvPT"})
    # 3,669 images clean and under PGD-40 for all; PGD-40 on each of the three prompts and on the hand-written one
    assert counts.startswith(
        f"4 of 4 runs to do: 3,669 images to evaluate, {3669 * (1 + 41 + 4 * 41):,} forward passes"
    )
    assert "(rap400-ce@16" in counts and "are free" in counts and "nothing is recorded yet" in time


def test_weights_and_settings_come_as_words(tmp_path):
    words = ["sweep", "pets", "--set", "OPTIM.LR", "0.1", "--weights"]
    args = parser(["sweep"]).parse_args([*words, "vit_b16=a=b.pt"])
    places, more = common.places_and_settings(args, tmp_path, tmp_path / "banks")
    assert places.weights == {"vit_b16": "a=b.pt"} and more == (("OPTIM.LR", "0.1"),)
    for word in ("vit_b16", "vit_b16="):
        with pytest.raises(ConfigError, match="BACKBONE=FILE"):
            common.places_and_settings(parser(["sweep"]).parse_args([*words, word]), tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="--jobs"):
        slots_here(-1)
    assert slots_here(3)[0] == 3


@pytest.mark.parametrize(
    ("text", "means"),
    [("8xH200", "of 8 workers .*, H200 or"), ("2xhere", "of 2 workers .*, here or"), ("16xa100", "of 16 .*, a100 or")],
)
def test_clusters(text, means, tmp_path):
    places = Places(ROOT, tmp_path, tmp_path, tmp_path)
    assert re.search(means, common.estimate(Plan(()), places, 1, (), text)[1])


@pytest.mark.parametrize("text", ["8", "0xH200", "xH200", "H200x8"])
def test_no_cluster(text, tmp_path):
    with pytest.raises(ConfigError, match="not of the form 8xH200"):
        common.estimate(Plan(()), Places(ROOT, tmp_path, tmp_path, tmp_path), 1, (), text)


def test_what_is_no_run_is_a_sentence(tmp_path):
    """A folder of runs names some of them; a run has a configuration, or a model as another host leaves it."""
    file = tmp_path / "a.txt"
    file.write_text("x")
    for folder, words in ((file, "is a file"), (tmp_path / "none", "none does not exist")):
        with pytest.raises(ConfigError, match=f"{words}; give the folder of a finished run"):
            common.require_run(folder)
    for name in "abcde":
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="has runs below it, for instance (\\S+, ){2}\\S+; name one"):
        common.require_run(tmp_path / "runs")
    common.require_run(tmp_path / "runs" / "a")
    for name in ("prompt_learner", "zero_shot", "image_encoder", "linear_probe"):
        (tmp_path / name / name / "probe.safetensors").mkdir(parents=True)
        common.require_run(tmp_path / name)


def test_devices():
    assert common.device("cpu").type == "cpu" and common.device("").type in ("cpu", "cuda")
    for text in ("gpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"--device {text} cannot be used .*; give cpu, or cuda"):
            common.device(text)
