"""AugMix against PIL, an oracle of its own, and its gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from advpt.data import augmix
from advpt.data.augmix import Mixture
from advpt.data.views import generator_of
from tests.helpers.tiny_clip import DTYPES, images, vectors

SIZES = ((32, 32), (40, 31), (64, 96))
BILINEAR = Image.Resampling.BILINEAR


def pictures(height: int, width: int) -> Tensor:
    """``[3, 3, h, w]`` levels: two smooth pictures, one of them dim and flat in a corner, and noise."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 6, 6, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    smooth[1] = 0.2 + 0.5 * smooth[1]
    smooth[1, :, : height // 2, : width // 2] = 0.5
    return (255 * torch.cat([smooth, torch.rand(1, 3, height, width, generator=g)])).round()


def by_pil(name: str, picture: Image.Image, level: float, sign: float) -> Image.Image:
    """One operation as PIL does it, at the magnitudes of severity 1."""
    side = {"shift_x": picture.width, "shift_y": picture.height}.get(name, 0)
    if name == "rotate":
        return picture.rotate(sign * int(level * 30 / 10), resample=BILINEAR)
    if name == "autocontrast":
        return ImageOps.autocontrast(picture)
    if name == "equalize":
        return ImageOps.equalize(picture)
    if name == "posterize":
        return ImageOps.posterize(picture, 4 - int(level * 4 / 10))
    if name == "solarize":
        return ImageOps.solarize(picture, 256 - int(level * 256 / 10))
    shear, shift = sign * level * 0.3 / 10, sign * int(level * (side / 3) / 10)
    matrix = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "shift_x": (1, 0, shift, 0, 1, 0),
        "shift_y": (1, 0, 0, 0, 1, shift),
    }[name]
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample=BILINEAR)


def to_pil(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels.permute(1, 2, 0).byte().numpy())


def from_pil(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


@pytest.mark.parametrize("name", augmix.OPERATIONS)
def test_operations_are_those_of_pil(name: str) -> None:
    changed = 0.0
    for size in SIZES:
        levels = pictures(*size)
        for level in (0.1, 0.34, 0.7, 0.9999):
            for sign in (1.0, -1.0):
                magnitude = (torch.full((3,), value, dtype=torch.float64) for value in (level, sign))
                made = augmix.apply(levels, [name] * 3, *magnitude)
                expected = torch.stack([from_pil(by_pil(name, to_pil(each), level, sign)) for each in levels])
                gap = (made - expected).abs()
                rare = 2e-4 if name.startswith("shear") else 0  # whole levels that PIL computes as a little less
                assert float(gap.max()) <= 1 and float((gap > 0).float().mean()) <= rare, (name, size, level, sign)
                changed += float((made != levels).float().mean())
    assert changed > 0.1, "the operation does something"


def test_operations_of_pictures_without_contrast() -> None:
    flat = torch.full((1, 3, 8, 8), 200.0)
    two = flat.clone()
    two[..., 0] = 10  # one value more: too few pixels to make the histogram even
    for levels in (flat, two):
        for name in ("autocontrast", "equalize"):
            made = augmix.apply(levels, [name], torch.ones(1), torch.ones(1))
            assert torch.equal(made[0], from_pil(by_pil(name, to_pil(levels[0]), 1.0, 1.0)))


def test_whole_mixtures_are_those_of_a_pipeline_of_pictures() -> None:
    x = torch.rand(2, 20, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    made = augmix.augmix(x, [generator_of(0, "augmix", key) for key in "ab"])
    for i, key in enumerate("ab"):
        drawn = augmix.draw(20, generator_of(0, "augmix", key))
        for view in range(20):
            picture = to_pil((255 * x[i, view]).round())
            total = torch.zeros(3, 32, 32)
            for chain in range(3):
                now = picture
                for step in range(int(drawn.depth[view, chain])):
                    at = (view, chain, step)
                    name = augmix.OPERATIONS[int(drawn.operations[at])]
                    now = by_pil(name, now, float(drawn.level[at]), float(drawn.sign[at]))
                total += float(drawn.weights[view, chain]) * from_pil(now) / 255
            share = float(drawn.share[view])
            expected = share * from_pil(picture) / 255 + (1 - share) * total
            gap = (made[i, view] - expected).abs()
            assert float(gap.max()) <= 1 / 255 and float((gap > 1e-6).float().mean()) < 1e-3


def test_what_is_drawn() -> None:
    drawn = augmix.draw(5000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn.weights.sum(1), torch.ones(5000, dtype=torch.float64))
    assert drawn.weights.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    assert float(drawn.weights.var(0).mean()) == pytest.approx(1 / 18, rel=0.05), "Dirichlet(1, 1, 1)"
    assert float(drawn.share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn.share.var()) == pytest.approx(1 / 12, rel=0.05), "uniform"
    assert drawn.depth.flatten().bincount().tolist() == pytest.approx([0, 5000, 5000, 5000], rel=0.05, abs=0)
    assert drawn.operations.flatten().bincount().tolist() == pytest.approx([5000] * 9, rel=0.05)
    assert 0.1 <= float(drawn.level.min()) < 0.101 and 0.999 < float(drawn.level.max()) < 1
    assert float(drawn.sign.mean()) == pytest.approx(0, abs=0.02) and set(drawn.sign.unique().tolist()) == {-1, 1}


def test_views_depend_on_their_number_and_generator_alone() -> None:
    x = torch.rand(1, 6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    whole = augmix.augmix(x, [generator_of(0, "a")])
    assert torch.equal(augmix.augmix(x[:, :2], [generator_of(0, "a")]), whole[:, :2])
    assert torch.equal(augmix.augmix(x[:, 2:], [generator_of(0, "a")], skip=2), whole[:, 2:])
    assert torch.equal(augmix.augmix(x.expand(2, -1, -1, -1, -1), [generator_of(0, k) for k in "ba"])[1], whole[0])
    assert not torch.equal(augmix.augmix(x, [generator_of(1, "a")]), whole)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_worked_examples(dtype: torch.dtype) -> None:
    bits, example = vectors("eight_bits", dtype), vectors("augmix", dtype)
    pixels = bits["value_times_255"] / 255
    assert (255 * augmix.eight_bits(pixels)).round().tolist() == bits["rounded"].tolist()
    floored = augmix.eight_bits(pixels, floor=True)
    assert (255 * floored).round().tolist() == bits["truncated"].tolist()
    assert torch.equal(augmix.eight_bits(floored, floor=True), floored), "twice is once"
    levels, mixture = example["posterize_4_bits"], example["mix"]
    assert augmix.posterize(levels["in"].to(dtype)).tolist() == levels["out"].tolist()
    x = torch.full((1, 1), mixture["x"], dtype=dtype)
    weights, share = mixture["w"][None], torch.full((1,), mixture["m"], dtype=dtype)
    result = augmix.mixed(x, mixture["augmented"][None, :, None], weights, share)
    assert float(result) == pytest.approx(mixture["result"], rel=DTYPES[dtype]["rtol"])


def mixture_of(name: str, level: float = 0.8) -> Mixture:
    """One operation in all chains, and nothing of the picture itself."""
    rows = torch.full((1, 3, 3), augmix.OPERATIONS.index(name))
    level_of, sign = torch.full((1, 3, 3), level).double(), torch.ones(1, 3, 3).double()
    return Mixture(torch.full((1, 3), 1 / 3), torch.zeros(1), torch.ones(1, 3, dtype=torch.int64), rows, level_of, sign)


@pytest.mark.parametrize("name", augmix.OPERATIONS)
def test_gradients(name: str) -> None:
    """Of what moves pixels: those of the interpolation, whose weights are linear; of the rest: the identity's."""
    x = images(1, side=64).double()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        gradient = torch.autograd.grad((augmix.mix(leaf, mixture_of(name)) * direction).sum(), leaf)[0]
    if name not in augmix.GEOMETRIC:
        torch.testing.assert_close(gradient, direction)
        return
    assert not torch.allclose(gradient, direction), "pixels moved"
    other = images(1, side=64, seed=8).double()
    moved = augmix.mix(other, mixture_of(name)) - augmix.mix(x, mixture_of(name))
    linear = ((other - x) * gradient).sum()
    assert float(linear) == pytest.approx(float((moved * direction).sum()), abs=3 * math.sqrt(x.numel()) / 255)
    moving = torch.zeros_like(x)
    moving[..., 20:40, 20:40] = 1
    expected = float((augmix.mix(moving, mixture_of(name)) * direction).sum())
    assert float((moving * gradient).sum()) == pytest.approx(expected, abs=0.5)
