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


def test_torn_json_is_refused(tmp_path):
    path = records.write(Record(result(), {}), tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(RecordError, match="not valid JSON"):
        records.read(path)
