"""The small random diffusion model."""

from __future__ import annotations

from advpt.defenses import parse
from tests.helpers.defenses import noise, picture


def test_the_small_random_model_is_a_diffpure(diffusers, tmp_path, monkeypatch):
    from advpt.defenses import tiny

    monkeypatch.setenv("ADVPT_WEIGHTS", str(tmp_path / "new"))
    tiny.write("tiny.safetensors")
    chain = parse("diffpure/t=2/weights=tiny.safetensors").build()
    assert chain(picture(size=32), noise(2)).shape == (2, 3, 32, 32)
    assert chain.parameters() == parse("diffpure/t=2/weights=tiny.safetensors").build().parameters()
