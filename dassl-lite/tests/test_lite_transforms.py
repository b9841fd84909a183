import random

import numpy as np
import pytest
import torch
from dassl.data.transforms import INTERPOLATION_MODES, build_transform
from PIL import Image
from torchvision import transforms as T

ALL = """
    instance_norm gaussian_noise normalize cutout gaussian_blur randomgrayscale colorjitter random_flip
    random_resized_crop random_crop random_translation center_crop
"""
ORDER = """
    Random2DTranslation RandomCrop RandomResizedCrop RandomHorizontalFlip ColorJitter RandomGrayscale
    RandomApply ToTensor Cutout Normalize GaussianNoise InstanceNormalization
"""


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def names(transform):
    return [type(step).__name__ for step in transform.transforms]


def test_training_order_does_not_depend_on_the_configuration(cfg, image):
    cfg.INPUT.GB_K, cfg.INPUT.GB_P = 3, 1.0
    choices = ALL.split()
    assert names(build_transform(cfg, choices=choices)) == ORDER.split()
    assert names(build_transform(cfg, choices=choices[::-1])) == ORDER.split()
    assert build_transform(cfg, choices=choices)(image).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([], ["Resize", "ToTensor"]),
        (["normalize", "random_flip"], ["Resize", "RandomHorizontalFlip", "ToTensor", "Normalize"]),
        (["random_crop"], ["RandomCrop", "ToTensor"]),
        (["random_resized_crop"], ["RandomResizedCrop", "ToTensor"]),
        (["center_crop"], ["Resize", "ToTensor"]),
        (["random_translation"], ["Resize", "Random2DTranslation", "ToTensor"]),
    ],
)
def test_resize_unless_there_is_a_random_crop(cfg, choices, expected):
    assert names(build_transform(cfg, choices=choices)) == expected


def test_test_transform(cfg, image):
    cfg.INPUT.SIZE = (8, 12)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    transform = build_transform(cfg, is_train=False)
    assert names(transform) == ["Resize", "CenterCrop", "ToTensor", "Normalize"]
    assert transform.transforms[0].size == 12
    expected = T.Compose(
        [
            T.Resize(12, interpolation=T.InterpolationMode.BICUBIC),
            T.CenterCrop((8, 12)),
            T.ToTensor(),
            T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD),
        ]
    )
    assert torch.equal(transform(image), expected(image))


def test_training_draws_are_torchvisions(cfg, image):
    cfg.INPUT.TRANSFORMS = ("random_flip", "random_resized_crop")
    transform = build_transform(cfg)
    expected = T.Compose(
        [
            T.RandomResizedCrop((8, 8), (0.08, 1.0), interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
        ]
    )
    torch.manual_seed(3)
    ours = [transform(image) for _ in range(4)]
    torch.manual_seed(3)
    for out in ours:
        assert torch.equal(out, expected(image))


def test_lists_are_taken_for_tuples(cfg, image):
    """A dumped configuration comes back with lists."""
    from yacs.config import CfgNode

    again = CfgNode.load_cfg(cfg.dump())
    assert again.INPUT.SIZE == [8, 8]
    assert build_transform(again, choices=["random_resized_crop"])(image).shape == (3, 8, 8)
    assert build_transform(again, is_train=False)(image).shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["imagenet_policy", "cifar10_policy", "svhn_policy", "randaugment"])
def test_policies_are_refused_by_name(cfg, name):
    with pytest.raises(ValueError, match=f"'{name}'.*not included"):
        build_transform(cfg, choices=["normalize", name])


def test_unknown_names(cfg):
    for error in (AssertionError, ValueError):
        with pytest.raises(error, match=r"unknown transform 'random_flop'; did you mean 'random_flip'\? Known: "):
            build_transform(cfg, choices=["random_flop"])
    cfg.INPUT.INTERPOLATION = "cubic"
    with pytest.raises(AssertionError, match="did you mean 'bicubic'"):
        build_transform(cfg)


def test_no_transform_and_modes(cfg, capsys):
    cfg.INPUT.NO_TRANSFORM = True
    assert build_transform(cfg) is None
    assert "no transform" in capsys.readouterr().out
    assert list(INTERPOLATION_MODES) == ["bilinear", "bicubic", "nearest"]


def test_cutout_noise_and_norm(cfg, image):
    cfg.INPUT.CUTOUT_LEN = 4
    np.random.seed(0)
    plain = build_transform(cfg, choices=[])(image)
    cut = build_transform(cfg, choices=["cutout"])(image)
    changed = (cut != plain).any(0)
    assert 0 < int(changed.sum()) <= 16
    assert cut[:, changed].eq(0).all()
    random.seed(0)
    noisy = [build_transform(cfg, choices=["gaussian_noise"])(image) for _ in range(12)]
    untouched = [torch.equal(out, plain) for out in noisy]
    assert any(untouched)
    assert not all(untouched)
    normed = build_transform(cfg, choices=["instance_norm"])(image)
    torch.testing.assert_close(normed.flatten(1).mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.flatten(1).std(1), torch.ones(3), atol=1e-5, rtol=0)


def test_cutout_and_noise_draw_as_upstream(cfg, image):
    """numpy draws the centres, row first; Python's generator draws whether there is noise, torch's the noise."""
    cfg.INPUT.CUTOUT_N, cfg.INPUT.CUTOUT_LEN, cfg.INPUT.GN_MEAN = 2, 4, 0.25
    plain = build_transform(cfg, choices=[])(image)
    for seed in range(8):
        np.random.seed(seed)
        expected = plain.clone()
        for _ in range(2):
            row, column = np.random.randint(8), np.random.randint(8)
            expected[:, max(row - 2, 0) : row + 2, max(column - 2, 0) : column + 2] = 0
        np.random.seed(seed)
        assert torch.equal(build_transform(cfg, choices=["cutout"])(image), expected)
        random.seed(seed)
        torch.manual_seed(seed)
        noisy = random.uniform(0, 1) <= 0.5
        expected = plain + (torch.randn(3, 8, 8) * cfg.INPUT.GN_STD + cfg.INPUT.GN_MEAN) if noisy else plain
        random.seed(seed)
        torch.manual_seed(seed)
        assert torch.equal(build_transform(cfg, choices=["gaussian_noise"])(image), expected)


def test_translation_draws_two_whole_numbers(cfg, image):
    from dassl.data.transforms.transforms import Random2DTranslation

    cfg.INPUT.SIZE = (16, 24)
    places = set()
    for seed in range(12):
        random.seed(seed)
        if random.uniform(0, 1) > 0.5:
            expected = T.functional.resize(image, [16, 24])
        else:
            row, column = random.randint(0, 2), random.randint(0, 3)
            places.add((row, column))
            expected = T.functional.crop(T.functional.resize(image, [18, 27]), row, column, 16, 24)
        random.seed(seed)
        assert np.array_equal(np.asarray(Random2DTranslation((16, 24))(image)), np.asarray(expected))
    assert len(places) > 2
