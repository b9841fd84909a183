"""A run's folder as a model: backbone and classifier, without the trainer that made it and without Dassl.
``prompt.json`` beside a checkpoint says what was tuned, on which classes and which CLIP."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from advpt import additions
from advpt.backbones.backbone import Backbone
from advpt.backbones.load import load_backbone
from advpt.backbones.names import parse, parse_tower
from advpt.backbones.text_encoder import TextEncoder
from advpt.checkpoints import load_checkpoint
from advpt.data import listing
from advpt.data.images import Preprocessing
from advpt.errors import RecordError, WeightsError
from advpt.evaluation import run_folder
from advpt.files import read_object
from advpt.prompts import exchange
from advpt.prompts.classifier import Classifier, from_templates
from advpt.prompts.conditional import ConditionalLearner
from advpt.prompts.image_encoder import with_visual_prompts
from advpt.prompts.learner import PromptLearner, prompt_tensors
from advpt.schema import Json
from advpt.settings import BackboneSettings, ContextSettings
from advpt.tuning import linear_probe

IMAGE_ENCODER, ZERO_SHOT = "image_encoder", "zero_shot"  # folders of models that are no prompts


@dataclass(frozen=True, eq=False)
class SavedModel:
    """What a run tuned: its CLIP (with the run's image encoder where that was trained), classifier and classes.

    Args:
        zero_shot, templates: the hand-written prompt of the run, and its text.
        learner: its prompts, None where it has none.
        preprocessing: what its test images went through.
        trainer, source: its method, and the file that all this is from.
        about: what stands beside that file. settings: the run's configuration by dotted name, as far as it is known.
        untuned: gives the CLIP as it was before the run trained its image tower; None where it did not.
    """

    backbone: Backbone
    classifier: Classifier
    classnames: tuple[str, ...]
    zero_shot: Classifier
    templates: tuple[str, ...]
    preprocessing: Preprocessing
    learner: PromptLearner | None = None
    trainer: str = ""
    source: Path | None = None
    about: Mapping[str, Json] = field(default_factory=dict)
    settings: Mapping[str, Json] = field(default_factory=dict)
    untuned: Callable[[], Backbone] | None = None

    def logits(self, pixels: Tensor) -> Tensor:
        """``[b, K]`` of ``pixels [b, 3, h, w]`` in [0, 1]."""
        return self.classifier.logits(self._embed(pixels))

    def probabilities(self, pixels: Tensor) -> Tensor:
        """``[b, K]``, as the backbone was trained to give them: in a row they sum to 1, but for a SigLIP."""
        return self.classifier.probabilities(self._embed(pixels), self.backbone.logit_bias)

    def _embed(self, pixels: Tensor) -> Tensor:
        return with_visual_prompts(self.backbone.require_image(), self.classifier.visual)(pixels)


def load_run(
    folder: Path,
    *,
    weights: str = "",
    image_weights: str = "",
    epoch: int | None = None,
    device: torch.device | str = "cpu",
) -> SavedModel:
    """The model in a run's folder; WeightsError or PromptError where that holds no sound one.

    Args:
        weights, image_weights: files of CLIP and of the robust image tower in it, where they are not at the places that
            the folder names.
        epoch: of the checkpoint; None: the best, or the last one written.
    """
    place = next((p for p in (exchange.FOLDER, IMAGE_ENCODER) if (folder / p).is_dir()), "")
    probe, prompt = folder / linear_probe.FILE, folder / ZERO_SHOT / exchange.ABOUT
    path = exchange.checkpoint_file(folder / place, epoch) if place else probe if probe.is_file() else prompt
    about = exchange.about(path)
    if not path.is_file() or "classnames" not in about:
        raise WeightsError(f"{folder} holds no model with its description{_instead(folder)}")
    clip = _backbone_settings(folder, about, weights, image_weights)
    backbone = load_backbone(clip, device)
    trained_on = ("image",) if path == probe else ("text",) if place == IMAGE_ENCODER else ("text", "image")
    exchange.require_towers(about, str(path), backbone, trained_on)
    encoder, names, templates = backbone.text, tuple(about["classnames"]), tuple(about["templates"])
    zero_shot = from_templates(encoder, names, templates, backbone.logit_scale)
    classifier, learner = zero_shot, None
    if path == probe:
        classifier = linear_probe.load(path, len(names), backbone.card.embed_dim).classifier(backbone.device)
    elif place == exchange.FOLDER:
        learner = _learner(path, about, names, encoder, backbone)
        classifier = learner.classifier(encoder, backbone.logit_scale, zero_shot.features)
    elif place == IMAGE_ENCODER:
        load_image_encoder(path, backbone)
        backbone = backbone.copy()  # whose hash is that of the trained tower
    return SavedModel(
        backbone,
        classifier,
        names,
        zero_shot,
        templates,
        _preprocessing(folder, backbone),
        learner,
        trainer=str(about.get("trainer", "")),
        source=path,
        about=about,
        settings=_settings(folder),
        untuned=functools.partial(load_backbone, clip, device) if place == IMAGE_ENCODER else None,
    )


def _preprocessing(folder: Path, backbone: Backbone) -> Preprocessing:
    """What a run's test images went through; the model's own where its folder keeps no configuration."""
    image, settings = backbone.card.image, _settings(folder)
    size = tuple(settings.get("INPUT.SIZE") or image.size)
    return Preprocessing(
        image.size if size == (0, 0) else (int(size[0]), int(size[1])),
        settings.get("INPUT.INTERPOLATION") or image.interpolation,
        settings.get("INPUT.RESIZE") or image.resize,
    )


def _settings(folder: Path) -> dict[str, Json]:
    """The configuration of a run by dotted name; empty where its folder keeps none."""
    config = folder / run_folder.FILE
    return additions.complete(read_object(config, RecordError)) if config.is_file() else {}


def load_image_encoder(path: Path, backbone: Backbone) -> int | None:
    """Take a trained image encoder of the same CLIP (else WeightsError) from a checkpoint into a backbone. Returns the
    epoch that it was saved after."""
    saved = load_checkpoint(path)
    try:
        backbone.require_image().load_state_dict(saved["state_dict"])
    except (RuntimeError, TypeError, AttributeError) as error:
        first = str(error).splitlines()[0]
        raise WeightsError(f"{path} does not hold the image tower of {backbone.name}: {first}") from error
    return saved.get("epoch")


def _learner(
    path: Path, about: Mapping[str, Json], names: tuple[str, ...], encoder: TextEncoder, backbone: Backbone
) -> PromptLearner:
    state = prompt_tensors(load_checkpoint(path)["state_dict"], str(path))
    conditional = any(name.startswith("meta_net.") for name in state)
    context = ContextSettings(**exchange.tuned_in(about, "prompt"))
    towers = ("text", "image") if conditional else exchange.towers_of(context)
    exchange.require_towers(about, str(path), backbone, towers)
    kind = ConditionalLearner if conditional else PromptLearner
    start = torch.Generator().manual_seed(0)  # of vectors that the checkpoint's replace
    learner = kind(encoder, names, context, start, backbone.card).to(backbone.device)
    learner.load_context(state, str(path))
    return learner


def _backbone_settings(folder: Path, about: Mapping[str, Json], weights: str, image_weights: str) -> BackboneSettings:
    """Which CLIP; a folder of a host that keeps no configuration names it by what stands beside the checkpoint."""
    settings = BackboneSettings.from_flat(
        {"MODEL.BACKBONE.NAME": exchange.tuned_in(about, "backbone")["name"]} | _settings(folder)
    )
    # OpenAI's model code has read the run's weights: that is what a folder that does not name the activation means
    activation = settings.activation or ("" if parse(settings.name) else "quickgelu")
    settings = dataclasses.replace(
        settings,
        weights=weights or settings.weights,
        image_weights=image_weights or settings.image_weights,
        activation=activation,
    )
    files = {"weights": settings.weights}
    if parse_tower(settings.image_weights) is None:
        files["image_weights"] = settings.image_weights
    for name, file in files.items():
        if file and not Path(file).expanduser().exists():
            raise WeightsError(
                f"{folder} was tuned with MODEL.{name.upper()} {file}, and there is no such file now (a relative path "
                f"begins where the run was started); give its place as {name}=FILE"
            )
    return settings


def _instead(folder: Path) -> str:
    """Half a sentence about where a model lies, as far as a folder without one tells."""
    done = folder / run_folder.DONE
    if model := read_object(done, RecordError).get("model") if done.is_file() else "":
        return f"; it is an evaluation of {model}: load that"
    if not folder.is_dir():
        return ": there is no such folder"
    beside = [path for depth in ("*/*", "*/*/*") for path in folder.glob(f"{depth}/{exchange.ABOUT}")]
    runs = sorted({str(path.parents[1].relative_to(folder)) for path in beside})
    return f"; runs below it: {listing.some(runs, 3)}" if runs else ""
