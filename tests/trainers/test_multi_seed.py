"""Several seeds tuned in one batch give what each gives alone."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import train
from advpt.evaluation import record as records
from advpt.files import load_checkpoint
from tests.helpers.records import outcome
from trainers.multi_seed import backward


def together(workspace, *more, seeds="1,2,3", flags=(), **how) -> tuple[int, str]:
    words = workspace.argv(*more, flags=("--seeds", seeds, *flags), **how)
    at = words.index("--seed")
    del words[at : at + 2]
    return workspace.call_words(words)


def files(folder):
    return sorted(path.name for path in (folder / "records").glob("*.json"))


def context(folder, epoch=3):
    return load_checkpoint(folder / "prompt_learner" / f"model.pth.tar-{epoch}")["state_dict"]["ctx"]


def test_each_seed_has_the_folder_prompt_and_records_it_would_have_alone(workspace):
    code, printed = together(workspace)
    assert code == 0, printed
    for seed in (1, 2, 3):
        alone, beside = workspace.folder / f"alone{seed}", workspace.output / f"seed{seed}"
        workspace.run(seed=seed, output=alone)
        assert torch.allclose(context(alone), context(beside), atol=1e-6)
        assert files(alone) == files(beside)
        for name in files(alone):
            a, b = (records.read(folder / "records" / name).result.to_json() for folder in (alone, beside))
            assert b["seed"] == seed and b["training"]["together"] == [1, 2, 3] and "together" not in a["training"]
            for part in ("clean", "robust"):
                if a[part] is not None:
                    equal = np.mean(outcome(a[part]) == outcome(b[part]))
                    assert equal >= 0.995, (name, part)
        assert "* accuracy:" in (beside / "log.txt").read_text()
    assert not torch.allclose(context(workspace.output / "seed1"), context(workspace.output / "seed2"))
    assert len(re.findall(r"losses \S+ \S+ \S+\n", printed)) > 0


@pytest.mark.parametrize("csc", [False, True])
def test_losses_and_gradients_are_those_of_running_alone(workspace, csc):
    """Different seeds and different numbers of shots in one batch."""
    built = []
    for seed, shots in ((1, -1), (2, 2), (0, 1)):
        words = workspace.argv("TRAINER.ADVPT.CSC", str(csc), "DATASET.NUM_SHOTS", str(shots),
                           seed=seed, output=workspace.folder / f"s{seed}")  # fmt: skip
        args = train.parse_args(words)
        trainer = train.build(args, train.setup_cfg(args))
        trainer.prepare_training()
        built.append(trainer)
    batches = [next(iter(t.train_loader_x)) for t in built]
    losses = backward(built, batches)
    joint = [t.prompt_learner.ctx.grad.clone() for t in built]
    for trainer, batch, loss, gradient in zip(built, batches, losses, joint):
        trainer.prompt_learner.zero_grad()
        alone = trainer.loss(batch, trainer.encoder(trainer.prompt_learner().text))
        alone.backward()
        assert abs(loss - alone.item()) < 1e-5
        own = trainer.prompt_learner.ctx.grad
        assert (gradient - own).norm() < 1e-5 * own.norm()  # what the text encoder promises
    assert len({round(loss, 6) for loss in losses}) == 3


def test_interrupted_runs_go_on_together(workspace, monkeypatch):
    from trainers import advpt

    code, _ = together(workspace, output=workspace.folder / "whole")
    assert code == 0
    saved = advpt.PromptTrainer.after_epoch

    def stop_after_two(self):
        saved(self)
        if self.epoch == 1 and self.cfg.SEED == 2:  # seed 3 has done one epoch only
            raise KeyboardInterrupt

    monkeypatch.setattr(advpt.PromptTrainer, "after_epoch", stop_after_two)
    assert together(workspace)[0] == 130
    monkeypatch.setattr(advpt.PromptTrainer, "after_epoch", saved)
    code, printed = together(workspace)
    assert code == 0, printed
    for seed in (1, 2, 3):
        whole, again = context(workspace.folder / "whole" / f"seed{seed}"), context(workspace.output / f"seed{seed}")
        assert torch.allclose(whole, again, atol=1e-6)  # seed 3 was alone for an epoch: rounding differs
    code, printed = together(workspace, flags=("--skip-done",))
    assert code == 0 and printed.count("done already") == 3


def test_seeds_are_evaluated_in_one_process_each_from_its_own_folder(workspace):
    code, printed = together(workspace, seeds="1,2", flags=("--no-train",))  # an untrained run leaves no checkpoint
    assert code == 0, printed
    code, printed = together(workspace, seeds="1,2")
    assert code == 0, printed
    again = ("--eval-only", "--model-dir", str(workspace.output))
    code, printed = together(workspace, seeds="1,2", output=workspace.folder / "again", flags=again)
    assert code == 0, printed
    for seed in (1, 2):
        one, other = workspace.output / f"seed{seed}", workspace.folder / "again" / f"seed{seed}"
        assert files(one) == files(other)
        for name in files(one):
            a, b = (records.read(folder / "records" / name).result.to_json() for folder in (one, other))
            assert (a["seed"], a["prompt"], a["clean"], a["robust"]) == (seed, b["prompt"], b["clean"], b["robust"])
    code, printed = together(workspace, seeds="1,2", output=workspace.folder / "again", flags=(*again, "--skip-done"))
    assert code == 0 and printed.count("done already") == 2


@pytest.mark.parametrize(
    ("words", "how", "says"),
    [
        ((), {"trainer": "CoOp"}, "reads images while it trains"),
        ((), {"trainer": "ZeroshotCLIP"}, "cannot tune several seeds"),
        (("TRAINER.ADVPT.CLASS_TOKEN_POSITION", "middle"), {}, "'end' only"),
        ((), {"seeds": "1,x"}, "whole numbers"),
        ((), {"seeds": "2,-1"}, "0 or more"),
        ((), {"flags": ("--seed", "3")}, "does not go with --seed"),
    ],
)
def test_what_cannot_be_done_is_said(workspace, words, how, says):
    code, printed = together(workspace, *words, **how)
    assert code == 2 and says in printed, printed


def test_clean_banks_of_coop_go_together(workspace):
    code, printed = together(workspace, "TRAINER.COOP.CLEAN_BANK", "True", trainer="CoOp", seeds="1,2")
    assert code == 0, printed
    found = json.loads(next((workspace.output / "seed2" / "records").glob("*.json")).read_text())
    assert found["result"]["trainer"] == "CoOp" and found["result"]["training"]["together"] == [1, 2]
