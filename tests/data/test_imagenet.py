"""ImageNet's class names and test subset."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advpt.data import imagenet
from advpt.errors import DataError

SHIPPED = Path(imagenet.__file__).parent / "imagenet_classnames.txt"


def test_shipped_names_are_the_curated_clip_list() -> None:
    assert hashlib.md5(SHIPPED.read_bytes(), usedforsecurity=False).hexdigest() == ("c7cdaa38c7d6c316f21428828490357a")
    names = imagenet.shipped_names()
    assert len(names) == 1000
    assert len(set(names.values())) == 998
    assert list(names) == sorted(names)
    assert list(names.values())[2] == "great white shark"
    assert "kite (bird of prey)" in names.values()
    assert imagenet.folders_digest(list(names)) == "385e0240499426c0"
    assert "MIT License" in (SHIPPED.parent / "imagenet_classnames.LICENSE.txt").read_text()


def test_own_names_are_compared_with_the_shipped_ones(tmp_path: Path) -> None:
    assert imagenet.names_for(tmp_path) == (imagenet.shipped_names(), "")
    path = tmp_path / "classnames.txt"
    path.write_bytes(SHIPPED.read_bytes().replace(b"\n", b"\r\n"))
    assert imagenet.names_for(tmp_path)[1] == "", "line ends do not matter"
    path.write_text(SHIPPED.read_text().replace("great white shark", "white shark"))
    names, warning = imagenet.names_for(tmp_path)
    assert names["n01484850"] == "white shark"
    for part in (str(path), "1 of 1000 names differ", "not comparable", "89e0b642c6697a3a"):
        assert part in warning


@pytest.mark.parametrize("line", ["tench", "n01440764", "n0144076 tench", "n01440764 tench\nn01440764 again"])
def test_a_names_file_of_another_form_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "classnames.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=r"classnames.txt, line \d is .* expected a wnid, a space and a name"):
        imagenet.names_for(tmp_path)


def test_the_test_subset_is_one_image_per_class_whatever_the_order() -> None:
    numbers = [(c, 50 * c + i) for c in range(20) for i in range(50)]
    val = [(f"val/n{c:08d}/ILSVRC2012_val_{i:08d}.JPEG", c, f"class {c}") for c, i in numbers]
    chosen = imagenet.paper1000(val)
    assert [row[1] for row in chosen] == list(range(20)) and set(chosen) <= set(val)
    assert chosen == imagenet.paper1000([row for c in range(20) for row in val[50 * c : 50 * c + 50][::-1]])
    text = "\n".join(row[0].removeprefix("val/") for row in chosen)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "3273b57fdc859c38", "the rule has drifted"


@pytest.mark.parametrize("encoding", ("utf-8-sig", "utf-16", "latin-1"))
def test_names_files_of_other_programs(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "classnames.txt"
    text = "".join(f"{wnid} {name}\r\n" for wnid, name in imagenet.shipped_names().items())
    path.write_bytes(text.replace("tench", "ténch" if encoding == "latin-1" else "tench").encode(encoding))
    if encoding == "utf-8-sig":
        assert imagenet.names_for(tmp_path) == (imagenet.shipped_names(), "")
        return
    with pytest.raises(DataError, match=r"classnames\.txt is (not )?in UTF-.*iconv"):
        imagenet.names_for(tmp_path)


def test_the_list_of_robustbench() -> None:
    images = imagenet.robustbench_images()
    assert len(set(images)) == len(images) == 5000 and images[0] == "n09468604/ILSVRC2012_val_00015253.JPEG"
    classes = [image.split("/")[0] for image in images]
    missing = imagenet.shipped_names().keys() - set(classes)
    assert missing == {"n02066245", "n07875152", "n03482405"} and len(set(classes[:1000])) == 631


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5000), st.permutations(range(5)))
def test_a_subset_of_robustbench_is_the_beginning_of_its_list(n: int, order: list[int]) -> None:
    """Whatever the order of the folders' listing, and whatever else lies beside the images."""
    wnids = {wnid: label for label, wnid in enumerate(imagenet.shipped_names())}
    listed = [f"val/{name}" for name in imagenet.robustbench_images()]
    val = [(path, wnids[path.split("/")[1]], "x") for path in (*listed, "val/n01440764/more.JPEG")]
    shuffled = [row for first in order for row in val[first::5]]
    rows = imagenet.robustbench(shuffled, n)
    assert [path for path, _, _ in rows] == listed[:n]
    assert all(label == wnids[path.split("/")[1]] for path, label, _ in rows)


def test_images_of_robustbench_that_are_absent_are_named() -> None:
    first, *others = imagenet.robustbench_images()[:3]
    with pytest.raises(DataError, match=f"1 of the 3 images .* robustbench3 .*: val/{first}. .*--check"):
        imagenet.robustbench([(f"val/{name}", 0, "x") for name in others], 3)
