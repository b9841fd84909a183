"""Predictions for images: of a list, or of as many files as there are, a batch at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from advpt.data.images import Preprocessing, read_image
from advpt.errors import DataError

BATCH = 64  # images per forward pass


@dataclass(frozen=True)
class Prediction:
    """What a model takes an image for.

    Args:
        image: its path, or its place in the list. confidence: in [0, 1].
        runner_up: the class after the first one, "" where there is none.
    """

    image: str
    label: str
    confidence: float
    runner_up: str = ""
    runner_up_confidence: float = 0.0


@dataclass(frozen=True)
class DamagedImage:
    """An image that cannot be read, and why."""

    image: str
    reason: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that were read: their names, pixels ``[b, 3, h, w]``, and those that cannot be read."""

    names: tuple[str, ...]
    pixels: Tensor
    damaged: tuple[DamagedImage, ...] = ()


class Predictor(Protocol):
    """What answers come from: :class:`advpt.model.Model`."""

    @property
    def classnames(self) -> tuple[str, ...]:
        """In the order of the probabilities."""

    @property
    def preprocessing(self) -> Preprocessing:
        """PIL images to pixels ``[3, h, w]`` in [0, 1]."""

    @property
    def device(self) -> torch.device:
        """Where pixels go."""

    def probabilities(self, pixels: Tensor) -> Tensor:
        """``[b, K]`` of ``pixels [b, 3, h, w]``."""


def predict(
    model: Predictor, images: str | Path | Image.Image | Sequence[str | Path | Image.Image], batch: int = BATCH
) -> list[Prediction]:
    """Predictions for image files and PIL images, in their order.

    Args:
        images: one or several. batch: images per forward pass.

    Raises:
        DataError: an image that cannot be read.
    """
    several = [images] if isinstance(images, str | Path | Image.Image) else list(images)
    made: list[Prediction] = []
    for part in read_batches(model, several, batch):
        for image in part.damaged:
            raise DataError(image.reason)
        made += predictions(model, part.names, part.pixels)
    return made


def read_batches(model: Predictor, images: Iterable[str | Path | Image.Image], batch: int = BATCH) -> Iterator[Batch]:
    """Images with the model's preprocessing, ``batch`` at a time; those that cannot be read are named, not raised."""
    numbered = enumerate(images)
    while part := list(itertools.islice(numbered, batch)):
        names, pixels, damaged = list[str](), list[Tensor](), list[DamagedImage]()
        for place, image in part:
            name = str(place) if isinstance(image, Image.Image) else str(image)
            try:
                if isinstance(image, Image.Image):
                    made = model.preprocessing(image)
                else:
                    made = read_image(Path(image).expanduser(), model.preprocessing)[0]
            except (DataError, ValueError, OSError) as error:
                damaged.append(DamagedImage(name, str(error)))
                continue
            names.append(name)
            pixels.append(made)
        size = model.preprocessing.size
        stacked = torch.stack(pixels) if pixels else torch.zeros(0, 3, *size)
        yield Batch(tuple(names), stacked, tuple(damaged))


@torch.no_grad()
def predictions(model: Predictor, names: Sequence[str], pixels: Tensor) -> list[Prediction]:
    """What the model takes pixels ``[b, 3, h, w]`` for; ``names``: of the images."""
    if not len(pixels):
        return []
    first = model.probabilities(pixels.to(model.device)).cpu().topk(min(2, len(model.classnames)))
    made = []
    for name, confidences, labels in zip(names, first.values.tolist(), first.indices.tolist()):
        second = (model.classnames[labels[1]], confidences[1]) if len(labels) > 1 else ("", 0.0)
        made.append(Prediction(name, model.classnames[labels[0]], confidences[0], *second))
    return made
