"""Where the files of a plan lie, and how its runs are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation import run_folder
from advpt.jobs.exhibits import plan_exhibits
from advpt.jobs.places import Places, command, is_complete
from advpt.jobs.plan import Job, Plan
from tests.helpers.executor import FAKE, Place, jobs
from tests.helpers.plans import PETS

ROOT = Path(__file__).resolve().parents[2]


def test_a_command_says_it_all(tmp_path):
    plan = plan_exhibits(["table2"], PETS, ROOT).plan
    job = next(job for job in plan.jobs if job.model)
    places = Places(ROOT, tmp_path, Path("/data"), Path("/banks"), {"vit_b16": "file.pt"})
    words = command(job, plan, places)
    assert words[words.index("--model-dir") + 1] == str(tmp_path / plan.by_id[job.model].folder)
    assert "--eval-only" in words and words[words.index("MODEL.WEIGHTS") + 1] == "file.pt"
    assert words[words.index("EVAL.DEFENSES") + 1] == "('super:advpt','super:mustafa','rescale','diffpure',)"
    assert words[words.index("BANK.PROFILE") + 1] == "paper"


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
