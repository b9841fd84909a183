"""Several chunks of work at once on one device, results in order. Out of memory means fewer at once, not other bits."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from advpt.errors import BankError

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

MAX_CONCURRENT = 4  # chunks at once; more has nothing to gain where one fills a quarter of the device


class ConcurrentChunks:
    """How many chunks a device takes at once: one to begin with, then what its memory allows (CUDA), fewer after it ran
    out. A chunk is computed by itself whatever else is in the air, each on a stream of its own.

    Args:
        device: where the work runs.
        most: an upper limit; 1 for work that must not run beside itself.
    """

    def __init__(self, device: torch.device, most: int = MAX_CONCURRENT) -> None:
        self.device, self.most = device, most
        self.now = 1
        self._measured = device.type != "cuda" or most == 1

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``work(item)`` of every item, in order. ``work`` may be called again with an item when memory ran out.

        Raises:
            BankError: one chunk alone does not fit.
        """
        source: Iterator[T] = iter(items)
        air: deque[tuple[T, Future[R]]] = deque()
        with ThreadPoolExecutor(max(1, self.most)) as pool:
            while True:
                if self.now == 1:  # nothing is in the air; in this thread: the same stream, and nothing to pay for
                    for item in itertools.islice(source, 1):
                        result = self._alone(work, item)
                        del item  # not kept while the next one is read
                        yield result
                        break
                    else:
                        return
                    continue
                for item in itertools.islice(source, self.now - len(air)):
                    air.append((item, pool.submit(self._apart, work, item)))
                if not air:
                    return
                try:
                    result = air[0][1].result()
                except torch.OutOfMemoryError:
                    for _, other in air:
                        other.exception()  # wait: the next attempt has the device for itself
                    source = itertools.chain([item for item, _ in air], source)
                    air.clear()
                    self.now = max(1, self.now // 2)
                    log.warning("the device ran out of memory; going on with %d chunk(s) at once", self.now)
                    self._free()
                    continue
                air.popleft()
                yield result

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


class ReadAhead(Generic[T]):
    """Reads the items of the next shard in a thread while those of this one are computed: a GPU would wait otherwise.

    Args:
        read: gives the items of a shard.
        following: the shard that will probably be asked for after this one, None where there is none.
    """

    def __init__(self, read: Callable[[int], Iterator[T]], following: Callable[[int], int | None]) -> None:
        self._read, self._following = read, following
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[list[T]]] | None = None

    def __call__(self, index: int) -> Iterable[T]:
        """The items of a shard, in order; what reading them raises is raised here."""
        ahead, self._next = self._next, None
        items: Iterable[T] = ahead[1].result() if ahead is not None and ahead[0] == index else self._read(index)
        if (number := self._following(index)) is not None:
            self._next = number, self._pool.submit(lambda: list(self._read(number)))
        return items

    def __enter__(self) -> ReadAhead[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def fits(free: int, peak: int, most: int) -> int:
    """How many chunks of ``peak`` bytes run at once, the one that was measured among them, when ``free`` bytes are left
    after it: a fifth of the memory is kept for what does not show in the peak."""
    return max(1, min(most, int(0.8 * (free + peak)) // max(1, peak)))
