"""CoOp: prompts tuned on images or on a bank of clean ones."""

from __future__ import annotations

from tests.helpers.workspace import results


def test_coop_tunes_on_images_or_on_a_clean_bank(workspace):
    printed = workspace.run(trainer="CoOp")
    assert "epoch [3/3]" in printed
    result = results(workspace.output)["test_transfer_pgd2-fkl@8-a5.json"]
    assert result["training"] == {} and result["trainer"] == "CoOp"
    workspace.run("TRAINER.COOP.CLEAN_BANK", "True", trainer="CoOp", output=workspace.folder / "bank")
    result = results(workspace.folder / "bank")["test_transfer_pgd2-fkl@8-a5.json"]
    assert result["training"]["images"] == 15 and len(result["training"]["bank"]) == 64
