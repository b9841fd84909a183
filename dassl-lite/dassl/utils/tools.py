"""Files, seeds, names, and the error for a wrong setting."""

import difflib
import json
import random
import shutil
import urllib.request
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.collect_env import get_pretty_env_info

MOST_PIXELS = 89_478_485  # beyond it Pillow warns of a decompression bomb


class SettingError(AssertionError, ValueError):
    """A value that cannot be used; an ``AssertionError`` too, because code written for upstream may catch that one."""


def mkdir_if_missing(dirname: str | Path) -> None:
    """Make a folder and its parents; FileNotFoundError for an empty name."""
    if not str(dirname):
        raise FileNotFoundError("cannot make a folder with an empty name")
    Path(dirname).mkdir(parents=True, exist_ok=True)


def check_isfile(fpath: str | Path) -> bool:
    """Whether the file exists; warns where it does not."""
    exists = Path(fpath).is_file()
    if not exists:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return exists


def read_json(fpath: str | Path) -> Any:
    with Path(fpath).open() as file:
        return json.load(file)


def write_json(obj: Any, fpath: str | Path) -> None:
    """Write with indent 4, making the folder."""
    path = Path(fpath)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        json.dump(obj, file, indent=4, separators=(",", ": "))


def set_random_seed(seed: int) -> None:
    """Seed Python, numpy and torch on all devices. 0 is a seed like any other."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def download_url(url: str, dst: str | Path, timeout: float = 60.0) -> None:
    """Download an http(s) address into a file, which appears only when it is complete.

    Args:
        timeout: seconds in which something must arrive.

    Raises:
        ValueError: for another kind of address.
        TimeoutError: nothing arrived for so long.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url}: only http and https addresses can be downloaded")
    path = Path(dst)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {url} to {path}")
    partial = path.with_name(path.name + ".partial")
    try:
        with urllib.request.urlopen(url, timeout=timeout) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB, eight bits a colour. 16-bit grey is scaled (Pillow, and so Dassl, cut it off at 255).
    The orientation in EXIF data is ignored, as Dassl does.

    Raises:
        OSError: if it is missing, damaged, too large, of 32 bits a colour or no image; the message holds the path.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width} x {height} pixels; at most {MOST_PIXELS // 10**6} million are read")
            if image.mode.startswith("I;16"):
                return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
            if image.mode in ("I", "F"):
                raise ValueError(f"32 bits a colour (mode {image.mode}), of unknown range; expected 8 or 16")
            return image.convert("RGB")
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise many kinds for damaged files
        if isinstance(error, OSError) and str(path) in str(error):
            raise
        raise OSError(f"{path}: {error or type(error).__name__}") from error


def collect_env_info() -> str:
    """Torch's report on the environment, and the Pillow version."""
    return f"{get_pretty_env_info()}\n        Pillow ({PIL.__version__})"


def listdir_nohidden(path: str | Path, sort: bool = False) -> list[str]:
    """Names in a folder that do not begin with a dot; in the file system's order unless ``sort``."""
    names = [item.name for item in Path(path).iterdir() if not item.name.startswith(".")]
    return sorted(names) if sort else names


def get_most_similar_str_to_a_from_b(a: Any, b: Iterable[str]) -> str | None:
    """The text of ``b`` most similar to ``a`` (difflib's ratio), the last of equals; None where ``b`` is empty."""

    def similarity(name: str) -> float:
        return difflib.SequenceMatcher(None, str(a), name).ratio()

    return max(reversed(list(b)), key=similarity, default=None)


def check_availability(requested: Any, available: list[str]) -> None:
    """Check that a name is among the registered ones.

    Raises:
        ValueError: listing them, with the nearest one.
    """
    if requested not in available:
        raise ValueError(
            f"The requested name is expected to belong to {available}, but got [{requested}] "
            f"(do you mean [{get_most_similar_str_to_a_from_b(requested, available)}]?). "
            "A trainer or dataset becomes known when the module that registers it is imported."
        )


def check_choices(what: str, requested: Iterable[str], available: list[str]) -> None:
    """Like :func:`check_availability`, for settings.

    Raises:
        SettingError: naming the first unknown choice, the nearest known one and all of them.
    """
    for name in requested:
        if name not in available:
            nearest = get_most_similar_str_to_a_from_b(name, available)
            raise SettingError(f"unknown {what} {name!r}; did you mean {nearest!r}? Known: {', '.join(available)}")


def tolist_if_not(x: Any) -> list[Any]:
    """Wrap anything that is not a list (a tuple too) into one."""
    return x if isinstance(x, list) else [x]
