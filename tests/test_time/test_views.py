"""Views and their embeddings, shared by all methods over several views."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as TF

from advpt.backbones.backbone import Backbone
from advpt.bank.defended_input import CachedForward
from advpt.data import views as crops
from advpt.data.views import generator_of
from advpt.errors import DefenseError
from advpt.test_time.base import Draws
from advpt.test_time.views import ViewSettings, check, image_features, mean_of_views, view_features, view_pixels
from tests.helpers.tiny_clip import Counter, defended_model, images

DRAWS = Draws(("a", "b", "c"), 3)
FEW = ViewSettings(views=4)


def test_fewer_crops_are_the_first_ones_of_more() -> None:
    few, many = (crops.draw_more(24, 20, n, generator_of(0, "views", "x")) for n in (3, 40))
    assert torch.equal(few.place, many.place[:3]) and torch.equal(few.flipped, many.flipped[:3])
    assert 5 < int(many.flipped.sum()) < 35 and len(many.place.unique(dim=0)) > 30
    area = (many.place[:, 2] * many.place[:, 3]) / (24 * 20)
    assert 0.05 < float(area.min()) < 0.3 and float(area.max()) > 0.7


def test_views_are_the_image_and_crops_by_key_and_seed() -> None:
    x = images(3)
    all_views = view_pixels(x, DRAWS, FEW)
    assert all_views.shape == (3, 4, 3, 32, 32) and torch.equal(all_views[:, 0], x)
    assert torch.equal(view_pixels(x, DRAWS, FEW, first=2), all_views[:, 2:])
    assert torch.equal(view_pixels(x[1:2], Draws(("b",), 3), FEW)[0], all_views[1])
    for other in (Draws(("b",), 4), Draws(("z",), 3)):
        assert not torch.equal(view_pixels(x[1:2], other, FEW)[0, 1:], all_views[1, 1:])
    assert torch.equal(view_pixels(x, DRAWS, ViewSettings(views=1)), x[:, None])


def test_views_of_clean_images_come_from_their_files(tmp_path: Path) -> None:
    x, large = images(2), images(2, side=80)
    files = {}
    for key, picture in zip("ab", large):
        files[key] = tmp_path / f"{key}.png"
        TF.to_pil_image(picture).save(files[key])
    settings, draws = ViewSettings(views=5, source="file"), Draws(("a", "b"), 0)
    made = view_pixels(x, draws, settings, clean=True, files=files)
    assert torch.equal(made[:, 0], x)
    generator = generator_of(0, "views", "a")
    expected = crops.crops_of_file(files["a"], (32, 32), 4, generator, "bilinear", crops.draw_more)
    assert torch.equal(made[0, 1:], expected)
    further = view_pixels(x, draws, settings, clean=True, files=files, first=3)
    assert torch.equal(further, made[:, 3:])
    attacked = view_pixels(x, draws, settings, clean=False, files=files)
    assert torch.equal(attacked, view_pixels(x, draws, dataclasses.replace(settings, source="tensor")))
    with pytest.raises(DefenseError, match="image 'b' is not known"):
        view_pixels(x, draws, settings, clean=True, files={"a": files["a"]})


def test_attacked_images_become_pictures_of_8_bits_and_clean_ones_stay() -> None:
    x, settings = images(3), ViewSettings(views=3, eight_bits="floor")
    assert torch.equal(view_pixels(x, DRAWS, settings)[:, 0], (255 * x).floor() / 255)
    clean = view_pixels(x, DRAWS, settings, clean=True)
    assert torch.equal(clean, view_pixels(x, DRAWS, ViewSettings(views=3)))


def test_augmix_is_of_each_crop_by_its_number() -> None:
    x, settings = images(3), ViewSettings(views=6, augmix="all")
    whole = view_pixels(x, DRAWS, settings)
    assert torch.equal(whole[:, 0], x), "not of the image itself"
    assert torch.equal(view_pixels(x, DRAWS, settings, first=3), whole[:, 3:])
    assert not torch.equal(whole, view_pixels(x, DRAWS, ViewSettings(views=6)))


@pytest.mark.parametrize("wrong", (ViewSettings(views=0), ViewSettings(augmix="some"), ViewSettings(source="disk")))
def test_wrong_settings_are_refused(wrong: ViewSettings) -> None:
    with pytest.raises(DefenseError, match="expected"):
        check(wrong)


def test_embeddings_are_those_of_each_view_without_a_graph(tiny_clip: Backbone) -> None:
    encode, x = tiny_clip.require_image(), images(3)
    with torch.enable_grad():
        embeddings = view_features(encode, x.requires_grad_(), DRAWS, FEW)
    assert embeddings.shape[:2] == (3, 4) and not embeddings.requires_grad
    for i, views in enumerate(view_pixels(x.detach(), DRAWS, FEW)):
        assert torch.allclose(embeddings[i], encode(views), atol=1e-5)
    assert not torch.allclose(embeddings.norm(dim=-1), torch.ones(3, 4)), "not normalised"


def test_defenses_share_one_pass(tiny_clip: Backbone) -> None:
    counter = Counter(tiny_clip.require_image())
    encode, x = CachedForward(counter), images(3)
    whole = view_features(encode, x, DRAWS, ViewSettings(views=6))
    assert counter.images == 3 * 6
    assert torch.equal(view_features(encode, x.clone(), DRAWS, FEW), whole[:, :4]), "equal pixels are enough"
    assert torch.equal(image_features(encode, x), whole[:, 0]) and counter.images == 18, "nothing is computed again"
    view_features(encode, x, DRAWS, ViewSettings(views=8))
    assert counter.images == 3 * 8, "only the two further views"
    few = CachedForward(counter)
    view_features(few, x, DRAWS, FEW)
    grown = view_features(few, x, DRAWS, ViewSettings(views=6))
    assert torch.allclose(grown, whole, atol=1e-5), "in two passes as in one"


@pytest.mark.parametrize("other", ("pixels", "written into", "keys", "seed"))
def test_other_images_or_draws_are_computed_anew(tiny_clip: Backbone, other: str) -> None:
    image = tiny_clip.require_image()
    encode, x, draws = CachedForward(image), images(3), DRAWS
    before = view_features(encode, x, draws, FEW)
    if other == "pixels":
        x = images(3, seed=8)
    elif other == "written into":
        x.mul_(0.5)
    else:
        draws = Draws(("a", "b", "z"), 3) if other == "keys" else Draws(draws.keys, 4)
    after = view_features(encode, x, draws, FEW)
    assert torch.allclose(after, view_features(image, x, draws, FEW), atol=1e-6)
    assert not torch.equal(after[2, 1:], before[2, 1:])


def test_the_mean_of_views_is_the_logarithm_of_the_mean_probability(tiny_clip: Backbone) -> None:
    model, encode, x = defended_model(tiny_clip), tiny_clip.require_image(), images(3)
    variant = mean_of_views(model)
    with torch.enable_grad():
        logits = variant.logits(encode, x.requires_grad_(), DRAWS)
        gradient = torch.autograd.grad(logits[:, 0].sum(), x)[0]
    views = view_pixels(x.detach(), DRAWS, ViewSettings(views=9))
    expected = torch.stack([model.classifier.logits(encode(each)).softmax(-1).mean(0) for each in views])
    assert torch.allclose(logits.softmax(-1), expected, atol=1e-5)
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all()) and variant.cost.backward == 9
    assert variant.parameters == mean_of_views(model).parameters != mean_of_views(model, views=4).parameters


def test_a_part_of_a_batch_has_the_same_logits(tiny_clip: Backbone) -> None:
    variant, encode, x = mean_of_views(defended_model(tiny_clip)), tiny_clip.require_image(), images(3)
    whole: Tensor = variant.logits(encode, x, DRAWS)
    assert torch.allclose(variant.logits(encode, x[1:2], Draws(("b",), 3)), whole[1:2], atol=1e-5)
