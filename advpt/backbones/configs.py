"""Cards from configurations: open_clip's ``open_clip_config.json`` and built-in files, transformers' ``config.json``.

Read strictly: a key that is not known, a text in the place of a number or a part that cannot be run is refused by name,
and nothing that a configuration says is run or opened. What :mod:`advpt.backbones.open_clip` builds from is what was
read here, with everything switched off that only training has.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from advpt.backbones import card as cards
from advpt.backbones import extras
from advpt.backbones.card import Card, ImageCard, TextCard
from advpt.backbones.pieces import CLEANINGS, TokenizerFile
from advpt.data.images import RESIZES
from advpt.errors import WeightsError

BPE_ROWS = 49408  # of OpenAI's token table
Config = Mapping[str, Any]  # a JSON object as it is in a file

_TOP = {"embed_dim", "quick_gelu", "custom_text", "vision_cfg", "text_cfg", "init_logit_scale", "init_logit_bias",
        "nonscalar_logit_scale"}  # fmt: skip
_OTHER_BLOCKS = {"block_type", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn",
                 "scale_fc"}  # fmt: skip
_TOWER = {"layers", "width", "mlp_ratio", "ls_init_value", "pool_type", "final_ln_after_pool", "output_tokens",
          "act_kwargs", "norm_kwargs", *_OTHER_BLOCKS}  # fmt: skip
_VISION = _TOWER | {"head_width", "patch_size", "image_size", "patch_dropout", "no_ln_pre", "pos_embed_type",
                    "attentional_pool", "attn_pooler_queries", "attn_pooler_heads", "timm_model_name",
                    "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop",
                    "timm_drop_path"}  # fmt: skip
_TEXT = _TOWER | {"context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "heads",
                  "embed_cls", "pad_id", "eos_id", "no_causal_mask", "proj_bias", "proj_type", "hf_model_name",
                  "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "vocab_path"}  # fmt: skip
_PREPROCESS = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
# Of no tower: only training has them, or they say where files lie.
_LEFT_OUT = {"patch_dropout", "output_tokens", "timm_drop", "timm_drop_path", "timm_model_pretrained", "block_type",
             "attentional_pool", "attn_pooler_queries", "attn_pooler_heads", "hf_tokenizer_name", "tokenizer_mode",
             "tokenizer_kwargs", "vocab_path", "embed_cls", "hf_model_name", "hf_model_pretrained", "hf_proj_type",
             "hf_pooler_type", *_OTHER_BLOCKS}  # fmt: skip
_IMAGE_POOLS = {"tok": "class", "avg": "mean"}
_TIMM_POOLS = {"token": "class", "avg": "mean", "map": "map"}
_FAMILIES = {"FastVit": "FastViT", "Eva": "ViT with rotary positions", "SwinTransformer": "Swin transformer",
             "VisionTransformerRelPos": "ViT with relative positions"}  # fmt: skip


@dataclass(frozen=True)
class Pixels:
    """What a configuration says of the pixels; ``defaults``: names of what it lacks, which is as OpenAI has it."""

    size: tuple[int, int]
    mean: tuple[float, float, float] = cards.CLIP_MEAN
    std: tuple[float, float, float] = cards.CLIP_STD
    interpolation: str = "bicubic"
    resize: str = "shortest"
    defaults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Texts:
    """What a configuration says of texts.

    Args:
        tokenizer: a repository of the Hugging Face hub.
        clean: what is done to texts; "" where they are OpenAI's byte pairs.
        strip_sep: the id at the end of a text becomes 0 (CLIPA).
        class_last: a class token at the last position (CLIPS, Delta-CLIP).
    """

    tokenizer: str = ""
    clean: str = ""
    strip_sep: bool = False
    class_last: bool = False


@dataclass(frozen=True)
class Read:
    """A configuration as it was read.

    Args:
        model: what open_clip's classes are built with.
        activation: of both towers; "" where the configuration does not say, which means gelu to open_clip.
    """

    model: Config
    activation: str
    pixels: Pixels
    texts: Texts = Texts()

    def with_activation(self, activation: str) -> Read:
        """The same with this activation in both towers."""
        model = {**self.model, "quick_gelu": activation == cards.QUICKGELU}
        return dataclasses.replace(self, activation=activation, model=model)


class _Reader:
    """Reads the values of one object, and knows where it lies, for messages."""

    def __init__(self, config: Config, where: str, known: Collection[str]) -> None:
        if not isinstance(config, Mapping):
            raise WeightsError(f"{where} is {type(config).__name__}; expected an object with names")
        self.config, self.where = config, where
        if unknown := sorted(set(config) - set(known)):
            raise WeightsError(
                f"{where} has {', '.join(unknown)}, which open_clip's classes do not have; what it would change is not "
                "known, so the model is not run"
            )

    def whole(self, name: str, default: int | None = None) -> int:
        value = self.config.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.wrong(name, "a whole number of at least 1")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.config.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
            raise self.wrong(name, "a number above 0")
        return float(value)

    def flag(self, name: str, default: bool | None = False) -> bool | None:
        value = self.config.get(name)
        value = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
        if name in self.config and self.config[name] is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return default if value is None else value

    def word(self, name: str, default: str, allowed: Collection[str]) -> str:
        value = self.config.get(name)
        value = default if value is None else value
        if not isinstance(value, str) or value not in allowed:
            raise self.wrong(name, f"one of {', '.join(sorted(allowed))}")
        return str(value)

    def three(self, name: str, default: tuple[float, float, float], low: float = 0) -> tuple[float, float, float]:
        value = self.config.get(name, default)
        right = isinstance(value, list | tuple) and len(value) == 3
        if not right or any(isinstance(x, bool) or not isinstance(x, int | float) or not low <= x <= 1 for x in value):
            raise self.wrong(name, f"three numbers from {low:g} to 1")
        first, second, third = value
        return float(first), float(second), float(third)

    def part(self, name: str, known: Collection[str]) -> _Reader:
        value = self.config.get(name)
        return _Reader({} if value is None else value, f"{self.where}: {name}", known)

    def square(self, name: str) -> int:
        value = self.config.get(name)
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.wrong(name, "one number of pixels: only square images are read")
        return value

    def wrong(self, name: str, expected: str) -> WeightsError:
        return WeightsError(f"{self.where}: {name} is {self.config.get(name)!r}; expected {expected}")


def read_open_clip(whole: Config, where: str) -> Read:
    """The content of an ``open_clip_config.json``, or of a file of open_clip's own (the model alone).

    Args:
        whole: the JSON. where: the file or name, for messages.

    Raises:
        WeightsError: something that is not known or cannot be run, by its name.
    """
    config: Any = whole.get("model_cfg", whole)
    if config is whole:
        config = {name: value for name, value in whole.items() if name != "preprocess_cfg"}
    if not isinstance(config, Mapping) or "vision_cfg" not in config or "text_cfg" not in config:
        raise WeightsError(f"{where} describes no model: expected model_cfg with vision_cfg and text_cfg")
    if "multimodal_cfg" in config:
        raise WeightsError(
            f"{where} is a CoCa, which also writes captions: its text tower has a token of its own at the end, and it "
            "cannot be run here. Take a CLIP"
        )
    top = _Reader(config, where, _TOP)
    vision, text = top.part("vision_cfg", _VISION), top.part("text_cfg", _TEXT)
    _refuse(vision, text)
    quick = top.flag("quick_gelu", None)
    model: dict[str, Any] = {
        "embed_dim": top.whole("embed_dim"),
        "quick_gelu": bool(quick),
        "custom_text": bool(top.flag("custom_text")),
    }
    model |= {
        name: config[name] for name in ("init_logit_bias", "nonscalar_logit_scale") if config.get(name) is not None
    }
    for name, part in (("vision_cfg", vision), ("text_cfg", text)):
        model[name] = {key: value for key, value in part.config.items() if key not in _LEFT_OUT}
    size = vision.square("image_size") if "image_size" in vision.config else 224
    model["vision_cfg"]["image_size"] = size
    return Read(
        model=model,
        activation="" if quick is None else cards.QUICKGELU if quick else cards.GELU,
        pixels=read_preprocessing(whole.get("preprocess_cfg") or {}, (size, size), f"{where}: preprocess_cfg"),
        texts=_texts(text),
    )


def read_preprocessing(config: Config, size: tuple[int, int], where: str) -> Pixels:
    """Open_clip's ``preprocess_cfg``. ``size``: that of the image tower.

    Raises:
        WeightsError: another size than the image tower's, or something that is not known.
    """
    pixels = _Reader(config, where, _PREPROCESS)
    if config.get("size") is not None and pixels.square("size") != size[0]:
        raise WeightsError(f"{where} has {config['size']} pixels, and the image tower {size[0]}")
    return Pixels(
        size,
        mean=pixels.three("mean", cards.CLIP_MEAN),
        std=pixels.three("std", cards.CLIP_STD, 1e-3),
        interpolation=pixels.word("interpolation", "bicubic", ("bicubic", "bilinear")),
        resize=pixels.word("resize_mode", "shortest", RESIZES),
        defaults=tuple(n for n in ("mean", "std", "interpolation", "resize_mode") if n not in config),
    )


def _refuse(vision: _Reader, text: _Reader) -> None:
    """What is known and cannot be run, by its name."""
    if text.config.get("hf_model_name"):
        raise WeightsError(
            f"{text.where}: the text tower is {text.config['hf_model_name']} of transformers, whose tokens cannot be "
            "reached here; take a model with a text tower of open_clip's own"
        )
    if text.flag("embed_cls"):
        raise WeightsError(
            f"{text.where}: embed_cls appends a learned token to every text, as CoCa does; it is not run"
        )
    if vision.flag("attentional_pool"):
        raise WeightsError(f"{vision.where}: attentional_pool (CoCa's) is not run here; take a CLIP")
    for part in (vision, text):
        if other := [name for name in sorted(_OTHER_BLOCKS) if part.config.get(name) not in (None, False, "default")]:
            raise WeightsError(f"{part.where}: {other[0]} asks for other residual blocks than CLIP's; they are not run")
    if text.flag("final_ln_after_pool"):
        raise WeightsError(f"{text.where}: final_ln_after_pool, which open_clip's text tower does not have")


def _texts(text: _Reader) -> Texts:
    """How texts are cleaned and framed."""
    where, name = f"{text.where}: tokenizer_kwargs", text.config.get("hf_tokenizer_name")
    options = _Reader(text.config.get("tokenizer_kwargs") or {}, where, ("clean", "strip_sep_token"))
    class_last = text.word("tokenizer_mode", "", ("", "clips")) == "clips"
    if not (name or class_last):
        options.word("clean", "lower", ("lower",))
        return Texts()
    clean = options.word("clean", "whitespace", CLEANINGS)
    return Texts(str(name or ""), clean, bool(options.flag("strip_sep_token")), class_last)


def read_transformers(config: Config, pixels: Config, where: str) -> Read:
    """The content of a ``config.json`` of transformers' ``CLIPModel``; keys that are absent have its defaults.

    Args:
        config: the JSON. pixels: that of ``preprocessor_config.json``, {} where there is none. where: for messages.

    Raises:
        WeightsError: another model than a CLIP, or something that cannot be run.
    """
    if config.get("model_type") != "clip":
        raise WeightsError(
            f"{where} has model_type {config.get('model_type')!r}; expected clip, or open_clip_config.json"
        )
    text, vision = (
        _Reader(config.get(name) or {}, f"{where}: {name}", config.get(name) or ())
        for name in ("text_config", "vision_config")
    )
    acts = [each.word("hidden_act", "quick_gelu", ("quick_gelu", "gelu")) for each in (text, vision)]
    if acts[0] != acts[1]:
        raise WeightsError(f"{where}: the text tower has {acts[0]}, the image tower {acts[1]}; expected one activation")
    model: dict[str, Any] = {
        "embed_dim": _Reader(config, where, config).whole("projection_dim", 512),
        "quick_gelu": acts[0] == "quick_gelu",
        "custom_text": False,
        "text_cfg": {
            "context_length": text.whole("max_position_embeddings", 77),
            "vocab_size": text.whole("vocab_size", BPE_ROWS),
            **_tower(text, 512, 12, 2048),
            "heads": text.whole("num_attention_heads", 8),
        },
        "vision_cfg": {
            "image_size": vision.square("image_size") if "image_size" in vision.config else 224,
            "patch_size": vision.whole("patch_size", 32),
            **_tower(vision, 768, 12, 3072),
            "head_width": vision.whole("hidden_size", 768) // vision.whole("num_attention_heads", 12),
        },
    }
    activation = cards.QUICKGELU if model["quick_gelu"] else cards.GELU
    processor = f"{where}: preprocessor_config.json"
    return Read(
        model=model, activation=activation, pixels=_pixels(pixels, model["vision_cfg"]["image_size"], processor)
    )


def _pixels(pixels: Config, size: int, where: str) -> Pixels:
    """What a ``preprocessor_config.json`` says of images, for a tower that reads ``size`` pixels."""
    processor = _Reader(pixels, where, pixels)
    filters = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    resample = pixels.get("resample", 3)
    if not isinstance(resample, int) or resample not in filters:
        raise processor.wrong("resample", "2 (bilinear) or 3 (bicubic)")
    target = pixels.get("size")
    squash = isinstance(target, Mapping) and {"height", "width"} <= target.keys()
    for name in ("size", "crop_size"):
        sides = pixels.get(name)
        if any(side not in (None, size) for side in (sides.values() if isinstance(sides, Mapping) else [sides])):
            raise processor.wrong(name, f"{size}, the pixels that the image tower reads")
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if not processor.flag(name, True):
            raise processor.wrong(name, "true")
    if not squash and not processor.flag("do_center_crop", True):
        raise processor.wrong("do_center_crop", "true, or a size with height and width: only square images are read")
    return Pixels(
        (size, size),
        mean=processor.three("image_mean", cards.CLIP_MEAN),
        std=processor.three("image_std", cards.CLIP_STD, 1e-3),
        interpolation=filters[resample],
        resize="squash" if squash else "shortest",
        defaults=tuple(name for name in ("image_mean", "image_std", "resample") if name not in pixels),
    )


def _tower(part: _Reader, width: int, layers: int, hidden: int) -> Config:
    width = part.whole("hidden_size", width)
    made: Config = {
        "width": width,
        "layers": part.whole("num_hidden_layers", layers),
        "mlp_ratio": part.whole("intermediate_size", hidden) / width,
    }
    eps = part.number("layer_norm_eps", 1e-5)
    return made if eps == 1e-5 else {**made, "norm_kwargs": {"eps": eps}}


def card_of(name: str, read: Read, tokenizer: TokenizerFile | None = None) -> Card:
    """The card of a configuration.

    Args:
        name: canonical ``MODEL.BACKBONE.NAME``.
        tokenizer: where texts are not OpenAI's byte pairs; None for a card that only the preprocessing is read of.

    Raises:
        WeightsError: sizes or special tokens that do not go together.
    """
    model = read.model
    return Card(
        name=name,
        embed_dim=model["embed_dim"],
        image=_image_card(name, read, model["vision_cfg"]),
        text=_text_card(name, read, model["text_cfg"], tokenizer),
        head="sigmoid" if model.get("init_logit_bias") is not None else "softmax",
        config=json.dumps(model, sort_keys=True),
    )


def _activation(read: Read, part: _Reader) -> str:
    options = part.part("act_kwargs", ("approximate",))
    kind = options.word("approximate", "none", ("none", "tanh"))
    if kind == "tanh" and read.model["quick_gelu"]:
        raise options.wrong("approximate", "none: quickgelu has no other form")
    return cards.QUICKGELU if read.model["quick_gelu"] else cards.TANH_GELU if kind == "tanh" else cards.GELU


def _image_card(name: str, read: Read, config: Config) -> ImageCard:
    part = _Reader(config, f"{name}: vision_cfg", config)
    pixels = read.pixels
    side = pixels.size[0]
    bare = ImageCard(
        pixels.size,
        activation="",
        mean=pixels.mean,
        std=pixels.std,
        interpolation=pixels.interpolation,
        resize=pixels.resize,
    )
    if config.get("timm_model_name"):
        return _timm_card(name, part, dataclasses.replace(bare, kind="timm"))
    head = part.whole("head_width", 64)
    if isinstance(config.get("layers"), list | tuple):
        width = part.whole("width", 64)
        resnet = dataclasses.replace(bare, kind="resnet", family="ResNet", pool="attention")
        return dataclasses.replace(resnet, heads=width * 32 // head, width=width)
    width, patch = part.whole("width", 768), part.whole("patch_size", 16)
    if width % head or side % patch:
        raise WeightsError(
            f"{part.where}: a width of {width} in heads of {head}, {side} pixels in patches of {patch}; expected whole "
            "numbers of both"
        )
    return dataclasses.replace(
        bare,
        activation=_activation(read, part),
        heads=width // head,
        eps=part.part("norm_kwargs", ("eps",)).number("eps", 1e-5),
        width=width,
        blocks=part.whole("layers", 12),
        tokens=1 + (side // patch) ** 2,
        pool=_IMAGE_POOLS[part.word("pool_type", "tok", _IMAGE_POOLS)],
        norm_last=bool(part.flag("final_ln_after_pool")),
    )


def _timm_card(name: str, part: _Reader, bare: ImageCard) -> ImageCard:
    """A tower of timm's, which is asked what it is: built without memory for its tensors. ``bare``: without its
    tokens."""
    import torch

    timm = extras.need("timm", name)
    tower = part.config["timm_model_name"]
    if not isinstance(tower, str) or tower not in timm.list_models():
        raise WeightsError(
            f"{part.where}: timm_model_name is {tower!r}; expected one of timm's own models, by its plain name"
        )
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        trunk = timm.create_model(tower, pretrained=False, num_classes=0)
    kind, side = type(trunk).__name__, bare.size[0]
    pool = part.config.get("timm_pool", "avg") or getattr(trunk, "global_pool", "")  # open_clip's default, timm's
    bare = dataclasses.replace(bare, module=tower, pool=str(pool))
    family = "ViTamin" if tower.startswith("vitamin") else _FAMILIES.get(kind, kind)
    if type(trunk) is not timm.models.vision_transformer.VisionTransformer or family == "ViTamin":
        return dataclasses.replace(bare, family=family)
    if trunk.patch_embed.img_size != (side, side):
        raise WeightsError(
            f"{part.where}: image_size is {side}, and {tower} reads {trunk.patch_embed.img_size[0]} pixels"
        )
    if not isinstance(pool, str) or pool not in _TIMM_POOLS:
        return dataclasses.replace(bare, family="ViT with a pooling of its own")
    return dataclasses.replace(
        bare,
        heads=trunk.blocks[0].attn.num_heads,
        eps=next(float(m.eps) for m in trunk.modules() if isinstance(m, torch.nn.LayerNorm)),
        width=trunk.embed_dim,
        blocks=len(trunk.blocks),
        tokens=trunk.patch_embed.num_patches + trunk.num_prefix_tokens,
        pool=_TIMM_POOLS[pool],
    )


def _text_card(name: str, read: Read, config: Config, tokenizer: TokenizerFile | None) -> TextCard:
    part = _Reader(config, f"{name}: text_cfg", config)
    pool = part.word("pool_type", "argmax", ("argmax", "eos", "last", "first"))
    card = TextCard(
        context=part.whole("context_length", 77),
        vocabulary=part.whole("vocab_size", BPE_ROWS),
        width=part.whole("width", 512),
        heads=part.whole("heads", 8),
        blocks=part.whole("layers", 12),
        activation=_activation(read, part),
        eps=part.part("norm_kwargs", ("eps",)).number("eps", 1e-5),
        causal=not part.flag("no_causal_mask"),
        reads={"argmax": "end", "eos": "end"}.get(pool, pool),
    )
    if card.width % card.heads:
        raise WeightsError(f"{part.where}: a width of {card.width} cannot have {card.heads} heads")
    if read.texts.clean:
        card = dataclasses.replace(card, clean=read.texts.clean, tokenizer="", start=(), end=None)
        return card if tokenizer is None else _with_tokens(card, part, read.texts, tokenizer, pool)
    if card.vocabulary != BPE_ROWS:
        raise WeightsError(
            f"{part.where}: a token table of {card.vocabulary} rows and no hf_tokenizer_name; OpenAI's tokenizer has "
            f"{BPE_ROWS}"
        )
    return card


def _with_tokens(card: TextCard, part: _Reader, texts: Texts, tokenizer: TokenizerFile, pool: str) -> TextCard:
    """The card with the special tokens of a tokenizer."""
    rows = tokenizer.tokenizer.get_vocab_size()
    if rows > card.vocabulary:
        raise WeightsError(
            f"{tokenizer.path} has {rows} tokens, and the model's token table has {card.vocabulary} rows: it is the "
            "tokenizer of another model"
        )
    start, end = (
        tokenizer.around() if not texts.class_last else ((tokenizer.named("bos_token"),), tokenizer.named("eos_token"))
    )
    tail = (tokenizer.named("cls_token"),) if texts.class_last else ()
    end = 0 if texts.strip_sep else end
    if pool == "eos" and end != part.config.get("eos_id", 2):
        raise WeightsError(
            f"{part.where}: eos_id is {part.config.get('eos_id', 2)}, and {tokenizer.path} ends with {end}"
        )
    if pool == "argmax" and end != rows - 1:
        raise WeightsError(
            f"{part.where}: pool_type argmax reads at the largest id, and {tokenizer.path} ends with {end}"
        )
    return dataclasses.replace(card, tokenizer=tokenizer.digest, start=start, end=end, pad=tokenizer.pad(), tail=tail)
