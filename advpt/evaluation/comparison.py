"""A record beside one that was made anew: field by field, and image by image where outcomes are another."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from advpt.evaluation.evaluator import RecordAnswers
from advpt.evaluation.findings import BOUNDARY, CONTRADICTIONS, Finding, Flip, Verdict
from advpt.evaluation.flags import BATCH, NO_GRADIENT
from advpt.evaluation.measure import Answers
from advpt.evaluation.record import CleanAccuracy, Observed, Record
from advpt.schema import Json

UNCOMPARED = ("training", "warnings")  # fields on how the run came to be; warnings on the attacks are compared
STATEMENT = (
    "not compared: training (how the run came to be), warnings about it, and what is observed (time, memory, host); "
    "the images, settings, weights and prompts are"
)
ANEW = "made anew it is"
# Numbers that follow from single images: where some flip, these may be others.
FOLLOWING = re.compile(
    r"(clean|robust)\.(accuracy|correct|interval95|outcome|deviation|defense_seeds|lost|untouched|on_perturbed|"
    r"largest_linf|stages|surrogate|parts)\b.*|flags"
)
OF_IMAGES = re.compile(r"(clean|robust|flags|images|note)\b")  # what other images have others of
EXACT = re.compile(r"(clean|robust)\.(defense_seeds|parts)\[\d+\]\.(seed|name|attack|left|undefended)")
# Hashes that text features go into, whose last digits differ between processors.
OF_FEATURES = re.compile(r"prompt|(clean|robust)\..*\bbank|defense\.stages\[\d+\]\.(\w+\.)*text")
# What cannot be missing on either side, or be of another number.
STRUCTURE = re.compile(r"(clean|robust)\.(parts|defense_seeds|on_perturbed|stages|surrogate|lost|deviation)")
HASH = re.compile("[0-9a-f]{64}")
FEATURES = (
    "the text features of its prompt have other last digits here, and so have hashes that they go into: outcomes decide"
)
# Between processors: an attack of many signed steps takes another path, and parts have no outcomes of single images.
GRADIENT_SHARE = 0.5  # of its size, which is a mean over few images: 0.16 was measured
PART_SHARE = 0.1  # of the images
LARGEST_LINF = 0.01  # 1/255


@dataclass(frozen=True)
class Anew:
    """A record that was made anew, and the answers it is of. ``ids``: of its images."""

    record: Record
    answers: RecordAnswers
    ids: Sequence[str]


def compare(record: Record, anew: Anew, *, boundary: float = BOUNDARY, lenient: bool = False) -> Verdict:
    """What differs.

    Args:
        record, anew: of the same images, or ``anew`` of the first ones of the record's.
        boundary: margin in logits up to which an outcome may flip. lenient: other processors, threads or versions made
            ``anew`` than the record, so that outcomes may flip at all.
    """
    clean, robust = record.result.clean, record.result.robust
    part, n = anew.record.result, len(anew.ids)
    flips = list(_flips("clean", clean, part.clean, anew.answers.clean, anew.ids))
    if robust is not None and part.robust is not None:
        flips += _flips("robust", robust, part.robust, anew.answers.attacked, anew.ids)
    notes: tuple[str, ...] = ()
    if n < clean.n:
        every = differences(record.result.to_json(), part.to_json())
        findings = [each for each in every if not OF_IMAGES.match(each.name)]
        if robust is not None and any(each.left for each in robust.parts):
            notes = (
                "attacks on the images that those before left correct had other images beside them than in the whole "
                "evaluation",
            )
            lenient = True
    else:
        findings = [*differences(record.result.to_json(), part.to_json()), *_warnings(record, anew.record)]
        rows = record.observed.rows, anew.record.observed.rows
        if rows[0] and rows[0] != rows[1]:
            findings.append(Finding("observed.rows", list(rows[0]), list(rows[1]), ANEW))
    others = lenient and record.result.prompt != part.prompt
    if others:
        alone = not record.result.defenses  # the clean bank has no text in it
        findings = [each for each in findings if not _is_of_features(each) or (alone and each.name == "clean.bank")]
        notes += (FEATURES,)
    status = _status(findings, flips, record, anew, boundary) if lenient else ""
    if others and status == "agrees":
        status = "near"
    if not status:
        status = "differs" if flips or findings else "agrees"
    return Verdict(record.place, status, n, clean.n, tuple(findings), tuple(flips), notes)  # type: ignore[arg-type]


def differences(recorded: Mapping[str, Json], anew: Mapping[str, Json], prefix: str = "") -> list[Finding]:
    """Every field that differs, nested ones by dotted name, but for :data:`UNCOMPARED` and outcomes."""
    findings = list[Finding]()
    for name in sorted(recorded.keys() | anew.keys()):
        if prefix + name in UNCOMPARED or (name == "outcome" and prefix in ("clean.", "robust.")):
            continue
        findings += _different(prefix + name, recorded.get(name), anew.get(name))
    return findings


def _different(name: str, has: Json, gives: Json) -> list[Finding]:
    if isinstance(has, Mapping) and isinstance(gives, Mapping):
        return differences(has, gives, f"{name}.")
    nested = [
        isinstance(each, list | tuple) and any(isinstance(item, Mapping) for item in each) for each in (has, gives)
    ]
    if all(nested) and len(has) == len(gives):
        return [each for i, pair in enumerate(zip(has, gives)) for each in _different(f"{name}[{i}]", *pair)]
    return [] if _same(has, gives) else [Finding(name, has, gives, ANEW)]


def _same(has: Json, gives: Json) -> bool:
    if isinstance(has, list | tuple) and isinstance(gives, list | tuple):
        return len(has) == len(gives) and all(map(_same, has, gives))
    return bool(has == gives)


def _flips(
    part: str, recorded: CleanAccuracy, anew: CleanAccuracy, answers: Sequence[Answers], ids: Sequence[str]
) -> Iterator[Flip]:
    before, now = recorded.outcomes()[: len(ids)], anew.outcomes()
    if len(before) != len(now):
        return  # other images, which is a finding of its own
    for row in (before != now).nonzero()[0].tolist():
        yield Flip(ids[row], part, bool(before[row]), float(answers[0].margins[row]))


def _warnings(record: Record, anew: Record) -> Iterator[Finding]:
    """Warnings of the evaluation that the record lacks."""
    recorded = record.result.warnings
    for line in anew.result.warnings:
        if line not in recorded:
            yield Finding("warnings", None, line, "which made anew has")


# --- where outcomes may flip ----------------------------------------------------------------------------------------


def _status(findings: Sequence[Finding], flips: Sequence[Flip], record: Record, anew: Anew, boundary: float) -> str:
    """``near`` where nothing differs but what follows from images within the boundary, ``agrees`` where nothing does,
    "" otherwise."""
    if any(not abs(flip.margin) <= boundary for flip in flips):  # nor is a margin that is no number
        return ""
    allowed = Allowance(record, anew, boundary)
    if not all(map(allowed.is_small, findings)):
        return ""
    return "near" if flips or findings else "agrees"


def _is_of_features(finding: Finding) -> bool:
    hashes = (isinstance(each, str) and HASH.fullmatch(each) for each in (finding.recorded, finding.expected))
    return bool(OF_FEATURES.fullmatch(finding.name)) and all(hashes)


class Allowance:
    """How far numbers may differ where images near the boundary flip."""

    def __init__(self, record: Record, anew: Anew, boundary: float) -> None:
        answers = anew.answers
        self.n, self.robust, self.boundary = record.result.clean.n, record.result.robust, boundary
        self.near = {
            "clean": [self.count(each) for each in answers.clean],
            "robust": [self.count(each) for each in answers.attacked],
        }
        self.near_parts = [sum(map(self.count, part)) for part in answers.parts]

    def count(self, answers: Answers) -> int:
        """How many images are near the boundary."""
        return int((answers.margins.abs() <= self.boundary).sum())

    def is_small(self, finding: Finding) -> bool:
        """Whether a difference is one that images near the boundary make."""
        name, values = finding.name, (finding.recorded, finding.expected)
        if name == "warnings":  # sentences whose numbers follow from the others
            return str(finding.expected).startswith(CONTRADICTIONS)
        if name == "flags":
            return not {BATCH, NO_GRADIENT} & (set(finding.recorded or ()) ^ set(finding.expected or ()))
        if STRUCTURE.fullmatch(name) and any(each is None or isinstance(each, list | tuple) for each in values):
            return False
        if re.match(r"robust\.surrogate\.(network|about|digest)\b", name):
            return False
        if EXACT.fullmatch(name) or not FOLLOWING.fullmatch(name):
            return False
        if name.endswith("largest_linf"):
            return _distance(values) <= LARGEST_LINF
        if name.endswith(".gradient"):
            return _distance(values) <= GRADIENT_SHARE * max(abs(float(each or 0)) for each in values)
        top, _, rest = name.partition(".")
        if match := re.match(r"parts\[(\d+)\]\.(\w+)", rest):
            return self._of_part(int(match[1]), match[2], values)
        if match := re.match(r"defense_seeds\[(\d+)\]\.(\w+)", rest):
            draw = self.near[top][int(match[1])]
            return match[2] == "accuracy" and _distance(values) * self.n <= 100 * draw + 1e-6
        if rest == "untouched":
            most = max(1, self.n // 100) + max(self.near["robust"], default=0)
            return _distance(values) * self.n <= 100 * most + 1e-6
        return True  # what the outcomes say, which were compared one by one

    def _of_part(self, i: int, name: str, values: tuple[Json, Json]) -> bool:
        """Counts of a part may differ by the images near the boundary and some more; what an attack on the images that
        others left is of follows from these."""
        left = self.robust is not None and self.robust.parts[i].left
        more = max(1, round(PART_SHARE * self.n)) + sum(
            self.near_parts[: i + 1] if left else self.near_parts[i : i + 1]
        )
        if name in ("n", "correct"):
            return (left or name == "correct") and _distance(values) <= more
        return name == "accuracy" or (name == "bank" and left)


def _distance(values: tuple[Json, Json]) -> float:
    if not all(isinstance(each, int | float) for each in values):
        return math.inf
    return abs(float(values[0]) - float(values[1]))


# --- hosts ------------------------------------------------------------------------------------------------------------


def other_host(recorded: Observed, here: Observed) -> list[str]:
    """What outcomes may depend on and is another here: machine, processor, device, threads, or PyTorch."""
    lines = list[str]()
    for name in ("machine", "processor", "cores", "device", "threads"):
        theirs, mine = (getattr(each.host, name, None) for each in (recorded, here))
        if theirs != mine:
            lines.append(f"{name} {theirs or 'unknown'} there, {mine} here")
    theirs, mine = ((each.versions or {}).get("torch") for each in (recorded, here))
    return lines + ([f"torch {theirs or 'unknown'} there, {mine} here"] if theirs != mine else [])
