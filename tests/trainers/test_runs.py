"""Whole runs of the trainers through ``train.py``, on a tiny CLIP and generated pictures."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import ROOT, train
from yacs.config import CfgNode

from advpt.backbones.clip import ImageEncoder
from advpt.evaluation import record as records
from advpt.evaluation.record import outcome
from advpt.files import load_checkpoint


def results(folder: Path) -> dict[str, dict]:
    return {path.name: records.read(path).result for path in sorted((folder / "records").glob("*.json"))}


def context(folder: Path, epoch: int = 3) -> torch.Tensor:
    return load_checkpoint(folder / "prompt_learner" / f"model.pth.tar-{epoch}")["state_dict"]["ctx"]


def parse_as_coop(log: Path, keyword: str, gate: str = "Finish training") -> float:
    """CoOp's parse_test_res.py in four lines: the last match after the gate line."""
    value, open_gate = None, False
    for line in log.read_text().splitlines():
        open_gate = open_gate or line == gate
        if open_gate and (found := re.search(rf"\* {keyword}: ([\.\deE+-]+)%", line)):
            value = float(found[1])
    assert value is not None
    return value


def test_one_seed_twice_gives_equal_results(world):
    world.run()
    world.run(output=world.folder / "again")
    shutil.rmtree(world.folder / "banks")
    world.run(output=world.folder / "fresh")  # building the banks must not disturb the run
    one = results(world.output)
    assert len(one) == 4 and one == results(world.folder / "again") == results(world.folder / "fresh")
    assert torch.equal(context(world.output), context(world.folder / "fresh"))


def test_another_seed_differs_and_zero_is_a_seed(world):
    world.run(seed=0)
    world.run(seed=0, output=world.folder / "zero")
    world.run(seed=5, output=world.folder / "five")
    assert torch.equal(context(world.output), context(world.folder / "zero"))
    assert not torch.equal(context(world.output), context(world.folder / "five"))
    assert results(world.output)["test_transfer_pgd2-fkl@8-a5.json"]["seed"] == 0


def test_a_second_seed_attacks_nothing_under_transfer(world, monkeypatch):
    world.run("EVAL.PROTOCOLS", "('transfer',)")
    monkeypatch.setattr(ImageEncoder, "forward", lambda *a: pytest.fail("the image encoder ran"))
    world.run("EVAL.PROTOCOLS", "('transfer',)", seed=2, output=world.folder / "two")
    world.run("EVAL.PROTOCOLS", "('transfer',)", "DATASET.NUM_SHOTS", "2", output=world.folder / "few")
    few = results(world.folder / "few")["test_transfer_pgd2-fkl@8-a5.json"]
    assert few["training"]["images"] == 6 and few["shots"] == 2


def test_training_on_16_bit_images_is_training_on_the_same_images_of_8_bits(world):
    for bits in (8, 16):
        for path in (world.folder / "data").glob("**/*.png"):
            grey = Image.open(path)
            grey = np.asarray(grey.convert("L")) if bits == 8 else np.asarray(grey).astype(np.uint16) * 257
            Image.fromarray(grey).save(path)
        places = {"output": world.folder / f"bits{bits}"}
        world.run("BANK.DIR", str(world.folder / f"banks{bits}"), trainer="CoOp", **places)
    assert torch.equal(context(world.folder / "bits8"), context(world.folder / "bits16"))
    one, other = results(world.folder / "bits8"), results(world.folder / "bits16")
    assert [r["clean"]["outcome"] for r in one.values()] == [r["clean"]["outcome"] for r in other.values()]


@pytest.mark.parametrize("attacks", ["('pgd2-fkl@8','pgd2-ce@8')", "('aa@2',)"], ids=["pgd", "autoattack"])
def test_equal_runs_have_equal_results_with_and_without_a_larger_bank(world, attacks):
    """Training rows, clean rows and attacked rows: whoever made banks of more images before."""
    small = ("EVAL.SUBSET", "7", "DATASET.NUM_SHOTS", "2", "EVAL.ATTACKS", attacks)
    world.run(*small, output=world.folder / "alone")
    shutil.move(world.folder / "banks", world.folder / "banks of its own")
    world.run("EVAL.ATTACKS", attacks, output=world.folder / "all")
    world.run(*small)
    alone, beside = results(world.folder / "alone"), results(world.output)
    assert alone == beside and len(alone) == (4 if "pgd" in attacks else 2)
    of_all = {path.parent.name for path in (world.folder / "banks").glob("*/*/*/manifest.json")}
    for path in sorted((world.output / "records").glob("*.json")):
        record = records.read(path)
        result, source = record.result, record.observed["read_from"]
        named = {result["clean"]["bank"], result["training"]["bank"]}
        assert named <= source.keys() and set(source.values()) <= of_all
        taken = result["attack"]["name"] == "pgd" and result["protocol"] == "transfer"
        assert (result["robust"]["bank"] in source) == taken  # of the learned prompt there is no larger bank
    assert all("read_from" not in records.read(p).observed for p in (world.folder / "alone/records").glob("*.json"))


def test_results_lines_are_found_by_coops_parser(world):
    world.run()
    log, found = world.output / "log.txt", results(world.output)
    first = found["test_transfer_pgd2-fkl@8-a5.json"]
    assert parse_as_coop(log, "accuracy") == round(first["clean"]["accuracy"], 1)
    assert parse_as_coop(log, "robust_accuracy") == round(first["robust"]["accuracy"], 1)
    world.run(flags=("--eval-only", "--model-dir", str(world.output)), output=world.folder / "eval")
    assert parse_as_coop(world.folder / "eval" / "log.txt", "accuracy", "=> result") == round(
        first["clean"]["accuracy"], 1
    )


def test_the_log_holds_the_threat_card(world):
    printed = world.run()
    assert "attacker knows everything, the learned prompt included" in printed
    assert printed.count("adaptive     pgd2-ce@8") == 1  # fkl becomes ce, which was asked for too: one threat
    assert "objective fkl replaced by ce" in printed
    assert re.search(r"transfer +pgd2-fkl@8/a5 +robust \d", printed)


def test_the_record_can_be_recomputed(world):
    world.run()
    for result in results(world.output).values():
        for part in (result["clean"], result["robust"]):
            assert outcome(part).sum() == part["correct"] and len(outcome(part)) == part["n"] == 12
            assert part["accuracy"] == pytest.approx(100 * part["correct"] / 12)
        assert result["config"]["TRAINER.ADVPT.N_CTX"] == 4 and "MODEL.WEIGHTS" not in result["config"]


def test_an_edited_record_is_refused(world):
    world.run()
    path = next((world.output / "records").glob("*.json"))
    data = json.loads(path.read_text())
    data["result"]["clean"]["accuracy"] = 99.0
    path.write_text(json.dumps(data))
    with pytest.raises(records.RecordError, match="changed after it was written"):
        records.read(path)


def test_a_run_stopped_between_epochs_continues_exactly(world, monkeypatch):
    world.run()
    from trainers.advpt import PromptTrainer

    with monkeypatch.context() as patch:
        save = PromptTrainer.save_model

        def stop_after_two(self, epoch, *args, **kwargs):
            save(self, epoch, *args, **kwargs)
            if epoch == 1:
                raise KeyboardInterrupt

        patch.setattr(PromptTrainer, "save_model", stop_after_two)
        code, printed = world.call(output=world.folder / "stopped")
        assert code == 130 and "continues where it was" in printed
    printed = world.run(output=world.folder / "stopped")
    assert "epoch [3/3]" in printed and "epoch [1/3]" not in printed
    assert torch.equal(context(world.output), context(world.folder / "stopped"))
    assert results(world.output) == results(world.folder / "stopped")


def test_only_the_prompt_is_registered_and_the_image_tower_is_gone(world, monkeypatch):
    from trainers.advpt import AdvPT

    seen = []
    forward_backward = AdvPT.forward_backward

    def watching(self, batch):
        seen.append((self.get_model_names(), self.backbone.image, self.backbone.model.visual, batch["img"].shape))
        return forward_backward(self, batch)

    monkeypatch.setattr(AdvPT, "forward_backward", watching)
    world.run()
    assert seen and all(names == ["prompt_learner"] and i is None and v is None for names, i, v, _ in seen)
    assert {shape for *_, shape in seen} == {torch.Size([4, 32])}
    saved = load_checkpoint(world.output / "prompt_learner" / "model.pth.tar-3")
    assert list(saved["state_dict"]) == ["ctx"] and saved["epoch"] == 3
    about = json.loads((world.output / "prompt_learner" / "prompt.json").read_text())
    assert about["classnames"] == ["red_fox", "owl", "sea"] and about["n_ctx"] == 4


def test_evaluation_only_takes_other_attacks(world):
    world.run()
    flags = ("--eval-only", "--model-dir", str(world.output))
    world.run("EVAL.ATTACKS", "('pgd3-ce@2',)", flags=flags)
    found = results(world.output)
    assert "test_transfer_pgd3-ce@2-a1.667.json" in found and len(found) == 6
    assert len(list((world.folder / "banks").glob("**/manifest.json"))) == 7, "evaluating builds no training bank"
    # what was learned is what is evaluated
    trained = found["test_adaptive_pgd2-ce@8-a8.json"]["prompt"]
    assert found["test_adaptive_pgd3-ce@2-a1.667.json"]["prompt"] == trained


def test_missing_model_folder_is_a_sentence(world):
    code, printed = world.call(flags=("--eval-only", "--model-dir", str(world.folder / "nowhere")))
    assert code == 2 and "no checkpoint at" in printed and "Traceback" not in printed


def test_a_folder_of_another_configuration_is_refused(world):
    world.run()
    before = results(world.output)
    code, printed = world.call("OPTIM.LR", "0.5")
    assert code == 2 and "OPTIM.LR: the folder has 0.01, this run 0.5" in printed
    assert results(world.output) == before


def test_skip_done_exits_only_when_everything_is_there(world, monkeypatch):
    assert "done already" not in world.run(flags=("--skip-done",))
    assert "done already" in world.run(flags=("--skip-done",))
    more = ("EVAL.ATTACKS", "('pgd2-fkl@8',)")
    assert "done already" not in world.run(*more, flags=("--skip-done",)), "another evaluation was asked for"
    next((world.output / "records").glob("test_adaptive*.json")).unlink()
    assert "done already" not in world.run(*more, flags=("--skip-done",)), "a record was missing"


def test_coop_tunes_on_images_or_on_a_clean_bank(world):
    printed = world.run(trainer="CoOp")
    assert "epoch [3/3]" in printed
    result = results(world.output)["test_transfer_pgd2-fkl@8-a5.json"]
    assert result["training"] == {} and result["trainer"] == "CoOp"
    world.run("TRAINER.COOP.CLEAN_BANK", "True", trainer="CoOp", output=world.folder / "bank")
    result = results(world.folder / "bank")["test_transfer_pgd2-fkl@8-a5.json"]
    assert result["training"]["images"] == 15 and len(result["training"]["bank"]) == 64


@pytest.mark.parametrize("profile", ["sound", "paper", "released"])
def test_both_banks_hold_the_same_images(world, profile):
    """What CoOp on a clean bank is tuned on differs from what AdvPT is in the attack alone: as many images, resized
    alike."""
    same = ("BANK.PROFILE", profile, "BANK.LIMIT", "9", "EVAL.ATTACKS", "()", "OPTIM.MAX_EPOCH", "1")
    made = []
    for trainer in ("CoOp", "AdvPT"):
        folder = world.folder / trainer
        world.run(*same, "TRAINER.COOP.CLEAN_BANK", "True", trainer=trainer, output=folder)
        key = results(folder)["test_clean.json"]["training"]["bank"]
        (manifest,) = world.folder.glob(f"banks/**/{key}/manifest.json")
        made.append(json.loads(manifest.read_text())["spec"]["adversarial_set"])
    assert made[0]["attack"] is None and made[1]["attack"] is not None
    assert made[0]["data"] == made[1]["data"] and made[0]["preprocessing"] == made[1]["preprocessing"]
    assert made[0]["preprocessing"]["interpolation"] == ("bicubic" if profile == "sound" else "bilinear")


def test_zero_shot_needs_no_training_and_its_prompt_is_the_attacked_one(world):
    world.run(trainer="ZeroshotCLIP")
    found = results(world.output)
    transfer, adaptive = found["test_transfer_pgd2-ce@8-a8.json"], found["test_adaptive_pgd2-ce@8-a8.json"]
    assert transfer["robust"]["bank"] == adaptive["robust"]["bank"] and transfer["hand_prompt"] == ["a photo of a {}."]
    assert parse_as_coop(world.output / "log.txt", "accuracy") == round(transfer["clean"]["accuracy"], 1)
    world.run("TRAINER.ZEROSHOTCLIP.ENSEMBLE", "True", trainer="ZeroshotCLIP", output=world.folder / "ensemble")
    other = results(world.folder / "ensemble")["test_transfer_pgd2-ce@8-a8.json"]
    assert len(other["hand_prompt"]) == 8 and other["prompt"] != transfer["prompt"]


def test_a_record_says_whether_its_method_was_trained(world, monkeypatch):
    """By the trainer's name, so that records of earlier versions do; a trainer of another name says it itself."""
    from trainers.zsclip import ZeroshotCLIP

    world.run(trainer="ZeroshotCLIP")
    world.run(trainer="CoOp", output=world.folder / "coop")
    (zero, *_), (coop, *_) = results(world.output).values(), results(world.folder / "coop").values()
    assert "trained" not in zero and not records.is_trained(zero) and "trained" not in coop and records.is_trained(coop)
    monkeypatch.setattr(records, "UNTRAINED", ())
    assert ZeroshotCLIP.trained is False
    world.run(trainer="ZeroshotCLIP", output=world.folder / "again")
    again = next(iter(results(world.folder / "again").values()))
    assert again["trained"] is False and not records.is_trained(again)


def test_best_validation_model_is_chosen_and_loaded(world):
    world.run("TEST.FINAL_MODEL", "best_val")
    assert (world.output / "prompt_learner" / "model-best.pth.tar").is_file()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (("EVAL.ATTACKS", "('pdg40@16',)"), "Did you mean 'pgd'"),
        (("BANK.ATTACK", "pgd10-fkl@0.03"), "write 7.65"),
        (("EVAL.PROTOCOLS", "('adaptiv',)"), "Did you mean 'adaptive'"),
        (("TRAINER.ADVPT.N_CTX", "90"), "context vectors do not fit"),
        (("TRAINER.ADVPT.N_CTXX", "3", "OPTIM.LRR", "1"), "did you mean OPTIM.LR?"),
        (("MODEL.BACKBONE.NAME", "ViT-B/61", "MODEL.WEIGHTS", ""), "Did you mean 'ViT-B/16'"),
        (("MODEL.WEIGHTS", "/nowhere.pt"), "no such file"),
        (("INPUT.INTERPOLATION", "cubic"), "bicubic"),
        (("DATASET.NAME", "TinyPhoto"), "TinyPhotos"),
        (("INPUT.SIZE", "(24, 24)"), 'INPUT.SIZE is (24, 24), but tiny reads 16 x 16 pixels; set INPUT.SIZE "(16,16)"'),
        (("OPTIM.LR", "-1"), "OPTIM.LR is -1.0; expected a number of at least 0"),
        (("DATALOADER.TRAIN_X.BATCH_SIZE", "0"), "DATALOADER.TRAIN_X.BATCH_SIZE is 0; expected a number of at least 1"),
        (("DATALOADER.K_TRANSFORMS", "2"), "DATALOADER.K_TRANSFORMS is 2; expected 1"),
        (("OPTIM.SGD_NESTEROV", "True", "OPTIM.MOMENTUM", "0"), "OPTIM cannot be used: Nesterov"),
        (("OPTIM.NAME", "adam", "OPTIM.ADAM_BETA1", "1"), "OPTIM cannot be used: Invalid beta"),
        (("TRAINER.ADVPT.CLASS_TOKEN_POSITION", "start"), "CLASS_TOKEN_POSITION"),
        (("--verbose",), "put flags first"),
        (("BANK.DIR", "caf\udce9"), r"the name 'caf\xe9' is not UTF-8"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(world, bad, says):
    code, printed = world.call(*bad)
    assert code == 2 and says in printed and "Traceback" not in printed


@pytest.mark.parametrize("trainer", ("AdvPT", "CoOp", "APT", "FAP", "TradesFT", "ZeroshotCLIP", "LinearProbe"))
@pytest.mark.parametrize("size", ("(8, 8)", "(32, 32)", "(16, 24)"))
def test_images_of_another_size_than_clips_are_refused_before_any_is_read(world, trainer, size):
    code, printed = world.call("INPUT.SIZE", size, trainer=trainer)
    assert code == 2 and f"INPUT.SIZE is {size}, but tiny reads 16 x 16 pixels" in printed
    assert not list(world.folder.glob("banks/**/*.safetensors"))


@pytest.mark.parametrize("trainer", ("CoOp", "APT", "TradesFT"))
def test_training_on_images_refuses_values_that_no_loader_can_have(world, trainer):
    code, printed = world.call("DATALOADER.K_TRANSFORMS", "2", "INPUT.RRCROP_SCALE", "(0.9, 0.1)", trainer=trainer)
    assert code == 2 and "K_TRANSFORMS is 2; expected 1" in printed and "RRCROP_SCALE is (0.9, 0.1)" in printed


def test_coops_literal_command_line(world):
    """main.sh of CoOp, word for word, with our yaml names."""
    import train

    config = world.folder / "trainers" / "CoOp" / "tiny.yaml"
    config.parent.mkdir(parents=True)
    shutil.copy(world.folder / "tiny.yaml", config)
    argv = (
        f"--root {world.folder}/data --seed 1 --trainer CoOp --dataset-config-file {world.folder}/set.yaml "
        f"--config-file {config} --output-dir {world.folder}/out "
        "TRAINER.COOP.N_CTX 16 TRAINER.COOP.CSC False TRAINER.COOP.CLASS_TOKEN_POSITION end DATASET.NUM_SHOTS 1 "
        f"MODEL.WEIGHTS {world.weights} MODEL.ACTIVATION quickgelu BANK.DIR {world.folder}/banks"
    ).split()
    assert train.main(argv) == 0
    assert parse_as_coop(world.folder / "out" / "log.txt", "accuracy") >= 0


def test_default_output_folder_follows_coop(world, monkeypatch):
    import train

    monkeypatch.chdir(world.folder)
    argv = world.argv("EVAL.ATTACKS", "()", "DATASET.NUM_SHOTS", "2")
    at = argv.index("--output-dir")
    assert train.main(argv[:at] + argv[at + 2 :]) == 0
    run = world.folder / "output/tinyphotos/AdvPT/tiny_2shots/nctx4_cscFalse_ctpend/seed1"
    assert (run / "records" / "test_clean.json").is_file()


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


def test_as_a_plugin_in_somebody_elses_checkout(world, tmp_path):
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
        [sys.executable, "train.py", "--root", str(world.folder / "data"), "--output-dir", str(tmp_path / "out"),
         "--config-file", str(world.folder / "tiny.yaml"), "MODEL.WEIGHTS", str(world.weights), "SEED", "1",
         "MODEL.ACTIVATION", "quickgelu", "BANK.DIR", str(tmp_path / "b")],
        cwd=checkout, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "* robust_accuracy:" in done.stdout and len(results(tmp_path / "out")) == 4


def test_our_schedule_steps_in_where_the_hosts_does_not_run(world, monkeypatch):
    import trainers.advpt as module

    world.run()

    def broken(*args):
        raise TypeError("LRScheduler.__init__() takes from 2 to 3 positional arguments but 4 were given")

    monkeypatch.setattr(module, "build_lr_scheduler", broken)
    printed = world.run(output=world.folder / "own")
    assert "using our own" in printed
    assert torch.equal(context(world.output), context(world.folder / "own"))


def test_images_already_in_the_unit_range_are_left_alone(world):
    """APT-style configs leave ``normalize`` out; CoOp-style ones have it. Both tune on the same pixels."""
    plain = ("INPUT.TRANSFORMS", "('center_crop',)")
    world.run(*plain, trainer="CoOp")
    world.run("INPUT.TRANSFORMS", "('center_crop','normalize')", trainer="CoOp", output=world.folder / "norm")
    torch.testing.assert_close(context(world.output), context(world.folder / "norm"), atol=1e-5, rtol=1e-4)


def test_every_shipped_yaml_resolves_to_what_its_name_says():
    from dassl.engine import TRAINER_REGISTRY

    import train
    from trainers.attacked import AttackedTrainer

    names = {"vit_b16": "ViT-B/16", "vit_b32": "ViT-B/32", "vit_l14": "ViT-L/14", "rn50": "RN50", "rn101": "RN101"}
    for path in sorted((ROOT / "configs" / "trainers").glob("*/*.yaml")):
        trainer, backbone = path.parent.name, path.stem.removesuffix("_released").removesuffix("_imagenet")
        cfg = train.setup_cfg(train.parse_args(["--trainer", trainer, "--config-file", str(path)]))
        expected = names.get(backbone, "DemoCLIP")
        assert expected == cfg.MODEL.BACKBONE.NAME, path
        assert cfg.INPUT.INTERPOLATION == "bicubic"
        if backbone in names:  # where the peers' authors have it, normalisation is inside the model
            peer = issubclass(TRAINER_REGISTRY.get(trainer), AttackedTrainer) or trainer.startswith("TAPT")
            assert ("normalize" in cfg.INPUT.TRANSFORMS) != peer, path
        if trainer == "AdvPT" and backbone in ("vit_b16", "vit_l14"):  # the paper's settings
            assert cfg.TRAINER.ADVPT.N_CTX == 32 and cfg.OPTIM.NAME == "sgd" and cfg.OPTIM.LR_SCHEDULER == "cosine"
            assert {"vit_b16": 0.005, "vit_l14": 0.002}[backbone] == cfg.OPTIM.LR
            imagenet = "imagenet" in path.stem
            assert (0 if path.stem.endswith("_imagenet") else 1) == cfg.OPTIM.WARMUP_EPOCH, path
            assert ((5, 512) if imagenet else (100, 32)) == (cfg.OPTIM.MAX_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE)
            assert (cfg.BANK.ATTACK, tuple(cfg.EVAL.ATTACKS)) == ("pgd10-fkl@8", ("pgd40-fkl@16",))


def test_a_prompt_from_elsewhere_is_evaluated(world):
    from advpt.prompts import exchange

    world.run()
    exchange.write_run(exchange.read(world.output), world.folder / "given")
    flags = ("--eval-only", "--model-dir", str(world.folder / "given"))
    world.run(flags=flags, output=world.folder / "eval")
    mine, theirs = results(world.output), results(world.folder / "eval")
    assert [r["prompt"] for r in mine.values()] == [r["prompt"] for r in theirs.values()]


def test_a_prompt_is_evaluated_over_other_classes_unless_it_is_class_specific(world):
    world.run()
    flags = ("--eval-only", "--model-dir", str(world.output))
    world.run("DATASET.SUBSAMPLE_CLASSES", "base", flags=flags, output=world.folder / "base")
    assert results(world.folder / "base")["test_transfer_pgd2-fkl@8-a5.json"]["clean"]["n"] == 8  # two of three classes
    world.run("TRAINER.ADVPT.CSC", "True", output=world.folder / "csc")
    flags = ("--eval-only", "--model-dir", str(world.folder / "csc"))
    code, printed = world.call(
        "TRAINER.ADVPT.CSC", "True", "DATASET.SUBSAMPLE_CLASSES", "base", flags=flags, output=world.folder / "csc_base"
    )
    assert code == 2 and "fits only the class list it was tuned on" in printed


def test_a_compiled_run_is_close_and_has_banks_of_its_own(world, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    world.run("EVAL.ATTACKS", "()")
    plain = next((world.folder / "banks").glob("TinyPhotos/tiny/*/manifest.json")).parents[1]
    before = {path.name for path in plain.iterdir()}
    world.run("EVAL.ATTACKS", "()", "MODEL.COMPILE", "True", output=world.folder / "compiled")
    assert torch.allclose(context(world.output), context(world.folder / "compiled"), atol=1e-4)
    assert len({path.name for path in plain.iterdir()} - before) == 2  # of training and test images


# --- what nothing reads, what cannot be told apart, what is chosen on ------------------------------------------------


def folders(where: Path, names: tuple[str, ...], parts: dict[str, int]) -> Path:
    """A data set of one's own: so many pictures of every class in every part."""
    rng = np.random.default_rng(0)
    for part, n in parts.items():
        for label, name in enumerate(names):
            for i in range(n):
                path = where / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 120, (18, 20, 3)) + 60 * np.eye(3, dtype=int)[label % 3]
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return where


def own_data(world, names=("red fox", "owl", "sea"), **parts) -> list[str]:
    """The command line of a run on such a set; by default 5 training and 4 test pictures a class."""
    where = folders(world.folder / "own", names, parts or {"train": 5, "test": 4})
    (world.folder / "own.yaml").write_text('DATASET: {NAME: "ImageFolder"}\n')
    return ["--root", str(where), "--dataset-config-file", str(world.folder / "own.yaml")]


def first(folder: Path) -> dict:
    return next(iter(results(folder).values()))


@pytest.mark.parametrize(
    "names", [("red_fox", "red fox", "owl"), ("Crane", "crane", "owl"), ("crane", " crane", "owl")]
)
def test_two_classes_with_one_prompt_are_named(world, names):
    printed = world.run(flags=own_data(world, names))
    one, other = sorted(names[:2])
    said = f"one prompt for several classes: {one!r} (label {sorted(names).index(one)}), {other!r}"
    assert printed.index(said) < printed.index("epoch [1/3]"), "before it is tuned"
    assert any(said in text for text in first(world.output)["warnings"])
    world.run(flags=own_data(world, names), trainer="LinearProbe", output=world.folder / "probe")
    assert not any("one prompt" in text for text in first(world.folder / "probe")["warnings"]), "it looks at no name"
    world.run("TRAINER.ADVPT.CSC", "True", flags=own_data(world, names), output=world.folder / "csc")
    assert not any("one prompt" in text for text in first(world.folder / "csc")["warnings"]), "each has its own"
    world.run("TRAINER.ADVPT.CSC", "True", flags=own_data(world, names), trainer="ZeroshotCLIP",
              output=world.folder / "zs")  # fmt: skip
    assert any(said in text for text in first(world.folder / "zs")["warnings"])


def test_two_labels_of_one_name_are_named(world):
    from advpt.detectors import same_prompts

    assert same_prompts(["crane", "owl", "crane"], [1, 2, 1]) == [
        "one prompt for several classes: 'crane' (label 0), 'crane' (label 2) read the same, so none of them can be "
        "told from the others; give them different names"
    ]
    assert same_prompts(["a"] * 8, [0] * 8)[0].startswith(
        "one prompt for several classes: 'a' (label 0), 'a' (label 1), 'a' (label 2), 'a' (label 3), 'a' (label 4) and "
        "3 more read the same"
    )
    assert same_prompts(["a", "b"], [0, 1]) == []


def test_files_of_a_class_that_are_left_out_are_in_the_record(world):
    flags = own_data(world)
    (world.folder / "own" / "test" / "owl" / "x.heic").touch()
    printed = world.run(flags=flags, trainer="ZeroshotCLIP")
    said = "ImageFolder: test: 1 files in class folders are left out"
    assert said in printed and any(text.startswith(said) for text in first(world.output)["warnings"])


def ignored(folder: Path) -> list[str]:
    return [text for text in first(folder)["warnings"] if "changes nothing" in text]


IGNORED = "TRAINER.COOP.N_CTX changes nothing: AdvPT does not read it, it reads TRAINER.ADVPT.N_CTX"


def test_settings_of_another_trainers_node_are_named(world):
    printed = world.run("TRAINER.COOP.N_CTX", "16", "TRAINER.APT.PROMPT_MODE", "constant")
    assert ignored(world.output) == [
        IGNORED,
        "TRAINER.APT.PROMPT_MODE changes nothing: AdvPT does not read it, it reads TRAINER.ADVPT and "
        "TRAINER.ZEROSHOTCLIP",
    ]
    assert printed.index(IGNORED) < printed.index("epoch [1/3]")
    more = ("TRAINER.COOP.N_CTX", "4", "TRAINER.ADVPT.N_CTX", "4")
    world.run(*more, output=world.folder / "both")
    assert not ignored(world.folder / "both"), "a script for several trainers gives both"
    world.run("TRAINER.COOP.N_CTX", "4", "TRAINER.COOP.CLEAN_BANK", "True", trainer="CoOp",
              output=world.folder / "coop")  # fmt: skip
    assert not ignored(world.folder / "coop")


def test_a_yaml_for_another_trainer_is_named_and_one_for_both_is_not(world):
    text = (world.folder / "tiny.yaml").read_text()
    assert "ADVPT: {N_CTX: 4}, COOP" in text
    world.run(trainer="CoOp")
    assert not ignored(world.output)
    (world.folder / "tiny.yaml").write_text(text.replace("ADVPT: {N_CTX: 4}, COOP", "COOP"))
    world.run(output=world.folder / "other")
    assert ignored(world.folder / "other") == [IGNORED, IGNORED.replace("N_CTX", "PREC")]
    pairs = ("TRAINER.ADVPT.N_CTX", "4", "TRAINER.ADVPT.PREC", "fp32")  # as plans give what the yaml has elsewhere
    world.run(*pairs, output=world.folder / "plan")
    assert not ignored(world.folder / "plan")
    world.run(trainer="ZeroshotCLIP", output=world.folder / "zs")
    assert not ignored(world.folder / "zs"), "CoOp's own command for zero-shot CLIP names CoOp's yaml"


class Watched(CfgNode):
    """A node that remembers which of its names were asked for."""

    asked: set[str] = set()  # noqa: RUF012 - of the class, as nodes are copied

    def __getitem__(self, name):
        self.asked.add(name)
        return super().__getitem__(name)

    def __getattr__(self, name):
        self.asked.add(name)
        return super().__getattr__(name)


def every_trainer() -> list[str]:
    return sorted(path.name for path in (ROOT / "configs" / "trainers").iterdir() if path.is_dir())


@pytest.mark.parametrize("name", every_trainer())
def test_a_trainer_reads_the_nodes_that_it_names(world, name, monkeypatch):
    from dassl.engine import TRAINER_REGISTRY, build_trainer

    import datasets  # noqa: F401
    import trainers  # noqa: F401

    cfg = train.setup_cfg(train.parse_args(world.argv(trainer=name)))
    cfg.defrost()
    nodes = TRAINER_REGISTRY.get(name).nodes()
    for node in nodes:
        if "DEPTH_VISION" in cfg.TRAINER[node]:
            cfg.TRAINER[node].DEPTH_VISION = cfg.TRAINER[node].DEPTH_TEXT = 1
        if "BLOCKS" in cfg.TRAINER[node]:
            cfg.TRAINER[node].BLOCKS = (0,)
    assert {"TAPT"} & set(nodes) == ({"TAPT"} if name.startswith("TAPT") else set())
    cfg.TRAINER = Watched(cfg.TRAINER)
    known = {each for each in cfg.TRAINER if each != "NAME"}
    cfg.freeze()
    Watched.asked = set()
    monkeypatch.setattr("trainers.advpt.require_ranges", lambda *_: None)  # which looks at every setting there is
    built = build_trainer(cfg)
    if name == "LinearProbe":
        built.test = lambda: None  # records list all settings
        built.train()  # which reads its node
    assert Watched.asked & known == set(nodes)


@pytest.mark.parametrize("words", ["False", "false", "None", "", "0", " "])
def test_words_that_are_none(world, words):
    world.run("TRAINER.ADVPT.CTX_INIT", words, "TRAINER.ADVPT.N_CTX", "6", "OPTIM.MAX_EPOCH", "1", "EVAL.ATTACKS", "()")
    assert context(world.output, 1).shape == (6, 64), "six vectors drawn at random, and not one of a word"


def test_words_that_are_none_in_a_yaml_and_true_is_refused(world):
    path = world.folder / "tiny.yaml"
    text = path.read_text()
    for n, value in enumerate(("False", "null", "0", "")):
        path.write_text(text.replace("ADVPT: {N_CTX: 4}", f"ADVPT: {{N_CTX: 4, CTX_INIT: {value}}}"))
        output = world.folder / f"run{n}"
        world.run("OPTIM.MAX_EPOCH", "1", "EVAL.ATTACKS", "()", output=output)
        assert context(output, 1).shape == (4, 64)
    code, printed = world.call("TRAINER.ADVPT.CTX_INIT", "True", output=world.folder / "true")
    assert code == 2 and "CTX_INIT is True; give the first words" in printed


@pytest.mark.parametrize("trainer", ["AdvPT", "CoOp", "AdvTrain"])
def test_best_val_without_validation_images_is_refused(world, trainer):
    best, flags = ("TEST.FINAL_MODEL", "best_val"), own_data(world)
    code, printed = world.call(*best, flags=flags, trainer=trainer)
    assert code == 2 and "chooses a checkpoint on the validation split of ImageFolder, and there is none" in printed
    assert "Use TEST.FINAL_MODEL last_step" in printed and "Evaluate on" not in printed
    assert not (world.folder / "banks").exists(), "before anything is made"
    (world.folder / "own" / "val").mkdir()
    assert world.call(*best, flags=flags, trainer=trainer)[0] == 2, "an empty folder is none"


def test_best_val_on_images_of_the_test_split_is_refused(world, monkeypatch):
    """ImageNet's validation list is its test list."""
    from small_world import TinyPhotos

    built = TinyPhotos.__init__

    def shared(self, cfg):
        built(self, cfg)
        self._val = self._test

    monkeypatch.setattr(TinyPhotos, "__init__", shared)
    code, printed = world.call("TEST.FINAL_MODEL", "best_val")
    assert code == 2 and "and 12 of its 12 images are test images: it would choose on the test set" in printed
    monkeypatch.setattr(TinyPhotos, "__init__", built)
    world.run("TEST.FINAL_MODEL", "best_val", output=world.folder / "sound")
    flags = ("--eval-only", "--model-dir", str(world.folder / "sound"))
    monkeypatch.setattr(TinyPhotos, "__init__", shared)
    world.run("TEST.FINAL_MODEL", "best_val", output=world.folder / "eval", flags=flags)  # nothing is chosen
