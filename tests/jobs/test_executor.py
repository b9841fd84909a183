"""The local executor: resumable whatever is killed, each run to its end exactly once, failures named."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections import Counter

from advpt.evaluation import record as records
from advpt.evaluation import run_folder
from advpt.jobs.display import Display
from advpt.jobs.executor import Executor
from advpt.jobs.places import Places, is_complete, runs, state_of
from advpt.jobs.plan import Job, Plan
from advpt.signals import Terminated, stoppable
from tests.helpers.executor import FAKE, Place, jobs
from tests.helpers.waiting import wait_for


def in_a_child(place: Place, **options) -> int:
    """The executor in a process of its own, to be killed; its id."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            place.run(**options)
        os._exit(0)
    return child


def test_twelve_jobs_killed_three_times_end_as_uninterrupted_ones(tmp_path):
    plain, killed = (Place(tmp_path / name, Plan(jobs(12))) for name in ("plain", "killed"))
    assert plain.run(slots=4).ok
    for _ in range(3):
        begun = killed.count("start").total()
        child = in_a_child(killed, slots=2)
        wait_for(lambda begun=begun: killed.count("start").total() > begun)
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
        with contextlib.suppress(Terminated), stoppable():
            place.run(slots=3)
        os._exit(0)
    wait_for(lambda: place.count("start"))
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


def test_a_job_that_comes_after_another_waits_for_it_and_runs_though_it_failed(tmp_path):
    (first,) = jobs(1)
    others = jobs(2, settings=(("X", "1"),), after=(first.id,))
    place = Place(tmp_path, Plan((first, *others)))
    place.run(slots=3)
    lines = place.log.read_text().splitlines()
    assert lines[:2] == [f"start {first.id}", f"end {first.id}"] and len(lines) == 6
    assert others[0].id == jobs(1, settings=(("X", "1"),))[0].id, "the order is not what a run is"
    failing = Place(tmp_path / "failing", Plan((first, *others)), {first.id: "fail"})
    summary = failing.run(retries=0, slots=3)
    assert len(summary.done) == 2 and list(summary.failed) == [first.id] and not summary.blocked


def test_nothing_begins_after_a_failure_where_the_rest_is_of_no_use(tmp_path):
    plan = Plan(jobs(4))
    place = Place(tmp_path, plan, {plan.jobs[0].id: "fail"})
    summary = place.run(retries=0, keep_going=False)
    assert list(summary.failed) == [plan.jobs[0].id] and list(summary.blocked) == [job.id for job in plan.jobs[1:]]
    assert place.count("start") == Counter({plan.jobs[0].id: 1})


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


# --- folders with names of their own ----------------------------------------------------------------------------


def placed(**fields) -> Job:
    return Job("T", "d", "b", -1, 1, "script", "a", "b", **{"place": "d/T/run", **fields})


def test_a_job_of_several_seeds_is_done_when_each_of_them_is(tmp_path):
    job = placed(seeds=(1, 2))
    places = Places(FAKE.parent, tmp_path, tmp_path, tmp_path)
    assert [f.name for f in places.run_folders(job)] == ["seed1", "seed2"] and not is_complete(job, places)
    for seed in (1, 2):
        one = Place(tmp_path, Plan((placed(place=f"d/T/run/seed{seed}"),)))
        assert one.run().ok and is_complete(job, places) == (seed == 2)


def test_a_run_that_is_done_already_is_started_to_compare_its_settings_and_keeps_its_seconds(tmp_path):
    place = Place(tmp_path, Plan((placed(),)))
    assert len(place.run().done) == 1
    about = tmp_path / "jobs" / f"{place.plan.jobs[0].id}.json"
    before = about.read_text()
    place.start = lambda job: [sys.executable, "-c", "pass"]  # it finds all done
    summary = place.run()
    assert summary.there == [place.plan.jobs[0].id] and not summary.done and about.read_text() == before
    assert place.lines[-1] == "done already  d/T/run"


def test_a_run_that_only_trains_is_done_when_it_has_a_checkpoint(tmp_path):
    place = Place(tmp_path, Plan((placed(settings=(("TEST.NO_TEST", "True"),)),)))
    place.start = lambda job: [sys.executable, "-c", "pass"]
    assert "has no checkpoint" in next(iter(place.run(retries=0).failed.values()))
    file = tmp_path / "d/T/run/prompt_learner/model.pth.tar-1"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert place.run().ok


def test_an_error_of_several_lines_is_shown_whole(tmp_path):
    place = Place(tmp_path, Plan((placed(),)))
    code = r"print('error: two things\n  one\n  two'); raise SystemExit(2)"
    place.start = lambda job: [sys.executable, "-c", code]
    assert list(place.run().failed.values()) == ["two things\n  one\n  two"]


# --- progress ---------------------------------------------------------------------------------------------------


class Shown(Display):
    """Keeps every state."""

    def __init__(self) -> None:
        super().__init__(lambda line: None)
        self.states: list[list[str]] = []

    def status(self, lines):
        self.states.append(list(lines))


def test_what_a_job_reports_is_shown_while_it_runs_with_the_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr("advpt.jobs.executor.STATUS_SECONDS", 0.0)
    place, shown = Place(tmp_path, Plan(jobs(1))), Shown()
    state = json.dumps({"phase": "pgd on train", "done": 30, "total": 90, "unit": "image", "seconds": 60.0})
    code = f"import os, time; open(os.environ['ADVPT_PROGRESS'], 'w').write({state!r}); time.sleep(0.6)"
    Executor(
        place.plan, place.places, start=lambda job: [sys.executable, "-S", "-c", code], retries=0, display=shown
    ).run()
    label = place.plan.jobs[0].label
    assert shown.states[0] == [f"{label}: starting", "0 of 1 runs done, 1 running"] and shown.states[-1] == []
    assert [f"{label}: pgd on train, 30 of 90 images, 02:00 left", "0 of 1 runs done, 1 running"] in shown.states
    assert not list((tmp_path / "jobs").glob("*.progress")), "it goes with the process"


def test_recorded_seconds_say_what_is_left_of_the_plan(tmp_path, monkeypatch):
    monkeypatch.setattr("advpt.jobs.executor.STATUS_SECONDS", 0.0)
    place, shown = Place(tmp_path, Plan(jobs(3))), Shown()
    Executor(place.plan, place.places, start=place.start, display=shown).run()
    last = [lines[-1] for lines in shown.states if lines]
    assert last[0] == "0 of 3 runs done, 1 running", "nothing is recorded yet"
    assert any(re.fullmatch(r"1 of 3 runs done, 1 running; about \d+ s left", line) for line in last)
