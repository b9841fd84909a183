"""Lists of images by id, their preprocessing and loading. The one way pixels enter the library."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from advpt.data import listing
from advpt.errors import ConfigError, DataError, StorageError, out_of_shared_memory, own_words
from advpt.files import digest

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
RESIZES = ("shortest", "squash")
MOST_PIXELS = 89_478_485  # Pillow's own limit before it warns of a decompression bomb: 256 MiB of RGB


def as_rgb(image: Image.Image) -> Image.Image:
    """Eight bits for each of red, green and blue. Pillow cuts 16-bit grey off at 255; here it is scaled. Transparency
    is dropped, and the orientation in EXIF data is ignored, as Dassl does.

    Raises:
        ValueError: too many pixels, or 32 bits per pixel of one colour, whose range is not in the file.
    """
    if image.size[0] * image.size[1] > MOST_PIXELS:
        raise ValueError(
            f"it is {image.size[0]} x {image.size[1]} pixels; at most {MOST_PIXELS // 10**6} million are read"
        )
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits (mode {image.mode}); expected 8 or 16 bits per colour")
    return image.convert("RGB")


@dataclass(frozen=True)
class Preprocessing:
    """A test transform without normalisation, to [0, 1].

    Args:
        size: height and width.
        interpolation: one of :data:`INTERPOLATIONS`.
        resize: ``shortest`` (Dassl's: shorter side to ``max(size)``, centre crop to ``size``) or ``squash`` (both sides
            to ``size``, whatever the picture's shape).
    """

    size: tuple[int, int]
    interpolation: str
    resize: str = "shortest"

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ConfigError(f"INPUT.RESIZE is {self.resize!r}; expected one of {', '.join(RESIZES)}")
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"INPUT.INTERPOLATION is {self.interpolation!r}; expected one of {', '.join(INTERPOLATIONS)}"
            )

    def __call__(self, image: Image.Image) -> Tensor:
        """``[3, h, w]`` float32 in [0, 1]."""
        from torchvision.transforms import InterpolationMode  # a second to import
        from torchvision.transforms import functional as TF

        width, height = image.size
        mode = InterpolationMode(self.interpolation)
        if self.resize == "squash":
            return TF.to_tensor(TF.resize(as_rgb(image), list(self.size), mode))
        if width * height * (max(self.size) / max(1, min(width, height))) ** 2 > MOST_PIXELS:
            raise ValueError(
                f"it is {width} x {height} pixels; with a shorter side of {max(self.size)} it would have more than "
                f"{MOST_PIXELS // 10**6} million pixels. Crop it"
            )
        image = TF.resize(as_rgb(image), max(self.size), mode)
        return TF.to_tensor(TF.center_crop(image, list(self.size)))


@dataclass(frozen=True)
class Sample:
    """One image: ``id`` is its path relative to the data root with ``/``, ``path`` where it lies, and its label."""

    id: str
    path: str
    label: int


@dataclass(frozen=True)
class ImageBatch:
    """``pixels [b, 3, h, w]`` float32 in [0, 1], ``labels [b]`` int64, ``file_hash [b, 32]`` uint8 (SHA-256)."""

    pixels: Tensor
    labels: Tensor
    file_hash: Tensor

    def pin_memory(self) -> ImageBatch:
        """In page-locked memory (what PyTorch's loaders call)."""
        return ImageBatch(self.pixels.pin_memory(), self.labels.pin_memory(), self.file_hash)


@dataclass(frozen=True)
class ImageSet:
    """An ordered list of labelled images with one preprocessing. ``dataset`` and ``split`` are names for messages;
    ``part``: it was taken from a longer list. ``protocol``: whose choice of the images it is (``DATASET.PROTOCOL``)."""

    dataset: str
    split: str
    samples: tuple[Sample, ...]
    classnames: tuple[str, ...]
    preprocessing: Preprocessing
    part: bool = False
    protocol: str = "coop"

    def __post_init__(self) -> None:
        ids = [sample.id for sample in self.samples]
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise DataError(f"{self.dataset}, {self.split}: the image {twice} occurs twice; ids must be different")
        listing.require_unicode(ids, f"{self.dataset}, {self.split}")
        if bad := [i for i in ids if "\n" in i]:
            raise DataError(f"{self.dataset}, {self.split}: the path {bad[0]!r} contains a line break; rename the file")

    @classmethod
    def from_datums(
        cls,
        dataset: str,
        split: str,
        datums: Sequence[object],
        classnames: Sequence[str],
        root: str,
        preprocessing: Preprocessing,
        protocol: str = "coop",
    ) -> ImageSet:
        """From Dassl's Datum objects (``impath``, ``label``); ids are paths below ``root``. Repeats count once."""
        top = os.path.abspath(Path(root).expanduser())
        samples: dict[str, Sample] = {}
        for datum in datums:
            path, label = os.path.abspath(datum.impath), datum.label  # type: ignore[attr-defined]
            inside = path.startswith(top + os.sep)
            name = (os.path.relpath(path, top) if inside else path).replace(os.sep, "/")
            if samples.setdefault(name, Sample(name, path, label)).label != label:
                raise DataError(f"{dataset}, {split}: {name} has label {samples[name].label} and label {label}")
        return cls(dataset, split, tuple(samples.values()), tuple(classnames), preprocessing, protocol=protocol)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def ids(self) -> list[str]:
        return [sample.id for sample in self.samples]

    @property
    def labels(self) -> Tensor:
        """``[n]`` int64."""
        return torch.tensor([sample.label for sample in self.samples])

    @functools.cached_property
    def list_digest(self) -> str:
        """SHA-256 over the ordered ids and labels."""
        return digest([[sample.id, sample.label] for sample in self.samples])

    def select(self, rows: Sequence[int]) -> ImageSet:
        """The images of these rows, in their order; itself where they are all of them."""
        if list(rows) == list(range(len(self))):
            return self
        return dataclasses.replace(self, samples=tuple(self.samples[i] for i in rows), part=True)

    def first(self, n: int) -> ImageSet:
        """At most ``n`` images (0 = all), a fixed class-balanced choice: classes take turns, each in a seeded order."""
        if n <= 0 or n >= len(self):
            return self
        groups: dict[int, list[int]] = defaultdict(list)
        for i, sample in enumerate(self.samples):
            groups[sample.label].append(i)
        rng = random.Random(0)
        queues = [rng.sample(groups[label], len(groups[label])) for label in sorted(groups)]
        turns = [i for turn in itertools.zip_longest(*queues) for i in turn if i is not None]
        keep = sorted(turns[:n])
        return dataclasses.replace(self, samples=tuple(self.samples[i] for i in keep), part=True)

    def batches(
        self, rows: Sequence[int], chunk: int, workers: int = 0, *, pin_memory: bool = False
    ) -> Iterator[ImageBatch]:
        """The images of ``rows``, ``chunk`` at a time, in order; read and decoded in ``workers`` processes, ahead of
        their use; ``pin_memory``: in page-locked memory, which CUDA copies from while it computes.

        Raises:
            DataError: an image that is missing or cannot be decoded, with its path.
            StorageError: the processes have too little shared memory.
        """
        loader = DataLoader(
            _Rows(self, rows),
            batch_size=chunk,
            num_workers=workers if len(rows) > 2 * chunk else 0,
            collate_fn=_collate,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # a loader draws from the global state otherwise
        )
        batches = None
        try:
            batches = iter(loader)
            yield from batches
        except DataError as error:  # of a worker: its words are in a traceback
            raise DataError(own_words(error)) from error
        except (RuntimeError, OSError) as error:
            if reason := out_of_shared_memory(error):
                raise StorageError(reason) from error
            raise
        finally:  # now, not when an error and its frames are released
            if (end_workers := getattr(batches, "_shutdown_workers", None)) is not None:
                end_workers()


class _Rows(Dataset):
    def __init__(self, images: ImageSet, rows: Sequence[int]) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int, bytes]:
        sample = self.images.samples[self.rows[index]]
        pixels, sha = read_image(Path(sample.path), self.images.preprocessing)
        return pixels, sample.label, sha


def read_image(path: Path, preprocessing: Preprocessing) -> tuple[Tensor, bytes]:
    """Pixels ``[3, h, w]`` of an image file, and the SHA-256 of its bytes.

    Raises:
        DataError: the file is missing, is not a whole image, or is too large.
    """
    with _naming(path):
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            return preprocessing(image), hashlib.sha256(data).digest()


def native_size(images: ImageSet) -> tuple[int, int]:
    """Height and width that all images have, from their headers.

    Raises:
        DataError: they have several, are not square, or one cannot be read.
    """
    sizes: dict[tuple[int, int], str] = {}
    for sample in images.samples:
        with _naming(Path(sample.path)), Image.open(sample.path) as image:
            sizes.setdefault((image.size[1], image.size[0]), sample.id)
        if len(sizes) > 1 or image.size[0] != image.size[1]:
            shapes = ", ".join(f"{name} has {w} x {h}" for (h, w), name in sizes.items())
            raise DataError(
                f"EVAL.ATTACK_AT is native, and the images of {images.dataset} have no one square size: {shapes} "
                "pixels. Attack them with EVAL.ATTACK_AT model"
            )
    return next(iter(sizes))


def read_rgb(path: Path) -> Image.Image:
    """An image file at full resolution, as :func:`as_rgb` gives it.

    Raises:
        DataError: as :func:`read_image`.
    """
    with _naming(path), Image.open(io.BytesIO(path.read_bytes())) as image:
        return as_rgb(image)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever reading an image raises into a DataError with its path."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(listing.missing_image(path)) from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise many kinds for damaged files
        why = str(error) or type(error).__name__
        raise DataError(f"the image {path} cannot be read ({why}); replace it with an intact copy") from error


def _collate(items: list[tuple[Tensor, int, bytes]]) -> ImageBatch:
    """A batch. In a worker process it is made in shared memory here and not when it is sent: the thread that sends
    prints what goes wrong and goes on, and the wait for the batch would have no end."""
    pixels, labels, hashes = zip(*items)
    file_hash = torch.frombuffer(bytearray(b"".join(hashes)), dtype=torch.uint8).view(len(hashes), 32)
    batch = ImageBatch(default_collate(list(pixels)), torch.tensor(labels), file_hash)
    if get_worker_info() is not None:
        for tensor in (batch.labels, batch.file_hash):  # the pixels are there already
            tensor.share_memory_()
    return batch
