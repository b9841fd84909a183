"""Random numbers that belong to an image."""

from __future__ import annotations

import hashlib

import pytest
import torch

from advpt.attacks.noise import SampleNoise, as_noise


def test_depends_on_id_and_seed_alone() -> None:
    like = torch.zeros(3, 2, 4, 4)
    whole = SampleNoise(["a", "b", "c"], 1).uniform(like, -1, 1)
    assert torch.equal(SampleNoise(["c", "a"], 1).uniform(like[:2], -1, 1), whole[[2, 0]])
    assert not torch.equal(SampleNoise(["a"], 2).uniform(like[:1], -1, 1), whole[:1])
    assert not torch.equal(whole[0], whole[1])


def test_never_changes() -> None:
    """Banks that exist were made with these numbers."""
    drawn = SampleNoise(["oxford_pets/images/Abyssinian_1.jpg"], 0).uniform(torch.zeros(1, 8), 0, 1)
    value = int.from_bytes(hashlib.sha256(b"0:oxford_pets/images/Abyssinian_1.jpg").digest()[:8], "big") >> 1
    expected = torch.rand(8, generator=torch.Generator().manual_seed(value))
    assert torch.equal(drawn[0], expected)


def test_range_shape_and_dtype() -> None:
    noise = SampleNoise([str(i) for i in range(50)], 0)
    drawn = noise.uniform(torch.zeros(50, 100), -0.25, 0.75)
    assert drawn.dtype == torch.float32 and drawn.shape == (50, 100)
    assert -0.25 <= drawn.min() < -0.24 and 0.74 < drawn.max() <= 0.75
    normal = noise.normal(torch.zeros(50, 100, dtype=torch.float64))
    assert normal.dtype == torch.float64
    assert abs(normal.mean()) < 0.05 and 0.95 < normal.std() < 1.05


def test_later_draws_differ_and_global_state_is_not_touched() -> None:
    before = torch.get_rng_state()
    noise = SampleNoise(["a"], 0)
    first, second = (noise.uniform(torch.zeros(1, 9), 0, 1) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_plain_generator_seeds_each_image() -> None:
    like = torch.zeros(2, 5)
    drawn = as_noise(torch.Generator().manual_seed(3), 2).normal(like)
    assert torch.equal(as_noise(torch.Generator().manual_seed(3), 2).normal(like), drawn)
    assert not torch.equal(drawn[0], drawn[1])
    noise = SampleNoise(["a"], 0)
    assert as_noise(noise, 1) is noise


def test_a_batch_of_another_size() -> None:
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        SampleNoise(["a", "b"], 0).normal(torch.zeros(3, 4))
