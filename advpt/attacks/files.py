"""Adversarial images made elsewhere, as an attack of their own: ``files:PATH@EPS`` (docs/migration.md).

PATH is a folder or a tensor file; each image has the id of its clean image, which is that one's path below the data
root. Images are those that the model reads: at its input size, in [0, 1] and not normalised. None is clipped or moved:
one beyond the budget is refused, rounding apart: 0.5/255 for 8-bit images and 0.0623/255 for half precision, per pixel
(a whole EPS is never exceeded by 8-bit images, whose distances are whole numbers). With the L2 norm nothing is added.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from advpt.attacks.base import ATTACKS, TOLERANCE, Attack, Forward
from advpt.attacks.noise import SampleNoise
from advpt.attacks.objectives import NONE
from advpt.checkpoints import is_torchscript, open_safetensors
from advpt.data import listing
from advpt.data.images import ImageSet, read_rgb
from advpt.errors import AttackError
from advpt.files import digest, file_digest

log = logging.getLogger(__name__)

ROUNDING = {torch.uint8: 0.5, torch.float16: 255 * 2.0**-12, torch.float32: 0.0, torch.float64: 0.0}  # in 1/255
LOSSLESS = ("RGB", "L", "P")  # Pillow's modes of 8-bit PNG files without transparency
CHUNK = 64  # images compared at a time
NAMED = 5  # images that a message names


@dataclass(frozen=True)
class Folder:
    """PNG files that mirror the data set's paths. ``rounding``: the rounding error of a pixel, in units of 1/255."""

    path: Path
    rounding: float = ROUNDING[torch.uint8]

    def file(self, name: str) -> Path:
        """The file of the image with this id, whether it is there or not."""
        appended = self.path / f"{name.lstrip('/')}.png"
        return appended if appended.is_file() else appended.with_suffix("").with_suffix(".png")

    def require(self, ids: Sequence[str], size: tuple[int, int], part: bool) -> None:
        """Raise AttackError for a folder without exactly these images, of this size (height, width); ``part``: it may
        have more."""
        files = {name: self.file(name) for name in ids}
        if missing := [name for name, file in files.items() if not file.is_file()]:
            first = files[missing[0]]
            other = [name for name in listing.images(first.parent) if Path(name).stem == first.stem]
            hint = f"; {other[0]} is there, but only PNG is read, which keeps every pixel" if other else ""
            raise AttackError(
                f"{self.path} lacks {len(missing)} of {len(ids)} images: {listing.some(missing, NAMED)}. Expected "
                f"{first}, a PNG file{hint}"
            )
        counts = Counter(files.values())
        if twice := [name for name, file in files.items() if counts[file] > 1]:
            raise AttackError(
                f"{self.path}: {listing.some(twice, NAMED)} have one file, {files[twice[0]]}; name it <id>.png for each"
            )
        wanted = {file.relative_to(self.path).as_posix() for file in files.values()}
        _refuse_others([name for name in listing.scan(self.path).images if name not in wanted], self.path, part)
        odd = [f"{name} ({what})" for name, file in files.items() if (what := _unlike(file, size))]
        if odd:
            raise AttackError(
                f"{self.path}: {len(odd)} of {len(ids)} images cannot be used: {listing.some(odd, NAMED)}"
            )

    def read(self, ids: Sequence[str]) -> Tensor:
        """``[b, 3, h, w]`` float32 as stored; the range is not checked."""
        pixels = [torch.from_numpy(np.array(read_rgb(self.file(name)))) for name in ids]
        return torch.stack(pixels).permute(0, 3, 1, 2).float().div(255)


def _unlike(file: Path, size: tuple[int, int]) -> str:
    """The problem with an image file, from its header; "" for one that can be compared."""
    try:
        with Image.open(file) as image:
            kind, mode, shape = image.format, image.mode, (image.height, image.width)
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        return f"not an image: {error}"
    if kind != "PNG":
        return f"{kind} inside; only PNG is read, which keeps every pixel"
    if mode not in LOSSLESS:
        return f"a PNG of mode {mode}; expected 8-bit RGB"
    return "" if shape == size else _sizes(shape, size)


def _sizes(size: Sequence[int], wanted: tuple[int, int]) -> str:
    return (
        f"{size[0]} x {size[1]} pixels, expected the model's {wanted[0]} x {wanted[1]}, after resize and crop: at "
        "another size nothing can be compared pixel by pixel"
    )


def _refuse_others(others: Sequence[str], path: Path, part: bool) -> None:
    if others and not part:
        raise AttackError(
            f"{path} also holds {len(others)} images that are not evaluated: {listing.some(others, NAMED)}. Expected "
            "one for each image of the split, by its id"
        )


@dataclass(frozen=True, eq=False)
class TensorFile:
    """A file with all images in one tensor or array; ``rows`` by id. Its methods are those of :class:`Folder`."""

    path: Path
    images: Any
    rows: Mapping[str, int]
    dtype: torch.dtype

    @property
    def rounding(self) -> float:
        return ROUNDING[self.dtype]

    def require(self, ids: Sequence[str], size: tuple[int, int], part: bool) -> None:
        if missing := [name for name in ids if name not in self.rows]:
            raise AttackError(
                f"{self.path} lacks {len(missing)} of {len(ids)} images: {listing.some(missing, NAMED)}. It has "
                f"{listing.some(list(self.rows), 2)}; ids are paths below the data root"
            )
        wanted = set(ids)
        _refuse_others([name for name in self.rows if name not in wanted], self.path, part)
        shape = tuple(self.images.shape[2:])
        if shape != size:
            raise AttackError(f"{self.path} holds images of {_sizes(shape, size)}")

    def read(self, ids: Sequence[str]) -> Tensor:
        if missing := [name for name in ids if name not in self.rows]:
            raise AttackError(f"{self.path} holds no image {missing[0]}")
        pixels = torch.as_tensor(self.images[[self.rows[name] for name in ids]])
        return pixels.float().div(255) if self.dtype == torch.uint8 else pixels.float()


def side_file(path: Path) -> Path:
    """The text file with the ids of a tensor file: ``adv.ids.txt`` beside ``adv.npy``."""
    return path.with_suffix(".ids.txt")


def source(path: Path) -> Folder | TensorFile:
    """The images at ``path``. Raises AttackError where they cannot be read, or are not what they should be."""
    return Folder(path) if path.is_dir() else _opened(path, _stamp(_files_at(path)))


def content(path: Path) -> str:
    """SHA-256 (hex) over the files and their ids, wherever they lie."""
    files = _files_at(path)
    return _digest(path, files, _stamp(files))


def _files_at(path: Path) -> tuple[Path, ...]:
    """The images of a folder, or a tensor file and the text file beside it."""
    if path.is_dir():
        return tuple(path / name for name in listing.scan(path).images)
    return tuple(file for file in (path, side_file(path)) if file.is_file())


def _stamp(files: Sequence[Path]) -> tuple[tuple[int, int, int], ...]:
    """Inode, size and time of every file: equal stamps mean unchanged files."""
    stats = [file.stat() for file in files]
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in stats)


@functools.lru_cache(maxsize=16)
def _digest(path: Path, files: Sequence[Path], stamp: object) -> str:
    """The digest, cached until a file changes: the files may be many gigabytes."""
    if path.is_dir():
        return digest([[file.relative_to(path).as_posix(), file_digest(file)] for file in files])
    return digest([file_digest(file) for file in files])


@functools.lru_cache(maxsize=4)
def _opened(path: Path, stamp: object) -> TensorFile:
    try:
        images, ids = _READERS[path.suffix.lower()](path)
    except AttackError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise AttackError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise AttackError(
            f"{path} cannot be read safely ({type(error).__name__}: {(str(error).splitlines() or [''])[0]}); expected "
            "tensors and texts only"
        ) from error
    if ids is None:
        ids = _beside(path)
    shape, kind = tuple(images.shape), str(images.dtype).removeprefix("torch.")
    dtype = getattr(torch, kind, None)
    if len(shape) != 4 or shape[1] != 3 or dtype not in ROUNDING:
        raise AttackError(
            f"{path} holds {kind} images of shape {list(shape)}; expected [n, 3, height, width] in uint8, float16, "
            "float32 or float64"
        )
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise AttackError(f"{path}: its ids are {str(ids)[:60]!r}; expected a list of texts")
    if len(ids) != shape[0]:
        raise AttackError(f"{path} holds {shape[0]} images and {len(ids)} ids; expected one id for each image")
    if twice := [name for name, n in Counter(ids).items() if n > 1]:
        raise AttackError(f"{path} has several images of one id: {listing.some(twice, NAMED)}")
    return TensorFile(path, images, {name: row for row, name in enumerate(ids)}, dtype)


def _beside(path: Path) -> list[str]:
    try:
        return side_file(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise AttackError(
            f"{path} has no ids, which say whose adversarial image each is; write them into {side_file(path)}, one a "
            "line: the paths of the clean images below the data root"
        ) from None


def _from_safetensors(path: Path) -> tuple[Any, Any]:
    with open_safetensors(path) as file:
        ids = (file.metadata() or {}).get("ids")
        return file.get_tensor("images"), json.loads(ids) if ids is not None else None


def _from_array(path: Path) -> tuple[Any, Any]:
    return np.lib.format.open_memmap(path, mode="r"), None  # which reads no pickle


def _from_torch(path: Path) -> tuple[Any, Any]:
    if is_torchscript(path):
        raise AttackError(f"{path} is a TorchScript archive, which can contain code; expected tensors")
    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if isinstance(stored, Tensor):
        return stored, None
    if not (isinstance(stored, dict) and isinstance(stored.get("images"), Tensor)):
        raise AttackError(f"{path} holds {type(stored).__name__}, expected a tensor, or a dict with images and ids")
    return stored["images"], stored.get("ids")


_READERS = {".safetensors": _from_safetensors, ".npy": _from_array, ".pt": _from_torch, ".pth": _from_torch}


@ATTACKS.add
class Files(Attack):
    """Images made elsewhere, at ``path``; ``eps``: the budget that they are checked against, in 1/255."""

    name = "files"
    summary = "images made elsewhere: files:PATH@EPS, a folder or a tensor file (docs/migration.md)"
    source_model = "files"
    perturbs_all = False
    objectives = (NONE.name,)
    default_objective = NONE.name

    def __init__(self, *, eps: float, path: str | None = None, norm: str = "linf") -> None:
        super().__init__(eps=eps, norm=norm, objective=NONE.name)
        if not path:
            raise AttackError("images made elsewhere need their place: write files:PATH@EPS")
        self.path = Path(path).expanduser()
        if not self.path.exists():
            raise AttackError(f"there is nothing at {self.path.absolute()}")
        if not self.path.is_dir() and self.path.suffix.lower() not in _READERS:
            raise AttackError(
                f"{self.path} is neither a folder nor a file that ends in {', '.join(_READERS)}; docs/migration.md "
                "shows how others are converted"
            )

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"content": content(self.path)}

    def tolerance(self, x: Tensor) -> float:
        return super().tolerance(x) + (source(self.path).rounding if self.norm == "linf" else 0.0)

    def project(self, images: Tensor, x: Tensor) -> Tensor:
        return images

    def require(self, images: ImageSet) -> None:
        try:
            source(self.path).require(images.ids, images.preprocessing.size, images.part)
        except AttackError as error:
            raise AttackError(f"{images.dataset}, {images.split}: {error}") from None

    def examine(self, images: ImageSet, workers: int = 0) -> None:
        self.require(images)
        distances: list[tuple[float, str]] = []
        limit = 0.0
        for start, batch in zip(range(0, len(images), CHUNK), images.batches(range(len(images)), CHUNK, workers)):
            ids = images.ids[start : start + CHUNK]
            distances += zip(self.measure(self._read(ids) - batch.pixels).tolist(), ids)
            limit = self.eps + self.tolerance(batch.pixels)
        largest = max(distances)[0]
        if beyond := sorted((each for each in distances if each[0] > limit), reverse=True):
            named = [f"{name} ({distance:.2f}/255)" for distance, name in beyond]
            raise AttackError(
                f"{self.path}: {len(beyond)} of {len(distances)} images are beyond the budget of {self.eps:g}/255 in "
                f"{self.norm}: {listing.some(named, NAMED)}. Were they made from these images, resized and cropped to "
                f"{' x '.join(map(str, images.preprocessing.size))} ({images.preprocessing.interpolation})? A budget "
                f"that holds them is files:PATH@{math.ceil(largest - 0.01)}"
            )
        within = f"{len(distances)} images within the budget of {self.eps:g}/255 in {self.norm}"
        log.info("attack   %s: %s, the largest distance is %.4f/255", self.path, within, largest)

    def run(self, forward: Forward, x: Tensor, y: Tensor, noise: SampleNoise) -> tuple[Tensor, Tensor, Tensor]:
        images = self._read(noise.ids).to(x)
        if images.shape == x.shape:  # what is left of an image that was not attacked, after rounding, is that image
            rounding = source(self.path).rounding
            rounding = TOLERANCE if rounding == ROUNDING[torch.uint8] else max(TOLERANCE, rounding / 255)
            same = (images - x).flatten(1).abs().amax(1) <= rounding
            images = torch.where(same[:, None, None, None], x, images)
        return images, torch.zeros(len(x)), torch.full((len(x),), -1, dtype=torch.int64)

    def _read(self, ids: Sequence[str]) -> Tensor:
        pixels = source(self.path).read(ids)
        low, high = (float(v) for v in pixels.aminmax())
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise AttackError(
                f"{self.path} holds pixels from {low:.3f} to {high:.3f} (near {ids[0]}); expected [0, 1], or uint8 "
                "from 0 to 255. Undo a normalisation, and divide pixels of 0 to 255 by 255"
            )
        return pixels.clamp(0, 1)
