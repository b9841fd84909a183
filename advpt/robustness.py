"""Attack and evaluate a model object: ``advpt.attack`` and ``advpt.evaluate``."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor, nn

from advpt.attacks import parse
from advpt.attacks.noise import SampleNoise
from advpt.bank.cache import BankCache
from advpt.data import listing
from advpt.data.images import ImageSet, Sample
from advpt.errors import AttackError, ConfigError, DataError
from advpt.evaluation import evaluator, record
from advpt.evaluation.measure import Prompts
from advpt.evaluation.record import Record, RunFacts
from advpt.files import digest
from advpt.model import Model
from advpt.settings import EvalSettings


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
            on embeddings (``pgd40-fkl@4``) needs a model with ``embed(pixels) -> [b, L]``, such as ours.
        pixels: ``[b, 3, h, w]`` float32 in [0, 1]. labels: ``[b]`` int64; no attack on embeddings reads them.
        seed: of what the attack draws. keys: a name for each image; its draws depend on its name and the seed alone.
            None: the names are places in the batch, "0", "1", ...; give others where a list is attacked in parts.

    Raises:
        ConfigError: no such attack, or one that goes through no model. AttackError: pixels or labels of another kind.
    """
    built = parse(text).build()
    if built.source_model != "encoder":
        raise ConfigError(
            f"attack {text!r} goes through no model of yours ({built.summary}); use for instance pgd40-ce@4"
        )
    if pixels.dim() != 4 or labels.shape != pixels.shape[:1] or labels.is_floating_point():
        raise AttackError(
            f"expected pixels [b, 3, h, w] and as many whole labels [b]; got {list(pixels.shape)} and {labels.dtype} "
            f"{list(labels.shape)}"
        )
    forward: Callable[[Tensor], Tensor] = model
    if built.objective.space == "embedding":
        embed = getattr(model, "embed", None)
        if not callable(embed):
            raise AttackError(
                f"attack {text!r} looks at embeddings, and the model has no method embed(pixels); attack its logits, "
                "for instance with pgd40-ce@4"
            )
        forward = embed
    names = [str(place) for place in range(len(pixels))] if keys is None else list(keys)
    if len(names) != len(pixels):
        raise AttackError(f"got {len(names)} keys for {len(pixels)} images; give a name for each")
    noise = SampleNoise(names, seed)
    with frozen(model):
        return built(forward, pixels, labels.long(), noise).images


@contextlib.contextmanager
def frozen(model: object) -> Iterator[None]:
    """A module in evaluation mode with parameters that take no gradient; as before afterwards."""
    if not isinstance(model, nn.Module):
        yield
        return
    training = {module: module.training for module in model.modules()}
    wanted = {weight: weight.requires_grad for weight in model.parameters()}
    try:
        model.eval()
        for weight in wanted:
            weight.requires_grad_(False)
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for weight, value in wanted.items():
            weight.requires_grad_(value)


def evaluate(
    model: Model,
    folder: str | Path,
    *,
    attacks: Sequence[str] = ("pgd40-fkl@16",),
    protocols: Sequence[str] = ("transfer", "adaptive"),
    defenses: Sequence[str] = (),
    test_time: Sequence[str] = (),
    subset: int = 0,
    seed: int = 0,
    banks: str | Path = "banks",
    output: str | Path = "",
) -> list[Record]:
    """Clean and robust accuracy on one's own labelled images: the records that ``train.py`` makes.

    Args:
        folder: ``<folder>/<class>/<image>``; class folders have the names of ``model.classnames``.
        attacks, protocols, defenses, test_time: as the settings of the same names below ``EVAL``.
        subset: images, a fixed class-balanced choice; 0 for all. seed: of attacks and defenses.
        banks: folder of the banks that attacked images are embedded in; what is there is not made again.
        output: folder that gets the records as files; "" for none.

    Raises:
        ConfigError: unknown attacks, protocols or defenses, or a model that has a defense of its own. DataError: other
            folders than the classes, or no image.
    """
    if not isinstance(model, Model):
        raise ConfigError(
            f"evaluate takes models of advpt.load and advpt.zero_shot, got {type(model).__name__}; attack another one "
            "with advpt.attack"
        )
    if model.input_defense is not None or model.test_time is not None:
        raise ConfigError(
            "the model has a defense of its own, and an evaluation names each: load it without, and give "
            "evaluate(..., defenses=[...], test_time=[...])"
        )
    settings = dataclasses.replace(
        EvalSettings(),
        attacks=tuple(attacks),
        protocols=tuple(protocols),
        defenses=tuple(defenses),
        test_time=tuple(test_time),
        subset=subset,
        seed=seed,
    )
    evaluator.check(settings)
    images = read_folder(Path(folder).expanduser(), model)
    backbone = model.backbone
    cache = BankCache(root=Path(banks).expanduser(), backbone=backbone, load=lambda: backbone)
    prompts = Prompts(model.classifier, model.hand_written, model.saved.templates, model.defended)
    config = {f"EVAL.{name.upper()}": list(getattr(settings, name)) for name in ("attacks", "protocols", "defenses")}
    facts = RunFacts(
        dataset=images.dataset,
        trainer=model.saved.trainer or "ZeroshotCLIP",
        seed=seed,
        config=config,
        config_digest=digest(config),
        prompt=model.classifier.digest,
        comparable=None,
    )
    records = evaluator.evaluate(prompts, images, cache, settings, facts)
    if output:
        for each in records:
            record.write(each, Path(output).expanduser())
    return records


def read_folder(folder: Path, model: Model) -> ImageSet:
    """The images of ``<folder>/<class>/<image>``, with the model's preprocessing. Errors as :func:`evaluate`."""
    labels = {name.replace("_", " "): label for label, name in enumerate(model.classnames)}
    names = listing.folders(folder)
    if unknown := [name for name in names if name.replace("_", " ") not in labels]:
        raise DataError(
            f"{folder} has folders that are no class of the model: {listing.some(unknown)}; expected <class>/<image> "
            f"with classes {listing.some(list(model.classnames))}"
        )
    samples = [
        Sample(f"{name}/{image}", str(folder / name / image), labels[name.replace("_", " ")])
        for name in names
        for image in listing.scan(folder / name).images
    ]
    if not samples:
        raise DataError(f"no images in {folder}; expected <class>/<image>, one folder for each class")
    title = folder.resolve().name
    return ImageSet(title, "test", tuple(samples), model.classnames, model.preprocessing)
