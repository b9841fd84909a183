"""What a bank cost to build, beside it on disk: figures of accuracy over wall-clock count it, whoever built it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from advpt.bank.cache import BankCache, is_complete
from advpt.bank.store import Bank
from advpt.errors import BankError
from advpt.files import read_json, write_json

FILE = "cost.json"


def timed(bank_cache: BankCache, folder: Path, get: Callable[[], Bank]) -> tuple[Bank, float | None]:
    """``get()`` with the seconds that building its rows took, from this call or from the one that built the bank; None
    where nobody measured it. After a killed build the missing part is timed and scaled to the whole.

    Args:
        folder: the bank's own. get: asks the library for it.
    """
    there = 0 if is_complete(folder) else sum(1 for _ in folder.glob("part-*.safetensors"))
    started = time.monotonic()
    bank = get()
    if bank.key in bank_cache.built:
        seconds = time.monotonic() - started
        shards = max(1, sum(1 for _ in folder.glob("part-*.safetensors")))
        if there < shards:
            write_json(folder / FILE, {"seconds": seconds * shards / (shards - there), "images": len(bank)})
    path = folder.parent / bank_cache.read_from.get(bank.key, bank.key) / FILE
    try:
        cost = read_json(path, BankError)
        return bank, float(cost["seconds"]) * len(bank) / max(1, int(cost["images"]))
    except (BankError, KeyError, ValueError, TypeError, OverflowError):
        return bank, None


__all__ = ["FILE", "timed"]
