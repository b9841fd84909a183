"""What a script of ``scripts/`` calls: the words of Python, the runs of its plan, and those runs without a start of
Python for each."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import train
from advpt.cli import main, parser
from advpt.cli.run import script_of
from advpt.jobs import backends
from advpt.jobs.places import command
from advpt.jobs.process import ProcessSpec
from tests.helpers.injection import Forked, forked, outcome
from tests.helpers.workspace import ROOT


def calls(tmp_path: Path, script: str, *words: str, **env: str) -> tuple[list[list[str]], str]:
    """The words of every Python call of a script, and what it printed."""
    tmp_path.mkdir(exist_ok=True)
    log, fake = tmp_path / "calls", tmp_path / "python"
    fake.write_text(f'#!/usr/bin/env bash\nprintf "%s\\t" "$@" >> {log}; echo >> {log}\n')
    fake.chmod(0o755)
    given = os.environ | {"PYTHON": str(fake), "OUTPUT": str(tmp_path / "out"), "DATA": "/data"} | env
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / script), *words], env=given, capture_output=True, text=True, check=False
    )
    lines = log.read_text().splitlines() if log.is_file() else []
    return [line.removesuffix("\t").split("\t") for line in lines], done.stdout + done.stderr


def plan_of(tmp_path: Path, script: str, *words: str, **env: str):
    """The script's plan, the words of each of its runs of ``train.py``, and the whole :class:`Script`."""
    (call,), _ = calls(tmp_path, script, *words, **env)
    assert call[:3] == ["-m", "advpt", "run"]
    made, places = script_of(parser(["run"]).parse_args(call[2:]))
    return [command(job, made.plan, places)[2:] for job in made.plan.jobs], made


def run_here(tmp_path: Path, script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The script's one call of Python, as :func:`verb_here`."""
    (tmp_path / "calls").unlink(missing_ok=True)
    (call,), printed = calls(tmp_path, script, *words, **env)
    assert call[:2] == ["-m", "advpt"]
    done = verb_here(tmp_path, *call[2:], **env)
    return subprocess.CompletedProcess(call, done.returncode, printed + done.stdout)


def verb_here(tmp_path: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """``python -m advpt`` and its runs in forks of this process: as in processes of their own, but for seconds of
    imports in each."""
    log = tmp_path / "printed"
    log.write_text("", encoding="utf-8")
    status = outcome(start_verb(log, *words, **env))
    return subprocess.CompletedProcess(words, status, log.read_text(encoding="utf-8"))


def start_verb(log: Path, *words: str, **env: str) -> int:
    """The id of the process of :func:`verb_here`, which writes to ``log``."""

    def work() -> int:
        os.environ.update(env)
        os.chdir(ROOT)
        backends.start = _fork
        return main(list(words))

    return forked(work, log)


def _fork(spec: ProcessSpec, lock: int) -> Forked:
    def work() -> int:
        os.environ.clear()
        os.environ.update(spec.environment)
        os.chdir(spec.folder)
        python, program, *words = spec.words
        assert Path(program) == ROOT / "train.py"
        return train.main(words)

    return Forked(work, spec.log)


def value(words: list[str], name: str) -> str:
    """The word behind another one."""
    return words[words.index(name) + 1]
