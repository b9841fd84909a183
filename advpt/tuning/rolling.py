"""The rolling checkpoint: everything an exact continuation from the middle of an epoch needs, in one file.

Dassl saves after whole epochs. Between them this file is renewed every few minutes and when a signal stops the run. The
sampler is run again up to the batches that are done: same seed, same order.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from advpt.checkpoints import load_checkpoint
from advpt.detectors import LossWatch
from advpt.errors import TrainingError, WeightsError
from advpt.files import atomic_path
from advpt.progress import Phase
from advpt.signals import defer_signals

log = logging.getLogger(__name__)

FILE = "rolling.pth.tar"
FORMAT = 1
CHECKPOINT_SECONDS = 300.0  # between two of them; more where one takes long to write
CHECKPOINT_SHARE = 20  # at most one part in so many of the time goes into writing them


class Trainer(Protocol):
    """What a rolling checkpoint needs of a trainer of Dassl's (upstream's or dassl-lite's)."""

    epoch: int
    batch_idx: int
    start_epoch: int
    max_epoch: int
    num_batches: int
    _models: OrderedDict[str, Any]
    _optims: OrderedDict[str, Any]
    _scheds: OrderedDict[str, Any]

    def get_model_names(self) -> list[str]: ...


class RollingCheckpoint:
    """The rolling checkpoint of a trainer in the file ``path``; ``watch`` receives the losses of every batch."""

    def __init__(self, path: Path, watch: LossWatch) -> None:
        self.path, self.watch = path, watch
        self.next_save = time.monotonic() + CHECKPOINT_SECONDS
        self._restored: dict[str, Any] | None = None  # the state that the current epoch continues from
        self.phase: Phase | None = None  # of the tuning, from the first epoch of this process on
        self.seconds = 0.0  # that the epoch took before this process

    def restore(self, trainer: Trainer) -> int:
        """Continue from the file where it is ahead of the epochs that are done (``trainer.start_epoch``); one that is
        behind is deleted. Returns the epoch to continue with, counted from 0.

        Raises:
            WeightsError: the file is damaged or belongs to other models.
        """
        if not self.path.is_file():
            return int(trainer.start_epoch)
        state = load_checkpoint(self.path)
        try:
            if state["format"] != FORMAT or sorted(state["parts"]) != sorted(trainer.get_model_names()):
                raise WeightsError(f"{self.path} was written by another version or trainer; delete it")
            epoch = int(state["epoch"])
            if epoch < trainer.start_epoch:
                self.clear()
                return int(trainer.start_epoch)
            for name, saved in state["parts"].items():
                for part, live in _parts(trainer, name).items():
                    live.load_state_dict(saved[part])
            live_state = random_state()
            for each in (state["now"], state["before"], live_state):  # the first two are tried before they are needed
                set_random_state(each)
            state["batches"] = int(state["batches"])
            self.watch.batches = {name: list(values) for name, values in state["losses"].items()}
            self.seconds = float(state["seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise WeightsError(
                f"{self.path} does not fit this run ({error}); delete it: the last whole epoch is taken"
            ) from error
        self._restored = state
        log.info("continuing epoch %d after batch %d, from %s", epoch + 1, state["batches"], self.path)
        return epoch

    @contextlib.contextmanager
    def epoch(self, trainer: Trainer) -> Iterator[Batches]:
        """Around the batches of an epoch, which are to be started and finished one by one: those that are done are
        passed over, SIGTERM and Ctrl-C wait for the end of a batch, and the state is saved then.

        Raises:
            Terminated, KeyboardInterrupt: a signal asked to stop. TrainingError: a parameter is not finite.
        """
        restored, self._restored = self._restored, None
        earlier = self.seconds if restored else 0.0
        before = restored["before"] if restored else random_state()
        if restored:
            set_random_state(before)
        self.phase = self.phase or Phase("tuning", trainer.max_epoch, "epoch", trainer.epoch)
        with defer_signals() as pending:
            batches = Batches(self, trainer, before, restored, time.monotonic() - earlier, pending)
            try:
                yield batches
            except KeyboardInterrupt:  # from here, or from a run that is tuned together with this one
                batches.save()
                raise
        require_finite(trainer)
        self.seconds = time.monotonic() - batches.began
        self.watch.epoch_over()

    def clear(self) -> None:
        """Delete the file: the epochs it belongs to are done."""
        self.path.unlink(missing_ok=True)


@dataclass
class Batches:
    """The batches of one epoch: which are done, and when the state is saved.

    Args:
        before: random state as the epoch began. restored: what was saved in the middle of this epoch, if anything.
        began: ``time.monotonic()`` of the epoch's start, moved back by the time that it took before this process.
        pending: gives the exception that waits to be raised, if any.
    """

    rolling: RollingCheckpoint
    trainer: Trainer
    before: dict[str, Any]
    restored: dict[str, Any] | None
    began: float
    pending: Callable[[], KeyboardInterrupt | None]

    def __post_init__(self) -> None:
        self.skipped: int = self.restored["batches"] if self.restored else 0
        self._position: int | None = self.skipped  # batches done; None within one, where nothing is whole
        self._saved = self.skipped

    def start(self, batch: int) -> bool:
        """Whether a batch is to be computed, and not one that was done before the run was stopped."""
        if batch >= self.skipped:
            self._position = None
            return True
        if self.restored and batch + 1 == self.skipped:
            set_random_state(self.restored["now"])
        return False

    def finish(self, batch: int, losses: Mapping[str, Any] | None) -> None:
        """A batch is done: note its losses, save where it is time.

        Raises:
            Terminated, KeyboardInterrupt: a signal asked to stop meanwhile.
        """
        self.rolling.watch.batch(losses)
        self._position = batch + 1
        if self.rolling.phase is not None:
            self.rolling.phase.reach(self.trainer.epoch + self._position / self.trainer.num_batches)
        if time.monotonic() >= self.rolling.next_save:
            self.save()
        if stop := self.pending():
            log.info("told to stop after batch %d of epoch %d", batch + 1, self.trainer.epoch + 1)
            raise stop

    def save(self) -> None:
        """Write the state after the batches that are done, unless one is half done or the file has them."""
        if self._position in (None, self._saved):
            return
        require_finite(self.trainer)
        started = time.monotonic()
        parts = {
            name: {part: live.state_dict() for part, live in _parts(self.trainer, name).items()}
            for name in self.trainer.get_model_names()
        }
        state = {
            "state_dict": {},  # this is no checkpoint of Dassl's
            "format": FORMAT,
            "epoch": int(self.trainer.epoch),
            "batches": self._position,
            "parts": parts,
            "before": self.before,
            "now": random_state(),
            "losses": dict(self.rolling.watch.batches),
            "seconds": started - self.began,
        }
        with atomic_path(self.rolling.path) as partial:
            torch.save(state, partial)
        pause = max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * (time.monotonic() - started))
        self.rolling.next_save = time.monotonic() + pause
        self._saved = self._position


def _parts(trainer: Trainer, name: str) -> dict[str, Any]:
    """A model, and its optimizer and scheduler where it has them, by their names in the file."""
    parts = {"model": trainer._models[name], "optimizer": trainer._optims[name], "scheduler": trainer._scheds[name]}
    return {part: live for part, live in parts.items() if live is not None}


def require_finite(trainer: Trainer, *, gradients: bool = False) -> None:
    """Look at every parameter (or its gradient) that is tuned, before anything is made of it.

    Raises:
        TrainingError: one is infinite or NaN; the message says which, and where the run was.
    """
    for model in trainer.get_model_names():
        tuned = {name: p for name, p in trainer._models[model].named_parameters() if p.requires_grad}
        values = {name: p.grad if gradients else p.detach() for name, p in tuned.items() if p.numel()}
        largest = {name: value.float().abs().max() for name, value in values.items() if value is not None}
        finite = torch.stack(list(largest.values())).isfinite().tolist() if largest else []
        if all(finite):
            continue
        bad, place = list(largest)[finite.index(False)], "gradient of" if gradients else "parameter"
        raise TrainingError(
            f"the {place} {model}.{bad} is not finite (epoch {trainer.epoch + 1}, batch "
            f"{getattr(trainer, 'batch_idx', 0) + 1}); expected finite numbers. Nothing was saved from it. Lower "
            "OPTIM.LR, or with amp or fp16 use PREC fp32; look at the bank with: python -m advpt bank verify"
        )


def random_state() -> dict[str, Any]:
    """The state of every generator that an epoch may draw from, as tensors and plain values."""
    version, words, spare = random.getstate()
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": (version, torch.tensor(words, dtype=torch.int64), spare),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Undo of :func:`random_state`."""
    version, words, spare = state["python"]
    random.setstate((version, tuple(words.tolist()), spare))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])
