"""Plans of fine-tuned towers: like beside like, what depends on what, and where published numbers stand."""

from __future__ import annotations

import dataclasses
from ast import literal_eval as literal
from pathlib import Path

import pytest

from advpt.attacks import parse
from advpt.jobs.exhibits import plan_exhibits
from advpt.jobs.places import Places, command
from advpt.jobs.plan import Job, Plan
from advpt.jobs.setup import DEMO, PAPER
from advpt.results.exhibit import StackTable, TowerTable
from advpt.results.published_towers import Difference, TowerNumber

ROOT = Path(__file__).resolve().parents[3]
METHODS = ("TeCoA", "FARE", "PMGAFT", "TGAZSR")
TINY_IMAGENET = PAPER.narrowed(["tiny_imagenet", "pets"], [], [])


def settings_of(job: Job) -> dict[str, object]:
    """Every leaf of a job's configuration, as train.py reads it."""
    import train
    from advpt.settings import plain

    places = Places(ROOT, Path("/out"), Path("/data"), Path("/banks"))
    alone = dataclasses.replace(job, model="", runs=())
    return plain(train.setup_cfg(train.parse_args(command(alone, Plan((alone,)), places)[2:])))


@pytest.mark.parametrize("setup", [TINY_IMAGENET, DEMO], ids=lambda setup: setup.name)
def test_towers_are_trained_at_one_budget_and_judged_under_the_same_attacks(setup):
    plan = plan_exhibits(["towers"], setup, ROOT).plan
    trained = [job for job in plan.jobs if job.trainer in METHODS and not job.model]
    assert len(trained) == 4 * 3 and {job.dataset for job in trained} == {setup.towers.source}
    judged = [job for job in plan.jobs if job.purpose == "towers"]
    assert len({dict(job.settings)["EVAL.ATTACKS"] for job in judged}) == 1
    budgets, lengths = set(), set()
    for job in trained[::3]:
        cfg = settings_of(job)
        asked = setup.towers.training_attacks[job.trainer]
        assert cfg.get(f"TRAINER.{job.trainer.upper()}.ATTACK", asked) == asked  # absent where it is the default
        budgets.add(parse(asked).eps)
        lengths.add(
            tuple(cfg[name] for name in ("OPTIM.MAX_EPOCH", "DATASET.NUM_SHOTS", "DATASET.NAME", "EVAL.SUBSET"))
        )
    assert len(budgets) == len(lengths) == 1 and budgets <= {parse(text).eps for text in setup.towers.adaptive}


def test_the_demo_has_every_attacker_at_two_budgets():
    table, stacks = plan_exhibits(["towers"], DEMO, ROOT).exhibits
    assert isinstance(table, TowerTable) and isinstance(stacks, StackTable)
    heads = [head for head, _ in table.columns]
    assert heads == ["clean", *(f"{name}, {eps}/255" for eps in (2, 4) for name in ("untuned", "transfer", "adaptive"))]
    assert [metric.attack for _, metric in table.columns[1:3]] == ["pgd20-ce@2/a0.25", "pgd20-fkl@2/a0.125"]
    assert [row.method for row in table.rows] == ["CLIP", "TeCoA", "FARE", "PMG-AFT", "TGA-ZSR"]
    assert [len(row.runs) for row in table.rows] == [1, 3, 3, 3, 3] and not any(row.published for row in table.rows)
    for words in ("CLIP before it was tuned", "no text", "FARE sees no label", "PMG-AFT pgd2-ce@4/a4"):
        assert words in table.caption, words


def test_prompts_and_defenses_stand_on_the_towers_of_one_run_which_ends_first(tmp_path):
    made = plan_exhibits(["towers"], DEMO, ROOT)
    table, stacks = made.exhibits
    (fare,) = (row for row in table.rows if row.method == "FARE")
    names = [(stack.tower, stack.prompt) for stack in stacks.stacks]
    prompts = ("hand-written", "CoOp", "AdvPT")
    assert names == [(tower, prompt) for tower in ("CLIP", "FARE") for prompt in prompts]
    places = Places(ROOT, tmp_path, tmp_path, tmp_path)
    for stack in stacks.stacks:
        (run,) = {row.run for row in stack.defended.rows}
        job = made.plan.by_id[run]
        words = command(job, made.plan, places)
        loaded = [words[i + 1] for i, word in enumerate(words) if word == "MODEL.IMAGE_WEIGHTS"]
        tower = tmp_path / made.plan.by_id[fare.runs[0]].folder / "image_encoder" / "tower.safetensors"
        assert loaded == ([str(tower)] if stack.tower == "FARE" else [])
        assert job.needs == ((fare.runs[0],) if stack.tower == "FARE" else ())
        assert len(stack.defended.rows) == 4 and stack.defended.rows[0].recorded == ""
        attacks = literal(dict(job.settings)["EVAL.ATTACKS"])
        assert [text.rpartition(":")[2] for text in attacks] == ["static", "adaptive"]
        assert job.id != dataclasses.replace(job, runs=()).id or stack.tower == "CLIP"
    assert len({row.run for stack in stacks.stacks for row in stack.defended.rows}) == 6
    ids = [job.id for job in made.plan.jobs]
    assert all(ids.index(need) < ids.index(job.id) for job in made.plan.jobs for need in job.needs)


def test_published_numbers_stand_where_the_paper_set_up_has_what_they_are_of():
    exhibits = plan_exhibits(["towers"], TINY_IMAGENET, ROOT).exhibits
    tables = {table.dataset: table for table in exhibits if isinstance(table, TowerTable)}
    assert set(tables) == {"TinyImageNet", "Pets"}
    for table in tables.values():
        heads = [head for head, _ in table.columns]
        assert heads[-3:] == ["adaptive, PGD-10, 1/255", "adaptive, PGD-100, 1/255", "adaptive, AutoAttack, 1/255"]
        for row in table.rows:
            printed = dict(zip(heads, row.published, strict=True))
            assert isinstance(printed["adaptive, PGD-100, 1/255"], TowerNumber), row.method
            assert isinstance(printed["clean"], TowerNumber)
            for attacker in ("untuned, 1/255", "transfer, 1/255"):
                assert printed[attacker] == Difference(None, "no source has this attacker")
    pets = {row.method: row.published[-2].accuracy for row in tables["Pets"].rows}
    assert pets["TeCoA"] == 36.44 and pets["CLIP"] == 3.84
    near = {row.method: row.published[-3] for row in tables["Pets"].rows}["TeCoA"]
    assert isinstance(near, Difference) and near.text.endswith("differs: attack PGD-100, not PGD-10")


def test_all_rows_of_a_table_have_the_same_images_and_attacks():
    setup = PAPER.narrowed(["tiny_imagenet", "imagenet", "pets"], [], [])
    made = plan_exhibits(["towers"], setup, ROOT)
    for table in (table for table in made.exhibits if isinstance(table, TowerTable)):
        alike = [
            {
                name: text
                for name, text in settings_of(made.plan.by_id[row.runs[0]]).items()
                if name.startswith(("DATASET.", "EVAL.")) and name != "DATASET.NUM_SHOTS"
            }
            for row in table.rows
        ]
        assert len(alike) == 5 and alike == alike[:1] * 5, table.dataset
        assert alike[0]["DATASET.TEST_SUBSET"] == ("all" if table.dataset == "ImageNet" else "")


def test_runs_of_the_paper_set_up_have_the_protocol_and_texts_of_the_family():
    plan = plan_exhibits(["towers"], TINY_IMAGENET, ROOT).plan
    for job in (job for job in plan.jobs if job.seed == 1 and job.trainer in ("ZeroshotCLIP", "FARE", "AdvPT")):
        cfg = settings_of(job)
        assert cfg["DATASET.PROTOCOL"] == "tecoa" and cfg["TRAINER.ZEROSHOTCLIP.TEMPLATES"] == "tecoa"
        assert cfg["TRAINER.ZEROSHOTCLIP.TEMPLATE"] == "" and cfg["MODEL.BACKBONE.NAME"] == "ViT-B/32"
    evaluated = [job for job in plan.jobs if job.dataset == "pets" and job.trainer in METHODS]
    assert len(evaluated) == 12 and all(plan.by_id[job.model].dataset == "tiny_imagenet" for job in evaluated)
    assert all(plan.by_id[job.model].seed == job.seed for job in evaluated)
