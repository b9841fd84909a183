"""The attacker who has the image tower as it was before a run trained it."""

from __future__ import annotations

import json

import torch

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
