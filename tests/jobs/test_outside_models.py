"""Models of others in a benchmark: which rows they have, and that a measurement goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from advpt.errors import BankMismatchError, ConfigError, ModelError
from advpt.evaluation import record as records
from advpt.jobs import outside_models
from advpt.jobs.outside_models import MeasuredModel, from_folder, measure, rows_of
from advpt.outside import card
from advpt.outside.model import OutsideModel
from advpt.results.index import RecordIndex
from tests.helpers import outside
from tests.helpers.outside import LooksAway, no_gradient, photos

NAME = "tests.helpers.outside:make"
QUICK = {"subset": 6, "some": 3, "settings": (("EVAL.QUERIES", "9"), ("EVAL.EOT", "1"), ("OPTIM.LR", "0.1"))}


class Benchmark:
    """Measures the models of the helpers on a few photos."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sets, self.lines = (
            folder,
            {"pictures": from_folder(photos(folder / "pictures", 3))},
            list[str](),
        )

    def measure(self, text: str = NAME, output: str = "out", banks: str = "banks", **changes) -> MeasuredModel:
        given = QUICK | {"attacks": ["pgd2-ce@4"]} | changes
        (made,) = measure(
            text,
            self.sets,
            given.pop("attacks"),
            self.folder / output,
            self.folder / banks,
            show=self.lines.append,
            **given,
        )
        return made


@pytest.fixture
def benchmark(tmp_path) -> Benchmark:
    return Benchmark(tmp_path)


def test_its_rows_stand_on_records_that_an_index_finds(benchmark):
    made = benchmark.measure()
    folder = made.run.folder
    assert folder == benchmark.folder / "out" / "outside" / "tests.helpers.outside-make" / "pictures"
    plain, own = made.rows
    assert (plain.tower, plain.prompt, plain.recorded, plain.against) == (NAME, "", "", None)
    assert (own.defense, own.recorded, own.against, own.runs) == ("its own", "its own", 0, (made.run.id,))
    index = RecordIndex({made.run.id: made.run})
    found = {(key.protocol, key.defense): record.result for key, record in index.of(made.run).items()}
    assert (
        found.keys() == {(p, d) for p in ("static", "pseudo", "adaptive") for d in ("", "its own")} and not index.notes
    )
    assert found["static", "its own"].images.n == 6 and found["adaptive", "its own"].images.n == 3
    assert {each.seed for each in found.values()} == {made.run.seed} and found["static", ""].dataset == made.dataset
    assert card.read(folder).name == NAME


def test_what_is_there_is_not_measured_again_and_what_is_not_is(benchmark, monkeypatch):
    first = benchmark.measure()
    before = {path: path.stat().st_mtime_ns for path in first.run.folder.rglob("*.json")}
    with monkeypatch.context() as patched:
        patched.setattr(outside_models, "examine", None)
        patched.setattr(outside_models, "evaluate", None)
        assert benchmark.measure() == first
    assert {path: path.stat().st_mtime_ns for path in first.run.folder.rglob("*.json")} == before
    assert [line.split()[0] for line in benchmark.lines] == ["measure", "done"]
    next(iter(first.run.folder.glob("records/*pseudo*"))).unlink()
    benchmark.measure()
    benchmark.measure(attacks=["pgd2-ce@2"])
    assert [line.split()[0] for line in benchmark.lines[2:]] == ["measure", "measure"]
    attacks = {records.read(path).result.attack.eps for path in first.run.folder.glob("records/*.json")}
    assert attacks == {2.0}, "records of other settings do not stay"
    for image in benchmark.folder.glob("pictures/*/*"):
        Image.open(image).point(lambda value: 255 - value).save(image)
    with pytest.raises(BankMismatchError):  # other images behind the same names: not done, and no bank of theirs
        benchmark.measure(attacks=["pgd2-ce@2"])


def test_two_models_of_one_name_do_not_share_a_folder(benchmark, monkeypatch):
    first = benchmark.measure()
    monkeypatch.setattr(outside.LeftHalf, "name", NAME, raising=False)
    with pytest.raises(ConfigError, match="has the records of tests.helpers.outside:make, and .* has the same name"):
        benchmark.measure("tests.helpers.outside:LeftHalf")
    assert len(list(first.run.folder.glob("records/*"))) == 6


def test_a_killed_measurement_ends_with_the_same_records(benchmark, monkeypatch):
    whole = benchmark.measure(output="whole", banks="whole_banks")
    calls, forward = [0], outside.LeftHalf.forward

    def until(pixels_left: int):
        def patched(self, pixels):
            calls[0] += 1
            if calls[0] > pixels_left:
                raise KeyboardInterrupt
            return forward(self, pixels)

        return patched

    for stop in (60, 110, 150):
        calls[0] = 0
        with monkeypatch.context() as patch:
            patch.setattr(outside.LeftHalf, "forward", until(stop))
            with pytest.raises(KeyboardInterrupt):
                benchmark.measure()
    again = benchmark.measure()
    ids = [{path.name: records.read(path).id for path in each.run.folder.glob("records/*")} for each in (whole, again)]
    assert len(ids[0]) == 6 and ids[0] == ids[1]


def test_a_model_without_a_gradient_has_adaptive_alone(benchmark, monkeypatch):
    monkeypatch.setattr(outside, "blind", OutsideModel(no_gradient, name="blind", size=12), raising=False)
    made = benchmark.measure("tests.helpers.outside:blind")
    assert made.left_out == ("blind under static, pseudo: it has no gradient, and Square alone attacks it",)
    assert [path.name for path in made.run.folder.glob("records/*")] == ["test_adaptive_pgd2-ce@4-a4_first3.json"]
    assert len(made.rows) == 1 and benchmark.measure("tests.helpers.outside:blind") == made
    assert benchmark.lines[-1].startswith("done")


def test_rows_behind_defenses_of_the_input():
    rows = rows_of(OutsideModel(LooksAway()), "run", ["noise", "low-pass"])
    inputs = ["", "noise:uniform", "low-pass:gaussian"]
    assert [row.recorded for row in rows] == [*inputs, "its own", *(f"{each}+its own" for each in inputs[1:])]
    assert [row.against for row in rows] == [None, 0, 0, 0, 1, 2]


def test_mistakes_are_sentences(benchmark):
    with pytest.raises(ConfigError, match="EVAL.EOT two: no such setting or value"):
        benchmark.measure(settings=(("EVAL.EOT", "two"),))
    with pytest.raises(ModelError, match="unknown name in tests.helpers.outside 'mak'"):
        benchmark.measure("tests.helpers.outside:mak")
    assert not (benchmark.folder / "out").exists() and torch.is_grad_enabled()
