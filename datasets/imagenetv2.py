"""ImageNetV2 (matched frequency): a new test set for ImageNet's 1,000 classes, test only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog, imagenet, listing
from advpt.errors import DataError

from .imagenet import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetVariant):
    """Folders are plain numbers: the number is the label, its name the line of that number."""

    info = catalog.get("ImageNetV2")

    def classes(self, folder: Path, names: Mapping[str, str]) -> tuple[imagenet.Listing, Mapping[str, str]]:
        numbers = [str(label) for label in range(self.info.classes)]
        absent = sorted(set(numbers) - set(listing.folders(folder)), key=int)
        if absent:
            raise DataError(
                f"ImageNetV2: {folder} lacks {len(absent):,} of the 1,000 folders 0 to 999, first "
                f"{listing.some(absent, 5)}. The archive was not unpacked to the end; unpack it again"
            )
        images, doubts = imagenet.list_images(folder, numbers)
        self.warn_of(*doubts)
        return images, dict(zip(numbers, names.values()))
