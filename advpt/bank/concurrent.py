"""Concurrent chunks of work on one device, with results in order. Out of memory means fewer at once, not other bits.

An allocation may fail without an error: cuDNN then computes a convolution in another way, which needs no workspace and
rounds otherwise, and keeps to it in that thread. So what counts is whether the allocator refused anything while chunks
ran side by side, not only whether one of them raised; then all of them run again, in new threads. A chunk's backward
pass runs in the chunk's own thread, not in the one that PyTorch has for all backward passes of a device.
"""

from __future__ import annotations

import contextlib
import itertools
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

MAX_CONCURRENT = 4  # chunks at once; more has nothing to gain where one fills a quarter of the device


class ConcurrentChunks:
    """Runs one chunk to begin with, then as many at once as the memory allows (CUDA), fewer after it ran out. A chunk's
    numbers do not depend on the others: each runs on a stream of its own.

    Args:
        limit: the most chunks at once; 1 for work that must not run concurrently.
    """

    def __init__(self, device: torch.device, limit: int = MAX_CONCURRENT) -> None:
        self.device, self.limit = device, limit
        self.now = 1
        self._measured = device.type != "cuda" or limit == 1
        self._refused = 0  # failed allocations before the chunks in flight

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``work(item)`` of every item, in order. ``work`` may be called again with an item when memory ran out; raises
        BankError where one chunk alone does not fit."""
        source: Iterator[T] = iter(items)
        in_flight: deque[tuple[T, Future[R]]] = deque()
        with contextlib.ExitStack() as pools:
            pool = pools.enter_context(ThreadPoolExecutor(max(1, self.limit)))
            while True:
                if self.now == 1:  # in this thread: the same stream, and no overhead
                    for item in source:
                        result = self._alone(work, item)
                        del item  # not kept while the next one is read
                        yield result
                        if self.now > 1:
                            break
                    else:
                        return
                if not in_flight:
                    self._refused = self.refused()
                for item in itertools.islice(source, self.now - len(in_flight)):
                    in_flight.append((item, pool.submit(self._apart, work, item)))
                if not in_flight:
                    return
                if self._memory_ran_out(in_flight[0][1]):
                    for _, other in in_flight:
                        other.exception()  # wait until the device is free
                    source = itertools.chain([item for item, _ in in_flight], source)
                    in_flight.clear()
                    pool = pools.enter_context(ThreadPoolExecutor(max(1, self.limit)))
                    self.now = max(1, self.now // 2)
                    log.warning("the device ran out of memory; going on with %d chunk(s) at once", self.now)
                    self._free()
                    continue
                yield in_flight.popleft()[1].result()

    def _alone(self, work: Callable[[T], R], item: T) -> R:
        if not self._measured:
            torch.cuda.reset_peak_memory_stats(self.device)
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
            self.now = fits(free, torch.cuda.max_memory_allocated(self.device), self.limit)
            log.info("%d chunk(s) at once on %s", self.now, self.device)
        return result

    def refused(self) -> int:
        """How many allocations the device has refused this process, those that nobody raised an error for too."""
        return int(torch.cuda.memory_stats(self.device).get("num_ooms", 0)) if self.device.type == "cuda" else 0

    def _memory_ran_out(self, first: Future[R]) -> bool:
        """Whether the numbers of the chunks in flight are not those of a chunk alone, once the first has ended."""
        return isinstance(first.exception(), torch.OutOfMemoryError) or self.refused() > self._refused

    def _apart(self, work: Callable[[T], R], item: T) -> R:
        if self.device.type != "cuda":
            return work(item)
        with torch.cuda.stream(torch.cuda.Stream(self.device)), torch.autograd.set_multithreading_enabled(False):
            return work(item)

    def _free(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()


def fits(free: int, peak: int, limit: int) -> int:
    """The number of chunks of ``peak`` bytes that fit when ``free`` bytes are left beside one of them. A fifth of the
    memory stays free, for allocations that the peak does not show."""
    return max(1, min(limit, int(0.8 * (free + peak)) // max(1, peak)))
