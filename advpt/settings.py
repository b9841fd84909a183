"""yacs at the edge, frozen dataclasses inside.

:func:`extend_cfg` adds this project's nodes to a Dassl configuration, :func:`merge_overrides` reads ``KEY VALUE``
pairs and reports every mistake at once, and the dataclasses are what the rest of the library sees.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from advpt import additions
from advpt.cluster import Engine
from advpt.errors import ConfigError, unknown_name
from advpt.files import read_text

PROFILES = ("sound", "released", "paper")
PROTOCOLS = ("transfer", "transfer-all", "static", "tuned", "adaptive")
SURROGATES = ("resnet50", "small-cnn")
POSITIONS = ("end", "middle", "front")
PRECISIONS = ("fp32", "amp", "fp16")
LAYOUTS = ("text", "text_deep", "visual", "independent", "t2v", "v2t")
COUPLED = ("t2v", "v2t")
ACTIVATIONS = ("", "quickgelu", "gelu")
NO_WORDS = ("", "false", "none", "0")  # CTX_INIT as CoOp's users write it where there are no words
# Fields of ContextSettings that are the layout of a prompt, with their leaves in a trainer's node.
CONTEXT_LEAVES = {"n_ctx": "N_CTX", "csc": "CSC", "ctx_init": "CTX_INIT", "position": "CLASS_TOKEN_POSITION",
                  "layout": "LAYOUT", "n_vision": "N_VISION", "depth_text": "DEPTH_TEXT",
                  "depth_vision": "DEPTH_VISION", "shared_coupling": "SHARED_COUPLING"}  # fmt: skip
BANK_PRECISIONS = ("fp32", "tf32", "amp")

# Prompts of several layers in one or both towers; the numbers are those of the MaPLe family.
_DEEP: dict[str, Any] = {
    "N_CTX": 2,
    "CSC": False,
    "CTX_INIT": "a photo of a",
    "CLASS_TOKEN_POSITION": "end",
    "PREC": "fp32",
    "N_VISION": 2,
    "DEPTH_TEXT": 9,  # layers with prompts, the input layer included
    "DEPTH_VISION": 9,
    "SHARED_COUPLING": False,  # one linear map for all deeper layers
}
_MULTIMODAL = _DEEP | {"ATTACK": "pgd2-ce@1/a1", "LOSS": "adv_half", "BETA": 1.0}

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
    "TRAINER.APT": {
        "N_CTX": 16,
        "CSC": False,
        "CTX_INIT": "",
        "CLASS_TOKEN_POSITION": "end",
        "PREC": "fp32",
        "ATTACK": "pgd3-ce@4/a2.667",
        "PROMPT_MODE": "onfly",
        "PERTURB_STEP": 0.1,  # times the gradient, for PROMPT_MODE perturbed
    },
    "TRAINER.FAP": _DEEP | {"LAYOUT": "v2t", "ATTACK": "pgd2-kl@1/a1", "LAMBDA": 1.5},
    "TRAINER.CAPT": _DEEP
    | {
        "LAYOUT": "t2v",
        "ATTACK": "pgd3-ce@4/a2.667",
        "LAMBDA": 1.0,
        "ALPHA_RULE": "confidence",  # or loss, entropy, const, schedule
        "ALPHA_CONST": 0.5,
        "ALPHA_START": 1.0,  # of the schedule, linear over the epochs
        "ALPHA_END": 0.0,
        "KL_DIRECTION": "target_is_reference",
        "KL_TEMPERATURE": 1.0,
        "DETACH_CLEAN": False,
        "FROZEN_WEIGHTS": "same",  # or openai (by the backbone's name), or a file
        "FROZEN_TEMPLATE": "",  # the data set's
    },
    "TRAINER.TRADESPT": _DEEP | {"LAYOUT": "t2v", "ATTACK": "pgd3-kl@4/a2.667", "BETA": 1.0},
    "TRAINER.ADVVPT": _MULTIMODAL,
    "TRAINER.ADVIVLP": _MULTIMODAL,
    "TRAINER.ADVMAPLE": _MULTIMODAL,
    "TRAINER.TAPT": _DEEP
    | {
        # "", (), and -1 leave a value to the profile
        "PROFILE": "sound",
        "RESET_SOURCE": (),  # loaded, constructed (what the released code restores), or both, one row of results each
        "RESET_EVERY": 1,  # images that share their prompts, one after the other
        "VIEWS": 64,
        "RHO": 0.1,  # part of the views that is kept
        "STEPS": 1,
        "LR": 5e-4,
        "ENTROPY_W": 1.0,
        "ALPHA": 0.5,  # of the adversarial statistics; the rest is of the clean ones
        "ALIGN_W": -1.0,  # of the sum over blocks
        "ALIGN_FORM": "",  # mean or norm
        "BLOCKS": (),  # that are aligned, counted from 0
        "VARIANCE": "",  # unbiased or biased, over the kept views
        "TEXT": "",  # of the design without text prompts: plain ("a photo of a {}.") or dataset
        "VIEWS_FROM": "",  # what views of clean images are cropped from: tensor (the model's input) or file
        "TUNE_PREC": "",  # fp32 or amp; attacks and statistics are always float32
        "STATISTICS_CROPS": "",  # centre or random
        "STATISTICS_LIMIT": 0,  # images, where they are made in passing; 0 = all of the training split
        "CLEAN_RUN": "",  # folder of the run that was tuned on clean images
        "ADV_STATISTICS": "",  # folders of statistics banks where several are of the same prompts, or "all" images
        "CLEAN_STATISTICS": "",
        "BATCH": 8,  # images tuned in one forward pass
        "SEED": 0,  # of the views
    },
    "TRAIN": {"CURVE_FREQ": 0},  # measure accuracy every so many epochs, for figures over wall-clock; 0 never
    "MODEL": {
        "WEIGHTS": "",
        "TRUST_ARCHIVE": False,
        "COMPILE": False,  # torch.compile for the encoders: a minute first, faster steps then; its banks are its own
        "IMAGE_WEIGHTS": "",  # a robust image tower (TeCoA, FARE) in the place of the backbone's own
        "IMAGE_ACTIVATION": "quickgelu",  # that it was trained with
    },
    "BANK": {
        "DIR": "banks",
        "ATTACK": "pgd10-fkl@8",
        "PROFILE": "sound",
        "CHUNK": 64,
        "PREC": "fp32",  # of every bank's encoder, training and test: tf32 and amp (bfloat16) are for GPUs
        "LIMIT": 0,
        "VERIFY": True,
        "SEED": 0,
        "ENGINE": "local",  # or "ray": a cluster builds banks; the next two are of each worker, 0 leaves it to us
        "CPUS_PER_WORKER": 0.0,
        "GPUS_PER_WORKER": 0.0,
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


# Every leaf by its dotted name. A new one is a line in additions.SETTINGS.
DEFAULTS = {f"{node}.{name}": value for node, values in _DEFAULTS.items() for name, value in values.items()}
DEFAULTS |= additions.SETTINGS


def extend_cfg(cfg: CfgNode) -> None:
    """Add this project's nodes and leaves to a Dassl configuration; what is there already keeps its value."""
    for path, value in DEFAULTS.items():
        *nodes, leaf = path.split(".")
        node = cfg
        for name in nodes:
            if name not in node:
                node[name] = CfgNode()
            node = node[name]
        if leaf not in node:
            node[leaf] = value


def leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted name, value) of a configuration, in sorted order."""
    for name in sorted(cfg):
        value = cfg[name]
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def plain(cfg: CfgNode) -> dict[str, Any]:
    """The configuration as run folders and records keep it: one flat dict of JSON values (tuples become lists), without
    the leaves of :mod:`advpt.additions` at their defaults."""
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in leaves(cfg)}
    return {name: value for name, value in settings.items() if not additions.is_as_before(name, value)}


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
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    kind = type(old).__name__
    if isinstance(old, bool):
        if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        raise ValueError(f"{text!r} is not True or False")
    if isinstance(old, float):
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < sys.float_info.max:
            return float(value)
        raise ValueError(f"{text!r} is not a number")
    if isinstance(old, int):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ValueError(f"{text!r} is not a whole number")
    if isinstance(old, tuple | list):
        if isinstance(value, str):
            value = (value,)
        if isinstance(value, tuple | list) and _is_plain(value):
            return type(old)(value)
        raise ValueError(f"{text!r} is not a list like {kind}(...), for instance \"('a','b')\"")
    return value


def _is_plain(value: Any) -> bool:
    """Whether a value is made of texts, finite numbers, True, False and lists of them: what a record can say."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


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
    """Merge a yaml file into ``cfg``, what it builds on before it (:func:`yaml_layers`).

    Raises:
        ConfigError: naming the file and every key that does not exist or has the wrong kind of value.
    """
    for origin, values in yaml_layers(path):
        try:
            merge_overrides(cfg, [word for pair in values.items() for word in pair])
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None


# What the parts of a configuration's name stand for where there is no file of that name, as CoOp's yaml files are
# named: rn50_ep50_ctxv1.yaml is rn50.yaml with these settings. "{node}" is the trainer's, of the folder's name.
_NAME_PARTS: dict[str, dict[str, str]] = {
    r"ep([1-9]\d*)": {"OPTIM.MAX_EPOCH": r"\1"},
    r"batch([1-9]\d*)": {"DATALOADER.TRAIN_X.BATCH_SIZE": r"\1"},
    r"c([1-9]\d*)": {"TRAINER.{node}.N_CTX": r"\1", "TRAINER.{node}.CTX_INIT": ""},  # without ctxv1 a random start
    r"ctxv1": {"TRAINER.{node}.CTX_INIT": "a photo of a"},
    r"val": {"TEST.SPLIT": "val"},  # results are those of the validation split
}


def yaml_layers(path: Path, inside: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """What a configuration file says: (where, settings by dotted name), the later ones win.

    A top-level ``_BASE_: FILE`` (relative to the file) comes before the file's own settings. A file that does not exist
    is composed: ``rn50_ep50_ctxv1.yaml`` of ``rn50.yaml`` and what ``ep50`` and ``ctxv1`` stand for.

    Args:
        path: the yaml file, or the name of a composed one.
        inside: the files whose base this is.

    Raises:
        ConfigError: no such file and no such composition, no valid yaml, or files that are each other's base.
    """
    if "\0" in str(path) or not path.is_file():
        return _composed(path, inside)
    if path.resolve() in inside:
        raise ConfigError(f"{path}: _BASE_ leads in a circle: {' -> '.join(str(p) for p in inside)}")
    text = read_text(path, ConfigError)
    try:
        tree = yaml.safe_load(text) or {}
        json.dumps(tree, default=str, skipkeys=True)  # refuses a tree that contains itself
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{path} is not valid yaml: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(tree).__name__}")
    base = tree.pop("_BASE_", None)
    layers = yaml_layers(path.parent / str(base), (*inside, path.resolve())) if base else []
    values: dict[str, Any] = {}

    def add(node: dict[str, Any], prefix: str = "") -> None:
        for name, value in node.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{name}.")
            else:
                values[f"{prefix}{name}"] = value

    add(tree)
    return [*layers, (str(path), values)]


def _composed(path: Path, inside: tuple[Path, ...]) -> list[tuple[str, dict[str, Any]]]:
    """The layers of a file that is not there: those of the file whose name is the longest beginning of its own."""
    stem, values = path.stem, dict[str, Any]()
    while "\0" not in str(path) and "_" in stem:
        stem, _, part = stem.rpartition("_")
        rule = next((rule for rule in _NAME_PARTS if re.fullmatch(rule, part)), None)
        if rule is None:
            break
        node = path.parent.name.upper()
        values = {n.format(node=node): re.sub(rule, v, part) for n, v in _NAME_PARTS[rule].items()} | values
        if (shorter := path.with_name(f"{stem}{path.suffix}")).is_file():
            return [*yaml_layers(shorter, inside), (f"{path} (composed of {shorter.name} and its name)", values)]
    there = sorted(p.stem for p in path.parent.glob("*.yaml")) if "\0" not in str(path) else []
    known = f"; there are {', '.join(there)}" if there else ""
    if there and "trainers" in path.parts:
        known += ", each also with _ep50, _batch4, _c4, _ctxv1, _val behind it"
    base_of = f" (_BASE_ of {inside[-1]})" if inside else ""
    raise ConfigError(f"no configuration file at {path}{base_of}{known}")


def missing_leaf(error: AttributeError, cfgs: Sequence[CfgNode]) -> str:
    """The dotted name of the setting that was read and is not there, where that is what an error means; else "".

    Args:
        error: as it was caught. cfgs: the configurations that may have been read.
    """
    if not isinstance(error.obj, CfgNode):
        return ""
    nodes = (pair for cfg in cfgs for pair in _nodes(cfg))
    return next((prefix for prefix, node in nodes if node is error.obj), "") + str(error.name)


def _nodes(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, CfgNode]]:
    """A node and those inside it, each with the beginning of its leaves' dotted names."""
    yield prefix, node
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _nodes(value, f"{prefix}{name}.")


def unread(cfg: CfgNode, pairs: Sequence[str], files: Sequence[Path], nodes: Sequence[str]) -> list[str]:
    """Settings of other trainers' nodes, which change nothing in this run: a sentence for each.

    None counts where a trailing pair gives the same leaf of a node that is read, as scripts for several trainers and
    plans do. Else each of the pairs counts, and one of a yaml file where the file has no node that is read, and such a
    node has that leaf.

    Args:
        cfg: the resolved configuration. pairs: the trailing ``KEY VALUE`` words. files: the yaml files that were
            merged. nodes: those of ``cfg.TRAINER`` that the run reads, its own first.
    """
    read = tuple(f"TRAINER.{node}." for node in nodes)
    leaves_read = {leaf for node in nodes for leaf in cfg.TRAINER.get(node, {})}
    names = list(pairs[::2])
    given = {name.rpartition(".")[2] for name in names if name.startswith(read)}
    for path in files:
        inside = [name for _, values in yaml_layers(path) for name in values]
        if not any(name.startswith(read) for name in inside):
            names += [name for name in inside if name.rpartition(".")[2] in leaves_read]
    sentences = []
    for name in dict.fromkeys(names):
        leaf = name.rpartition(".")[2]
        if not name.startswith("TRAINER.") or name.count(".") < 2 or name.startswith(read) or leaf in given:
            continue
        own = [f"TRAINER.{each}.{leaf}" for each in nodes if leaf in cfg.TRAINER.get(each, {})]
        what = own[0] if own else " and ".join(f"TRAINER.{each}" for each in nodes)
        sentences.append(f"{name} changes nothing: {cfg.TRAINER.NAME} does not read it, it reads {what}")
    return sentences


def recipe(path: Path, more: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """What a yaml file and KEY VALUE pairs say, by dotted name, on top of this project's defaults; for looking ahead,
    where no host is there to say what it knows besides."""
    found = dict(DEFAULTS)
    for name, value in (*_pairs(path, path.stat().st_mtime_ns), *more):
        with contextlib.suppress(ValueError, SyntaxError):  # the run itself says what is wrong
            value = _coerce(found[name], value) if name in found else ast.literal_eval(str(value))
        found[name] = value
    return found


@functools.cache
def _pairs(path: Path, changed: int) -> tuple[tuple[str, Any], ...]:
    """The leaves of a yaml file that was last changed then, those of its base first."""
    return tuple(pair for _, values in yaml_layers(path) for pair in values.items())


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have.

    Args:
        low, high: both included, unless ``above`` leaves ``low`` out.
        whole: whole numbers only.
        length: of a list of such numbers; 0 for a number alone, -1 for a list of at least one.
    """

    low: float
    high: float = math.inf
    above: bool = False
    whole: bool = False
    length: int = 0

    def __str__(self) -> str:
        kind = "whole number" if self.whole else "number"
        size = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        size += f" and at most {self.high:g}" if self.high < math.inf else ""
        if self.length:
            return f"{self.length if self.length > 0 else 'a list of'} {kind}s {size} each"
        return f"a {kind} {size}" if self.low < self.high else f"{self.low:g}"

    def __contains__(self, value: Any) -> bool:
        if self.length:
            one = dataclasses.replace(self, length=0)
            right = isinstance(value, list | tuple) and (len(value) == self.length or (self.length < 0 < len(value)))
            return right and all(number in one for number in value)
        if not isinstance(value, int if self.whole else int | float) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)


_SHARE, _FROM_0, _FROM_1 = Range(0, 1), Range(0), Range(1)
# Of leaves that are read where no dataclass below looks at them. A host that lacks one has nothing to check.
RANGES = {
    "DATALOADER.NUM_WORKERS": _FROM_0,
    "DATALOADER.K_TRANSFORMS": Range(1, 1),  # views of a training image: the trainers here read one
    "DATALOADER.TRAIN_X.BATCH_SIZE": _FROM_1,
    "DATALOADER.TRAIN_X.N_INS": _FROM_1,
    "DATALOADER.TRAIN_U.BATCH_SIZE": _FROM_1,
    "DATALOADER.TRAIN_U.N_INS": _FROM_1,
    "DATALOADER.TEST.BATCH_SIZE": _FROM_1,
    "DATASET.VAL_PERCENT": _SHARE,
    "INPUT.SIZE": Range(1, whole=True, length=2),
    "INPUT.PIXEL_MEAN": Range(0, 1, length=3),
    "INPUT.PIXEL_STD": Range(0, 1, above=True, length=3),
    "INPUT.CROP_PADDING": _FROM_0,
    "INPUT.RRCROP_SCALE": Range(0, 1, above=True, length=2),
    "INPUT.CUTOUT_N": _FROM_0,
    "INPUT.CUTOUT_LEN": _FROM_0,
    "INPUT.GN_STD": _FROM_0,
    "INPUT.COLORJITTER_B": _FROM_0,
    "INPUT.COLORJITTER_C": _FROM_0,
    "INPUT.COLORJITTER_S": _FROM_0,
    "INPUT.COLORJITTER_H": Range(0, 0.5),
    "INPUT.RGS_P": _SHARE,
    "INPUT.GB_P": _SHARE,
    "INPUT.GB_K": _FROM_1,
    "OPTIM.LR": _FROM_0,
    "OPTIM.WEIGHT_DECAY": _FROM_0,
    "OPTIM.MOMENTUM": _SHARE,
    "OPTIM.RMSPROP_ALPHA": _SHARE,
    "OPTIM.ADAM_BETA1": _SHARE,
    "OPTIM.ADAM_BETA2": _SHARE,
    "OPTIM.BASE_LR_MULT": _FROM_0,
    "OPTIM.GAMMA": _FROM_0,
    "OPTIM.STEPSIZE": Range(-1, whole=True, length=-1),
    "OPTIM.MAX_EPOCH": _FROM_0,  # 0: what was not tuned is evaluated
    "OPTIM.WARMUP_EPOCH": Range(-1),  # -1 and 0: none
    "OPTIM.WARMUP_CONS_LR": _FROM_0,
    "OPTIM.WARMUP_MIN_LR": _FROM_0,
    "TRAIN.CHECKPOINT_FREQ": _FROM_0,
    "TRAIN.PRINT_FREQ": _FROM_1,
    "TRAIN.CURVE_FREQ": _FROM_0,
    "TRAINER.LINEARPROBE.C": _FROM_0,
    "TRAINER.LINEARPROBE.MAX_ITER": _FROM_1,
    "TRAINER.TRADESFT.BETA": _FROM_0,
    "TRAINER.APT.PERTURB_STEP": _FROM_0,
    "TRAINER.FAP.LAMBDA": _FROM_0,
    "TRAINER.CAPT.LAMBDA": _FROM_0,
    "TRAINER.TRADESPT.BETA": _FROM_0,
    "TRAINER.ADVVPT.BETA": _FROM_0,
    "TRAINER.ADVIVLP.BETA": _FROM_0,
    "TRAINER.ADVMAPLE.BETA": _FROM_0,
}
# Texts of the host that would be taken for something else, or for nothing, without a word.
_WORDS = {
    "TEST.SPLIT": ("test", "val", "train"),
    "TEST.FINAL_MODEL": ("last_step", "best_val"),
    "TRAIN.COUNT_ITER": ("train_x", "train_u", "smaller_one"),
}


def require_ranges(cfg: CfgNode) -> None:
    """Refuse values that no run can have, all of them at once.

    Raises:
        ConfigError: leaves outside :data:`RANGES`, words that are not known, and 0 images of each class, which the
            host would take for all of them.
    """
    values = dict(leaves(cfg))
    allowed: dict[str, Any] = {**RANGES, **_WORDS}
    wrong = {name: wanted for name, wanted in allowed.items() if name in values and values[name] not in wanted}
    expected = {name: str(w) if isinstance(w, Range) else f"one of {', '.join(w)}" for name, w in wrong.items()}
    shots = values.get("DATASET.NUM_SHOTS", -1)
    if shots < -1 or shots == 0:
        expected["DATASET.NUM_SHOTS"] = "1 or more images of each class, or -1 for all"
    if "INPUT.RRCROP_SCALE" not in wrong and list(scale := values.get("INPUT.RRCROP_SCALE", ())) != sorted(scale):
        expected["INPUT.RRCROP_SCALE"] = "the smaller share of the image first"
    if "INPUT.GB_K" not in wrong and values.get("INPUT.GB_K", 1) % 2 == 0:
        expected["INPUT.GB_K"] = "an odd number of pixels"
    if values.get("INPUT.NO_TRANSFORM", False):
        expected["INPUT.NO_TRANSFORM"] = (
            "False: batches are made of tensors, and pictures as they are do not become any"
        )
    if expected:
        lines = [f"{name} is {values[name]!r}; expected {wanted}" for name, wanted in expected.items()]
        raise ConfigError("settings that no run can have:\n  " + "\n  ".join(lines))


def _choice(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigError(f"{name}: {unknown_name('value', value, [word for word in known if word])}")
    return value


@dataclass(frozen=True)
class BackboneSettings:
    """Which CLIP: OpenAI's name or a label for the file, the file ("" = by name), and whether its code is trusted.

    ``image_weights``: a file with a robust image tower in the place of its own, and the activation it was trained with.
    ``activation``: of the weights in the file, where the file does not show it ("": not known).
    """

    name: str
    weights: str
    trust_archive: bool
    image_weights: str = ""
    image_activation: str = "quickgelu"
    activation: str = ""

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> BackboneSettings:
        node = cfg.MODEL
        return cls(
            name=node.BACKBONE.NAME,
            weights=node.WEIGHTS,
            trust_archive=node.TRUST_ARCHIVE,
            image_weights=node.IMAGE_WEIGHTS,
            image_activation=node.IMAGE_ACTIVATION,
            activation=_choice("MODEL.ACTIVATION", node.ACTIVATION, ACTIVATIONS),
        )


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
    def from_cfg(cls, node: CfgNode, layout: str = "") -> ContextSettings:
        """From a trainer's node; ``layout`` in place of its ``LAYOUT``. Nodes without one have prompts in the text
        alone, those without ``CSC`` or ``CLASS_TOKEN_POSITION`` (CoCoOp's) a shared context before the class name.

        Raises:
            ConfigError: a value, or values together, that no prompt can have.
        """
        if node.N_CTX < 1:
            raise ConfigError(f"N_CTX is {node.N_CTX}; at least 1 context vector is needed")
        position = _choice("CLASS_TOKEN_POSITION", node.get("CLASS_TOKEN_POSITION", "end"), POSITIONS)
        _choice("PREC", node.PREC, PRECISIONS)
        words = "" if node.CTX_INIT.strip().lower() in NO_WORDS else node.CTX_INIT
        if words.strip() == "True":
            raise ConfigError("CTX_INIT is True; give the first words of the prompt, like 'a photo of a', or ''")
        plain = cls(node.N_CTX, node.get("CSC", False), words, position, node.PREC)
        layout = _choice("LAYOUT", layout or node.get("LAYOUT", "text"), LAYOUTS)
        if layout == "text":
            return plain
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
    forward; ``precision``: of the encoder's arithmetic; ``engine``: who builds them."""

    dir: Path
    attack: str
    profile: str
    chunk: int
    precision: str
    limit: int
    verify: bool
    seed: int
    engine: Engine

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
            node.PREC + ("+compiled" if cfg.MODEL.COMPILE else ""),
            node.LIMIT,
            node.VERIFY,
            node.SEED,
            Engine(node.ENGINE, node.CPUS_PER_WORKER, node.GPUS_PER_WORKER),
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
