"""Tables and comparisons are made of records, and say what they are made of."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from advpt.cli import main
from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation.intervals import IMAGES_ONLY, STATEMENT, wilson
from advpt.evaluation.record import Record
from advpt.jobs.methods import ADVPT, FIRST_IN_TABLES
from advpt.results.groups import Group
from advpt.results.groups import groups as group_records
from advpt.results.index import RecordIndex
from advpt.results.render import cell_text
from advpt.results.render import text as text_of
from advpt.results.values import Value, compare, summarize
from tests.helpers.records import accuracy

TRANSFER, ADAPTIVE = ("transfer", "pgd40-fkl@8/a0.25"), ("adaptive", "pgd40-ce@8/a0.5")


def write(folder, trainer, seed, clean, robust, column=TRANSFER, n=100, digest="d", **more):
    def part(hits):
        return accuracy(torch.arange(n) < hits)

    protocol, spec = column
    result = {
        "split": "test", "dataset": "Digits", "trainer": trainer, "seed": seed, "backbone": {"name": "DemoCLIP"},
        "images": {"n": n, "digest": digest, "subset": 0}, "clean": part(clean), "robust": part(robust),
        "config": {"BANK.ATTACK": "pgd10-fkl@4"}, "protocol": protocol, "defenses": [], "comparable": True,
        "attack": {"spec": spec, "objective": spec.split("-")[1][:3].strip("@")},
    }  # fmt: skip
    return records.write(Record.from_json(result | more, {}), folder / trainer / f"seed{seed}")


def groups(found: list[Record]) -> list[Group]:
    return group_records(found, FIRST_IN_TABLES, ADVPT)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "ZeroshotCLIP", 1, 50, 30)
    for seed, (clean, robust) in enumerate([(80, 60), (84, 62), (88, 64)], start=1):
        write(tmp_path, "AdvPT", seed, clean, robust)
        write(tmp_path, "AdvPT", seed, clean, 2, ADAPTIVE)
        write(tmp_path, "CoOp", seed, clean, robust - 10)
    return tmp_path


def test_table_shows_means_spread_and_what_was_not_run(folder):
    (group,) = groups(RecordIndex().collect([folder]))
    text, _, _ = text_of(group.table()).partition("Differences on")
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    rows = {first: rest for first, *rest in lines}
    found = [group.value("AdvPT", column).interval for column in (None, TRANSFER, ADAPTIVE)]
    assert rows["AdvPT"] == ["1,2,3", *(f"{x.mean:.1f} [{x.low:.1f}, {x.high:.1f}]" for x in found)]
    assert found[0].low < 84 - 4.303 * 4 / 3**0.5 and found[1].mean == 62, "seeds and images, both"
    shown = [f"{k}.0 [{low:.1f}, {high:.1f}]" for k in (50, 30) for low, high in [wilson(k, 100)]]
    assert rows["ZeroshotCLIP"] == ["1", *shown, "not run"], "zero-shot CLIP has images alone, and no seed is missing"
    assert list(rows)[2:] == ["ZeroshotCLIP", "CoOp", "AdvPT"]
    assert STATEMENT in text and IMAGES_ONLY not in "".join(lines[2] + lines[3] + lines[4])
    assert "100 images" in text and "AdvPT's training bank: pgd10-fkl@4" in text
    assert rows["method"][2:] == [f"{s}, {p}" for p, s in (TRANSFER, ADAPTIVE)]


def test_two_kinds_of_coop_have_a_row_each(tmp_path):
    for seed, clean in ((1, 70), (2, 72)):
        write(tmp_path / "augmented", "CoOp", seed, clean, 40)
        path = write(tmp_path / "clean", "CoOp", seed, clean + 10, 50)
        found = json.loads(path.read_text())["result"]
        found["config"] |= {"TRAINER.COOP.CLEAN_BANK": True}
        records.write(Record.from_json(found, {}), path.parent.parent)
    (group,) = groups(RecordIndex().collect([tmp_path]))
    assert list(group.by_method) == ["CoOp", "CoOp, clean bank"]
    assert [group.by_seed(m, None)[1].result.clean.accuracy for m in list(group.by_method)] == [70, 80]
    (alone,) = groups(RecordIndex().collect([tmp_path / "clean"]))
    assert list(alone.by_method) == ["CoOp"]


def test_each_number_of_shots_has_a_row_and_is_compared_with_its_like(tmp_path):
    write(tmp_path / "zero", "ZeroshotCLIP", 1, 50, 30, shots=-1)
    for shots, clean in ((4, 60), (16, 80), (-1, 90)):
        for seed in (1, 2, 3):
            write(tmp_path / str(shots), "AdvPT", seed, clean, 40, shots=shots)
            write(tmp_path / str(shots), "CoOp", seed, clean - 5, 30, shots=shots)
    (group,) = groups(RecordIndex().collect([tmp_path]))
    rows = ["CoOp, 4 shots", "CoOp, 16 shots", "CoOp, all images"]
    ours = [row.replace("CoOp", "AdvPT") for row in rows]
    assert list(group.by_method) == ["ZeroshotCLIP", *sorted(ours + rows, key=[*ours, *rows].index)]
    assert [group.by_seed(m, None)[1].result.clean.accuracy for m in list(group.by_method)[1:]] == [
        60,
        80,
        90,
        55,
        75,
        85,
    ]
    text = text_of(group.table())
    assert all(f"| {one} - ZeroshotCLIP " in text for one in ours)
    assert "| AdvPT, 4 shots - CoOp, 4 shots " in text and "AdvPT, 4 shots - CoOp, 16 shots" not in text
    assert "WARNING" not in text_of(group.table())


def test_runs_of_several_settings_in_one_row_are_named(tmp_path):
    for i, rate in enumerate((0.1, 0.2)):
        config = {"OPTIM.LR": rate, "EVAL.SUBSET": i, "BANK.ATTACK": "pgd10-fkl@4"}
        write(tmp_path / str(i), "AdvPT", 1, 80 + i, 60, config=config)
    (group,) = groups(RecordIndex().collect([tmp_path]))
    assert "WARNING AdvPT, seed 1: 2 runs that differ in OPTIM.LR share a row" in text_of(group.table())
    (alone,) = groups(RecordIndex().collect([tmp_path / "0"]))
    assert "WARNING" not in text_of(alone.table())


def test_a_cell_of_fewer_seeds_than_its_row_says_which(tmp_path):
    for seed in (1, 2, 3, 4, 5):
        write(tmp_path, "AdvPT", seed, 80 + seed, 60)
    for seed in (1, 2):
        write(tmp_path, "AdvPT", seed, 80 + seed, 50 + seed, ADAPTIVE)
    (group,) = groups(RecordIndex().collect([tmp_path]))
    (row,) = (line for line in text_of(group.table()).splitlines() if line.startswith("| AdvPT"))
    cells = [c.strip() for c in row.split("|")[1:-1]]
    assert cells[1] == "1-5" and cells[-1].endswith("] (seeds 1,2)") and "seeds" not in cells[2] + cells[3]


def test_differences_pair_seeds_and_images(folder):
    (group,) = groups(RecordIndex().collect([folder]))
    d = compare(group.value("AdvPT", TRANSFER), group.value("CoOp", TRANSFER))
    assert d.mean == pytest.approx(10) and d.low > 0 and d.seeds == (3, 3) and d.significant
    zero = compare(group.value("AdvPT", TRANSFER), group.value("ZeroshotCLIP", TRANSFER))
    assert zero.mean == pytest.approx(32) and zero.seeds == (3,) and zero.significant
    assert compare(group.value("AdvPT", ADAPTIVE), group.value("CoOp", ADAPTIVE)) is None
    text = text_of(group.table()).partition("Differences on")[2]
    assert "+10.0" in text and "| 3 seeds and images |" in text and IMAGES_ONLY not in text


def test_one_seed_is_not_taken_for_every_seed_of_the_other(folder):
    """CoOp's first seed is the worst of three: it does not stand in for the two that were not run."""
    for seed in (2, 3):
        for path in (folder / "CoOp" / f"seed{seed}" / "records").glob("*.json"):
            path.unlink()
    (group,) = groups(RecordIndex().collect([folder]))
    d = compare(group.value("AdvPT", TRANSFER), group.value("CoOp", TRANSFER))
    assert d.seeds == (3, 1) and d.images_only and not d.significant and d.low > 0
    lines = [line for line in text_of(group.table()).splitlines() if "AdvPT - CoOp" in line]
    assert len(lines) == 2 and all(IMAGES_ONLY in line for line in lines)
    (row,) = [line for line in text_of(group.table()).splitlines() if line.startswith("| CoOp")]
    assert row.count(f"({IMAGES_ONLY})") == 2
    (zero,) = [line for line in text_of(group.table()).splitlines() if line.startswith("| ZeroshotCLIP")]
    assert IMAGES_ONLY not in zero, "zero-shot CLIP is whole with one run"


def test_who_is_trained_is_in_the_record_and_not_counted(folder):
    """One record of a method that says it is not trained stands against all seeds, as zero-shot CLIP does."""
    write(folder, "Ensemble", 1, 70, 40, trained=False)
    write(folder, "Tuned", 1, 70, 40)
    (group,) = groups(RecordIndex().collect([folder]))
    assert compare(group.value("AdvPT", TRANSFER), group.value("Ensemble", TRANSFER)).significant
    assert compare(group.value("AdvPT", TRANSFER), group.value("Tuned", TRANSFER)).images_only
    assert not group.value("ZeroshotCLIP", None).runs.trained and group.value("CoOp", None).runs.trained


def test_other_images_stand_in_another_table(folder):
    write(folder / "more", "AdvPT", 1, 10, 5, digest="other")
    assert len(groups(RecordIndex().collect([folder]))) == 2


def test_an_unsound_record_is_left_out_and_named(folder, caplog):
    path = folder / "CoOp" / "seed1" / "records" / "test_transfer_pgd40-fkl@8-a0.25.json"
    data = json.loads(path.read_text())
    data["result"]["robust"]["accuracy"] = 99
    path.write_text(json.dumps(data))
    (group,) = groups(RecordIndex().collect([folder]))
    assert sorted(group.by_seed("CoOp", TRANSFER)) == [2, 3]
    assert str(path) in caplog.text


def test_no_records_is_a_sentence(tmp_path, capsys):
    with pytest.raises(RecordError, match="no records"):
        RecordIndex().collect([tmp_path])
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_a_cell_of_one_seed_says_that_its_interval_is_of_the_images():
    part = accuracy(torch.arange(50) < 6)
    least = {"split": "test", "dataset": "D", "trainer": "AdvPT", "seed": 1, "backbone": {"name": "B"}, "config": {}}

    def cell(**fields):
        return cell_text(summarize({1: Record.from_json(least | {"clean": part} | fields, {})}, robust=False))

    low, high = wilson(6, 50)
    assert cell() == f"12.0 [{low:.1f}, {high:.1f}] ({IMAGES_ONLY})" and cell_text(Value("not run")) == "not run"
    assert cell(trained=False) == f"12.0 [{low:.1f}, {high:.1f}]"
    assert cell(clean=part | {"deviation": 1.23}).endswith("(± 1.2 over draws)")


def test_column_heads_are_words_with_the_exact_attack_below(tmp_path):
    for protocol, spec, objective in (
        ("transfer", "pgd40-fkl@8/a2", "fkl"),
        ("transfer", "pgd40-ce@8/a2", "ce"),
        ("transfer", "pgd40-ce@8/a1", "ce"),
    ):
        attack = {"name": "pgd", "steps": 40, "eps": 8.0, "spec": spec, "objective": objective}
        write(tmp_path, "AdvPT", 1, 60, 40, (protocol, spec), attack=attack)
    attack = {"name": "mine", "eps": 4, "norm": "l2", "spec": "mine@4/l2", "objective": "ce"}
    write(tmp_path, "AdvPT", 1, 60, 40, ("adaptive", "mine-ce@4/l2"), attack=attack)
    (group,) = groups(RecordIndex().collect([tmp_path]))
    assert list(group.heads.values()) == [
        "clean",
        "PGD-40 (feature KL) 8/255, transfer",
        "PGD-40 (cross-entropy) 8/255, transfer [pgd40-ce@8/a1]",
        "PGD-40 (cross-entropy) 8/255, transfer [pgd40-ce@8/a2]",
        "mine 4/255 l2, adaptive",
    ]
    assert "PGD-40 (feature KL) 8/255, transfer = pgd40-fkl@8/a2; " in text_of(group.table())


def test_report_prints_the_table(folder, capsys):
    assert main(["report", str(folder), "--format", "latex_booktabs"]) == 0
    assert "\\toprule" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("official", "words"),
    [(True, ""), (None, "official split is unknown."), (False, "compare with nothing published.")],
)
def test_the_caption_says_whether_the_split_is_the_official_one(tmp_path, official, words):
    path = write(tmp_path, "AdvPT", 1, 50, 30)
    result = records.read(path).result
    records.write(Record(dataclasses.replace(result, comparable=official)), tmp_path / "AdvPT" / "seed1")
    (group,) = groups(RecordIndex().collect([tmp_path]))
    text = text_of(group.table()).partition("\n\n")[0]
    assert words in text
    assert ("published" in text) == (official is False) and ("unknown" in text) == (official is None)
