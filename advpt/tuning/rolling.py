"""The rolling checkpoint: everything an exact continuation from the middle of an epoch needs, in one file.

Dassl saves after whole epochs. Between them this file is renewed every few minutes and when the run is told to stop:
parameters, optimizers, schedulers, the state of every random generator now and as the epoch began, how many batches of
the epoch are done (the sampler is run again up to there: same seed, same order), and the losses so far.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advpt.detectors import LossWatch
from advpt.errors import TrainingError, WeightsError
from advpt.files import atomic_path, load_checkpoint
from advpt.progress import Phase
from advpt.signals import defer_signals

log = logging.getLogger(__name__)

FILE = "rolling.pth.tar"
FORMAT = 1
CHECKPOINT_SECONDS = 300.0  # seconds between two of them; more where one takes long to write
CHECKPOINT_SHARE = 20  # of the time at most one part in so many goes into writing them


class Rolling:
    """The rolling checkpoint of a Dassl trainer (upstream's or dassl-lite's) in its output folder.

    Args:
        path: of the file. watch: sees the losses of every batch.
    """

    def __init__(self, path: Path, watch: LossWatch) -> None:
        self.path, self.watch = path, watch
        self._next = time.monotonic() + CHECKPOINT_SECONDS
        self._found: dict[str, Any] | None = None  # what the current epoch goes on from
        self.phase: Phase | None = None  # of the tuning, from the first epoch of this process on
        self.seconds = 0.0  # that the epoch took before this process

    def restore(self, trainer: Any) -> int:
        """Go on from the file where it is ahead of the epochs that are done (``trainer.start_epoch``); one that is
        behind is deleted. Returns the epoch to go on with, counted from 0.

        Raises:
            WeightsError: the file is damaged or belongs to other models.
        """
        if not self.path.is_file():
            return int(trainer.start_epoch)
        found = load_checkpoint(self.path)
        try:
            if found["format"] != FORMAT or sorted(found["parts"]) != sorted(trainer.get_model_names()):
                raise WeightsError(f"{self.path} was written by another version or trainer; delete it")
            epoch = int(found["epoch"])
            if epoch < trainer.start_epoch:
                self.clear()
                return int(trainer.start_epoch)
            for name, saved in found["parts"].items():
                for live, state in zip(_parts(trainer, name), (saved["model"], saved["optimizer"], saved["scheduler"])):
                    if live is not None:
                        live.load_state_dict(state)
            live_state = random_state()
            for state in (found["now"], found["before"], live_state):  # the first two are tried on, before it matters
                set_random_state(state)
            found["batches"] = int(found["batches"])
            self.watch.batches = {name: list(values) for name, values in found["losses"].items()}
            self.seconds = float(found["seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise WeightsError(
                f"{self.path} does not fit this run ({error}); delete it: the last whole epoch is taken"
            ) from error
        self._found = found
        log.info("continuing epoch %d after batch %d, from %s", epoch + 1, found["batches"], self.path)
        return epoch

    @contextlib.contextmanager
    def epoch(self, trainer: Any) -> Iterator[None]:
        """Around the batches of an epoch: those that are done are passed over, SIGTERM and Ctrl-C wait for the end of
        a batch and find everything saved, and a gradient step that leaves a parameter not finite ends the run.

        Raises:
            Terminated, KeyboardInterrupt: told to stop; the state was saved. TrainingError: a parameter is not finite.
        """
        found, self._found = self._found, None
        done, before = (found["batches"], found["before"]) if found else (0, random_state())
        if found:
            set_random_state(before)
        phase = self.phase = self.phase or Phase("tuning", trainer.max_epoch, "epoch", trainer.epoch)
        began, step = time.monotonic() - (self.seconds if found else 0.0), trainer.forward_backward
        position = saved = done  # batches; None within one, where nothing is whole
        with defer_signals() as pending_signal:

            def save() -> None:
                nonlocal saved
                self.save(trainer, position or 0, before, time.monotonic() - began)
                saved = position

            def watched(*batches: Any) -> Any:
                nonlocal position
                i = trainer.batch_idx
                if i < done:
                    if found and i + 1 == done:
                        set_random_state(found["now"])
                    return None
                position = None
                losses = step(*batches)
                self.watch.batch(losses)
                position = i + 1
                phase.reach(trainer.epoch + position / trainer.num_batches)
                if time.monotonic() >= self._next:
                    save()
                if stop := pending_signal():
                    log.info("told to stop after batch %d of epoch %d", i + 1, trainer.epoch + 1)
                    raise stop
                return losses

            trainer.forward_backward = watched
            try:
                yield
            except KeyboardInterrupt:  # from here, or from a run that is tuned together with this one
                if position is not None and position != saved:
                    save()
                raise
            finally:
                del trainer.forward_backward
        require_finite(trainer)
        self.seconds = time.monotonic() - began
        self.watch.epoch_over()

    def save(self, trainer: Any, batches: int, before: dict[str, Any], seconds: float) -> None:
        """Write the state after so many batches of the epoch that is going on."""
        require_finite(trainer)
        started = time.monotonic()
        parts = {}
        for name in trainer.get_model_names():
            states = [live.state_dict() if live is not None else None for live in _parts(trainer, name)]
            parts[name] = dict(zip(("model", "optimizer", "scheduler"), states))
        state = {
            "state_dict": {},  # this is no checkpoint of Dassl's
            "format": FORMAT,
            "epoch": int(trainer.epoch),
            "batches": batches,
            "parts": parts,
            "before": before,
            "now": random_state(),
            "losses": dict(self.watch.batches),
            "seconds": seconds,
        }
        with atomic_path(self.path) as partial:
            torch.save(state, partial)
        self._next = time.monotonic() + max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * (time.monotonic() - started))

    def clear(self) -> None:
        """Delete the file: the epochs it belongs to are done."""
        self.path.unlink(missing_ok=True)


def _parts(trainer: Any, name: str) -> tuple[Any, Any, Any]:
    return trainer._models[name], trainer._optims[name], trainer._scheds[name]


def require_finite(trainer: Any, *, gradients: bool = False) -> None:
    """Look at every parameter (or its gradient) that is tuned, before anything is made of it.

    Raises:
        TrainingError: one is infinite or NaN; the message says which, and where the run was.
    """
    for model in trainer.get_model_names():
        named = {
            name: p.grad if gradients else p.detach()
            for name, p in trainer._models[model].named_parameters()
            if p.requires_grad and (p.grad is not None or not gradients)
        }
        if not named or bool(torch.isfinite(torch.stack([_largest(value) for value in named.values()])).all()):
            continue
        bad = next(name for name, value in named.items() if not bool(torch.isfinite(_largest(value))))
        what = f"the gradient of {model}.{bad}" if gradients else f"the parameter {model}.{bad}"
        raise TrainingError(
            f"{what} is not finite (epoch {trainer.epoch + 1}, batch {getattr(trainer, 'batch_idx', 0) + 1}); expected "
            "finite numbers. Nothing was saved from it. Lower OPTIM.LR, or with amp or fp16 use PREC fp32; look at the "
            "bank with: python -m advpt bank verify"
        )


def _largest(value: Tensor | None) -> Tensor:
    """The largest absolute value; NaN and infinity stay what they are."""
    return value.float().abs().max() if value is not None and value.numel() else torch.zeros(())


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
