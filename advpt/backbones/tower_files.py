"""Image towers in files and repositories: which tensors are the tower, and what their source says of it.

===========================================  ==========================================================================
bare names of ``visual``                     FARE and TeCoA of RobustVLM, Sim-CLIP; towers that were tuned here
``vision_encoder_state_dict``                TeCoA, APT, TTC, TGA-ZSR, SAFT; beside it a prompter may lie
``partial_state_dict``                       AdvFLYP: the trained tensors by a whole model's names
a whole CLIP by OpenAI's or open_clip's      RobustVLM on the hub (FARE4-ViT-B-32-laion2B-s34B-b79K, ...)
names
a whole ``CLIPModel`` of transformers        LEAF
===========================================  ==========================================================================

Tensors are read as :mod:`advpt.checkpoints` does it: nothing in a file is run. Whether a tower fits is asked by
:mod:`advpt.backbones.robust`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from advpt import checkpoints
from advpt.backbones import card as cards
from advpt.backbones import configs, find, hf, hub, names, tuned_tower
from advpt.backbones.card import JSON
from advpt.backbones.configs import Read
from advpt.backbones.hub import Repository
from advpt.backbones.names import Source
from advpt.backbones.tuned_tower import Provenance
from advpt.errors import WeightsError
from advpt.files import file_digest

WRAPPERS = ("vision_encoder_state_dict", "partial_state_dict")  # before the usual ones, where a prompter may lie
TEXT = ("token_embedding", "transformer", "ln_final", "positional_embedding", "text_projection")
OF_NO_TOWER = ("logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size")
SOURCES = (
    "TeCoA, ViT-B/32 and RN50: the folder named in the README of github.com/TreeLLi/APT (vitb32_eps4.pth.tar, ...), "
    "or github.com/cvlab-columbia/ZSRobust4FoundationModel; TeCoA and FARE, ViT-B/32 and ViT-L/14: the README of "
    "github.com/chs20/RobustVLM (vitb32_tecoa_eps_4.pt, ...); more of them: docs/backbones.md"
)


@dataclass(frozen=True, kw_only=True)
class Tower:
    """An image tower before it is compared with the CLIP that it shall stand in.

    Args:
        source: where it is, for messages.
        visual: its tensors by their names within ``visual``.
        text: those of the text tower beside it, by OpenAI's names; empty where it is alone.
        others: names of neither tower.
        shown: fields of :class:`advpt.backbones.card.ImageCard` that the source itself says.
        facts: where it came from, for records; no path of this machine.
        tuned: what is known of a tower that was tuned here.
        whole: ``MODEL.BACKBONE.NAME`` of the whole model; "" where it has none.
        prompter: whether a visual prompt lies beside it.
    """

    source: str
    visual: Mapping[str, Tensor]
    text: Mapping[str, Tensor]
    others: tuple[str, ...]
    shown: Mapping[str, JSON]
    facts: Mapping[str, str]
    tuned: Provenance | None = None
    whole: str = ""
    prompter: bool = False


def read_tower(name: str) -> Tower:
    """The tower that ``MODEL.IMAGE_WEIGHTS`` names: a file, ``hf-hub:ORG/REPO[/FILE][@REVISION]`` or
    ``local-dir:FOLDER``.

    Raises:
        ConfigError: it begins like such a name and is none. WeightsError: missing, damaged or unsafe, or no tower.
    """
    source = names.parse_tower(name)
    if source is None:
        return _of_file(Path(name).expanduser())
    if source.file:
        place = Repository(source.repository, source.revision, f"{names.TOWER} DIR/{source.file}")
        return _of_file(place.fetch([source.file]), place, str(source))
    return _of_model(source)


def _of_model(source: Source) -> Tower:
    """The tower of a whole model, by its configuration."""
    model = find.configured(source, names.TOWER)
    weights = hub.read_weights(find.place_of(source, names.TOWER), model.files)
    made = _of_tensors(weights.tensors, f"{source}, {weights.file}", model.facts(weights.file, weights.sha256))
    return dataclasses.replace(made, shown=_shown(model.read, str(source)), whole=str(source))


def _of_file(path: Path, place: Repository | None = None, source: str = "") -> Tower:
    """The tower in a file. ``place``: where it was fetched from; ``source``: its name there."""
    source = source or str(path)
    if not path.is_file():
        advice = f"Where they come from: {SOURCES}"
        if path.is_dir():
            advice = (
                f"It is a folder: name the file in it, or, of a whole model with its configuration, local-dir:{path}"
            )
        raise WeightsError(f"{names.TOWER} names {path}, and there is no such file. {advice}")
    if path.suffix != ".safetensors" and checkpoints.is_torchscript(path):
        raise WeightsError(
            f"{source} is a TorchScript archive, which can contain code; an image tower is read of a state dict. Of a "
            "whole CLIP that you trust: MODEL.WEIGHTS FILE MODEL.TRUST_ARCHIVE True"
        )
    tuned = tuned_tower.read_provenance(path)
    content = checkpoints.read_content(path, "a robust image tower")
    tensors = checkpoints.tensors_in(content, path, (*WRAPPERS, *checkpoints.WRAPPERS))
    if not tensors:
        raise WeightsError(f"{source} holds no state dict of tensors; expected a robust image tower. {SOURCES}")
    if is_prompter(tensors):
        raise WeightsError(
            f"{source} holds a visual prompter ({', '.join(sorted(tensors)[:4])}), which TeCoA's visual prompts add to "
            "pixels or tokens, and no image tower; expected vision_encoder_state_dict or the tensors of visual"
        )
    facts = {"sha256": file_digest(path)}
    if place is not None:
        facts |= {"kind": names.HUB, "file": path.name, "repository": place.name, "revision": place.commit}
    made = _of_tensors(tensors, source, facts)
    read = find.beside(path) if made.text else None
    shown = {} if read is None else _shown(read, source)
    if tuned is not None:
        shown = {"activation": tuned.activation, "size": tuned.size, "mean": tuned.mean, "std": tuned.std}
        facts |= {"trainer": tuned.trainer, "dataset": tuned.dataset, "seed": str(tuned.seed)}
    elif not shown and (activation := _metadata(path)):
        shown = {"activation": activation}
    return dataclasses.replace(made, shown=shown, tuned=tuned, prompter=_has_prompter(content, path))


def _of_tensors(tensors: Mapping[str, Tensor], source: str, facts: dict[str, str]) -> Tower:
    """Tensors by tower. Bare names are all of an image tower, names of a whole model only those with ``visual.``."""
    if any(name.startswith(("text_model.", "vision_model.")) for name in tensors):
        tensors = hf.from_clip_model(tensors, source)
    visual = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    rest = {name.removeprefix("text."): value for name, value in tensors.items() if not name.startswith("visual.")}
    if not visual:
        visual, rest = dict(tensors), {}
    text = {name: value for name, value in rest.items() if name.split(".")[0] in TEXT}
    others = tuple(name for name in sorted(rest.keys() - text.keys()) if name not in OF_NO_TOWER)
    return Tower(source=source, visual=visual, text=text, others=others, shown={}, facts=facts)


def is_prompter(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is nothing but parts of a visual prompt: frames ``[1, 3, h, w]``, or tokens ``[1, n, d]``."""
    return bool(tensors) and all(
        value.shape[:1] == (1,) and (value.dim() == 3 or value.shape[1:2] == (3,) and value.dim() == 4)
        for value in tensors.values()
    )


def _has_prompter(content: Any, path: Path) -> bool:
    """Whether one of the parts of a file is a prompter."""
    parts = content.values() if isinstance(content, Mapping) else ()
    return any(is_prompter(checkpoints.tensors_in(part, path)) for part in parts if isinstance(part, Mapping))


def _shown(read: Read, name: str) -> dict[str, JSON]:
    """What a model's configuration says of its image tower."""
    card = configs.card_of(name, read)
    shown = {key: value for key, value in cards.fields(card.image).items() if key not in ("family", "width", "blocks")}
    shown["activation"] = card.image.activation or card.text.activation
    return shown if read.activation else {key: value for key, value in shown.items() if key != "activation"}


def _metadata(path: Path) -> str:
    """The activation in a safetensors file's metadata; "" where there is none."""
    if path.suffix != ".safetensors":
        return ""
    with checkpoints.open_safetensors(path) as file:
        return str((file.metadata() or {}).get("activation", "")).lower()
