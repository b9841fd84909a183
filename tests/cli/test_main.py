"""The command line as a whole: its verbs, what ends it, and where it cannot be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advpt.cli import VERBS, main
from advpt.jobs.executor import Executor
from advpt.signals import TERMINATED

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)], ids=lambda words: " ".join(words) or "top")
def test_help_fits_a_screen(capsys, verb):
    with pytest.raises(SystemExit) as done:
        main([*verb, "--help"])
    assert done.value.code == 0 and len(capsys.readouterr().out.splitlines()) <= 40


@pytest.mark.parametrize(
    "words",
    (
        ("sweep", "digits", "--backbones", "democlip", "--seeds", "1"),
        ("reproduce", "table1", "--demo", "--seeds", "1"),
        ("benchmark", "--demo", "--defenses", "ttc"),
        ("run", "--seeds", "1", "main", "digits", "democlip"),
        ("doctor", "--check", "digits", "democlip"),
    ),
    ids=lambda words: words[0],
)
def test_sigterm_ends_a_plan_as_it_ends_train(words, tmp_path, monkeypatch, capsys):
    """Status 143 and the sentence; handlers are as before."""
    handler = signal.getsignal(signal.SIGTERM)

    def interrupted(executor):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(Executor, "run", interrupted)
    verb, *rest = words
    assert main([verb, "--root", str(tmp_path), "--output", str(tmp_path / "out"), *rest]) == TERMINATED
    assert "stopped by SIGTERM; the same command continues" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == handler


def test_ctrl_c_has_its_own_status(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Executor, "run", lambda executor: os.kill(os.getpid(), signal.SIGINT))
    assert main(["run", "--seeds", "1", "--output", str(tmp_path), "main", "digits", "democlip"]) == 130
    assert "stopped; the same command continues" in capsys.readouterr().err


def test_where_files_cannot_be_locked_the_import_says_what_is_needed():
    code = "import sys; sys.modules['fcntl'] = None\nimport advpt"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: AdvPT needs a POSIX system") and "fcntl" in last


def test_the_package_is_for_posix_systems():
    assert '"Operating System :: POSIX"' in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert "POSIX" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_settings_of_a_script_are_pairs(capsys, tmp_path):
    words = ["run", "--output", str(tmp_path), "main", "digits", "democlip"]
    assert main([*words, "OPTIM.LR"]) == 2
    assert "settings are KEY VALUE pairs" in capsys.readouterr().err
    assert main(["run", "main", "digits"]) == 2
    assert "main needs 2 words" in capsys.readouterr().err
    assert main(["run", "--shots", "many", *words[1:]]) == 2
    assert "SHOTS has 'many'" in capsys.readouterr().err


def test_mistakes_exit_with_two(capsys):
    assert main(["attacks", "pdg40@16"]) == 2
    assert "Did you mean 'pgd'" in capsys.readouterr().err


def test_names_that_are_not_utf8_are_a_sentence(capsys):
    assert main(["report", "caf\udce9"]) == 2
    assert r"the name 'caf\xe9' is not UTF-8" in capsys.readouterr().err
