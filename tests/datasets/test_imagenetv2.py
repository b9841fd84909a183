"""ImageNetV2: its folders are numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advpt.data import imagenet
from advpt.errors import DataError
from tests.helpers.dataset_trees import Build, touch

NAMES = imagenet.shipped_names()

pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")


def message(build: Build, name: str = "ImageNet", **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        build(name, **options)
    return str(caught.value)


def test_v2_folders_are_numbers_and_labels(build: Build, tmp_path: Path) -> None:
    images = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    touch(images, (f"{label}/{label}.jpeg" for label in range(1000)))
    data = build("ImageNetV2")
    assert [item.label for item in data.test] == list(range(1000))
    assert all(Path(item.impath).parent.name == str(item.label) for item in data.test)
    assert data.classnames == list(NAMES.values())
    (images / "10" / "10.jpeg").unlink()
    assert "1 of 1000 class folders" in message(build, "ImageNetV2")
    (images / "10").rmdir()
    assert "lacks 1 of the 1,000 folders 0 to 999, first 10" in message(build, "ImageNetV2")
