"""Zero-shot CLIP on a few test images beside numbers that are known, and all that they depend on: does this machine
compute what was published?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from tabulate import tabulate

from advpt.backbones.card import ImageCard
from advpt.evaluation.record import Accuracy, Record
from advpt.results.expected import KnownModel, KnownNumbers
from advpt.schema import Json

TOLERANCE = 2  # images of an exact number: another processor rounds otherwise
DIGITS = 16  # of a digest, in tables
UNMEASURED = "not measured"
# Settings that the numbers depend on, too: rows of the table only where they are not as published.
BESIDES: Mapping[str, Json] = {
    "DATASET.PROTOCOL": "coop",
    "DATASET.SUBSAMPLE_CLASSES": "all",
    "TEST.SPLIT": "test",
    "TRAINER.ZEROSHOTCLIP.TEMPLATES": "",
    "EVAL.ATTACK_AT": "model",
    "BANK.PREC": "fp32",
}
PROMPT_LEAVES = ("TEMPLATE", "ENSEMBLE", "TEMPLATES")  # of TRAINER.ZEROSHOTCLIP


@dataclass(frozen=True)
class FileFacts:
    """A file of this machine beside the official one.

    Args:
        official, ours: what identifies each, a digest. same: whether they are equal in what counts.
        bring: a command, or a sentence, that brings the official one.
    """

    official: str
    ours: str
    same: bool
    bring: str = ""


@dataclass(frozen=True)
class Published:
    """What was evaluated where the known numbers come from.

    Args:
        numbers: themselves. attack: its exact form. card: of the image tower, with what its pixels are.
        template: of the hand-written prompt. test_subset: ``DATASET.TEST_SUBSET``. model: digests of the towers.
    """

    numbers: KnownNumbers
    attack: str
    card: ImageCard
    template: str
    test_subset: str = ""
    model: KnownModel = KnownModel()


@dataclass(frozen=True)
class Row:
    """A line of the table. ``advice``: the next step where it is not the ``same``. ``words``: for the two outcomes."""

    name: str
    published: str
    ours: str
    same: bool
    advice: str = ""
    words: tuple[str, str] = ("same", "differs")

    @property
    def verdict(self) -> str:
        return self.words[0] if self.same else self.words[1]


@dataclass(frozen=True)
class Check:
    """What a check came to. ``settings``: rows on what was evaluated; ``numbers``: rows on accuracies; ``source``: the
    head of their published column; ``sentences``: what the numbers can tell."""

    settings: tuple[Row, ...]
    numbers: tuple[Row, ...]
    source: str = "published"
    sentences: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        return (*self.settings, *self.numbers)

    @property
    def all_same(self) -> bool:
        """Whether nothing differs."""
        return all(row.same for row in self.rows)

    def text(self) -> str:
        """The table, a next step for each row that differs, and the sentences."""
        cells = [(row.name, row.published, row.ours, row.verdict) for row in self.rows]
        heads = ("what", self.source, "this machine", "")
        lines = [tabulate(cells, headers=heads, tablefmt="github", disable_numparse=True), ""]
        lines += [f"next      {row.name}: {row.advice}" for row in self.rows if not row.same and row.advice]
        outcome = f"all is as {self.source}" if self.all_same else f"not all is as {self.source}"
        return "\n".join([*lines, *self.sentences, f"result    {outcome}"])


def compare(
    record: Record, published: Published, weights: FileFacts, split: FileFacts, given: Mapping[str, str]
) -> Check:
    """A record of zero-shot CLIP beside what was published.

    Args:
        record: of the attack; one of clean images has their accuracy alone.
        weights, split: the files that the record was made from.
        given: settings of this command, which may be what differs.
    """
    rows = [*_pixels(record, published.card, given), _prompt(record, published, given), _file("weights", weights)]
    rows += [*_towers(record, published.model, weights), _split(record, split)]
    rows += [_attack(record, published.attack, given), *_besides(record, published, given)]
    numbers = _numbers(record, published.numbers, all(row.same for row in rows))
    source = "on record" if published.numbers.exact else "published"
    return Check(tuple(rows), tuple(numbers), source, tuple(_sentences(record, published.numbers)))


# --- what was evaluated -----------------------------------------------------------------------------------------------


def _text(value: Json) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _setting(record: Record, name: str, wanted: Json) -> Json:
    """A setting of a record's run. One that it lacks has its default, which is what is wanted of such settings."""
    return record.result.config.get(name, wanted)


def _settings_row(name: str, wanted: str, ours: str, given: Mapping[str, str], key: str = "", value: str = "") -> Row:
    """``key``, ``value``: the setting that gives the published value, where they are not name and ``wanted``."""
    key, value = key or name, value or wanted
    if key in given:
        advice = f'leave out --set {key} "{given[key]}"'
    else:
        advice = f'git diff configs shows where it was changed; for this check alone: --set {key} "{value}"'
    return Row(name, wanted or "empty", ours or "empty", wanted == ours, advice)


def _pixels(record: Record, card: ImageCard, given: Mapping[str, str]) -> list[Row]:
    wanted: dict[str, Json] = {
        "INPUT.SIZE": list(card.size),
        "INPUT.INTERPOLATION": card.interpolation,
        "INPUT.RESIZE": card.resize,
        "INPUT.PIXEL_MEAN": list(card.mean),
        "INPUT.PIXEL_STD": list(card.std),
    }
    rows = []
    for name, value in wanted.items():
        ours = _setting(record, name, value) or value  # an empty one is the model's own
        pair = f"({_text(value)})" if isinstance(value, list) else ""
        rows.append(_settings_row(name, _text(value), _text(ours), given, value=pair))
    return rows


def _prompt(record: Record, published: Published, given: Mapping[str, str]) -> Row:
    texts = record.result.hand_prompt
    ours = texts[0] if len(texts) == 1 else f"{len(texts)} templates"
    keys = [f"TRAINER.ZEROSHOTCLIP.{leaf}" for leaf in PROMPT_LEAVES]
    key = next((key for key in keys if key in given), keys[0])
    return _settings_row("prompt", published.template, ours, given, key)


def _file(name: str, facts: FileFacts) -> Row:
    return Row(name, facts.official[:DIGITS], facts.ours[:DIGITS] or "none", facts.same, facts.bring)


def _towers(record: Record, known: KnownModel, weights: FileFacts) -> list[Row]:
    """Towers of a digest on record; else they are those of the file, read as OpenAI's code reads them."""
    backbone, rows = record.result.backbone, []
    for name, wanted, ours in (("image tower", known.image, backbone.image), ("text tower", known.text, backbone.text)):
        other = "MODEL.IMAGE_WEIGHTS" if backbone.image_file and name == "image tower" else ""
        plain = weights.same and not (other or backbone.reads or backbone.source)
        advice = f"leave out {other or 'MODEL.ACTIVATION and MODEL.BACKBONE.NAME'}"
        advice = advice if weights.same or other else "first the file of weights"
        same = ours == wanted if wanted else plain
        rows.append(Row(name, wanted[:DIGITS] or "of that file", (ours or "none")[:DIGITS], same, advice))
    return rows


def _split(record: Record, split: FileFacts) -> Row:
    if split.same and record.result.comparable is not True:
        return Row("split", "official", "other, by the record", False, split.bring)
    return _file("split", split)


def _attack(record: Record, wanted: str, given: Mapping[str, str]) -> Row:
    result, full = record.result, f"transfer, {wanted}"
    if result.attack is None:
        key = next((key for key in given if key in ("EVAL.ATTACKS", "EVAL.PROTOCOLS")), "")
        advice = f"leave out --set {key}" if key else "start the same command again: it goes on where it was"
        return Row("attack", full, "none", False, advice, ("", UNMEASURED))
    ours = f"{result.protocol}, {result.attack.spec}"
    return _settings_row("attack", full, ours, given, "EVAL.ATTACKS", f"('{wanted}:transfer',)")


def _besides(record: Record, published: Published, given: Mapping[str, str]) -> list[Row]:
    wanted = {**BESIDES, "DATASET.TEST_SUBSET": published.test_subset}
    each = [(name, _text(value), _text(_setting(record, name, value))) for name, value in wanted.items()]
    return [_settings_row(name, value, ours, given) for name, value, ours in each if ours != value]


# --- numbers ----------------------------------------------------------------------------------------------------------


def _numbers(record: Record, known: KnownNumbers, settled: bool) -> list[Row]:
    """``settled``: all that the numbers depend on is as published."""
    result = record.result
    advice = _more(result.clean.n, known) if settled else "first the rows above that differ"
    parts: list[tuple[str, float, Accuracy | None]] = [("clean accuracy", known.clean, result.clean)]
    parts.append(("accuracy under the attack", known.robust, result.robust))
    rows = []
    for name, number, part in parts:
        count = f", {round(number * known.images / 100)} of {known.images}" if known.exact else ""
        if part is None:
            rows.append(Row(name, f"{number:.1f}{count}", UNMEASURED, False, words=("", UNMEASURED)))
            continue
        low, high = part.interval95
        ours = f"{part.accuracy:.1f} [{low:.1f}, {high:.1f}], {part.correct} of {part.n}"
        same = agrees(number, part, known)
        rows.append(Row(name, f"{number:.1f}{count}", ours, same, advice, ("agrees", "differs")))
    return rows


def agrees(number: float, part: Accuracy, known: KnownNumbers) -> bool:
    """Whether a measured accuracy is the known ``number`` (percent) but for rounding, or for chance: of equal images
    at most :data:`TOLERANCE` came out otherwise; of a part of them, Wilson's interval holds the number."""
    if known.exact:
        return part.n == known.images and abs(part.correct - number * part.n / 100) <= TOLERANCE + 1e-6
    low, high = part.interval95
    half = 0.05  # of the last digit that papers print
    return low - half <= number <= high + half


def _more(n: int, known: KnownNumbers) -> str:
    if known.exact:
        return "this machine computes something else: see `python -m advpt doctor` for versions, and the run's log"
    more = next((size for size in (1000,) if n < size < known.images), 0)
    return f"--images {more} tells more{'' if more else ': all of them'}" if n < known.images else "see the run's log"


def _sentences(record: Record, known: KnownNumbers) -> list[str]:
    result, about = record.result, record.observed
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(about.finished)) if about.finished else "at an unknown time"
    device = f" on {about.host.device}" if about.host is not None else ""
    versions = "".join(f", {name} {each}" for name, each in (about.versions or {}).items() if name != "python")
    n, of_all = result.clean.n, f"of all {known.images:,} test images"
    if known.exact:
        text = (
            f"Both are of the same {known.images} images. Another processor rounds otherwise, which changes up to "
            f"{TOLERANCE} of them; more is a difference in what is computed."
        )
    elif n >= known.images:
        text = f"Both are {of_all}."
    else:
        parts = [part.interval95 for part in (result.clean, result.robust) if part is not None]
        half = max((high - low) / 2 for low, high in parts)
        text = (
            f"{known.source} is {of_all}, ours of {n}, in which classes take turns. By chance a number of so few is up "
            f"to {half:.0f} points off (95 % interval, Wilson): smaller differences cannot be told, and one of ten "
            "machines on which all is right has a number that differs."
        )
    return [f"measured  {when}{device}{versions}", text]
