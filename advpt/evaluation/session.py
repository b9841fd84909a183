"""One evaluation of a run: from prompts and images to records, pictures and result lines."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from advpt.backbones import democlip
from advpt.backbones.backbone import Backbone
from advpt.backbones.text_encoder import TextEncoder
from advpt.bank.cache import BankCache
from advpt.bank.store import Bank
from advpt.data.images import ImageSet
from advpt.data.manifest import manifest
from advpt.detectors import LossWatch, bank_rows
from advpt.evaluation import evaluator, pictures, record
from advpt.evaluation.defended import EvaluationRow
from advpt.evaluation.evaluator import Prompts, evaluate
from advpt.evaluation.protocols import recorded, threats
from advpt.evaluation.record import Record, RunFacts, TrainingFacts, WordFacts
from advpt.files import digest
from advpt.prompts import words
from advpt.schema import from_json, to_json
from advpt.settings import UNRECORDED_LEAVES, EvalSettings


@dataclass(frozen=True)
class Session:
    """Evaluates classifiers of one run.

    Args:
        library: where banks come from.
        settings: attacks, protocols and defenses.
        folder: of the run, for records and pictures.
        say: takes each line that is to be shown.
    """

    bank_cache: BankCache
    settings: EvalSettings
    folder: Path
    say: Callable[[str], None]

    def run(
        self,
        prompts: Prompts,
        images: ImageSet,
        facts: RunFacts,
        rows: Sequence[EvaluationRow] = (),
        observed: Callable[[], Mapping[str, Any]] = dict,
    ) -> list[Record]:
        """Measure, write one record per attack and protocol, and say what came out.

        Args:
            prompts: what is evaluated, and the hand-written prompt.
            images: the split.
            facts: what records say of the run (:func:`run_facts`).
            rows: of results, before those that the settings ask for.
            observed: called when all is measured; what records say of how the evaluation went.

        Returns:
            The records, the one of the first attack and protocol first.
        """
        started = time.monotonic()
        records = evaluate(prompts, images, self.bank_cache, self.settings, facts, rows)
        details = observed()
        records = [dataclasses.replace(each, observed=each.observed.with_details(details)) for each in records]
        for each in records:
            record.write(each, self.folder)
        for each in reversed(records):  # the first one last: result parsers take the last match
            for line in result_lines(each, primary=each is records[0]):
                self.say(line)
        if self.settings.pictures and self.settings.attacks:
            first = threats(self.settings.attacks, self.settings.protocols)[0]
            pictures.take(prompts, images, self.bank_cache, first, records[0], self.settings.pictures, self.folder)
        self.say(f"\n{evaluator.summary(records)}")
        self.say(f"{len(records)} record(s) in {self.folder / 'records'} ({time.monotonic() - started:.1f} s)")
        return records

    def point(self, prompts: Prompts, images: ImageSet) -> dict[str, Any]:
        """Clean and robust accuracy under the first attack of the first protocol, for a curve; nothing is written."""
        first = dataclasses.replace(
            self.settings, attacks=self.settings.attacks[:1], protocols=self.settings.protocols[:1], defenses=()
        )
        unrecorded = RunFacts(dataset=images.dataset, trainer="", seed=0, config={})
        result = evaluate(prompts, images, self.bank_cache, first, unrecorded)[0].result
        point: dict[str, Any] = {"protocol": result.protocol, "attack": result.attack.spec if result.attack else None}
        for name, part in (("clean", result.clean), ("robust", result.robust)):
            if part is not None:
                point[name] = to_json(dataclasses.replace(part, outcome=None))
        return point


def run_facts(
    settings: Mapping[str, Any],
    *,
    dataset: str,
    prompt: str,
    split_digest: str,
    comparable: bool | None,
    training: Mapping[str, Any],
    warnings: Sequence[str],
    trained: bool,
) -> RunFacts:
    """What a record says of the run itself.

    Args:
        settings: the whole configuration, flat (:func:`advpt.settings.plain`).
        dataset: the data set's title.
        prompt: digest of the classifier.
        split_digest: of the lists of images.
        comparable: whether results may stand beside published ones; None: the data set does not say.
        training: what the prompts were made of, and when.
        warnings: sentences about the run.
        trained: whether another seed would give another outcome.
    """
    config = {name: value for name, value in settings.items() if name not in UNRECORDED_LEAVES}
    config["EVAL.ATTACKS"] = [recorded(text) for text in config["EVAL.ATTACKS"]]
    trainer = config["TRAINER.NAME"]
    return RunFacts(
        dataset=dataset,
        trainer=trainer,
        seed=config["SEED"],
        shots=config["DATASET.NUM_SHOTS"],
        config=config,
        config_digest=digest(config),
        prompt=prompt,
        split_digest=split_digest,
        comparable=comparable,
        training=from_json(TrainingFacts, dict(training)),
        warnings=tuple(warnings),
        trained=None if trained == (trainer not in record.UNTRAINED) else trained,
    )


def prepared_data(folder: Path) -> dict[str, Any]:
    """Which preparation made the data in a folder, for ``observed``; {} where it was not ours."""
    prepared = manifest(folder)
    return {"prepared_data": {"manifest": digest(prepared), "date": prepared.get("date")}} if prepared else {}


def training_warnings(bank: Bank | None, watch: LossWatch | None) -> list[str]:
    """Signs in a training bank and in the losses that something went wrong without an error."""
    rows = bank_rows(bank.embeddings, bank.ids) if bank is not None else []
    lines = [f"training bank {bank.key[:12]}: {line}" for line in rows] if bank is not None else []
    return [*lines, *(watch.warnings() if watch is not None else [])]


def nearest_words(
    contexts: Mapping[str, Tensor], k: int, backbone: Backbone, encoder: TextEncoder, *, own_weights: bool
) -> WordFacts:
    """The ``k`` nearest words of each vector of each context ``[M, d]``, for a record.

    Args:
        contexts: by name.
        own_weights: a file was given in the place of the backbone's own weights.
    """
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
