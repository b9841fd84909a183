"""A run's folder belongs to its data: other, grown and moved data behind one command, names, and starts that fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from advpt.cli import main
from advpt.evaluation import record as records
from advpt.files import read_json

OWN = ("DATASET.NAME", "ImageFolder", "EVAL.ATTACKS", "('pgd2-fkl@8',)", "EVAL.PROTOCOLS", "('transfer',)")
RECORD = "test_transfer_pgd2-fkl@8-a5.json"


def pictures(folder: Path, names: str, n: int = 4, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for part, count in (("train", n), ("test", 2)):
        for name in names.split():
            for i in range(count):
                path = folder / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (18, 20, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def animals(workspace) -> Path:
    return pictures(workspace.folder / "animals", "fox owl sea")


@pytest.fixture
def birds(workspace) -> Path:
    return pictures(workspace.folder / "birds", "crow heron kite wren", seed=1)


def result(folder: Path, name: str = RECORD) -> dict:
    return records.read(folder / "records" / name).result.to_json()


def root(folder: Path, *more: str) -> tuple[str, ...]:
    return ("--root", str(folder), *more)


def test_other_data_with_the_same_command_are_refused_and_nothing_is_said_to_be_done(workspace, animals, birds):
    workspace.run(*OWN, flags=root(animals))
    before = {path: path.read_bytes() for path in workspace.output.glob("*/*") if path.is_file()}
    for more in ((), ("--skip-done",)):
        code, printed = workspace.call(*OWN, flags=root(birds, *more))
        assert code == 2 and "done already" not in printed and "Traceback" not in printed
        assert "it has 3 classes (fox, owl, sea), this run 4 (crow, heron, kite and 1 more)" in printed
        assert "Give another --output-dir" in printed
    assert all(path.read_bytes() == data for path, data in before.items())
    assert result(workspace.output)["clean"]["n"] == 6


def test_data_that_have_grown_are_other_data(workspace, animals):
    workspace.run(*OWN, flags=root(animals))
    shutil.copy(animals / "train/owl/0.png", animals / "train/owl/new.png")
    for more in ((), ("--skip-done",)):
        code, printed = workspace.call(*OWN, flags=root(animals, *more))
        assert code == 2, printed
        assert (
            "its train list has 12 images, that of this run 13; the first that differs is here train/owl/new" in printed
        )


def test_the_same_data_in_another_place_go_on(workspace, animals):
    workspace.run(*OWN, flags=root(animals))
    (workspace.folder / "moved").mkdir()
    shutil.move(animals, workspace.folder / "moved" / "image_folder")
    assert "done already" in workspace.run(*OWN, flags=root(workspace.folder / "moved", "--skip-done"))
    assert "epoch [" not in workspace.run(*OWN, flags=root(workspace.folder / "moved"))


def test_an_evaluation_belongs_to_its_data_and_says_what_was_tuned_on_others(workspace, animals, birds):
    workspace.run(*OWN, flags=root(animals))
    evaluate, out = ("--eval-only", "--model-dir", str(workspace.output)), workspace.folder / "eval"
    workspace.run(*OWN, flags=root(birds, *evaluate), output=out)
    tuned_on = result(out)["training"]["loaded"]["tuned_on"]
    assert (tuned_on["title"], tuned_on["classes"], tuned_on["images"]) == ("animals", 3, 12)
    assert "done already" in workspace.run(*OWN, flags=root(birds, *evaluate, "--skip-done"), output=out)
    code, printed = workspace.call(*OWN, flags=root(animals, *evaluate, "--skip-done"), output=out)
    assert code == 2 and "holds a run on other data" in printed
    workspace.run(*OWN, flags=root(animals, *evaluate), output=workspace.folder / "same")
    assert "tuned_on" not in result(workspace.folder / "same")["training"]["loaded"]


def test_sets_of_ones_own_have_folders_and_headings_of_their_own(workspace, animals, birds, monkeypatch, capsys):
    monkeypatch.chdir(workspace.folder)
    argv = workspace.argv(*OWN)
    at = argv.index("--output-dir")
    argv = argv[:at] + argv[at + 2 :]
    for folder in (animals, birds):
        assert train.main([*argv[: argv.index("--trainer")], *root(folder), *argv[argv.index("--trainer") :]]) == 0
    runs = [
        workspace.folder / f"output/{name}/AdvPT/tiny_allshots/nctx4_cscFalse_ctpend/seed1"
        for name in ("animals", "birds")
    ]
    assert [result(run)["dataset"] for run in runs] == ["animals", "birds"]
    assert [result(run)["clean"]["n"] for run in runs] == [6, 8]
    assert main(["report", "output"]) == 0
    printed = capsys.readouterr().out
    assert "animals, test split, 6 images, tiny" in printed and "birds, test split, 8 images, tiny" in printed
    workspace.run(*OWN, "DATASET.TITLE", "Feathers", flags=root(birds), output=workspace.folder / "named")
    assert (
        result(workspace.folder / "named")["dataset"] == "Feathers"
        and (workspace.folder / "banks/Feathers/tiny").is_dir()
    )
    code, printed = workspace.call(*OWN, "DATASET.TITLE", "../x", flags=root(birds), output=workspace.folder / "odd")
    assert code == 2 and "DATASET.TITLE is '../x'" in printed


def test_equal_names_of_files_and_classes_collide_in_the_banks_and_the_advice_fits(workspace, animals):
    twins = pictures(workspace.folder / "twins", "fox owl sea", seed=5)
    workspace.run(*OWN, flags=root(animals))
    code, printed = workspace.call(*OWN, flags=root(twins), output=workspace.folder / "second")
    assert code == 2 and "If these are other data" in printed and "DATASET.TITLE" in printed
    workspace.run(*OWN, "DATASET.TITLE", "twins", flags=root(twins), output=workspace.folder / "second")
    code, printed = workspace.call(*OWN, flags=root(twins, "--skip-done"))
    assert code == 2 and "the images of train have the same names and another content" in printed


def test_a_start_that_failed_does_not_claim_its_folder(workspace, animals):
    code, printed = workspace.call(*OWN, "OPTIM.LR", "0.5", flags=root(workspace.folder / "nowhere"))
    assert code == 2 and "does not exist" in printed
    code, printed = workspace.call(*OWN, "INPUT.SIZE", "(24, 24)", flags=root(animals))  # found when the bank is built
    assert code == 2 and "set INPUT.SIZE" in printed
    flags = root(animals, "--eval-only", "--model-dir", str(workspace.folder / "nowhere"))
    code, printed = workspace.call(*OWN, "OPTIM.LR", "0.7", flags=flags)
    assert code == 2 and "no checkpoint at" in printed
    workspace.run(*OWN, flags=root(animals))
    assert read_json(workspace.output / "config.json")["OPTIM.LR"] == 0.01
    code, printed = workspace.call(*OWN, "OPTIM.LR", "0.5", flags=root(animals))
    assert code == 2 and "OPTIM.LR: the folder has 0.01, this run 0.5" in printed


def test_several_seeds_that_failed_do_not_claim_their_folders(workspace, animals):
    def together(*more: str, at: Path) -> tuple[int, str]:
        words = workspace.argv(*OWN, *more, flags=root(at, "--seeds", "1,2"))
        seed = words.index("--seed")
        return workspace.call_words(words[:seed] + words[seed + 2 :])

    code, printed = together("OPTIM.LR", "0.5", at=workspace.folder / "nowhere")
    assert code == 2 and "does not exist" in printed
    code, printed = together(at=animals)
    assert code == 0, printed
    code, printed = together("OPTIM.LR", "0.5", at=animals)
    assert code == 2 and "OPTIM.LR: the folder has 0.01, this run 0.5" in printed


def test_resuming_another_runs_folder_takes_its_data_and_layout_into_account(workspace, animals, birds):
    workspace.run(*OWN, flags=root(animals))
    code, printed = workspace.call(
        *OWN, flags=root(birds, "--resume", str(workspace.output)), output=workspace.folder / "b"
    )
    assert code == 2 and "was tuned on other data: animals, 3 classes and 12 training images" in printed
    front = ("TRAINER.ADVPT.CLASS_TOKEN_POSITION", "front")
    code, printed = workspace.call(
        *OWN, *front, flags=root(animals, "--resume", str(workspace.output)), output=workspace.folder / "f"
    )
    assert code == 2 and "CLASS_TOKEN_POSITION end, this run has front" in printed


def test_whether_a_foreign_split_is_the_official_one_is_unknown(workspace, capsys):
    """TinyPhotos is written as other projects' data sets are: it has neither ``comparable`` nor ``split_digest``."""
    workspace.run("EVAL.ATTACKS", "()")
    found = result(workspace.output, "test_clean.json")
    assert found["comparable"] is None and len(found["split_digest"]) == 64
    assert main(["report", str(workspace.output)]) == 0
    assert "Whether this is the official split is unknown." in capsys.readouterr().out
    shutil.move(
        workspace.folder / "data/tiny_photos/test/owl/3.png", workspace.folder / "data/tiny_photos/test/owl/4.png"
    )
    workspace.run("EVAL.ATTACKS", "()", output=workspace.folder / "other")
    other = result(workspace.folder / "other", "test_clean.json")
    assert other["split_digest"] != found["split_digest"]
