"""Folders of runs as they are left, written by hand, and model objects of small CLIPs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from advpt.backbones.backbone import Backbone
from advpt.data.images import Preprocessing
from advpt.data.rendered import DIGIT_NAMES
from advpt.evaluation.saved_run import SavedModel
from advpt.model import Model
from advpt.prompts.classifier import Classifier, from_templates

NAMES = ("cat", "owl", "sea")
TEMPLATE = "a photo of a {}."


def zero_shot_run(
    folder: Path, backbone: str = "DemoCLIP", classnames: Sequence[str] = DIGIT_NAMES, **config: str
) -> Path:
    """A run of zero-shot CLIP on digits. ``config``: settings of MODEL, for instance ``WEIGHTS="FILE"``."""
    about = {
        "trainer": "ZeroshotCLIP",
        "dataset": "Digits",
        "seed": 1,
        "classnames": list(classnames),
        "templates": ["a photo of the digit {}."],
        "backbone": {"name": backbone},
    }
    (folder / "zero_shot").mkdir(parents=True)
    (folder / "zero_shot" / "prompt.json").write_text(json.dumps(about))
    if config:
        settings = {"MODEL.BACKBONE.NAME": backbone} | {f"MODEL.{name}": value for name, value in config.items()}
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def model_of(
    backbone: Backbone,
    classifier: Classifier | None = None,
    names: Sequence[str] = NAMES,
    *,
    trainer: str = "",
    source: Path | None = None,
    **behind: str,
) -> Model:
    """The model object of a CLIP with a prompt, by default the hand-written one; ``behind``: its defenses."""
    hand_written = from_templates(backbone.text, names, [TEMPLATE], backbone.logit_scale)
    image = backbone.card.image
    pixels = Preprocessing(image.size, image.interpolation, image.resize)
    saved = SavedModel(
        backbone, classifier or hand_written, tuple(names), hand_written, (TEMPLATE,), pixels,
        trainer=trainer, source=source,
    )  # fmt: skip
    return Model(saved, **behind)


def write_pictures(folder: Path, n: int, side: int = 24, seed: int = 0, name: str = "{:04d}.png") -> list[Path]:
    """So many pictures of noise on a coloured ground."""
    draws = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name.format(i) for i in range(n)]
    for path in paths:
        pixels = draws.integers(0, 100, (side, side + 4, 3)) + draws.integers(0, 155, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return paths
