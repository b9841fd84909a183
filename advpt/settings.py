"""Settings: the configuration tree (yacs, as Dassl has it) at the edge, frozen dataclasses inside."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import json
import math
import operator
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import yaml
from yacs.config import CfgNode

from advpt import additions
from advpt.cluster import Engine
from advpt.errors import ConfigError, unknown_name
from advpt.files import read_text

PROFILES = ("sound", "released", "paper")
PROTOCOLS = ("transfer", "transfer-all", "untuned", "static", "pseudo", "tuned", "adaptive")
POSITIONS = ("end", "middle", "front")
PRECISIONS = ("fp32", "amp", "fp16")
LAYOUTS = ("text", "text_deep", "visual", "independent", "t2v", "v2t")
COUPLED = ("t2v", "v2t")
ROUTERS = ("hybrid", "cls", "token_mean")
ACTIVATIONS = ("", "quickgelu", "gelu")
RESIZES = ("", "shortest", "squash")
NO_WORDS = ("", "false", "none", "0")  # CTX_INIT as CoOp's users write it where there are no words


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


SHARE, FROM_0, FROM_1 = Range(0, 1), Range(0), Range(1)

# --- settings as dataclasses ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """One setting: a field of a :class:`Settings` class, and a leaf of the configuration tree.

    Args:
        field: name of the dataclass field.
        name: of the leaf below its node, for instance ``CTX_INIT``.
        default: the value of a run that does not give it. All values are of its kind; a ``Path`` is a text in the tree.
        help: one sentence for the table in docs/settings.md.
        allowed: the numbers or words that it may have; None: all of its kind.
        recorded: whether records hold it. False for places of files and numbers of processes.
        identity: whether two starts of one run must have the same value.
        added: whether it is newer than version 1 of run folders (:mod:`advpt.additions`).
    """

    field: str
    name: str
    default: Any
    help: str
    allowed: Range | tuple[str, ...] | None = None
    recorded: bool = True
    identity: bool = True
    added: bool = False


def setting(
    default: Any,
    help: str,
    *,
    leaf: str = "",
    allowed: Range | tuple[str, ...] | None = None,
    recorded: bool = True,
    identity: bool = True,
    added: bool = False,
) -> Any:
    """A dataclass field that is a leaf of the configuration; the arguments are those of :class:`Leaf`. ``leaf``: its
    name where it is not the field's in capitals."""
    declared = Leaf("", leaf, default, help, allowed, recorded, identity, added)
    return dataclasses.field(default=default, metadata={"leaf": declared})


@dataclass(frozen=True)
class Settings:
    """Base of settings that are a node of the configuration (:func:`register`).

    Fields are made with :func:`setting`. A subclass changes a default by declaring the field again, with the value
    alone: name, help and the rest are those of its base.
    """

    node: ClassVar[str] = ""  # by dotted name, for instance TRAINER.ADVPT

    @classmethod
    def declared(cls) -> list[Leaf]:
        """The settings of the node, in the order of the fields."""
        declared = []
        for field in dataclasses.fields(cls):
            inherited = (vars(base).get("__dataclass_fields__", {}).get(field.name) for base in cls.__mro__)
            leaf = next((each.metadata["leaf"] for each in inherited if each and each.metadata), None)
            if leaf is None:
                raise TypeError(f"{cls.__name__}.{field.name} has no help text; declare it with setting()")
            name = leaf.name or field.name.upper()
            declared.append(dataclasses.replace(leaf, field=field.name, name=name, default=field.default))
        return declared

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> Self:
        """The values that a configuration has; mistakes raise ConfigError as in :meth:`from_flat`."""
        node = functools.reduce(operator.getitem, cls.node.split("."), cfg)
        return cls.from_flat(dict(_flat(node, f"{cls.node}.")))

    @classmethod
    def from_flat(cls, settings: Mapping[str, Any]) -> Self:
        """The values among settings by dotted name, as run folders keep them; what is not there has its default.

        Raises:
            ConfigError: a value, or values together, that no run can have.
        """
        values, expected = dict[str, Any](), dict[str, str]()
        for leaf in cls.declared():
            name = f"{cls.node}.{leaf.name}"
            value = settings.get(name, leaf.default)
            value = tuple(value) if isinstance(value, list) else value
            if isinstance(leaf.allowed, tuple):
                for word in value if isinstance(value, tuple) else (value,):
                    if word not in leaf.allowed:
                        raise ConfigError(f"{name}: {unknown_name('value', word, filter(None, leaf.allowed))}")
            elif leaf.allowed is not None and value not in leaf.allowed:
                expected[name] = str(leaf.allowed)
            values[leaf.field] = Path(str(value)).expanduser() if isinstance(leaf.default, Path) else value
        if expected:
            raise _impossible(expected, settings)
        made = cls(**values)
        made.check()
        return made

    def check(self) -> None:
        """Hook: refuse values that do not go together, with a ConfigError."""


# Numbers of the host's leaves, and those of registered settings. A host that lacks one has nothing to check.
RANGES: dict[str, Range] = {
    "DATALOADER.NUM_WORKERS": FROM_0,
    "DATALOADER.K_TRANSFORMS": Range(1, 1),  # views of a training image: the trainers here read one
    "DATALOADER.TRAIN_X.BATCH_SIZE": FROM_1,
    "DATALOADER.TRAIN_X.N_INS": FROM_1,
    "DATALOADER.TRAIN_U.BATCH_SIZE": FROM_1,
    "DATALOADER.TRAIN_U.N_INS": FROM_1,
    "DATALOADER.TEST.BATCH_SIZE": FROM_1,
    "DATASET.VAL_PERCENT": SHARE,
    "INPUT.SIZE": Range(1, whole=True, length=2),
    "INPUT.PIXEL_MEAN": Range(0, 1, length=3),
    "INPUT.PIXEL_STD": Range(0, 1, above=True, length=3),
    "INPUT.CROP_PADDING": FROM_0,
    "INPUT.RRCROP_SCALE": Range(0, 1, above=True, length=2),
    "INPUT.CUTOUT_N": FROM_0,
    "INPUT.CUTOUT_LEN": FROM_0,
    "INPUT.GN_STD": FROM_0,
    "INPUT.COLORJITTER_B": FROM_0,
    "INPUT.COLORJITTER_C": FROM_0,
    "INPUT.COLORJITTER_S": FROM_0,
    "INPUT.COLORJITTER_H": Range(0, 0.5),
    "INPUT.RGS_P": SHARE,
    "INPUT.GB_P": SHARE,
    "INPUT.GB_K": FROM_1,
    "OPTIM.LR": FROM_0,
    "OPTIM.WEIGHT_DECAY": FROM_0,
    "OPTIM.MOMENTUM": SHARE,
    "OPTIM.RMSPROP_ALPHA": SHARE,
    "OPTIM.ADAM_BETA1": SHARE,
    "OPTIM.ADAM_BETA2": SHARE,
    "OPTIM.BASE_LR_MULT": FROM_0,
    "OPTIM.GAMMA": FROM_0,
    "OPTIM.STEPSIZE": Range(-1, whole=True, length=-1),
    "OPTIM.MAX_EPOCH": FROM_0,  # 0: what was not tuned is evaluated
    "OPTIM.WARMUP_EPOCH": Range(-1),  # -1 and 0: none
    "OPTIM.WARMUP_CONS_LR": FROM_0,
    "OPTIM.WARMUP_MIN_LR": FROM_0,
    "TRAIN.CHECKPOINT_FREQ": FROM_0,
    "TRAIN.PRINT_FREQ": FROM_1,
}

# All settings that are registered, by dotted name, and what is derived of them. Those of the host have a place in
# RANGES, UNCOMPARED_LEAVES and UNRECORDED_LEAVES only.
LEAVES: dict[str, Leaf] = {}
DEFAULTS: dict[str, Any] = {}
# May change between two starts of one run: where things lie, and what is printed. See also evaluation/run_folder.py.
UNCOMPARED_LEAVES = {
    "OUTPUT_DIR",
    "RESUME",
    "VERBOSE",
    "USE_CUDA",
    "DATALOADER.NUM_WORKERS",
    "TRAIN.PRINT_FREQ",
    "DATASET.ROOT",
}
UNRECORDED_LEAVES = set(UNCOMPARED_LEAVES)  # may differ between runs with equal results

S = TypeVar("S", bound=Settings)


@dataclass_transform(frozen_default=True)
def register(node: str, *, in_v1: bool = False) -> Callable[[type[S]], type[S]]:
    """Class decorator: make a class a frozen dataclass of the settings of a node, which :func:`extend_cfg` then adds.

    Args:
        node: dotted name, ``TRAINER.MINE`` for a trainer's own.
        in_v1: version 1 of run folders and records had the node. All leaves of others stay out of folders and records
            at their defaults, so that what was written before they existed stays equal.
    """

    def add(settings: type[S]) -> type[S]:
        if "__dataclass_fields__" not in vars(settings):
            settings = dataclass(frozen=True)(settings)
        settings.node = node
        for leaf in settings.declared():
            name = f"{node}.{leaf.name}"
            LEAVES[name] = leaf
            DEFAULTS[name] = str(leaf.default) if isinstance(leaf.default, Path) else leaf.default
            if isinstance(leaf.allowed, Range):
                RANGES[name] = leaf.allowed
            if not leaf.identity:
                UNCOMPARED_LEAVES.add(name)
            if not (leaf.recorded and leaf.identity):
                UNRECORDED_LEAVES.add(name)
            if leaf.added or not in_v1:
                additions.SETTINGS[name] = DEFAULTS[name]
        return settings

    return add


def table() -> str:
    """All registered settings as the text of docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Made by `make docs` from the help texts beside the code. Each is a leaf of the configuration: a yaml file or",
        "a trailing `KEY VALUE` pair of `train.py` gives it. `OPTIM`, `DATALOADER`, `INPUT` and so on are Dassl's.",
    ]
    node = ""
    for name, leaf in sorted(LEAVES.items()):
        above = name.removesuffix(f".{leaf.name}")
        if above != node:
            node = above
            lines += ["", f"## {node}", "", "| setting | default | what it is |", "|---|---|---|"]
        words = [word or "empty" for word in leaf.allowed] if isinstance(leaf.allowed, tuple) else []
        allowed = f" ({', '.join(words)})" if words else f" ({leaf.allowed})" if leaf.allowed else ""
        default = repr(DEFAULTS[name]) if leaf.default != "" else "empty"
        lines.append(f"| `{leaf.name}` | `{default}` | {leaf.help}{allowed} |")
    return "\n".join(lines) + "\n"


def extend_cfg(cfg: CfgNode) -> None:
    """Add this project's nodes and leaves to a Dassl configuration; what is there already keeps its value."""
    for path, value in DEFAULTS.items():
        *nodes, leaf = path.split(".")
        node = cfg
        for name in nodes:
            node = node.setdefault(name, CfgNode())
        node.setdefault(leaf, value)


def leaves(cfg: CfgNode) -> list[tuple[str, Any]]:
    """Every (dotted name, value) of a configuration, sorted by name."""
    return sorted(_flat(cfg), key=lambda leaf: leaf[0])


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def plain(cfg: CfgNode) -> dict[str, Any]:
    """The configuration as run folders and records keep it: one flat dict of JSON values (tuples become lists), without
    the leaves of :mod:`advpt.additions` at their defaults."""
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in leaves(cfg)}
    kept = {name: value for name, value in settings.items() if not additions.is_as_before(name, value)}
    if settings.get("MODEL.ACTIVATION") and str(settings["MODEL.BACKBONE.NAME"]).startswith(additions.CONFIGURED):
        kept["MODEL.ACTIVATION"] = settings["MODEL.ACTIVATION"]
    return kept


def _coerce(old: Any, text: Any) -> Any:
    """``text`` as a value of the kind of ``old``; raises ValueError with a reason."""
    if isinstance(old, str):
        if isinstance(text, str | int | float | None):
            return "" if text is None else str(text)  # None: `KEY:` in a yaml file
        raise ValueError(f"{text!r} is not a text")
    value = text
    if isinstance(text, str):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(old, bool):
        expected = "True or False"
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
    elif isinstance(old, float):
        expected = "a number"
        if number and abs(value) < sys.float_info.max:
            return float(value)
    elif isinstance(old, int):
        expected = "a whole number"
        if number and isinstance(value, int):
            return value
    elif isinstance(old, tuple | list):
        expected = f"a list like {type(old).__name__}(...), for instance \"('a','b')\""
        value = (value,) if isinstance(value, str) else value
        if isinstance(value, tuple | list) and _is_plain(value):
            return type(old)(value)
    else:
        return value
    raise ValueError(f"{text!r} is not {expected}")


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
    old, new = dict(leaves(cfg)), dict[str, Any]()
    problems = []
    if len(pairs) % 2:
        problems.append(f"{pairs[-1]}: has no value; settings come in pairs KEY VALUE")
    for key, text in zip(pairs[::2], pairs[1::2]):
        if key not in old:
            near = difflib.get_close_matches(key, old, n=1, cutoff=0.5)
            problems.append(f"{key}: no such key" + (f"; did you mean {near[0]}?" if near else ""))
            continue
        try:
            new[key] = _coerce(old[key], text)
        except ValueError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigError("bad settings:\n  " + "\n  ".join(problems))
    for key, value in new.items():
        *path, leaf = key.split(".")
        functools.reduce(operator.getitem, path, cfg)[leaf] = value


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


BACKBONES, RECIPE = "backbones", "recipe"  # the folder beside trainers/, and the file beside those of single backbones
BASE, LIKE = "_BASE_", "_LIKE_"  # keys of a yaml file: what it builds on, and the backbone whose recipes are its own
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
    is composed: ``rn50.yaml`` of the trainer's ``recipe.yaml`` and ``configs/backbones/rn50.yaml``, and
    ``rn50_ep50_ctxv1.yaml`` of that and what ``ep50`` and ``ctxv1`` stand for. A backbone's file may name another in
    ``_LIKE_``: where a trainer has a file for that one in the place of a recipe, it is what is composed.

    Args:
        path: the yaml file, or the name of a composed one. inside: the files whose base this is.

    Raises:
        ConfigError: no such file and no such composition, no valid yaml, or files that are each other's base.
    """
    if "\0" in str(path) or not path.is_file():
        return _composed(path, inside)
    if path.resolve() in inside:
        raise ConfigError(f"{path}: _BASE_ leads in a circle: {' -> '.join(str(p) for p in inside)}")
    tree = _yaml_tree(path)
    tree.pop(LIKE, None)
    base = tree.pop(BASE, None)
    layers = yaml_layers(path.parent / str(base), (*inside, path.resolve())) if base else []
    return [*layers, (str(path), dict(_flat(tree)))]


def _yaml_tree(path: Path) -> dict[str, Any]:
    """The mapping in a yaml file."""
    text = read_text(path, ConfigError)
    try:
        tree = yaml.safe_load(text) or {}
        json.dumps(tree, default=str, skipkeys=True)  # refuses a tree that contains itself
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{path} is not valid yaml: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(tree).__name__}")
    return tree


def _by_backbone(folder: Path) -> dict[str, tuple[Path, Path]]:
    """By name, the recipe and the backbone's file that a trainer's yaml is made of where it is no file of its own:
    ``CoOp/vit_b16_imagenet`` is ``CoOp/recipe_imagenet.yaml`` with ``configs/backbones/vit_b16.yaml`` on top. Where
    there is no such recipe, the file of the backbone that it is like takes its place."""
    files, made = sorted(folder.glob("*.yaml")), dict[str, tuple[Path, Path]]()
    for top in (folder.absolute().parent.parent / BACKBONES).glob("*.yaml"):
        for name in filter(None, (_like(top, top.stat().st_mtime_ns), RECIPE)):
            kinds = {file.stem.removeprefix(name): file for file in files if file.stem.startswith(name)}
            made |= {f"{top.stem}{kind}": (file, top) for kind, file in kinds.items() if kind[:1] in ("", "_")}
    return made


@functools.lru_cache(maxsize=256)
def _like(backbone: Path, changed: int) -> str:
    """The name of the backbone whose recipes a backbone's file takes; "" for none. ``changed``: the file's time."""
    return str(_yaml_tree(backbone).get(LIKE) or "")


def backbone_file(repository: Path, name: str) -> Path | None:
    """The file of a backbone's short name below a repository's ``configs``; None where there is none."""
    path = repository / "configs" / BACKBONES / f"{name}.yaml"
    return path if re.fullmatch(r"\w+", name) and path.is_file() else None


def has_config(path: Path) -> bool:
    """Whether there is a trainer's yaml of this name, or a recipe and a backbone's file that it is made of."""
    return "\0" not in str(path) and (path.is_file() or path.stem in _by_backbone(path.parent))


def config_names(folder: Path) -> list[str]:
    """The names of a trainer's yaml files, those made of a recipe and a backbone among them."""
    files = {path.stem for path in folder.glob("*.yaml") if not path.stem.startswith(RECIPE)}
    return sorted(files | _by_backbone(folder).keys())


def _composed(path: Path, inside: tuple[Path, ...]) -> list[tuple[str, dict[str, Any]]]:
    """The layers of a file that is not there: a recipe's and a backbone's, or those of the file whose name is the
    longest beginning of its own."""
    absent = f"no configuration file at {path}" + (f" (_BASE_ of {inside[-1]})" if inside else "")
    if "\0" in str(path):
        raise ConfigError(absent)
    stem, values, made = path.stem, dict[str, Any](), _by_backbone(path.parent)
    if stem in made:
        return [layer for part in made[stem] for layer in yaml_layers(part, inside)]
    while "_" in stem:
        stem, _, part = stem.rpartition("_")
        rule = next((rule for rule in _NAME_PARTS if re.fullmatch(rule, part)), None)
        if rule is None:
            break
        node = path.parent.name.upper()
        values = {n.format(node=node): re.sub(rule, v, part) for n, v in _NAME_PARTS[rule].items()} | values
        if has_config(shorter := path.with_name(f"{stem}{path.suffix}")):
            return [*yaml_layers(shorter, inside), (f"{path} (composed of {shorter.name} and its name)", values)]
    if there := config_names(path.parent):
        absent += f"; there are {', '.join(there)}"
        if "trainers" in path.parts:
            absent += ", each also with _ep50, _batch4, _c4, _ctxv1, _val behind it"
    raise ConfigError(absent)


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
        pairs: the trailing ``KEY VALUE`` words. files: the yaml files that were merged.
        nodes: those of ``cfg.TRAINER`` that the run reads, its own first.
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
        same = [f"TRAINER.{each}.{leaf}" for each in nodes if leaf in cfg.TRAINER.get(each, {})]
        instead = same[0] if same else " and ".join(f"TRAINER.{each}" for each in nodes)
        sentences.append(f"{name} changes nothing: {cfg.TRAINER.NAME} does not read it, it reads {instead}")
    return sentences


def recipe(path: Path, more: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """What a yaml file and KEY VALUE pairs say, by dotted name, on top of this project's defaults; for looking ahead,
    where no host is there to say what it knows besides."""
    settings = dict(DEFAULTS)
    files = (path,) if path.is_file() else _by_backbone(path.parent).get(path.stem, ())
    for name, value in (*_pairs(path, tuple(file.stat().st_mtime_ns for file in files)), *more):
        with contextlib.suppress(ValueError, SyntaxError):  # the run itself says what is wrong
            value = _coerce(settings[name], value) if name in settings else ast.literal_eval(str(value))
        settings[name] = value
    return settings


@functools.cache
def _pairs(path: Path, changed: tuple[int, ...]) -> tuple[tuple[str, Any], ...]:
    """The leaves of a yaml file whose parts were last changed then, those of its base first."""
    return tuple(pair for _, values in yaml_layers(path) for pair in values.items())


# Texts of the host that would be taken for something else, or for nothing, without a word.
_WORDS = {
    "TEST.SPLIT": ("test", "val", "train"),
    "TEST.FINAL_MODEL": ("last_step", "best_val"),
    "TRAIN.COUNT_ITER": ("train_x", "train_u", "smaller_one"),
}


def require_ranges(cfg: CfgNode, trainer_nodes: Collection[str] | None = None) -> None:
    """Refuse values that no run can have, all of them at once: numbers outside :data:`RANGES`, unknown words, and 0
    images of each class, which the host would take for all of them.

    Args:
        cfg: the resolved configuration. trainer_nodes: the nodes of ``cfg.TRAINER`` to look at; None: all.
    """
    values = dict(leaves(cfg))
    allowed: dict[str, Any] = {**RANGES, **_WORDS}
    if trainer_nodes is not None:
        read = tuple(f"TRAINER.{node}." for node in trainer_nodes)
        allowed = {k: v for k, v in allowed.items() if not k.startswith("TRAINER.") or k.startswith(read)}
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
        expected["INPUT.NO_TRANSFORM"] = "False: batches are made of tensors, not of pictures as they are"
    if expected:
        raise _impossible(expected, values)


def _impossible(expected: Mapping[str, str], values: Mapping[str, Any]) -> ConfigError:
    lines = [f"{name} is {values[name]!r}; expected {wanted}" for name, wanted in expected.items()]
    return ConfigError("settings that no run can have:\n  " + "\n  ".join(lines))


# --- the library's own settings ---------------------------------------------------------------------------------------


@register("MODEL", in_v1=True)
class BackboneSettings(Settings):
    """Which CLIP, and what is known of its weights."""

    name: str = setting(
        "",
        "OpenAI's name of a CLIP, one of docs/backbones.md, or a label for the file in WEIGHTS",
        leaf="BACKBONE.NAME",
    )
    weights: str = setting("", "file with CLIP's weights; empty: those of the name", recorded=False)
    trust_archive: bool = setting(False, "run the code in a TorchScript file instead of reading its tensors alone")
    image_weights: str = setting(
        "",
        "robust image tower (TeCoA, FARE) in the place of the backbone's own: a file, hf-hub:ORG/REPO[/FILE] or "
        "local-dir:FOLDER",
        recorded=False,
    )
    image_activation: str = setting(
        "quickgelu", "activation that IMAGE_WEIGHTS was trained with, where its source does not say",
        allowed=ACTIVATIONS[1:],
    )  # fmt: skip
    activation: str = setting(
        "", "activation of the model, where neither its name nor its file shows it", allowed=ACTIVATIONS, added=True
    )
    cuda_graphs: bool = setting(
        True, "replay tuning steps from CUDA graphs: the same numbers, faster for few classes", identity=False,
        added=True,
    )  # fmt: skip
    compile: bool = setting(
        False, "torch.compile for the encoders: a minute first, faster steps then; such banks have keys of their own"
    )


@register("INPUT")
class InputSettings(Settings):
    """What is done to pictures, besides the host's ``SIZE`` and ``INTERPOLATION``; ``(0, 0)`` and ``""`` there mean the
    model's own, too."""

    resize: str = setting(
        "", "shorter side and a crop (shortest), or both sides (squash); empty: the model's own", allowed=RESIZES,
        added=True,
    )  # fmt: skip


@dataclass(frozen=True)
class ContextSettings:
    """Learnable context of prompts, checked: the settings of :class:`LayoutContext`, where their help is. ``layout``:
    of :mod:`advpt.prompts.learner`; ``ctx_init``: "" for a random start."""

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
    experts: int = 0
    router: str = "hybrid"

    def fields(self) -> dict[str, Any]:
        """Them all, for the file beside a checkpoint."""
        return additions.omit(dataclasses.asdict(self), additions.PROMPT_FIELDS)


@dataclass(frozen=True)
class SharedContext(Settings):
    """Settings of a trainer whose prompts have one context for all classes, before the class name."""

    n_ctx: int = setting(16, "context vectors; of deep layouts, vectors per layer")
    ctx_init: str = setting("", "first words of the prompt; empty: a random start")
    precision: str = setting("fp32", "arithmetic of the text tower while tuning", leaf="PREC", allowed=PRECISIONS)

    def context(self, layout: str = "") -> ContextSettings:
        """The prompts that these settings ask for; what no prompt can have raises ConfigError. ``layout``: where the
        trainer says, and not its settings."""
        if self.n_ctx < 1:
            raise ConfigError(f"N_CTX is {self.n_ctx}; at least 1 context vector is needed")
        words = "" if self.ctx_init.strip().lower() in NO_WORDS else self.ctx_init
        if words.strip() == "True":
            raise ConfigError("CTX_INIT is True; give the first words of the prompt, like 'a photo of a', or ''")
        return ContextSettings(self.n_ctx, False, words, "end", self.precision)


@dataclass(frozen=True)
class TextContext(SharedContext):
    """Settings of a trainer that tunes context words (CoOp's leaves)."""

    csc: bool = setting(False, "a context of each class's own")
    position: str = setting("end", "where the class name stands", leaf="CLASS_TOKEN_POSITION", allowed=POSITIONS)

    def context(self, layout: str = "") -> ContextSettings:
        return dataclasses.replace(super().context(layout), csc=self.csc, position=self.position)


@dataclass(frozen=True)
class DeepContext(TextContext):
    """Settings of a trainer with prompts of several layers in one or both towers; the defaults are the MaPLe
    family's."""

    n_ctx: int = 2
    ctx_init: str = "a photo of a"
    n_vision: int = setting(2, "visual prompt tokens per layer")
    depth_text: int = setting(9, "layers of the text tower with prompts, the input layer included")
    depth_vision: int = setting(9, "layers of the image tower with prompts, the input layer included")
    shared_coupling: bool = setting(False, "one linear map between the towers for all deeper layers")

    def context(self, layout: str = "") -> ContextSettings:
        plain = super().context(layout)
        layout = layout or getattr(self, "layout", "text")
        if layout == "text":
            return plain
        if min(self.n_vision, self.depth_text, self.depth_vision) < 1:
            raise ConfigError(
                f"N_VISION is {self.n_vision}, DEPTH_TEXT {self.depth_text}, DEPTH_VISION {self.depth_vision}; each is "
                "at least 1 (depths count the input layer)"
            )
        if layout in COUPLED and (self.n_vision, self.depth_vision) != (self.n_ctx, self.depth_text):
            raise ConfigError(
                f"LAYOUT {layout} makes one tower's prompts of the other's: N_CTX {self.n_ctx} and N_VISION "
                f"{self.n_vision} must be equal, and DEPTH_TEXT {self.depth_text} and DEPTH_VISION {self.depth_vision}"
            )
        if layout in (*COUPLED, "visual") and self.csc:
            raise ConfigError(f"CSC True does not go with LAYOUT {layout}: visual prompts cannot be those of a class")
        if layout != "visual" and self.position != "end":
            raise ConfigError(
                f"LAYOUT {layout} has deep prompts right behind the start token; it needs CLASS_TOKEN_POSITION end, "
                f"not {self.position}"
            )
        deep = {name: getattr(self, name) for name in ("n_vision", "depth_text", "depth_vision", "shared_coupling")}
        return dataclasses.replace(plain, layout=layout, **deep)


@dataclass(frozen=True)
class LayoutContext(DeepContext):
    """As :class:`DeepContext`, for a trainer whose settings choose the layout."""

    layout: str = setting("t2v", "which towers have prompts, and which are made of others", allowed=LAYOUTS)


@dataclass(frozen=True)
class MixtureContext(DeepContext):
    """As :class:`DeepContext`, of prompts whose deeper layers are mixed from experts."""

    experts: int = setting(5, "experts of each deeper layer, which a router mixes", allowed=FROM_1)
    router: str = setting("hybrid", "what the router reads of a block's input: the first token, the mean of all, or "
                          "0.7 of the one and 0.3 of the other", allowed=ROUTERS)  # fmt: skip

    def context(self, layout: str = "") -> ContextSettings:
        return dataclasses.replace(super().context(layout), experts=self.experts, router=self.router)


# Fields of ContextSettings that are the layout of a prompt, with their leaves in a trainer's node.
CONTEXT_LEAVES = {
    leaf.field: leaf.name
    for kind in (LayoutContext, MixtureContext)
    for leaf in kind.declared()
    if leaf.field != "precision"
}


@register("BANK", in_v1=True)
class BankSettings(Settings):
    """How banks are made, and the attack of the training bank."""

    dir: Path = setting(Path("banks"), "folder of all banks", identity=False)
    attack: str = setting("pgd10-fkl@8", "attack of the training bank")
    profile: str = setting("sound", "details of the training attack: sound, or as a paper or its code has them",
                           allowed=PROFILES)  # fmt: skip
    chunk: int = setting(64, "images per forward pass, and per file of a bank", allowed=FROM_1)
    precision: str = setting(
        "fp32", "arithmetic of every bank's encoder; tf32 and amp (bfloat16) are for GPUs", leaf="PREC",
        allowed=("fp32", "tf32", "amp"),
    )  # fmt: skip
    limit: int = setting(0, "images in the training bank at most; 0: all", allowed=FROM_0)
    verify: bool = setting(True, "compare checksums when a bank is opened", identity=False)
    seed: int = setting(0, "seed of the training attack")
    engine_name: str = setting("local", "who builds banks: local, or ray (a cluster)", leaf="ENGINE", identity=False)
    cpus_per_worker: float = setting(0.0, "cores of each worker of the cluster; 0: automatic", identity=False)
    gpus_per_worker: float = setting(0.0, "GPUs of each worker of the cluster; 0: automatic", identity=False)

    @property
    def engine(self) -> Engine:
        return Engine(self.engine_name, self.cpus_per_worker, self.gpus_per_worker)

    def check(self) -> None:
        _ = self.engine


@register("EVAL", in_v1=True)
class SurrogateSettings(Settings):
    """The attacker's own network."""

    network: str = setting(
        "resnet50", "network of attacks that do not go through CLIP; small-cnn for small images", leaf="SURROGATE",
        allowed=("resnet50", "small-cnn"),
    )  # fmt: skip
    weights: str = setting(
        "", "file with its weights; empty: torchvision's, by name", leaf="SURROGATE_WEIGHTS", recorded=False
    )


@register("EVAL", in_v1=True)
class EvalSettings(Settings):
    """What is measured."""

    attacks: tuple[str, ...] = setting(("pgd40-fkl@16",), "attacks, each with a protocol of its own behind a colon")
    protocols: tuple[str, ...] = setting(("transfer",), "what attackers know, where an attack names no protocol",
                                         allowed=PROTOCOLS)  # fmt: skip
    defenses: tuple[str, ...] = setting((), "chains of defenses, each measured in turn")
    subset: int = setting(0, "images of the split, always the same ones; 0: all", allowed=FROM_0)
    seed: int = setting(0, "seed of attacks and defenses")
    defense_seeds: int = setting(3, "draws of a random defense that are averaged", allowed=FROM_1)
    costly_subset: int = setting(1000, "images for costly defenses where SUBSET is 0; 0: all", allowed=FROM_0)
    eot: int = setting(10, "draws in every gradient of an adaptive attack on a random defense", allowed=FROM_1)
    bpda: bool = setting(False, "adaptive attacks pass gradients straight through defenses that are not linear")
    words: int = setting(0, "nearest words of each context vector that go into records", allowed=FROM_0)
    pictures: int = setting(0, "images under the first attack that are kept as pictures", allowed=FROM_0)
    test_time: tuple[str, ...] = setting(
        (), "defenses at test time, each measured in turn (docs/test_time.md)", added=True
    )
    adaptive_subset: int = setting(
        0, "images for pseudo and adaptive attackers where there are defenses at test time; 0: all", allowed=FROM_0,
        added=True,
    )  # fmt: skip
    queries: int = setting(
        1000, "queries of Square to a cheap defense at test time under adaptive; 0: none", allowed=FROM_0, added=True
    )
    attack_at: str = setting(
        "model", "pixels that attacks change: the model's, or the images' own, which the model then enlarges",
        allowed=("model", "native"), added=True,
    )  # fmt: skip

    def check(self) -> None:
        if self.attack_at == "native" and (self.defenses or self.test_time):
            raise ConfigError(
                "EVAL.ATTACK_AT is native: images are attacked at their own size, and defenses read them at the "
                "model's. Leave EVAL.DEFENSES and EVAL.TEST_TIME empty, or measure them with EVAL.ATTACK_AT model"
            )


@register("DATASET", in_v1=True)
class DatasetSettings(Settings):
    """What is asked of a data set besides the host's settings."""

    subsample_classes: str = setting("all", "all, base or new: which half of the classes, as in CoOp")
    test_subset: str = setting("", "a list of test images, where the data set has several")
    protocol: str = setting(
        "coop", "which images are tested, under which names and prompt: CoOp's, or TeCoA's (docs/zero_shot.md)",
        allowed=("coop", "tecoa"), added=True,
    )  # fmt: skip
    title: str = setting(
        "", "name of one's own data in headings, records and folders; empty: that of their folder", identity=False,
        added=True,
    )  # fmt: skip


@register("TRAIN", in_v1=True)
class CurveSettings(Settings):
    """Accuracy over training time."""

    curve_freq: int = setting(0, "measure accuracy every so many epochs, for figures over time; 0: never",
                              allowed=FROM_0)  # fmt: skip
