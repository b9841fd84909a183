"""Fill banks on a Ray cluster: shards are tasks, and each worker is an actor that receives the networks once.

Workers write finished shards to the shared folder as a local build does; only their numbers come back. A lost shard
goes to another worker, and making one twice gives the same bytes: those of a local build with as many threads as a
worker has, on the same kind of processor with the same versions.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import platform
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from advpt.backbones.extras import EXTRA_OF
from advpt.backbones.shim import import_clip
from advpt.bank.build import Fill, Work, fill_here
from advpt.bank.store import shard_name
from advpt.cluster import Cluster, Engine
from advpt.errors import AdvPTError, BankError
from advpt.files import FileLock
from advpt.progress import Bar

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # between checks for new machines
MAX_DEATHS = 3  # lost workers per shard, on machines that are still connected
MAX_FAILED_STARTS = 20  # workers in a row that are lost before they run


def filler(engine: Engine) -> Fill:
    """The function that fills banks under this engine."""
    return fill_here if engine.name == "local" else lambda work, bar: _RayBankBuilder(work, bar, Cluster(engine)).run()


def pack(work: Work) -> bytes:
    """Serialise a work for other machines. Networks are plain tensors, so the worker needs no weight file."""
    import cloudpickle  # type: ignore[import-untyped]  # comes with Ray

    targets = tuple(dataclasses.replace(target, folder=target.folder.absolute()) for target in work.targets)
    parcel = io.BytesIO()
    torch.save(dataclasses.replace(work, targets=targets), parcel, pickle_module=cloudpickle)
    return parcel.getvalue()


def unpack(parcel: bytes, device: torch.device) -> Work:
    """The work, its networks on ``device``.

    Raises:
        BankError: this machine lacks a package whose classes are in the parcel.
    """
    import_clip()  # registers the module of CLIP's classes, which are in the parcel
    try:
        work: Work = torch.load(io.BytesIO(parcel), map_location=device, weights_only=False)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get(str(error.name).partition(".")[0])
        fetch = f'pip install "advpt[{extra}]"' if extra else f"pip install {error.name}"
        raise BankError(
            f"the networks of this bank need the package {error.name}, which {platform.node()} does not have; run "
            f"{fetch} on every machine of the cluster, with the versions of this one"
        ) from error
    return dataclasses.replace(work, attacker=dataclasses.replace(work.attacker, device=device))


class Worker:
    """The Ray actor that fills shards."""

    work: Work

    def __init__(self, threads: int, gpus: float) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")

    def where(self) -> str:
        """The machine's id."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def prepare(self, parcel: bytes) -> dict[str, Any]:
        """Receive the work; returns what shards are built with here (:meth:`~advpt.bank.build.Work.built_with`)."""
        self.work = unpack(parcel, self.device)
        return self.work.built_with()

    def fill(self, index: int) -> None:
        self.work.fill(index, lambda n: None)


@dataclass
class _WorkerHandle:
    """A worker, for the driver: its machine ("" until it runs), and its shard with the lock of it."""

    actor: Any
    machine: str = ""
    shard: int | None = None
    lock: FileLock | None = None

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()
        self.shard = self.lock = None


class _RayBankBuilder:
    """Fills the shards of a work on a cluster, whose machines may leave and join."""

    def __init__(self, work: Work, bar: Bar, cluster: Cluster) -> None:
        self.work, self.bar, self.cluster, self.ray = work, bar, cluster, cluster.ray
        self.parcel = self.ray.put(pack(work))
        self.actor = self.ray.remote(Worker).options(**cluster.resources, max_restarts=0)
        self.todo = deque(range(len(work.shards)))
        self.handles: dict[Any, _WorkerHandle] = {}  # by the pending answer
        self.idle: list[_WorkerHandle] = []
        self.built_with: dict[str, Any] = {}
        self.deaths: dict[int | None, list[str]] = defaultdict(list)  # machines of lost workers, by their shard
        self.failed_starts = 0
        self.logged_wait = False

    def run(self) -> Mapping[str, Any]:
        """Returns what the shards were built with.

        Raises:
            BankError: workers that differ in what the bits depend on; a shard that ends its workers again and again.
            AdvPTError: what a worker raised; finished shards stay.
        """
        checked = 0.0
        try:
            while self.todo or any(handle.shard is not None for handle in self.handles.values()):
                if time.monotonic() - checked > POLL_SECONDS:  # not at once again where they are lost as they start
                    self.start_workers()
                    checked = time.monotonic()
                self.assign_shards()
                if not self.handles:  # other processes have the remaining shards
                    time.sleep(POLL_SECONDS)
                    continue
                for answer in self.ray.wait(list(self.handles), timeout=POLL_SECONDS)[0]:
                    self.handle_answer(answer)
            return self.built_with
        finally:
            for handle in (*self.handles.values(), *self.idle):
                handle.release()
                self.ray.kill(handle.actor)

    def start_workers(self) -> None:
        """Start as many workers as there is room for and work left; those without room wait in Ray's queue."""
        busy = sum(handle.shard is not None for handle in self.handles.values())
        wanted = min(max(1, self.cluster.room()), len(self.todo) + busy)
        for _ in range(wanted - len(self.handles) - len(self.idle)):
            actor = self.actor.remote(self.cluster.threads, self.cluster.gpus)
            self.handles[actor.where.remote()] = _WorkerHandle(actor)

    def assign_shards(self) -> None:
        """Give each idle worker a shard that no other process works on."""
        for _ in range(len(self.todo)):
            if not self.idle:
                return
            index = self.todo.popleft()
            lock = self.work.lock(index)
            if not lock.acquire(wait=False):
                self.todo.append(index)
                if not self.logged_wait:
                    self.logged_wait = True
                    log.info("another process works on %s; its shards are left to it", shard_name(index))
                continue
            handle = self.idle.pop()
            handle.shard, handle.lock = index, lock
            self.handles[handle.actor.fill.remote(index)] = handle

    def handle_answer(self, answer: Any) -> None:
        """Handle a finished shard, a finished set-up, or a lost worker."""
        handle = self.handles.pop(answer)
        try:
            value = self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            self.idle.append(handle)  # ended with the others
            if isinstance(error.cause, AdvPTError):
                raise error.cause from None
            raise
        except self.ray.exceptions.RayError as error:
            self.handle_loss(handle, error)
            return
        if not handle.machine:
            handle.machine, self.failed_starts = value, 0
            self.handles[handle.actor.prepare.remote(self.parcel)] = handle
            return
        if handle.shard is None:
            self.compare(handle.machine, value)
        else:
            self.bar.update(len(self.work.shards[handle.shard]))
            handle.release()
        self.idle.append(handle)
        workers = [each for each in (*self.handles.values(), *self.idle) if each.machine]
        self.bar.set_postfix_str(f"{len(workers)} workers")

    def handle_loss(self, handle: _WorkerHandle, error: Exception) -> None:
        """Give a lost worker's shard to another, unless that shard has ended too many workers."""
        self.ray.kill(handle.actor)
        if not handle.machine:
            self.failed_starts += 1
            if self.failed_starts > MAX_FAILED_STARTS:
                raise BankError(f"no worker comes up on the cluster: {error}") from error
            return
        shard = handle.shard
        handle.release()
        consequence = f"its {shard_name(shard)} goes to another" if shard is not None else "another takes its place"
        log.warning("a worker was lost; %s", consequence)
        if shard is not None:
            self.todo.appendleft(shard)
        self.deaths[shard].append(handle.machine)
        connected = self.cluster.nodes()  # a lost machine may be noticed later than its workers
        deaths = sum(machine in connected for machine in self.deaths[shard])
        if deaths > MAX_DEATHS:
            task = f"make {shard_name(shard)}" if shard is not None else "receive the networks"
            raise BankError(
                f"{deaths} workers of {self.cluster.size} ended when they were to {task}: there may not be "
                "enough memory. Give more cores (or GPU) to a worker, so that fewer share a machine; finished shards "
                "are kept"
            ) from error

    def compare(self, machine: str, built_with: dict[str, Any]) -> None:
        """Refuse a worker whose shards would have other bits than the others'."""
        self.built_with = self.built_with or built_with
        different = [
            f"{name} is {built_with.get(name)!r} there and {value!r} elsewhere"
            for name, value in self.built_with.items()
            if built_with.get(name) != value
        ]
        if different:
            raise BankError(
                f"the worker on machine {machine[:12]} would make other bits: {'; '.join(different)}. Use machines of "
                "one kind with the same versions; finished shards are kept"
            )
