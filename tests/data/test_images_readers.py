"""Whoever reads an image file gets the same pixels: banks, crops, the host's loaders, dassl-lite, the data check."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import dassl.utils.tools
import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data import DatasetWrapper
from dassl.data.datasets import Datum
from PIL import Image

from advpt.data import decode, images, views
from advpt.data.images import Preprocessing, read_image, read_rgb
from advpt.errors import DataError
from trainers.advpt import HostImages

SIDE = 40
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
GREY = ((ROWS + COLUMNS) * 3).astype(np.uint8)
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], 2)
BITS = np.where(GREY > 120, 255, 0).astype(np.uint8)
EXIF = Image.Exif()
EXIF[274] = 6  # turned by 90 degrees, for those who look


def png_of_16_bit_colour(path: Path) -> None:
    """Pillow writes none."""
    rows = (COLOUR.astype(">u2") * 257).reshape(SIDE, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(data)),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def grey(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, 2)


def saved(made: Image.Image, **how: object) -> Callable[[Path], None]:
    return lambda path: made.save(path, **how)


Case = tuple[str, Callable[[Path], None], np.ndarray | None]  # suffix, writer, what it shows (None: what RGB gives)
READABLE: dict[str, Case] = {
    "RGB": (".png", saved(Image.fromarray(COLOUR)), COLOUR),
    "L": (".png", saved(Image.fromarray(GREY)), grey(GREY)),
    "1": (".png", saved(Image.fromarray(BITS).convert("1")), grey(BITS)),
    "LA": (".png", saved(Image.fromarray(GREY).convert("LA")), grey(GREY)),
    "RGBA": (".png", saved(Image.merge("RGBA", (*Image.fromarray(COLOUR).split(), Image.fromarray(GREY)))), COLOUR),
    "P": (".png", saved(Image.fromarray(GREY).convert("P")), grey(GREY)),
    "P, transparent": (".png", saved(Image.fromarray(GREY).convert("P"), transparency=3), grey(GREY)),
    "CMYK": (".tif", saved(Image.fromarray(COLOUR).convert("CMYK")), COLOUR),
    "16-bit grey PNG": (".png", saved(Image.fromarray(GREY.astype(np.uint16) * 257)), grey(GREY)),
    "16-bit grey TIFF": (".tif", saved(Image.fromarray(GREY.astype(np.uint16) * 257)), grey(GREY)),
    "16-bit colour PNG": (".png", png_of_16_bit_colour, COLOUR),
    "EXIF": (".png", saved(Image.fromarray(COLOUR), exif=EXIF), COLOUR),
    "JPEG": (".jpg", saved(Image.fromarray(COLOUR), exif=EXIF), None),
    "GIF of two": (
        ".gif",
        saved(Image.fromarray(GREY), save_all=True, append_images=[Image.new("L", (40, 40))]),
        grey(GREY),
    ),
}
REFUSED: dict[str, Case] = {
    "I": (".tif", saved(Image.fromarray(GREY.astype(np.int32) * 257)), None),
    "F": (".tif", saved(Image.fromarray((GREY / 255).astype(np.float32))), None),
}


def write(case: Case, folder: Path) -> Path:
    path = folder / f"image{case[0]}"
    case[1](path)
    return path


def item(path: Path) -> np.ndarray:
    return np.asarray(HostImages(get_cfg_default(), [Datum(impath=str(path))])[0]["img"])


@pytest.mark.parametrize("kind", READABLE)
def test_all_readers_give_the_same_pixels(kind: str, tmp_path: Path) -> None:
    path, shows = write(READABLE[kind], tmp_path), READABLE[kind][2]
    if shows is None:
        shows = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(np.asarray(read_rgb(path)), shows)
    assert np.array_equal(np.asarray(dassl.utils.read_image(str(path))), shows)
    assert np.array_equal(item(path), shows)
    pixels, _ = read_image(path, Preprocessing((SIDE, SIDE), "bicubic"))
    assert torch.equal(pixels, torch.from_numpy(shows.copy()).permute(2, 0, 1) / 255)
    Image.fromarray(shows).save(tmp_path / "plain.png")
    one, other = (
        views.crops_of_file(p, (16, 16), 3, torch.Generator().manual_seed(0), "bilinear")
        for p in (path, tmp_path / "plain.png")
    )
    assert torch.equal(one, other)
    assert decode.trouble_with(tmp_path, path.name) == ""


@pytest.mark.parametrize("kind", [*REFUSED, "too many pixels"])
def test_all_readers_refuse_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert images.MOST_PIXELS == dassl.utils.tools.MOST_PIXELS
    path = write(REFUSED.get(kind, READABLE["RGB"]), tmp_path)
    if kind not in REFUSED:
        for module in (images, dassl.utils.tools):
            monkeypatch.setattr(module, "MOST_PIXELS", SIDE * SIDE - 1)
    readers: list[tuple[Callable[[Path], object], type[Exception]]] = [
        (read_rgb, DataError),
        (lambda p: read_image(p, Preprocessing((8, 8), "bicubic")), DataError),
        (lambda p: views.crops_of_file(p, (8, 8), 1, torch.Generator(), "bilinear"), DataError),
        (item, DataError),
        (dassl.utils.read_image, OSError),
    ]
    for read, error in readers:
        with pytest.raises(error, match="32 bits|million"):
            read(path)
    assert decode.trouble_with(tmp_path, path.name)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """By Pillow's own limit, which is an error and not a warning from twice ours on."""
    Image.new("1", (14_000, 14_000)).save(tmp_path / "bomb.png")
    for read, error in ((read_rgb, DataError), (dassl.utils.read_image, OSError), (item, DataError)):
        with pytest.raises(error, match="bomb.png"):
            read(tmp_path / "bomb.png")
    assert "pixels" in decode.trouble_with(tmp_path, "bomb.png")


def test_items_of_the_hosts_loaders_are_those_of_the_host(tmp_path: Path) -> None:
    """But for the reader: same keys, same draws, several transforms and views."""
    path, cfg = write(READABLE["RGB"], tmp_path), get_cfg_default()
    cfg.DATALOADER.K_TRANSFORMS, cfg.DATALOADER.RETURN_IMG0, cfg.INPUT.SIZE = 2, True, (8, 8)

    def draw(image: Image.Image) -> torch.Tensor:
        return torch.rand(3) + float(np.asarray(image)[0, 0, 1])

    for transform in (draw, [draw, draw]):
        found = []
        for wrapper in (HostImages, DatasetWrapper):
            torch.manual_seed(0)
            data = [Datum(impath=str(path), label=2, domain=1)]
            found.append(wrapper(cfg, data, transform=transform, is_train=True)[0])
        ours, hosts = found
        assert ours.keys() == hosts.keys() and "img0" in ours
        for name, value in hosts.items():
            same = all(map(torch.equal, ours[name], value)) if isinstance(value, list) else ours[name] == value
            assert bool(torch.as_tensor(same).all()), name


def test_nobody_else_opens_images() -> None:
    """Two read headers or ask whether the reader would read, one decodes what it encoded; others are the readers."""
    root = Path(__file__).resolve().parents[2]
    folders = ("advpt", "trainers", "datasets", "benchmarks", "dassl-lite/dassl")
    sources = [path for folder in folders for path in (root / folder).rglob("*.py")] + [root / "train.py"]
    opening = {p.relative_to(root).as_posix() for p in sources if "Image.open(" in p.read_text(encoding="utf-8")}
    readers = {"advpt/data/images.py", "dassl-lite/dassl/utils/tools.py"}
    assert opening == readers | {"advpt/data/decode.py", "advpt/attacks/files.py", "advpt/test_time/dbd_transforms.py"}
