"""Attack and evaluate a model object: ``advpt.attack`` and ``advpt.evaluate``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from advpt import additions
from advpt.attacks import Attack, parse
from advpt.attacks.noise import SampleNoise
from advpt.bank.cache import BankCache
from advpt.data import listing
from advpt.data.images import ImageSet, Sample
from advpt.data.split import PARTS
from advpt.errors import AttackError, ConfigError, DataError, unknown_name
from advpt.evaluation import evaluator, record
from advpt.evaluation.measure import Prompts
from advpt.evaluation.protocols import threats
from advpt.evaluation.record import Record, RunFacts, TrainingFacts
from advpt.evaluation.session import recorded_settings
from advpt.files import digest
from advpt.model import Model
from advpt.outside import evaluate as outside
from advpt.outside.identity import frozen
from advpt.outside.model import OutsideModel, outside_model
from advpt.prompts import exchange
from advpt.schema import Json
from advpt.settings import EvalSettings

ATTACK, PROTOCOLS = "pgd40-fkl@16", ("transfer", "adaptive")
OF_A_RUN = ("words", "pictures", "attack_at")  # settings of EVAL that evaluate() has no use for


def attack(
    text: str,
    model: nn.Module | Callable[[Tensor], Tensor],
    pixels: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    keys: Sequence[str] | None = None,
) -> Tensor:
    """Attacked images ``[b, 3, h, w]`` of any model from pixels in [0, 1] to logits, ours or not.

    Args:
        text: the attack, as in ``EVAL.ATTACKS``: ``pgd40-ce@4``; budgets are in 1/255.
        model: a module is attacked in evaluation mode, its parameters frozen; both are as before afterwards. An attack
            on embeddings (``pgd40-fkl@4``) needs a model with ``embed(pixels) -> [b, L]``, such as ours. One of ours
            that draws random numbers is attacked with new ones in every pass where the attack takes means over passes
            (``/eot10``), else with those that it classifies the same pixels with.
        pixels: ``[b, 3, h, w]`` float32 in [0, 1].
        labels: ``[b]`` whole numbers: of the images, or of the classes that a targeted attack aims at. No attack on
            embeddings reads them.
        seed: of what the attack draws. keys: a name for each image; its draws depend on its name and the seed alone.
            None: the names are places in the batch, "0", "1", ...; give others where a list is attacked in parts.

    Raises:
        ConfigError: no such attack, or one that goes through no model. AttackError: pixels, labels or outputs of
            another kind.
    """
    built = parse(text).build()
    if built.source_model != "encoder":
        raise ConfigError(
            f"attack {text!r} goes through no model of yours ({built.summary}); use for instance pgd40-ce@4"
        )
    given = [f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__ for x in (pixels, labels)]
    tensors = isinstance(pixels, Tensor) and isinstance(labels, Tensor)
    if not tensors or pixels.dim() != 4 or labels.shape != pixels.shape[:1] or labels.is_floating_point():
        raise AttackError(
            f"expected tensors, pixels [b, 3, h, w] and as many whole labels [b]; got {given[0]}, {given[1]}"
        )
    names = [str(place) for place in range(len(pixels))] if keys is None else list(keys)
    if len(names) != len(pixels):
        raise AttackError(f"got {len(names)} keys for {len(pixels)} images; give a name for each")
    if not len(pixels):
        return pixels.detach()
    labels = labels.to(pixels.device).long()
    noise = SampleNoise(names, seed)
    with frozen(_modules(model)):
        return built(_attacked(model, built, text, labels, seed), pixels, labels, noise).images


def _attacked(
    model: nn.Module | Callable[[Tensor], Tensor], built: Attack, text: str, labels: Tensor, seed: int
) -> Callable[[Tensor], Tensor]:
    """What the attack looks at: logits or embeddings, checked in every pass."""
    if built.objective.space == "embedding":
        embed = getattr(model, "embed", None)
        if not callable(embed):
            raise AttackError(
                f"attack {text!r} looks at embeddings, and the model has no method embed(pixels); attack its logits, "
                "for instance with pgd40-ce@4"
            )
        return embed
    forward: Callable[[Tensor], Tensor] = model
    if isinstance(model, Model) and model.draws and getattr(built, "eot_samples", 1) > 1:
        forward = model.through(attacker=seed)
    most, least = int(labels.max()), int(labels.min())

    def logits(pixels: Tensor) -> Tensor:
        output = forward(pixels)
        if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(pixels):
            given = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise AttackError(f"the model gave {given} for {len(pixels)} images; expected a tensor of logits [b, K]")
        if least < 0 or most >= output.shape[1]:
            raise AttackError(f"labels lie in {least} .. {most}, and the model has {output.shape[1]} classes, from 0")
        return output

    return logits


def _modules(model: object) -> list[nn.Module]:
    """What is frozen while a model is attacked."""
    if isinstance(model, OutsideModel):
        return model.modules
    return [model] if isinstance(model, nn.Module) else []


def evaluate(
    model: Model | OutsideModel | Callable[[Tensor], Tensor],
    folder: str | Path,
    *,
    attacks: Sequence[str] | None = None,
    protocols: Sequence[str] | None = None,
    defenses: Sequence[str] = (),
    test_time: Sequence[str] = (),
    subset: int = 0,
    seed: int = 0,
    chunk: int = 64,
    banks: str | Path = "banks",
    output: str | Path = "",
    **settings: Any,
) -> list[Record]:
    """Clean and robust accuracy on one's own labelled images: the records that ``train.py`` makes.

    Args:
        model: of :func:`advpt.load` and :func:`advpt.zero_shot`; or any other one, from pixels in [0, 1] to logits,
            that keeps the rules of :mod:`advpt.outside.rules`: what it is stands in a card beside its records.
        folder: ``<folder>/<class>/<image>``; class folders have the names of ``model.classnames``. A folder called
            train, val or test is that part of the data set above it: the same banks and numbers as ``train.py``'s
            ``ImageFolder`` has.
        attacks, defenses, test_time: as the settings of the same names below ``EVAL``; attacks None: ``pgd40-fkl@16``,
            and ``pgd40-ce@4`` of another model.
        protocols: likewise; None: transfer and adaptive, and with ``test_time`` transfer alone, as the adaptive
            attackers of one such defense are about 20 attacks, each with several passes for one of the model. Another
            model has static and adaptive.
        subset: images, a fixed class-balanced choice; 0 for all. seed: of attacks and defenses.
        chunk: images per forward pass.
        banks: folder of the banks that attacked images are embedded in; what is there is not made again.
        output: folder that gets the records as files, for ``python -m advpt report``; "" for none.
        settings: others of ``EVAL``, in small letters: ``adaptive_subset``, ``queries`` (of Square), ``eot``,
            ``defense_seeds``, ``costly_subset``, ``bpda``.

    Raises:
        ConfigError: unknown attacks, protocols, defenses or settings, or a model that has a defense of its own.
        DataError: other folders than the classes, or no image. ModelError: another model breaks a rule.
    """
    if not isinstance(model, Model):
        model = outside_model(model)
        given = {"attacks": (outside.ATTACK,) if attacks is None else attacks, "defenses": defenses}
        given |= {"protocols": protocols or outside.PROTOCOLS, "test_time": test_time}
        more = {"subset": subset, "seed": seed} | settings
        asked, images, warnings = _asked(given | more, folder, model, chunk)
        done = outside.evaluate(model, images, asked, Path(banks).expanduser(), chunk=chunk, warnings=warnings)
        if output:
            outside.write(done, Path(output).expanduser())
        return done.records
    if model.input_defense is not None or model.test_time is not None:
        raise ConfigError(
            "the model has a defense of its own, and an evaluation names each: load it without, and give "
            "evaluate(..., defenses=[...], test_time=[...])"
        )
    if protocols is None:
        protocols = PROTOCOLS[:1] if test_time else PROTOCOLS
    given = {"attacks": (ATTACK,) if attacks is None else attacks, "protocols": protocols, "defenses": defenses}
    more = {"test_time": test_time, "subset": subset, "seed": seed} | settings
    asked, images, warnings = _asked(given | more, folder, model, chunk)
    backbone = model.backbone
    cache = BankCache(root=Path(banks).expanduser(), backbone=backbone, load=lambda: backbone, chunk=chunk)
    prompts = Prompts(model.classifier, model.hand_written, model.saved.templates, model.defended)
    if model.saved.untuned and any(each.before_tuning for each in threats(asked.attacks, asked.protocols)):
        prompts = dataclasses.replace(prompts, untuned=model.saved.untuned())
    facts = dataclasses.replace(_facts(model, asked), dataset=images.dataset, warnings=tuple(warnings))
    records = evaluator.evaluate(prompts, images, cache, asked, facts)
    if output:
        for each in records:
            record.write(each, Path(output).expanduser())
    return records


def _asked(
    given: Mapping[str, Any], folder: str | Path, model: Model | OutsideModel, chunk: int
) -> tuple[EvalSettings, ImageSet, list[str]]:
    """Settings, images of the folder, and what is odd about these."""
    if chunk < 1:
        raise ConfigError(f"evaluate: chunk is {chunk}; expected the number of images per forward pass, at least 1")
    asked = eval_settings(given)
    evaluator.check(asked) if isinstance(model, Model) else outside.require(asked)
    return asked, *read_folder(Path(folder).expanduser(), model)


def eval_settings(given: Mapping[str, Any]) -> EvalSettings:
    """Settings of ``EVAL`` by field. Raises ConfigError."""
    leaves = {leaf.field: f"{EvalSettings.node}.{leaf.name}" for leaf in EvalSettings.declared()}
    leaves = {name: leaf for name, leaf in leaves.items() if name not in OF_A_RUN}
    if unknown := sorted(given.keys() - leaves.keys()):
        raise ConfigError(f"evaluate: {unknown_name('argument', unknown[0], [*leaves, 'chunk', 'banks', 'output'])}")
    for name, value in given.items():
        if isinstance(value, str) and name in ("attacks", "protocols", "defenses", "test_time"):
            raise ConfigError(f"evaluate: {name} is {value!r}; give a list, [{value!r}]")
    return EvalSettings.from_flat(
        {leaves[name]: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    )


def _facts(model: Model, asked: EvalSettings) -> RunFacts:
    """What records say of the model: its run's settings, with those of this evaluation."""
    saved = model.saved
    config: dict[str, Json] = {name: value for name, value in saved.settings.items() if not name.startswith("EVAL.")}
    for leaf in EvalSettings.declared():
        value = getattr(asked, leaf.field)
        if not additions.is_as_before(name := f"{EvalSettings.node}.{leaf.name}", value):
            config[name] = list(value) if isinstance(value, tuple) else value
    config = recorded_settings(config)
    shots, run_seed = saved.settings.get("DATASET.NUM_SHOTS", -1), saved.about.get("seed", 0)
    loaded = exchange.origin(saved.about)
    return RunFacts(
        dataset="",
        trainer=saved.trainer or "ZeroshotCLIP",
        seed=run_seed if isinstance(run_seed, int) else 0,
        shots=shots if isinstance(shots, int) else -1,
        config=config,
        config_digest=digest(config),
        prompt=model.classifier.digest,
        comparable=None,
        training=TrainingFacts(loaded=loaded or None),
    )


def title_of(folder: Path) -> str:
    """The name of the data set in a folder of class folders: of ``pets/test`` it is ``pets``."""
    place = folder.expanduser().resolve()
    name = (place.parent if place.name in PARTS else place).name
    return re.sub(r"[^\w .@+-]", "-", name).strip(" .") or "images"


def read_folder(folder: Path, model: Model | OutsideModel) -> tuple[ImageSet, list[str]]:
    """The images of ``<folder>/<class>/<image>``, with the model's preprocessing, and what is odd about the folder. The
    classes of a model that names none are the folders, in the order of their names. Errors as :func:`evaluate`."""
    names = listing.folders(folder)
    classnames = tuple(names) if model.classnames is None else model.classnames
    labels = {name.replace("_", " "): label for label, name in enumerate(classnames)}
    if unknown := [name for name in names if name.replace("_", " ") not in labels]:
        raise DataError(
            f"{folder} has folders that are no class of the model: {listing.some(unknown)}; expected <class>/<image> "
            f"with classes {listing.some(list(classnames))}"
        )
    scans, place = {name: listing.scan(folder / name) for name in names}, folder.resolve()
    samples = tuple(
        Sample(f"{place.name}/{name}/{image}", str(folder / name / image), labels[name.replace("_", " ")])
        for name, scan in scans.items()
        for image in scan.images
    )
    if not samples:
        raise DataError(f"no images in {folder}; expected <class>/<image>, one folder for each class")
    part = place.name if place.name in PARTS else "test"
    images = ImageSet(title_of(folder), part, samples, classnames, model.preprocessing)
    return images, listing.doubts("", scans, listing.images(folder))
