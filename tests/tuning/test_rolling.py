"""The rolling checkpoint: whose it is, when it counts, and that only whole batches are saved."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
import torch

from advpt.checkpoints import load_checkpoint
from advpt.detectors import LossWatch
from advpt.errors import WeightsError
from advpt.signals import Terminated
from advpt.tuning.rolling import RollingCheckpoint
from tests.helpers.stopping import SETTINGS, stop_at
from tests.helpers.workspace import Workspace


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"parts": {}}, {"now": {}}, {"before": 3}, {"epoch": "x"}, {"batches": None}, {"losses": [1]}],
    ids=lambda change: next(iter(change)),
)
def test_a_rolling_checkpoint_of_something_else_is_refused(workspace: Workspace, change):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 1, 0)
        workspace.call(*SETTINGS)
    path = workspace.output / "rolling.pth.tar"
    torch.save(load_checkpoint(path) | change, path)
    status, printed = workspace.call(*SETTINGS)
    assert status == 2 and "rolling.pth.tar" in printed and "delete it" in printed and "Traceback" not in printed
    path.unlink()
    workspace.run(*SETTINGS)


def test_one_that_is_behind_is_deleted(workspace: Workspace):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 0, 1)
        workspace.call(*SETTINGS)
    old = (workspace.output / "rolling.pth.tar").read_bytes()
    workspace.run(*SETTINGS)
    (workspace.output / "rolling.pth.tar").write_bytes(old)
    assert "continuing" not in workspace.run(*SETTINGS) and not (workspace.output / "rolling.pth.tar").exists()


def test_a_damaged_rolling_checkpoint_is_a_sentence(workspace: Workspace):
    workspace.output.mkdir(exist_ok=True)
    (workspace.output / "rolling.pth.tar").write_bytes(b"\x80\x04torn")
    status, printed = workspace.call(*SETTINGS)
    assert status == 2 and "rolling.pth.tar cannot be read" in printed
    with pytest.raises(WeightsError):
        load_checkpoint(workspace.output / "rolling.pth.tar")


class Small:
    """As much of a trainer as the rolling checkpoint sees."""

    epoch = start_epoch = 0
    num_batches, batch_idx, max_epoch = 4, 0, 1

    def __init__(self) -> None:
        model = torch.nn.Linear(2, 1)
        self._models, self._optims = {"m": model}, {"m": torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)}
        self._scheds = {"m": None}

    def get_model_names(self) -> list[str]:
        return ["m"]

    def forward_backward(self, batch: float) -> dict[str, float]:
        self._optims["m"].zero_grad()
        loss = self._models["m"](torch.tensor([batch, 1.0])).square().sum()
        loss.backward()
        self._optims["m"].step()
        return {"loss": loss.item()}


def test_runs_that_are_tuned_together_are_all_saved(tmp_path):
    """One signal, two runs: each has its own state after the batches that it has done."""
    runs = [Small(), Small()]
    kept = [RollingCheckpoint(tmp_path / f"{i}.pth.tar", LossWatch()) for i in range(2)]
    with pytest.raises(Terminated), contextlib.ExitStack() as stack:
        epochs = [stack.enter_context(rolling.epoch(run)) for run, rolling in zip(runs, kept)]
        for i in range(4):
            for number, (run, epoch) in enumerate(zip(runs, epochs)):
                assert epoch.start(i)
                if (i, number) == (2, 1):
                    os.kill(os.getpid(), signal.SIGTERM)
                epoch.finish(i, run.forward_backward(float(i)))
    for run, rolling in zip(runs, kept):
        again, whole = Small(), run._models["m"].state_dict()
        assert load_checkpoint(rolling.path)["batches"] == 3
        other = RollingCheckpoint(rolling.path, LossWatch())
        assert other.restore(again) == 0 and len(other.watch.batches["loss"]) == 3
        assert all(torch.equal(whole[name], value) for name, value in again._models["m"].state_dict().items())


def test_a_batch_that_was_cut_in_two_is_not_saved(tmp_path):
    run, rolling = Small(), RollingCheckpoint(tmp_path / "r.pth.tar", LossWatch())
    with pytest.raises(KeyboardInterrupt), rolling.epoch(run) as epoch:
        assert epoch.start(0)
        run.forward_backward(1.0)
        raise KeyboardInterrupt  # a second Ctrl-C, say, after the step and before the schedule's
    assert not rolling.path.exists()
