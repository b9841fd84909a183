"""A small report."""

from __future__ import annotations

import pytest

from tests.helpers.reports import Small


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path)
