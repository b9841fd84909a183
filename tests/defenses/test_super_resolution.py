"""Super-resolution with weights from a file."""

from __future__ import annotations

import torch

from advpt.defenses import edsr, parse
from advpt.defenses.weights import WeightFile
from advpt.files import file_digest
from tests.helpers.defenses import published_like


def test_a_file_with_the_right_hash_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVPT_WEIGHTS", str(tmp_path))
    torch.save(published_like(), tmp_path / edsr.PUBLISHED.name)
    right = WeightFile(edsr.PUBLISHED.name, edsr.PUBLISHED.url, file_digest(tmp_path / edsr.PUBLISHED.name)[:8])
    monkeypatch.setattr(edsr, "PUBLISHED", right)
    chain = parse("super:mustafa").build()
    out = chain(torch.rand(2, 3, 32, 32))
    assert out.shape == (2, 3, 32, 32)
    one = chain.parameters()[0]["sr"]["weights"]
    torch.save(published_like(1), tmp_path / "own.pt")
    assert one != parse("super:mustafa/weights=own.pt").build().parameters()[0]["sr"]["weights"]
