"""Whether a run still is what a record is of, before any attack: prompt, model, settings, list and files of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from advpt.data import listing
from advpt.data.images import ImageSet
from advpt.errors import DataError
from advpt.evaluation.evaluator import image_files
from advpt.evaluation.findings import Finding
from advpt.evaluation.record import Record, Result
from advpt.evaluation.session import Subject
from advpt.files import file_digest
from advpt.schema import Json

NAMED = 5  # images in a sentence


@dataclass(frozen=True)
class Named:
    """Who can name image files that changed since a run.

    Args:
        compared: hashes of some files of a split as the run's folder has them, by path (their beginnings).
        bank: for a bank's key the hashes of all of its images' files ``[n, 32]``, None where it is not there.
        lists: what differs between the list of images here and that of the run's folder, as half a sentence; "" where
            nothing does.
    """

    compared: Mapping[Path, str] = field(default_factory=dict)
    bank: Callable[[str], Tensor | None] = lambda key: None
    lists: Callable[[], str] = lambda: ""


class Files:
    """SHA-256 of files, each read once."""

    def __init__(self) -> None:
        self.known = dict[str, str]()

    def digest(self, path: str) -> str:
        """Of one file. Raises DataError where it is missing."""
        if path not in self.known:
            if not Path(path).is_file():
                raise DataError(listing.missing_image(Path(path)))
            self.known[path] = file_digest(Path(path))
        return self.known[path]

    def of(self, images: ImageSet) -> str:
        """``image_files`` of a record of these images."""
        return _of_hashes([self.digest(sample.path) for sample in images.samples])


def of_run(result: Result, subject: Subject) -> list[Finding]:
    """What is another than the record says: hand-written prompt, towers, data."""
    facts, prompts, backbone = subject.facts, subject.prompts, subject.bank_cache.backbone
    image_file = backbone.image_file
    pairs: list[tuple[str, str, Json, Json]] = [
        (
            "hand_prompt",
            "the hand-written prompt of its settings is",
            list(result.hand_prompt),
            list(prompts.handcrafted_text),
        ),
        ("backbone.name", "the model of its settings is", result.backbone.name, backbone.name),
        ("backbone.image", "the image tower here is", result.backbone.image, backbone.image_digest),
        ("backbone.text", "the text tower here is", result.backbone.text, backbone.text_digest),
        ("backbone.image_file", "the image tower's file here is", result.backbone.image_file, image_file),
        ("split_digest", "the split here is", result.split_digest, facts.split_digest),
        ("dataset", "the data set here is", result.dataset, facts.dataset),
        ("trainer", "the settings name", result.trainer, facts.trainer),
    ]
    return [Finding(name, has, is_, source) for name, source, has, is_ in pairs if has != is_]


def of_prompt(record: Record, subject: Subject, *, elsewhere: bool) -> list[Finding]:
    """What is another about what was tuned.

    Args:
        elsewhere: other processors, threads or versions than the record's make the text features, whose last digits may
            then be others: the tuned tensors decide where the record has their hash, else the outcomes.
    """
    theirs, mine = record.observed.learned, subject.learned
    if theirs is not None and theirs != mine:
        return [Finding("observed.learned", theirs, mine, "the tensors in the run's folder are")]
    recorded, here = record.result.prompt, subject.facts.prompt
    if recorded == here or (elsewhere and subject.prompts.learned.computed):
        return []
    return [Finding("prompt", recorded, here, "the prompt in the run's folder is")]


def of_images(record: Record, images: ImageSet, files: Files, named: Named) -> list[Finding]:
    """What is another about the images of a record: their list, or the files behind their names.

    Raises:
        DataError: a file is missing.
    """
    facts = record.result.images
    if (facts.n, facts.digest) != (len(images), images.list_digest):
        lists = named.lists()
        counts = Finding("images.n", facts.n, len(images), "the list of images here has")
        other = Finding("images.digest", facts.digest, images.list_digest, "the list of images here is")
        findings = [counts] if facts.n != len(images) else [other]
        return findings + ([Finding(text=f"the data here are not those of the run's folder: {lists}")] if lists else [])
    recorded = record.observed.image_files
    if recorded is None:
        return _compared(images, files, named)
    hashes = [files.digest(sample.path) for sample in images.samples]
    if recorded == _of_hashes(hashes):
        return []
    return [Finding(text=_which(record, images, hashes, files, named))]


def _of_hashes(hashes: list[str]) -> str:
    return image_files(torch.tensor([list(bytes.fromhex(each)) for each in hashes], dtype=torch.uint8))


def _compared(images: ImageSet, files: Files, named: Named) -> list[Finding]:
    """Of a record that does not say which files its images are: those that the run's folder has hashes of."""
    others = _changed(images, files, named)
    return [Finding(text=f"another image behind the same name: {listing.some(others, NAMED)}")] if others else []


def _changed(images: ImageSet, files: Files, named: Named) -> list[str]:
    return [
        sample.id
        for sample in images.samples
        if not files.digest(sample.path).startswith(named.compared.get(Path(sample.path), ""))
    ]


def _which(record: Record, images: ImageSet, hashes: list[str], files: Files, named: Named) -> str:
    """The sentence on images that are not those of the record, with their names as far as anything tells."""
    text, key = "another image behind the same name: ", record.result.clean.bank
    bank = named.bank(key) if key else None
    if bank is not None and image_files(bank) == record.observed.image_files:  # so it is what the record was made of
        rows = [bytes(each.tolist()).hex() for each in bank]
        others = [name for name, then, now in zip(images.ids, rows, hashes) if then != now]
        return f"{text}{listing.some(others, NAMED)} ({len(others)} of {len(images)} files)"
    others = _changed(images, files, named)
    told = sum(Path(sample.path) in named.compared for sample in images.samples)
    rest = (
        f"the run's folder has hashes of {told} of these {len(images)} files, so that others may have changed as well"
    )
    if others:
        return f"{text}{listing.some(others, NAMED)}; {rest}"
    return f"{text}one or more of {len(images)} files; which cannot be told: {rest.split(',')[0]}, which are the same"
