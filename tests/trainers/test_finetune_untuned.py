"""The attacker who has the image tower as it was before a run trained it."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advpt.bank.store import open_bank
from advpt.evaluation import record as records
from advpt.evaluation.protocols import KNOWS
from tests.helpers.workspace import results

ATTACKS = ("EVAL.ATTACKS", "('pgd2-ce@8:untuned','pgd2-ce@8:transfer')")
TRAINING = ("OPTIM.NAME", "adamw", "OPTIM.LR", "1e-3", "OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "-1",
            "TRAINER.FARE.ATTACK", "pgd2-l2@8/a4")  # fmt: skip


def banks(workspace, before=frozenset()) -> dict:
    paths = set((workspace.folder / "banks").glob("**/manifest.json"))
    return {path: json.loads(path.read_text())["spec"] for path in paths - set(before)}


def test_images_are_made_on_the_tower_before_tuning_and_embedded_by_the_tuned_one(workspace):
    workspace.run(*ATTACKS, trainer="ZeroshotCLIP", output=workspace.folder / "zs")
    plain = results(workspace.folder / "zs")
    clip = plain["test_transfer_pgd2-ce@8-a8.json"]["backbone"]["image"]
    untuned, transfer = (plain[f"test_{name}_pgd2-ce@8-a8.json"]["robust"] for name in ("untuned", "transfer"))
    assert untuned == transfer, "where nothing is tuned both are the same images"
    before = banks(workspace)
    workspace.run(*ATTACKS, *TRAINING, trainer="FARE")
    tuned = results(workspace.output)
    attacked = {path: s for path, s in banks(workspace, before).items() if s["adversarial_set"]["attack"] is not None}
    made, own_banks = list(attacked.values()), list(attacked)
    own = tuned["test_untuned_pgd2-ce@8-a8.json"]["backbone"]["image"]
    assert own != clip and {spec["encoder"]["image"] for spec in made} == {own}
    assert sorted(spec["adversarial_set"]["attacked"]["image"] for spec in made) == sorted((clip, own))
    assert len({json.dumps(spec["adversarial_set"]["attacked"]["text"]) for spec in made}) == 1, "one prompt"
    embeddings = [open_bank(path.parent, None, verify=True).embeddings for path in own_banks]
    assert not torch.equal(*embeddings), "other images under the same encoder"
    times = records.read(workspace.output / "records" / "test_untuned_pgd2-ce@8-a8.json").observed.training
    assert times is not None and len(times.epochs) == 1, "seconds of training, without a curve"
    record = tuned["test_untuned_pgd2-ce@8-a8.json"]
    assert record["attacker_knows"] == KNOWS["untuned"] and record["protocol"] == "untuned"
    assert record["robust"]["bank"] != tuned["test_transfer_pgd2-ce@8-a8.json"]["robust"]["bank"]
    workspace.run(*ATTACKS, *TRAINING, trainer="FARE", output=workspace.folder / "again",
                  flags=("--eval-only", "--model-dir", str(workspace.output)))  # fmt: skip
    again = results(workspace.folder / "again")["test_untuned_pgd2-ce@8-a8.json"]
    assert again["robust"] == record["robust"], "an evaluation alone has the tower before tuning as well"


def test_where_the_model_enlarges_images_the_tower_before_tuning_does_too(workspace):
    rng = np.random.default_rng(0)
    for path in (workspace.folder / "data").glob("**/*.png"):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    native = (*ATTACKS, "EVAL.ATTACK_AT", "native", "EVAL.PICTURES", "1")
    workspace.run(*native, trainer="ZeroshotCLIP", output=workspace.folder / "zs")
    clip = results(workspace.folder / "zs")["test_transfer_pgd2-ce@8-a8.json"]["backbone"]["image"]
    before = banks(workspace)
    workspace.run(*native, *TRAINING, trainer="FARE")
    own = results(workspace.output)["test_untuned_pgd2-ce@8-a8.json"]["backbone"]["image"]
    attacked = [s["adversarial_set"]["attacked"]["image"] for s in banks(workspace, before).values()
                if s["adversarial_set"]["attack"] is not None]  # fmt: skip
    assert own != clip and sorted(attacked) == sorted((clip, own)), "the key says that the tower of before enlarges"
    assert len(list((workspace.output / "pictures").glob("*.png"))) == 3


def other_base(workspace) -> tuple[str, str]:
    """The same text tower with another image tower."""
    state = torch.load(workspace.weights, weights_only=True)
    path = workspace.folder / "other.pt"
    torch.save({k: v * 1.01 if k.startswith("visual.") else v for k, v in state.items()}, path)
    return "MODEL.WEIGHTS", str(path)


def test_an_evaluation_has_the_facts_of_the_training_and_the_tower_that_it_began_with(workspace, caplog):
    quick = (*TRAINING, "TRAINER.FARE.WARMUP_STEPS", "1")
    workspace.run(*ATTACKS, *quick, trainer="FARE")
    name = "test_transfer_pgd2-ce@8-a8.json"
    trained, other = results(workspace.output)[name], other_base(workspace)
    flags = ("--eval-only", "--model-dir", str(workspace.output))
    transfer = ("EVAL.ATTACKS", "('pgd2-ce@8:transfer',)")
    asked = ("TRAINER.FARE.ATTACK", "pgd3-l2@2/a1/uniform", "DATASET.NUM_SHOTS", "1", *other)
    caplog.clear()
    workspace.run(*transfer, *TRAINING, *asked, trainer="FARE", output=workspace.folder / "again", flags=flags)
    again = results(workspace.folder / "again")[name]
    facts = {key: value for key, value in again["training"].items() if key != "loaded"}
    assert facts == trained["training"] and facts["images"] == 15 and facts["warmup_steps"] == 1
    assert again["robust"] == trained["robust"] and "warm up" not in caplog.text

    code, printed = workspace.call(*ATTACKS, *asked, trainer="FARE", output=workspace.folder / "no", flags=flags)
    assert code != 0 and "was tuned from another CLIP: tiny with the image tower" in printed
    assert "protocol untuned" in printed and "Traceback" not in printed

    about = workspace.output / "image_encoder" / "prompt.json"
    beside = json.loads(about.read_text())
    about.write_text(json.dumps({k: v for k, v in beside.items() if k not in ("base", "training")}))
    workspace.run(*ATTACKS, *asked, trainer="FARE", output=workspace.folder / "old", flags=flags)
    assert results(workspace.folder / "old")[name]["training"]["images"] == 3, "a file of before does not say"
    about.write_text(json.dumps(beside | {"training": {"images": "many"}}))
    code, printed = workspace.call(*transfer, trainer="FARE", output=workspace.folder / "bad", flags=flags)
    assert code != 0 and "does not say what trained model.pth.tar-1" in printed


@pytest.mark.parametrize("place", ["in the first epoch", "after an epoch"])
def test_a_run_goes_on_from_its_own_base_alone(workspace, monkeypatch, place):
    from trainers.finetune import EncoderTrainer

    other, file = Path(other_base(workspace)[1]), workspace.folder / "base.pt"
    shutil.copyfile(workspace.weights, file)
    settings = (*TRAINING, "OPTIM.MAX_EPOCH", "2", "EVAL.ATTACKS", "()", "MODEL.WEIGHTS", str(file))
    real, steps = EncoderTrainer.forward_backward, []

    def stops(self, batch):
        steps.append(1)
        losses = real(self, batch)
        if len(steps) == (2 if place == "in the first epoch" else self.num_batches + 1):
            signal.raise_signal(signal.SIGINT)  # which waits for the end of the batch
        return losses

    monkeypatch.setattr(EncoderTrainer, "forward_backward", stops)
    assert workspace.call(*settings, trainer="FARE")[0] == 130
    monkeypatch.setattr(EncoderTrainer, "forward_backward", real)
    told = "was tuned from another CLIP: tiny with the image tower"
    shutil.copyfile(other, file)  # another tower under the same name
    code, printed = workspace.call(*settings, trainer="FARE")
    assert code != 0 and told in printed and "give another --output-dir" in printed
    flags = ("--resume", str(workspace.output))
    if place == "after an epoch":  # before there is nothing to resume elsewhere
        code, printed = workspace.call(*settings, trainer="FARE", output=workspace.folder / "two", flags=flags)
        assert code != 0 and told in printed
    about = Path(workspace.output, "image_encoder", "prompt.json")
    beside = json.loads(about.read_text())
    about.write_text(json.dumps({k: v for k, v in beside.items() if k != "base"}))
    workspace.run(*settings, trainer="FARE", output=workspace.folder / "three", flags=flags)  # a run of before
    about.write_text(json.dumps(beside))
    shutil.copyfile(workspace.weights, file)
    workspace.run(*settings, trainer="FARE")
    assert json.loads(about.read_text()) == beside
