"""What a bank cost is kept beside it."""

from __future__ import annotations

import pytest
import torch

from advpt.bank.cache import AttackRequest, BankCache
from advpt.bank.cost import FILE, timed
from advpt.files import read_json, write_json


def test_a_bank_remembers_what_it_cost_whoever_asks(tmp_path, tiny_clip, images):
    bank_cache = BankCache(tmp_path / "banks", tiny_clip, lambda: tiny_clip, chunk=2)
    some = images(6, 2)
    folder = bank_cache.folder(bank_cache.spec(AttackRequest(some)))
    bank, seconds = timed(bank_cache, AttackRequest(some))
    assert seconds > 0 and read_json(folder / FILE)["images"] == 6

    again = BankCache(tmp_path / "banks", tiny_clip, lambda: tiny_clip, chunk=2)
    assert timed(again, AttackRequest(some))[1] == pytest.approx(seconds)
    few = some.first(2)
    part, share = timed(again, AttackRequest(few))
    assert len(part) == 2 and share == pytest.approx(seconds / 3), "rows of a larger bank cost their share of it"
    (folder / FILE).unlink()
    assert timed(again, AttackRequest(some))[1] is None
    write_json(folder / FILE, {"seconds": "?"})
    assert timed(again, AttackRequest(some))[1] is None
    assert torch.equal(bank.embeddings[:1], bank_cache.get(some).embeddings[:1])
