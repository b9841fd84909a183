"""The local executor: resumable whatever is killed, each run to its end exactly once, failures named."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation import run_folder
from advpt.jobs.local import Backend, Executor, LocalBackend, Places, is_complete, runs, state_of
from advpt.jobs.plan import BankNeed, Job, Plan

FAKE = Path(__file__).parents[1] / "helpers" / "fake_train.py"
SHARED = BankNeed("the bank", 10, 1.0, 10)


def jobs(n: int, **more) -> tuple[Job, ...]:
    return tuple(Job("T", "d", "b", -1, seed, "main", "a", "b", **more) for seed in range(1, n + 1))


class Place:
    """A plan of fake runs in a folder."""

    def __init__(self, folder: Path, plan: Plan, modes: dict[str, str] | None = None) -> None:
        self.plan, self.log, self.modes = plan, folder / "log.txt", modes or {}
        self.places = Places(FAKE.parent, folder, folder, folder)
        self.lines: list[str] = []

    def start(self, job: Job) -> list[str]:
        mode = [self.modes[job.id]] if job.id in self.modes else []
        return [sys.executable, "-S", str(FAKE), str(self.places.folder(job)), job.id, str(self.log), *mode]

    def run(self, slots: int = 1, backend: Backend | None = None, **how):
        tell, backend = self.lines.append, backend or LocalBackend(slots)
        return Executor(self.plan, self.places, backend=backend, start=self.start, tell=tell, **how).run()

    def count(self, what: str) -> Counter:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line.split()[1] for line in lines if line.startswith(what))

    def results(self) -> dict[str, str]:
        return {
            job.id: records.read(self.places.folder(job) / "records" / "test_clean.json").id for job in self.plan.jobs
        }


def in_a_child(place: Place, **how) -> int:
    """The executor in a process of its own, to be killed; its id."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            place.run(**how)
        os._exit(0)
    return child


def test_twelve_jobs_killed_three_times_end_as_uninterrupted_ones(tmp_path):
    plain, killed = (Place(tmp_path / name, Plan(jobs(12))) for name in ("plain", "killed"))
    assert plain.run(slots=4).ok
    for wait in (0.3, 0.35, 0.4):
        child = in_a_child(killed, slots=2)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)  # its runs go on without it
        os.waitpid(child, 0)
    summary = killed.run(slots=2)
    assert summary.ok and len(summary.done) + len(summary.there) == 12
    assert killed.results() == plain.results()
    assert killed.count("end") == plain.count("end") == Counter({job.id: 1 for job in plain.plan.jobs})
    again = killed.run()
    assert len(again.there) == 12 and not again.done and sum(killed.count("end").values()) == 12


def test_an_interrupted_executor_ends_its_runs_and_they_go_on_later(tmp_path):
    place = Place(tmp_path, Plan(jobs(3)))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with contextlib.suppress(BaseException):
            place.run(slots=3)
        os._exit(0)
    deadline = time.monotonic() + 10
    while len(place.count("start")) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    assert place.run(slots=3).ok and place.count("end") == Counter({job.id: 1 for job in place.plan.jobs})


def test_a_failed_run_is_tried_once_more_then_named_with_its_log(tmp_path):
    plan = Plan(jobs(4))
    one, two, *_ = plan.jobs
    place = Place(tmp_path, plan, {one.id: "fail", two.id: "crash-once"})
    summary = place.run()
    assert list(summary.failed) == [one.id] and summary.failed[one.id] == "it never works"
    assert place.count("start")[one.id] == 2 == place.count("start")[two.id]
    assert len(summary.done) == 3 and any("FAILED" in line and f"{one.id}.log" in line for line in place.lines)
    assert state_of(one, place.places) == "failed" and state_of(two, place.places) == "done"
    assert runs(plan, place.places)[one.id].state == "failed"
    place.modes = {}
    assert place.run().ok and state_of(one, place.places) == "done"


def test_what_evaluates_a_failed_run_is_left_out(tmp_path):
    (trained,) = jobs(1)
    evaluated = Job("T", "d", "b", -1, 1, "eval", "a", "b", model=trained.id)
    (other,) = jobs(1, settings=(("X", "1"),))
    place = Place(tmp_path, Plan((trained, evaluated, other)), {trained.id: "fail"})
    summary = place.run(retries=0, slots=3)
    assert list(summary.blocked) == [evaluated.id] and summary.done == [other.id]
    assert place.count("start")[evaluated.id] == 0 and state_of(evaluated, place.places) == "not run"


def test_a_shared_bank_is_built_by_one_run_before_the_others_start(tmp_path):
    place = Place(tmp_path, Plan(jobs(3, banks=(SHARED,))))
    place.run(slots=3)
    first, *others = [job.id for job in place.plan.jobs]
    lines = place.log.read_text().splitlines()
    assert lines[:2] == [f"start {first}", f"end {first}"]
    assert all(lines.index(f"start {i}") > 1 for i in others)


def test_a_deleted_or_changed_record_makes_a_run_incomplete_and_it_runs_again(tmp_path):
    place = Place(tmp_path, Plan(jobs(2)))
    place.run()
    one, two = place.plan.jobs
    path = place.places.folder(one) / "records" / "test_clean.json"
    path.unlink()
    changed = place.places.folder(two) / "records" / "test_clean.json"
    changed.write_text(changed.read_text().replace("50.0", "99.0"))
    assert not is_complete(one, place.places) and not is_complete(two, place.places)
    assert "does not exist" in run_folder.problems(place.places.folder(one))[0]
    assert state_of(one, place.places) == "done", "a report says missing, not that it never ran"
    assert len(place.run().done) == 2 and records.read(path)


def test_a_run_that_ends_well_without_records_has_failed(tmp_path):
    place = Place(tmp_path, Plan(jobs(1)))
    place.start = lambda job: [sys.executable, "-c", "pass"]
    summary = place.run(retries=0)
    assert "is not finished" in next(iter(summary.failed.values()))


def test_a_users_mistake_is_not_tried_again(tmp_path):
    place = Place(tmp_path, Plan(jobs(1)))
    place.start = lambda job: [sys.executable, "-c", "print('error: no such file'); raise SystemExit(2)"]
    summary = place.run(retries=3)
    assert list(summary.failed.values()) == ["no such file"]
    about = json.loads((tmp_path / "jobs" / f"{place.plan.jobs[0].id}.json").read_text())
    assert about["attempt"] == 1 and about["state"] == "failed" and about["job"]["trainer"] == "T"


def test_a_done_file_of_another_kind_is_a_sentence(tmp_path):
    (tmp_path / "done.json").write_text("[]")
    assert "not what a finished run leaves" in run_folder.problems(tmp_path)[0]
    with pytest.raises(RecordError):
        records.read(tmp_path / "done.json")


def test_data_of_ones_own_have_folders_of_their_name_and_are_compared_by_the_run_itself(tmp_path):
    """What the images of one's own are may change between two starts of a plan; train.py looks."""
    job = Job("T", "image_folder", "b", -1, 1, "main", "a", "b")
    for name in ("animals", "birds"):
        (tmp_path / name / "train").mkdir(parents=True)
    places = [Places(FAKE.parent, tmp_path / "out", tmp_path / name, tmp_path) for name in ("animals", "birds")]
    rest = Path(*job.folder.parts[2:])
    assert [p.folder(job) for p in places] == [tmp_path / "out/runs" / name / rest for name in ("animals", "birds")]
    (tmp_path / "out" / job.folder).mkdir(parents=True)
    assert places[0].folder(job) == tmp_path / "out" / job.folder, "where runs of before lie, they go on"

    place = Place(tmp_path, Plan((job,)))
    assert place.run().done == [job.id] and is_complete(job, place.places)
    again = place.run()
    assert again.done == [job.id] and not again.there and place.count("start")[job.id] == 2


def test_evaluations_of_images_made_elsewhere_are_compared_by_the_run_itself(tmp_path):
    place = Place(tmp_path, Plan(jobs(1, settings=(("EVAL.ATTACKS", "('pgd2@8','files:adv@8')"),))))
    assert place.run().ok
    assert not place.run().there and sum(place.count("start").values()) == 2
