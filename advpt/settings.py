"""yacs at the edge, frozen dataclasses inside.

:func:`extend_cfg` adds this project's nodes to a Dassl configuration, :func:`merge_overrides` reads ``KEY VALUE``
pairs and reports every mistake at once, and the dataclasses are what the rest of the library sees.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from advpt.errors import ConfigError, unknown_name

PROFILES = ("sound", "released", "paper")
PROTOCOLS = ("transfer", "transfer-all", "adaptive")
SURROGATES = ("resnet50", "small-cnn")
POSITIONS = ("end", "middle", "front")
PRECISIONS = ("fp32", "amp", "fp16")
LAYOUTS = ("text", "text_deep", "visual", "independent", "t2v", "v2t")
COUPLED = ("t2v", "v2t")
BANK_PRECISIONS = ("fp32", "tf32", "amp")

_DEFAULTS: dict[str, dict[str, Any]] = {
    "TRAINER.ADVPT": {
        "N_CTX": 32,
        "CSC": False,
        "CTX_INIT": "",
        "CLASS_TOKEN_POSITION": "end",
        "PREC": "fp32",
    },
    "TRAINER.COOP": {
        "N_CTX": 16,
        "CSC": False,
        "CTX_INIT": "",
        "PREC": "fp16",
        "CLASS_TOKEN_POSITION": "end",
        "CLEAN_BANK": False,  # tune on embeddings of the centre crops instead of augmented images
    },
    "TRAINER.ZEROSHOTCLIP": {"TEMPLATE": "", "ENSEMBLE": False},
    "TRAINER.LINEARPROBE": {"C": 0.0, "MAX_ITER": 1000},  # C 0: chosen on the validation split
    "TRAINER.ADVTRAIN": {"ATTACK": "pgd10-ce@8"},
    "TRAINER.FASTAT": {"ATTACK": "pgd1-ce@8/a10"},
    "TRAINER.TRADESFT": {"ATTACK": "pgd10-kl@7.905/a0.765/gaussian", "BETA": 6.0},  # eps 0.031, step 0.003
    "TRAIN": {"CURVE_FREQ": 0},  # measure accuracy every so many epochs, for figures over wall-clock; 0 never
    "MODEL": {"WEIGHTS": "", "TRUST_ARCHIVE": False},
    "BANK": {
        "DIR": "banks",
        "ATTACK": "pgd10-fkl@8",
        "PROFILE": "sound",
        "CHUNK": 64,
        "PREC": "fp32",  # of every bank's encoder, training and test: tf32 and amp (bfloat16) are for GPUs
        "LIMIT": 0,
        "VERIFY": True,
        "SEED": 0,
    },
    "EVAL": {
        "ATTACKS": ("pgd40-fkl@16",),
        "PROTOCOLS": ("transfer",),
        "DEFENSES": (),
        "DEFENSE_SEEDS": 3,  # draws of a random defense that are averaged
        "COSTLY_SUBSET": 1000,  # images for costly defenses where SUBSET does not say how many, 0 = all
        "EOT": 10,  # draws in every gradient of an adaptive attack on a random defense
        "BPDA": False,  # adaptive attacks pass gradients straight through defenses that are not linear
        "SUBSET": 0,
        "SEED": 0,
        "SURROGATE": "resnet50",  # the network of attacks that do not go through CLIP; "small-cnn" for small images
        "SURROGATE_WEIGHTS": "",
        "WORDS": 0,  # so many nearest words of each context vector go into the records
        "PICTURES": 0,  # so many images under the first attack are kept as pictures
    },
    "DATASET": {"SUBSAMPLE_CLASSES": "all", "TEST_SUBSET": ""},
}


def extend_cfg(cfg: CfgNode) -> None:
    """Add this project's nodes and leaves to a Dassl configuration; what is there already keeps its value."""
    for path, leaves in _DEFAULTS.items():
        node = cfg
        for name in path.split("."):
            if name not in node:
                node[name] = CfgNode()
            node = node[name]
        for name, value in leaves.items():
            if name not in node:
                node[name] = value


def leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted name, value) of a configuration, in sorted order."""
    for name in sorted(cfg):
        value = cfg[name]
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def plain(cfg: CfgNode) -> dict[str, Any]:
    """The configuration as one flat dict of JSON values (tuples become lists)."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in leaves(cfg)}


def _coerce(old: Any, text: Any) -> Any:
    """``text`` as a value of the kind of ``old``; raises ValueError with a reason."""
    if isinstance(old, str):
        if text is None:  # `KEY:` in a yaml file
            return ""
        if isinstance(text, str | int | float):
            return str(text)
        raise ValueError(f"{text!r} is not a text")
    value = text
    if isinstance(text, str):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    kind = type(old).__name__
    if isinstance(old, bool):
        if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        raise ValueError(f"{text!r} is not True or False")
    if isinstance(old, float):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise ValueError(f"{text!r} is not a number")
    if isinstance(old, int):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ValueError(f"{text!r} is not a whole number")
    if isinstance(old, tuple | list):
        if isinstance(value, str):
            value = (value,)
        if isinstance(value, tuple | list):
            return type(old)(value)
        raise ValueError(f"{text!r} is not a list like {kind}(...), for instance \"('a','b')\"")
    return value


def merge_overrides(cfg: CfgNode, pairs: Sequence[str]) -> None:
    """Apply trailing ``KEY VALUE`` words of a command line to ``cfg``.

    Whole numbers are accepted where a fraction is expected, numeric-looking text where text is.

    Raises:
        ConfigError: one message that lists every bad pair, with the nearest existing key; ``cfg`` is as before then.
    """
    known = [name for name, _ in leaves(cfg)]
    problems, values = [], []
    if len(pairs) % 2:
        problems.append(f"{pairs[-1]}: has no value; settings come in pairs KEY VALUE")
    for key, text in zip(pairs[::2], pairs[1::2]):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            problems.append(f"{key}: no such key" + (f"; did you mean {near[0]}?" if near else ""))
            continue
        *path, leaf = key.split(".")
        node = cfg
        for name in path:
            node = node[name]
        try:
            values.append((node, leaf, _coerce(node[leaf], text)))
        except ValueError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigError("bad settings:\n  " + "\n  ".join(problems))
    for node, leaf, value in values:
        node[leaf] = value


def merge_yaml(cfg: CfgNode, path: Path) -> None:
    """Merge a yaml file into ``cfg``; a top-level ``_BASE_: FILE`` (relative to it) is merged before, so a file states
    only its difference.

    Raises:
        ConfigError: naming the file and every key that does not exist or has the wrong kind of value.
    """
    _merge_yaml(cfg, path, ())


def _merge_yaml(cfg: CfgNode, path: Path, inside: tuple[Path, ...]) -> None:
    if not path.is_file():
        raise ConfigError(f"no configuration file at {path}" + (f" (_BASE_ of {inside[-1]})" if inside else ""))
    if path.resolve() in inside:
        raise ConfigError(f"{path}: _BASE_ leads in a circle: {' -> '.join(str(p) for p in inside)}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid yaml: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(tree).__name__}")
    if base := tree.pop("_BASE_", None):
        _merge_yaml(cfg, path.parent / str(base), (*inside, path.resolve()))

    def pairs(node: dict[str, Any], prefix: str = "") -> Iterator[Any]:
        for name, value in node.items():
            if isinstance(value, dict):
                yield from pairs(value, f"{prefix}{name}.")
            else:
                yield from (f"{prefix}{name}", value)

    try:
        merge_overrides(cfg, list(pairs(tree)))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _choice(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigError(f"{name}: {unknown_name('value', value, known)}")
    return value


@dataclass(frozen=True)
class BackboneSettings:
    """Which CLIP: OpenAI's name or a label for the file, the file ("" = by name), and whether its code is trusted."""

    name: str
    weights: str
    trust_archive: bool

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> BackboneSettings:
        return cls(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.WEIGHTS, cfg.MODEL.TRUST_ARCHIVE)


@dataclass(frozen=True)
class ContextSettings:
    """Learnable context: M vectors, class-specific or not, initial words, where the class name stands, precision.

    ``layout``: which towers have prompts, and which are made of others (:mod:`advpt.prompts.learner`); ``n_vision``
    visual tokens; the depths count the input layer; ``shared_coupling``: one linear map for all deeper layers.
    """

    n_ctx: int
    csc: bool
    ctx_init: str
    position: str
    precision: str
    layout: str = "text"
    n_vision: int = 2
    depth_text: int = 1
    depth_vision: int = 1
    shared_coupling: bool = False

    @classmethod
    def from_cfg(cls, node: CfgNode) -> ContextSettings:
        """From a trainer's node; nodes without ``LAYOUT`` have prompts in the text alone.

        Raises:
            ConfigError: a value, or values together, that no prompt can have.
        """
        if node.N_CTX < 1:
            raise ConfigError(f"N_CTX is {node.N_CTX}; at least 1 context vector is needed")
        _choice("CLASS_TOKEN_POSITION", node.CLASS_TOKEN_POSITION, POSITIONS)
        _choice("PREC", node.PREC, PRECISIONS)
        plain = cls(node.N_CTX, node.CSC, node.CTX_INIT, node.CLASS_TOKEN_POSITION, node.PREC)
        if "LAYOUT" not in node or node.LAYOUT == "text":
            return plain
        layout = _choice("LAYOUT", node.LAYOUT, LAYOUTS)
        if min(node.N_VISION, node.DEPTH_TEXT, node.DEPTH_VISION) < 1:
            raise ConfigError(
                f"N_VISION is {node.N_VISION}, DEPTH_TEXT {node.DEPTH_TEXT}, DEPTH_VISION {node.DEPTH_VISION}; each is "
                "at least 1 (depths count the input layer)"
            )
        if layout in COUPLED and (node.N_VISION, node.DEPTH_VISION) != (node.N_CTX, node.DEPTH_TEXT):
            raise ConfigError(
                f"LAYOUT {layout} makes one tower's prompts of the other's: N_CTX {node.N_CTX} and N_VISION "
                f"{node.N_VISION} must be equal, and DEPTH_TEXT {node.DEPTH_TEXT} and DEPTH_VISION {node.DEPTH_VISION}"
            )
        if layout in (*COUPLED, "visual") and node.CSC:
            raise ConfigError(f"CSC True does not go with LAYOUT {layout}: visual prompts cannot be those of a class")
        if layout != "visual" and node.CLASS_TOKEN_POSITION != "end":
            raise ConfigError(
                f"LAYOUT {layout} has deep prompts right behind the start token; it needs CLASS_TOKEN_POSITION end, "
                f"not {node.CLASS_TOKEN_POSITION}"
            )
        return dataclasses.replace(
            plain,
            layout=layout,
            n_vision=node.N_VISION,
            depth_text=node.DEPTH_TEXT,
            depth_vision=node.DEPTH_VISION,
            shared_coupling=node.SHARED_COUPLING,
        )


@dataclass(frozen=True)
class BankSettings:
    """How banks are made. ``limit``: at most so many images in the training bank (0 = all); ``chunk``: images per
    forward; ``precision``: of the encoder's arithmetic."""

    dir: Path
    attack: str
    profile: str
    chunk: int
    precision: str
    limit: int
    verify: bool
    seed: int

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> BankSettings:
        node = cfg.BANK
        _choice("BANK.PROFILE", node.PROFILE, PROFILES)
        _choice("BANK.PREC", node.PREC, BANK_PRECISIONS)
        if node.CHUNK < 1 or node.LIMIT < 0:
            raise ConfigError(f"BANK.CHUNK is {node.CHUNK} and BANK.LIMIT {node.LIMIT}; expected >= 1 and >= 0")
        return cls(
            Path(node.DIR).expanduser(),
            node.ATTACK,
            node.PROFILE,
            node.CHUNK,
            node.PREC,
            node.LIMIT,
            node.VERIFY,
            node.SEED,
        )


@dataclass(frozen=True)
class SurrogateSettings:
    """The attacker's own network: its name, and a file with its weights ("" = torchvision's by name)."""

    network: str
    weights: str

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> SurrogateSettings:
        return cls(_choice("EVAL.SURROGATE", cfg.EVAL.SURROGATE, SURROGATES), cfg.EVAL.SURROGATE_WEIGHTS)


@dataclass(frozen=True)
class EvalSettings:
    """What is measured: attack specs, protocols, defense chains, a fixed subset size (0 = all), the attack seed.

    ``defense_seeds``: draws of a random defense; ``costly_subset``: images for costly ones; ``eot`` and ``bpda``: how
    an adaptive attacker differentiates a defense; ``words`` per context vector, and ``pictures``, that are kept.
    """

    attacks: tuple[str, ...]
    protocols: tuple[str, ...]
    defenses: tuple[str, ...]
    subset: int
    seed: int
    defense_seeds: int = 3
    costly_subset: int = 1000
    eot: int = 10
    bpda: bool = False
    words: int = 0
    pictures: int = 0

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> EvalSettings:
        node = cfg.EVAL
        for protocol in node.PROTOCOLS:
            _choice("EVAL.PROTOCOLS", protocol, PROTOCOLS)
        if node.SUBSET < 0:
            raise ConfigError(f"EVAL.SUBSET is {node.SUBSET}; 0 means all images")
        if node.WORDS < 0 or node.PICTURES < 0:
            raise ConfigError(f"EVAL.WORDS is {node.WORDS} and EVAL.PICTURES {node.PICTURES}; 0 means none")
        if node.DEFENSE_SEEDS < 1 or node.EOT < 1 or node.COSTLY_SUBSET < 0:
            raise ConfigError(
                f"EVAL.DEFENSE_SEEDS is {node.DEFENSE_SEEDS}, EVAL.EOT {node.EOT}, EVAL.COSTLY_SUBSET "
                f"{node.COSTLY_SUBSET}; expected at least 1, 1 and 0"
            )
        return cls(
            tuple(node.ATTACKS),
            tuple(node.PROTOCOLS),
            tuple(node.DEFENSES),
            node.SUBSET,
            node.SEED,
            node.DEFENSE_SEEDS,
            node.COSTLY_SUBSET,
            node.EOT,
            node.BPDA,
            node.WORDS,
            node.PICTURES,
        )
