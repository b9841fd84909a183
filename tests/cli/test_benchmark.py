"""The verb ``benchmark``."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.cli import main
from tests.helpers.outside import photos
from tests.helpers.script_calls import calls

MODEL = "tests.helpers.outside:make"


def test_a_dry_run_prints_the_plan_and_what_is_left_out(tmp_path, capsys):
    words = ["benchmark", "--demo", "--root", str(tmp_path), "--output", str(tmp_path / "out"), "--dry-run"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "10 of 10 runs to do" in printed and "left out" not in printed and not (tmp_path / "out").exists()
    assert main([*words, "--prompts", "LinearProbe", "--defenses", "rtpt,ttc", "--model", MODEL]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 runs to do" in printed and f"model     {MODEL} on digits" in printed
    assert "left out  rtpt behind LinearProbe: it tunes the words that classify" in printed


def test_data_that_is_not_there_is_named_before_anything_runs(tmp_path, capsys):
    words = ["benchmark", "--sets", "pets", "--backbones", "vit_b16", "--defenses", "ttc", "--root", str(tmp_path)]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    read = capsys.readouterr()
    assert "1 data sets are not under" in read.err and "advpt prepare pets" in read.out
    assert not (tmp_path / "out" / "jobs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    (
        (["--backbones", "vit_b61"], "--backbones: unknown backbone 'vit_b61'. Did you mean 'vit_b16'"),
        (["--sets", "pest"], "unknown data set 'pest'. Did you mean 'pets'"),
        (["--seeds", "many"], "--seeds is 'many'"),
        (["--defenses", "tcc"], "Did you mean 'ttc'"),
        (["--folder", "photos"], "no --model is named"),
        (["--folder", "photos", "--model", MODEL, "--sets", "pets"], "and so has --sets"),
        (["--folder", "photos", "--model", MODEL, "--prompts", "AdvPT"], "--prompts names our own models"),
        (["--model", MODEL, "--report-only"], "--model is code to run"),
    ),
)
def test_what_cannot_be_is_refused_in_a_sentence(words, message, tmp_path, capsys):
    assert main(["benchmark", *words, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_report_of_nothing_says_not_run(tmp_path, capsys):
    words = ["benchmark", "--demo", "--defenses", "ttc", "--report-only", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "not run" in printed and "nothing can be said of what survives" in printed
    tables = tmp_path / "out" / "report" / "tables"
    assert {path.stem for path in tables.glob("*.csv")} == {
        "benchmark_digits_democlip_4", "benchmark_digits_democlip_4_survival"
    }  # fmt: skip


def test_an_outside_model_alone_is_measured_and_has_a_report(tmp_path, capsys):
    folder = photos(tmp_path / "pictures", 3)
    words = ["benchmark", "--demo", "--model", MODEL, "--folder", str(folder), "--output", str(tmp_path / "out")]
    assert main(words) == 2 and "--demo names our own models" in capsys.readouterr().err
    words = [each for each in words if each != "--demo"] + ["--budgets", "1", "--inputs", "none"]
    words += ["--subset", "3", "--adaptive-subset", "1"]
    assert main([*words, "--set", "EVAL.QUERIES", "5", "--set", "EVAL.EOT", "1"]) == 0
    printed = capsys.readouterr().out
    assert "measure   tests.helpers.outside:make on" in printed and "runs to do" not in printed
    assert "Published and adaptive gains" in printed and "its own" in printed
    page = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    assert "its own" in page and "tests.helpers.outside" in page


def test_its_help_fits_a_small_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["benchmark", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80


def test_the_script_gives_its_words_to_the_verb(tmp_path: Path) -> None:
    (call,), _ = calls(tmp_path, "advpt/benchmark.sh", "--demo", "--dry-run", SETS="digits", BUDGETS="2,4")
    assert call[:3] == ["-m", "advpt", "benchmark"] and call[-2:] == ["--demo", "--dry-run"]
    assert call[call.index("--sets") + 1] == "digits" and call[call.index("--budgets") + 1] == "2,4"
    assert "--prompts" not in call
    none, printed = calls(tmp_path / "b", "advpt/benchmark.sh")
    assert none == [] and "bash scripts/advpt/benchmark.sh --demo" in printed
