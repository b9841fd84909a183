"""Tables and comparisons are made of records, and say what they are made of."""

from __future__ import annotations

import json

import pytest
import torch

from advpt.cli import main
from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation.record import Record, accuracy
from advpt.results.collect import collect
from advpt.results.table import cell, compare, groups, render, render_comparisons

TRANSFER, ADAPTIVE = ("transfer", "pgd40-fkl@8/a0.25"), ("adaptive", "pgd40-ce@8/a0.5")


def write(folder, trainer, seed, clean, robust, column=TRANSFER, n=100, digest="d"):
    def part(hits):
        return accuracy(torch.arange(n) < hits)

    protocol, spec = column
    result = {
        "split": "test", "dataset": "Digits", "trainer": trainer, "seed": seed, "backbone": {"name": "DemoCLIP"},
        "images": {"n": n, "digest": digest, "subset": 0}, "clean": part(clean), "robust": part(robust),
        "config": {"BANK.ATTACK": "pgd10-fkl@4"}, "protocol": protocol, "defenses": [], "comparable": True,
        "attack": {"spec": spec, "objective": spec.split("-")[1][:3].strip("@")},
    }  # fmt: skip
    return records.write(Record(result, {}), folder / trainer / f"seed{seed}")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "ZeroshotCLIP", 1, 50, 30)
    for seed, (clean, robust) in enumerate([(80, 60), (84, 62), (88, 64)], start=1):
        write(tmp_path, "AdvPT", seed, clean, robust)
        write(tmp_path, "AdvPT", seed, clean, 2, ADAPTIVE)
        write(tmp_path, "CoOp", seed, clean, robust - 10)
    return tmp_path


def test_table_shows_means_spread_and_what_was_not_run(folder):
    (group,) = groups(collect([folder]))
    text = render(group)
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    rows = {first: rest for first, *rest in lines}
    assert rows["AdvPT"] == ["1,2,3", "84.0 ± 4.0", "62.0 ± 2.0", "2.0"]
    assert rows["ZeroshotCLIP"] == ["1", "50.0", "30.0", "not run"]
    assert list(rows)[2:] == ["ZeroshotCLIP", "CoOp", "AdvPT"]
    assert "100 images" in text and "AdvPT's training bank: pgd10-fkl@4" in text
    assert rows["method"][2:] == [f"robust: {p}, {s}" for p, s in (TRANSFER, ADAPTIVE)]


def test_differences_pair_seeds_and_images(folder):
    (group,) = groups(collect([folder]))
    d = compare(group, "AdvPT", "CoOp", TRANSFER)
    assert d.mean == pytest.approx(10) and d.low > 0 and d.seeds == 3
    zero = compare(group, "AdvPT", "ZeroshotCLIP", TRANSFER)
    assert zero.mean == pytest.approx(32) and zero.seeds == 3
    assert compare(group, "AdvPT", "CoOp", ADAPTIVE) is None
    assert "+10.0" in render_comparisons(group)


def test_other_images_stand_in_another_table(folder):
    write(folder / "more", "AdvPT", 1, 10, 5, digest="other")
    assert len(groups(collect([folder]))) == 2


def test_an_unsound_record_is_left_out_and_named(folder, caplog):
    path = folder / "CoOp" / "seed1" / "records" / "test_transfer_pgd40-fkl@8-a0.25.json"
    data = json.loads(path.read_text())
    data["result"]["robust"]["accuracy"] = 99
    path.write_text(json.dumps(data))
    (group,) = groups(collect([folder]))
    assert sorted(group.parts("CoOp", TRANSFER)) == [2, 3]
    assert str(path) in caplog.text


def test_no_records_is_a_sentence(tmp_path, capsys):
    with pytest.raises(RecordError, match="no records"):
        collect([tmp_path])
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_cell_of_one_seed_has_no_spread():
    assert cell({1: {"accuracy": 12.34}}) == "12.3" and cell({}) == "not run"


def test_report_prints_the_table(folder, capsys):
    assert main(["report", str(folder), "--format", "latex_booktabs"]) == 0
    assert "\\toprule" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("official", "words"),
    [(True, ""), (None, "official split is unknown."), (False, "compare with nothing published.")],
)
def test_the_caption_says_whether_the_split_is_the_official_one(tmp_path, official, words):
    path = write(tmp_path, "AdvPT", 1, 50, 30)
    result = records.read(path).result | {"comparable": official}
    records.write(Record(result, {}), tmp_path / "AdvPT" / "seed1")
    (group,) = groups(collect([tmp_path]))
    text = render(group).partition("\n\n")[0]
    assert text.endswith(words or "pgd10-fkl@4.")
    assert ("published" in text) == (official is False) and ("unknown" in text) == (official is None)
    with pytest.raises(RecordError, match="comparable is 'no', expected true, false or null"):
        records.read(records.write(Record(result | {"comparable": "no"}, {}), tmp_path / "x"))
