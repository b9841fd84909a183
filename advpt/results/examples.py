"""Example images on a page: clean, attacked and the change, with what each prompt takes them for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from advpt.errors import RecordError
from advpt.evaluation import pictures
from advpt.evaluation.pictures import Picture, Pictures
from advpt.evaluation.record import Record
from advpt.results.groups import attack_words
from advpt.results.index import RecordIndex
from advpt.results.terms import SHORT

MOST = 4  # runs whose images a page shows
PROMPTS = {"hand": "hand-written prompt", "learned": "tuned prompt"}


@dataclass(frozen=True)
class Answer:
    """What a prompt takes an image for, clean and attacked, and whether each is right."""

    prompt: str
    clean: str
    attacked: str
    clean_right: bool
    attacked_right: bool


@dataclass(frozen=True)
class Example:
    """An image with its true class. ``images``: file, words below it and alternative text of those that are there."""

    label: str
    images: tuple[tuple[Path, str, str], ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class ExampleRun:
    """The examples of a run: its name, the id of the record of their attack, and that attack in words."""

    name: str
    record: str
    attack: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Examples:
    """What a page shows, and how many runs with images it leaves out."""

    runs: tuple[ExampleRun, ...] = ()
    left_out: int = 0


def examples(index: RecordIndex) -> Examples:
    """Images of one run for each data set and backbone, of a trained one where there is one, and of :data:`MOST` runs
    at most. What is wrong with others is noted."""
    readable: dict[tuple[str, str], list[tuple[str, Path, Pictures, Record]]] = {}
    for name, folder, records in _runs(index):
        try:
            about = pictures.read(folder)
        except RecordError as error:
            index.refuse(error, folder / pictures.FOLDER / pictures.FILE)
            continue
        if about is None:
            continue
        record = next((record for record in records if record.id == about.record), None)
        if record is None:
            index.note("missing", f"the pictures of {name} belong to a record that is not there any more")
            continue
        place = (record.result.dataset, record.result.backbone.name)
        readable.setdefault(place, []).append((name, folder, about, record))
    chosen = [sorted(alike, key=lambda each: not each[3].result.is_trained)[0] for alike in readable.values()][:MOST]
    left_out = sum(map(len, readable.values())) - len(chosen)
    for name, _, _, record in chosen:
        index.use(record, name)
    return Examples(tuple(_run(*each) for each in chosen), left_out)


def _runs(index: RecordIndex) -> list[tuple[str, Path, Iterable[Record]]]:
    """Name, folder and records of the runs of a report; where it has no list of runs, those of the records in use."""
    if index.runs:
        return [(run.name, run.folder, index.of(run).values()) for run in index.runs.values()]
    by_folder: dict[Path, tuple[str, list[Record]]] = {}
    for label, record in index.used.values():
        if record.path is not None:
            by_folder.setdefault(record.path.parent.parent, (label, []))[1].append(record)
    return [(name, folder, records) for folder, (name, records) in sorted(by_folder.items())]


def _run(name: str, folder: Path, about: Pictures, record: Record) -> ExampleRun:
    r = record.result
    attack = attack_words(r.attack) if r.attack is not None else about.attack
    known = SHORT.get(about.protocol, "")
    words = f"{attack}, {about.protocol}" + (f": {known}" if known else "")
    made = (_example(folder / pictures.FOLDER, picture, about.magnified, r.is_trained) for picture in about.pictures)
    return ExampleRun(f"{r.dataset}, {r.backbone.name}, {name}", about.record, words, tuple(made))


def _example(folder: Path, picture: Picture, magnified: float, trained: bool) -> Example:
    change = f"change × {magnified:.0f}"
    words = {
        "clean": ("clean", f"image of {picture.label}"),
        "attacked": ("attacked", f"the same image of {picture.label}, attacked"),
        "change": (change, f"what the attack changed, {magnified:.0f} times as strong, around grey"),
    }
    files = [
        (folder / Path(picture.files[kind]).name, *words[kind]) for kind in pictures.KINDS if kind in picture.files
    ]
    answers = [
        Answer(PROMPTS.get(name, name), p.clean, p.attacked, p.clean == picture.label, p.attacked == picture.label)
        for name, p in picture.said.items()
        if trained or name != "learned"
    ]
    return Example(picture.label, tuple(each for each in files if each[0].is_file()), tuple(answers))
