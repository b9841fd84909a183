"""Image towers that were tuned here, as files: the tensors of ``visual`` by their bare names as safetensors, and in the
metadata, as JSON, what they were made from and by what. ``MODEL.IMAGE_WEIGHTS`` loads them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors.torch import save_file
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.checkpoints import open_safetensors, unreadable
from advpt.errors import WeightsError
from advpt.files import atomic_path
from advpt.schema import FieldError, Json, from_json, to_json

FILE = "tower.safetensors"  # in the folder of the model of a run
METADATA, FORMAT = "advpt", 1


@dataclass(frozen=True, kw_only=True)
class Base:
    """The CLIP that a tower was tuned from, and that it stands in: its name, SHA-256 of its image tower before tuning
    and of its text tower."""

    name: str
    image: str
    text: str

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        """That of a backbone before tuning."""
        return cls(name=backbone.name, image=backbone.image_digest, text=backbone.text_digest)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is known of a tuned tower.

    Args:
        image: SHA-256 of the tower, as records have it. activation: of its CLIP's blocks.
        mean, std: of each channel of the pixels in [0, 1] that it reads. size: height and width of its images.
        trainer, dataset, shots, seed: of the run. epoch: after which it was taken.
        training: facts of the training as records have them, the attack among them.
    """

    format: int = FORMAT
    base: Base
    image: str
    activation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: tuple[int, int]
    trainer: str
    dataset: str
    shots: int
    seed: int
    epoch: int
    training: Mapping[str, Json] = dataclasses.field(default_factory=dict)


def activation_of(backbone: Backbone) -> str:
    """The activation that the towers of a CLIP have; a ResNet has its text tower's alone."""
    return backbone.card.image.activation or backbone.card.text.activation


def write(path: Path, tensors: Mapping[str, Tensor], provenance: Provenance) -> None:
    """Write a tower whole or not at all: ``tensors`` by their names within ``visual``."""
    made = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    about = json.dumps(to_json(provenance), sort_keys=True)
    with atomic_path(path) as partial:
        save_file(made, partial, metadata={METADATA: about})


def read_provenance(path: Path) -> Provenance | None:
    """What the metadata of a tower's file say; None for files of others, which are no safetensors or do not say.

    Raises:
        WeightsError: a damaged file, or one of another format.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with open_safetensors(path) as file:
            text = (file.metadata() or {}).get(METADATA)
        about = None if text is None else json.loads(text)
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise unreadable(path, "an image tower", error) from error
    if about is None:
        return None
    if isinstance(about, dict) and about.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is a tower of format {about.get('format')}, this version reads {FORMAT}; use the version that "
            "wrote it, or a newer one"
        )
    try:
        return from_json(Provenance, about)
    except FieldError as error:
        raise WeightsError(f"{path} does not say what it was tuned from: {error}; write it again") from error
