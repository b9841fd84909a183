"""Every image opened: the bad ones are listed with the reason."""

from __future__ import annotations

from pathlib import Path

from advpt.data import decode
from tests.helpers.prepare import Prepared, check, picture

# --- decode ---------------------------------------------------------------------------------------------------------


def test_bad_images_are_listed_with_the_reason(pets: Prepared) -> None:
    images = pets[1] / "images"
    noise = picture(1, "PNG")
    (images / "pug_0.jpg").write_bytes(b"")
    (images / "pug_1.jpg").write_bytes(b"<!DOCTYPE html><title>Sorry</title>")
    (images / "pug_2.jpg").write_bytes(picture()[:-200])
    (images / "pug_3.jpg").write_bytes(noise)
    (images / "pug_4.jpg").write_bytes(noise[:50])
    (images / "pug_5.jpg").write_bytes(b"text")
    found = dict(decode.bad_images(pets[1], decode.images(*pets), workers=2))
    assert set(found) == {f"images/pug_{i}.jpg" for i in (0, 1, 2, 4, 5)}, "a PNG called .jpg is fine"
    assert found["images/pug_0.jpg"] == "empty (0 bytes)"
    assert found["images/pug_1.jpg"] == "a web page, not an image"
    assert "truncated" in found["images/pug_2.jpg"].lower()
    assert "cannot identify image file" in found["images/pug_5.jpg"]
    lines = check(pets, with_decode=True)
    assert f"OxfordPets: {images}/pug_1.jpg: a web page, not an image" in lines


def test_images_of_class_folders_are_opened_too(sketch: Prepared) -> None:
    image = next((sketch[1] / "images").rglob("*.jpeg"))
    image.write_bytes(image.read_bytes()[:100])
    assert len(decode.bad_images(*_paths(sketch))) == 1


def _paths(found: Prepared) -> tuple[Path, list[str]]:
    return found[1], decode.images(*found)
