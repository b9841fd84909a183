"""CLIP by name, by file, or DemoCLIP; frozen, float32, in evaluation mode.

Files: OpenAI's TorchScript archives, plain state dicts (``.pt``, ``.pth``) and safetensors. The architecture is read
from the tensors' shapes; weights are hashed tensor by tensor, so the same weights have one hash in every format.

No tensor shows the activation or the number of heads, and CLIPs of other sources have OpenAI's tensor names with other
ones. So a file that is not OpenAI's needs ``MODEL.ACTIVATION``, and the hashes cover the tensors and those settings.
"""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advpt.backbones import democlip
from advpt.backbones.backbone import Backbone
from advpt.backbones.card import GELU, HEAD_WIDTH, QUICKGELU, Card, ImageCard, openai_text
from advpt.backbones.shim import import_clip
from advpt.backbones.undrawn import Undrawn
from advpt.checkpoints import is_torchscript, open_safetensors, read_state_dict, unreadable
from advpt.errors import WeightsError
from advpt.files import file_digest, network_timeout

WIDEST = 1024  # image tower whose published weights have heads of that width
VOCABULARY = democlip.VOCABULARY  # of OpenAI's tokenizer
FILE_LABEL = "CLIP weights"  # what a file is called in messages


@dataclass(frozen=True)
class Architecture:
    """CLIP's size. ``vision_layers`` is four numbers for a ResNet, whose ``patch`` is None."""

    embed_dim: int
    resolution: int
    vision_layers: int | tuple[int, int, int, int]
    vision_width: int
    patch: int | None
    context: int
    vocabulary: int
    text_width: int
    text_layers: int

    def __str__(self) -> str:
        kind = f"patch {self.patch}" if self.patch else "ResNet"
        return (
            f"{kind}, {self.resolution} px, vision {self.vision_layers} x {self.vision_width}, "
            f"text {self.text_layers} x {self.text_width}, embedding {self.embed_dim}"
        )


OFFICIAL = {
    "RN50": Architecture(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 12),
    "RN101": Architecture(512, 224, (3, 4, 23, 3), 64, None, 77, 49408, 512, 12),
    "RN50x4": Architecture(640, 288, (4, 6, 10, 6), 80, None, 77, 49408, 640, 12),
    "RN50x16": Architecture(768, 384, (6, 8, 18, 8), 96, None, 77, 49408, 768, 12),
    "RN50x64": Architecture(1024, 448, (3, 15, 36, 10), 128, None, 77, 49408, 1024, 12),
    "ViT-B/32": Architecture(512, 224, 12, 768, 32, 77, 49408, 512, 12),
    "ViT-B/16": Architecture(512, 224, 12, 768, 16, 77, 49408, 512, 12),
    "ViT-L/14": Architecture(768, 224, 24, 1024, 14, 77, 49408, 768, 12),
    "ViT-L/14@336px": Architecture(768, 336, 24, 1024, 14, 77, 49408, 768, 12),
}
DEMO = {
    democlip.NAME: Architecture(128, 32, 3, 128, 4, 77, 49408, 128, 3),
    democlip.SMALL_NAME: Architecture(64, 32, 2, 64, 4, 77, 49408, 64, 2),
}


def foreign_layout(names: Collection[str]) -> str:
    """The layout of tensors whose names are not OpenAI's, and what to do; "" where they may be OpenAI's."""
    if any(re.match(r"(\w+\.)*(text_model|vision_model)\.", name) for name in names):
        return (
            "these are weights in Hugging Face's layout (text_model..., vision_model...); expected OpenAI's names. "
            "Name their repository, MODEL.BACKBONE.NAME hf-hub:ORG/REPO, or their folder, local-dir:FOLDER; OpenAI's "
            "own are fetched by name, MODEL.BACKBONE.NAME ViT-B/16 for clip-vit-base-patch16"
        )
    if any(name.startswith("visual.trunk.") for name in names):
        return (
            "these are weights of open_clip with an image tower of timm's; expected a CLIP of OpenAI's architecture. "
            "Name theirs: MODEL.BACKBONE.NAME open_clip:ARCHITECTURE MODEL.WEIGHTS FILE"
        )
    wrapped = [name.removesuffix("visual.conv1.weight") for name in names if name.endswith(".visual.conv1.weight")]
    if wrapped and "visual.conv1.weight" not in names:
        return (
            f"these are weights of a module around a CLIP: their names begin with {wrapped[0]!r}. Save the CLIP alone: "
            f"torch.save({{k.removeprefix({wrapped[0]!r}): v for k, v in state.items()}}, FILE)"
        )
    bare = "conv1.weight" in names and not any(name.startswith("visual.") for name in names)
    if bare or (names and all(name.startswith("visual.") for name in names)):
        return (
            "this is an image tower without a text tower; expected a whole CLIP. A robust image tower stands in a CLIP "
            "with MODEL.IMAGE_WEIGHTS FILE in place of MODEL.WEIGHTS"
        )
    return ""


def architecture_of(state: Mapping[str, Tensor]) -> Architecture:
    """The architecture that a CLIP state dict's shapes describe.

    Raises:
        WeightsError: a tensor that every CLIP has is missing; the message names the other layout if it recognises it.
    """
    if reason := foreign_layout(state):
        raise WeightsError(reason)

    def depth(pattern: str) -> int:
        return len({m.group(1) for key in state if (m := re.match(pattern, key))})

    try:
        vision: int | tuple[int, int, int, int]
        patch: int | None
        if "visual.proj" in state:
            width, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
            vision = depth(r"visual\.transformer\.resblocks\.(\d+)\.")
            resolution = patch * round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        else:
            width, patch = state["visual.layer1.0.conv1.weight"].shape[0], None
            one, two, three, four = (depth(rf"visual\.layer{i}\.(\d+)\.") for i in (1, 2, 3, 4))
            vision = (one, two, three, four)
            resolution = 32 * round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
        return Architecture(
            embed_dim=state["text_projection"].shape[1],
            resolution=resolution,
            vision_layers=vision,
            vision_width=width,
            patch=patch,
            context=state["positional_embedding"].shape[0],
            vocabulary=state["token_embedding.weight"].shape[0],
            text_width=state["ln_final.weight"].shape[0],
            text_layers=depth(r"transformer\.resblocks\.(\d+)\."),
        )
    except KeyError as missing:
        # without the first layer of an image tower neither kind of tower is recognisable
        name = missing.args[0] if "visual.conv1.weight" in state else "visual.conv1.weight"
        raise WeightsError(f"these are not CLIP weights: tensor {name!r} is not among the {len(state)}") from None
    except (IndexError, TypeError, ValueError):
        raise WeightsError(
            "these are not CLIP weights: a tensor has fewer dimensions, or is smaller, than CLIP's"
        ) from None


def build(arch: Architecture) -> nn.Module:
    """OpenAI's model class in the given size, randomly initialised."""
    return import_clip().model.CLIP(
        arch.embed_dim,
        arch.resolution,
        arch.vision_layers,
        arch.vision_width,
        arch.patch,
        arch.context,
        arch.vocabulary,
        arch.text_width,
        max(1, arch.text_width // HEAD_WIDTH),
        arch.text_layers,
    )


def card_of(name: str, arch: Architecture) -> Card:
    """A model of these sizes as OpenAI's code reads it."""
    vit = arch.patch is not None
    image = ImageCard(
        size=(arch.resolution, arch.resolution),
        activation=QUICKGELU if vit else "",
        heads=arch.vision_width * (1 if vit else 32) // HEAD_WIDTH,
        kind="vit" if vit else "resnet",
        family="ViT" if vit else "ResNet",
        width=arch.vision_width,
        blocks=arch.vision_layers if isinstance(arch.vision_layers, int) else None,
        tokens=1 + (arch.resolution // arch.patch) ** 2 if arch.patch else None,
        pool="class" if vit else "attention",
    )
    text = openai_text(arch.context, arch.vocabulary, arch.text_width, arch.text_layers)
    return Card(name, arch.embed_dim, image, text)


def backbone_of(name: str, model: Any, device: torch.device | str = "cpu") -> Backbone:
    """A model of OpenAI's class."""
    return Backbone(card_of(name, architecture_of(model.state_dict())), model, device)


def find_card(name: str) -> Card | None:
    """What is known of a model by its name alone."""
    arch = OFFICIAL.get(name) or DEMO.get(name)
    return card_of(name, arch) if arch is not None else None


def cache_folder() -> Path:
    """The folder of OpenAI's files: ``$ADVPT_CLIP_CACHE``, else ``~/.cache/clip`` as OpenAI's package has it."""
    return Path(os.environ.get("ADVPT_CLIP_CACHE") or Path.home() / ".cache" / "clip")


def official_file(name: str) -> tuple[str, str]:
    """(URL, SHA-256) of an OpenAI model's archive."""
    url: str = import_clip().clip._MODELS[name]
    return url, url.split("/")[-2]


def download(name: str) -> Path:
    """OpenAI's archive from the cache or the network, checked by ``clip`` against its SHA-256.

    Raises:
        WeightsError: naming the file, its address, its SHA-256 and where to put it by hand.
    """
    url, sha = official_file(name)
    target = cache_folder() / url.rsplit("/", 1)[-1]
    damaged = target.is_file() and file_digest(target) != sha
    try:
        with network_timeout():
            return Path(import_clip().clip._download(url, str(target.parent)))
    except (OSError, http.client.HTTPException, RuntimeError, ValueError, TypeError) as error:
        # TypeError: `clip` wants a Content-Length header, and a proxy's reply may have none
        state = "is damaged (its SHA-256 differs)" if damaged else "is not there"
        raise WeightsError(
            f"the weights of {name} are needed; {target} {state}, and downloading failed: {error}. "
            f"Fetch {url} on a machine with a network, put it at {target} (SHA-256 {sha}), "
            "or name another file with MODEL.WEIGHTS FILE"
        ) from error


def read_state(path: Path, *, trust_archive: bool = False) -> dict[str, Tensor]:
    """The CLIP state dict in a file, as :func:`read_weights`."""
    return read_weights(path, trust_archive=trust_archive)[0]


def read_weights(path: Path, *, trust_archive: bool = False) -> tuple[dict[str, Tensor], str]:
    """The CLIP state dict in a file of any supported format, and the activation that the file shows: OpenAI's archives
    have quickgelu, other archives the one in their code, safetensors may name it in their metadata (``activation``);
    "" where nothing shows it. Nothing in the file is executed, except that a TorchScript archive is opened by
    ``torch.jit.load`` when its SHA-256 is an official one or it is trusted.

    Raises:
        WeightsError: file missing, damaged, of unknown format, or an archive that is not trusted.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"MODEL.WEIGHTS names {path}, and there is no such file")
    activation = ""
    if path.suffix != ".safetensors" and is_torchscript(path):
        state, activation = _read_archive(path, trust_archive)
    else:
        state = read_state_dict(path, FILE_LABEL)
        if path.suffix == ".safetensors":
            with open_safetensors(path) as file:
                activation = (file.metadata() or {}).get("activation", "").lower()
    return {k: v for k, v in state.items() if k not in ("input_resolution", "context_length", "vocab_size")}, activation


def _read_archive(path: Path, trusted: bool) -> tuple[dict[str, Tensor], str]:
    """The state dict and activation of a TorchScript archive that is official or trusted."""
    sha = file_digest(path)
    official = sha in {official_file(name)[1] for name in import_clip().clip._MODELS}
    if not trusted and not official:
        raise WeightsError(
            f"{path} is a TorchScript archive, which can contain code, and its SHA-256 {sha} is not one of OpenAI's; "
            "if you trust where it comes from, add MODEL.TRUST_ARCHIVE True"
        )
    try:
        archive = torch.jit.load(path, map_location="cpu")
        return archive.state_dict(), QUICKGELU if official else activation_in(archive)
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise unreadable(path, FILE_LABEL, error) from error


def activation_in(archive: Any) -> str:
    """The activation of an archive's text tower, from its code; "" where it has none that is known."""
    try:
        code = str(getattr(archive.transformer.resblocks, "0").mlp.gelu.graph)
    except (AttributeError, RuntimeError):
        return ""
    return QUICKGELU if "{1.702}" in code else GELU if "aten::gelu(" in code else ""


def require_activation(source: str, asked: str, shown: str) -> str:
    """The activation of weights.

    Args:
        source: the weights, for the message. asked: ``MODEL.ACTIVATION``. shown: what the source itself shows, or "".

    Raises:
        WeightsError: nothing says it, or two things say two. The sentence says what to add.
    """
    if asked and shown and asked != shown:
        raise WeightsError(f"MODEL.ACTIVATION is {asked}, but {source} has {shown}; leave MODEL.ACTIVATION out")
    if not (asked or shown):
        raise WeightsError(
            f"{source} holds the tensors of a CLIP, and no tensor shows their activation: OpenAI's, MetaCLIP's and "
            "LAION-400M's ViT-B/32 need quickgelu, LAION-2B's and DataComp's gelu, and with the wrong one every number "
            "is off. Look where the weights come from, then add MODEL.ACTIVATION quickgelu (or gelu), or name the "
            "model: MODEL.BACKBONE.NAME open_clip:ViT-B-32/TAG"
        )
    if (asked or shown) not in (QUICKGELU, GELU):
        raise WeightsError(f"{source} has the activation {shown!r}; expected {QUICKGELU} or {GELU}")
    return asked or shown


def require_readable(arch: Architecture, source: str) -> None:
    """Refuse sizes for which OpenAI's model code would compute something else than their authors' code.

    Raises:
        WeightsError: naming what they hold and what OpenAI's code would make of it.
    """
    if arch.patch is not None and arch.vision_width > WIDEST:
        raise WeightsError(
            f"{source} holds an image tower of width {arch.vision_width}: OpenAI's model code would give it "
            f"{arch.vision_width // HEAD_WIDTH} heads of {HEAD_WIDTH}, and published CLIPs of more than {WIDEST} have "
            "others (ViT-H/14: 16 heads of 80), which no tensor shows. Every number would be off: name the model, "
            "MODEL.BACKBONE.NAME open_clip:ViT-H-14/TAG, or use one up to ViT-L/14"
        )
    if arch.vocabulary != VOCABULARY:
        raise WeightsError(
            f"{source} has a token table of {arch.vocabulary} rows; OpenAI's tokenizer, which is used here, has "
            f"{VOCABULARY}. These weights need another tokenizer: name the model, docs/backbones.md"
        )


def require_architecture(name: str, state: Mapping[str, Tensor], source: str) -> Architecture:
    """The architecture of CLIP tensors; that of an official name must be the official one.

    Raises:
        WeightsError: another one, or one that OpenAI's code would read otherwise than its authors.
    """
    try:
        arch = architecture_of(state)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    if name in OFFICIAL and arch != OFFICIAL[name]:
        raise WeightsError(f"{source} holds [{arch}]; MODEL.BACKBONE.NAME {name} is [{OFFICIAL[name]}]")
    require_readable(arch, source)
    return arch


def from_state(name: str, state: Mapping[str, Tensor], source: str, device: torch.device | str = "cpu") -> Backbone:
    """A backbone from CLIP tensors; an official name must have its official architecture.

    Raises:
        WeightsError: wrong architecture for the name, or tensors missing, unexpected or of another shape.
    """
    arch = require_architecture(name, state, source)
    try:
        with torch.random.fork_rng(devices=[]), Undrawn():
            model = build(arch)
        model.load_state_dict(dict(state))
    except (RuntimeError, AssertionError, ArithmeticError, ValueError) as error:
        raise WeightsError(f"{source} does not fit CLIP's architecture [{arch}]: {error}") from error
    return backbone_of(name, model, device)
