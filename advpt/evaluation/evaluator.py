"""Clean and robust accuracy of a prompt, from banks: images are attacked once and never kept."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from advpt import detectors, progress
from advpt.bank.cache import AttackRequest, BankCache
from advpt.bank.defended_input import UNDEFENDED
from advpt.bank.store import Bank
from advpt.data.images import ImageSet
from advpt.errors import ConfigError
from advpt.evaluation import defended, test_time
from advpt.evaluation import record as records
from advpt.evaluation.defended import EvaluationRow, inexact_gradient, mean_over_draws, plan
from advpt.evaluation.flags import flags, has_no_gradient
from advpt.evaluation.measure import Answers, Measured, Measurer, Prompts, predict
from advpt.evaluation.protocols import Threat, threats
from advpt.evaluation.record import (
    Accuracy,
    AttackFacts,
    BackboneFacts,
    CleanAccuracy,
    ImageFacts,
    PartAccuracy,
    Record,
    Result,
    RobustAccuracy,
    RunFacts,
    SurrogateFacts,
)
from advpt.files import canonical_json
from advpt.schema import from_json
from advpt.settings import EvalSettings

WORST_CASE = "worst-case"


def always(row: EvaluationRow, threat: Threat | None) -> bool:
    """Every row is measured under every threat."""
    return True


def evaluate(
    prompts: Prompts,
    images: ImageSet,
    bank_cache: BankCache,
    settings: EvalSettings,
    facts: RunFacts,
    rows: Sequence[EvaluationRow] = (),
) -> list[Record]:
    """Attack the images and classify them: one record per attack, protocol and defense, no defense first (or clean
    records where no attack is asked for), then one worst case per protocol, budget and defense that has several
    attacks. None is written yet.

    Args:
        facts: what is evaluated, for the records.
        rows: what stands before the defenses of the settings (test-time tuning, :mod:`advpt.evaluation.tuned`), of
            the same images.
    """
    evaluator, planned, asked = planned_evaluation(prompts, images, bank_cache, settings, facts, rows)
    for threat in asked:
        threat.attack.build().require(evaluator.images)
    return evaluator.run(planned, asked)


def planned_evaluation(
    prompts: Prompts,
    images: ImageSet,
    bank_cache: BankCache,
    settings: EvalSettings,
    facts: RunFacts,
    rows: Sequence[EvaluationRow] = (),
) -> tuple[Evaluator, list[EvaluationRow], list[Threat]]:
    """An evaluation before anything is measured, with all rows and threats that its settings ask for. Arguments are
    those of :func:`evaluate`."""
    images = images.first(settings.subset)
    bank_cache = bank_cache.with_visual_prompts(prompts.learned.visual)
    device = bank_cache.backbone.device
    planned = test_time.plan([*rows, *plan(settings, images, device)], settings, images, device, prompts.model)
    evaluator = Evaluator(prompts, images, bank_cache, settings, facts)
    return evaluator, planned, threats(settings.attacks, settings.protocols)


def check(settings: EvalSettings) -> None:
    """Refuse what no evaluation can do, and require the files and packages of defenses, before anything is loaded.

    Raises:
        ConfigError, WeightsError, DefenseError: what is wrong or missing.
    """
    asked = threats(settings.attacks, settings.protocols)
    if settings.attack_at == "native" and (others := [each.attack for each in asked if each.own_network]):
        raise ConfigError(
            f"EVAL.ATTACK_AT is native, and {others[0]} does not go through the model, which alone enlarges images; "
            "leave it out, or give EVAL.ATTACK_AT model"
        )
    defended.check(settings)
    test_time.check(settings)


@dataclass(frozen=True)
class RowResults:
    """The results of a row.

    Args:
        clean: that on clean images. answers: what the prompt makes of these, for each draw of the defense.
        untuned: tuning changed none of these predictions.
        image_files: SHA-256 over the hashes of the images' files.
        milliseconds: per image, where they were measured. measured: what each threat did.
    """

    row: EvaluationRow
    clean: Result
    answers: list[Answers]
    untuned: bool
    image_files: str
    milliseconds: float | None = None
    measured: list[Measured] = field(default_factory=list)

    @property
    def clean_correct(self) -> list[Tensor]:
        """``[n]`` bool for each draw of the defense: which clean images are correct."""
        return [each.correct for each in self.answers]


@dataclass(frozen=True)
class RecordAnswers:
    """What the prompt makes of a record's images, for each draw of the defense: of the ``clean`` ones, of the
    ``attacked`` ones (the worst of several attacks), and of those of each of its ``parts``."""

    clean: list[Answers]
    attacked: list[Answers]
    parts: tuple[list[Answers], ...] = ()


class Evaluator:
    """One evaluation of prompts on ``images``: measures rows under threats, and makes their records.

    Args:
        compares_costs: records have the passes and milliseconds of an image, as where the settings name defenses at
            test time.
    """

    def __init__(
        self,
        prompts: Prompts,
        images: ImageSet,
        bank_cache: BankCache,
        settings: EvalSettings,
        facts: RunFacts,
        compares_costs: bool = False,
    ) -> None:
        self.prompts, self.bank_cache, self.settings, self.facts = prompts, bank_cache, settings, facts
        self.images, self.measurer = images, Measurer(prompts, bank_cache, settings)
        self.records: list[Record] = []
        self.compares_costs = compares_costs or bool(settings.test_time)
        self.answers: list[RecordAnswers] = []  # of each record
        self._started = time.monotonic()
        self._bank_warnings: dict[str, list[str]] = {}  # by the bank's key

    def run(
        self,
        planned: Sequence[EvaluationRow],
        asked: Sequence[Threat],
        wanted: Callable[[EvaluationRow, Threat | None], bool] = always,
        *,
        timed: bool = True,
    ) -> list[Record]:
        """The records of all rows under all threats, or of those pairs that are ``wanted`` (None: of clean images
        alone). ``timed``: measure the time of an image where there are defenses at test time."""

        def faces(row: EvaluationRow, threat: Threat) -> bool:
            return row.applies_to(threat) and wanted(row, threat)

        def is_measured(row: EvaluationRow) -> bool:
            if asked:
                return any(faces(row, threat) for threat in asked)
            return not row.part and row.protocols != test_time.KNOWING and wanted(row, None)

        planned = [row for row in planned if is_measured(row)]
        self.measurer.prefetch(planned, None)
        rows = [self.clean_results(row, timed) for row in planned]
        for threat in progress.each(asked, "evaluation", len(asked), "attack"):
            faced = [results for results in rows if faces(results.row, threat)]
            self.measurer.prefetch([results.row for results in faced], threat)
            self.measurer.prefetch_parts([results.row for results in faced], threat)
            for results in faced:
                self.add_attacked(results, threat)
        for results in rows:
            for group in same_budget_groups(results.measured):
                result, answers = worst_case(group, results, self.settings)
                self.add(results, result, RecordAnswers(results.answers, answers))
        if not self.records:
            for results in rows:
                self.add(results, results.clean, RecordAnswers(results.answers, []))
        return self.records

    def add(
        self,
        results: RowResults,
        result: Result,
        answers: RecordAnswers,
        banks: Sequence[Bank] = (),
        path: str | None = None,
    ) -> None:
        """Make the record of a result of a row and of its ``answers``, with every warning about it and about the rows
        of its ``banks``."""
        warnings, row = list(result.warnings), results.row
        for bank in banks:
            if bank.key not in self._bank_warnings:
                self._bank_warnings[bank.key] = detectors.bank_rows(bank.embeddings, bank.ids, row.counts_votes)
            warnings += [f"bank {bank.key[:12]}: {line}" for line in self._bank_warnings[bank.key]]
        if result.robust is not None and result.attack is not None:
            warnings += contradictions(result.clean, result.robust, f"{result.protocol} {result.attack.spec}")
        raised = flags(result.clean, result.robust, row.depends_on_batch)
        result = replace(result, warnings=tuple(dict.fromkeys(warnings)), flags=raised)
        keys = canonical_json(result.to_json())
        larger = {key: source for key, source in self.bank_cache.state.read_from.items() if key in keys}
        observed = records.observe(time.monotonic() - self._started, self.bank_cache.backbone.device)
        observed = replace(
            observed,
            files=path or None,
            read_from=larger or None,
            milliseconds=results.milliseconds,
            image_files=results.image_files,
            rows=self.rows_of(row.images),
        )
        self.records.append(Record(result, observed))
        self.answers.append(answers)
        self._started = time.monotonic()

    def rows_of(self, images: ImageSet) -> tuple[int, ...]:
        """Which of the evaluated images these are; none where they are all."""
        if len(images) == len(self.images):
            return ()
        place = {name: i for i, name in enumerate(self.images.ids)}
        return tuple(place[name] for name in images.ids)

    def add_attacked(self, results: RowResults, asked: Threat) -> None:
        """Attack the images of a row, or read them from banks, classify them, and make the record."""
        row, measured = results.row, self.measurer.measure(results.row, results.answers, asked)
        threat = measured.threat
        results.measured.append(measured)
        defense = row.facts(threat, self.settings.bpda)
        robust = mean_over_draws(robust_accuracies(measured, results.clean_correct), row.inputs)
        attack = {"spec": threat.attack.label, "asked": asked.attack.label, "seed": self.settings.seed}
        result = replace(
            results.clean,
            protocol=threat.protocol,
            attacker_knows=row.knowledge(threat),
            attack=from_json(AttackFacts, threat.attack.build().parameters() | attack),
            note="; ".join(filter(None, (threat.note, worst_of(measured.parts), inexact_gradient(defense)))),
            defense=defense,
            robust=replace(robust, surrogate=self.surrogate_facts(measured), parts=measured.parts),
            warnings=(*self.facts.warnings, *(self.idle_tuning(row, asked) if results.untuned else ())),
        )
        answers = RecordAnswers(results.answers, measured.answers, measured.of_parts)
        self.add(results, result, answers, measured.banks, path=threat.attack.path)

    def clean_results(self, row: EvaluationRow, timed: bool = True) -> RowResults:
        """The common part of all records of a row."""
        backbone = self.bank_cache.backbone
        banks = self.bank_cache.get_all(AttackRequest(row.images), row.inputs)
        answers = self.measurer.answers(banks)
        parts = [CleanAccuracy.of(each.correct, bank=bank.key) for each, bank in zip(answers, banks)]
        result = Result(
            **vars(self.facts),
            split=row.images.split,
            images=ImageFacts(
                n=len(row.images),
                digest=row.images.list_digest,
                subset=len(row.images) if row.part else self.settings.subset,
                part=row.part,
            ),
            backbone=BackboneFacts(
                name=backbone.name,
                image=backbone.image_digest,
                text=backbone.text_digest,
                image_file=backbone.image_file,
                reads=backbone.reads,
                source=backbone.source,
            ),
            clean=mean_over_draws(parts, row.inputs),
            hand_prompt=tuple(self.prompts.handcrafted_text),
            defenses=row.names,
            defense=row.facts(None, self.settings.bpda),
            cost=dataclasses.asdict(row.cost()) if self.compares_costs else None,
        )
        untuned = self.idle_tuning(row, None)
        result = replace(result, warnings=(*result.warnings, *untuned))
        files = image_files(banks[0].columns["file_hash"])
        milliseconds = self.measurer.milliseconds(row) if timed and self.compares_costs else None
        return RowResults(row, result, answers, bool(untuned), files, milliseconds)

    def idle_tuning(self, row: EvaluationRow, threat: Threat | None) -> list[str]:
        """A warning where tuning at test time changed no prediction: of the clean images, and of attacked ones where
        the attacker does not know of it, so that the same images can be classified both ways."""
        if not row.tuning_settings or (threat is not None and threat.own_network):
            return []
        if threat is not None and row.attack_target(threat, self.settings.bpda) is not None:
            threat = None
        banks = self.bank_cache.get_all(self.measurer.request(row.images, threat), (*row.inputs, UNDEFENDED))
        tuned, plain = (predict(self.prompts.learned, bank) for bank in banks)
        if not torch.equal(tuned, plain):
            return []
        which = f"clean and under {threat.label}" if threat else "clean"
        return [detectors.idle_tuning(len(row.images), which, row.tuning_settings)]

    def surrogate_facts(self, measured: Measured) -> SurrogateFacts | None:
        """The attacker's own network, its accuracy on these images before and after; None for attacks through CLIP."""
        attack, columns = measured.threat.attack.build(), measured.banks[0].columns
        if attack.source_model != "surrogate":
            return None
        before = 100 * float((columns["clean_correct"] == 1).float().mean())
        after = None if attack.objective.targeted else 100 * float((columns["stage"] < 0).float().mean())
        return SurrogateFacts(**self.bank_cache.surrogate.facts(), accuracy=before, accuracy_attacked=after)


def image_files(hashes: Tensor) -> str:
    """SHA-256 (hex) over the hashes of image files ``[n, 32]`` uint8."""
    return hashlib.sha256(hashes.cpu().contiguous().numpy().tobytes()).hexdigest()


def contradictions(clean: CleanAccuracy, robust: RobustAccuracy, attack: str) -> list[str]:
    """Warnings about a robust number that cannot be right beside the clean one; ``attack``: its label."""
    sentences = []
    if robust.accuracy > clean.accuracy:
        both = f"{robust.accuracy:.2f} % under {attack}, {clean.accuracy:.2f} % without an attack"
        sentences.append(f"robust above clean: {both}")
    if clean.n and (robust.untouched == 100 or robust.largest_linf == 0):
        sentences.append(f"the attack changed nothing: {attack} gave back every image as it was")
    elif clean.correct and clean.outcome == robust.outcome:
        same = "every image is classified as well or badly as without"
        sentences.append(f"the attack changed nothing: under {attack} {same}")
    return sentences


def robust_accuracies(measured: Measured, clean_correct: Sequence[Tensor]) -> list[RobustAccuracy]:
    """The accuracy of each draw of the defense, and where the attack has stages, how many images each of them broke."""
    names = None if measured.parts else measured.threat.attack.build().parameters().get("stages")
    accuracies = []
    for bank, correct, clean in zip(measured.banks, measured.correct, clean_correct):
        part = replace(_robust(correct, measured.perturbed, clean, measured.linf), bank=bank.key)
        if names:
            broken = {name: int((bank.columns["stage"] == i).sum()) for i, name in enumerate(names)}
            part = replace(part, stages=broken | {"none": len(correct) - sum(broken.values())})
        accuracies.append(part)
    return accuracies


def _robust(correct: Tensor, perturbed: Tensor, clean_correct: Tensor, linf: float) -> RobustAccuracy:
    """Accuracy from ``[n]`` bool: ``correct`` after the attack and before it, and what it ``perturbed``."""
    return RobustAccuracy.of(
        correct,
        untouched=100 * float((~perturbed).float().mean()),
        on_perturbed=replace(Accuracy.of(correct[perturbed]), outcome=None),
        lost=100 * float((clean_correct & ~correct).float().mean()),
        largest_linf=round(linf, 4),
    )


def worst_of(parts: Sequence[PartAccuracy]) -> str:
    """The words beside a number that is the worst of several attacks."""
    if has_no_gradient(parts):
        return f"by {parts[0].attack} alone: the model has no gradient"
    return f"per image the worst of {len(parts)} attacks" if parts else ""


def same_budget_groups(measured: Sequence[Measured]) -> list[list[Measured]]:
    """Attacks of one protocol and budget, where there are several."""
    groups: dict[tuple[str, str, float], list[Measured]] = {}
    for each in measured:
        spec = each.threat.attack
        groups.setdefault((each.threat.protocol, spec.norm, spec.eps), []).append(each)
    return [group for group in groups.values() if len(group) > 1]


def worst_case(group: Sequence[Measured], results: RowResults, settings: EvalSettings) -> tuple[Result, list[Answers]]:
    """The result in which an image counts as correct only if it survives every attack of the group, and the worst
    answer to each image."""
    row, protocol, spec = results.row, group[0].threat.protocol, group[0].threat.attack
    strongest = next((each.threat for each in group if not each.threat.own_network), group[0].threat)  # knows most
    worst = [functools.reduce(Answers.worse, each) for each in zip(*(each.answers for each in group))]
    perturbed = torch.stack([each.perturbed for each in group]).any(0)
    defense, linf = row.facts(group[0].threat, settings.bpda), max(each.linf for each in group)
    name = f"{WORST_CASE}@{spec.eps:g}" + ("" if spec.norm == "linf" else f"/{spec.norm}")
    parts = [_robust(each.correct, perturbed, clean, linf) for each, clean in zip(worst, results.clean_correct)]
    attack = AttackFacts(
        name=WORST_CASE,
        objective="any",
        norm=spec.norm,
        eps=spec.eps,
        spec=name,
        asked=name,
        seed=settings.seed,
        attacks=tuple(each.threat.attack.label for each in group),
    )
    result = replace(
        results.clean,
        protocol=protocol,
        attacker_knows=row.knowledge(strongest),
        attack=attack,
        note="; ".join(filter(None, (f"per image the worst of {len(group)} attacks", inexact_gradient(defense)))),
        defense=defense,
        robust=mean_over_draws(parts, row.inputs),
    )
    return result, worst


def summary(records_: Sequence[Record]) -> str:
    """Every number of a run in a line: the attack, its protocol, and what the attacker knew; then all warnings."""
    lines = [_line(record.result) for record in records_]
    lines += [f"WARNING {text}" for text in dict.fromkeys(text for each in records_ for text in each.result.warnings)]
    return "\n".join(lines)


def _line(r: Result) -> str:
    clean, robust = f"clean {r.clean.accuracy:.1f} %", r.robust
    if robust is None or r.attack is None:
        defended = f"behind {r.defense_name}: " if r.defenses else ""
        return f"{defended}{clean} ({r.clean.n} images)"
    parts = [clean, f"{robust.n} images", f"untouched {robust.untouched:.1f} %"]
    if robust.untouched and robust.on_perturbed is not None:
        parts.append(f"on the perturbed {robust.on_perturbed.accuracy:.1f} %")
    if r.attack.name == "files":
        parts.append(f"largest change of a pixel {robust.largest_linf:g}/255")
    if robust.stages:
        parts.append("broken by " + ", ".join(f"{name} {n}" for name, n in robust.stages.items()))
    if r.defenses:
        parts.append(f"behind {r.defense_name}")
    if robust.deviation is not None:
        parts.append(f"± {robust.deviation:.1f} over {len(robust.defense_seeds)} seeds of the defense")
    if r.defense is not None and r.defense.gradient:
        parts.append("attacked with gradients: " + ", ".join(f"{k} {v}" for k, v in r.defense.gradient.items()))
    if robust.surrogate is not None:
        network = robust.surrogate
        parts.append(f"surrogate {network.network} {network.accuracy:.1f} % on the clean images")
    note = f" ({r.note})" if r.note else ""
    return (
        f"{r.protocol:12} {r.attack.spec:28} robust {robust.accuracy:.1f} %, {', '.join(parts)}; "
        f"attacker knows {r.attacker_knows}{note}"
    )
