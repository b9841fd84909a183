"""TAME through ``train.py``: pre-training, statistics, tuning at test time, its rows, attackers and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from dassl.engine import TRAINER_REGISTRY

import advpt
from advpt.bank.statistics import FOLDER as STATISTICS
from advpt.cli import main
from advpt.errors import WeightsError
from tests.helpers.peers import DEEP
from tests.helpers.trainers import registered_trainers
from tests.helpers.workspace import Workspace, write_weights
from tests.trainers.test_tapt import records
from trainers.tame import MixtureTestTimeTrainer, TAMESettings

DESIGNS = {name: TRAINER_REGISTRY.get(name).trained_by for name in registered_trainers(MixtureTestTimeTrainer)}
SHALLOW = [word for node in ("ADVVPTMOE", "ADVIVLPMOE", "TAME") for leaf in ("DEPTH_TEXT", "DEPTH_VISION")
           for word in (f"TRAINER.{node}.{leaf}", "3")]  # fmt: skip
QUICK = ("TRAINER.TAME.VIEWS", "8", "TRAINER.TAME.RHO", "0.5", "EVAL.EOT", "1", "EVAL.SUBSET", "4")
STATIC = ("EVAL.ATTACKS", "('pgd2-ce@8:static',)")
ATTACKS = "('pgd2-ce@8:static','pgd2-ce@8:tuned','pgd2-ce@8:adaptive')"


@pytest.fixture(scope="module")
def deep_file(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "deep.pt", DEEP)


@pytest.fixture
def workspace(tmp_path, deep_file) -> Workspace:
    return Workspace(tmp_path, deep_file)


def pretrain(workspace: Workspace, trainer: str) -> tuple[Path, Path]:
    """The runs that are tuned on attacked and on clean images."""
    folders = workspace.folder / "adv", workspace.folder / "clean"
    for folder, loss in zip(folders, ("adv_half", "clean")):
        workspace.run(
            *SHALLOW, "OPTIM.MAX_EPOCH", "1", "OPTIM.LR", "0.5", "OPTIM.WARMUP_EPOCH", "-1", "EVAL.ATTACKS", "()",
            f"TRAINER.{DESIGNS[trainer].upper()}.LOSS", loss, trainer=DESIGNS[trainer], output=folder,
        )  # fmt: skip
    return folders


def test_designs_and_defaults() -> None:
    assert DESIGNS == {"TAMEV": "AdvVPTMoE", "TAMEVLI": "AdvIVLPMoE"}
    settings = TAMESettings()
    tuning = settings.tuning(settings.context("independent"), 12)
    assert (tuning.views, tuning.lr, tuning.alpha, tuning.decay) == (256, 5e-3, 0.575, 5e-4)
    assert (tuning.blocks, tuning.variance, tuning.precision) == ((0, 1, 2, 3, 4, 5), "biased", "fp32")
    assert tuning.align_weight == pytest.approx(13.25 / 6) and settings.depth_vision == 9
    small = settings.tuning(settings.context("independent"), 4)
    assert small.blocks == (0, 1, 2, 3) and small.align_weight == pytest.approx(13.25 / 4)
    released = TAMESettings(profile="released").tuning(settings.context("independent"), 12)
    assert (released.precision, released.source, released.crops) == ("amp", "file", "random")


@pytest.mark.parametrize("trainer", DESIGNS)
def test_from_pre_training_to_records(workspace, trainer):
    adv, clean = pretrain(workspace, trainer)
    words = (*SHALLOW, *QUICK, "TRAINER.TAME.CLEAN_RUN", str(clean), "EVAL.ATTACKS", ATTACKS)
    flags = ("--eval-only", "--model-dir", str(adv))
    printed = workspace.run(*words, trainer=trainer, output=workspace.folder / "tame", flags=flags)
    assert "tame" in printed
    assert len(list(workspace.folder.glob(f"banks/*/*/{STATISTICS}/*/manifest.json"))) == 2
    made = records(workspace.folder / "tame")
    assert {(p, d) for p, _, d in made if p} == {(p, d) for p in ("static", "tuned", "adaptive") for d in ("tame", "")}
    assert made["adaptive", "pgd", "tame"]["note"] == (
        "every gradient a mean over 1 draws of views; smoothed gradient through the tuning"
    )
    tuning = made["static", "pgd", "tame"]["tuning"]
    assert tuning["decay"] == 5e-4 and len(set(tuning["statistics"].values())) == 2
    assert "not what is done to it at test time" in made["static", "pgd", "tame"]["attacker_knows"]
    if trainer == "TAMEVLI":
        return
    again = workspace.folder / "again"
    workspace.run(*words, "TRAINER.TAME.FREEZE", "('gate',)", *STATIC, trainer=trainer, output=again, flags=flags)
    other = records(again)
    assert other["static", "pgd", "tame"]["tuning"]["frozen"] == ["gate"]
    banks = [each["static", "pgd", "tame"]["robust"]["bank"] for each in (made, other)]
    assert banks[0] != banks[1] and made["static", "pgd", ""]["robust"] == other["static", "pgd", ""]["robust"]
    with pytest.raises(WeightsError, match=f"holds no model.*it is an evaluation of {adv}: load that"):
        advpt.load(again)


def test_statistics_by_command_and_refusals(workspace, capsys, monkeypatch):
    monkeypatch.setenv("ADVPT_DATA", str(workspace.folder / "data"))
    adv, _ = pretrain(workspace, "TAMEV")
    assert main(["statistics", str(adv), "--banks", str(workspace.folder / "banks")]) == 0
    assert "statistics of 15 images in " in capsys.readouterr().out
    flags = ("--eval-only", "--model-dir", str(adv))
    for more, message in (
        ((), "TRAINER.TAME.CLEAN_RUN (--trainer AdvVPTMoE ... TRAINER.ADVVPTMOE.LOSS clean makes one)"),
        (("TRAINER.TAME.FREEZE", "('gates',)"), "Did you mean 'gate'"),
        (("TRAINER.TAME.EXPERTS", "2"), "EXPERTS 5, this run has 2"),
        (("TRAINER.TAME.BLOCKS", "(7,)"), "TRAINER.TAME.BLOCKS is (7,)"),
        (("TRAINER.TAME.PROFILE", "paper"), "PROFILE"),
    ):
        code, printed = workspace.call(
            *SHALLOW, *QUICK, *more, trainer="TAMEV", output=workspace.folder / "no", flags=flags
        )
        assert code == 2 and message in printed and "Traceback" not in printed, printed
    code, printed = workspace.call(*SHALLOW, trainer="TAMEVLI")
    assert code == 2 and "--trainer AdvIVLPMoE" in printed
