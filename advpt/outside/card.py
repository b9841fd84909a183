"""What is known of an outside model, beside its records: ``outside_model.json``, and the same to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt.data.images import ImageSet
from advpt.errors import RecordError
from advpt.evaluation.record import Record, observe
from advpt.files import read_object, write_json, write_text
from advpt.outside.identity import COVERS
from advpt.outside.model import ITSELF, VARIANT, OutsideModel
from advpt.outside.rules import RANGE_IMAGES, Checked, Rule
from advpt.schema import FieldError, Json, JsonObject, from_json, to_json

FILE, TEXT = "outside_model.json", "outside_model.md"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A model that keeps the rules.

    Args:
        digest: of the model, and ``identity`` what it is made of; ``covers`` says what that is.
        classes: in the order of the logits. preprocessing: of its images.
        gradients: by name of what an attacker can differentiate, the mean size of an image's gradient at its pixels;
            ``without`` those that have none, and why.
        undefended: whether it has a defense that can be left out.
        seed: of its draws. logits: what it gives, in words.
        rules: what was tried. images: those of the records.
        evaluation: digest of the settings. records: ids, sorted. versions: of what computed.
    """

    name: str
    source: str
    digest: str
    identity: Mapping[str, Json]
    covers: str
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Json]
    gradients: Mapping[str, float]
    without: Mapping[str, str]
    undefended: bool
    seed: int | None
    logits: str
    rules: tuple[Rule, ...]
    images: Mapping[str, Json]
    evaluation: str
    records: tuple[str, ...]
    versions: Mapping[str, str]

    def to_json(self) -> Json:
        return to_json(self)

    def text(self) -> str:
        """The card in Markdown."""
        height, width = self.preprocessing["size"]
        pixels = f"{height} x {width}, {self.preprocessing['interpolation']}, {self.preprocessing['resize']}, in [0, 1]"
        about = {
            "named": f"`{self.source}`" if self.source else "",
            "digest": f"`{self.digest}`",
            "covers": self.covers,
            "classes": f"{len(self.classes)}: {', '.join(self.classes[:5])}{', ...' if len(self.classes) > 5 else ''}",
            "pixels": pixels,
            "gives": self.logits,
            "draws": "nothing" if self.seed is None else f"by each image's pixels and seed {self.seed}, as it says",
            "its own defense": "can be left out" if self.undefended else "none, or none that can be left out",
            "modules": "in evaluation mode, their weights without gradients",
            "with": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        }
        sizes = {name: f"{size:.3g}" for name, size in self.gradients.items()}
        sizes |= {name: f"none: {why}" for name, why in self.without.items()}
        parts = [
            f"# {self.name}",
            "A model from outside of this library, measured by it.",
            _table(("", ""), [(name, value) for name, value in about.items() if value]),
            _table(("an attacker can differentiate", "size of an image's gradient"), list(sizes.items())),
            f"Rules, tried on at most {RANGE_IMAGES} images:",
            _table(("rule", "must hold", "measured"), [(each.name, each.text, each.measured) for each in self.rules]),
        ]
        return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines)


def of(
    model: OutsideModel, images: ImageSet, checked: Checked, last: Rule, evaluation: str, made: Sequence[Record]
) -> Card:
    """The card of a model on the images that it was evaluated on. ``last``: the rule that was tried afterwards;
    ``evaluation``: digest of the settings; ``made``: the records."""
    pixels = images.preprocessing
    alone = Rule("pixels alone", "it is called with pixels, never with labels", "its signature")
    outputs = Rule(
        "logits",
        f"finite numbers [b, {len(images.classnames)}], not probabilities; pixels that it is given stay as they are",
        "log-probabilities" if checked.log_probabilities else "logits",
    )
    draws = Rule(
        "seed",
        "what is drawn has a stated seed",
        "none stated, none drawn" if model.seed is None else f"seed {model.seed}",
    )
    return Card(
        name=model.name,
        source=model.source,
        digest=model.digest,
        identity=model.facts,
        covers=COVERS,
        classes=images.classnames,
        preprocessing={"size": list(pixels.size), "interpolation": pixels.interpolation, "resize": pixels.resize},
        gradients={_title(name): size for name, size in checked.gradients.items()},
        without={_title(name): why for name, why in checked.without.items()},
        undefended=model.undefended is not None,
        seed=model.seed,
        logits="log-probabilities" if checked.log_probabilities else "logits",
        rules=(alone, outputs, draws, *checked.rules, Rule("at the end", last.text, last.measured)),
        images=images_of(images),
        evaluation=evaluation,
        records=tuple(sorted(each.id for each in made)),
        versions={**(observe(0.0, model.device).versions or {}), "device": str(model.device)},
    )


def images_of(images: ImageSet) -> JsonObject:
    """Which images these are."""
    return {"dataset": images.dataset, "split": images.split, "n": len(images), "digest": images.list_digest}


def _title(name: str) -> str:
    return {"": ITSELF, "undefended": "the model without its defense"}.get(name, name.removeprefix(VARIANT))


def write(card: Card, folder: Path) -> None:
    """Write both files; the JSON comes last."""
    write_text(folder / TEXT, card.text())
    write_json(folder / FILE, card.to_json())


def read(folder: Path) -> Card:
    """The card in a folder. Raises RecordError where there is none, or none that is sound."""
    path = folder / FILE
    try:
        return from_json(Card, read_object(path, RecordError))
    except FieldError as error:
        raise RecordError(f"{path} is not a sound card: {error}; evaluate the model again") from None
