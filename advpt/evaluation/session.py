"""One evaluation of a run: from prompts and images to records, pictures and result lines."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from advpt.backbones import democlip
from advpt.backbones.backbone import Backbone
from advpt.backbones.text_encoder import TextEncoder
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet
from advpt.evaluation import evaluator, pictures, record
from advpt.evaluation.defended import EvaluationRow
from advpt.evaluation.evaluator import Evaluator, evaluate, planned_evaluation
from advpt.evaluation.measure import Prompts
from advpt.evaluation.protocols import Threat, recorded, threats
from advpt.evaluation.record import CurvePoint, Observed, Record, RunFacts, WordFacts
from advpt.prompts import words
from advpt.schema import Json, JsonObject, from_json, to_json
from advpt.settings import UNRECORDED_LEAVES, EvalSettings


@dataclass(frozen=True)
class Subject:
    """What an evaluation is of; the fields are the arguments of :func:`~advpt.evaluation.evaluator.evaluate`, and
    ``learned``: SHA-256 of the tensors that were tuned, None where there are none."""

    prompts: Prompts
    images: ImageSet
    bank_cache: BankCache
    settings: EvalSettings
    facts: RunFacts
    rows: Sequence[EvaluationRow] = ()
    learned: str | None = None

    def planned(self) -> tuple[Evaluator, list[EvaluationRow], list[Threat]]:
        """The evaluation before anything is measured, with all rows and threats that its settings ask for."""
        fields = (self.prompts, self.images, self.bank_cache, self.settings, self.facts, self.rows)
        return planned_evaluation(*fields)


@dataclass(frozen=True)
class Session:
    """Evaluates classifiers of one run. ``folder``: of the run; ``show``: takes each line for the user."""

    bank_cache: BankCache
    settings: EvalSettings
    folder: Path
    show: Callable[[str], None]

    def run(
        self,
        prompts: Prompts,
        images: ImageSet,
        facts: RunFacts,
        rows: Sequence[EvaluationRow] = (),
        observed: Callable[[], JsonObject] = dict,
    ) -> list[Record]:
        """Measure, write one record per attack and protocol, and show them. The first attack and protocol come first.

        Args:
            prompts, images, facts, rows: as of :func:`~advpt.evaluation.evaluator.evaluate`.
            observed: called when all is measured: what records say of how the evaluation went.
        """
        started = time.monotonic()
        records = evaluate(prompts, images, self.bank_cache, self.settings, facts, rows)
        details = observed()
        for i, each in enumerate(records):
            records[i] = dataclasses.replace(each, observed=from_json(Observed, to_json(each.observed) | details))
            record.write(records[i], self.folder)
        for each in reversed(records):  # the first one last: result parsers take the last match
            for line in result_lines(each, primary=each is records[0]):
                self.show(line)
        if self.settings.pictures and self.settings.attacks:
            first = threats(self.settings.attacks, self.settings.protocols)[0]
            pictures.take(prompts, images, self.bank_cache, first, records[0], self.settings.pictures, self.folder)
        self.show(f"\n{evaluator.summary(records)}")
        self.show(f"{len(records)} record(s) in {self.folder / 'records'} ({time.monotonic() - started:.1f} s)")
        return records

    def point(self, prompts: Prompts, images: ImageSet, epoch: int) -> CurvePoint:
        """Accuracy after an epoch (from 1) on clean images and under the first attack of the first protocol, without
        outcomes; nothing is written."""
        first = dataclasses.replace(
            self.settings,
            attacks=self.settings.attacks[:1],
            protocols=self.settings.protocols[:1],
            defenses=(),
            test_time=(),
        )
        unrecorded = RunFacts(dataset=images.dataset, trainer="", seed=0, config={})
        result = evaluate(prompts, images, self.bank_cache, first, unrecorded)[0].result
        return CurvePoint(
            epoch=epoch,
            clean=dataclasses.replace(result.clean, outcome=None),
            robust=dataclasses.replace(result.robust, outcome=None) if result.robust is not None else None,
            protocol=result.protocol,
            attack=result.attack.spec if result.attack is not None else None,
        )


def recorded_settings(settings: Mapping[str, Json]) -> JsonObject:
    """The settings that a record holds, of a whole configuration (:func:`advpt.settings.plain`)."""
    config = {name: value for name, value in settings.items() if name not in UNRECORDED_LEAVES}
    return config | {"EVAL.ATTACKS": [recorded(text) for text in config["EVAL.ATTACKS"]]}


def nearest_words(
    contexts: Mapping[str, Tensor], k: int, backbone: Backbone, encoder: TextEncoder, *, own_weights: bool
) -> WordFacts:
    """The ``k`` nearest words of each vector of each context ``[M, d]`` by name, for a record. ``own_weights``: a file
    was given in the place of the backbone's own weights."""
    file = democlip.FILES.get(backbone.name)  # the other rows of its table were never trained
    only = democlip.trained_token_ids(file) if file and not own_weights else None
    facts = {name: words.describe(encoder.tokenizer, each, encoder.table, k, only) for name, each in contexts.items()}
    return from_json(WordFacts, facts)


def result_lines(entry: Record, primary: bool) -> list[str]:
    """Dassl-style result lines. ``* robust_accuracy:`` is the first attack of the first protocol (``primary``); others
    have their names behind it."""
    result, robust = entry.result, entry.result.robust
    if robust is None or result.attack is None:
        return []
    low, high = robust.interval95
    name = ", ".join(filter(None, (result.protocol, result.attack.spec, result.defense_name)))
    label = "robust_accuracy" if primary else f"robust_accuracy ({name})"
    return [
        f"=> robust result: {name}",
        f"* robust_total: {robust.n:,}",
        f"* {label}: {robust.accuracy:.1f}%  (95% interval {low:.1f} to {high:.1f})",
    ]
