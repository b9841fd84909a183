"""Verification: the attacks of records are made anew, and everything that a record says is compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from advpt.errors import AdvPTError
from advpt.evaluation import identities
from advpt.evaluation.comparison import Anew, compare, other_host
from advpt.evaluation.defended import EvaluationRow
from advpt.evaluation.evaluator import WORST_CASE
from advpt.evaluation.findings import BOUNDARY, Finding, Verdict, unchecked
from advpt.evaluation.protocols import Threat
from advpt.evaluation.record import Record, Result, observe
from advpt.evaluation.session import Subject

Pair = tuple[int, Threat | None]  # a row by its place in the plan, and a threat; None: clean images alone


@dataclass(frozen=True)
class Options:
    """How records are verified.

    Args:
        images: of each record, rounded up to whole batches of the attacks; 0 for all.
        boundary: as of :func:`~advpt.evaluation.comparison.compare`.
        keep: takes each record that was made anew, with the one it is of.
    """

    images: int = 0
    boundary: float = BOUNDARY
    keep: Callable[[Record, Record], None] | None = None


def row_of(result: Result, rows: Sequence[EvaluationRow]) -> int | None:
    """The place of the row that a record is of; None where there is none."""
    for i, row in enumerate(rows):
        same = row.names == result.defenses and row.part == result.images.part and len(row.images) == result.images.n
        applies = result.protocol is None or row.protocols is None or result.protocol in row.protocols
        if same and applies and row.images.list_digest == result.images.digest:
            return i
    for i, row in enumerate(rows):  # of other images: identities say so
        same = row.names == result.defenses and row.part == result.images.part
        if same and (result.protocol is None or row.protocols is None or result.protocol in row.protocols):
            return i
    return None


def threats_of(result: Result, row: EvaluationRow, asked: Sequence[Threat]) -> list[Threat | None]:
    """The threats that a record is of, several for a worst case; [None] for clean images alone, none where these are
    not asked for."""
    attack = result.attack
    if attack is None:
        return [None]
    faced = [each for each in asked if each.protocol == result.protocol and row.applies_to(each)]
    if attack.name == WORST_CASE:
        alike = [each for each in faced if (each.attack.norm, each.attack.eps) == (attack.norm, attack.eps)]
        return list(alike) if len(alike) > 1 else []
    return [each for each in faced if each.attack.label == attack.label]


def key(result: Result) -> tuple[object, ...]:
    """What tells the records of one evaluation apart."""
    attack = result.attack
    return result.split, result.protocol, attack.spec if attack else "", result.defenses, result.images.part


class Verification:
    """Verifies records of one run and one set of settings by an evaluation of ``subject``."""

    def __init__(self, subject: Subject, records: Sequence[Record], options: Options, named: identities.Named) -> None:
        self.subject, self.records, self.options = subject, records, options
        self.named, self.here = named, observe(0, subject.bank_cache.backbone.device)
        self.evaluator, self.rows, self.asked = subject.planned()

    def run(self) -> list[Verdict]:
        """A verdict for each record. What is another thing than the record says is not attacked."""
        verdicts, wanted = dict[int, Verdict](), dict[int, list[Pair]]()
        files = identities.Files()
        for i, record in enumerate(self.records):
            try:
                findings, pairs = self.look(record, files)
            except AdvPTError as error:
                verdicts[i] = unchecked(record.place, str(error))
                continue
            if findings:
                notes = ("not attacked: it would not be what the record is of",)
                verdicts[i] = Verdict(record.place, "differs", 0, record.result.clean.n, tuple(findings), notes=notes)
            else:
                wanted[i] = pairs
        if wanted:
            verdicts |= self.attack(wanted)
        return [verdicts[i] for i in range(len(self.records))]

    def look(self, record: Record, files: identities.Files) -> tuple[list[Finding], list[Pair]]:
        """What is not what the record says before any attack, and what to measure for it."""
        result = record.result
        place = row_of(result, self.rows)
        findings = identities.of_run(result, self.subject)
        if place is None:
            behind = f"behind {result.defense_name}" if result.defenses else "without a defense"
            part = " on a part of the images" if result.images.part else ""
            text = f"an evaluation of its settings has no results {behind}{part}"
            return [*findings, Finding(text=text)], []
        row = self.rows[place]
        findings += identities.of_prompt(record, self.subject, elsewhere=bool(other_host(record.observed, self.here)))
        findings += identities.of_images(record, row.images, files, self.named)
        threats = threats_of(result, row, self.asked)
        if not threats and result.attack is not None:
            label = f"{result.attack.label} under {result.protocol}"
            findings.append(Finding(text=f"an evaluation of its settings has no attack {label}"))
        return findings, [(place, threat) for threat in threats]

    def attack(self, wanted: Mapping[int, Sequence[Pair]]) -> dict[int, Verdict]:
        """Make the attacks, and compare."""
        pairs = {(place, threat.label if threat else "") for each in wanted.values() for place, threat in each}
        first = {row: self.first(row) for row in self.rows}
        place_of = {first[row]: i for i, row in enumerate(self.rows)}
        try:
            asked = [each for each in self.asked if any(label == each.label for _, label in pairs)]
            for threat in asked:
                threat.attack.build().require(self.evaluator.images)
            made = self.evaluator.run(
                [first[self.rows[place]] for place in sorted({place for place, _ in pairs})],
                asked,
                lambda row, threat: (place_of[row], threat.label if threat else "") in pairs,
                timed=False,
            )
        except AdvPTError as error:
            return {i: unchecked(self.records[i].place, str(error)) for i in wanted}
        anew = {key(each.result): (each, answers) for each, answers in zip(made, self.evaluator.answers)}
        verdicts = {}
        for i, each in wanted.items():
            record = self.records[i]
            got = anew.get(key(record.result))
            if got is None:
                text = "an evaluation of its settings makes no such record"
                verdicts[i] = Verdict(record.place, "differs", findings=(Finding(text=text),))
                continue
            ids = first[self.rows[each[0][0]]].images.ids
            verdicts[i] = self.verdict(record, Anew(got[0], got[1], ids))
        return verdicts

    def verdict(self, record: Record, anew: Anew) -> Verdict:
        """The verdict on a record beside the one that was made anew."""
        if self.options.keep is not None:
            self.options.keep(record, anew.record)
        others = other_host(record.observed, anew.record.observed)
        made = compare(record, anew, boundary=self.options.boundary, lenient=bool(others))
        return dataclasses.replace(made, notes=(*made.notes, *others)) if made.status != "agrees" else made

    def first(self, row: EvaluationRow) -> EvaluationRow:
        """The row on the images that are asked for, in whole batches."""
        chunk = self.subject.bank_cache.chunk
        most = -(-self.options.images // chunk) * chunk
        if not 0 < most < len(row.images):
            return row
        return dataclasses.replace(row, images=row.images.select(range(most)))
