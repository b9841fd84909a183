"""Records: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation.record import Record, accuracy, outcome


def result(**changes):
    base = {
        "split": "test", "dataset": "Digits", "trainer": "AdvPT", "seed": 1, "backbone": {"name": "DemoCLIP"},
        "clean": accuracy(torch.tensor([True, False, True])), "config": {}, "protocol": "transfer", "defenses": [],
        "attack": {"spec": "pgd40-fkl@16/a0.5", "objective": "fkl"}, "robust": accuracy(torch.tensor([False] * 3)),
    }  # fmt: skip
    return base | changes


@given(st.lists(st.booleans(), max_size=200))
def test_outcomes_survive_packing(values):
    part = accuracy(torch.tensor(values, dtype=torch.bool))
    assert outcome(part).tolist() == values and part["correct"] == sum(values)
    assert part["interval95"][0] <= part["accuracy"] <= part["interval95"][1] or not values


def test_round_trip_and_names(tmp_path):
    record = Record(result(), {"seconds": 1.0})
    path = records.write(record, tmp_path)
    assert path.name == "test_transfer_pgd40-fkl@16-a0.5.json"
    back = records.read(path)
    assert back.result == record.result and back.id == record.id and back.path == path
    clean = Record(result(attack=None, protocol=None, robust=None), {})
    assert records.write(clean, tmp_path).name == "test_clean.json"
    defended = Record(result(defenses=["rescale"]), {})
    assert records.write(defended, tmp_path) != path


def test_the_id_is_of_the_result_alone(tmp_path):
    assert Record(result(), {"seconds": 1.0}).id == Record(result(), {"seconds": 2.0}).id
    assert Record(result(), {}).id != Record(result(seed=2), {}).id


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d | {"schema": 99}, "schema 99"),
        (lambda d: d | {"result": {}}, "split is missing"),
        (lambda d: [1], "schema list"),
        (lambda d: d | {"result": d["result"] | {"seed": 7}}, "changed after it was written"),
    ],
)
def test_what_is_not_a_sound_record_is_refused(tmp_path, change, says):
    path = records.write(Record(result(), {}), tmp_path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(RecordError, match=says):
        records.read(path)


def test_who_is_trained_is_read_from_the_record(tmp_path):
    assert records.is_trained(result()) and not records.is_trained(result(trainer="ZeroshotCLIP"))
    assert not records.is_trained(result(trained=False))
    path = records.write(Record(result(trained=0), {}), tmp_path)
    with pytest.raises(RecordError, match="trained is 0, expected true or false"):
        records.read(path)


def test_runs_of_parts_are_their_accuracies_and_outcomes():
    a, b = accuracy(torch.tensor([True, False, True])), accuracy(torch.tensor([False, False, True]))
    runs = records.runs({2: b, 1: a}, trained=True)
    assert runs.seeds == (1, 2) and runs.images == 3 and runs.mean == pytest.approx(50)
    assert runs.matrix().tolist() == [[1, 0, 1], [0, 0, 1]]
    assert records.runs({1: a, 2: accuracy(torch.tensor([True]))}, trained=True).correct == {}
    without = {k: v for k, v in a.items() if k != "outcome"}
    assert records.runs({1: without, 2: b}, trained=True).correct == {}


def test_torn_json_is_refused(tmp_path):
    path = records.write(Record(result(), {}), tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(RecordError, match="not valid JSON"):
        records.read(path)
