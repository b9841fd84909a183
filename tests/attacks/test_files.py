"""Images made elsewhere: whose they are, whether they keep their budget, and that they are evaluated as they are."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from advpt.attacks import SampleNoise, parse, parse_all
from advpt.attacks.files import Files
from advpt.attacks.spec import parse_training
from advpt.bank.cache import AttackRequest, BankCache
from advpt.data.images import ImageSet
from advpt.errors import AttackError, ConfigError
from advpt.prompts.classifier import from_templates

FORMATS = ("folder", "safetensors", "npy", "pt", "pth")
Images = Callable[..., ImageSet]


def clean(images: ImageSet) -> Tensor:
    return torch.cat([batch.pixels for batch in images.batches(range(len(images)), 8)])


def attacked(images: ImageSet, eps: int = 8, seed: int = 0) -> Tensor:
    """``[n, 3, h, w]`` uint8: every pixel changed by at most ``eps``, one of each image by exactly that."""
    pixels = (clean(images) * 255).round().int()
    change = torch.randint(-eps, eps + 1, pixels.shape, generator=torch.Generator().manual_seed(seed))
    change[:, 0, 0, 0] = torch.where(pixels[:, 0, 0, 0] < 128, eps, -eps)
    return (pixels + change).clamp(0, 255).to(torch.uint8)


def write(pixels: Tensor, ids: list[str], where: Path, kind: str = "safetensors") -> Path:
    """The images in one of the formats; returns the path."""
    path = where / ("adversarial" if kind == "folder" else f"adversarial.{kind}")
    if kind == "folder":
        for name, image in zip(ids, pixels):
            file = (path / name).with_suffix(".png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    elif kind == "safetensors":
        save_file({"images": pixels.contiguous()}, path, metadata={"ids": json.dumps(ids)})
    elif kind == "npy":
        np.save(path, pixels.numpy())
        path.with_suffix(".ids.txt").write_text("\n".join(ids) + "\n")
    else:
        torch.save({"images": pixels, "ids": ids}, path)
    return path


def attack(path: Path, eps: float = 8.0, norm: str = "linf") -> Files:
    return Files(eps=eps, path=str(path), norm=norm)


def refused(path: Path, images: ImageSet, eps: float = 8.0, norm: str = "linf") -> str:
    with pytest.raises(AttackError) as caught:
        attack(path, eps, norm).examine(images)
    return str(caught.value)


# --- every format gives the same images, as they are ------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_the_bank_holds_these_very_images(kind: str, images: Images, tiny_clip, tmp_path: Path) -> None:
    some = images(9, 3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3)).tolist()
    pixels = attacked(some)
    path = write(pixels[order], [some.ids[i] for i in order], tmp_path, kind)
    bank_cache = BankCache(tmp_path / "banks", tiny_clip, lambda: tiny_clip, chunk=4)
    bank = bank_cache.get(some, parse(f"files:{path}@8"))
    with torch.no_grad():
        wanted = torch.cat([tiny_clip.require_image()(part) for part in (pixels.float() / 255).split(4)])
    assert torch.equal(bank.embeddings, wanted.float())
    assert bank.columns["perturbed"].all() and (bank.columns["clean_correct"] == -1).all()
    assert torch.allclose(bank.columns["linf"], torch.full((9,), 8.0))
    assert not bank.columns["loss"].any() and (bank.columns["stage"] == -1).all()


@pytest.mark.parametrize("dtype", (torch.float16, torch.float32, torch.float64))
def test_floating_point_images_and_those_that_nobody_attacked(dtype, images: Images, tmp_path: Path) -> None:
    some = images(4)
    pixels = attacked(some).double() / 255
    pixels[1] = clean(some)[1].double()
    found = attack(write(pixels.to(dtype), some.ids, tmp_path))
    found.examine(some)
    x = clean(some)
    out = found(lambda p: pytest.fail("nothing is asked of the model"), x, torch.zeros(4), SampleNoise(some.ids, 0))
    assert out.changed.tolist() == [True, False, True, True] and torch.equal(out.images[1], x[1])
    assert torch.allclose(out.images.double(), pixels, atol=3e-4 if dtype == torch.float16 else 1e-7)
    assert out.images.dtype == torch.float32 and (out.stage == -1).all() and not out.images.requires_grad


def test_images_in_any_batch_and_order(images: Images, tmp_path: Path) -> None:
    some = images(4)
    found, x = attack(write(attacked(some), some.ids, tmp_path)), clean(some)
    whole = found(lambda p: p, x, torch.zeros(4), SampleNoise(some.ids, 0)).images
    part = found(lambda p: p, x[[2, 0]], torch.zeros(2), SampleNoise([some.ids[2], some.ids[0]], 5)).images
    assert torch.equal(part, whole[[2, 0]])
    with pytest.raises(AttackError, match="holds no image"):
        found(lambda p: p, x, torch.zeros(4), torch.Generator().manual_seed(0))
    with pytest.raises(AttackError, match="float32, got torch.float16"):
        found(lambda p: p, x.half(), torch.zeros(4), SampleNoise(some.ids, 0))


# --- budgets --------------------------------------------------------------------------------------------------------


def test_images_beyond_the_budget_are_named_and_nothing_is_built(images: Images, tiny_clip, tmp_path: Path) -> None:
    some = images(5)
    pixels = attacked(some)
    pixels[3] = attacked(some, 12)[3]
    pixels[1] = attacked(some, 10)[1]
    path = write(pixels, some.ids, tmp_path)
    bank_cache = BankCache(tmp_path / "banks", tiny_clip, lambda: tiny_clip, chunk=4)
    with pytest.raises(AttackError) as caught:
        bank_cache.get(some, parse(f"files:{path}@8"))
    assert f"2 of 5 images are beyond the budget of 8/255 in linf: {some.ids[3]} (12.00/255), {some.ids[1]} (10.00" in (
        str(caught.value)
    )
    assert "resized and cropped to 32 x 32 (bicubic)" in str(caught.value) and "files:PATH@12" in str(caught.value)
    assert not list((tmp_path / "banks").glob("**/*.safetensors"))
    bank_cache.get(some, parse(f"files:{path}@12"))


def test_the_largest_distance_is_printed(images: Images, tmp_path: Path, caplog) -> None:
    some = images(3)
    caplog.set_level("INFO")
    attack(write(attacked(some, 7), some.ids, tmp_path)).examine(some)
    assert "3 images within the budget of 8/255 in linf, the largest distance is 7.0000/255" in caplog.text


def test_rounding_is_allowed_for_and_no_more(images: Images, tmp_path: Path) -> None:
    some = images(3)
    path = write(attacked(some, 3), some.ids, tmp_path)
    attack(path, 2.67).examine(some)  # 2.67 rounded to 8 bits
    assert "(3.00/255)" in refused(path, some, 2.4) and "(3.00/255)" in refused(path, some, 2)
    assert "(3.00/255)" in refused(write(attacked(some, 3).float() / 255, some.ids, tmp_path), some, 2.67)


def test_l2_budgets_are_of_the_whole_image(images: Images, tmp_path: Path) -> None:
    some = images(3)
    pixels = attacked(some, 4)
    size = float(255 * (pixels.float() / 255 - clean(some)).flatten(1).norm(dim=1).max())
    path = write(pixels, some.ids, tmp_path)
    attack(path, size + 0.1, "l2").examine(some)
    assert "beyond the budget of 4/255 in l2" in refused(path, some, 4, "l2")
    assert "in l2" in refused(path, some, size - 0.3, "l2"), "nothing is added for rounding"


# --- ids, counts, sizes, kinds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ("folder", "safetensors", "npy", "pt"))
def test_other_ids_and_counts(kind: str, images: Images, tmp_path: Path) -> None:
    some = images(6)
    pixels = attacked(some)
    (tmp_path / "a").mkdir()
    lacking = write(pixels[:4], some.ids[:4], tmp_path / "a", kind)
    said = refused(lacking, some)
    assert f"lacks 2 of 6 images: {some.ids[4]}, {some.ids[5]}" in said and said.startswith("random, train: ")
    (tmp_path / "b").mkdir()
    more = write(torch.cat([pixels, pixels[:1]]), [*some.ids, "pictures/class_0/else.jpg"], tmp_path / "b", kind)
    assert "also holds 1 images that are not evaluated: pictures/class_0/else." in refused(more, some)
    (tmp_path / "c").mkdir()
    whole = write(pixels, some.ids, tmp_path / "c", kind)
    attack(whole).examine(some.first(4))  # a part of the split is evaluated: the others may be there
    for path, ids in ((tmp_path / "d", some.ids[:5]), (tmp_path / "e", [*some.ids, "x"])):
        path.mkdir()
        if kind != "folder":
            wrong = write(pixels, ids, path, kind)
            assert f"holds 6 images and {len(ids)} ids" in refused(wrong, some)
    (tmp_path / "f").mkdir()
    if kind != "folder":
        twice = write(pixels, [*some.ids[:5], some.ids[0]], tmp_path / "f", kind)
        assert f"several images of one id: {some.ids[0]}" in refused(twice, some)


def test_names_in_a_folder(images: Images, tmp_path: Path) -> None:
    some = images(2, folder="pictures")
    path = write(attacked(some), some.ids, tmp_path, "folder")
    for name in some.ids:  # <id>.png serves too
        (path / name).with_suffix(".png").rename(path / f"{name}.png")
    attack(path).examine(some)
    first = path / f"{some.ids[0]}.png"
    Image.open(first).save(first.with_suffix("").with_suffix(".jpeg"))
    first.unlink()
    assert "jpeg is there, but only PNG is read, which keeps every pixel" in refused(path, some)


def test_two_images_of_one_stem_need_their_whole_names(images: Images, tmp_path: Path) -> None:
    some = images(1)
    twin = Path(some.samples[0].path)
    twin = twin.with_suffix(".bmp")
    Image.open(some.samples[0].path).save(twin)
    other = dataclasses.replace(some.samples[0], id=str(Path(some.ids[0]).with_suffix(".bmp")), path=str(twin))
    both = dataclasses.replace(some, samples=(*some.samples, other))
    path = write(attacked(some), some.ids, tmp_path, "folder")
    assert "have one file" in refused(path, both) and "name it <id>.png" in refused(path, both)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda image: image.resize((40, 36)), "36 x 40 pixels, expected the model's 32 x 32, after resize and crop"),
        (lambda image: image.convert("RGBA"), "a PNG of mode RGBA; expected 8-bit RGB"),
        (lambda image: Image.fromarray(np.zeros((32, 32), np.uint16)), "a PNG of mode I;16; expected 8-bit RGB"),
    ),
)
def test_files_that_cannot_be_compared(change, message: str, images: Images, tmp_path: Path) -> None:
    some = images(3)
    path = write(attacked(some), some.ids, tmp_path, "folder")
    file = (path / some.ids[1]).with_suffix(".png")
    change(Image.open(file)).save(file)
    said = refused(path, some)
    assert f"1 of 3 images cannot be used: {some.ids[1]} (" in said and message in said


def test_jpeg_under_another_name_is_refused(images: Images, tmp_path: Path) -> None:
    some = images(2)
    path = write(attacked(some), some.ids, tmp_path, "folder")
    file = (path / some.ids[0]).with_suffix(".png")
    Image.open(file).save(file, format="JPEG")
    assert "JPEG inside; only PNG is read" in refused(path, some)
    file.write_bytes(b"no image")
    assert "not an image" in refused(path, some)


def test_tensors_of_another_size_range_or_type(images: Images, tmp_path: Path) -> None:
    some = images(2)
    pixels = attacked(some)
    assert "images of 24 x 24 pixels, expected the model's 32 x 32" in refused(
        write(pixels[..., :24, :24], some.ids, tmp_path), some
    )
    last = write(pixels.permute(0, 2, 3, 1), some.ids, tmp_path)
    assert "uint8 images of shape [2, 32, 32, 3]; expected [n, 3, height, width]" in refused(last, some)
    assert "int64 images of shape" in refused(write(pixels.long(), some.ids, tmp_path), some)
    fraction = pixels.float() / 255
    hole = fraction.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(float("nan")))
    for odd, high in ((pixels.float(), "255.000"), (fraction - 0.5, "0.500"), (hole, "nan")):
        (tmp_path / high).mkdir()
        assert f"to {high}" in refused(write(odd, some.ids, tmp_path / high), some)


def test_nothing_is_unpickled(images: Images, tmp_path: Path) -> None:
    some, marker = images(2), tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (marker,))

    for suffix in (".pt", ".pth"):
        torch.save({"images": attacked(some), "ids": some.ids, "x": Payload()}, tmp_path / f"bad{suffix}")
        assert "cannot be read safely" in refused(tmp_path / f"bad{suffix}", some)
        (tmp_path / f"raw{suffix}").write_bytes(pickle.dumps(Payload()))
        refused(tmp_path / f"raw{suffix}", some)
    np.save(tmp_path / "bad.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    assert "cannot be read" in refused(tmp_path / "bad.npy", some)
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "script.pt"))
    assert "TorchScript" in refused(tmp_path / "script.pt", some)
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    assert "torn.safetensors cannot be read" in refused(tmp_path / "torn.safetensors", some)
    np.save(tmp_path / "alone.npy", attacked(some).numpy())
    assert "has no ids" in refused(tmp_path / "alone.npy", some) and "alone.ids.txt" in refused(
        tmp_path / "alone.npy", some
    )
    assert not marker.exists()


# --- the text form and the key --------------------------------------------------------------------------------------


def test_the_text_form(images: Images, tmp_path: Path) -> None:
    some = images(2)
    (tmp_path / "Odd, @ name").mkdir()
    path = write(attacked(some), some.ids, tmp_path / "Odd, @ name")
    for text, full in ((f"files:{path}@8/255", f"files:{path}@8"), (f" files:{path}@2.5/L2", f"files:{path}@2.5/l2")):
        found = parse(text)
        assert str(found) == full and parse(full) == found and parse_all(text) == [found]
        assert found.label == full.replace(str(path), found.build().parameters()["content"][:12])
    assert parse("pgd10-ce@8").label == str(parse("pgd10-ce@8")) and parse("pgd10-ce@8").path == ""


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("files:{0}", "names no budget that its images are checked against; write files:PATH@EPS"),
        ("files:{0}@0.03", "looks like a fraction of 1"),
        ("files:{0}@8/every", "option 'every' is not one of l2"),
        ("files:{0}@8:adaptive", "is not a number"),
        ("files:/nowhere/x.npy@8", "there is nothing at /nowhere/x.npy"),
        ("files:{1}@8", "x.pkl is neither a folder nor a file that ends in .safetensors, .npy, .pt, .pth"),
        ("files@8", "write files:PATH@EPS"),
        ("files-ce@8", "unknown objective 'ce'"),
    ),
)
def test_mistakes_in_the_text(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").touch()
    with pytest.raises(ConfigError) as caught:
        parse(text.format(tmp_path, tmp_path / "x.pkl"))
    assert message in str(caught.value)


def test_training_on_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"BANK.ATTACK is 'files:.*images made elsewhere can be evaluated"):
        parse_training(f"files:{tmp_path}@8", "BANK.ATTACK")


@pytest.mark.parametrize("kind", ("folder", "npy", "safetensors"))
def test_the_key_is_of_the_content_and_not_of_the_place(kind: str, images: Images, tiny_clip, tmp_path: Path) -> None:
    some = images(3)
    bank_cache = BankCache(tmp_path / "banks", tiny_clip, lambda: tiny_clip, chunk=4)
    zero_shot = from_templates(tiny_clip.text, ["a", "b"], ["{}"], 100.0)
    (tmp_path / "one").mkdir()
    path = write(attacked(some), some.ids, tmp_path / "one", kind)

    def key(where: Path, eps: float = 8, seed: int = 0, classifier=None) -> str:
        return bank_cache.spec(AttackRequest(some, parse(f"files:{where}@{eps}"), classifier, seed)).key

    first = key(path)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert key(tmp_path / "two" / path.name) == first == key(path, seed=4) == key(path, classifier=zero_shot)
    assert key(path, eps=9) != first
    shutil.rmtree(tmp_path / "two")
    (tmp_path / "two").mkdir()
    assert key(write(attacked(some, seed=1), some.ids, tmp_path / "two", kind)) != first
    if kind == "npy":
        path.with_suffix(".ids.txt").write_text("\n".join(some.ids[::-1]))
        assert key(path) != first, "other ids are other images"
