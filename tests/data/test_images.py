"""Images by id: order, digests, subsets, preprocessing, and files that are damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from advpt.data.images import ImageSet, Preprocessing, Sample, native_size, read_image
from advpt.errors import ConfigError, DataError, StorageError, out_of_shared_memory


def test_ids_labels_and_batches_keep_the_order(images) -> None:
    found: ImageSet = images(n=7, classes=3)
    assert len(found) == 7 and found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and found.labels.dtype == torch.int64
    assert all(sample.id.startswith("pictures/class_") for sample in found.samples)
    batches = list(found.batches(range(7), 3))
    assert [len(batch.labels) for batch in batches] == [3, 3, 1]
    pixels = torch.cat([batch.pixels for batch in batches])
    assert pixels.shape == (7, 3, 32, 32) and pixels.dtype == torch.float32
    assert pixels.min() >= 0 and pixels.max() <= 1
    for row, sample in enumerate(found.samples):
        expected, sha = read_image(Path(sample.path), found.preprocessing)
        assert torch.equal(pixels[row], expected)
        assert sha == hashlib.sha256(Path(sample.path).read_bytes()).digest()
        assert bytes(torch.cat([b.file_hash for b in batches])[row].tolist()) == sha
    chosen = list(found.batches([5, 0], 8))
    assert torch.equal(chosen[0].pixels, pixels[[5, 0]]) and chosen[0].labels.tolist() == [2, 0]
    assert list(found.batches([], 8)) == []


def test_reading_processes_change_nothing_and_leave_the_random_state_alone(images) -> None:
    found = images(n=9)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    alone, helped = (list(found.batches(range(9), 2, workers=workers)) for workers in (0, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(alone, helped, strict=True):
        for field in dataclasses.fields(one):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name))


def test_list_digest_is_of_ids_and_labels_in_order(images) -> None:
    found = images(n=4)
    same = dataclasses.replace(
        found, dataset="other", samples=tuple(dataclasses.replace(s, path="/x") for s in found.samples)
    )
    assert same.list_digest == found.list_digest
    turned = dataclasses.replace(found, samples=found.samples[::-1])
    other_label = dataclasses.replace(
        found, samples=(*found.samples[:3], dataclasses.replace(found.samples[3], label=0))
    )
    assert len({found.list_digest, turned.list_digest, other_label.list_digest, found.first(3).list_digest}) == 4


def datums(*items: tuple[str, int]) -> list[SimpleNamespace]:
    return [SimpleNamespace(impath=path, label=label) for path, label in items]


def from_datums(root: str, *items: tuple[str, int]) -> ImageSet:
    return ImageSet.from_datums("d", "train", datums(*items), ["a", "b"], root, Preprocessing((8, 8), "bicubic"))


def test_ids_do_not_depend_on_where_the_data_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Path.home()
    sets = [
        from_datums("/data", ("/data/pets/a.jpg", 0), ("/data/pets/b.jpg", 1)),
        from_datums("/mnt/x/", ("/mnt/x/pets/a.jpg", 0), ("/mnt/x/./pets/b.jpg", 1)),
        from_datums("here", ("here/pets/a.jpg", 0), (f"{tmp_path}/here/pets/b.jpg", 1)),
        from_datums("~/d", (str(home / "d/pets/a.jpg"), 0), (str(home / "d/pets/b.jpg"), 1)),
    ]
    assert {s.list_digest for s in sets} == {sets[0].list_digest} and sets[0].ids == ["pets/a.jpg", "pets/b.jpg"]
    assert from_datums("/data", ("/data2/a.jpg", 0)).ids == ["/data2/a.jpg"]  # outside the root


def test_repeated_images_count_once_but_not_with_two_labels() -> None:
    found = from_datums("/data", ("/data/a.jpg", 0), ("/data/b.jpg", 1), ("/data/./a.jpg", 0))
    assert found.ids == ["a.jpg", "b.jpg"]
    with pytest.raises(DataError, match="a.jpg has label 0 and label 1"):
        from_datums("/data", ("/data/a.jpg", 0), ("/data/a.jpg", 1))


def test_names_that_no_record_can_hold_are_refused() -> None:
    sample = Sample("a/caf\udce9.png", "/x", 0)
    with pytest.raises(DataError, match=r"the name 'a/caf\\xe9\.png' is not UTF-8"):
        ImageSet("d", "train", (sample,), ("a",), Preprocessing((8, 8), "bicubic"))


def test_ids_that_cannot_be_ids() -> None:
    pixels = Preprocessing((8, 8), "bicubic")
    with pytest.raises(DataError, match="d, train: the image a occurs twice"):
        ImageSet("d", "train", (Sample("a", "x", 0), Sample("a", "y", 0)), ("c",), pixels)
    with pytest.raises(DataError, match="contains a line break"):
        ImageSet("d", "train", (Sample("a\nb", "x", 0),), ("c",), pixels)


def test_a_fixed_subset_is_balanced_nested_and_in_order() -> None:
    samples = tuple(Sample(f"{i}", f"{i}", 0 if i < 30 else i % 4) for i in range(60))
    whole = ImageSet("d", "test", samples, ("a", "b", "c", "d"), Preprocessing((8, 8), "bicubic"))
    assert whole.first(0) is whole and whole.first(60) is whole and whole.first(99) is whole
    for n in (1, 4, 13, 20, 59):
        part = whole.first(n)
        assert len(part) == n and part.first(0) is part
        assert [s for s in whole.samples if s in part.samples] == list(part.samples)
        assert part.list_digest == whole.first(n).list_digest
    assert Counter(whole.first(20).labels.tolist()) == dict.fromkeys(range(4), 5)
    assert set(whole.first(13).ids) < set(whole.first(20).ids)


# --- preprocessing ----------------------------------------------------------------------------------------------------


def test_preprocessing_is_the_hosts_test_transform(tmp_path: Path) -> None:
    from torchvision import transforms as T

    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for name in ("bilinear", "bicubic", "nearest"):
        mode = T.InterpolationMode(name)
        expected = T.Compose([T.Resize(32, mode), T.CenterCrop((32, 32)), T.ToTensor()])(image)
        assert torch.equal(Preprocessing((32, 32), name)(image), expected)
    expected = T.Compose([T.Resize(24, T.InterpolationMode.BICUBIC), T.CenterCrop((16, 24)), T.ToTensor()])(image)
    assert torch.equal(Preprocessing((16, 24), "bicubic")(image), expected)


@pytest.mark.parametrize("resize", ("shortest", "squash"))
@pytest.mark.parametrize("interpolation", ("bicubic", "bilinear"))
@pytest.mark.parametrize("mode", ("RGB", "L"))
def test_preprocessing_is_open_clips_before_its_normalisation(resize: str, interpolation: str, mode: str) -> None:
    transform = pytest.importorskip("open_clip.transform")
    cfg = transform.PreprocessCfg(
        size=48, interpolation=interpolation, resize_mode=resize, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    theirs, mine = transform.image_transform_v2(cfg, is_train=False), Preprocessing((48, 48), interpolation, resize)
    for size in ((48, 48), (100, 48), (48, 100), (33, 77), (200, 150), (5, 9)):
        noise = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        picture = Image.fromarray(noise).convert(mode)
        assert torch.equal(mine(picture), theirs(picture)), size


def test_a_squashed_picture_has_all_of_it_and_a_cropped_one_its_middle() -> None:
    picture = Image.new("RGB", (90, 30))
    picture.paste((255, 0, 0), (0, 0, 30, 30))
    squashed = Preprocessing((30, 30), "bilinear", "squash")(picture)
    cropped = Preprocessing((30, 30), "bilinear")(picture)
    assert squashed[0, :, 0].min() == 1 and cropped.max() == 0
    with pytest.raises(ConfigError, match="INPUT.RESIZE is 'longest'; expected one of shortest, squash"):
        Preprocessing((30, 30), "bilinear", "longest")


@pytest.mark.parametrize("mode", ("L", "P", "RGBA", "CMYK", "1", "I;16", "LA"))
def test_images_of_every_kind_become_rgb(mode: str, tmp_path: Path) -> None:
    made = Image.new(mode, (40, 36)) if mode == "I;16" else Image.new("RGB", (40, 36), (200, 10, 90)).convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    made.save(path)
    found, _ = read_image(path, Preprocessing((32, 32), "bicubic"))
    assert found.shape == (3, 32, 32) and found.min() >= 0 and found.max() <= 1


def test_an_interpolation_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="INPUT.INTERPOLATION is 'cubic'; expected one of bilinear, bicubic, nearest"):
        Preprocessing((8, 8), "cubic")


# --- files that are no images -----------------------------------------------------------------------------------------

SMALL = Preprocessing((8, 8), "bicubic")


def test_missing_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone.jpg is missing; check the data set with"):
        read_image(tmp_path / "gone.jpg", SMALL)


@pytest.mark.parametrize("content", (b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 50), ids=("empty", "text", "png"))
def test_a_file_of_something_else(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png cannot be read \("):
        read_image(tmp_path / "a.png", SMALL)


def test_a_folder_called_like_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        read_image(tmp_path / "a.png", SMALL)


@pytest.mark.parametrize("suffix", (".png", ".jpg", ".gif", ".bmp", ".webp"))
def test_damaged_images(suffix: str, tmp_path: Path) -> None:
    """Cut off or with changed bytes: read, or answered with a DataError that has the path."""
    path, damaged = tmp_path / f"a{suffix}", tmp_path / f"damaged{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for place in (*range(40), *rng.integers(0, len(whole), 60).tolist()):
        changed = whole[:place] + bytes([whole[place] ^ 0xC5]) + whole[place + 1 :]
        for data in (whole[:place], changed):
            damaged.write_bytes(data)
            try:
                read_image(damaged, SMALL)
            except DataError as error:
                assert str(damaged) in str(error)


def test_a_png_that_is_broken_in_the_middle(tmp_path: Path) -> None:
    """Pillow answers a damaged chunk name behind the first image data with a SyntaxError."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[second : second + 4] = b"\xca\xd1J0"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        read_image(path, SMALL)


def test_damage_found_by_a_reading_process_has_the_path(images) -> None:
    found = images(n=9)
    Path(found.samples[5].path).write_bytes(b"not an image")
    with pytest.raises(DataError, match=Path(found.samples[5].path).name):
        list(found.batches(range(9), 2, workers=2))


@contextlib.contextmanager
def no_shared_memory(limit: int = 64) -> Iterator[None]:
    """No file, and so no block of shared memory, may grow beyond ``limit`` bytes; no test waits for ever."""

    def too_long(*_: object) -> None:
        raise TimeoutError("still waiting for a batch")

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(60)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("limit", (0, 64))  # not even a semaphore of the queues has room; no batch has
def test_too_little_shared_memory_is_a_sentence_and_no_wait(images, limit: int) -> None:
    some = images(n=9)
    with (
        no_shared_memory(limit),
        pytest.raises(StorageError, match=r"ran out of shared memory.*--shm-size.*DATALOADER\.NUM_WORKERS 0"),
    ):
        list(some.batches(range(9), 2, workers=2))
    with no_shared_memory(limit):
        assert len(list(some.batches(range(9), 2, workers=0))) == 5


@pytest.mark.parametrize(
    ("words", "meant"),
    (
        ("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)", True),
        ("unable to write to file </torch_1_2_0>: No space left on device (28)", True),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...", True),
        ("size mismatch", False),
        ("No space left on device", False),
    ),
)
def test_what_torch_says_of_shared_memory_is_known(words: str, meant: bool) -> None:
    assert bool(out_of_shared_memory(RuntimeError(words))) == meant
    assert not out_of_shared_memory(OSError(words))


def test_real_photographs(test_data: Path) -> None:
    photos = sorted((test_data / "pets_sample").rglob("*.jpg"))[:4]
    assert photos
    for photo in photos:
        pixels, _ = read_image(photo, Preprocessing((224, 224), "bicubic"))
        assert pixels.shape == (3, 224, 224) and pixels.std() > 0.05


def test_the_size_that_images_have(tmp_path: Path) -> None:
    def image_set(*sizes: tuple[int, int]) -> ImageSet:
        samples = []
        for i, size in enumerate(sizes):
            Image.new("RGB", size).save(tmp_path / f"{i}.png")
            samples.append(Sample(f"{i}.png", str(tmp_path / f"{i}.png"), 0))
        return ImageSet("Tiny", "test", tuple(samples), ("x",), Preprocessing((32, 32), "bicubic"))

    assert native_size(image_set((8, 8), (8, 8))) == (8, 8)
    with pytest.raises(DataError, match="of Tiny have no one square size: 0.png has 8 x 8, 1.png has 9 x 9 pixels"):
        native_size(image_set((8, 8), (9, 9)))
    with pytest.raises(DataError, match="no one square size: 0.png has 8 x 6 pixels. Attack them with EVAL.ATTACK_AT"):
        native_size(image_set((8, 6), (8, 6)))
    damaged = image_set((8, 8))
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="0.png cannot be read"):
        native_size(damaged)
