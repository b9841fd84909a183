"""The same banks, opened anew."""

from __future__ import annotations

import dataclasses

import pytest

from advpt.bank.cache import CacheState


@pytest.fixture
def again(bank_cache):
    """The same banks, as another process opens them."""
    return lambda **how: dataclasses.replace(bank_cache, state=CacheState(), **how)
