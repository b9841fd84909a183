"""The same banks, opened anew."""

from __future__ import annotations

import dataclasses

import pytest


@pytest.fixture
def again(library):
    """The same shelf, opened by another process: nothing is remembered."""
    return lambda **how: dataclasses.replace(library, _open={}, built=[], **how)
