"""The verb ``reproduce``."""

from __future__ import annotations

from advpt.cli import main


def test_dry_run_prints_the_plan_and_what_is_missing_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ADVPT_CLIP_CACHE", str(tmp_path / "none"))
    words = ["reproduce", "table1", "--only", "pets,dtd", "--backbones", "vit_b16", "--root", str(tmp_path), "--output"]
    assert main([*words, str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "8 of 8 runs to do" in printed and "GB of disk" in printed
    assert f"missing   OxfordPets: {tmp_path / 'oxford_pets' / 'images'}" in printed and "advpt prepare pets" in printed
    assert "weights   ViT-B/16" in printed and not (tmp_path / "out").exists()
    assert main([*words, str(tmp_path / "out")]) == 2
    assert "2 data sets are not under" in capsys.readouterr().err


def test_a_report_of_nothing_says_not_run(tmp_path, capsys):
    words = ["reproduce", "table1", "table5", "fig3", "--demo", "--report-only", "--root", str(tmp_path)]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    assert "not run" in capsys.readouterr().out
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "not run" in page and (tmp_path / "out" / "report" / "figures" / "fig3.png").is_file()


def test_a_dry_run_and_a_report_of_towers(tmp_path, capsys):
    words = ["reproduce", "towers", "--demo", "--root", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "19 of 19 runs to do" in printed and not (tmp_path / "out").exists()
    for kind in ("TeCoA", "FARE", "PMGAFT", "TGAZSR", "stack-FARE"):
        assert kind in printed
    assert main([*words, "--report-only"]) == 0
    tables = tmp_path / "out" / "report" / "tables"
    for name in ("towers_digits_democlip", "towers_digits_democlip_stacks"):
        assert "not run" in (tables / f"{name}.md").read_text() and (tables / f"{name}.csv").is_file()
