"""A tuned model for other programs: text features with their scale, or the whole from pixels to logits as ONNX."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from advpt.backbones import extras, tuned_tower
from advpt.errors import ConfigError, WeightsError, first_words
from advpt.evaluation.saved_run import IMAGE_ENCODER
from advpt.files import atomic_path
from advpt.model import Model
from advpt.prompts.conditional import ConditionalClassifier
from advpt.prompts.image_encoder import with_visual_prompts
from advpt.prompts.linear import LinearClassifier
from advpt.schema import Json, JsonObject
from advpt.version import __version__

FORMAT = 1
METADATA = "advpt"  # the key of our JSON in the metadata of both kinds of file
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
CHECKED = (1, 3)  # sizes of the batches that are compared
LOGITS_WITHIN, FEATURES_WITHIN = 1e-3, 1e-5  # absolute, and relative to the largest number
MOST_BYTES = 2**31 - 2**24  # of weights in one ONNX file: 2 GB, less what the graph takes
ORIGIN = ("trainer", "dataset", "data", "seed", "training")  # of what stands beside a checkpoint


class Exported(nn.Module):
    """Pixels ``[b, 3, h, w]`` in [0, 1] to logits ``[b, K]`` and embeddings ``[b, L]`` of unit length, without what
    made the text features."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.image, self.classifier = model.image, model.classifier

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = with_visual_prompts(self.image, self.classifier.visual)(pixels)
        return self.classifier.logits(embeddings), F.normalize(embeddings, dim=-1)


def facts(model: Model) -> JsonObject:
    """Where an exported model comes from and what it needs, as JSON values."""
    backbone, saved, image = model.backbone, model.saved, model.backbone.card.image
    return {
        "format": FORMAT,
        "advpt": __version__,
        **{name: saved.about[name] for name in ORIGIN if name in saved.about},
        "trainer": saved.trainer or "ZeroshotCLIP",
        "classnames": list(model.classnames),
        "templates": list(saved.templates),
        "prompt": model.classifier.digest,
        "backbone": {
            "name": backbone.name,
            "image": backbone.image_digest,
            "text": backbone.text_digest,
            "activation": tuned_tower.activation_of(backbone),
            "source": dict(backbone.source) if backbone.source else None,
        },
        "image_tower": image_tower(model),
        "preprocessing": {
            "size": list(model.preprocessing.size),
            "interpolation": model.preprocessing.interpolation,
            "resize": model.preprocessing.resize,
            "mean": list(image.mean),
            "std": list(image.std),
        },
        "logit_bias": backbone.logit_bias,
    }


def image_tower(model: Model) -> Json:
    """The image tower that a model needs where it is not its CLIP's own: a file of its tensors ("" where there is none
    that has them), and what is known of it. None where it is its CLIP's own."""
    source = model.saved.source
    if source is not None and source.parent.name == IMAGE_ENCODER:
        file = source.parent / tuned_tower.FILE
        known = tuned_tower.read_provenance(file) if file.is_file() else None
        of_this_epoch = known is not None and known.image == model.backbone.image_digest
        return {"file": f"{IMAGE_ENCODER}/{tuned_tower.FILE}" if of_this_epoch else "", "trainer": model.saved.trainer}
    return dict(model.backbone.image_file) if model.backbone.image_file else None


def require_plain(model: Model, kind: str) -> None:
    """Refuse what a file cannot hold. Raises ConfigError."""
    if model.input_defense is not None or model.test_time is not None:
        raise ConfigError(
            "the model has a defense, which no file of this kind can hold: load it without defense and test_time, "
            "and apply the defense before and behind the exported one"
        )
    if isinstance(model.classifier, ConditionalClassifier):
        raise ConfigError(
            "the prompts of this model change with every image (CoCoOp): its text features are no fixed numbers, and "
            "no file of this kind can hold it; use it from Python with advpt.load"
        )
    if kind == "safetensors" and model.classifier.visual is not None:
        raise ConfigError(
            "this model has prompts among the tokens of the image, which other programs have no place for: text "
            "features alone are not the model. Use --to onnx"
        )


def to_safetensors(model: Model, path: Path) -> JsonObject:
    """Write ``text_features [K, L]`` float32 of unit length, ``logit_scale`` and, of a SigLIP, ``logit_bias``, with
    class names and provenance as JSON in the metadata. Of a linear probe: ``weight [K, L]`` and ``bias [K]``, for
    embeddings as they are.

    Returns:
        The provenance.

    Raises:
        ConfigError: a model that text features alone do not make. StorageError: the file cannot be written.
    """
    require_plain(model, "safetensors")
    about, classifier, bias = facts(model), model.classifier, model.backbone.logit_bias
    if isinstance(classifier, LinearClassifier):
        tensors = {"weight": classifier.features, "bias": classifier.bias}
    else:
        tensors = {"text_features": classifier.features, "logit_scale": torch.tensor(classifier.scale)}
        if bias is not None:
            tensors["logit_bias"] = torch.tensor(bias)
    made = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as partial:
        save_file(made, partial, {METADATA: json.dumps(about)})
    return about


@dataclass(frozen=True)
class Difference:
    """By how much an ONNX model differs from ours on the same pixels: logits absolutely, embeddings relatively."""

    logits: float
    features: float

    @property
    def is_small(self) -> bool:
        return self.logits <= LOGITS_WITHIN and self.features <= FEATURES_WITHIN


def to_onnx(model: Model, path: Path) -> Difference:
    """Write the model from ``pixels [b, 3, h, w]`` in [0, 1] to ``logits [b, K]`` and ``features [b, L]`` (image
    embeddings of unit length), any b, and compare it with ours by onnxruntime before the file gets its name.

    Raises:
        ConfigError: a model that a file cannot hold. WeightsError: a package is not installed, the model has operations
            that ONNX lacks, or the numbers differ. StorageError: the file cannot be written.
    """
    require_plain(model, "onnx")
    for package in PACKAGES:
        extras.need(package, "an export to ONNX")
    with _on_the_cpu(model):
        module = Exported(model).eval()
        if (size := sum(each.numel() * each.element_size() for each in module.state_dict().values())) > MOST_BYTES:
            raise ConfigError(
                f"the image encoder of {model.backbone.name} has {size / 1e9:.1f} GB, and an ONNX file holds at most 2 "
                "GB; use --to safetensors, or the model from Python with advpt.load"
            )
        with atomic_path(path) as partial:
            write_onnx(module, _pixels(model, 2), partial, facts(model))
            difference = compare(model, partial)
            if not difference.is_small:
                raise WeightsError(
                    f"the ONNX model differs from ours by {difference.logits:.2g} in a logit (at most "
                    f"{LOGITS_WITHIN:g} is expected) and {difference.features:.2g} of the embeddings (at most "
                    f"{FEATURES_WITHIN:g}); nothing was written. Try other versions of {', '.join(PACKAGES)}"
                )
    return difference


def write_onnx(module: nn.Module, pixels: Tensor, path: Path, about: JsonObject) -> None:
    """Trace a module and write it, one file with all weights. Raises WeightsError where it cannot be traced."""
    import onnx

    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (pixels,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=["logits", "features"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        raise WeightsError(
            f"the model cannot be written as ONNX: {first_words(error)}. Try other versions of torch (2.7 or newer) "
            "and onnxscript"
        ) from error
    made: Any = program.model_proto if program is not None else None
    entry = made.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(about)
    onnx.save(made, str(path))


@torch.no_grad()
def compare(model: Model, path: Path) -> Difference:
    """The largest differences on generated pixels, in batches of several sizes; NaN where one of both has it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    exported, logits, features = Exported(model).eval(), torch.zeros(()), torch.zeros(())
    for b in CHECKED:
        pixels = _pixels(model, b)
        theirs = [torch.from_numpy(each) for each in session.run(["logits", "features"], {"pixels": pixels.numpy()})]
        ours = exported(pixels)
        if [each.shape for each in theirs] != [each.shape for each in ours]:
            return Difference(float("nan"), float("nan"))
        logits = torch.maximum(logits, (theirs[0] - ours[0]).abs().max())  # of NaN: NaN
        features = torch.maximum(features, (theirs[1] - ours[1]).abs().max() / ours[1].abs().max())
    return Difference(float(logits), float(features))


def _pixels(model: Model, b: int) -> Tensor:
    """``[b, 3, h, w]`` in [0, 1]: noise and, in turn, smooth pictures."""
    draws, size = torch.Generator().manual_seed(b), model.backbone.card.image.size
    noise, small = torch.rand(b, 3, *size, generator=draws), torch.rand(b, 3, 5, 5, generator=draws)
    smooth = F.interpolate(small, size, mode="bilinear", align_corners=True)
    return torch.where((torch.arange(b) % 2 == 0)[:, None, None, None], smooth, noise)


@contextlib.contextmanager
def _on_the_cpu(model: Model) -> Iterator[None]:
    """Within the block the model is on the CPU."""
    before = model.device
    model.to("cpu")
    try:
        yield
    finally:
        model.to(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block the exporter's warnings and log lines, which are for its developers, are not shown."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels):
            each.setLevel(level)
