"""benchmarks/gpu.py on a CPU: every part runs, and one that fails leaves the results of the others."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO

import pytest

from tests.helpers.injection import Forked

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("equal", "banks", "tuning", "cell", "memory", "operators")
# The parts, one after another, where what only the development extra and the other extras install cannot be imported.
WITHOUT_EXTRAS = """
import runpy, sys
extras = ("pytest", "hypothesis", "skimage", "pywt", "ray", "diffusers", "mypy", "ruff")
sys.modules.update(dict.fromkeys(extras))  # None: importing it says that there is no such module
script, folder, *parts = sys.argv[1:]
for part in parts:
    sys.argv = [script, "--cpu", "--output", folder, "--part", part, "--seconds", "250"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print("ended", part, end.code)
"""


class Process(Forked):
    """``subprocess.Popen`` of a part, in a fork: a process of its own, but for seconds of imports."""

    def __init__(self, command: list[str], stdout: IO[str], **_: object) -> None:
        import gpu

        super().__init__(lambda: gpu.main(command[2:]), Path(stdout.name))

    def wait(self, timeout: float = 10.0) -> int | None:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a part", timeout)
            time.sleep(0.01)
        return self.status


@pytest.fixture
def gpu(monkeypatch) -> ModuleType:
    """The script, as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import gpu

    return gpu


@pytest.fixture
def in_forks(gpu, monkeypatch) -> ModuleType:
    """The script, the processes of whose parts are forks."""
    about = dict.fromkeys(("processor", "torch", "python", "system"), "") | {"gpu": None}
    monkeypatch.setattr(gpu, "in_process", lambda code: json.dumps(about))
    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": Process}))
    return gpu


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of results of every part, and the process that made them."""
    folder = tmp_path_factory.mktemp("small")
    command = [sys.executable, "-c", WITHOUT_EXTRAS, str(ROOT / "benchmarks" / "gpu.py"), str(folder), *PARTS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
    return folder, done


@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs_small_on_a_cpu_without_the_extras(part, small):
    folder, done = small
    assert done.returncode == 0 and f"ended {part} 0" in done.stdout.splitlines(), done.stderr
    results = json.loads((folder / f"{part}.json").read_text())
    assert results["failures"] == {} and results["measurements"], done.stderr
    values = [each["value"] for each in results["measurements"]]
    assert all(value is not None and value >= 0 for value in values)


@pytest.mark.parametrize("part", PARTS[1:])
def test_a_part_that_fails_keeps_what_it_measured_and_the_others_run(part, tmp_path, in_forks, capsys):
    other = "tuning" if part != "tuning" else "memory"
    words = ["--cpu", "--output", str(tmp_path), "--parts", part, other, "--fail", part, "--minutes", "4"]
    assert in_forks.main(words) == 1
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert f"FAILED {part}: " in capsys.readouterr().out
    assert any("told to fail" in text for text in parts[part]["failures"].values())
    assert parts[part]["measurements"], "what was measured before the failure is kept"
    assert parts[other]["failures"] == {} and parts[other]["measurements"]
    assert "told to fail" in (tmp_path / "gpu.md").read_text()


def test_a_part_that_hangs_is_stopped_and_keeps_what_it_measured(tmp_path, gpu, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE_SECONDS", 0)
    began = time.monotonic()
    part = gpu.start_part("equal", 1.0, gpu.parse_args(["--cpu", "--output", str(tmp_path)]))
    assert time.monotonic() - began < 30
    assert list(part.failures) == ["stopped after 1 s"]


def test_without_a_gpu_and_without_cpu_it_says_what_to_do(tmp_path):
    script = ROOT / "benchmarks" / "gpu.py"
    command = [sys.executable, str(script), "--output", str(tmp_path)]
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and "--cpu" in done.stderr and "Traceback" not in done.stderr
