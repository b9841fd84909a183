"""ImageNet-Sketch: drawings of ImageNet's 1,000 classes, test only."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .imagenet import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetSketch(ImageNetVariant):
    """Labels as in ImageNet, when all class folders are there."""

    info = catalog.get("ImageNetSketch")
    dataset_dir = info.folder
