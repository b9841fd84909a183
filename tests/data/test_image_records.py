"""Binary files of images: offsets, upright pictures, fine labels, and files that are refused."""

from __future__ import annotations

import dataclasses
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advpt.data import catalog, class_archives, image_records
from advpt.data.facts import BinaryFile, DatasetFacts, Part, RecordFacts
from advpt.data.image_records import RecordFiles, lengths, picture, record_bytes
from advpt.data.images import read_rgb
from advpt.errors import ConfigError, DataError
from tests.helpers.class_archives import TOPS, Pictures, binary, per_class, pictures, records

SETS = tuple(TOPS)


def written(members: dict[str, bytes], folder: Path) -> Path:
    for name, data in members.items():
        (folder / Path(name).name).write_bytes(data)
    return folder


@pytest.fixture(params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small(name: str, tmp_path: Path) -> DatasetFacts:
    """Facts of a small copy whose files lie in ``tmp_path``."""
    facts, members = records(name)
    written(members, tmp_path)
    return facts


def refused(facts: DatasetFacts, folder: Path, part: int = 1, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        RecordFiles(facts, facts.parts[part], folder, **options)
    text = str(caught.value)
    assert text.startswith(f"{facts.name}: ")
    assert text.endswith(f". Needed are the files of {facts.sources[0].filename}, as it has them")
    return text


# --- what is read ---------------------------------------------------------------------------------------------------

# The places of pixels (row, column, channel) in a record, and the lengths of the official files, worked out by hand
# from the descriptions of the data sets.
CIFAR_PIXELS = ((0, 0, 0), (0, 1, 0), (1, 0, 0), (31, 31, 2), (5, 7, 1))
OFFSETS = {
    "CIFAR10": dict(zip(CIFAR_PIXELS, (1, 2, 33, 3072, 1192))),
    "CIFAR100": dict(zip(CIFAR_PIXELS, (2, 3, 34, 3073, 1193))),
    "STL10": dict(zip(((0, 0, 0), (1, 0, 0), (0, 1, 0), (95, 95, 2)), (0, 1, 96, 27647))),
}
LENGTHS = {
    "CIFAR10": {f"data_batch_{i}.bin": 30_730_000 for i in range(1, 6)} | {"test_batch.bin": 30_730_000},
    "CIFAR100": {"train.bin": 153_700_000, "test.bin": 30_740_000},
    "STL10": {"train_X.bin": 138_240_000, "train_y.bin": 5_000, "test_X.bin": 221_184_000, "test_y.bin": 8_000},
}


def test_the_place_of_each_pixel(name: str, small: DatasetFacts, tmp_path: Path) -> None:
    shown = RecordFiles(small, small.parts[1], tmp_path)
    path = tmp_path / small.parts[1].files[0].filename
    blank = bytearray(path.stat().st_size)
    for value, offset in enumerate(OFFSETS[name].values(), 1):
        blank[record_bytes(small) + offset] = value  # of the second image
    path.write_bytes(blank)
    first, second, *others = shown.images()
    assert [second[pixel] for pixel in OFFSETS[name]] == list(range(1, len(OFFSETS[name]) + 1))
    assert np.count_nonzero(second) == len(OFFSETS[name]) and not np.any([first, *others])


def test_the_lengths_of_the_official_files_follow_from_the_facts(name: str) -> None:
    assert lengths(catalog.get(name)) == LENGTHS[name]


@pytest.mark.parametrize("block", [7, 1000])
def test_images_and_labels_come_in_the_official_order(
    block: int, name: str, small: DatasetFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_records, "BLOCK", block)
    for part, title, count in zip(small.parts, ("train", "test"), per_class(name)):
        expected, shown = pictures(name, title, count), RecordFiles(small, part, tmp_path)
        np.testing.assert_array_equal(shown.labels, expected.labels)
        np.testing.assert_array_equal(np.stack(list(shown.images())), expected.images)


def test_stl_images_are_upright(tmp_path: Path) -> None:
    """One bright row near the top; read row by row it would be a column at the left."""
    image = np.zeros((96, 96, 3), np.uint8)
    image[7] = 255
    made = Pictures(np.stack([image] * 10), np.arange(10))
    facts = dataclasses.replace(records("STL10")[0], counts=(10, 0, 10))
    written(binary("STL10", made, made), tmp_path)
    for shown in RecordFiles(facts, facts.parts[1], tmp_path, hashes=False).images():
        assert (shown[7] == 255).all() and not shown[:7].any() and not shown[8:].any()


def test_cifar_100_has_its_fine_labels(tmp_path: Path) -> None:
    """The first byte, the coarse label, is another number in every record of the copy."""
    facts, members = records("CIFAR100")
    written(members, tmp_path)
    data = np.frombuffer((tmp_path / "test.bin").read_bytes(), np.uint8).reshape(-1, 3074)
    labels = RecordFiles(facts, facts.parts[1], tmp_path).labels
    assert (labels == data[:, 1]).all() and (labels != data[:, 0]).all() and len(set(labels)) == 100


@st.composite
def forms(draw: st.DrawFn) -> tuple[DatasetFacts, bytes]:
    """Facts of ten images of any small size in either order, and their bytes."""
    side, columns, before = draw(st.integers(1, 5)), draw(st.booleans()), draw(st.integers(1, 3))
    label = draw(st.integers(0, before - 1))
    form = RecordFacts(names="batches.meta.txt", labels=before, label=label, by_column=columns)
    part = Part("images/test", even=True, files=(BinaryFile("x.bin"),))
    facts = dataclasses.replace(
        catalog.get("CIFAR10"), counts=(0, 0, 10), native=side, records=form, parts=(part, part)
    )
    data = b""
    for number in draw(st.permutations(range(10))):
        head = draw(st.binary(min_size=before, max_size=before))
        head = head[:label] + bytes([number]) + head[label + 1 :]
        data += head + draw(st.binary(min_size=3 * side**2, max_size=3 * side**2))
    return facts, data


@settings(max_examples=25, deadline=None)
@given(forms())
def test_bytes_become_png_files_and_are_the_same_bytes_again(made: tuple[DatasetFacts, bytes]) -> None:
    facts, data = made
    side, form = facts.native, facts.records
    assert form is not None
    size = form.labels + 3 * side**2
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        names = list(catalog_names())
        written({"x.bin": data, "batches.meta.txt": "\n".join(names).encode()}, folder)
        class_archives.write_images(RecordFiles(facts, facts.parts[0], folder), folder / "made")
        paths = {path.stem: path for path in (folder / "made").rglob("*.png")}
        assert sorted(paths) == [f"{number:05d}" for number in range(10)]
        for number in range(10):
            record = data[number * size : (number + 1) * size]
            path = paths[f"{number:05d}"]
            assert path.parent.name == names[record[form.label]]
            pixels = np.asarray(read_rgb(path))
            order = ((k, a, b) for k in range(3) for a in range(side) for b in range(side))
            again = bytes(pixels[(b, a, k) if form.by_column else (a, b, k)] for k, a, b in order)
            assert again == record[form.labels :]


def catalog_names() -> Iterator[str]:
    return iter(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])


def test_planes_become_channels() -> None:
    planes = np.arange(12, dtype=np.uint8)
    assert picture(planes, 2, False)[:, :, 0].tolist() == [[0, 1], [2, 3]]
    assert picture(planes, 2, True)[:, :, 0].tolist() == [[0, 2], [1, 3]]
    assert picture(planes, 2, True)[0, 1].tolist() == [2, 6, 10]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_file_that_is_cut_short_or_too_long(name: str, small: DatasetFacts, tmp_path: Path) -> None:
    for file in (*small.parts[1].files, *small.parts[1].labels):
        path = tmp_path / file.filename
        whole = path.read_bytes()
        for data, state in ((whole[:-1], "cut short"), (whole + b"0", "another file")):
            path.write_bytes(data)
            text = refused(small, tmp_path)
            assert f"{path} has {len(data):,} bytes, expected {len(whole):,}: it is {state}" in text
        path.write_bytes(b"")
        assert f"{path} is empty (0 bytes)" in refused(small, tmp_path)
        path.unlink()
        assert f"{path} is missing; expected the file {file.filename}" in refused(small, tmp_path)
        path.write_bytes(whole)
    RecordFiles(small, small.parts[1], tmp_path)


@pytest.mark.parametrize(
    ("name", "moved", "part", "words"),
    [
        ("CIFAR100", ("train.bin", "test.bin"), 1, "another file; it is as long as train.bin"),
        ("CIFAR100", ("test.bin", "train.bin"), 0, "cut short; it is as long as test.bin"),
        ("STL10", ("test_X.bin", "test_y.bin"), 1, "another file; it is as long as test_X.bin"),
        ("STL10", ("test_y.bin", "test_X.bin"), 1, "cut short; it is as long as test_y.bin"),
        ("STL10", ("train_X.bin", "test_X.bin"), 1, "another file; it is as long as train_X.bin"),
        ("STL10", ("train_y.bin", "test_y.bin"), 1, "another file; it is as long as train_y.bin"),
    ],
)
def test_one_file_in_the_place_of_another(
    name: str, moved: tuple[str, str], part: int, words: str, small: DatasetFacts, tmp_path: Path
) -> None:
    (tmp_path / moved[1]).write_bytes((tmp_path / moved[0]).read_bytes())
    assert f"{moved[1]} has " in (text := refused(small, tmp_path, part, hashes=False))
    assert words in text


@pytest.mark.parametrize("name", ["CIFAR10"])
def test_exchanged_batches_of_one_length_are_known_by_their_classes(
    name: str, small: DatasetFacts, tmp_path: Path
) -> None:
    """All six files of CIFAR-10 are as long as each other; only the test batch has as many images of each class."""
    labels = np.repeat(np.arange(10), 2)
    labels[0] = 1
    made = Pictures(pictures(name, "test", 2).images, labels)
    (tmp_path / "test_batch.bin").write_bytes(binary(name, pictures(name, "train", 5), made)["test_batch.bin"])
    text = refused(small, tmp_path)
    assert (
        "test_batch.bin should have 2 images of each class, but 2 classes have others: airplane (1), automobile (3); "
        "they are damaged, or files are exchanged" in text
    )
    odd = dataclasses.replace(small, parts=tuple(dataclasses.replace(part, even=False) for part in small.parts))
    assert RecordFiles(odd, odd.parts[1], tmp_path).labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("name", "file", "at", "value", "words"),
    [
        ("CIFAR10", "test_batch.bin", 3073, 10, "the label of image 2 is 10, expected 0 to 9"),
        ("CIFAR100", "test.bin", 3074 + 1, 100, "the label of image 2 is 100, expected 0 to 99"),
        ("STL10", "test_y.bin", 1, 0, "the label of image 2 is 0, expected 1 to 10"),
        ("STL10", "test_y.bin", 9, 11, "the label of image 10 is 11, expected 1 to 10"),
    ],
)
def test_a_label_out_of_range(
    name: str, file: str, at: int, value: int, words: str, small: DatasetFacts, tmp_path: Path
) -> None:
    data = bytearray((tmp_path / file).read_bytes())
    data[at] = value
    (tmp_path / file).write_bytes(data)
    assert f"{tmp_path / file}: {words}" in refused(small, tmp_path, hashes=False)


@pytest.mark.parametrize("name", ["CIFAR10"])
def test_a_pickle_is_recognised_and_never_opened(name: str, small: DatasetFacts, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "opened",))

    (tmp_path / "test_batch.bin").write_bytes(pickle.dumps({"data": Bomb(), "labels": [1]}))
    assert "it begins and ends as a Python pickle, which is never opened" in refused(small, tmp_path)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("name", ["STL10"])
def test_damaged_pixels_are_known_by_the_md5_that_is_on_record(name: str, small: DatasetFacts, tmp_path: Path) -> None:
    path = tmp_path / "test_X.bin"
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    text = refused(small, tmp_path)
    assert "has md5" in text and "as long as" not in text
    RecordFiles(small, small.parts[1], tmp_path, hashes=False)


def test_names_of_other_classes(name: str, small: DatasetFacts, tmp_path: Path) -> None:
    assert small.records is not None
    path = tmp_path / small.records.names
    text = path.read_text()
    path.write_text(text.replace("bird\n", "bird\nboat\n") if "bird" in text else f"boat\n{text}")
    assert f"{path} has {small.classes + 1} names of classes" in refused(small, tmp_path)
    path.write_text("\n".join(reversed(text.split())))
    assert f"expected {small.classes} (" in refused(small, tmp_path)
    path.unlink()
    assert f"{path} is missing" in refused(small, tmp_path)


@pytest.mark.parametrize("name", ["CIFAR100"])
def test_a_file_that_becomes_shorter_is_noticed(name: str, small: DatasetFacts, tmp_path: Path) -> None:
    shown = RecordFiles(small, small.parts[1], tmp_path)
    path = tmp_path / "test.bin"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"test\.bin became shorter while it was read"):
        list(shown.images())


def test_a_set_without_records(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="OxfordPets has no binary files in the catalogue"):
        RecordFiles(catalog.get("pets"), catalog.get("pets").parts[0], tmp_path)
