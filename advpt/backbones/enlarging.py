"""Models of images that are smaller than their towers read, which they enlarge themselves: an attack on such a model
changes the pixels before they are enlarged (``EVAL.ATTACK_AT native``)."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.backbone import Backbone, ImageEncoder
from advpt.backbones.card import JSON
from advpt.errors import DataError
from advpt.files import digest

ENLARGES = "bicubic, no antialias, corners not aligned, not clamped"  # for digests and records


class EnlargingEncoder(ImageEncoder):
    """An encoder of pixels ``[b, 3, h, w]`` of another size, in [0, 1], which it enlarges to its own. Bicubic as in
    TeCoA's code (Mao et al., ICLR 2023): the enlarged image may leave [0, 1] and is not clamped. The identity where the
    size is the encoder's own.

    Args:
        encoder: whose tower it is.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__(encoder.visual, encoder.card)
        self.to(encoder.mean.device).eval()

    def normalise(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-2:] != self.card.size:
            pixels = F.interpolate(pixels, self.card.size, mode="bicubic", align_corners=False, antialias=False)
        return super().normalise(pixels)


class EnlargingBackbone(Backbone):
    """A model for images of a size of their own; its hash and its records say so. It shares all tensors with
    ``backbone``.

    Args:
        backbone: with or without its image encoder. size: height and width of the images, at most the model's.

    Raises:
        DataError: the images are larger than the model's.
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int]) -> None:
        image = backbone.card.image
        if size[0] > image.size[0] or size[1] > image.size[1]:
            (h, w), (own_h, own_w) = size, image.size
            raise DataError(
                f"EVAL.ATTACK_AT is native, and the images have {h} x {w} pixels, more than the {own_h} x {own_w} of "
                f"{backbone.name}; attack them with EVAL.ATTACK_AT model"
            )
        vars(self).update(vars(backbone))
        self.own = backbone
        self.image_digest = digest({"tower": backbone.image_digest, "enlarges": ENLARGES})
        self.card = dataclasses.replace(backbone.card, image=dataclasses.replace(image, size=size))
        self.image = None if backbone.image is None else EnlargingEncoder(backbone.image)

    @property
    def reads(self) -> dict[str, JSON] | None:
        reads = self.own.reads or {"image": None, "text": None}
        return {**reads, "enlarges": ENLARGES}

    def copy(self) -> Backbone:
        return EnlargingBackbone(self.own.copy(), self.card.image.size)
