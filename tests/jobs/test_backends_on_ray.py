"""Sweeps on a Ray cluster of several nodes that come and go: the bytes of a local build, each run once."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from advpt.attacks import parse
from advpt.bank import build as build_module
from advpt.bank.cache import BankCache
from advpt.bank.on_ray import filler
from advpt.cluster import Engine
from advpt.errors import DataError
from advpt.evaluation import run_folder
from advpt.jobs.backends import RayBackend
from advpt.jobs.executor import Executor
from advpt.jobs.places import Places
from advpt.jobs.plan import Job, Plan

HELPERS = Path(__file__).parents[1] / "helpers"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


class Nodes:
    """The cluster of ray_nodes.py."""

    def __init__(self) -> None:
        words = [sys.executable, str(HELPERS / "ray_nodes.py"), "3", "3", "0.7", "1.5"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1)
        self.address = self.process.stdout.readline().strip()
        self.events: Counter[str] = Counter()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        self.events.update(map(str.strip, self.process.stdout))

    def say(self, word: str) -> None:
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def nodes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's name for: stay on loopback
        found = Nodes()
        patch.setenv("RAY_ADDRESS", found.address)
        yield found
        import ray

        ray.shutdown()
        found.end()


def bank_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.glob("**/*")) if p.is_file()}


ENGINE = Engine("ray", cpus=1)


@needs_ray
def test_nodes_come_and_go_and_nothing_is_lost_or_done_twice(tmp_path, monkeypatch, tiny_clip, images, nodes):
    monkeypatch.setattr(build_module, "SHARD_ROWS", 8)
    pictures, attack = images(48, 2), parse("pgd80-fkl@8")
    banks = BankCache(tmp_path / "local", tiny_clip, lambda: tiny_clip, chunk=4)
    banks.get(pictures, attack)

    nodes.say("shake 1")
    on_ray = BankCache(tmp_path / "ray", tiny_clip, lambda: tiny_clip, chunk=4, fill=filler(ENGINE))
    on_ray.get(pictures, attack)
    nodes.say("shake 2")
    jobs = [Job("T", "d", "b", -1, 1, "main", "a", "b")]
    jobs += [Job("T", "d", "b", -1, s, "main", "a", "b", after=(jobs[0].id,) if s < 4 else ()) for s in range(2, 13)]
    plan = Plan(tuple(jobs))
    places, log = Places(HELPERS, tmp_path / "out", tmp_path, tmp_path), tmp_path / "log.txt"

    def start(job: Job) -> list[str]:
        words = [sys.executable, "-S", str(HELPERS / "fake_train.py"), str(places.folder(job)), job.id, str(log)]
        return [*words, "on-cluster"]

    summary = Executor(plan, places, backend=RayBackend(ENGINE), start=start).run()
    nodes.say("rest")
    assert nodes.events["killed"]
    assert bank_files(tmp_path / "ray") == bank_files(tmp_path / "local")
    assert summary.ok and len(summary.done) == 12
    lines = log.read_text().splitlines()
    assert Counter(line for line in lines if line.startswith("end")) == {f"end {job.id}": 1 for job in plan.jobs}
    for job in plan.jobs:
        assert not run_folder.problems(places.folder(job))
        assert len(list((places.folder(job) / "records").iterdir())) == 1
    first, *others = [job.id for job in plan.jobs[:3]]
    assert all(lines.index(f"start {other}") > lines.index(f"end {first}") for other in others)


@needs_ray
def test_what_a_worker_finds_wrong_is_the_users_sentence(tmp_path, tiny_clip, images, nodes):
    pictures = images(4, 2)
    gone = Path(pictures.samples[2].path)
    gone.unlink()
    banks = BankCache(tmp_path / "banks", tiny_clip, lambda: tiny_clip, chunk=2, fill=filler(ENGINE))
    with pytest.raises(DataError, match=f"the image {gone} is missing") as caught:
        banks.get(pictures, None)
    assert "Traceback" not in str(caught.value)
    plan = Plan((Job("T", "d", "b", -1, 1, "main", "a", "b"),))
    places = Places(HELPERS, tmp_path / "out", tmp_path, tmp_path)
    words = [sys.executable, "-S", "-c", "import os; print('error: ' + os.environ['OMP_NUM_THREADS']); exit(2)"]
    summary = Executor(plan, places, backend=RayBackend(Engine("ray", 1)), start=lambda job: words).run()
    assert list(summary.failed.values()) == ["1"]


def test_the_slurm_script_starts_ray_everywhere_and_the_command_once(tmp_path):
    """With stand-ins for SLURM's and Ray's programs: what they are asked for."""
    script = HELPERS.parents[1] / "scripts" / "slurm" / "ray.sbatch"
    for name, does in {"srun": 'echo "srun $*"', "scontrol": "echo node7; echo node8", "ray": "echo token"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SUBMIT_DIR": str(tmp_path), "JOB_NODELIST": "node[7-8]", "JOB_ID": "12345", "JOB_NUM_NODES": "2"}
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "SLURM_CPUS_ON_NODE": "64"}
    env |= {f"SLURM_{name}": value for name, value in slurm.items()}
    said = subprocess.run(
        ["bash", script, "python", "x.py", "a b"], env=env, capture_output=True, text=True, check=True
    )
    words = said.stdout.split()
    assert words[0] == "srun" and "--nodes=2" in words and "symmetric-run" in words and "token" not in words
    assert words[words.index("--address") + 1] == "node7:22345" and words[words.index("--num-cpus") + 1] == "64"
    assert said.stdout.rstrip().endswith("-- env RAY_ADDRESS=node7:22345 python x.py a b")
    assert subprocess.run(["bash", script], env=env, capture_output=True, check=False).returncode == 2
