"""Whole runs of AdvPT through ``train.py``, on a tiny CLIP and generated pictures."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from advpt.backbones.backbone import ImageEncoder
from advpt.checkpoints import load_checkpoint
from advpt.evaluation import record as records
from tests.helpers.autoattack import shorten
from tests.helpers.workspace import ROOT, context, results


def test_one_seed_twice_gives_equal_results(workspace):
    workspace.run()
    workspace.run(output=workspace.folder / "again")
    shutil.rmtree(workspace.folder / "banks")
    workspace.run(output=workspace.folder / "fresh")  # building the banks must not disturb the run
    one = results(workspace.output)
    assert len(one) == 4 and one == results(workspace.folder / "again") == results(workspace.folder / "fresh")
    assert torch.equal(context(workspace.output), context(workspace.folder / "fresh"))


def test_another_seed_differs_and_zero_is_a_seed(workspace):
    workspace.run(seed=0)
    workspace.run(seed=0, output=workspace.folder / "zero")
    workspace.run(seed=5, output=workspace.folder / "five")
    assert torch.equal(context(workspace.output), context(workspace.folder / "zero"))
    assert not torch.equal(context(workspace.output), context(workspace.folder / "five"))
    assert results(workspace.output)["test_transfer_pgd2-fkl@8-a5.json"]["seed"] == 0


def test_a_second_seed_attacks_nothing_under_transfer(workspace, monkeypatch):
    workspace.run("EVAL.PROTOCOLS", "('transfer',)")
    monkeypatch.setattr(ImageEncoder, "forward", lambda *a: pytest.fail("the image encoder ran"))
    workspace.run("EVAL.PROTOCOLS", "('transfer',)", seed=2, output=workspace.folder / "two")
    workspace.run("EVAL.PROTOCOLS", "('transfer',)", "DATASET.NUM_SHOTS", "2", output=workspace.folder / "few")
    few = results(workspace.folder / "few")["test_transfer_pgd2-fkl@8-a5.json"]
    assert few["training"]["images"] == 6 and few["shots"] == 2


def test_training_on_16_bit_images_is_training_on_the_same_images_of_8_bits(workspace):
    for bits in (8, 16):
        for path in (workspace.folder / "data").glob("**/*.png"):
            grey = Image.open(path)
            grey = np.asarray(grey.convert("L")) if bits == 8 else np.asarray(grey).astype(np.uint16) * 257
            Image.fromarray(grey).save(path)
        places = {"output": workspace.folder / f"bits{bits}"}
        workspace.run("BANK.DIR", str(workspace.folder / f"banks{bits}"), trainer="CoOp", **places)
    assert torch.equal(context(workspace.folder / "bits8"), context(workspace.folder / "bits16"))
    one, other = results(workspace.folder / "bits8"), results(workspace.folder / "bits16")
    assert [r["clean"]["outcome"] for r in one.values()] == [r["clean"]["outcome"] for r in other.values()]


@pytest.mark.parametrize("attacks", ["('pgd2-fkl@8','pgd2-ce@8')", "('aa@2',)"], ids=["pgd", "autoattack"])
def test_equal_runs_have_equal_results_with_and_without_a_larger_bank(workspace, monkeypatch, attacks):
    """Training rows, clean rows and attacked rows: whoever made banks of more images before."""
    shorten(monkeypatch, 10, queries=100)
    small = ("EVAL.SUBSET", "7", "DATASET.NUM_SHOTS", "2", "EVAL.ATTACKS", attacks)
    workspace.run(*small, output=workspace.folder / "alone")
    shutil.move(workspace.folder / "banks", workspace.folder / "banks of its own")
    workspace.run("EVAL.ATTACKS", attacks, output=workspace.folder / "all")
    workspace.run(*small)
    alone, beside = results(workspace.folder / "alone"), results(workspace.output)
    assert alone == beside and len(alone) == (4 if "pgd" in attacks else 2)
    of_all = {path.parent.name for path in (workspace.folder / "banks").glob("*/*/*/manifest.json")}
    for path in sorted((workspace.output / "records").glob("*.json")):
        record = records.read(path)
        result, source = record.result.to_json(), record.observed.read_from
        named = {result["clean"]["bank"], result["training"]["bank"]}
        assert named <= source.keys() and set(source.values()) <= of_all
        taken = result["attack"]["name"] == "pgd" and result["protocol"] == "transfer"
        assert (result["robust"]["bank"] in source) == taken  # of the learned prompt there is no larger bank
    assert all(records.read(p).observed.read_from is None for p in (workspace.folder / "alone/records").glob("*.json"))


def test_a_run_stopped_between_epochs_continues_exactly(workspace, monkeypatch):
    workspace.run()
    from trainers.advpt import PromptTrainer

    with monkeypatch.context() as patch:
        save = PromptTrainer.save_model

        def stop_after_two(self, epoch, *args, **kwargs):
            save(self, epoch, *args, **kwargs)
            if epoch == 1:
                raise KeyboardInterrupt

        patch.setattr(PromptTrainer, "save_model", stop_after_two)
        code, printed = workspace.call(output=workspace.folder / "stopped")
        assert code == 130 and "continues where it was" in printed
    printed = workspace.run(output=workspace.folder / "stopped")
    assert "epoch [3/3]" in printed and "epoch [1/3]" not in printed
    assert torch.equal(context(workspace.output), context(workspace.folder / "stopped"))
    assert results(workspace.output) == results(workspace.folder / "stopped")


def test_only_the_prompt_is_registered_and_the_image_tower_is_gone(workspace, monkeypatch):
    from trainers.advpt import AdvPT

    seen = []
    forward_backward = AdvPT.forward_backward

    def watching(self, batch):
        seen.append((self.get_model_names(), self.backbone.image, self.backbone.model.visual, batch["img"].shape))
        return forward_backward(self, batch)

    monkeypatch.setattr(AdvPT, "forward_backward", watching)
    workspace.run()
    assert seen and all(names == ["prompt_learner"] and i is None and v is None for names, i, v, _ in seen)
    assert {shape for *_, shape in seen} == {torch.Size([4, 32])}
    saved = load_checkpoint(workspace.output / "prompt_learner" / "model.pth.tar-3")
    assert list(saved["state_dict"]) == ["ctx"] and saved["epoch"] == 3
    about = json.loads((workspace.output / "prompt_learner" / "prompt.json").read_text())
    assert about["classnames"] == ["red_fox", "owl", "sea"] and about["n_ctx"] == 4


def test_evaluation_only_takes_other_attacks(workspace):
    workspace.run()
    flags = ("--eval-only", "--model-dir", str(workspace.output))
    workspace.run("EVAL.ATTACKS", "('pgd3-ce@2',)", flags=flags)
    found = results(workspace.output)
    assert "test_transfer_pgd3-ce@2-a1.667.json" in found and len(found) == 6
    assert len(list((workspace.folder / "banks").glob("**/manifest.json"))) == 7, "evaluating builds no training bank"
    # what was learned is what is evaluated
    trained = found["test_adaptive_pgd2-ce@8-a8.json"]["prompt"]
    assert found["test_adaptive_pgd3-ce@2-a1.667.json"]["prompt"] == trained


@pytest.mark.parametrize("profile", ["sound", "paper", "released"])
def test_both_banks_hold_the_same_images(workspace, profile):
    """What CoOp on a clean bank is tuned on differs from what AdvPT is in the attack alone: as many images, resized
    alike."""
    same = ("BANK.PROFILE", profile, "BANK.LIMIT", "9", "EVAL.ATTACKS", "()", "OPTIM.MAX_EPOCH", "1")
    made = []
    for trainer in ("CoOp", "AdvPT"):
        folder = workspace.folder / trainer
        workspace.run(*same, "TRAINER.COOP.CLEAN_BANK", "True", trainer=trainer, output=folder)
        key = results(folder)["test_clean.json"]["training"]["bank"]
        (manifest,) = workspace.folder.glob(f"banks/**/{key}/manifest.json")
        made.append(json.loads(manifest.read_text())["spec"]["adversarial_set"])
    assert made[0]["attack"] is None and made[1]["attack"] is not None
    assert made[0]["data"] == made[1]["data"] and made[0]["preprocessing"] == made[1]["preprocessing"]
    assert made[0]["preprocessing"]["interpolation"] == ("bicubic" if profile == "sound" else "bilinear")


def test_a_record_says_whether_its_method_was_trained(workspace, monkeypatch):
    """By the trainer's name, so that records of earlier versions do; a trainer of another name says it itself."""
    from trainers.zsclip import ZeroshotCLIP

    workspace.run(trainer="ZeroshotCLIP")
    workspace.run(trainer="CoOp", output=workspace.folder / "coop")

    def first(folder):
        return records.read(min((folder / "records").glob("*.json"))).result

    zero, coop = first(workspace.output), first(workspace.folder / "coop")
    assert zero.trained is coop.trained is None and not zero.is_trained and coop.is_trained
    monkeypatch.setattr(records, "UNTRAINED", ())
    assert ZeroshotCLIP.trained is False
    workspace.run(trainer="ZeroshotCLIP", output=workspace.folder / "again")
    again = first(workspace.folder / "again")
    assert again.trained is False and not again.is_trained


def test_best_validation_model_is_chosen_and_loaded(workspace):
    workspace.run("TEST.FINAL_MODEL", "best_val")
    assert (workspace.output / "prompt_learner" / "model-best.pth.tar").is_file()


FOREIGN_TRAIN = """
import argparse
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed, setup_logger
from yacs.config import CfgNode as CN
import own_set
import trainers.advpt

parser = argparse.ArgumentParser()
for name in ("--root", "--output-dir", "--config-file"):
    parser.add_argument(name)
parser.add_argument("opts", nargs=argparse.REMAINDER)
args = parser.parse_args()
cfg = get_cfg_default()
cfg.TRAINER.COOP = CN()
cfg.TRAINER.COOP.N_CTX = 8
cfg.TRAINER.COOP.PREC = "fp16"
cfg.DATASET.SUBSAMPLE_CLASSES = "all"
trainers.advpt.extend_cfg(cfg)
assert cfg.TRAINER.COOP.N_CTX == 8
cfg.merge_from_file(args.config_file)
cfg.DATASET.ROOT, cfg.OUTPUT_DIR, cfg.TRAINER.NAME, cfg.DATASET.NAME = args.root, args.output_dir, "AdvPT", "OwnSet"
cfg.merge_from_list(args.opts)
cfg.freeze()
set_random_seed(1)
setup_logger(cfg.OUTPUT_DIR)
build_trainer(cfg).train()
"""
OWN_SET = """
from pathlib import Path
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

@DATASET_REGISTRY.register()
class OwnSet(DatasetBase):
    def __init__(self, cfg):
        def read(split):
            top = Path(cfg.DATASET.ROOT) / "tiny_photos" / split
            return [Datum(impath=str(p), label=i, classname=d.name)
                    for i, d in enumerate(sorted(top.iterdir())) for p in sorted(d.iterdir())]
        super().__init__(train_x=read("train"), val=read("val"), test=read("test"))
"""


def test_as_a_plugin_in_somebody_elses_checkout(workspace, tmp_path):
    """One copied file, one import, one call; only ``advpt`` and ``dassl`` are installed there."""
    checkout = tmp_path / "checkout"
    (checkout / "trainers").mkdir(parents=True)
    (checkout / "trainers" / "__init__.py").write_text("")
    shutil.copy(ROOT / "trainers" / "advpt.py", checkout / "trainers")
    (checkout / "train.py").write_text(FOREIGN_TRAIN)
    (checkout / "own_set.py").write_text(OWN_SET)
    site = tmp_path / "site"
    site.mkdir()
    (site / "advpt").symlink_to(ROOT / "advpt")
    (site / "dassl").symlink_to(ROOT / "dassl-lite" / "dassl")
    done = subprocess.run(
        [sys.executable, "train.py", "--root", str(workspace.folder / "data"), "--output-dir", str(tmp_path / "out"),
         "--config-file", str(workspace.folder / "tiny.yaml"), "MODEL.WEIGHTS", str(workspace.weights), "SEED", "1",
         "MODEL.ACTIVATION", "quickgelu", "BANK.DIR", str(tmp_path / "b")],
        cwd=checkout, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "* robust_accuracy:" in done.stdout and len(results(tmp_path / "out")) == 4


def test_our_schedule_steps_in_where_the_hosts_does_not_run(workspace, monkeypatch):
    import trainers.advpt as module

    workspace.run()

    def broken(*args):
        raise TypeError("LRScheduler.__init__() takes from 2 to 3 positional arguments but 4 were given")

    monkeypatch.setattr(module, "build_lr_scheduler", broken)
    printed = workspace.run(output=workspace.folder / "own")
    assert "using our own" in printed
    assert torch.equal(context(workspace.output), context(workspace.folder / "own"))


def test_images_already_in_the_unit_range_are_left_alone(workspace):
    """APT-style configs leave ``normalize`` out; CoOp-style ones have it. Both tune on the same pixels."""
    plain = ("INPUT.TRANSFORMS", "('center_crop',)")
    workspace.run(*plain, trainer="CoOp")
    workspace.run("INPUT.TRANSFORMS", "('center_crop','normalize')", trainer="CoOp", output=workspace.folder / "norm")
    torch.testing.assert_close(context(workspace.output), context(workspace.folder / "norm"), atol=1e-5, rtol=1e-4)


def test_a_prompt_from_elsewhere_is_evaluated(workspace):
    from advpt.prompts import exchange

    workspace.run()
    exchange.write_run(exchange.read(workspace.output), workspace.folder / "given")
    flags = ("--eval-only", "--model-dir", str(workspace.folder / "given"))
    workspace.run(flags=flags, output=workspace.folder / "eval")
    mine, theirs = results(workspace.output), results(workspace.folder / "eval")
    assert [r["prompt"] for r in mine.values()] == [r["prompt"] for r in theirs.values()]


def test_a_prompt_is_evaluated_over_other_classes_unless_it_is_class_specific(workspace):
    workspace.run()
    flags = ("--eval-only", "--model-dir", str(workspace.output))
    workspace.run("DATASET.SUBSAMPLE_CLASSES", "base", flags=flags, output=workspace.folder / "base")
    assert (
        results(workspace.folder / "base")["test_transfer_pgd2-fkl@8-a5.json"]["clean"]["n"] == 8
    )  # two of three classes
    workspace.run("TRAINER.ADVPT.CSC", "True", output=workspace.folder / "csc")
    flags = ("--eval-only", "--model-dir", str(workspace.folder / "csc"))
    code, printed = workspace.call(
        "TRAINER.ADVPT.CSC",
        "True",
        "DATASET.SUBSAMPLE_CLASSES",
        "base",
        flags=flags,
        output=workspace.folder / "csc_base",
    )
    assert code == 2 and "fits only the class list it was tuned on" in printed


def test_a_compiled_run_is_close_and_has_banks_of_its_own(workspace, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    workspace.run("EVAL.ATTACKS", "()")
    plain = next((workspace.folder / "banks").glob("TinyPhotos/tiny/*/manifest.json")).parents[1]
    before = {path.name for path in plain.iterdir()}
    workspace.run("EVAL.ATTACKS", "()", "MODEL.COMPILE", "True", output=workspace.folder / "compiled")
    assert torch.allclose(context(workspace.output), context(workspace.folder / "compiled"), atol=1e-4)
    assert len({path.name for path in plain.iterdir()} - before) == 2  # of training and test images


@pytest.mark.parametrize("trainer", ["AdvPT", "AdvTrain"])
def test_training_reads_the_models_size_and_evaluation_the_images_own(workspace, trainer):
    for path in (workspace.folder / "data").rglob("*.png"):
        Image.open(path).resize((12, 12)).save(path)
    words = ("EVAL.ATTACKS", "('pgd1-ce@8',)", "EVAL.PROTOCOLS", "('adaptive',)", "TRAIN.CURVE_FREQ", "1")
    quick = ("OPTIM.MAX_EPOCH", "2", f"TRAINER.{trainer.upper()}.ATTACK", "pgd1-ce@4")[: 2 if trainer == "AdvPT" else 4]
    workspace.run(*words, *quick, "EVAL.ATTACK_AT", "native", trainer=trainer)
    sizes = {}
    for path in (workspace.folder / "banks").rglob("manifest.json"):
        made = json.loads(path.read_text())["spec"]["adversarial_set"]
        sizes.setdefault(tuple(made["preprocessing"]["size"]), []).append(
            made["attack"] and made["attack"]["objective"]
        )
    assert set(sizes[12, 12]) == {None, "ce"} and sizes.get((16, 16), []) == (["fkl"] if trainer == "AdvPT" else [])
    result = results(workspace.output)["test_adaptive_pgd1-ce@8-a8.json"]
    assert result["backbone"]["reads"]["enlarges"] and len(result["training"]["curve"]) == 2
