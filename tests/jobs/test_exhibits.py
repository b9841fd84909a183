"""Plans: which runs a table needs, which banks they share, and that every published number has its cell."""

from __future__ import annotations

import dataclasses
import re
from ast import literal_eval as literal
from collections import Counter
from pathlib import Path

import pytest

from advpt.errors import ConfigError
from advpt.jobs.builder import Variant
from advpt.jobs.exhibits import EXHIBITS, NOT_IN_ALL, plan_exhibits
from advpt.jobs.places import Places, command
from advpt.jobs.plan import Job, Plan
from advpt.jobs.scripts import sweep
from advpt.jobs.setup import DEMO, PAPER
from advpt.results.exhibit import DefenseTable, Figure, PartTable, StackTable, Table, TowerTable, WordTable
from advpt.results.published import TEST_TIME, number, numbers
from advpt.test_time import TEST_TIME as TEST_TIME_DEFENSES
from tests.helpers.plans import ADV, COOP, PETS, ZS

ROOT = Path(__file__).resolve().parents[2]


def kinds(names: list[str], setup=PETS) -> Counter:
    return Counter((job.trainer, job.purpose, bool(job.model)) for job in plan_exhibits(names, setup, ROOT).plan.jobs)


ON_VIT_B32 = PAPER.narrowed(["pets"], ["vit_b32"], [1, 2, 3])
TOWERS = ("TeCoA", "FARE", "PMGAFT", "TGAZSR")
NEEDED = {
    "table1": {(ZS, "main", False): 1, (ADV, "main", False): 3},
    "table2": {(ZS, "defended", False): 1, (ADV, "main", False): 3, (ADV, "defended", True): 3},
    "table3": {
        (ZS, "autoattack", False): 1, (ZS, "diffpure", False): 1, (ADV, "main", False): 3, (ADV, "autoattack", True): 3,
        (ADV, "diffpure", True): 3,
    },
    "table4": {("LinearProbe", "main", False): 1, (ADV, "main", False): 3},
    "table5": {(ADV, "main", False): 3},
    "fig3": {(ZS, "main", False): 1, (COOP, "main", False): 3, (COOP, "main-clean", False): 3, (ADV, "main", False): 3},
    "fig4": {(trainer, "clock", False): 3 for trainer in (ADV, "AdvTrain")},
    "fig5": {(trainer, "clock", False): 3 for trainer in (ADV, "FastAT")},
    "efficiency": {(trainer, "clock", False): 3 for trainer in (ADV, "AdvTrain", "FastAT", "TradesFT")},
    "fig6": {(ZS, "shift", False): 4, (ADV, "main", False): 3, (ADV, "shift", True): 12},
    "fig7": {(ADV, f"nctx{n}", False): 3 for n in PAPER.contexts},
    "curves": {
        (ZS, "budgets", False): 1, (COOP, "main", False): 3, (ADV, "main", False): 3, (COOP, "budgets", True): 3,
        (ADV, "budgets", True): 3, (COOP, "main-clean", False): 3, (COOP, "budgets-clean", True): 3,
    },
    "peers": {(ZS, "peers", False): 1}
    | {(trainer, "peers", False): 3 for trainer in (COOP, "CoCoOp", ADV, "APT", "FAP", "AdvIVLP", "CAPT")},
    "tapt": {(trainer, purpose, False): 1 for trainer in ("AdvVPT", "AdvIVLP", "AdvMaPLe")
             for purpose in ("defensive", "clean")}
    | {(trainer, "tuned", True): 2 for trainer in ("TAPTV", "TAPTVLI", "TAPTVLJ")},  # imagenet makes the statistics
    "test_time": {(ZS, f"test_time-{group}", False): 2 for group in ("views", "counter", "features")},
    "towers": {(ZS, "towers", False): 1}  # evaluated on pets, trained on another set
    | {(trainer, "towers", evaluates): 3 for trainer in TOWERS for evaluates in (False, True)},
}  # fmt: skip


LAST = ("fig7", "curves", "efficiency", "peers", "tapt")
OWN_TABLES = ("test_time", "towers")  # with tables of other names


@pytest.mark.parametrize("name", sorted(EXHIBITS))
def test_the_runs_that_a_table_needs(name):
    assert kinds([name], ON_VIT_B32 if name == "towers" else PETS) == NEEDED[name]


def test_tables_share_their_runs():
    together = plan_exhibits(["table1", "table5", "table2", "fig3"], PETS, ROOT).plan
    assert len(together.jobs) == 4 + 4 + 6  # Table 1's; Table 2's evaluations; CoOp's two recipes
    assert (
        plan_exhibits(["all"], PETS, ROOT).plan.jobs
        == plan_exhibits([n for n in EXHIBITS if n not in NOT_IN_ALL], PETS, ROOT).plan.jobs
    )


def test_every_published_number_has_its_cell_and_no_cell_invents_one():
    exhibits = plan_exhibits(["table1", "table2", "table3", "table4", "fig6"], PAPER, ROOT).exhibits
    found = Counter()
    for table in (e for e in exhibits if isinstance(e, Table)):
        for row in table.rows:
            assert len(row.cells) == len(table.columns)
            found.update(cell.paper for cell in row.cells if cell is not None and cell.paper is not None)
    of_advpt = {key for key in numbers() if not key.table.startswith(("tapt", TEST_TIME))}
    assert set(found) == of_advpt, "keys that only one side has"
    assert all(n == 1 for key, n in found.items() if key.table != "1")


def test_adaptive_rows_stand_beside_nothing_published():
    (table,) = plan_exhibits(["table1"], PETS, ROOT).exhibits
    adaptive = [row for row in table.rows if row.protocol == "adaptive"]
    assert len(adaptive) == 2 and all(cell.paper is None for row in adaptive for cell in row.cells)


def test_the_demo_has_every_exhibit():
    found = plan_exhibits(["all", *NOT_IN_ALL], DEMO, ROOT)
    names = [e.name for e in found.exhibits]
    of_test_time = [f"test_time_digits_democlip_{eps}{parts}" for eps in (2, 4) for parts in ("", "_parts")]
    shown = [*(n for n in EXHIBITS if n not in (*LAST, *OWN_TABLES)), "fig6_table", *LAST[:-1], "peers_figure"]
    of_towers = ["towers_digits_democlip", "towers_digits_democlip_stacks"]
    assert names == [*shown, LAST[-1], *of_test_time, *of_towers]
    assert all("Demo" in e.caption for e in found.exhibits)
    kinds = {Table, WordTable, Figure, DefenseTable, PartTable, TowerTable, StackTable}
    assert {type(e) for e in found.exhibits} == kinds
    assert "stand-in" in next(e for e in found.exhibits if e.name == "table2").caption
    assert {job.backbone for job in found.plan.jobs} == {"democlip", "democlip_s"}


def test_axes_of_figures_have_names_and_units():
    figures = [e for e in plan_exhibits(["all", "peers"], DEMO, ROOT).exhibits if isinstance(e, Figure)]
    assert len(figures) == 8 and all(figure.x and "%" in figure.y for figure in figures)
    assert all(re.search(r"\(.+\)$", figure.x) for figure in figures if figure.kind != "bars")


def test_names_that_are_not_there():
    with pytest.raises(ConfigError, match="unknown table or figure 'tabel1'. Did you mean 'table1'"):
        plan_exhibits(["tabel1"], PETS, ROOT)
    with pytest.raises(ConfigError, match="--only: unknown data set 'pest'. Did you mean 'pets'"):
        PAPER.narrowed(["pest"], [], [])
    with pytest.raises(ConfigError, match="--backbones"):
        PAPER.narrowed([], ["vit_b61"], [])
    with pytest.raises(ConfigError, match="nothing left"):
        plan_exhibits(["fig7"], PAPER.narrowed(["dtd"], [], []), ROOT)


def test_tapts_tables_have_their_cells(tmp_path):
    found = plan_exhibits(["tapt"], PAPER, ROOT)
    (table,) = found.exhibits
    assert len(table.columns) == 11 and all(len(row.cells) == 11 for row in table.rows)
    cells = Counter(cell.paper for row in table.rows for cell in row.cells if cell.paper is not None)
    of_tapt = {key for key in numbers() if key.table.startswith("tapt")}
    wanted = {key for key in of_tapt if key.dataset != "Avg" and key.method != "Vanilla"}
    assert {key for key in cells if number(key) is not None} == wanted
    known = [row for row in table.rows if row.protocol in ("tuned", "adaptive")]
    assert len(known) == 2 * 2 * 3 * 2 and not any(cell.paper for row in known for cell in row.cells)
    assert {row.defense for row in table.rows if row.method == "TAPT-VLI"} == {"tapt", "tapt:constructed"}
    plan, places = found.plan, Places(ROOT, tmp_path, tmp_path, tmp_path)
    job = next(job for job in plan.jobs if job.trainer == "TAPTVLJ" and job.dataset == "pets")
    words = command(job, plan, places)
    clean = plan.by_id[dict(job.runs)["TRAINER.TAPT.CLEAN_RUN"]]
    assert words[words.index("TRAINER.TAPT.CLEAN_RUN") + 1] == str(tmp_path / clean.folder)
    assert ("TRAINER.ADVMAPLE.LOSS", "clean") in clean.settings and clean.trainer == "AdvMaPLe"
    first = plan.by_id[job.after[0]]
    assert (first.trainer, first.dataset, first.backbone) == ("TAPTVLJ", "imagenet", job.backbone)
    assert job.id != dataclasses.replace(job, runs=()).id


# --- like beside like ---------------------------------------------------------------------------------------------


def settings_of(job: Job) -> dict[str, object]:
    """Every leaf of a job's configuration, as train.py reads it."""
    import train
    from advpt.settings import plain

    places = Places(ROOT, Path("/out"), Path("/data"), Path("/banks"))
    return plain(
        train.setup_cfg(
            train.parse_args(command(job, Plan((dataclasses.replace(job, model="", runs=()),)), places)[2:])
        )
    )


@pytest.mark.parametrize("setup", [PETS, DEMO], ids=lambda w: w.name)
def test_peers_have_one_budget_the_same_images_and_as_many_epochs(setup):
    from advpt.attacks import parse

    found = plan_exhibits(["peers"], setup, ROOT)
    own = {"CoOp": None, "CoCoOp": None, "AdvPT": "BANK.ATTACK"}
    seen = set()
    for job in found.plan.jobs:
        if job.trainer == ZS:
            continue
        cfg, node = settings_of(job), f"TRAINER.{job.trainer.upper()}"
        attack = own.get(job.trainer, f"{node}.ATTACK")
        if attack:
            assert parse(str(cfg[attack])).eps == parse(setup.peers.attack).eps, (
                f"{job.trainer} trains on {cfg[attack]}"
            )
        for asked in cfg["EVAL.ATTACKS"]:
            assert parse(asked.split(":")[0]).eps == parse(setup.peers.attack).eps
        if job.trainer == "CoOp":
            assert cfg[f"{node}.CLEAN_BANK"] is True, "the images of the others, not augmented"
        if job.trainer not in ("CoOp", "AdvPT"):  # these read banks
            assert not [kind for kind in cfg["INPUT.TRANSFORMS"] if kind.startswith("random")]
            assert setup.name == "demo" or "center_crop" in cfg["INPUT.TRANSFORMS"], "whole images, as in banks"
        seen.add(tuple(str(cfg[k]) for k in ("OPTIM.MAX_EPOCH", "DATALOADER.TRAIN_X.BATCH_SIZE", "DATASET.NUM_SHOTS",
                                             "BANK.PROFILE", "DATASET.NAME")))  # fmt: skip
    assert len(seen) == 1, seen
    assert len({job.trainer for job in found.plan.jobs}) == 8


def test_the_demos_peers_are_reported_on_other_seeds_than_their_rates_were_chosen_on():
    chosen_on = re.search(r"SEEDS=\$\{SEEDS:-(\d+)\}", (ROOT / "scripts/advpt/peers_search.sh").read_text())
    seeds = {job.seed for job in plan_exhibits(["peers"], DEMO, ROOT).plan.jobs if job.trainer != ZS}
    assert len(seeds) == 3 and int(chosen_on[1]) not in seeds
    asked = plan_exhibits(["peers"], DEMO.narrowed((), (), (7,)), ROOT).plan.jobs
    assert {job.seed for job in asked} == {7}


def test_peers_as_published_have_their_own_recipes_and_the_caption_says_them():
    from advpt.settings import recipe

    found = plan_exhibits(["peers"], PETS, ROOT, variant=Variant(as_published=True))
    table, figure = found.exhibits
    assert (table.name, figure.name) == ("peers_as_published", "peers_as_published_figure")
    for job in found.plan.jobs:
        assert {key for key, _ in job.settings} == {"BANK.PROFILE", "EVAL.ATTACKS", "EVAL.PROTOCOLS"}
    for trainer, attack in (("FAP", "pgd2-kl@1/a1"), ("AdvIVLP", "pgd2-ce@1/a1"), ("APT", "pgd3-ce@4/a2.667")):
        own = recipe(ROOT / f"configs/trainers/{trainer}/vit_b16.yaml")
        says = f"{trainer}: training attack {attack}, M {own[f'TRAINER.{trainer.upper()}.N_CTX']}, "
        assert (
            says in table.caption and f"epochs {own['OPTIM.MAX_EPOCH']}" in table.caption.split(says)[1].split(";")[0]
        )
    assert "AdvPT: training attack pgd10-fkl@8, M 32, images not augmented, epochs 100" in table.caption
    assert "rows differ in more than the method" in table.caption
    (default, _) = plan_exhibits(["peers"], PETS, ROOT).exhibits
    assert "Every method trains at 4/255" in default.caption and default.name == "peers"
    with pytest.raises(ConfigError, match="--as-published is a variant of peers, which is not asked for"):
        plan_exhibits(["table1"], PETS, ROOT, variant=Variant(as_published=True))


@pytest.mark.parametrize("setup", [PAPER.narrowed(["pets", "imagenet"], [], [1]), DEMO], ids=lambda w: w.name)
@pytest.mark.parametrize("name", ["fig3", "curves", "sweep"])
def test_coop_on_a_clean_bank_differs_from_advpt_in_the_attack_alone(setup, name):
    if name == "sweep":
        datasets, backbones = (("pets",), ("vit_b16",)) if setup.name == "paper" else (("digits",), ("democlip",))
        plan = sweep(datasets, backbones, ["CoOp-clean", ADV], [16], [1], ROOT)
    else:
        plan = plan_exhibits([name], setup, ROOT).plan
    trained = [job for job in plan.jobs if not job.model]
    twins = [job for job in trained if job.purpose.endswith("-clean")]
    assert {(j.dataset, j.backbone) for j in twins} == {(j.dataset, j.backbone) for j in trained if j.trainer == ADV}
    of_coop = {"N_CTX", "CSC", "CTX_INIT", "CLASS_TOKEN_POSITION", "PREC"}
    for twin in twins:
        other = next(
            j
            for j in trained
            if (j.trainer, j.dataset, j.backbone, j.seed) == (ADV, twin.dataset, twin.backbone, twin.seed)
        )
        one, two = settings_of(twin), settings_of(other)
        apart = {k for k in one if one[k] != two[k]} - {"OUTPUT_DIR", "EVAL.WORDS", "EVAL.PICTURES"}
        assert apart <= {"TRAINER.NAME", "TRAINER.COOP.CLEAN_BANK", *(f"TRAINER.COOP.{leaf}" for leaf in of_coop)}
        assert one["TRAINER.COOP.CLEAN_BANK"] is True
        assert all(one[f"TRAINER.COOP.{leaf}"] == two[f"TRAINER.ADVPT.{leaf}"] for leaf in of_coop)


def test_captions_say_what_the_other_coop_differs_in():
    (figure,) = plan_exhibits(["fig3"], PETS, ROOT).exhibits
    assert {mark.series for mark in figure.point_cells} == {"vanilla", "CoOp", "CoOp, clean bank", "AdvPT"}
    for part in ("M 16 / 32", "images augmented / not augmented", "epochs 200 / 100", "rate 0.002 / 0.005",
                 "precision fp16 / fp32", "differ in the attack alone"):  # fmt: skip
        assert part in figure.caption
    (demo,) = plan_exhibits(["fig3"], DEMO, ROOT).exhibits
    assert {mark.series for mark in demo.point_cells} == {"vanilla", "CoOp, clean bank", "AdvPT"}
    assert "CoOp has its own recipe" not in demo.caption, "the demo's CoOp is on a clean bank anyway"


def test_table_2_runs_the_authors_super_resolution_and_says_what_each_is():
    (table,) = plan_exhibits(["table2"], PETS, ROOT).exhibits
    rows = {row.defense: row for row in table.rows if row.method == "AdvPT"}
    assert list(rows) == ["super (authors' code)", "super (Mustafa et al.)", "rescale", "diffpure"]
    chains = {name: row.cells[0].metric.defense for name, row in rows.items()}
    assert chains["super (authors' code)"] == "super:advpt" and chains["super (Mustafa et al.)"] == "super:mustafa"
    assert rows["super (authors' code)"].cells[0].paper.defense == "super"
    assert rows["super (Mustafa et al.)"].cells[0].paper is None, "no published number beside another defense"
    for part in ("wavelet alone at sigma 0.02", "paper writes sigma 0.2", "sigma 0.01 in channel space, then EDSR x2"):
        assert part in table.caption


def test_tapts_caption_says_what_statistics_are_taken_over():
    (table,) = plan_exhibits(["tapt"], PAPER, ROOT).exhibits
    assert "Statistics are taken over 16 training images of each class of ImageNet (16,000)" in table.caption
    assert "TAPT's authors take all of ImageNet's" in table.caption and "all 1,281,167" in table.caption
    found = plan_exhibits(["tapt"], PAPER, ROOT, variant=Variant(all_statistics=True))
    assert "over all 1,281,167 training images of ImageNet" in found.exhibits[0].caption
    assert "16 training images" not in found.exhibits[0].caption
    for job in found.plan.jobs:
        if job.trainer.startswith("TAPT"):
            assert dict(job.settings)["TRAINER.TAPT.ADV_STATISTICS"] == "all" and job.shots == -1
        else:
            assert job.shots == 16, "prompts are tuned as before"
    with pytest.raises(ConfigError, match="--all-statistics is a variant of tapt"):
        plan_exhibits(["peers"], PETS, ROOT, variant=Variant(all_statistics=True))


# --- defenses at test time ----------------------------------------------------------------------------------------


def test_every_defense_has_its_row_under_three_protocols_and_those_over_views_share_a_run():
    planned = plan_exhibits(["test_time"], DEMO, ROOT)
    tables = [e for e in planned.exhibits if isinstance(e, DefenseTable)]
    assert [table.attack for table in tables] == ["pgd20-ce@2", "pgd20-ce@4"]
    for table in tables:
        rows = {row.name: row for row in table.rows}
        assert len(rows) == len(table.rows) and table.rows[0].recorded == "", "no defense first"
        assert {name.partition(":")[0] for name in rows} == {"none", "noise", "low-pass", *TEST_TIME_DEFENSES}
        views = {name for name, row in rows.items() if row.run == rows["mean"].run}
        assert {"none", "conf", "tte", "zero", "mta", "tpt", "ctpt", "rtpt", "sstpt"} <= views
        assert rows["noise"].run == rows["ttc"].run, "the control is measured beside counter-perturbations"
        assert (table.images, table.some) == (200, 100)
    for job in planned.plan.jobs:
        settings = dict(job.settings)
        attacks = {text.rpartition(":")[2]: text.partition(":")[0] for text in literal(settings["EVAL.ATTACKS"])}
        assert attacks.keys() == {"static", "pseudo", "adaptive"} and len(set(attacks.values())) == 1
        assert (settings["EVAL.SUBSET"], settings["EVAL.ADAPTIVE_SUBSET"]) == ("200", "100")
        assert (settings["EVAL.EOT"], settings["EVAL.DEFENSE_SEEDS"]) == ("1", "1")
    assert len(planned.plan.jobs) == 6 and not any(row.clean or row.static for t in tables for row in t.rows)


def test_published_numbers_stand_beside_static_ones_of_their_attack_budget_data_and_backbone():
    planned = plan_exhibits(["test_time"], PAPER.narrowed(["flowers", "ucf101"], ["vit_b16"], []), ROOT)
    numbers_of = {
        (table.dataset, table.attack): {row.name: (number(row.clean), number(row.static)) for row in table.rows}
        for table in planned.exhibits
        if isinstance(table, DefenseTable)
    }
    assert len(numbers_of) == 4
    at_4 = numbers_of["Flowers", "pgd100-ce@4/a1"]
    assert at_4["rtpt"] == (68.7, 44.6), "T-VSS, which calls the data set Flower102"
    assert at_4["none"][1] == 0.0 and at_4["mean"][1] is not None and at_4["mta"][1] is not None
    assert {name for name, (_, static) in at_4.items() if static is not None} == {"none", "mean", "mta", "rtpt", "ttc"}
    at_1 = numbers_of["Flowers", "pgd10-ce@1/a1"]
    assert at_1["hedge"][1] is not None and at_1["low-pass"][1] is not None and at_1["mta"] == (None, None)
    assert all(static is None for _, static in numbers_of["UCF101", "pgd10-ce@1/a1"].values()), "BaP has no UCF101"
    tables = [e for e in planned.exhibits if isinstance(e, DefenseTable)]
    assert "Published: T-VSS, 2026 table 1, PGD-100, step eps/4" in tables[1].caption


def test_groups_of_defenses_have_jobs_of_their_own_and_a_budget_too():
    with pytest.raises(ConfigError, match="nothing is left"):
        plan_exhibits(["test_time"], PAPER.narrowed(["imagenet"], [], []), ROOT)
    one = plan_exhibits(["test_time"], PAPER.narrowed(["pets"], ["vit_b32"], []), ROOT).plan.jobs
    assert {job.backbone for job in one} == {"vit_b32"} and len({job.folder for job in one}) == len(one) == 6
