"""Killed at random moments and started again, everything ends with the bits of an uninterrupted run."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import train
from advpt.attacks import parse
from advpt.bank import build as build_module
from advpt.bank.cache import BankCache
from advpt.evaluation import record as records
from advpt.jobs import backends
from advpt.jobs import executor as executor_module
from advpt.jobs.backends import LocalBackend
from advpt.jobs.display import Display
from advpt.jobs.executor import Executor
from advpt.jobs.exhibits.benchmark import plan_benchmark
from advpt.jobs.places import Places
from advpt.jobs.plan import Job, Plan
from advpt.jobs.setup import DEMO
from advpt.jobs.setup.benchmark import BenchmarkBudget
from advpt.signals import TERMINATED, stoppable
from advpt.tuning import rolling
from tests.helpers.banks import make_clip, make_images
from tests.helpers.injection import Count, at_full_length, content, kill_at_random, kill_plans, noting_start, run, times
from tests.helpers.workspace import ROOT, Workspace, learned

FKL = parse("pgd3-fkl@8")


def test_killed_bank_builds(tmp_path, tally, monkeypatch):
    monkeypatch.setattr(build_module, "SHARD_ROWS", 4)
    pictures, backbone = make_images(tmp_path / "images", 60), make_clip()

    def build(root: Path) -> None:
        BankCache(root, backbone, lambda: backbone, chunk=2).get(pictures, FKL)

    started = time.monotonic()
    assert run(lambda: build(tmp_path / "whole")) == 0
    whole, longest = content(tmp_path / "whole"), (time.monotonic() - started) / 3

    lost = []

    def sound(root: Path) -> str:
        lost.append(len(pictures) - sum(len(load_file(path)["row"]) for path in root.glob("**/*.safetensors")))
        return "" if content(root) == whole else "other files than an uninterrupted build"

    count = kill_at_random(tmp_path / "killed", build, sound, kills=times(100), longest=longest)
    tally("SIGKILL while a bank is built", count.injected, lost=sum(lost), wrong=count.wrong)
    assert lost


KINDS = {
    # a bank: the order of an epoch depends on seed and epoch; every batch is saved
    "bank, every batch saved": ("AdvPT", 0.0, ("TRAIN.CHECKPOINT_FREQ", "2")),
    # augmented images: every generator's state counts
    "images, every batch saved": ("CoOp", 0.0, ("TRAIN.CHECKPOINT_FREQ", "2", "EVAL.ATTACKS", "()")),
    # Dassl's checkpoints alone, after whole epochs
    "images, whole epochs saved": ("CoOp", 1e9, ("EVAL.ATTACKS", "()")),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=at_full_length if "whole" in kind else ()) for kind in KINDS]
)
def test_killed_tuning(workspace: Workspace, tally, monkeypatch, kind):
    trainer, every, more = KINDS[kind]
    monkeypatch.setattr(rolling, "CHECKPOINT_SECONDS", every)
    monkeypatch.setattr(rolling, "CHECKPOINT_SHARE", 0)
    more = ("OPTIM.MAX_EPOCH", "4", "DATALOADER.TRAIN_X.BATCH_SIZE", "2", "EVAL.PROTOCOLS", "('transfer',)", *more)

    def tune(folder: Path) -> int:
        return train.main(workspace.argv(*more, trainer=trainer, output=folder))

    workspace.run(
        *more, trainer=trainer, output=workspace.folder / "whole"
    )  # in this process: all is imported, banks are there
    started = time.monotonic()
    assert run(lambda: tune(workspace.folder / "again")) == 0
    whole, longest = learned(workspace.folder / "whole", 4), (time.monotonic() - started) / 2
    assert learned(workspace.folder / "again", 4) == whole

    def sound(folder: Path) -> str:
        if torn := [str(p) for p in folder.glob("**/.*partial*") if p.parent.name != "records"]:
            return f"left behind: {torn}"
        mine = learned(folder, 4)
        return "" if mine == whole else f"{mine} is not {whole}"

    for name, full, ends in (("SIGKILL", 20, ()), ("SIGTERM", 15, (TERMINATED,))):
        number = getattr(signal, name)
        count = kill_at_random(
            workspace.folder / name,
            tune,
            sound,
            kills=times(full),
            longest=longest,
            number=number,
            ends=(-number, *ends),
        )
        print(name, count, longest)
        tally(f"{name} while prompts are tuned", count.injected, wrong=count.wrong)


def test_killed_evaluations_of_defenses_at_test_time(workspace: Workspace, tally):
    """Attackers in parts, on images that the parts before left: each part is a bank."""
    wanted = {
        "EVAL.TEST_TIME": "('mean/views=3','ttc/steps=1','clipure')",
        "EVAL.ATTACKS": "('pgd2-ce@8',)",
        "EVAL.PROTOCOLS": "('static','pseudo','adaptive')",
        "EVAL.DEFENSE_SEEDS": "1",
        "EVAL.QUERIES": "5",
        "EVAL.EOT": "1",
        "EVAL.ADAPTIVE_SUBSET": "6",
    }

    def evaluate(top: Path) -> int:
        more = [word for pair in wanted.items() for word in pair] + ["BANK.DIR", str(top / "banks")]
        flags = ("--eval-only",)
        return train.main(workspace.argv(*more, trainer="ZeroshotCLIP", output=top / "run", flags=flags))

    def ids(top: Path) -> dict[str, str]:
        return {path.name: records.read(path).id for path in sorted((top / "run").glob("records/*.json"))}

    started = time.monotonic()
    assert run(lambda: evaluate(workspace.folder / "whole")) == 0
    whole, longest = ids(workspace.folder / "whole"), (time.monotonic() - started) / 2
    assert len(whole) == 4 * 3

    def sound(top: Path) -> str:
        return "" if ids(top) == whole else "other records than an uninterrupted evaluation"

    count = kill_at_random(workspace.folder / "killed", evaluate, sound, kills=times(30), longest=longest)
    tally("SIGKILL while defenses at test time are attacked", count.injected, wrong=count.wrong)


# --- plans ----------------------------------------------------------------------------------------------------------


def execute_anywhere(plan: Plan, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *more: str):
    """A function that executes a plan in a folder, its runs on the tiny set and CLIP, with further settings."""
    monkeypatch.setattr(executor_module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(rolling, "CHECKPOINT_SECONDS", 0.0)

    def execute(top: Path) -> int:
        places = Places(top, top / "out", top, top / "banks")

        def words(job: Job) -> list[str]:
            flags, out = ("--skip-done",), places.folder(job)
            own = [word for pair in job.settings for word in pair] + ["BANK.DIR", str(top / "banks"), *more]
            return workspace.argv(*own, trainer=job.trainer, seed=job.seed, output=out, flags=flags)

        top.mkdir(exist_ok=True)
        monkeypatch.setattr(backends, "start", noting_start(top))
        with stoppable():
            summary = Executor(
                plan, places, backend=LocalBackend(2), start=words, retries=99, display=Display(print)
            ).run()
        print(summary)
        return 0 if summary.ok else 1

    return execute


def ids_of(plan: Plan, top: Path) -> dict[str, dict[str, str]]:
    """Ids of the records of every run, by the names of their files."""
    folders = {job.id: top / "out" / job.folder for job in plan.jobs}
    return {name: {p.name: records.read(p).id for p in f.glob("records/*.json")} for name, f in folders.items()}


def killed_plans(workspace: Workspace, execute, ending, kills: int) -> tuple[dict[str, object], Count]:
    """What an uninterrupted execution ends with, and what became of the killed ones."""
    workspace.run()  # all is imported
    started, log = time.monotonic(), workspace.folder / "log"
    assert run(lambda: execute(workspace.folder / "whole"), log) == 0, log.read_text()
    whole, longest = ending(workspace.folder / "whole"), (time.monotonic() - started) / 2

    def sound(top: Path) -> str:
        return "" if ending(top) == whole else "other files than without a kill"

    count = kill_plans(workspace.folder, execute, sound, kills=kills, longest=longest)
    print(count)
    return whole, count


def test_killed_sweeps(workspace: Workspace, tally, monkeypatch):
    """Real runs that share banks, two at a time; killed: the sweep, one of its runs, or all of them."""
    jobs = [Job("AdvPT", "d", "b", -1, seed, "main", "a", "b") for seed in (1, 2)]
    jobs.append(Job("ZeroshotCLIP", "d", "b", -1, 1, "main", "a", "b"))
    plan = Plan(tuple(jobs))

    def ending(top: Path) -> dict[str, object]:
        tuned = {job.id: learned(top / "out" / job.folder, 3) for job in jobs if job.trainer == "AdvPT"}
        banks = content(top / "banks", "**/*.safetensors", "**/manifest.json")
        return {"records": ids_of(plan, top), "tuned": tuned, "banks": banks}

    sweep = execute_anywhere(plan, workspace, monkeypatch, "EVAL.ATTACKS", "('pgd2-ce@8',)")
    whole, count = killed_plans(workspace, sweep, ending, times(60))
    assert all(whole["records"].values()) and len(whole["banks"]) > 4
    tally("SIGKILL while a sweep runs (sweep, run, or all)", count.injected, wrong=count.wrong)


@at_full_length
def test_killed_benchmarks(workspace: Workspace, tally, monkeypatch):
    """Each run tunes a prompt or a tower and measures every defense in the same folder; killed as sweeps are."""
    small = dataclasses.replace(
        DEMO.benchmark,
        prompts=("ZeroshotCLIP", "AdvPT"),
        inputs=(),
        defenses=("rtpt/views=3",),
        budgets=(BenchmarkBudget("pgd2-ce@8", ()),),
        subset=4,
        some=2,
    )
    plan = plan_benchmark(dataclasses.replace(DEMO, benchmark=small, seeds=(1,)), ROOT).plan
    assert [job.trainer for job in plan.jobs] == ["ZeroshotCLIP", "AdvPT", "TeCoA"]

    def ending(top: Path) -> dict[str, object]:
        tuned = content(top / "out", "**/image_encoder/*.safetensors")
        return {"records": ids_of(plan, top), "tuned": tuned, "prompt": learned(top / "out" / plan.jobs[1].folder, 3)}

    benchmark = execute_anywhere(plan, workspace, monkeypatch, "EVAL.QUERIES", "3")
    whole, count = killed_plans(workspace, benchmark, ending, times(30))
    assert {len(ids) for ids in whole["records"].values()} == {3 * 2} and len(whole["tuned"]) == 1
    tally("SIGKILL while a benchmark runs (verb, run, or all)", count.injected, wrong=count.wrong)
