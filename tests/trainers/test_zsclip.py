"""Zero-shot CLIP: no training, and its own prompt is the attacked one."""

from __future__ import annotations

from tests.helpers.workspace import parse_as_coop, results


def test_zero_shot_needs_no_training_and_its_prompt_is_the_attacked_one(workspace):
    workspace.run(trainer="ZeroshotCLIP")
    found = results(workspace.output)
    transfer, adaptive = found["test_transfer_pgd2-ce@8-a8.json"], found["test_adaptive_pgd2-ce@8-a8.json"]
    assert transfer["robust"]["bank"] == adaptive["robust"]["bank"] and transfer["hand_prompt"] == ["a photo of a {}."]
    assert parse_as_coop(workspace.output / "log.txt", "accuracy") == round(transfer["clean"]["accuracy"], 1)
    workspace.run("TRAINER.ZEROSHOTCLIP.ENSEMBLE", "True", trainer="ZeroshotCLIP", output=workspace.folder / "ensemble")
    other = results(workspace.folder / "ensemble")["test_transfer_pgd2-ce@8-a8.json"]
    assert len(other["hand_prompt"]) == 8 and other["prompt"] != transfer["prompt"]
