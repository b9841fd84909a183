"""Views of an image: random resized crops that depend on the image's id and a seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from advpt.data import views
from advpt.errors import DataError


def pixels(b: int = 2, size: int = 24) -> torch.Tensor:
    return torch.rand(b, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_the_first_view_is_the_image() -> None:
    x = pixels()
    found = views.views(x, ["a", "b"], 8, seed=0)
    assert found.shape == (2, 8, 3, 24, 24) and found.dtype == torch.float32
    assert torch.equal(found[:, 0], x) and float(found.min()) >= 0 and float(found.max()) <= 1
    assert torch.equal(views.views(x, ["a", "b"], 1, seed=0), x[:, None])


def test_views_depend_on_the_id_and_the_seed_alone() -> None:
    x = pixels(1).expand(3, -1, -1, -1)
    found = views.views(x, ["a", "b", "a"], 8, seed=0)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    assert torch.equal(views.views(x[:1], ["b"], 8, seed=0)[0], found[1])
    assert not torch.equal(views.views(x[:1], ["a"], 8, seed=1)[0], found[0])


def test_crops_are_those_of_torchvision() -> None:
    x, boxes = pixels(1), views.draw(24, 24, 20, torch.Generator().manual_seed(3))
    found = views.crops(x, [boxes])[0]
    assert 0 < int(boxes.flipped.sum()) < 20
    for view, box, flip in zip(found, boxes.place.tolist(), boxes.flipped.tolist()):
        expected = TF.resized_crop(x[0], *box, [24, 24], InterpolationMode.BILINEAR, antialias=True)
        assert torch.allclose(view, TF.hflip(expected) if flip else expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), ((24, 24), (40, 31)))
def test_crops_have_the_areas_and_shapes_of_imagenet_training(height: int, width: int) -> None:
    top, left, h, w = views.draw(height, width, 4000, torch.Generator().manual_seed(0)).place.T
    assert int(top.min()) == 0 and int(left.min()) == 0
    assert bool((top + h <= height).all() and (left + w <= width).all())
    area, ratio = (h * w) / (height * width), w / h
    assert 0.05 < float(area.min()) < 0.1 and float(area.max()) > 0.95 and 0.4 < float(area.mean()) < 0.6
    assert 0.6 < float(ratio.min()) < 0.78 and 1.28 < float(ratio.max()) < 1.6


def test_an_image_that_no_draw_fits_is_cropped_in_the_middle() -> None:
    boxes = views.draw(4, 400, 5, torch.Generator().manual_seed(0))
    assert bool((boxes.place == torch.tensor([0, 197, 4, 5])).all(1).any())


def test_the_gradient_reaches_the_pixels() -> None:
    x = pixels(1).requires_grad_()
    views.views(x, ["a"], 6, seed=0).sum().backward()
    assert float(x.grad.sum()) == pytest.approx(6 * x.numel(), rel=1e-4)


def test_crops_of_a_file(tmp_path: Path) -> None:
    x, path = pixels(1, 24)[0], tmp_path / "x.png"
    TF.to_pil_image(x).save(path)
    found = views.crops_of_file(path, (12, 12), 5, torch.Generator().manual_seed(1), "bilinear")
    assert found.shape == (5, 3, 12, 12)
    boxes = views.draw(24, 24, 5, torch.Generator().manual_seed(1))
    opened = Image.open(path)
    first = TF.resized_crop(opened, *boxes.place[0].tolist(), [12, 12], InterpolationMode.BILINEAR)
    assert torch.equal(found[0], TF.to_tensor(TF.hflip(first) if boxes.flipped[0] else first))
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match="x.png cannot be read"):
        views.crops_of_file(path, (12, 12), 1, torch.Generator(), "bilinear")
