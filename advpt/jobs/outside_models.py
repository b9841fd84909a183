"""What ``python -m advpt benchmark --model my.module:make`` measures: models of others on the benchmark's images, under
its attacks, for the same tables.

Each model and data set has a folder, ``OUTPUT/outside/<model>/<set>``, with records and the model's card. It is skipped
when all of it is there for this model, these images and these settings; otherwise banks let it go on where it was.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt.data.images import ImageSet
from advpt.defenses.spec import parse_all
from advpt.errors import ConfigError, RecordError
from advpt.evaluation import record as records
from advpt.evaluation.identities import Files
from advpt.files import FileLock, digest
from advpt.jobs.exhibits.common import NO_DEFENSE
from advpt.jobs.plan import Pairs
from advpt.outside import card
from advpt.outside.adapter import OWN
from advpt.outside.card import Card
from advpt.outside.evaluate import config_of, evaluate, examine, require, write
from advpt.outside.load import load
from advpt.outside.model import OutsideModel
from advpt.results.exhibit import BenchmarkRow
from advpt.results.index import Run
from advpt.robustness import OF_A_RUN, eval_settings, read_folder
from advpt.settings import EvalSettings

# Images for a model, with its preprocessing, and what is odd about them.
ReadImages = Callable[[OutsideModel], tuple[ImageSet, list[str]]]
FOLDER = "outside"
PROTOCOLS = ("static", "pseudo", "adaptive")
SEED = 1  # of the one run that a model has
AUTHORS = "static"  # protocol by which those who made a model are taken to measure it
SETTING = "EVAL."
CHUNK = "BANK.CHUNK"


@dataclass(frozen=True)
class MeasuredModel:
    """A model on one data set, for a :class:`~advpt.results.exhibit.BenchmarkTable`.

    Args:
        name: of the model, as tables and records have it. dataset: as records have it.
        run: where its records are.
        rows: the model, or where it has a defense that can be left out the model without it, alone and behind each
            input defense; then the whole model likewise. ``against`` counts from the first of these rows: add the place
            that this one has in a table.
        images: that were measured.
        left_out: sentences on what this model cannot be measured under.
    """

    name: str
    dataset: str
    run: Run
    rows: tuple[BenchmarkRow, ...]
    images: int = 0
    left_out: tuple[str, ...] = ()


def from_folder(folder: Path) -> ReadImages:
    """Reads ``<folder>/<class>/<image>``. Raises DataError when it is called."""
    return lambda model: read_folder(folder.expanduser(), model)


def measure(
    text: str,
    sets: Mapping[str, ReadImages],
    attacks: Sequence[str],
    output: Path,
    banks: Path,
    *,
    subset: int = 0,
    some: int = 0,
    inputs: Sequence[str] = (),
    settings: Pairs = (),
    show: Callable[[str], None] = lambda line: None,
) -> list[MeasuredModel]:
    """Measure a model on every data set, clean and under ``static``, ``pseudo`` and ``adaptive``.

    Args:
        text: ``my.module:make``, as the user typed it on the command line; its code runs.
        sets: by name of their folders: test images of registered data sets (:mod:`advpt.cli.outside_images`), or
            :func:`from_folder`.
        attacks: one for each budget, as :attr:`~advpt.jobs.setup.benchmark.BenchmarkBudget.attack`.
        output: the benchmark's folder. banks: of attacked images.
        subset: images, 0 for all. some: of these, those under ``pseudo`` and ``adaptive``, 0 for all.
        inputs: defenses of the input to put before it.
        settings: of the benchmark's runs; those of ``EVAL`` and ``BANK.CHUNK`` are used.
        show: takes a line for the user.

    Raises:
        ModelError: it cannot be had or breaks a rule. DataError: images cannot be read, or have other classes.
        ConfigError: settings that cannot be.
    """
    model = load(text)
    asked = {"attacks": tuple(attacks), "protocols": PROTOCOLS, "defenses": tuple(inputs), "subset": subset}
    asked |= {"adaptive_subset": some, **_values(settings)}
    chunk = int(dict(settings).get(CHUNK, 64))
    wanted = eval_settings(asked)
    require(wanted)
    return [_on(model, name, read, wanted, output, banks, chunk, show) for name, read in sets.items()]


def _values(settings: Pairs) -> dict[str, object]:
    """Those of ``EVAL`` by field, but for what :func:`measure` says itself, and what only runs have a use for."""
    own = ("attacks", "protocols", "defenses", "test_time", "subset", "adaptive_subset", *OF_A_RUN)
    fields = {f"{EvalSettings.node}.{leaf.name}": leaf.field for leaf in EvalSettings.declared()}
    values = dict[str, object]()
    for key, text in settings:
        if key.startswith(SETTING) and fields.get(key) not in own:
            try:
                values[fields[key]] = ast.literal_eval(text)
            except (KeyError, ValueError, SyntaxError):
                raise ConfigError(f"{key} {text}: no such setting or value of an evaluation") from None
    return values


def _on(
    model: OutsideModel,
    name: str,
    read: ReadImages,
    wanted: EvalSettings,
    output: Path,
    banks: Path,
    chunk: int,
    show: Callable[[str], None],
) -> MeasuredModel:
    folder = output / FOLDER / re.sub(r"[^A-Za-z0-9_.@-]+", "-", model.name) / name
    images, warnings = read(model)
    with FileLock(folder / ".lock", f"{model.name} on {name}"):
        require_own(folder, model)
        made = _done(folder, model, images, wanted, chunk)
        if made is not None:
            show(f"done      {model.name} on {images.dataset}: {folder}")
        else:
            show(f"measure   {model.name} on {images.dataset}, {len(images.first(wanted.subset))} images")
            checked = examine(model, images)
            settings = _narrowed(wanted, checked.differentiable)
            done = evaluate(model, images, settings, banks, chunk=chunk, seed=SEED, warnings=warnings, checked=checked)
            for old in (folder / records.FOLDER).glob("*.json"):  # of other settings
                old.unlink()
            write(done, folder)
            made = done.card
    run = Run(f"{FOLDER}/{model.name}/{name}", folder, SEED, "done", f"{model.name} on {images.dataset}")
    left_out, n = tuple[str, ...](), len(images.first(wanted.subset))
    if not made.gradients:
        others = [each for each in wanted.protocols if each not in _narrowed(wanted, False).protocols]
        left_out = (f"{model.name} under {', '.join(others)}: it has no gradient, and Square alone attacks it",)
    return MeasuredModel(model.name, images.dataset, run, rows_of(model, run.id, wanted.defenses), n, left_out)


def _narrowed(wanted: EvalSettings, differentiable: bool) -> EvalSettings:
    """The settings without protocols whose attackers follow a gradient, where there is none."""
    return wanted if differentiable else dataclasses.replace(wanted, protocols=("adaptive",))


def _done(folder: Path, model: OutsideModel, images: ImageSet, wanted: EvalSettings, chunk: int) -> Card | None:
    """The card in a folder, where all records that it names are there, of this model, these images and settings."""
    try:
        there = card.read(folder)
        made = [records.read(path) for path in (folder / records.FOLDER).glob("*.json")]
    except RecordError:
        return None
    settings, images = _narrowed(wanted, bool(there.gradients)), images.first(wanted.subset)
    same = (
        there.digest == model.for_classes(images.classnames).digest
        and there.images == card.images_of(images)
        and there.evaluation == digest(config_of(model, images.preprocessing, settings, chunk))
    )
    if not same or {each.id for each in made} != set(there.records):
        return None
    files = Files()
    parts = [(each.observed, images.select(each.observed.rows) if each.observed.rows else images) for each in made]
    return there if all(observed.image_files == files.of(part) for observed, part in parts) else None


def require_own(folder: Path, model: OutsideModel) -> None:
    """Refuse (ConfigError) a folder that has the records of a model that was named otherwise on the command line."""
    try:
        other = card.read(folder).source
    except RecordError:
        return
    if other != model.source:
        raise ConfigError(
            f"{folder} has the records of {other or 'a model from Python'}, and {model.source} has the same name "
            f"{model.name}; give one of them a name of its own, or another --output"
        )


def rows_of(model: OutsideModel, run: str, inputs: Sequence[str]) -> tuple[BenchmarkRow, ...]:
    """The rows of a model in a table. ``run``: id of its run; ``inputs``: defenses of the input before it."""
    rows = list[BenchmarkRow]()
    for text in ("", *(str(each) for each in parse_all(inputs))):
        rows.append(BenchmarkRow(model.name, "", text or NO_DEFENSE, text, (run,), 0 if rows else None, AUTHORS))
    if model.undefended is not None:
        own = [(f"{row.recorded}+{OWN}" if row.recorded else OWN, i) for i, row in enumerate(rows)]
        rows += [BenchmarkRow(model.name, "", text, text, (run,), i, AUTHORS) for text, i in own]
    return tuple(rows)
