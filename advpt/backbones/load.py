"""Models by name: OpenAI's, DemoCLIP, those of open_clip and of the Hugging Face hub, and files of one's own.

Names and cards need no weights; :func:`settle` fills a configuration from a card.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from yacs.config import CfgNode

from advpt.backbones import card as cards
from advpt.backbones import clip, configs, democlip, hf, hub, names, open_clip, robust
from advpt.backbones.backbone import Backbone
from advpt.backbones.card import Card
from advpt.backbones.clip import Architecture
from advpt.backbones.families import family_of
from advpt.backbones.find import Model, find_model
from advpt.backbones.pieces import Pieces
from advpt.backbones.tower_files import read_tower
from advpt.errors import ConfigError, DataError, WeightsError, unknown_name
from advpt.files import file_digest
from advpt.settings import BackboneSettings


def find_card(name: str, activation: str = "") -> Card | None:
    """A model's card, by its name alone; None for a label of a file. The tokens of a ``tokenizer.json`` are missing in
    it. Arguments and errors are those of :func:`advpt.backbones.find.find_model`."""
    if (family := family_of(name)) is not None:
        return family[0].card(family[1])
    model = find_model(name, activation)
    return model.card() if model is not None else clip.find_card(names.canonical(name))


def load_backbone(settings: BackboneSettings, device: torch.device | str = "cpu") -> Backbone:
    """The model that the settings name: of open_clip or the hub, a file when ``weights`` is given, DemoCLIP, or one of
    OpenAI's; with a robust image tower in it when ``image_weights`` is given.

    Raises:
        ConfigError: no such name. WeightsError: missing file, no network, damaged or untrusted file, wrong
            architecture, an activation that is unknown or is not the model's, an extra that is not installed.
    """
    tower = read_tower(settings.image_weights) if settings.image_weights else None
    if (family := family_of(settings.name)) is not None:
        if settings.weights:
            raise WeightsError(f"MODEL.WEIGHTS names {settings.weights}, and {settings.name} has weights of its own")
        made = family[0].load(family[1], device)
    elif (model := find_model(settings.name, settings.activation)) is not None:
        made = _load_model(model, settings, device)
    else:
        made = _load(settings, device)
    if tower is not None:
        robust.put_tower(made, tower, settings.image_activation)
    return made


def _load(settings: BackboneSettings, device: torch.device | str) -> Backbone:
    """OpenAI's models and DemoCLIP by name, and files with OpenAI's tensor names."""
    name = names.canonical(settings.name)
    if settings.weights:
        path = Path(settings.weights)
        state, shown = clip.read_weights(path, trust_archive=settings.trust_archive)
        label, source = name or path.stem, str(path)
        arch = clip.require_architecture(label, state, source)  # first, whether these are weights of a CLIP
        activation = clip.require_activation(source, settings.activation, shown)
        if activation == cards.QUICKGELU:
            return clip.from_state(label, state, source, device)
        return open_clip.load(_gelu_card(label, arch), state, source, device)
    if name in clip.OFFICIAL or name in democlip.FILES:
        clip.require_activation(name, settings.activation, cards.QUICKGELU)
    if name in democlip.FILES:
        with torch.random.fork_rng(devices=[]):
            return clip.backbone_of(name, democlip.load(democlip.FILES[name]), device)
    if name not in clip.OFFICIAL:
        problem = unknown_name("backbone", name, [*clip.OFFICIAL, *democlip.FILES])
        raise WeightsError(
            f"MODEL.BACKBONE.NAME: {problem}; for other weights add MODEL.WEIGHTS FILE, or name a model of open_clip "
            "or of the hub (docs/backbones.md); short names: python -m advpt backbones"
        )
    path = clip.download(name)
    return clip.from_state(name, clip.read_state(path), str(path), device)


def _gelu_card(name: str, arch: Architecture) -> Card:
    """A model of OpenAI's sizes with gelu, which OpenAI's code does not have: open_clip's classes run it."""
    layers = arch.vision_layers if isinstance(arch.vision_layers, int) else list(arch.vision_layers)
    vision = {
        "image_size": arch.resolution,
        "layers": layers,
        "width": arch.vision_width,
        "head_width": cards.HEAD_WIDTH,
    }
    text = {
        "context_length": arch.context,
        "vocab_size": arch.vocabulary,
        "width": arch.text_width,
        "heads": max(1, arch.text_width // cards.HEAD_WIDTH),
        "layers": arch.text_layers,
    }
    config = {"embed_dim": arch.embed_dim, "quick_gelu": False, "text_cfg": text}
    config["vision_cfg"] = vision | ({"patch_size": arch.patch} if arch.patch else {})
    return configs.card_of(name, configs.read_open_clip(config, name))


def _load_model(model: Model, settings: BackboneSettings, device: torch.device | str) -> Backbone:
    """A model of open_clip, the hub or a folder, with its own weights or a file in their place."""
    file = model.tokenizer()
    card = model.card(file)
    if settings.weights:
        path = Path(settings.weights).expanduser()
        tensors, shown = clip.read_weights(path, trust_archive=settings.trust_archive)
        if shown and shown != card.text.activation:
            raise WeightsError(
                f"{path} has {shown}, and {model.name} {card.text.activation}; name the model that it is of"
            )
        source, facts = str(path), model.facts(path.name, file_digest(path))
    elif model.place is None:
        raise WeightsError(
            f"MODEL.BACKBONE.NAME {model.name} is an architecture without weights: add a tag, {model.name}/TAG, or "
            "MODEL.WEIGHTS FILE"
        )
    else:
        weights = hub.read_weights(model.place, model.files)
        tensors, source = weights.tensors, f"{model.place}, {weights.file}"
        facts = model.facts(weights.file, weights.sha256)
    if any(name.startswith(("text_model.", "vision_model.")) for name in tensors):
        tensors = hf.from_clip_model(tensors, source)
    if not model.read.activation and (openai := _openai_text(tensors)):
        raise WeightsError(
            f"{source}: its configuration does not say quick_gelu, which means gelu, and its text tower is that of "
            f"OpenAI's {openai}, which has quickgelu: with the wrong one every number is off. Look where the weights "
            "come from, then add MODEL.ACTIVATION quickgelu (or gelu)"
        )
    tokenizer = Pieces(card.text, file) if file is not None else None
    return open_clip.load(card, tensors, source, device, tokenizer, facts)


def _openai_text(tensors: Mapping[str, Tensor]) -> str:
    """The OpenAI model, among those that are in the cache, whose text tower this is; "" for none."""
    tables = [tensors[name] for name in ("token_embedding.weight", "text.token_embedding.weight") if name in tensors]
    for name, arch in clip.OFFICIAL.items():
        path = clip.cache_folder() / clip.official_file(name)[0].rsplit("/", 1)[-1]
        if tables and tables[0].shape == (arch.vocabulary, arch.text_width) and path.is_file():
            theirs = clip.read_state(path)["token_embedding.weight"]
            if torch.equal(theirs.float(), tables[0].float()):
                return name
    return ""


def settle(cfg: CfgNode) -> None:
    """Fill what a configuration leaves to the model (``INPUT.SIZE`` of 0, empty ``INPUT.INTERPOLATION`` and
    ``INPUT.RESIZE``), and write its name in the one spelling.

    Raises:
        ConfigError: no such name, or nothing is known of the model. DataError: preprocessing that is not the model's.
        WeightsError: the model's configuration is not there or cannot be run.
    """
    settings, inputs = BackboneSettings.from_cfg(cfg), cfg.INPUT
    ours = names.parse(settings.name) is None and family_of(settings.name) is None
    if ours and any(inputs.SIZE) and inputs.INTERPOLATION:
        return
    name = names.canonical(settings.name)
    card = find_card(name, settings.activation)
    if card is None:
        raise ConfigError(
            f"INPUT.SIZE {tuple(inputs.SIZE)} and INPUT.INTERPOLATION {inputs.INTERPOLATION!r} leave them to the "
            f'model, and nothing is known of {name!r} by its name; give both, for instance INPUT.SIZE "(224,224)" '
            "INPUT.INTERPOLATION bicubic"
        )
    image = card.image
    given = {"SIZE": tuple(inputs.SIZE), "INTERPOLATION": inputs.INTERPOLATION, "RESIZE": inputs.RESIZE}
    wanted = {"SIZE": image.size, "INTERPOLATION": image.interpolation, "RESIZE": image.resize}
    wrong = [leaf for leaf, value in given.items() if value not in ("", (0, 0)) and value != wanted[leaf]]
    if wrong and not ours:
        asked = ", ".join(f"INPUT.{leaf} is {given[leaf]!r}" for leaf in wrong)
        (h, w) = image.size
        raise DataError(
            f'{asked}, and {name} was trained on other pixels. Give all three settings: INPUT.SIZE "({h},{w})" '
            f"INPUT.INTERPOLATION {image.interpolation} INPUT.RESIZE {image.resize}; or leave them to the model: "
            'INPUT.SIZE "(0,0)" INPUT.INTERPOLATION "" INPUT.RESIZE ""'
        )
    frozen = cfg.is_frozen()
    cfg.defrost()
    for leaf, value in wanted.items():
        if given[leaf] in ("", (0, 0)) and not (leaf == "RESIZE" and ours):
            inputs[leaf] = value
    if not ours:
        cfg.MODEL.BACKBONE.NAME = name
    if frozen:
        cfg.freeze()
