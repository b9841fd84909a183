"""Records of outside models are verified with the code that the user names, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import advpt
from advpt.cli import main
from advpt.outside.load import load
from tests.helpers import outside
from tests.helpers.outside import photos

NAME = "tests.helpers.outside:make"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, Path]:
    """Photos, and the records of a model on them."""
    top = tmp_path_factory.mktemp("verified")
    folder, quick = photos(top / "pictures" / "test", per_class=2), {"queries": 5, "subset": 4, "adaptive_subset": 2}
    advpt.evaluate(load(NAME), folder, attacks=["pgd1-ce@4"], banks=top / "banks", output=top / "out", **quick)
    return folder, top / "out"


def test_each_record_is_made_anew_from_the_code_that_is_named(measured, capsys):
    folder, output = measured
    assert main(["verify", str(output), "--model", NAME, "--folder", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("agrees") >= 4 and "differs" not in printed.partition("\n\n")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), f"it is of {NAME}, a model from outside, whose code no record has: name it with --model"),
        (("--model", NAME), "its images are those of pictures, which is no data set here: name their folder with"),
        (("--model", "tests.helpers.outside:mak"), "unknown name in tests.helpers.outside 'mak'"),
    ],
)
def test_without_code_or_images_nothing_is_checked_and_it_says_so(measured, capsys, words, message):
    record = next((measured[1] / "records").glob("*static*own*"))
    assert main(["verify", str(record), *words]) == 1
    assert message in " ".join(capsys.readouterr().out.split())


def test_another_model_under_the_same_name_is_found(measured, capsys, monkeypatch):
    folder, output = measured
    made = outside.LooksAway()
    with torch.no_grad():
        made.undefended.norm.bias += 0.01
    monkeypatch.setattr(outside, "make", lambda: made)
    record = next((output / "records").glob("*static*own*"))
    assert main(["verify", str(record), "--model", NAME, "--folder", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "differs" in printed and "prompt" in printed and "not attacked" in printed
