"""TAPT through ``train.py``: pre-training, statistics, tuning at test time, its rows, attackers and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dassl.engine import TRAINER_REGISTRY

import train
from advpt.backbones.clip import build
from advpt.bank.statistics import FOLDER as STATISTICS
from advpt.cli import main
from advpt.detectors import UNTUNED
from advpt.evaluation import record
from advpt.tuning.tapt import TAPT
from tests.helpers.autoattack import shorten
from tests.helpers.records import outcome
from tests.helpers.trainers import registered_trainers
from tests.helpers.workspace import TINY, Workspace
from trainers.tapt import TestTimeTrainer

TRAINERS = {name: TRAINER_REGISTRY.get(name) for name in registered_trainers(TestTimeTrainer)}
DESIGNS = {name: kind.trained_by for name, kind in TRAINERS.items() if kind.defense is TAPT}
SHALLOW = [word for node in ("ADVVPT", "ADVIVLP", "ADVMAPLE", "TAPT") for leaf in ("DEPTH_TEXT", "DEPTH_VISION")
           for word in (f"TRAINER.{node}.{leaf}", "1")]  # fmt: skip
QUICK = ("TRAINER.TAPT.VIEWS", "8", "TRAINER.TAPT.RHO", "0.5", "EVAL.EOT", "1")
ATTACKS = "('pgd2-ce@8:static','apgd-ce-t@4:static','pgd2-ce@8:tuned','pgd2-ce@8:adaptive')"


def records(folder: Path) -> dict[tuple[str | None, str, str], dict]:
    """By protocol, attack's name and defense."""
    found = {}
    for path in (folder / "records").glob("*.json"):
        r = record.read(path).result.to_json()
        found[r["protocol"], (r["attack"] or {}).get("name", ""), "+".join(r["defenses"])] = r
    return found


def pretrain(workspace: Workspace, trainer: str) -> tuple[Path, Path]:
    """The runs that are tuned on attacked and on clean images; one epoch, strong enough to move the prompts."""
    folders = workspace.folder / "adv", workspace.folder / "clean"
    for folder, loss in zip(folders, ("adv_half", "clean")):
        workspace.run(
            *SHALLOW, "OPTIM.MAX_EPOCH", "1", "OPTIM.LR", "5.0", "OPTIM.WARMUP_EPOCH", "-1", "EVAL.ATTACKS", "()",
            f"TRAINER.{DESIGNS[trainer].upper()}.LOSS", loss, trainer=DESIGNS[trainer], output=folder,
        )  # fmt: skip
    return folders


@pytest.fixture
def arguments(workspace):
    """What is the same in all evaluations of a workspace: a function of the runs."""

    def make(trainer: str, adv: Path, clean: Path, *more: str, name: str = "tapt") -> tuple[tuple[str, ...], dict]:
        words = (*SHALLOW, *QUICK, "TRAINER.TAPT.CLEAN_RUN", str(clean), *more)
        flags = ("--eval-only", "--model-dir", str(adv))
        return words, {"trainer": trainer, "output": workspace.folder / name, "flags": flags}

    return make


@pytest.mark.parametrize("trainer", DESIGNS)
def test_from_pre_training_to_records(workspace, arguments, trainer, monkeypatch):
    shorten(monkeypatch, 5)
    adv, clean = pretrain(workspace, trainer)
    both = ("TRAINER.TAPT.RESET_SOURCE", "('loaded','constructed')", "EVAL.ATTACKS", ATTACKS)
    words, how = arguments(trainer, adv, clean, *both)
    printed = workspace.run(*words, **how)
    assert len(list((workspace.folder / "banks" / "TinyPhotos" / "tiny" / STATISTICS).glob("*/manifest.json"))) == 2
    found = records(workspace.folder / "tapt")
    rows = {defense for _, _, defense in found}
    assert rows == {"", "tapt", "tapt:constructed"}
    facing = {p for p, _, d in found if d == "tapt:constructed"}
    assert facing == {"static"} and {p for p, _, d in found if d == "tapt"} == {"static", "tuned", "adaptive"}
    assert found["static", "apgd-ce-t", "tapt"]["robust"]["untouched"] >= 0
    assert "gradient" in found["adaptive", "pgd", "tapt"]["defense"]
    assert found["adaptive", "pgd", "tapt"]["note"] == (
        "every gradient a mean over 1 draws of views; smoothed gradient through the tuning"
    )
    assert not any("gradient" in r["note"] for (p, _, _), r in found.items() if p != "adaptive")
    assert "not what is done to it at test time" in found["static", "pgd", "tapt"]["attacker_knows"]
    static = [found["static", "pgd", d]["robust"] for d in ("", "tapt")]
    assert static[0]["n"] == static[1]["n"] == 12 and static[0]["largest_linf"] == static[1]["largest_linf"]
    statistics = found["static", "pgd", "tapt"]["tuning"]["statistics"]
    assert len(set(statistics.values())) == 2, "prompts tuned on clean and on attacked images have a bank each"
    said = [line for line in printed.splitlines() if line.startswith("* accuracy")]
    assert said == [f"* accuracy: {found['static', 'pgd', 'tapt']['clean']['accuracy']:.1f}%"]
    stages = [found["static", "pgd", d]["defense"]["stages"] for d in ("tapt", "tapt:constructed")]
    start, constructed = (one["start"] for (one,) in stages)
    assert (start == constructed) == (trainer == "TAPTVLJ"), "what the released code's reset forgets"
    observed = json.loads(next((workspace.folder / "tapt" / "records").glob("*.json")).read_text())["observed"]
    assert observed["tuning"]["tapt"] == {"not_finite": 0}
    assert workspace.run(*words, **how | {"output": workspace.folder / "again"})
    again = records(workspace.folder / "again")
    assert {k: r["robust"] for k, r in again.items()} == {k: r["robust"] for k, r in found.items()}


def test_no_step_is_the_run_itself_and_a_reset_to_constructed_is_not(workspace, arguments):
    adv, clean = pretrain(workspace, "TAPTVLI")
    one = ("EVAL.ATTACKS", "('pgd2-ce@8:static',)")
    words, how = arguments("TAPTVLI", adv, clean, "TRAINER.TAPT.STEPS", "0", *one)
    workspace.run(*words, **how)
    found = records(workspace.folder / "tapt")
    banks = {d: found["static", "pgd", d]["robust"]["bank"] for d in ("", "tapt")}
    assert found["static", "pgd", "tapt"]["robust"]["outcome"] == found["static", "pgd", ""]["robust"]["outcome"]
    assert banks[""] != banks["tapt"]
    idle = {d: [line for line in found["static", "pgd", d]["warnings"] if line.startswith(UNTUNED)] for d in banks}
    assert len(idle["tapt"]) == 1 and "all 12 images, clean and under static pgd2-ce@8" in idle["tapt"][0]
    assert idle[""] == [], "the prompts themselves promise no tuning"
    changes = (("TRAINER.TAPT.SEED", "1"), ("TRAINER.TAPT.LR", "0.001"), ("TRAINER.TAPT.PROFILE", "paper"),
               ("TRAINER.TAPT.RESET_SOURCE", "constructed"))  # fmt: skip
    seen = {banks["tapt"]}
    for i, change in enumerate(changes):
        words, how = arguments("TAPTVLI", adv, clean, *change, *one, name=f"other{i}")
        workspace.run(*words, **how)
        other = records(workspace.folder / f"other{i}")
        (key,) = [r["robust"]["bank"] for (_, _, d), r in other.items() if d]
        assert key not in seen, f"{change} is not in the key"
        seen.add(key)
        assert other["static", "pgd", ""]["robust"]["bank"] == banks[""]


def test_statistics_are_made_by_a_command_and_found_by_their_prompts(workspace, arguments, capsys, monkeypatch):
    monkeypatch.setenv("ADVPT_DATA", str(workspace.folder / "data"))
    adv, clean = pretrain(workspace, "TAPTV")
    banks = ["--banks", str(workspace.folder / "banks")]
    assert main(["statistics", str(adv), *banks]) == 0
    assert "statistics of 15 images in " in capsys.readouterr().out
    words, how = arguments("TAPTV", adv, clean, "EVAL.ATTACKS", "()", "DATASET.NUM_SHOTS", "2")
    workspace.run(*words, **how)
    found = records(workspace.folder / "tapt")[None, "", "tapt"]
    (made,) = [p.parent.name for p in workspace.folder.glob(f"banks/*/*/{STATISTICS}/*/manifest.json")
               if json.loads(p.read_text())["about"]["trainer"] == "AdvVPT"
               and json.loads(p.read_text())["spec"]["adversarial_set"]["data"]["n"] == 15]  # fmt: skip
    assert found["tuning"]["statistics"]["adversarial"] == made
    assert main(["statistics", str(adv), *banks, "--shots", "2", "--crops", "random"]) == 0
    workspace.run(*words, **how | {"output": workspace.folder / "same"})  # random crops are another kind
    assert main(["statistics", str(adv), *banks, "--limit", "9"]) == 0
    code, printed = workspace.call(*words, **how | {"output": workspace.folder / "unclear"})
    assert code == 2 and "several banks hold statistics of the prompts of" in printed and made in printed
    folder = next(workspace.folder.glob(f"banks/*/*/{STATISTICS}/{made}"))
    workspace.run("TRAINER.TAPT.ADV_STATISTICS", str(folder), *words, **how | {"output": workspace.folder / "named"})
    both = ("TRAINER.TAPT.ADV_STATISTICS", str(folder), "TRAINER.TAPT.CLEAN_STATISTICS", str(folder))
    code, printed = workspace.call(*both, *words, **how | {"output": workspace.folder / "wrong"})
    assert code == 2 and "encoder.visual_prompt: the bank has" in printed
    capsys.readouterr()
    assert main(["statistics", str(workspace.folder / "nowhere")]) == 2 and "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    (
        (("EVAL.ATTACKS", "('aa@8:adaptive',)"), "aa@8 under adaptive cannot go through prompts that differ"),
        (("TRAINER.TAPT.RESET_EVERY", "3"), "RESET_EVERY is 3 and BANK.CHUNK 4"),
        (("TRAINER.TAPT.RESET_SOURCE", "load"), "Did you mean 'loaded'"),
        (("TRAINER.TAPT.BLOCKS", "(1,)"), "blocks are counted from 0, and the image tower has 1"),
        (("TRAINER.TAPT.CLEAN_RUN", ""), "--trainer AdvVPT ... TRAINER.ADVVPT.LOSS clean makes one"),
        (("TRAINER.TAPT.CLEAN_RUN", "nowhere"), "no checkpoint at nowhere"),
        (("DATASET.NAME", "TinyPhotos", "TRAINER.TAPT.N_VISION", "3"), "this run has"),
    ),
)
def test_what_it_refuses(workspace, arguments, more, said):
    adv = workspace.folder / "adv"
    workspace.run(*SHALLOW, "OPTIM.MAX_EPOCH", "1", "EVAL.ATTACKS", "()", trainer="AdvVPT", output=adv)
    words, how = arguments("TAPTV", adv, adv, *more)
    code, printed = workspace.call(*words, **how)
    assert code == 2 and said in printed and "Traceback" not in printed


def test_statistics_over_all_images_are_asked_for_by_a_word(workspace, arguments, monkeypatch, capsys):
    monkeypatch.setenv("ADVPT_DATA", str(workspace.folder / "data"))
    adv, clean = pretrain(workspace, "TAPTV")
    banks = ["--banks", str(workspace.folder / "banks")]
    for run in (adv, clean):
        assert main(["statistics", str(run), *banks, "--shots", "2"]) == 0
    both = ("TRAINER.TAPT.ADV_STATISTICS", "all", "TRAINER.TAPT.CLEAN_STATISTICS", "all", "EVAL.ATTACKS", "()")
    words, how = arguments("TAPTV", adv, clean, *both)
    code, printed = workspace.call("DATASET.NUM_SHOTS", "2", *words, **how)
    assert code == 2 and "DATASET.NUM_SHOTS is 2" in printed and "expected -1 and 0" in printed
    workspace.run(*words, **how)  # made in passing, though there is another bank of the same prompts
    found = records(workspace.folder / "tapt")[None, "", "tapt"]["tuning"]["statistics"]
    counts = {p.parent.name: json.loads(p.read_text())["shards"][0]["rows"]
              for p in workspace.folder.glob(f"banks/*/*/{STATISTICS}/*/manifest.json")}  # fmt: skip
    assert sorted(counts.values()) == [6, 6, 15, 15] and {counts[key] for key in found.values()} == {15}


def test_both_runs_are_of_one_clip_and_the_depths_are_those_of_the_run(workspace, arguments, tmp_path):
    torch.manual_seed(7)
    torch.save(build(TINY).state_dict(), tmp_path / "other.pt")
    adv, clean = workspace.folder / "adv", workspace.folder / "clean"
    quick = (*SHALLOW, "OPTIM.MAX_EPOCH", "1", "EVAL.ATTACKS", "()")
    workspace.run(*quick, trainer="AdvMaPLe", output=adv)
    workspace.run(*quick, "MODEL.WEIGHTS", str(tmp_path / "other.pt"), trainer="AdvMaPLe", output=clean)
    words, how = arguments("TAPTVLJ", adv, clean)
    code, printed = workspace.call(*words, **how)
    assert code == 2 and f"{clean}/prompt_learner" in printed and "was tuned on another CLIP" in printed
    plain = (*QUICK, "TRAINER.TAPT.CLEAN_RUN", str(adv), "EVAL.ATTACKS", "()")  # no depths: the node's default is 9
    assert "TRAINER.TAPT.DEPTH_VISION 1, as" in workspace.run(*plain, **how | {"output": workspace.folder / "depths"})


def test_statistics_are_of_the_data_of_the_run(workspace, capsys, monkeypatch):
    monkeypatch.setenv("ADVPT_DATA", str(workspace.folder / "data"))
    own = ("DATASET.NAME", "ImageFolder", "OPTIM.MAX_EPOCH", "1", "EVAL.ATTACKS", "()")
    (workspace.folder / "data" / "tiny_photos").rename(workspace.folder / "data" / "image_folder")
    workspace.run(*SHALLOW, *own, trainer="AdvVPT")
    for part in ("train", "val", "test"):
        (workspace.folder / "data" / "image_folder" / part / "owl").rename(
            workspace.folder / f"data/image_folder/{part}/crow"
        )
    capsys.readouterr()
    assert main(["statistics", str(workspace.output), "--banks", str(workspace.folder / "banks")]) == 2
    assert "tuned on 3 classes (owl, red_fox, sea), this run has 3 (crow, red_fox, sea)" in capsys.readouterr().err


def test_it_does_not_train(workspace):
    code, printed = workspace.call(*SHALLOW, trainer="TAPTVLJ")
    assert code == 2 and "--trainer AdvMaPLe" in printed and "--eval-only --model-dir RUN" in printed


def test_without_clean_statistics(workspace, arguments):
    adv = workspace.folder / "adv"
    workspace.run(*SHALLOW, "OPTIM.MAX_EPOCH", "1", "EVAL.ATTACKS", "()", trainer="AdvVPT", output=adv)
    words, how = arguments("TAPTV", adv, "", "TRAINER.TAPT.ALPHA", "1", "EVAL.ATTACKS", "()")
    workspace.run(*words, **how)
    found = records(workspace.folder / "tapt")[None, "", "tapt"]
    assert found["tuning"]["statistics"]["clean"] is None and torch.tensor(found["clean"]["n"]) == 12


def test_the_demos_recipe_does_something(tmp_path):
    """DemoCLIP by the shipped yaml: tuning changes what images are taken for."""
    where = ("--seed", "1", "--root", str(tmp_path / "data"))
    more = ("VERBOSE", "False", "BANK.DIR", str(tmp_path / "banks"), "DATASET.NUM_SHOTS", "4")
    for name in ("adv", "clean"):
        loss = ("TRAINER.ADVIVLP.LOSS", "clean") if name == "clean" else ()
        words = ["--trainer", "AdvIVLP", *where, "--output-dir", str(tmp_path / name), *more, *loss]
        assert train.main([*words, "OPTIM.MAX_EPOCH", "3", "OPTIM.LR", "0.05", "TEST.NO_TEST", "True"]) == 0
    words = ["--trainer", "TAPTVLI", *where, "--output-dir", str(tmp_path / "tapt"), "--eval-only", "--model-dir"]
    words += [str(tmp_path / "adv"), *more, "TRAINER.TAPT.CLEAN_RUN", str(tmp_path / "clean"), "EVAL.SUBSET", "30"]
    assert train.main([*words, "EVAL.ATTACKS", "('pgd5-ce@2:static',)"]) == 0
    found = records(tmp_path / "tapt")
    tuned, plain = (found["static", "pgd", row] for row in ("tapt", ""))
    moved = sum(int((outcome(tuned[p]) != outcome(plain[p])).sum()) for p in ("clean", "robust"))
    assert moved >= 4, "one step at the paper's rate moves 1 of these 60"
    assert not any(line.startswith("test-time tuning changed no prediction") for line in tuned["warnings"])
