"""Predictions for lists of images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from advpt.data.images import Preprocessing
from advpt.errors import ConfigError, DataError
from advpt.prediction import Batch, predict, predictions, read_batches
from tests.helpers.saved_models import write_pictures

PIXELS = Preprocessing((8, 8), "bicubic")


class Colours:
    """Takes an image for its strongest colour."""

    preprocessing, device = PIXELS, torch.device("cpu")

    def __init__(self, names: tuple[str, ...] = ("red", "green", "blue")) -> None:
        self.classnames = names
        self.batches: list[int] = []

    def probabilities(self, pixels: Tensor) -> Tensor:
        self.batches.append(len(pixels))
        means = pixels.mean((2, 3))[:, : len(self.classnames)]
        return means / means.sum(1, keepdim=True)


def plain(colour: str) -> Image.Image:
    return Image.new("RGB", (12, 9), colour)


def test_answers_come_in_order_with_the_runner_up(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    plain("#102060").save(path)
    first, second, third = predict(Colours(), [path, plain("#900030"), str(path)])
    assert (first.image, first.label, first.runner_up) == (str(path), "blue", "green")
    assert first.confidence == pytest.approx(6 / 9) and first.runner_up_confidence == pytest.approx(2 / 9)
    assert (second.image, second.label, second.runner_up) == ("1", "red", "blue") and third.label == "blue"
    (one,) = predict(Colours(), path)
    assert one == first and predict(Colours(), plain("#900030"))[0].image == "0" and predict(Colours(), []) == []
    (alone,) = predict(Colours(("red",)), [path])
    assert (alone.label, alone.runner_up, alone.runner_up_confidence) == ("red", "", 0.0)


def test_a_batch_has_so_many_images(tmp_path: Path) -> None:
    model = Colours()
    assert len(predict(model, write_pictures(tmp_path, 5), batch=2)) == 5 and model.batches == [2, 2, 1]
    for batch in (0, -1):
        with pytest.raises(ConfigError, match="at least 1"):
            predict(model, [plain("red")], batch=batch)


def test_what_cannot_be_read_is_named_and_the_rest_has_its_places(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, 5)
    paths[1].write_bytes(b"no image")
    paths[2].unlink()
    paths[3].unlink()
    paths[3].mkdir()
    whole = Image.new("RGB", (0, 5))
    parts: list[Batch] = list(read_batches(PIXELS, [*paths, "a\0b", "n" * 300, whole, plain("red")], 3))
    assert [part.places for part in parts] == [(0,), (4,), (8,)] and [len(part) for part in parts] == [3, 3, 3]
    assert [part.pixels.shape[0] for part in parts] == [1, 1, 1] and parts[1].names == (str(paths[4]),)
    reasons = [image.reason for part in parts for image in part.damaged]
    expected = ("1.png cannot be read (cannot identify", "2.png does not exist", "3.png is a folder", "does not exist",
                "cannot be read (", "image 7 of the list cannot be read")  # fmt: skip
    assert all(words in reason for words, reason in zip(expected, reasons, strict=True)), reasons
    assert "prepare" not in "".join(reasons)
    with pytest.raises(DataError, match="1.png cannot be read"):
        predict(Colours(), paths)


def test_no_image_at_all_is_an_empty_batch(tmp_path: Path) -> None:
    (part,) = read_batches(PIXELS, [tmp_path / "none.png"])
    assert part.pixels.shape == (0, 3, 8, 8) and predictions(Colours(), part.names, part.pixels) == []


def test_names_that_are_not_utf8_and_what_is_no_file_are_named(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    plain("red").save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", odd)  # noqa: PTH104
    os.mkfifo(tmp_path / "pipe.png")
    (part,) = read_batches(PIXELS, [os.fsdecode(odd), tmp_path / "pipe.png"])
    assert r"caf\xe9.png' is not UTF-8" in part.damaged[0].reason and "is no file" in part.damaged[1].reason


def test_only_paths_and_pil_images_are_images() -> None:
    with pytest.raises(DataError, match="paths and PIL images, got Tensor"):
        predict(Colours(), [torch.zeros(3, 8, 8)])  # type: ignore[list-item]


def test_no_graph_is_kept(tmp_path: Path) -> None:
    class Watched(Colours):
        def probabilities(self, pixels: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return super().probabilities(pixels)

    assert predict(Watched(), write_pictures(tmp_path, 1))
