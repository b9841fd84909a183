"""Several chunks at once: order, bits, and fewer of them when memory runs out."""

import threading
import time

import pytest
import torch

from advpt.attacks import parse
from advpt.bank.cache import BankCache
from advpt.bank.concurrent import ConcurrentChunks, fits
from advpt.errors import AttackError, BankError
from advpt.prompts.classifier import Classifier

CPU = torch.device("cpu")
FKL = parse("pgd2-fkl@8")


class Device:
    """A made-up device with room for so many chunks; it counts how many are in the air."""

    def __init__(self, room: int) -> None:
        self.room, self.inside, self.peak, self.calls, self.lock = room, 0, 0, 0, threading.Lock()

    def __call__(self, item: int) -> int:
        with self.lock:
            self.calls += 1
            self.inside += 1
            self.peak = max(self.peak, self.inside)
            full = self.inside > self.room
        time.sleep(0.01)
        with self.lock:
            self.inside -= 1
        if full:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return item * item


def concurrent_chunks(now: int) -> ConcurrentChunks:
    found = ConcurrentChunks(CPU)
    found.now = now
    return found


@pytest.mark.parametrize("now", [1, 2, 4])
@pytest.mark.parametrize("n", [0, 1, 3, 17])
def test_results_come_in_order(now, n):
    device = Device(room=now)
    assert list(concurrent_chunks(now).run(device, range(n))) == [i * i for i in range(n)]
    assert device.peak <= now and device.calls == n
    assert device.peak > 1 or min(now, n) < 2


@pytest.mark.parametrize(("now", "room", "left"), [(4, 3, 2), (4, 1, 1), (3, 2, 1)])
def test_fewer_at_once_when_memory_runs_out(now, room, left, caplog):
    device, work = Device(room), concurrent_chunks(now)
    assert list(work.run(device, range(12))) == [i * i for i in range(12)]
    assert work.now == left
    assert "out of memory" in caplog.text


class Library(Device):
    """A device whose library does without the memory that it is refused, rounds otherwise from then on in that thread,
    and says nothing."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.refused, self.thread = 0, threading.local()

    def __call__(self, item: int) -> int:
        try:
            result = super().__call__(item)
        except torch.OutOfMemoryError:
            with self.lock:
                self.refused += 1
            self.thread.spoiled, result = True, item * item
        return result + getattr(self.thread, "spoiled", False)


@pytest.mark.parametrize(("now", "room"), [(4, 3), (4, 2), (4, 1), (3, 2), (2, 1)])
def test_memory_that_ran_out_unnoticed_makes_no_other_numbers(now, room, caplog, monkeypatch):
    device, work = Library(room), concurrent_chunks(now)
    monkeypatch.setattr(work, "refused", lambda: device.refused)
    assert list(work.run(device, range(12))) == [i * i for i in range(12)]
    assert 1 <= work.now <= room and device.refused
    assert "out of memory" in caplog.text


def test_what_was_refused_before_counts_for_nothing(monkeypatch):
    device, work = Device(room=4), concurrent_chunks(4)
    monkeypatch.setattr(work, "refused", lambda: 7)
    assert list(work.run(device, range(12))) == [i * i for i in range(12)]
    assert work.now == 4 and device.calls == 12


def test_one_chunk_that_does_not_fit_is_an_error():
    with pytest.raises(BankError, match=r"one chunk of images \(CUDA out of memory.*BANK.CHUNK"):
        list(concurrent_chunks(2).run(Device(0), range(3)))


def test_other_errors_pass_through():
    def broken(item: int) -> int:
        raise AttackError(f"item {item}")

    with pytest.raises(AttackError, match="item 0"):
        list(concurrent_chunks(3).run(broken, range(5)))


@pytest.mark.parametrize(
    ("free", "peak", "n"), [(100, 10, 4), (10, 10, 1), (20, 10, 2), (0, 10, 1), (15, 10, 2), (14, 10, 1)]
)
def test_how_many_fit(free, peak, n):
    assert fits(free, peak, limit=4) == n


def test_a_bank_built_several_chunks_at_once_has_the_same_bits(bank_cache, pictures, tmp_path, monkeypatch):
    one = bank_cache.get(pictures, FKL)
    monkeypatch.setattr("advpt.bank.build.ConcurrentChunks", lambda device, limit: concurrent_chunks(3))
    beside = BankCache(tmp_path / "others", bank_cache.backbone, bank_cache.load, chunk=bank_cache.chunk)
    several = beside.get(pictures, FKL)
    assert several.key == one.key
    for name in one.columns:
        assert torch.equal(one.columns[name], several.columns[name]), name
    assert torch.equal(one.embeddings, several.embeddings)


def test_an_attack_that_uses_the_global_random_state_runs_alone(bank_cache, pictures, monkeypatch):
    asked = []

    class Spy(ConcurrentChunks):
        def __init__(self, device, limit):
            asked.append(limit)
            super().__init__(device, limit)

    monkeypatch.setattr("advpt.bank.build.ConcurrentChunks", Spy)
    features = torch.nn.functional.normalize(torch.randn(3, bank_cache.backbone.card.embed_dim), dim=-1)
    bank_cache.get(pictures.first(2), parse("apgd-ce-t@4"), Classifier(features, 10.0))
    bank_cache.get(pictures.first(2), FKL)
    assert asked == [1, 4]
