"""Whether the images of a record are still those behind their names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from advpt.data.images import ImageSet
from advpt.errors import DataError
from advpt.evaluation.evaluator import image_files
from advpt.evaluation.identities import Files, Named, of_images
from advpt.evaluation.record import ImageFacts, Observed, Record
from advpt.files import file_digest
from tests.evaluation.test_arithmetic import record
from tests.helpers.banks import make_images


def hashes(images: ImageSet) -> torch.Tensor:
    rows = [list(bytes.fromhex(file_digest(Path(sample.path)))) for sample in images.samples]
    return torch.tensor(rows, dtype=torch.uint8)


def of(images: ImageSet, files: bool = True) -> Record:
    made = record(images=ImageFacts(n=len(images), digest=images.list_digest))
    return dataclasses.replace(made, observed=Observed(image_files=image_files(hashes(images)) if files else None))


def changed(images: ImageSet, row: int) -> str:
    sample = images.samples[row]
    Image.open(sample.path).rotate(180).save(sample.path)
    return sample.id


def test_the_list_comes_before_the_files(tmp_path: Path) -> None:
    images = make_images(tmp_path, 5)
    made = of(images)
    assert of_images(made, images, Files(), Named()) == []
    findings, lists = of_images(made, images.select([0, 1]), Files(), Named(lists=lambda: "it has 3 classes"))
    assert (
        findings.name == "images.n"
        and str(lists) == "the data here are not those of the run's folder: it has 3 classes"
    )
    (findings,) = of_images(made, images.select([1, 0, 2, 3, 4]), Files(), Named())
    assert findings.name == "images.digest"
    Path(images.samples[2].path).unlink()
    with pytest.raises(DataError, match="0002.png is missing"):
        of_images(made, images, Files(), Named())


def test_a_changed_file_is_found_and_named_by_what_has_hashes(tmp_path: Path) -> None:
    images = make_images(tmp_path, 5)
    made, then = of(images), hashes(images)
    some = {Path(each.path): file_digest(Path(each.path))[:8] for each in images.samples[:3]}
    name = changed(images, 1)

    def text(named: Named, made: Record = made) -> str:
        return "; ".join(map(str, of_images(made, images, Files(), named)))

    assert text(Named()) == (
        "another image behind the same name: one or more of 5 files; which cannot be told: the run's folder has hashes "
        "of 0 of these 5 files, which are the same"
    )
    assert text(Named(some)).startswith(f"another image behind the same name: {name}; the run's folder has hashes of 3")
    assert text(Named(bank=lambda key: then)) == f"another image behind the same name: {name} (1 of 5 files)"
    assert "cannot be told" in text(Named(bank=lambda key: hashes(images)))  # a bank that is not the record's
    assert text(Named(some), dataclasses.replace(made, observed=Observed())) == (
        f"another image behind the same name: {name}"
    )
    assert text(Named(), dataclasses.replace(made, observed=Observed())) == ""
