"""The seconds that building a bank took, in a file beside it; figures of accuracy over wall-clock count them."""

from __future__ import annotations

import time

from advpt.bank.cache import AttackRequest, BankCache, is_complete
from advpt.bank.defended_input import UNDEFENDED
from advpt.bank.store import Bank
from advpt.errors import BankError
from advpt.files import read_json, write_json

FILE = "cost.json"


def timed(bank_cache: BankCache, request: AttackRequest) -> tuple[Bank, float | None]:
    """The bank of a request, and the seconds that building its rows took, in this call or in the one that built it;
    None where they were not measured. After a killed build the missing part is timed and scaled to the whole."""
    folder = bank_cache.folder(bank_cache.spec(request))
    shards_before = 0 if is_complete(folder) else sum(1 for _ in folder.glob("part-*.safetensors"))
    started = time.monotonic()
    (bank,) = bank_cache.get_all(request, [UNDEFENDED])
    if bank.key in bank_cache.state.built:
        seconds = time.monotonic() - started
        shards = max(1, sum(1 for _ in folder.glob("part-*.safetensors")))
        if shards_before < shards:
            whole = seconds * shards / (shards - shards_before)
            write_json(folder / FILE, {"seconds": whole, "images": len(bank)})
    path = folder.parent / bank_cache.state.read_from.get(bank.key, bank.key) / FILE
    try:
        cost = read_json(path, BankError)
        return bank, float(cost["seconds"]) * len(bank) / max(1, int(cost["images"]))
    except (BankError, KeyError, ValueError, TypeError, OverflowError):
        return bank, None
