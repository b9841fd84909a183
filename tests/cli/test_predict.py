"""The verb ``predict``."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from advpt.cli import main
from advpt.cli import predict as verb
from advpt.errors import StorageError
from advpt.model import load
from advpt.robustness import attack
from tests.helpers.saved_models import write_pictures, zero_shot_run

ROOT = Path(__file__).resolve().parents[2]
ATTACK, RANDOM = "pgd3-ce@8", "pgd1-ce@16/a4/uniform"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of zero-shot CLIP on digits."""
    return zero_shot_run(tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture
def call(run: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``call(words)``: exit status, standard output and standard error of the verb."""

    def made(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["predict", str(run), *map(str, words)])
        return status, *capsys.readouterr()

    return made


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# --- which images -----------------------------------------------------------------------------------------------


def test_files_folders_and_standard_input(call, run, tmp_path, monkeypatch):
    loose, *_ = write_pictures(tmp_path / "loose", 2)
    inside = write_pictures(tmp_path / "set" / "b", 2, seed=1) + write_pictures(tmp_path / "set" / "c", 1, seed=2)
    named = write_pictures(tmp_path / "named", 2, seed=3, name="a\nb {}.png")
    (tmp_path / "set" / "notes.txt").write_text("x")
    status, out, err = call(loose, tmp_path / "set", "--json")
    rows = objects(out)
    assert status == 0 and err == "" and [row["image"] for row in rows] == [str(path) for path in (loose, *inside)]
    model = load(run)
    for row, answer in zip(rows, model.predict([loose, *inside])):
        assert row["label"] == answer.label and row["confidence"] == pytest.approx(answer.confidence, abs=1e-5)
    for text, expected in (
        (f"{loose}\r\n\n{tmp_path / 'set'}\n", [loose, *inside]),
        ("\0".join(map(str, named)) + "\0", named),
    ):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
        status, out, err = call("-", "--json")
        assert status == 0 and [row["image"] for row in objects(out)] == [str(path) for path in expected]


def test_a_table_and_csv_have_the_same_answers(call, tmp_path):
    paths = write_pictures(tmp_path, 3, name="{},é\n.png")
    _, out, _ = call(*paths)
    lines = out.splitlines()
    assert len(lines) == 5 and r"0,é\n.png" in lines[2]
    _, text, _ = call(*paths, "--csv")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert all(f"{100 * float(row['confidence']):.1f} %" in line for row, line in zip(rows, lines[2:]))


def test_what_is_no_image_or_no_run_is_a_sentence(call, run, tmp_path, monkeypatch, capsys):
    (picture,) = write_pictures(tmp_path / "x", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    zero_shot_run(tmp_path / "runs" / "seed1", PRECISION="")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
    for words, sentence in (
        ((tmp_path / "empty",), "empty holds no image (.jpg, .png, ...); it has other files: notes.txt"),
        (("-",), "standard input names no image"),
        ((picture, "--batch", "0"), "--batch is 0"),
        ((picture, "--save-images", tmp_path / "s"), "add --attack"),
        ((picture, "--attack", "pdg40-ce@4"), "Did you mean 'pgd'"),
        ((picture, "--device", "gpu"), "--device gpu cannot be used"),
        ((picture, "--defense", "blur"), "unknown defense 'blur'"),
    ):
        status, out, err = call(*words)
        assert status == 2 and out == "" and sentence in err and err.startswith("error: "), err
    for folder, sentence in (
        (tmp_path / "none", "none does not exist; give the folder of a finished run"),
        (picture, "is a file; give the folder"),
        (tmp_path / "x", "holds no model"),
        (tmp_path, "is no run but has runs below it"),
    ):
        assert main(["predict", str(folder), str(picture)]) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)
    assert call("-")[0] == 2


# --- what cannot be read ----------------------------------------------------------------------------------------


# The library's command, which at its end copies what the kernel says of its process: its own peak, not its parent's,
# which the usage of a child counts.
WITH_ITS_STATUS = """
import atexit, pathlib, runpy, sys
status = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: status.write_text(pathlib.Path("/proc/self/status").read_text()))
runpy.run_module("advpt", run_name="__main__", alter_sys=True)
"""


def test_a_thousand_images_with_ten_damaged_ones(run, tmp_path):
    """990 answers, ten named, status 1, and less than 1 GiB of memory (torch with CUDA and torchvision take 0.8)."""
    paths = write_pictures(tmp_path / "set", 1000)
    for path in paths[5::100]:
        path.write_bytes(path.read_bytes()[:200])
    words = ["predict", str(run), str(tmp_path / "set"), "--json"]
    ended = subprocess.run(
        [sys.executable, "-c", WITH_ITS_STATUS, str(tmp_path / "status"), *words],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    answered = [row["image"] for row in objects(ended.stdout)]
    assert answered == [str(path) for path in paths if path not in paths[5::100]] and len(answered) == 990
    *named, total = ended.stderr.splitlines()
    assert total == "10 of 1,000 images could not be read"
    assert [line.split(" cannot be read")[0] for line in named] == [
        f"not read: the image {path}" for path in paths[5::100]
    ]
    peak = re.search(r"VmHWM:\s+(\d+) kB", (tmp_path / "status").read_text())
    assert peak and 2**18 < int(peak[1]) < 2**20, peak


def test_damaged_images_do_not_shift_the_rest(call, tmp_path):
    """Places in the list number saved files and seed attacks, damaged images or not."""
    paths = write_pictures(tmp_path / "set", 3)
    paths[1].write_bytes(b"")
    status, out, err = call(tmp_path / "set", "--attack", ATTACK, "--save-images", tmp_path / "s", "--batch", "2")
    assert status == 1 and "1 of 3 images could not be read" in err and "0001.png cannot be read" in err
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        f"{place:05d}-{place:04d}-{kind}.png" for place in (0, 2) for kind in ("attacked", "clean")
    ]
    status, out, err = call(paths[1])
    assert (status, out) == (1, "")
    status, out, err = call(paths[1], "--csv")
    assert status == 1 and out.splitlines() == ["image,label,confidence,runner_up,runner_up_confidence"]


# --- attacks ----------------------------------------------------------------------------------------------------


def test_the_batch_size_does_not_change_an_attack(call, run, tmp_path):
    paths = write_pictures(tmp_path / "set", 5)
    words = (*paths, "--json", "--attack", RANDOM, "--seed", "3")
    rows, others = (objects(call(*words, "--batch", size)[1]) for size in ("2", "5"))
    assert len(rows) == 5 and [row["attacked_label"] for row in rows] == [row["attacked_label"] for row in others]
    for row, other in zip(rows, others):
        assert row["attacked_confidence"] == pytest.approx(other["attacked_confidence"], abs=1e-4)
    model = load(run)
    pixels = torch.stack([model.preprocessing(Image.open(path)) for path in paths])
    labels = model(pixels).argmax(1)
    whole = attack(RANDOM, model, pixels, labels, seed=3)
    assert [row["attacked_confidence"] for row in rows] == pytest.approx(
        model.probabilities(whole).amax(1).tolist(), abs=1e-4
    )
    (moved,) = objects(call(paths[4], "--json", "--attack", RANDOM, "--seed", "3")[1])
    assert abs(moved["attacked_confidence"] - rows[4]["attacked_confidence"]) > 1e-4  # another place, other draws


def test_an_attack_that_looks_at_its_batch_gets_one_image(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(verb, "attack", lambda text, model, x, y, **how: seen.append((len(x), how["keys"])) or x)
    paths = write_pictures(tmp_path, 2)
    assert main(["predict", str(run), *map(str, paths), "--attack", "apgd-ce@4"]) == 0
    assert main(["predict", str(run), *map(str, paths), "--attack", ATTACK]) == 0
    assert seen == [(1, ["0"]), (1, ["1"]), (2, ["0", "1"])]


def test_saved_images_are_the_clean_one_and_the_rounded_attacked_one(call, run, tmp_path):
    paths = write_pictures(tmp_path / "set", 2, name="{} " + "é" * 60 + "\n.png")
    status, out, _ = call(*paths, "--attack", ATTACK, "--save-images", tmp_path / "s", "--json")
    rows, model = objects(out), load(run)
    assert status == 0 and len(rows) == 2
    for row, path in zip(rows, paths):
        clean, attacked = (model.preprocessing(Image.open(row[f"{kind}_file"])) for kind in ("clean", "attacked"))
        assert torch.equal(clean, model.preprocessing(Image.open(path)))
        change = (attacked - clean).abs().max() * 255
        assert 0 < change <= 8.001 and "\n" not in row["attacked_file"]
        (again,) = model.predict([row["attacked_file"]])
        assert (again.label, pytest.approx(again.confidence, abs=1e-5)) == (row["saved_label"], row["saved_confidence"])
        assert row["attacked_confidence"] != row["saved_confidence"]
    status, out, _ = call(*paths, "--attack", ATTACK, "--save-images", tmp_path / "s")
    assert f"{ATTACK} changes" in out and f"of 2 answers; both images of each are in {tmp_path / 's'}" in out


def test_rounding_is_to_the_nearest_level():
    levels = verb.eight_bits(torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 1.00001, -1e-6]))
    assert levels.tolist() == [0, 0, 1, 255, 255, 255, 0]


# --- ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, status", ((signal.SIGINT, 130), (signal.SIGTERM, 143)))
def test_a_stop_prints_what_was_answered(call, tmp_path, monkeypatch, number, status):
    paths = write_pictures(tmp_path, 5)
    paths[0].write_bytes(b"")
    original = verb.predictions

    def stopped(model, names, pixels):
        if names[0] == str(paths[4]):
            os.kill(os.getpid(), number)
        return original(model, names, pixels)

    monkeypatch.setattr(verb, "predictions", stopped)
    ended, out, err = call(*paths, "--batch", "2")
    assert ended == status and len(out.splitlines()) == 5
    assert "0000.png cannot be read" in err and err.splitlines()[-1] == "stopped after 4 of 5 images"


def test_what_was_answered_is_printed_where_the_disk_is_full(call, tmp_path, monkeypatch):
    paths = write_pictures(tmp_path, 3)
    original = verb.atomic_path

    def full(path):
        if "00002" in path.name:
            raise StorageError(f"{path} could not be written: no space left on device")
        return original(path)

    monkeypatch.setattr(verb, "atomic_path", full)
    status, out, err = call(*paths, "--batch", "1", "--attack", ATTACK, "--save-images", tmp_path / "s")
    assert status == 2 and len(out.splitlines()) == 4 and err.startswith("error: ") and "no space left" in err


def test_too_little_memory_names_the_option(call, tmp_path, monkeypatch):
    def large(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(verb, "predictions", large)
    status, _, err = call(*write_pictures(tmp_path, 1), "--batch", "7")
    assert status == 2 and "--batch 7 is too many images at a time (CUDA out of memory" in err


def test_a_reader_that_goes_away_ends_it(run, tmp_path, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:  # closing it writes once more what is left, as Python does at its end
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["predict", str(run), *map(str, write_pictures(tmp_path, 2)), "--json"]) == 0
    assert capsys.readouterr().err == ""
