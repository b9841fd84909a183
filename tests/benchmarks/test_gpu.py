"""benchmarks/gpu.py on a CPU: every part runs, and one that fails leaves the results of the others."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("equal", "banks", "tuning", "cell", "memory", "operators")
# What only the development extra and the other extras install, made impossible to import.
WITHOUT_EXTRAS = """
import runpy, sys
extras = ("pytest", "hypothesis", "skimage", "pywt", "ray", "diffusers", "mypy", "ruff")
sys.modules.update(dict.fromkeys(extras))  # None: importing it says that there is no such module
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_gpu(folder: Path, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *prefix, str(ROOT / "benchmarks" / "gpu.py"), "--cpu", "--output", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs_small_on_a_cpu_without_the_extras(part, tmp_path):
    done = run_gpu(tmp_path, "--part", part, "--seconds", "250", prefix=("-c", WITHOUT_EXTRAS))
    results = json.loads((tmp_path / f"{part}.json").read_text())
    assert done.returncode == 0, done.stderr
    assert results["failures"] == {} and results["measurements"], done.stderr
    values = [each["value"] for each in results["measurements"]]
    assert all(value is not None and value >= 0 for value in values)


@pytest.mark.parametrize("part", PARTS[1:])
def test_a_part_that_fails_keeps_what_it_measured_and_the_others_run(part, tmp_path):
    other = "tuning" if part != "tuning" else "memory"
    done = run_gpu(tmp_path, "--parts", part, other, "--fail", part, "--minutes", "4")
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert done.returncode == 1
    assert f"FAILED {part}: " in done.stdout
    assert any("told to fail" in text for text in parts[part]["failures"].values())
    assert parts[part]["measurements"], "what was measured before the failure is kept"
    assert parts[other]["failures"] == {} and parts[other]["measurements"]
    assert "told to fail" in (tmp_path / "gpu.md").read_text()


def test_a_part_that_hangs_is_stopped_and_keeps_what_it_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

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
