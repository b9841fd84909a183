"""AdvPT in checkouts of other repositories, by the words of docs/checkouts.md alone."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from advpt.cli import main
from advpt.evaluation import record as records
from tests.helpers.host_checkouts import HOSTS, write, write_pets
from tests.helpers.workspace import ROOT

PAGE = ROOT / "docs" / "checkouts.md"
SECTION = PAGE.read_text(encoding="utf-8").split("\n## ")[0]
BLOCKS = [textwrap.dedent(block).strip() for block in re.findall(r"(?:^ {4}.*\n)+", SECTION, flags=re.MULTILINE)]
# Instead of 86 M parameters, 16 shots and 100 epochs; and where the data lie.
SMALL = ("MODEL.BACKBONE.NAME", "tiny", "INPUT.SIZE", "(16,16)", "OPTIM.MAX_EPOCH", "2", "TRAIN.CHECKPOINT_FREQ", "1",
         "BANK.ATTACK", "pgd2-fkl@8", "EVAL.ATTACKS", "('pgd2-fkl@16',)", "EVAL.PROTOCOLS", "('transfer','adaptive')",
         "TRAINER.ADVPT.N_CTX", "4", "DATALOADER.NUM_WORKERS", "0")  # fmt: skip


def shell(command: str, folder: Path) -> str:
    python = f'python() {{ "{sys.executable}" "$@"; }}; set -e; '
    env = {name: value for name, value in os.environ.items() if name != "ADVPT_DATA"} | {"OMP_NUM_THREADS": "1"}
    words = ["bash", "-c", python + command]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def code(word: str) -> str:
    """A line of Python that the section says to add."""
    (line,) = re.findall(rf"`({re.escape(word)})`", SECTION)
    return line


def edited(train_py: str) -> str:
    """Their train.py with the two lines that the section names, where it says."""
    imported, extend = code("import trainers.advpt"), code("trainers.advpt.extend_cfg(cfg)")
    train_py, n = re.subn(r"(^import trainers\.\w+\n)(?!import trainers)", rf"\g<1>{imported}\n", train_py, flags=re.M)
    assert n == 1
    train_py, n = re.subn(r"(^def extend_cfg\(cfg\):\n(?:(?: {4}.*)?\n)*? {4}.*\n)(?=\n\n\w)", rf"\g<1>    {extend}\n",
                          train_py, flags=re.M)  # fmt: skip
    assert n == 1
    return train_py


def follow_page(checkout: Path, config: str = "vit_b16") -> None:
    """Everything the section says to do before the first run; the installation is the test environment's."""
    install, *commands = BLOCKS[0].splitlines()
    assert install.startswith("pip install .")
    shell("\n".join(commands).replace("CHECKOUT", str(checkout)).replace("vit_b16", config), ROOT)
    train_py = checkout / "train.py"
    train_py.write_text(edited(train_py.read_text()))


def settings(*words: str) -> str:
    return " " + " ".join(f'"{word}"' for word in words)


def ctx(checkout: Path, file: str) -> torch.Tensor:
    path = checkout / "output/advpt/prompt_learner" / file
    return torch.load(path, weights_only=True)["state_dict"]["ctx"]


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTS)
def test_advpt_trains_saves_resumes_and_tests(name, tmp_path, tiny_file, capsys):
    checkout, small = (
        tmp_path / name,
        settings(*SMALL, "MODEL.WEIGHTS", str(tiny_file), "MODEL.ACTIVATION", "quickgelu"),
    )
    write(checkout, HOSTS[name])
    write_pets(tmp_path / "data")
    follow_page(checkout)
    before = {path: path.read_bytes() for path in checkout.glob("clip/*.py")}
    command = BLOCKS[1].replace("DATA ", f"{tmp_path / 'data'} ") + small

    printed = shell(command, checkout)
    assert "epoch [2/2]" in printed and "Finish training" in printed
    accuracy = re.findall(r"^\* (?:robust_)?accuracy: .*$", printed, flags=re.M)
    assert len(accuracy) == 2 and accuracy[-1].startswith("* robust_accuracy")
    assert "2 record(s) in output/advpt/records (" in printed
    found = [records.read(path).result.to_json() for path in sorted(checkout.glob("output/advpt/records/*.json"))]
    assert {r["protocol"] for r in found} == {"transfer", "adaptive"}
    assert all(r["dataset"] == "OxfordPets" and r["shots"] == 16 and r["seed"] == 1 for r in found)
    learned = ctx(checkout, "model.pth.tar-2")

    # stopped after the first epoch: the same command continues, and ends with the same prompt
    folder = checkout / "output/advpt/prompt_learner"
    (folder / "model.pth.tar-2").unlink()
    (folder / "checkpoint").write_text("model.pth.tar-1\n")
    printed = shell(command, checkout)
    assert "epoch [2/2]" in printed and "epoch [1/2]" not in printed
    assert torch.equal(ctx(checkout, "model.pth.tar-2"), learned)
    assert re.findall(r"^\* (?:robust_)?accuracy: .*$", printed, flags=re.M) == accuracy

    (flags,) = re.findall(r"`(--eval-only[^`]*)`", SECTION)
    printed = shell(command.replace(" DATASET.NUM_SHOTS", f" {flags} DATASET.NUM_SHOTS"), checkout)
    assert "epoch [" not in printed and re.findall(r"^\* (?:robust_)?accuracy: .*$", printed, flags=re.M) == accuracy
    assert "2 record(s) in output/advpt_again/records (" in printed
    (report,) = re.findall(r"`(python -m advpt report CHECKOUT[^`]*)`", SECTION)
    python, m, advpt, *words = shlex.split(report.replace("CHECKOUT", str(checkout)))
    assert (python, m, advpt) == ("python", "-m", "advpt") and main(words) == 0
    assert "OxfordPets, test split, 12 images, tiny" in capsys.readouterr().out

    # their own trainer is what it was, on their own clip
    own = HOSTS[name].trainer
    theirs = command.replace(small, "").replace("AdvPT", own).replace("output/advpt", "output/own")
    printed = shell(theirs, checkout)
    assert f"Loading the CLIP of this checkout: {own} [1]" in printed and "* accuracy: " in printed
    assert {path: path.read_bytes() for path in checkout.glob("clip/*.py")} == before


def test_the_embedded_default_needs_no_download_there_either(tmp_path):
    write(tmp_path / "host", HOSTS["MaPLe"])
    write_pets(tmp_path / "data")
    assert "`democlip`, which needs no download" in SECTION
    follow_page(tmp_path / "host", "democlip")
    quick = settings("OPTIM.MAX_EPOCH", "1", "BANK.ATTACK", "pgd1-fkl@4", "EVAL.ATTACKS", "('pgd1-fkl@8',)")
    command = BLOCKS[1].replace("DATA ", f"{tmp_path / 'data'} ").replace("vit_b16", "democlip") + quick
    printed = shell(command, tmp_path / "host")
    assert "epoch [1/1]" in printed and "* robust_accuracy: " in printed
    (path,) = (tmp_path / "host/output/advpt/records").glob("*transfer*.json")
    assert records.read(path).result.backbone.name == "DemoCLIP"


def test_without_the_second_line_the_error_says_what_to_add(tmp_path, tiny_file):
    write(tmp_path / "host", HOSTS["CoOp"])
    write_pets(tmp_path / "data")
    shutil.copy(ROOT / "trainers/advpt.py", tmp_path / "host/trainers")
    train_py = tmp_path / "host/train.py"
    imports = "import trainers.coop\n"
    train_py.write_text(train_py.read_text().replace(imports, imports + "import trainers.advpt\n"))
    words = [sys.executable, "train.py", "--root", "../data", "--trainer", "AdvPT", "--dataset-config-file",
             "configs/datasets/oxford_pets.yaml", "--config-file", "configs/trainers/CoOp/vit_b16.yaml"]  # fmt: skip
    done = subprocess.run(words, cwd=tmp_path / "host", capture_output=True, text=True, check=False)
    assert "AdvPT has no settings: the configuration lacks ADVPT" in done.stderr, done.stderr
    assert "trainers.advpt.extend_cfg(cfg) at the end of extend_cfg" in done.stderr
