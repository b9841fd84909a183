"""ImageNet-R: renditions of 200 classes, test only."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .imagenet import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetR(ImageNetVariant):
    """Labels 0..199 by sorted folder: not ImageNet's labels."""

    info = catalog.get("ImageNetR")
    dataset_dir = info.folder
