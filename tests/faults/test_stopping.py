"""Told to stop in the middle of an epoch: what is saved, what is said, and that the rest is as if nothing had been."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
import torch
from injection import at_full_length
from small_world import World
from test_kills import learned

from advpt.detectors import LossWatch
from advpt.errors import WeightsError
from advpt.files import load_checkpoint
from advpt.signals import TERMINATED, Terminated, defer_signals, stoppable
from advpt.tuning.rolling import Rolling
from trainers.advpt import PromptTrainer

SETTINGS = ("OPTIM.MAX_EPOCH", "3", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "EVAL.ATTACKS", "()")


def stop_at(patch: pytest.MonkeyPatch, epoch: int, batch: int, number: int = signal.SIGTERM) -> None:
    """The process gets a signal while that batch is computed."""
    forward_backward = PromptTrainer.forward_backward

    def stopped(self, item):
        if (self.epoch, self.batch_idx) == (epoch, batch):
            os.kill(os.getpid(), number)
        return forward_backward(self, item)

    patch.setattr(PromptTrainer, "forward_backward", stopped)


@pytest.mark.parametrize(
    ("trainer", "every"),  # epochs between Dassl's checkpoints
    [("AdvPT", "1"), ("CoOp", "2"), *(pytest.param(*x, marks=at_full_length) for x in (("AdvPT", "2"), ("CoOp", "1")))],
)
def test_stopped_in_every_epoch(world: World, tally, trainer, every):
    more = (*SETTINGS, "TRAIN.CHECKPOINT_FREQ", every)
    world.run(*more, trainer=trainer)
    whole, stopped = learned(world.output, 3), world.folder / "stopped"
    for epoch, batch in ((0, 0), (0, 2), (1, 1), (2, 2)):  # three batches make an epoch
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, epoch, batch)
            status, printed = world.call(*more, trainer=trainer, output=stopped)
        assert status == TERMINATED and "the same command continues" in printed and "Traceback" not in printed
        state = load_checkpoint(stopped / "rolling.pth.tar")
        assert (state["epoch"], state["batches"]) == (epoch, batch + 1)
    printed = world.run(*more, trainer=trainer, output=stopped)
    assert "continuing epoch 3 after batch 3" in printed
    wrong = learned(stopped, 3) != whole
    assert not (stopped / "rolling.pth.tar").exists(), "done: it is of no use"
    tally("SIGTERM in the middle of an epoch", 4, wrong=wrong)


def test_ctrl_c_is_answered_in_the_same_way(world: World):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 1, 0, signal.SIGINT)
        status, printed = world.call(*SETTINGS)
    assert status == 130 and load_checkpoint(world.output / "rolling.pth.tar")["batches"] == 1
    world.run(*SETTINGS)
    world.run(*SETTINGS, output=world.folder / "whole")
    assert learned(world.output, 3) == learned(world.folder / "whole", 3)


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"parts": {}}, {"now": {}}, {"before": 3}, {"epoch": "x"}, {"batches": None}, {"losses": [1]}],
    ids=lambda change: next(iter(change)),
)
def test_a_rolling_checkpoint_of_something_else_is_refused(world: World, change):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 1, 0)
        world.call(*SETTINGS)
    path = world.output / "rolling.pth.tar"
    torch.save(load_checkpoint(path) | change, path)
    status, printed = world.call(*SETTINGS)
    assert status == 2 and "rolling.pth.tar" in printed and "delete it" in printed and "Traceback" not in printed
    path.unlink()
    world.run(*SETTINGS)


def test_one_that_is_behind_is_deleted(world: World):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 0, 1)
        world.call(*SETTINGS)
    old = (world.output / "rolling.pth.tar").read_bytes()
    world.run(*SETTINGS)
    (world.output / "rolling.pth.tar").write_bytes(old)
    assert "continuing" not in world.run(*SETTINGS) and not (world.output / "rolling.pth.tar").exists()


def test_signals_are_held_and_handlers_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Terminated), stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Terminated), defer_signals() as pending_signal:
        assert pending_signal() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert isinstance(pending_signal(), Terminated)
    with pytest.raises(KeyboardInterrupt) as caught, defer_signals() as pending_signal:
        os.kill(os.getpid(), signal.SIGINT)
        assert type(pending_signal()) is KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("a second Ctrl-C is obeyed at once")
    assert type(caught.value) is KeyboardInterrupt
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_damaged_rolling_checkpoint_is_a_sentence(world: World):
    world.output.mkdir(exist_ok=True)
    (world.output / "rolling.pth.tar").write_bytes(b"\x80\x04torn")
    status, printed = world.call(*SETTINGS)
    assert status == 2 and "rolling.pth.tar cannot be read" in printed
    with pytest.raises(WeightsError):
        load_checkpoint(world.output / "rolling.pth.tar")


class Small:
    """As much of a trainer as the rolling checkpoint sees."""

    epoch = start_epoch = 0
    num_batches, batch_idx = 4, 0

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
    kept = [Rolling(tmp_path / f"{i}.pth.tar", LossWatch()) for i in range(2)]
    with pytest.raises(Terminated), contextlib.ExitStack() as stack:
        for run, rolling in zip(runs, kept):
            stack.enter_context(rolling.epoch(run))
        for i in range(4):
            for number, run in enumerate(runs):
                run.batch_idx = i
                if (i, number) == (2, 1):
                    os.kill(os.getpid(), signal.SIGTERM)
                run.forward_backward(float(i))
    for run, rolling in zip(runs, kept):
        again, whole = Small(), run._models["m"].state_dict()
        assert load_checkpoint(rolling.path)["batches"] == 3
        other = Rolling(rolling.path, LossWatch())
        assert other.restore(again) == 0 and len(other.watch.batches["loss"]) == 3
        assert all(torch.equal(whole[name], value) for name, value in again._models["m"].state_dict().items())


def test_a_batch_that_was_cut_in_two_is_not_saved(tmp_path):
    run, rolling = Small(), Rolling(tmp_path / "r.pth.tar", LossWatch())
    whole = Small.forward_backward

    def twice(batch: float) -> dict[str, float]:
        whole(run, batch)
        raise KeyboardInterrupt  # a second Ctrl-C, say, after the step and before the schedule's

    run.forward_backward = twice
    with pytest.raises(KeyboardInterrupt), rolling.epoch(run):
        run.forward_backward(1.0)
    assert not rolling.path.exists()
