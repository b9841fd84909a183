"""Predictions for images: of a list, or of as many files as there are, a batch at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from advpt.data.images import Preprocessing, read_image
from advpt.data.listing import require_unicode
from advpt.errors import ConfigError, DataError, first_words

BATCH = 32  # images per forward pass
ImageLike: TypeAlias = str | Path | Image.Image


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


@dataclass(frozen=True)
class Prediction:
    """What a model takes an image for.

    Args:
        image: its path, or its place in the list, from 0.
        label, confidence: the class of the largest probability, and that, in [0, 1].
        runner_up, runner_up_confidence: of the class after it; "" and 0 where there is none.
    """

    image: str
    label: str
    confidence: float
    runner_up: str = ""
    runner_up_confidence: float = 0.0


@dataclass(frozen=True)
class DamagedImage:
    """An image that cannot be read, and why, as a sentence that names it."""

    image: str
    reason: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that were read (places in the list, names, pixels ``[b, 3, h, w]``), and those that cannot be read."""

    places: tuple[int, ...]
    names: tuple[str, ...]
    pixels: Tensor
    damaged: tuple[DamagedImage, ...] = ()

    def __len__(self) -> int:
        """How many images of the list it is of."""
        return len(self.names) + len(self.damaged)


def predict(model: Predictor, images: ImageLike | Sequence[ImageLike], batch: int = BATCH) -> list[Prediction]:
    """Predictions for image files and PIL images, in their order.

    Args:
        images: one or several. batch: images per forward pass.

    Raises:
        DataError: an image that cannot be read. ConfigError: no such batch.
    """
    several = [images] if isinstance(images, str | Path | Image.Image) else images
    made: list[Prediction] = []
    for part in read_batches(model.preprocessing, several, batch):
        for image in part.damaged:
            raise DataError(image.reason)
        made += predictions(model, part.names, part.pixels)
    return made


def read_batches(preprocessing: Preprocessing, images: Iterable[ImageLike], batch: int = BATCH) -> Iterator[Batch]:
    """Images, ``batch`` at a time; those that cannot be read are named, not raised.

    Raises:
        ConfigError: ``batch`` is no number of images. DataError: something that is neither a path nor a PIL image.
    """
    if batch < 1:
        raise ConfigError(f"batch is {batch}; give the number of images at a time, at least 1")
    numbered = enumerate(images)
    while part := list(itertools.islice(numbered, batch)):
        places, names, pixels, damaged = list[int](), list[str](), list[Tensor](), list[DamagedImage]()
        for place, image in part:
            name = str(place) if isinstance(image, Image.Image) else str(image)
            try:
                pixels.append(_read(image, name, preprocessing))
            except _UnreadableError as error:
                damaged.append(DamagedImage(name, str(error)))
            else:
                places.append(place)
                names.append(name)
        stacked = torch.stack(pixels) if pixels else torch.zeros(0, 3, *preprocessing.size)
        yield Batch(tuple(places), tuple(names), stacked, tuple(damaged))


class _UnreadableError(Exception):
    """An image that cannot be read."""


def _read(image: ImageLike, name: str, preprocessing: Preprocessing) -> Tensor:
    """Pixels ``[3, h, w]``; :class:`_UnreadableError` where there are none."""
    if isinstance(image, Image.Image):
        try:
            return preprocessing(image)
        except Exception as error:  # Pillow's decoders raise many kinds for damaged files
            raise _UnreadableError(f"image {name} of the list cannot be read ({first_words(error)})") from error
    if not isinstance(image, str | Path):
        raise DataError(f"images are paths and PIL images, got {type(image).__name__}; give a list of those")
    try:
        require_unicode([name], "the images")
        path = Path(image).expanduser()
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
            raise _UnreadableError(f"the image {name} {kind}")
        return read_image(path, preprocessing)[0]
    except DataError as error:
        raise _UnreadableError(str(error)) from error
    except (ValueError, RuntimeError, OSError) as error:  # a name that no file can have
        raise _UnreadableError(f"the image {name} cannot be read ({first_words(error)})") from error


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
