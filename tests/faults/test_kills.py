"""Killed at random moments and started again, everything ends with the bits of an uninterrupted run."""

from __future__ import annotations

import os
import random
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
from advpt.jobs.places import Places
from advpt.jobs.plan import Job, Plan
from advpt.jobs.process import ProcessSpec
from advpt.signals import TERMINATED, stoppable
from advpt.tuning import rolling
from tests.helpers.banks import make_clip, make_images
from tests.helpers.injection import Forked, at_full_length, content, forked, kill_at_random, outcome, run, times
from tests.helpers.workspace import Workspace, learned

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


# --- sweeps ---------------------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    """Whether a process runs (one that ended and was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_killed_sweeps(workspace: Workspace, tally, monkeypatch):
    """Real runs that share banks, two at a time; killed: the sweep, one of its runs, or all of them."""
    monkeypatch.setattr(executor_module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(rolling, "CHECKPOINT_SECONDS", 0.0)
    jobs = [Job("AdvPT", "d", "b", -1, seed, "main", "a", "b") for seed in (1, 2)]
    jobs.append(Job("ZeroshotCLIP", "d", "b", -1, 1, "main", "a", "b"))
    plan = Plan(tuple(jobs))

    def sweep(top: Path) -> int:
        places = Places(top, top / "out", top, top / "banks")

        def words(job: Job) -> list[str]:
            flags, out = ("--skip-done",), places.folder(job)
            more = ("BANK.DIR", str(top / "banks"), "EVAL.ATTACKS", "('pgd2-ce@8',)")
            return workspace.argv(*more, trainer=job.trainer, seed=job.seed, output=out, flags=flags)

        top.mkdir(exist_ok=True)

        def start(spec: ProcessSpec, lock: int) -> Forked:
            started = Forked(lambda: train.main(list(spec.words)), spec.log)
            with (top / "pids").open("a") as file:
                file.write(f"{started.pid}\n")
            return started

        monkeypatch.setattr(backends, "start", start)
        with stoppable():
            summary = Executor(
                plan, places, backend=LocalBackend(2), start=words, retries=99, display=Display(print)
            ).run()
        print(summary)
        return 0 if summary.ok else 1

    def ending(top: Path) -> dict[str, object]:
        folders = {job.id: top / "out" / job.folder for job in jobs}
        ids = {name: {p.name: records.read(p).id for p in f.glob("records/*.json")} for name, f in folders.items()}
        tuned = {job.id: learned(folders[job.id], 3) for job in jobs if job.trainer == "AdvPT"}
        return {"records": ids, "tuned": tuned, "banks": content(top / "banks", "**/*.safetensors", "**/manifest.json")}

    workspace.run()  # all is imported
    started = time.monotonic()
    assert run(lambda: sweep(workspace.folder / "whole"), workspace.folder / "log") == 0, (
        workspace.folder / "log"
    ).read_text()
    whole, longest = ending(workspace.folder / "whole"), (time.monotonic() - started) / 2
    assert all(whole["records"].values()) and len(whole["banks"]) > 4

    rng, kills, done, wrong, rounds = random.Random(0), times(60), 0, [], 0
    while done < kills:
        top = workspace.folder / f"sweep{rounds}"
        rounds += 1
        executor = forked(lambda top=top: sweep(top), workspace.folder / "log")
        while True:
            if done < kills:
                time.sleep(rng.uniform(0, longest))
                notes = (top / "pids").read_text().split() if (top / "pids").is_file() else []
                at_work = [pid for pid in map(int, notes) if alive(pid)]
                victims = rng.choice(([executor], at_work[:1], [executor, *at_work]))
                for pid in victims:
                    if alive(pid):
                        os.kill(pid, signal.SIGKILL)
                        done += 1
                if alive(executor):
                    continue
            status = outcome(executor)
            if status == -signal.SIGKILL:
                executor = forked(lambda top=top: sweep(top), workspace.folder / "log")
                continue
            break
        if status != 0 or ending(top) != whole:
            wrong.append(f"{top}: {status}, {(workspace.folder / 'log').read_text()[-1500:]}")
    print(rounds, wrong)
    tally("SIGKILL while a sweep runs (sweep, run, or all)", done, wrong=len(wrong))
