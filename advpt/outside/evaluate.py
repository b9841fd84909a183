"""An outside model under the attackers of evaluations: which rows it has, and its records.

``static`` and ``pseudo`` attack the model without its defense (where it has none that can be left out, the model).
``adaptive`` is the worst, image by image, of the attacks of :mod:`advpt.evaluation.test_time`, through every gradient
that the model names and its own. A model without any gradient has Square alone, and a flag.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt import additions
from advpt.attacks.base import ATTACKS
from advpt.backbones.precision import tf32
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet, Preprocessing
from advpt.defenses.chain import Chain
from advpt.errors import ConfigError
from advpt.evaluation import defended, test_time
from advpt.evaluation import record as records
from advpt.evaluation.defended import Defended, EvaluationRow
from advpt.evaluation.evaluator import Evaluator
from advpt.evaluation.measure import Prompts
from advpt.evaluation.protocols import Threat, threats
from advpt.evaluation.record import Record, RunFacts, trained_field
from advpt.evaluation.session import Subject, recorded_settings
from advpt.evaluation.test_time import RowMaker, TestTimeRow
from advpt.files import digest
from advpt.outside import card
from advpt.outside.adapter import OWN, Identity, OutsideBackbone, OwnDefense, defended_model
from advpt.outside.card import Card
from advpt.outside.identity import frozen
from advpt.outside.model import OutsideModel
from advpt.outside.rules import Checked, check, still_answers
from advpt.schema import Json, JsonObject
from advpt.settings import EvalSettings

TRAINER = "Outside"  # of records
PROTOCOLS = ("static", "adaptive")
ATTACK = "pgd40-ce@4"
NO_PROMPT = ("transfer", "transfer-all", "untuned", "tuned")  # protocols about prompts and towers
NEEDS_NO_GRADIENT = "square"


@dataclass(frozen=True)
class Evaluated:
    """The records of an outside model, in the order in which they were made, and its card."""

    records: list[Record]
    card: Card


def evaluate(
    model: OutsideModel,
    images: ImageSet,
    settings: EvalSettings,
    banks: Path,
    *,
    chunk: int = 64,
    seed: int = 0,
    warnings: Sequence[str] = (),
    checked: Checked | None = None,
) -> Evaluated:
    """Check the rules, attack, classify, and see that the model still gives the first answers. Nothing is written but
    banks.

    Args:
        images: with the model's preprocessing and, where it names them, its classes in any order.
        banks: folder of banks. chunk: images per forward pass.
        seed: of the records. warnings: for the records.
        checked: what :func:`examine` gave for this model and these images; None: it is called.

    Raises:
        ModelError: a rule is broken. ConfigError: attacks or protocols that no outside model can be measured under.
    """
    model = model.for_classes(images.classnames)
    require(settings)
    checked = checked or examine(model, images)
    require_gradients(model, checked, settings)
    subject = subject_of(model, checked, images, settings, banks, chunk=chunk, seed=seed, warnings=warnings)
    evaluator, rows, asked = subject.planned()
    for threat in asked:
        threat.attack.build().require(evaluator.images)
    with frozen(model.modules), tf32(False):
        made = evaluator.run(rows, asked)
        last = still_answers(model, checked)
    return Evaluated(made, card.of(model, evaluator.images, checked, last, subject.facts.config_digest, made))


@dataclass(frozen=True, kw_only=True)
class OutsideSubject(Subject):
    """What an evaluation of an outside model is of. Run it with frozen modules."""

    model: OutsideModel
    checked: Checked

    def planned(self) -> tuple[Evaluator, list[EvaluationRow], list[Threat]]:
        settings, images = self.settings, self.images.first(self.settings.subset)
        rows = plan(self.model, self.checked, settings, images, self.prompts)
        evaluator = Evaluator(self.prompts, images, self.bank_cache, settings, self.facts, compares_costs=True)
        return evaluator, rows, threats(settings.attacks, settings.protocols)


def subject_of(
    model: OutsideModel,
    checked: Checked,
    images: ImageSet,
    settings: EvalSettings,
    banks: Path,
    *,
    chunk: int = 64,
    seed: int = 0,
    warnings: Sequence[str] = (),
) -> OutsideSubject:
    """What an evaluation is of. Arguments are those of :func:`evaluate`; the classes of the model and of the images are
    in one order."""
    config = config_of(model, images.preprocessing, settings, chunk)
    facts = RunFacts(
        dataset=images.dataset,
        trainer=TRAINER,
        seed=seed,
        config=config,
        config_digest=digest(config),
        prompt=model.digest,
        comparable=None,
        warnings=tuple(warnings),
        trained=trained_field(TRAINER, False),
    )
    classifier = Identity.of(len(images.classnames), model.device)
    backbone = OutsideBackbone(model, len(images.classnames))
    return OutsideSubject(
        prompts=Prompts(classifier, classifier, (), defended_model(classifier, images.classnames)),
        images=images,
        bank_cache=BankCache(root=banks, backbone=backbone, load=lambda: backbone, chunk=chunk),
        settings=settings,
        facts=facts,
        model=model,
        checked=checked,
    )


def examine(model: OutsideModel, images: ImageSet) -> Checked:
    """Check the rules on some of the images, which have its classes in any order. Raises ModelError."""
    model = model.for_classes(images.classnames)
    with frozen(model.modules), tf32(False):
        return check(model, images)


def plan(
    model: OutsideModel, checked: Checked, settings: EvalSettings, images: ImageSet, prompts: Prompts
) -> list[EvaluationRow]:
    """The rows of a model: without a defense and behind those of the settings; where its own defense can be left out,
    each of them without it and with it."""
    inner = defended_model(prompts.learned, images.classnames)
    maker = RowMaker(settings, model.device, inner)

    def whole(row: EvaluationRow, some: ImageSet) -> TestTimeRow:
        chain: Chain | None = row.chain if isinstance(row, Defended) else None
        text, full = (str(row.spec), row.spec.expanded) if isinstance(row, Defended) else ("", "")
        if model.undefended is not None:
            text, full = (f"{each}+{OWN}" if each else OWN for each in (text, full))
        return maker.row(text, full, chain, lambda _: OwnDefense(inner, model, checked), some)

    rows = defended.plan(settings, images, model.device)
    if model.undefended is None:
        return test_time.under_both(rows, settings, images, whole)
    both = [*rows, *(dataclasses.replace(whole(row, row.images), part=row.part) for row in rows)]
    return test_time.under_both(both, settings, images, maker.again)


def require(settings: EvalSettings) -> None:
    """Refuse (ConfigError) what an outside model cannot be measured under, before it is called."""
    if settings.test_time:
        raise ConfigError(
            "test_time names defenses of CLIP, which read its text; an outside model brings its own defense, or stands "
            "behind defenses of the input (defenses)"
        )
    defended.check(settings)
    test_time.check_attackers(settings)
    for threat in threats(settings.attacks, settings.protocols):
        source = ATTACKS.get(threat.attack.name).source_model
        if source == "surrogate":
            raise ConfigError(
                f"{threat.attack} goes through a surrogate, which a run of train.py trains; use pgd, apgd, aa or square"
            )
        if source == "encoder" and threat.protocol in NO_PROMPT:
            raise ConfigError(
                f"{threat.label}: {threat.protocol} is about prompts and towers that were tuned, and an outside model "
                "has none; its protocols are static, pseudo and adaptive"
            )


def require_gradients(model: OutsideModel, checked: Checked, settings: EvalSettings) -> None:
    """Refuse (ConfigError) attacks that follow a gradient where there is none."""
    if checked.differentiable:
        return
    why = checked.without[""]
    for threat in threats(settings.attacks, settings.protocols):
        if threat.is_adaptive and not settings.queries:
            raise ConfigError(
                f"{model.name} has no gradient ({why}), so that Square alone can attack it, and queries is 0; give some"
            )
        if not threat.own_network and not threat.is_adaptive and threat.attack.name != NEEDS_NO_GRADIENT:
            raise ConfigError(
                f"{threat.label} follows a gradient, and {model.name} has none ({why}): Square alone can attack it. "
                "Ask for adaptive alone; or give the model, as undefended and variants, functions that have a gradient"
            )


def config_of(model: OutsideModel, preprocessing: Preprocessing, settings: EvalSettings, chunk: int) -> JsonObject:
    """The settings of an evaluation, as records hold them."""
    config: JsonObject = {
        "MODEL.BACKBONE.NAME": model.name,
        "INPUT.SIZE": list(preprocessing.size),
        "INPUT.INTERPOLATION": preprocessing.interpolation,
        "INPUT.RESIZE": preprocessing.resize,
        "BANK.CHUNK": chunk,
    }
    for leaf in EvalSettings.declared():
        value: Json = getattr(settings, leaf.field)
        config[f"{EvalSettings.node}.{leaf.name}"] = list(value) if isinstance(value, tuple) else value
    return recorded_settings({name: value for name, value in config.items() if not additions.is_as_before(name, value)})


def write(evaluated: Evaluated, folder: Path) -> None:
    """Write records and card into a folder; the card's JSON comes last."""
    for each in evaluated.records:
        records.write(each, folder)
    card.write(evaluated.card, folder)
