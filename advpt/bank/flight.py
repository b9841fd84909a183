"""Several chunks of work at once on one device, results in order. Out of memory means fewer at once, not other bits."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from advpt.errors import BankError

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

MOST = 4  # chunks at once; more has nothing to gain where one fills a quarter of the device


class Flight:
    """How many chunks a device takes at once: one to begin with, then what its memory allows (CUDA), fewer after it ran
    out. A chunk is computed by itself whatever else is in the air, each on a stream of its own.

    Args:
        device: where the work runs.
        most: an upper limit; 1 for work that must not run beside itself.
    """

    def __init__(self, device: torch.device, most: int = MOST) -> None:
        self.device, self.most = device, most
        self.now = 1
        self._measured = device.type != "cuda" or most == 1

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``work(item)`` of every item, in order. ``work`` may be called again with an item when memory ran out.

        Raises:
            BankError: one chunk alone does not fit.
        """
        waiting: deque[tuple[T, Future[R] | None]] = deque()
        source = iter(items)
        with ThreadPoolExecutor(max(1, self.most)) as pool:
            while True:
                while len(waiting) < self.now:
                    try:
                        waiting.append((next(source), None))
                    except StopIteration:
                        break
                if not waiting:
                    return
                if not self._measured:
                    torch.cuda.reset_peak_memory_stats(self.device)
                # one at a time stays in this thread: the same stream, and nothing to pay for
                if self.now == 1 and waiting[0][1] is None:
                    item, _ = waiting.popleft()
                    yield self._alone(work, item)
                    continue
                for i in range(min(self.now, len(waiting))):
                    item, future = waiting[i]
                    if future is None:
                        waiting[i] = (item, pool.submit(self._apart, work, item))
                item, future = waiting[0]
                try:
                    result = future.result() if future is not None else self._alone(work, item)
                except torch.OutOfMemoryError:
                    for _, other in waiting:
                        if other is not None:
                            other.exception()  # wait: the next attempt has the device for itself
                    waiting = deque((item, None) for item, _ in waiting)
                    self.now = max(1, self.now // 2)
                    log.warning("the device ran out of memory; going on with %d chunk(s) at once", self.now)
                    self._free()
                    continue
                waiting.popleft()
                yield result

    def _alone(self, work: Callable[[T], R], item: T) -> R:
        try:
            result = work(item)
        except torch.OutOfMemoryError as error:
            raise BankError(
                f"the device {self.device} has not enough memory for one chunk of images ({str(error).splitlines()[0]})"
                "; use a smaller BANK.CHUNK (it makes other banks), or free the device"
            ) from error
        if not self._measured:
            self._measured = True
            free, _ = torch.cuda.mem_get_info(self.device)
            self.now = fits(free, torch.cuda.max_memory_allocated(self.device), self.most)
            log.info("%d chunk(s) at once on %s", self.now, self.device)
        return result

    def _apart(self, work: Callable[[T], R], item: T) -> R:
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            return work(item)

    def _free(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()


def fits(free: int, peak: int, most: int) -> int:
    """How many chunks of ``peak`` bytes run at once, the one that was measured among them, when ``free`` bytes are left
    after it: a fifth of the memory is kept for what does not show in the peak."""
    return max(1, min(most, int(0.8 * (free + peak)) // max(1, peak)))
