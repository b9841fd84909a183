"""The verb ``verify``: sound runs of every kind pass, and each planted fault is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from advpt.cli import main
from advpt.evaluation import record as records
from advpt.evaluation.record import Accuracy
from advpt.files import digest, write_json
from tests.helpers.workspace import Workspace

SHORT = ("OPTIM.MAX_EPOCH", "1")
ATTACKS = ("EVAL.ATTACKS", "('pgd1-ce@4','pgd1-ce@8:transfer')")
SHALLOW = [word for node in ("ADVVPT", "TAPT") for leaf in ("DEPTH_TEXT", "DEPTH_VISION")
           for word in (f"TRAINER.{node}.{leaf}", "1")]  # fmt: skip
RUN = (
    *SHORT, *ATTACKS, "EVAL.DEFENSES", "('noise',)", "EVAL.DEFENSE_SEEDS", "2", "EVAL.EOT", "1", "EVAL.TEST_TIME",
    "('anti-adversaries',)", "EVAL.ADAPTIVE_SUBSET", "5", "EVAL.QUERIES", "3",
)  # fmt: skip


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Workspace:
    """A workspace with one trained run, behind a random defense of the input and one at test time."""
    made = Workspace(tmp_path_factory.mktemp("verify"), tiny_file)
    made.run(*RUN)
    return made


@pytest.fixture
def verify(space: Workspace, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``verify(words)``: exit status and what the verb prints, with the data of the workspace."""

    def made(*words: object, root: Path | None = None) -> tuple[int, str]:
        capsys.readouterr()
        status = main(["verify", "--root", str(root or space.folder / "data"), *map(str, words)])
        out, err = capsys.readouterr()
        return status, out + err

    return made


def copied(space: Workspace, folder: Path) -> Path:
    return Path(shutil.copytree(space.output, folder / "run"))


def edit(run: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the result of a record, and give it the id of what it is then."""
    path = run / "records" / f"{name}.json"
    data = json.loads(path.read_text())
    change(data["result"])
    data["id"] = digest(data["result"])
    write_json(path, data)
    return path


def observe(path: Path, **fields: Any) -> None:
    """Change what is observed beside a result; None: leave it out."""
    data = json.loads(path.read_text())
    data["observed"] = {key: each for key, each in (data["observed"] | fields).items() if each is not None}
    write_json(path, data)


def flipped(result: dict[str, Any], row: int, part: str = "robust") -> Accuracy:
    """The outcomes of a part of a record with one bit the other way."""
    bits = torch.from_numpy(records.from_json(Accuracy, result[part]).outcomes())
    bits[row] = ~bits[row]
    return Accuracy.of(bits)


def finding(printed: str, name: str) -> str:
    """The lines on a record."""
    head, _, tail = printed.partition(f"{name}.json")
    lines = tail.splitlines()[1:]
    end = next((i for i, line in enumerate(lines) if not line.startswith("    ")), len(lines))
    return "\n".join((head.splitlines()[-1][:9], *lines[:end]))


# --- sound runs -----------------------------------------------------------------------------------------------------


def test_a_sound_run_agrees_and_is_as_it_was(space, verify):
    before = {path: path.read_bytes() for path in space.output.rglob("*") if path.is_file()}
    status, printed = verify(space.output)
    n = len(list((space.output / "records").glob("*.json")))
    assert status == 0 and n == 9, printed
    assert f"{n} records agree bit by bit, 0 but for images near the boundary, 0 differ, 0 cannot be checked" in printed
    assert before == {path: path.read_bytes() for path in space.output.rglob("*") if path.is_file()}
    assert "not compared: training" in printed


@pytest.mark.parametrize(
    ("trainer", "more"),
    [
        ("ZeroshotCLIP", ()),
        ("CoCoOp", SHORT),
        ("LinearProbe", ("TRAINER.LINEARPROBE.C", "1.0")),
        ("TeCoA", (*SHORT, "TRAINER.TECOA.ATTACK", "pgd1-ce@2", "EVAL.PROTOCOLS", "('static','untuned')")),
    ],
)
def test_runs_of_every_kind(space, verify, tmp_path, trainer, more):
    space.run(*ATTACKS, *more, trainer=trainer, output=tmp_path / "run")
    status, printed = verify(tmp_path / "run")
    assert status == 0 and " 0 differ, 0 cannot" in printed, printed


def test_tuning_at_test_time_and_a_result_set_that_moved(space, verify, tmp_path):
    """The evaluation names its run by a path that is not there any more; beside it, it is found."""
    then, now = tmp_path / "then", tmp_path / "now"
    space.run(*SHALLOW, *SHORT, "EVAL.ATTACKS", "()", trainer="AdvVPT", output=then / "adv")
    words = (*SHALLOW, "TRAINER.TAPT.VIEWS", "4", "TRAINER.TAPT.RHO", "0.5", "TRAINER.TAPT.ALPHA", "1", "EVAL.EOT", "1",
             "EVAL.ATTACKS", "('pgd1-ce@8:static','pgd1-ce@8:tuned','pgd1-ce@8:adaptive')")  # fmt: skip
    flags = ("--eval-only", "--model-dir", str(then / "adv"))
    space.run(*words, trainer="TAPTV", output=then / "tapt", flags=flags)
    then.rename(now)
    status, printed = verify(now)
    assert status == 0 and "7 records agree bit by bit" in printed, printed
    shutil.rmtree(now / "adv")
    status, printed = verify(now)
    assert status == 1 and f"it is an evaluation of the run {then / 'adv'}, which is not there any more" in printed


def test_a_copied_run_and_weights_elsewhere(space, verify, tmp_path, tiny_file, monkeypatch):
    run, name = copied(space, tmp_path), "test_transfer_pgd1-ce@4-a4"
    config = run / "config.json"
    config.write_text(config.read_text().replace(str(tiny_file), "/nowhere/tiny.pt"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    record = run / "records" / f"{name}.json"
    status, printed = verify(record)
    assert (
        status == 1 and "MODEL.WEIGHTS /nowhere/tiny.pt is not there any more; name its place with --weights" in printed
    )
    status, printed = verify(record, "--weights", tiny_file)
    assert status == 0 and "1 record agrees bit by bit" in printed, printed


def test_the_first_images_in_whole_batches(space, verify):
    names = ("test_transfer_pgd1-ce@4-a4_noise-uniform", "test_adaptive_pgd1-ce@4-a4_anti-adversaries-sound_first5")
    status, printed = verify(*(space.output / "records" / f"{name}.json" for name in names), "--images", 3)
    assert status == 0 and "the first 4 of 12 images, bit by bit" in printed, printed  # BANK.CHUNK is 4
    assert "the first 4 of 5 images" in printed
    assert "attacks on the images that those before left correct had other images beside them" in printed


# --- planted faults ---------------------------------------------------------------------------------------------------


def test_each_planted_fault_is_found_in_its_record_alone(space, verify, tmp_path):
    run = copied(space, tmp_path)

    def bit(result):
        result["robust"] |= {"outcome": flipped(result, 5).outcome}

    def consistent_bit(result):
        made = flipped(result, 2)
        result["robust"] |= {
            "outcome": made.outcome, "accuracy": made.accuracy, "correct": made.correct,
            "interval95": list(made.interval95),
        }  # fmt: skip

    faults = {
        "test_transfer_pgd1-ce@8-a8": bit,
        "test_adaptive_pgd1-ce@4-a4_noise-uniform_first5": lambda r: r["robust"].update(bank="0" * 64),
        "test_adaptive_pgd1-ce@4-a4_first5": lambda r: r["robust"].update(accuracy=r["robust"]["accuracy"] + 5),
        "test_transfer_pgd1-ce@4-a4": lambda r: r["attack"].update(spec="pgd1-ce@2/a2", asked="pgd1-ce@2/a2", eps=2.0),
        "test_transfer_pgd1-ce@4-a4_anti-adversaries-sound": consistent_bit,
        "test_transfer_pgd1-ce@8-a8_anti-adversaries-sound": lambda r: r["robust"].update(untouched=25.0),
        "test_adaptive_pgd1-ce@4-a4_anti-adversaries-sound_first5": lambda r: r["robust"]["parts"][1].update(
            accuracy=12.0
        ),
    }
    sound = "test_transfer_pgd1-ce@4-a4_noise-uniform"
    for path in (run / "records").glob("*.json"):
        if path.stem not in {*faults, sound}:
            path.unlink()
    for name, change in faults.items():
        edit(run, name, change)
    status, printed = verify(run)
    assert status == 1, printed
    lines = {name: finding(printed, name) for name in faults}
    assert all(text.startswith("DIFFERS") for text in lines.values()), printed
    names = list(faults)
    image = "tiny_photos/test/owl/1.png"
    assert "robust.correct: the record has" in lines[names[0]] and f"robust outcome of {image}" in lines[names[0]]
    assert "robust.bank: the record has '000000" in lines[names[1]]
    assert "robust.accuracy: the record has" in lines[names[2]] and "its outcome bits give" in lines[names[2]]
    assert "its file's name" in lines[names[3]] and "EVAL.PROTOCOLS of its config ask for" in lines[names[3]]
    assert "an evaluation of its settings has no attack pgd1-ce@2/a2 under transfer" in lines[names[3]]
    assert "robust outcome of tiny_photos/test/red_fox/2.png: the record has" in lines[names[4]]
    assert "robust.untouched: the record has 25.0, made anew it is 0.0" in lines[names[5]]
    assert "robust.parts[1].accuracy: the record has 12.0, its own correct and n give" in lines[names[6]]
    assert finding(printed, sound).startswith("agrees"), printed
    assert "1 record agrees bit by bit, 0 but for images near the boundary, 7 differ" in printed


def test_a_record_that_was_changed_and_settings_of_another_run(space, verify, tmp_path):
    run, name = copied(space, tmp_path), "test_transfer_pgd1-ce@4-a4"
    path = run / "records" / f"{name}.json"
    path.write_text(path.read_text().replace('"shots": -1', '"shots": 1'))
    status, printed = verify(path)
    assert status == 1 and "was changed after it was written (its id does not match)" in printed
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", config | {"OPTIM.LR": 0.5})
    status, printed = verify(run / "records" / "test_transfer_pgd1-ce@8-a8.json")
    assert status == 1 and "config.OPTIM.LR: the record has 0.01, config.json beside it has 0.5" in printed


def test_another_prompt_in_the_run_is_named_and_nothing_is_attacked(space, verify, tmp_path):
    run = copied(space, tmp_path)
    more = ("OPTIM.WARMUP_EPOCH", "-1", "OPTIM.LR", "5.0", "EVAL.ATTACKS", "()")
    space.run(*SHORT, *more, output=tmp_path / "other")
    shutil.copytree(tmp_path / "other" / "prompt_learner", run / "prompt_learner", dirs_exist_ok=True)
    path = run / "records" / "test_transfer_pgd1-ce@4-a4.json"
    status, printed = verify(path)
    assert status == 1 and "observed.learned: the record has" in printed and "not attacked" in printed
    observe(path, learned=None)  # as records were before
    status, printed = verify(path)
    assert status == 1 and "prompt: the record has" in printed and "the prompt in the run's folder is" in printed
    observe(path, versions={"torch": "2.0"})  # the text features may differ in their last digits: outcomes decide
    status, printed = verify(path)
    assert status == 1 and "clean outcome of" in printed and "not attacked" not in printed, printed


def test_the_same_prompt_on_another_processor(space, verify, tmp_path):
    path = copied(space, tmp_path) / "records" / "test_transfer_pgd1-ce@4-a4.json"
    edit(path.parents[1], path.stem, lambda result: result.update(prompt="1" * 64))
    status, printed = verify(path)
    assert status == 1 and "prompt: the record has" in printed and "not attacked" in printed
    observe(path, versions={"torch": "2.0"})
    status, printed = verify(path)
    assert status == 0 and "have other last digits here" in printed, printed
    edit(path.parents[1], path.stem, lambda result: result["robust"].update(bank="none"))  # no hash
    assert verify(path)[0] == 1


def test_another_image_behind_the_same_name(space, verify, tmp_path, monkeypatch):
    root, name = Path(shutil.copytree(space.folder / "data", tmp_path / "data")), "tiny_photos/test/owl/1.png"
    record = space.output / "records" / "test_transfer_pgd1-ce@4-a4.json"
    Image.open(root / name).rotate(90).save(root / name)
    status, printed = verify(record, root=root)
    assert status == 1 and f"another image behind the same name: {name}" in printed, printed
    monkeypatch.chdir(space.folder)  # where its banks are, with the hash of every file
    status, printed = verify(record, root=root)
    assert status == 1 and f"another image behind the same name: {name} (1 of 12 files)" in printed, printed
    (root / name).unlink()
    status, printed = verify(record, root=root)
    assert status == 1 and "images.n: the record has 12, the list of images here has 11" in printed
    assert (
        "folder: its test list has 12 images, that of this run 11; the first that differs is here test/owl/2" in printed
    )


def test_mistakes_are_sentences(verify, tmp_path):
    status, printed = verify(tmp_path)
    assert status == 2 and f"no records below {tmp_path}" in printed
    status, printed = verify(tmp_path / "none.json")
    assert status == 2 and "does not exist" in printed
    (tmp_path / "one.json").write_text("{}")
    status, printed = verify(tmp_path / "one.json", "--images", "some")
    assert status == 2 and "--images is 'some'" in printed
