"""Told to stop in the middle of an epoch: what is saved, what is said, and that the rest is as if nothing had been."""

from __future__ import annotations

import signal

import pytest

from advpt.checkpoints import load_checkpoint
from advpt.signals import TERMINATED
from tests.helpers.injection import at_full_length
from tests.helpers.stopping import SETTINGS, stop_at
from tests.helpers.workspace import Workspace, learned


@pytest.mark.parametrize(
    ("trainer", "every"),  # epochs between Dassl's checkpoints
    [("AdvPT", "1"), ("CoOp", "2"), *(pytest.param(*x, marks=at_full_length) for x in (("AdvPT", "2"), ("CoOp", "1")))],
)
def test_stopped_in_every_epoch(workspace: Workspace, tally, trainer, every):
    more = (*SETTINGS, "TRAIN.CHECKPOINT_FREQ", every)
    workspace.run(*more, trainer=trainer)
    whole, stopped = learned(workspace.output, 3), workspace.folder / "stopped"
    for epoch, batch in ((0, 0), (0, 2), (1, 1), (2, 2)):  # three batches make an epoch
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, epoch, batch)
            status, printed = workspace.call(*more, trainer=trainer, output=stopped)
        assert status == TERMINATED and "the same command continues" in printed and "Traceback" not in printed
        state = load_checkpoint(stopped / "rolling.pth.tar")
        assert (state["epoch"], state["batches"]) == (epoch, batch + 1)
    printed = workspace.run(*more, trainer=trainer, output=stopped)
    assert "continuing epoch 3 after batch 3" in printed
    wrong = learned(stopped, 3) != whole
    assert not (stopped / "rolling.pth.tar").exists(), "done: it is of no use"
    tally("SIGTERM in the middle of an epoch", 4, wrong=wrong)


def test_ctrl_c_is_answered_in_the_same_way(workspace: Workspace):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 1, 0, signal.SIGINT)
        status, printed = workspace.call(*SETTINGS)
    assert status == 130 and load_checkpoint(workspace.output / "rolling.pth.tar")["batches"] == 1
    workspace.run(*SETTINGS)
    workspace.run(*SETTINGS, output=workspace.folder / "whole")
    assert learned(workspace.output, 3) == learned(workspace.folder / "whole", 3)
