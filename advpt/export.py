"""A tuned model for other programs: text features with their scale, or the whole from pixels to logits as ONNX."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from advpt.backbones import extras
from advpt.errors import ConfigError, WeightsError
from advpt.files import atomic_path
from advpt.model import Model
from advpt.prompts.conditional import ConditionalClassifier
from advpt.prompts.linear import LinearClassifier
from advpt.schema import JsonObject
from advpt.version import __version__

FORMAT = 1
METADATA = "advpt"  # the key of our JSON in the metadata of both kinds of file
OPSET = 18
CHECKED = (1, 4)  # sizes of the batches that are compared
LOGITS_WITHIN, FEATURES_WITHIN = 1e-3, 1e-5  # absolute, and relative to the largest number
FLAGS = {"safetensors": "text features", "onnx": "pixels to logits"}


class Exported(nn.Module):
    """Pixels ``[b, 3, h, w]`` in [0, 1] to logits ``[b, K]`` and embeddings ``[b, L]`` of unit length, by operations
    that every runtime has."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.embed(pixels)
        return self.model.classifier.logits(features), nn.functional.normalize(features, dim=-1)


def facts(model: Model) -> JsonObject:
    """Where an exported model comes from and what it needs, as JSON values."""
    backbone, saved, image = model.backbone, model.saved, model.backbone.card.image
    return {
        "format": FORMAT,
        "advpt": __version__,
        "trainer": saved.trainer or "ZeroshotCLIP",
        "classnames": list(model.classnames),
        "templates": list(saved.templates),
        "prompt": model.classifier.digest,
        "backbone": {"name": backbone.name, "image": backbone.image_digest, "text": backbone.text_digest},
        "preprocessing": {
            "size": list(model.preprocessing.size),
            "interpolation": model.preprocessing.interpolation,
            "resize": model.preprocessing.resize,
            "mean": list(image.mean),
            "std": list(image.std),
        },
        "logit_bias": backbone.logit_bias,
    }


def require_plain(model: Model, kind: str) -> None:
    """Refuse what a file cannot hold. Raises ConfigError."""
    if model.input_defense is not None or model.test_time is not None:
        raise ConfigError("a model behind a defense cannot be exported; load it without")
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
    """Write ``text_features [K, L]`` float32 of unit length and ``logit_scale``, with class names and provenance as
    JSON in the metadata. (Of a linear probe: ``weight [K, L]`` and ``bias [K]``, for embeddings as they are.)

    Returns:
        The provenance.

    Raises:
        ConfigError: a model that text features alone do not make.
    """
    require_plain(model, "safetensors")
    about, classifier = facts(model), model.classifier
    if isinstance(classifier, LinearClassifier):
        tensors = {"weight": classifier.features, "bias": classifier.bias}
    else:
        tensors = {"text_features": classifier.features, "logit_scale": torch.tensor(classifier.scale)}
    with atomic_path(path) as partial:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, {METADATA: json.dumps(about)}
        )
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
        ConfigError: a model that a file cannot hold. WeightsError: a package is not installed, or the numbers differ.
    """
    require_plain(model, "onnx")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        extras.need(package, "an export to ONNX")
    model = model.cpu()
    size = model.backbone.card.image.size
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with atomic_path(path) as partial:
        write_onnx(Exported(model).eval(), pixels, partial, facts(model))
        difference = compare(model, partial)
        if not difference.is_small:
            raise WeightsError(
                f"the ONNX model differs from ours by {difference.logits:.2g} in a logit (at most {LOGITS_WITHIN:g} is "
                f"expected) and {difference.features:.2g} of the embeddings (at most {FEATURES_WITHIN:g}); nothing was "
                "written. Try other versions of onnx and onnxruntime"
            )
    return difference


def write_onnx(module: nn.Module, pixels: Tensor, path: Path, about: JsonObject) -> None:
    """Trace a module and write it, one file with all weights."""
    import onnx

    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        module,
        (pixels,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["pixels"],
        output_names=["logits", "features"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    made = program.model_proto
    entry = made.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(about)
    onnx.save(made, str(path))


@torch.no_grad()
def compare(model: Model, path: Path) -> Difference:
    """The largest differences on random pixels, in batches of several sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = features = 0.0
    for b in CHECKED:
        generator = torch.Generator().manual_seed(b)
        pixels = torch.rand(b, 3, *model.backbone.card.image.size, generator=generator)
        theirs = [torch.from_numpy(each) for each in session.run(["logits", "features"], {"pixels": pixels.numpy()})]
        ours = Exported(model)(pixels)
        logits = max(logits, float((theirs[0] - ours[0]).abs().max()))
        features = max(features, float((theirs[1] - ours[1]).abs().max() / ours[1].abs().max()))
    return Difference(logits, features)
