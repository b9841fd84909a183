"""The benchmark as data: which runs it needs, what each row is compared with, and what a user can ask for."""

from __future__ import annotations

import dataclasses
from ast import literal_eval as literal
from pathlib import Path

import pytest

import train
from advpt.errors import ConfigError
from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.benchmark import BenchmarkPlan, for_prompt, plan_benchmark
from advpt.jobs.exhibits.benchmark_models import alone, below
from advpt.jobs.outside_models import MeasuredModel
from advpt.jobs.places import Places, command
from advpt.jobs.plan import Job, Plan
from advpt.jobs.setup import DEMO, PAPER, ReproductionSetup
from advpt.jobs.setup.benchmark import BenchmarkBudget, Choice
from advpt.results.exhibit import BenchmarkRow, BenchmarkTable, SurvivalTable
from advpt.results.index import Run
from advpt.results.published import number
from advpt.settings import plain
from tests.helpers.plans import ADV, COOP, ZS

ROOT = Path(__file__).resolve().parents[3]
PROMPTS, TOWERS = (COOP, ADV, "CoCoOp", "LinearProbe"), ("TeCoA", "FARE", "Anchored")
SIZES = {"subset": 200, "some": 50}


def asked(setup: ReproductionSetup, **choice) -> ReproductionSetup:
    chosen = setup.benchmark.chosen(Choice(**choice), setup.towers.training_attacks, PROMPTS, TOWERS)
    return dataclasses.replace(setup, benchmark=chosen)


def planned(setup: ReproductionSetup, **choice) -> BenchmarkPlan:
    return plan_benchmark(asked(setup, **choice) if choice else setup, ROOT)


def tables(plan: BenchmarkPlan) -> list[BenchmarkTable]:
    return [each for each in plan.exhibits if isinstance(each, BenchmarkTable)]


def leaves(job: Job) -> dict[str, object]:
    """Every leaf of a job's configuration, as train.py reads it."""
    places, single = (
        Places(ROOT, Path("/out"), Path("/data"), Path("/banks")),
        dataclasses.replace(job, model="", runs=()),
    )
    return plain(train.setup_cfg(train.parse_args(command(single, Plan((single,)), places)[2:])))


def by_name(table: BenchmarkTable) -> dict[tuple[str, str, str], tuple[int, BenchmarkRow]]:
    return {(row.tower, row.prompt, row.defense): (i, row) for i, row in enumerate(table.rows)}


# --- runs -------------------------------------------------------------------------------------------------------------


def test_the_demo_has_a_run_for_each_base_and_seed_which_tunes_and_measures_all():
    made = planned(DEMO)
    jobs = [(job.trainer, job.purpose, job.seed) for job in made.plan.jobs]
    trained = [(COOP, "benchmark-clean"), (ADV, "benchmark"), ("TeCoA", "benchmark")]
    assert jobs == [(ZS, "benchmark", 1), *((*each, seed) for each in trained for seed in (1, 2, 3))]
    assert not any(job.model or job.runs for job in made.plan.jobs) and made.left_out == ()
    for job in made.plan.jobs:
        settings = dict(job.settings)
        assert literal(settings["EVAL.ATTACKS"]) == (
            *("pgd20-ce@4:transfer", "apgd-ce-t@4:transfer"),
            *("pgd20-ce@4:static", "pgd20-ce@4:pseudo", "pgd20-ce@4:adaptive"),
        )
        assert (settings["EVAL.SUBSET"], settings["EVAL.ADAPTIVE_SUBSET"]) == ("200", "50")
        assert literal(settings["EVAL.DEFENSES"]) == ("noise", "low-pass")
        assert len(literal(settings["EVAL.TEST_TIME"])) == 7
        assert leaves(job)["TRAINER.ZEROSHOTCLIP.TEMPLATE"] == "a photo of a {}."
    (advpt,) = {dict(job.settings).get("BANK.ATTACK") for job in made.plan.jobs if job.trainer == ADV}
    assert advpt == DEMO.benchmark.bank
    (tecoa,) = {leaves(job)["TRAINER.TECOA.ATTACK"] for job in made.plan.jobs if job.trainer == "TeCoA"}
    assert tecoa == "pgd2-ce@4/a4"


def test_prompts_on_a_tuned_tower_read_that_of_their_seed():
    made = planned(DEMO, prompts=["AdvPT"], towers=["FARE"])
    assert asked(DEMO, prompts=["AdvPT"], towers=["FARE"]).benchmark.on_towers == (ZS,), "the demo's stand alone"
    setup = asked(DEMO, prompts=["AdvPT"], towers=["FARE"])
    every = dataclasses.replace(setup, benchmark=dataclasses.replace(setup.benchmark, on_towers=(ZS, ADV)))
    jobs = plan_benchmark(every, ROOT).plan.jobs
    assert len(jobs) == len(made.plan.jobs) + 3 == 1 + 3 + 3 + 3
    towers = {job.seed: job.id for job in jobs if job.trainer == "FARE"}
    on_fare = [job for job in jobs if job.purpose == "benchmark-FARE"]
    assert [job.seed for job in on_fare] == [1, 2, 3] and {job.trainer for job in on_fare} == {ADV}
    for job in on_fare:
        assert dict(job.runs) == {"MODEL.IMAGE_WEIGHTS": f"{towers[job.seed]}/image_encoder/tower.safetensors"}
    assert dict(on_fare[0].settings)["BANK.ATTACK"] == DEMO.benchmark.bank


def test_towers_are_tuned_on_the_source_and_evaluated_elsewhere():
    made = planned(PAPER, sets=["pets"], backbones=["vit_b32"], prompts=["AdvPT"], towers=["TeCoA"], budgets=["1"])
    kinds = [(job.trainer, job.dataset, job.purpose, job.seed) for job in made.plan.jobs]
    assert kinds[0] == (ZS, "pets", "benchmark", 1)
    tuned = {job.id: job for job in made.plan.jobs if job.purpose == "tuning"}
    assert {(job.trainer, job.dataset, job.shots) for job in tuned.values()} == {("TeCoA", "tiny_imagenet", -1)}
    judged = [job for job in made.plan.jobs if job.trainer == "TeCoA" and job.id not in tuned]
    assert [(job.seed, tuned[job.model].seed) for job in judged] == [(1, 1), (2, 2), (3, 3)]
    for job in tuned.values():
        values = leaves(job)
        assert dict(job.settings)["TRAINER.TECOA.ATTACK"] == "pgd2-ce@1/a1" and values["OPTIM.MAX_EPOCH"] == 10
        assert not values["EVAL.ATTACKS"] and values["TRAINER.ZEROSHOTCLIP.TEMPLATES"] == "tecoa"
    on_tower = [job for job in made.plan.jobs if job.purpose == "benchmark-TeCoA"]
    assert {dict(job.runs)["MODEL.IMAGE_WEIGHTS"].partition("/")[0] for job in on_tower} == set(tuned)
    assert {job.trainer for job in on_tower} == {ADV} and {job.shots for job in on_tower} == {16}
    assert leaves(judged[0])["TRAINER.ZEROSHOTCLIP.TEMPLATE"] == "a photo of a {}."


# --- rows -------------------------------------------------------------------------------------------------------------


def test_each_row_is_compared_with_the_one_without_its_method_as_its_authors_measure_it():
    (table,) = tables(planned(DEMO))
    rows, own = by_name(table), "DemoCLIP"
    assert len(rows) == len(table.rows) == 4 * 10 and table.rows[0].against is None

    def against(*name: str) -> tuple[tuple[str, str, str], str]:
        row = rows[name][1]
        other = table.rows[row.against]
        return (other.tower, other.prompt, other.defense), row.authors

    assert against(own, "AdvPT", "none") == ((own, "hand-written", "none"), "transfer")
    assert against("TeCoA", "hand-written", "none") == ((own, "hand-written", "none"), "static")
    assert against(own, "CoOp, clean bank", "ttc") == ((own, "CoOp, clean bank", "none"), "static")
    assert against("TeCoA", "hand-written", "noise") == (("TeCoA", "hand-written", "none"), "static")
    assert [len(row.runs) for row in table.rows] == [1] * 10 + [3] * 30
    assert (table.attack, table.transfer, table.images, table.some) == (
        "pgd20-ce@4", ("pgd20-ce@4", "apgd-ce-t@4"), 200, 50
    )  # fmt: skip


def test_a_tuner_of_prompts_starts_from_the_learned_one():
    (table,) = tables(planned(DEMO))
    recorded = {(row.tower, row.prompt): row.recorded for row in table.rows if row.defense == "rtpt"}
    assert recorded == {
        ("DemoCLIP", "hand-written"): "rtpt:sound",
        ("DemoCLIP", "CoOp, clean bank"): "rtpt:sound/start=learned",
        ("DemoCLIP", "AdvPT"): "rtpt:sound/start=learned",
        ("TeCoA", "hand-written"): "rtpt:sound",
    }
    for job in planned(DEMO).plan.jobs:
        learned = "start=learned" in dict(job.settings)["EVAL.TEST_TIME"]
        assert learned == (job.trainer in (COOP, ADV))
    assert for_prompt("tpt/start=hand", ADV)[0] == "tpt:sound", "whoever names a start has it"
    assert for_prompt("ttc", "LinearProbe") == ("ttc:sound", "")


def test_what_a_base_cannot_have_is_left_out_with_a_sentence():
    made = planned(DEMO, prompts=["LinearProbe", "CoCoOp"], defenses=["rtpt", "ttc"])
    (table,) = tables(made)
    assert [row.defense for row in table.rows if row.prompt == "linear_probe"] == ["none", "ttc"]
    assert [row.defense for row in table.rows if row.prompt == "CoCoOp"] == ["none", "ttc"]
    assert made.left_out == (
        "rtpt behind LinearProbe: it tunes the words that classify, and a linear probe has none",
        "rtpt behind CoCoOp: it tunes one prompt, and that of CoCoOp differs from image to image",
    )
    probes = [job for job in made.plan.jobs if job.trainer == "LinearProbe"]
    assert len(probes) == 1 and literal(dict(probes[0].settings)["EVAL.TEST_TIME"]) == ("ttc:sound",)
    assert for_prompt("rtpt/start=learned", ZS)[1].startswith("it starts from a learned prompt")


def test_published_numbers_stand_where_attack_budget_data_and_backbone_agree():
    made = tables(
        planned(PAPER, sets=["flowers"], backbones=["vit_b16"], defenses=["rtpt", "ttc"], inputs=["low-pass"])
    )
    assert [table.attack for table in made] == ["pgd10-ce@1/a1", "pgd100-ce@4/a1", "pgd100-ce@8/a2"]
    at = {table.attack: {row.defense: (number(row.clean), number(row.static)) for row in table.rows} for table in made}
    assert at["pgd100-ce@4/a1"]["rtpt"] == (68.7, 44.6) and at["pgd100-ce@4/a1"]["none"][1] == 0.0
    assert at["pgd10-ce@1/a1"]["low-pass"][1] is not None
    assert set(at["pgd100-ce@8/a2"].values()) == {(None, None)}
    assert "T-VSS, 2026 table 1" in made[1].caption and "Published:" not in made[2].caption
    with_prompt = tables(planned(PAPER, sets=["flowers"], backbones=["vit_b16"], prompts=["AdvPT"], defenses=["rtpt"]))
    assert not any(row.clean or row.static for row in with_prompt[1].rows if row.prompt == "AdvPT")


def test_captions_say_of_what_the_intervals_are():
    assert "has 3 seeds; intervals are of seeds and images" in tables(planned(DEMO))[0].caption
    one = plan_benchmark(dataclasses.replace(DEMO, seeds=(1,)), ROOT).exhibits
    assert all("has 1 seed; intervals are of the images alone" in each.caption for each in one)
    survival = next(each for each in one if isinstance(each, SurvivalTable))
    assert survival.of is one[0] and survival.name == "benchmark_digits_democlip_4_survival"
    without = tables(planned(DEMO, prompts=["AdvPT"]))[0]
    assert without.some == without.images == 200, "no defense at test time: one attack for all"
    assert "adaptive knows everything, by the same attack" in without.caption


# --- what a user asks for ---------------------------------------------------------------------------------------------


def test_a_small_request_gets_just_that():
    made = planned(PAPER, sets=["pets"], backbones=["vit_b16"], defenses=["ttc", "mean"], budgets=["4"])
    (job,), (table,) = made.plan.jobs, tables(made)
    assert (job.trainer, job.dataset, job.backbone) == (ZS, "pets", "vit_b16")
    assert [row.defense for row in table.rows] == ["none", "ttc", "mean"] and table.attack == "pgd100-ce@4/a1"
    settings = dict(job.settings)
    assert "EVAL.DEFENSES" not in settings and len(literal(settings["EVAL.ATTACKS"])) == 5
    robust = planned(PAPER, sets=["pets"], backbones=["fare2_l14"], defenses=["ttc"], budgets=["4"])
    assert robust.plan.jobs[0].backbone == "fare2_l14" and robust.exhibits[0].rows[0].tower == "fare2_l14"


def test_all_and_none_stand_for_names():
    demo = DEMO.benchmark
    assert asked(DEMO, subset=20).benchmark == dataclasses.replace(demo, subset=20, some=20)
    whole = asked(DEMO, prompts=["all"], towers=["all"], inputs=["all"], defenses=["all"], **SIZES).benchmark
    assert whole == demo
    part = asked(DEMO, prompts=["all"], towers=["none"]).benchmark
    assert part.prompts == demo.prompts and not (part.towers or part.inputs or part.defenses)
    assert asked(DEMO, towers=["FARE"]).benchmark.towers == {"FARE": "pgd10-l2@4/a1"}, "the attack of [towers]"
    assert asked(DEMO, towers=["Anchored"]).benchmark.towers == {"Anchored": ""}, "the attack of its recipe"
    assert asked(DEMO, subset=0, some=30).benchmark.some == 30 and asked(DEMO, subset=9, some=0).benchmark.some == 9


def test_a_budget_of_ones_own_has_steps_of_the_same_part():
    assert BenchmarkBudget("pgd100-ce@8/a2", ("aa@8",)).at(2) == BenchmarkBudget("pgd100-ce@2/a0.5", ("aa@2",))
    budgets = asked(PAPER, budgets=["4", "2", "4"]).benchmark.budgets
    assert [budget.attack for budget in budgets] == ["pgd100-ce@4/a1", "pgd100-ce@2/a0.5"]


@pytest.mark.parametrize(
    ("choice", "message"),
    (
        ({"prompts": ["AdvTP"]}, "--prompts: unknown name 'AdvTP'. Did you mean 'AdvPT'"),
        ({"towers": ["TeCoa"]}, "--towers: unknown name 'TeCoa'. Did you mean 'TeCoA'"),
        ({"budgets": ["0.01"]}, "--budgets 0.01 looks like a fraction of 1"),
        ({"subset": -1}, "--subset is -1; expected a number of images"),
    ),
)
def test_names_and_numbers_that_cannot_be_are_refused(choice, message):
    with pytest.raises(ConfigError, match=message):
        asked(DEMO, **choice)


def test_unknown_defenses_and_inputs_at_test_time_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'ttc'"):
        planned(DEMO, defenses=["tcc"])
    with pytest.raises(ConfigError, match="is a defense of the input"):
        planned(DEMO, defenses=["noise"])


def test_reproductions_narrow_it_as_they_do_their_other_setups():
    one = PAPER.narrowed(["pets"], ["vit_b32"], [1]).benchmark
    assert (one.datasets, one.backbones) == (("pets",), ("vit_b32",))
    assert {*one.towers.values()} <= {*PAPER.towers.training_attacks.values()}, "towers are those of [towers]"


# --- outside models ---------------------------------------------------------------------------------------------------


def outside(name: str) -> MeasuredModel:
    run = Run(f"outside/{name}/digits", Path("/out"), 1, "done", name)
    rows = (
        BenchmarkRow(name, "", "none", "", (run.id,)),
        BenchmarkRow(name, "", "its own", "its own", (run.id,), against=0),
    )
    return MeasuredModel(name, "Digits", run, rows)


def test_outside_models_stand_below_our_rows_and_are_compared_with_themselves():
    ours = planned(DEMO).exhibits
    table, survival = below(ours, {"Digits": [outside("a"), outside("b")]})
    assert [(row.tower, row.against) for row in table.rows[40:]] == [("a", None), ("a", 40), ("b", None), ("b", 42)]
    assert survival.of == table and below(ours, {}) == ours


def test_outside_models_alone_have_tables_of_their_own():
    builder = Builder(asked(PAPER, budgets=["1", "4"]), ROOT)
    made = alone(builder, {"photos": [outside("a")]})
    assert [each.name for each in made] == [
        "benchmark_photos_1", "benchmark_photos_1_survival", "benchmark_photos_4", "benchmark_photos_4_survival"
    ]  # fmt: skip
    assert made[0].rows[1].against == 0 and made[0].transfer == () and made[2].attack == "pgd100-ce@4/a1"
    bare = dataclasses.replace(outside("c"), rows=outside("c").rows[:1])
    assert [type(each) for each in alone(builder, {"photos": [bare]})] == [BenchmarkTable, BenchmarkTable]
