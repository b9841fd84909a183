"""Test images of registered data sets as an outside model reads them."""

from __future__ import annotations

import pytest

from advpt.cli.outside_images import reader
from advpt.errors import ConfigError
from advpt.outside.model import OutsideModel


def test_the_test_images_of_a_data_set_with_the_models_own_size(tmp_path):
    model = OutsideModel(lambda pixels: pixels, name="m", preprocessing={"size": 20, "interpolation": "nearest"})
    images, warnings = reader("digits", tmp_path)(model)
    assert (images.dataset, images.split, len(images), warnings) == ("Digits", "test", 600, [])
    assert images.classnames[:2] == ("zero", "one") and images.preprocessing == model.preprocessing
    assert next(images.batches([0], 1)).pixels.shape == (1, 3, 20, 20)


def test_an_unknown_data_set_is_named_at_once(tmp_path):
    with pytest.raises(ConfigError, match="unknown data set 'digit'"):
        reader("digit", tmp_path)
