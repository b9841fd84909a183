"""Records: what is written is what is read, and nothing else is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advpt import additions
from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation.record import Accuracy, BackboneFacts, Record, TrainingFacts, TrainingTimes
from advpt.files import digest
from advpt.schema import FieldError, to_json
from advpt.tuning.test_time import TuningConfig
from tests.helpers.records import accuracy, outcome

PART = accuracy(torch.tensor([True, True, True]))
PART = accuracy(torch.tensor([True, True, True]))
V1 = sorted((Path(__file__).parents[1] / "v1" / "run" / "records").glob("*.json"))


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
    record = Record.from_json(result(), {"seconds": 1.0})
    path = records.write(record, tmp_path)
    assert path.name == "test_transfer_pgd40-fkl@16-a0.5.json"
    back = records.read(path)
    assert back.result.to_json() == record.result.to_json() and back.id == record.id and back.path == path
    clean = Record.from_json(result(attack=None, protocol=None, robust=None), {})
    assert records.write(clean, tmp_path).name == "test_clean.json"
    defended = Record.from_json(result(defenses=["rescale"]), {})
    assert records.write(defended, tmp_path) != path


def test_the_id_is_of_the_result_alone(tmp_path):
    assert Record.from_json(result(), {"seconds": 1.0}).id == Record.from_json(result(), {"seconds": 2.0}).id
    assert Record.from_json(result(), {}).id != Record.from_json(result(seed=2), {}).id


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d | {"schema": 99}, "schema 99"),
        (lambda d: d | {"result": {}}, "dataset is missing"),
        (lambda d: [1], "schema list"),
        (lambda d: d | {"result": d["result"] | {"seed": 7}}, "changed after it was written"),
    ],
)
def test_what_is_not_a_sound_record_is_refused(tmp_path, change, says):
    path = records.write(Record.from_json(result(), {}), tmp_path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(RecordError, match=says):
        records.read(path)


def test_who_is_trained_is_read_from_the_record():
    def made(**changes):
        return Record.from_json(result(**changes), {}).result

    assert made().trained is None and made().is_trained and not made(trainer="ZeroshotCLIP").is_trained
    assert not made(trained=False).is_trained
    with pytest.raises(FieldError, match="trained is 0, expected true, false or null"):
        made(trained=0)


@pytest.mark.parametrize("path", V1, ids=[path.stem for path in V1])
def test_a_record_of_version_1_is_written_as_it_was_read(path, tmp_path):
    """Byte for byte, whatever fields came since."""
    record = records.read(path)
    assert record.id == digest(record.result.to_json()) == json.loads(path.read_text())["id"]
    assert records.write(record, tmp_path).read_bytes() == path.read_bytes()


def test_fields_that_came_later_have_the_defaults_of_the_one_table():
    classes = {"backbone": BackboneFacts, "training": TrainingFacts, "tuning": TuningConfig}
    for name, default in additions.RESULT_FIELDS.items():
        part, _, field = name.partition(".")
        assert classes[part].__dataclass_fields__[field].default == default


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": True}, "seed is True, expected a whole number"),
        ({"trained": 0}, "trained is 0, expected true, false or null"),
        (
            {"clean": PART | {"accuracy": 130}},
            "clean.accuracy is 130, expected a number from",
        ),
        ({"clean": PART | {"n": 30}}, "clean.outcome is .*, expected one bit for each of 30"),
        (
            {"clean": PART | {"interval95": [1]}},
            r"clean.interval95 is \[1\], expected a list of 2",
        ),
        ({"images": {"digest": 3}}, "images.digest is 3, expected a text"),
        ({"warnings": ["a", 1]}, r"warnings\[1\] is 1, expected a text"),
        ({"attack": None}, "attack is None .*, expected both or neither"),
        ({"protocol": None}, "protocol is None, expected a text beside an attack"),
        ({"backbone": {}}, "backbone.name is missing"),
        ({"training": {"curve": [{"epoch": 1, "clean": 3}]}}, r"training.curve\[0\].clean is 3, expected an object"),
        ({"words": {"trained": 1}}, "words.trained is 1, expected an object"),
    ],
)
def test_a_field_that_is_not_sound_is_named_with_what_was_expected(tmp_path, changes, sentence):
    unsound, path = result(**changes), tmp_path / "x.json"
    path.write_text(json.dumps({"schema": 1, "id": digest(unsound), "result": unsound, "observed": {}}))
    with pytest.raises(RecordError, match=f"x.json is not a sound record: {sentence}"):
        records.read(path)


def test_the_wall_clock_includes_the_training_input():
    times = TrainingTimes(before=5.0, epochs=(1.0, 2.0))
    assert times.until(2) == 8.0 and times.until(0) == 5.0
    assert TrainingTimes(epochs=(1.0,)).until(1) is None and times.until(3) is None


def test_what_only_one_attack_or_trainer_has_is_kept(tmp_path):
    attack = {"spec": "rap8@4", "eps_n": 2.0, "late_start": 3}
    path = records.write(Record.from_json(result(attack=attack, training={"c": 0.5}), {"tuning": {"x": 1}}), tmp_path)
    back = records.read(path)
    assert back.result.attack.parameters == {"eps_n": 2.0, "late_start": 3} and back.result.training.details["c"] == 0.5
    assert to_json(back.observed) == {"tuning": {"x": 1}}


def test_runs_of_parts_are_their_accuracies_and_outcomes():
    a, b = Accuracy.of(torch.tensor([True, False, True])), Accuracy.of(torch.tensor([False, False, True]))
    runs = records.runs({2: b, 1: a}, trained=True)
    assert runs.seeds == (1, 2) and runs.images == 3 and runs.mean == pytest.approx(50)
    assert runs.matrix().tolist() == [[1, 0, 1], [0, 0, 1]]
    assert records.runs({1: a, 2: Accuracy.of(torch.tensor([True]))}, trained=True).correct == {}
    without = dataclasses.replace(a, outcome=None)
    assert records.runs({1: without, 2: b}, trained=True).correct == {}


def test_torn_json_is_refused(tmp_path):
    path = records.write(Record.from_json(result(), {}), tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(RecordError, match="not valid JSON"):
        records.read(path)


def test_a_process_asks_for_its_revision_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        records.subprocess, "run", lambda *words, **how: calls.append(words) or SimpleNamespace(stdout="a\n")
    )
    records.revision.cache_clear()
    try:
        assert [records.observe(1.0, torch.device("cpu")).revision for _ in range(3)] == 3 * ["a"] and len(calls) == 1
    finally:
        records.revision.cache_clear()
