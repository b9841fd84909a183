"""ImageNet-A: natural adversarial images of 200 classes, test only."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .imagenet import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetA(ImageNetVariant):
    """Labels 0..199 by sorted folder: not ImageNet's labels."""

    info = catalog.get("ImageNetA")
    dataset_dir = info.folder
