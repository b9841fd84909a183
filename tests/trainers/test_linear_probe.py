"""The linear probe in whole runs."""

from __future__ import annotations

import functools
import re

import numpy as np
from sklearn.linear_model import LogisticRegression

from tests.helpers.records import outcome
from tests.helpers.workspace import own_data, results

TINY = ("OPTIM.NAME", "adamw", "OPTIM.LR", "1e-3", "OPTIM.MAX_EPOCH", "2", "OPTIM.WARMUP_EPOCH", "-1",
        "EVAL.ATTACKS", "('pgd2-fkl@8','pgd2-ce@8')")  # fmt: skip


def test_the_linear_probe_is_scikit_learns(workspace):
    workspace.run(*TINY, "TRAINER.LINEARPROBE.C", "0.5", trainer="LinearProbe")
    found = results(workspace.output)
    name = "test_transfer_pgd2-fkl@8-a5.json"
    assert found[name]["training"] == {"images": 15, "c": 0.5, "converged": True}

    from advpt.bank.store import open_bank

    banks = [open_bank(p.parent, None, verify=True) for p in (workspace.folder / "banks").glob("**/manifest.json")]
    clean = {b.ids[0].split("/")[1]: b for b in banks if b.spec["adversarial_set"]["attack"] is None}
    fkl = next(b for b in banks if (b.spec["adversarial_set"]["attack"] or {}).get("objective") == "fkl")
    x, y = clean["train"].embeddings.double().numpy(), clean["train"].labels.numpy()
    by_hand = LogisticRegression(C=0.5, max_iter=1000).fit(x, y)
    for bank, part in ((clean["test"], "clean"), (fkl, "robust")):
        right = by_hand.predict(bank.embeddings.double().numpy()) == bank.labels.numpy()
        assert np.array_equal(outcome(found[name][part]), right)
    assert "test_adaptive_pgd2-ce@8-a8.json" in found, "through the head"
    flags = ("--eval-only", "--model-dir", str(workspace.output))
    workspace.run(*TINY, trainer="LinearProbe", output=workspace.folder / "eval", flags=flags)
    assert results(workspace.folder / "eval")[name]["robust"] == found[name]["robust"]


def test_the_probe_says_what_c_was_chosen_on(workspace):
    probe = functools.partial(workspace.run, "EVAL.ATTACKS", "()", trainer="LinearProbe")
    printed = probe()
    assert re.search(r"C = \S+, the best of \d+, chosen on 6 images: the validation split\n", printed)
    (found,) = results(workspace.output).values()
    assert found["training"]["c_chosen_on"] == "6 images: the validation split" and not found["warnings"]

    printed = probe(flags=own_data(workspace), output=workspace.folder / "part")
    assert "chosen on 3 images: every 5th training image of each class, which the probe is not fitted to" in printed
    (found,) = results(workspace.folder / "part").values()
    assert found["training"]["c_chosen_on"].startswith("3 images: every 5th training image")
    assert found["training"]["images"] == 12 and not found["warnings"]

    printed = probe("DATASET.NUM_SHOTS", "2", flags=own_data(workspace), output=workspace.folder / "few")
    assert "chosen on 6 images: the training images themselves" in printed
    (found,) = results(workspace.folder / "few").values()
    (said,) = found["warnings"]
    assert said.startswith("C of the linear probe was chosen on the training images themselves")
    assert "C = 0.5, as TRAINER.LINEARPROBE.C says" in probe(
        "TRAINER.LINEARPROBE.C", "0.5", output=workspace.folder / "c"
    )


def test_a_probe_and_zero_shot_do_not_care_about_the_context_of_prompts(workspace):
    for trainer in ("LinearProbe", "ZeroshotCLIP"):
        workspace.run(
            "TRAINER.ADVPT.N_CTX", "0", "EVAL.ATTACKS", "()", trainer=trainer, output=workspace.folder / trainer
        )


def test_the_probe_uses_the_images_that_prompts_use_and_few_shots(workspace):
    workspace.run(*TINY, trainer="ZeroshotCLIP", output=workspace.folder / "zs")
    workspace.run(*TINY, "DATASET.NUM_SHOTS", "2", trainer="LinearProbe")
    name = "test_transfer_pgd2-fkl@8-a5.json"
    probe, vanilla = results(workspace.output)[name], results(workspace.folder / "zs")[name]
    assert probe["robust"]["bank"] == vanilla["robust"]["bank"] and probe["training"]["images"] == 6
    code, printed = workspace.call(*TINY, trainer="LinearProbe", output=workspace.folder / "e",
                               flags=("--eval-only", "--model-dir", str(workspace.folder / "zs")))  # fmt: skip
    assert code == 2 and "no linear probe at" in printed
