"""Anybody's classifier, as evaluations and attacks here take it."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advpt.data.images import Preprocessing
from advpt.errors import AdvPTError, ModelError, first_words, shown, unknown_name
from advpt.files import digest
from advpt.outside.identity import Parts, parts_of
from advpt.schema import JsonObject

Logits = Callable[[Tensor], Tensor]
SIZE, INTERPOLATION = 224, "bicubic"
ITSELF = "the model"  # name of the model's own gradient among its variants
VARIANT = "variant "  # begins the names of variants among other functions
OWN_GRADIENTS = "models are called without gradients: one that needs some takes them under torch.enable_grad()"


class OutsideModel:
    """A model that is not of this library: pixels ``[b, 3, h, w]`` float32 in [0, 1] to logits ``[b, K]``.

    Whatever is not given is taken from the attribute of that name of ``model``, where it has one. Calls go straight to
    the functions of the user: logits are what these give.

    Args:
        model: a module or any function of pixels, its defense included, if it has one.
        name: in tables, records and folders.
        classnames: the K classes in the order of the logits; None: those of the data, as many as there are logits.
        size: side, or height and width, of the images (224). preprocessing: in its place, a
            :class:`~advpt.data.images.Preprocessing` or its fields (``size``, ``interpolation``, ``resize``); pixels
            are not normalised outside the model.
        undefended: the model without its defense, which attackers attack who do not know of it; None: there is no
            defense, or none that can be left out.
        variants: by name, functions of pixels like ``model`` that an attacker who knows the defense may differentiate.
        seed: of what the model draws, by the pixels of each image; None: it draws nothing.
        passes: through the network per image, for tables.
        device: where it computes; None: where its tensors are.
        source: its name on a command line.

    Raises:
        ModelError: something is not what is said here.
    """

    def __init__(
        self,
        model: Logits,
        *,
        name: str | None = None,
        classnames: Sequence[str] | None = None,
        size: int | Sequence[int] | None = None,
        preprocessing: Preprocessing | Mapping[str, Any] | None = None,
        undefended: Logits | None = None,
        variants: Mapping[str, Logits] | None = None,
        seed: int | None = None,
        passes: float | None = None,
        device: torch.device | str | None = None,
        source: str = "",
    ) -> None:
        own = functools.partial(_own, model)
        self.model, self.source = model, source
        self.name = _text("name", own("name", name, str) or source or _name_of(model))
        names = own("classnames", classnames)
        if names is not None and (not isinstance(names, list | tuple) or len(set(map(str, names))) != len(names)):
            raise ModelError(f"{self.name}: classnames is {shown(names)}; expected a list of different names")
        self.classnames = None if names is None else tuple(map(str, names))
        self.preprocessing = self._preprocessing(
            own("preprocessing", preprocessing), own("size", size, int, list, tuple)
        )
        self.undefended: Logits | None = own("undefended", undefended)
        named = own("variants", variants) or {}
        if not isinstance(named, Mapping) or not all(isinstance(each, str) and each for each in named):
            raise ModelError(f"{self.name}: variants is {type(named).__name__}; expected functions of pixels by name")
        self.variants: dict[str, Logits] = dict(named)
        self.seed: int | None = own("seed", seed, int)
        self.passes = float(own("passes", passes, int, float) or 1)
        self.columns: tuple[int, ...] | None = None  # logits in the order of other class names
        for what, function in self.paths.items():
            _require_pixels_alone(f"{self.name}, {what}" if what else self.name, function)
        self.parts: Parts = parts_of({"model": model, "undefended": self.undefended, "variants": self.variants})
        given = own("device", device, torch.device, str)
        try:
            self.device = torch.device(given) if given is not None else self._device()
        except RuntimeError as error:
            raise ModelError(f"{self.name}: its device is {given!r}: {first_words(error)}") from None
        self.facts: JsonObject = {"name": self.name, "seed": self.seed, **self.parts.facts()}  # before its first call

    @property
    def paths(self) -> dict[str, Logits]:
        """All functions of the user by what they are, the model's own "" first."""
        paths = {"": self.model} | ({"undefended": self.undefended} if self.undefended is not None else {})
        return paths | {f"{VARIANT}{name}": each for name, each in self.variants.items()}

    @property
    def modules(self) -> list[nn.Module]:
        """All modules that it is made of."""
        return list(self.parts.modules.values())

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the model, from before its first call: equal models have equal banks and records."""
        return digest(self.facts | {"columns": self.columns, "variants": sorted(self.variants)})

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits ``[b, K]``. Raises ModelError: another output, or the model's own error in words."""
        return self._run("", self.model, pixels)

    def embed(self, pixels: Tensor) -> Tensor:
        """Logits ``[b, K]`` of the model without its defense: what stands for embeddings in attacks on these."""
        if self.undefended is None:
            return self(pixels)
        return self._run("undefended", self.undefended, pixels)

    def through(self, variant: str) -> Logits:
        """Logits as an attacker differentiates them; ``variant``: one of :attr:`variants`, or the model itself."""
        if variant == ITSELF and variant not in self.variants:
            return self
        if variant not in self.variants:
            raise ModelError(f"{self.name}: {unknown_name('variant', variant, [*self.variants, ITSELF])}")
        return functools.partial(self._run, f"{VARIANT}{variant}", self.variants[variant])

    def for_classes(self, names: Sequence[str]) -> OutsideModel:
        """The same model with logits in the order of these classes; itself where it names none, or in this order.

        Raises:
            ModelError: it has other classes.
        """
        wanted = [_plain(name) for name in names]
        own = None if self.classnames is None else [_plain(name) for name in self.classnames]
        if own is None or own == wanted:
            return self
        if sorted(own) != sorted(wanted):
            lacking = [name for name, plain in zip(names, wanted) if plain not in own]
            others = f", for instance not {lacking[0]!r}" if lacking else ""
            raise ModelError(
                f"{self.name} has {len(own)} classes, and these images have {len(wanted)} others{others}; give a model "
                "whose logits are those of these classes, and their names as its classnames"
            )
        made = copy.copy(self)
        vars(made).pop("digest", None)  # that of the other order
        made.classnames, made.columns = tuple(names), tuple(own.index(name) for name in wanted)
        return made

    def __repr__(self) -> str:
        classes = "" if self.classnames is None else f", {len(self.classnames)} classes"
        behind = ", with its own defense" if self.undefended is not None else ""
        return f"{type(self).__name__}({self.name}{classes}{behind})"

    def _run(self, what: str, function: Logits, pixels: Tensor) -> Tensor:
        where = f"{self.name}, {what}" if what else self.name
        try:
            logits = function(pixels)
        except (AdvPTError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ModelError(f"{where}: {raised(error)}") from error
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(pixels):
            gave = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(f"{where} gave {gave} for {len(pixels)} images; expected a tensor of logits [b, K]")
        if not logits.is_floating_point():
            raise ModelError(f"{where} gave {logits.dtype}; expected logits, as floating point")
        if self.columns is not None:
            logits = logits[:, list(self.columns)]
        return logits.float()

    def _device(self) -> torch.device:
        for tensor in self.parts.tensors.values():
            return tensor.device
        return torch.device("cpu")

    def _preprocessing(self, given: Any, size: Any) -> Preprocessing:
        if isinstance(given, Preprocessing):
            return given
        if given is not None and not isinstance(given, Mapping):
            raise ModelError(
                f"{self.name}: preprocessing is {shown(given)}; expected size, interpolation and resize by name, as "
                "images are cropped and resized outside the model and normalised in it"
            )
        fields = {"interpolation": INTERPOLATION, **(given or {})}
        side = fields.pop("size", size if size is not None else SIZE)
        sides = (side, side) if isinstance(side, int) else tuple(side) if isinstance(side, list | tuple) else ()
        if len(sides) != 2 or not all(isinstance(each, int) and each > 0 for each in sides):
            raise ModelError(f"{self.name}: size is {shown(side)}; expected a side in pixels, or height and width")
        try:
            return Preprocessing(sides, **fields)
        except TypeError:
            raise ModelError(
                f"{self.name}: preprocessing has {', '.join(map(str, fields))}; expected size, interpolation and resize"
            ) from None


def outside_model(model: Any, source: str = "") -> OutsideModel:
    """``model`` as an :class:`OutsideModel`; itself if it is one. ``source``: its name on a command line."""
    if isinstance(model, OutsideModel):
        return model
    if not callable(model):
        raise ModelError(
            f"{source or 'the model'} is {shown(model)}, of type {type(model).__name__}; expected a function of pixels "
            "[b, 3, h, w] in [0, 1] that gives logits [b, K], or a torch module"
        )
    return OutsideModel(model, source=source)


def raised(error: BaseException) -> str:
    """The user's exception in words: its kind, its message's first line, and the last line of the user's code."""
    others = (str(Path(__file__).parent), str(Path(torch.__file__).parent), "<frozen")
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(others)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    kind, words = type(error).__name__, first_words(error)
    text = f"it raised {kind}{f': {words}' if words != kind else ''}{place}"
    return text + (f"; {OWN_GRADIENTS}" if "does not require grad" in words else "")


def _own(model: Any, name: str, given: Any, *kinds: type) -> Any:
    """What was given, or the attribute of the model, where it is of one of these kinds (of any, where none is named;
    a module's method or submodule of the same name is something else)."""
    if given is not None:
        return given
    value = getattr(model, name, None)
    return value if not kinds or isinstance(value, kinds) else None


def _name_of(model: Any) -> str:
    name = getattr(model, "__qualname__", None) or type(model).__qualname__
    return str(name).rpartition(".")[2].strip("<>")


def _text(what: str, value: str) -> str:
    if not re.search(r"\w", value) or any(not letter.isprintable() for letter in value):
        raise ModelError(f"the model's {what} is {value!r}; expected a printable text with a letter or digit")
    return value


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().lower()


def _require_pixels_alone(what: str, function: Any) -> None:
    """Refuse functions that need more than pixels, such as labels."""
    if not callable(function):
        raise ModelError(f"{what} is {shown(function)}; expected a function of pixels that gives logits")
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    except (TypeError, ValueError):  # of C code
        return
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in parameters.values() if each.default is each.empty and each.kind not in many]
    if len(needed) > 1:
        raise ModelError(
            f"{what} needs {', '.join(needed)}: a model gets pixels alone, and never the labels; give the others "
            "defaults, or a function of pixels around it"
        )
    if not any(each.kind not in (each.KEYWORD_ONLY, each.VAR_KEYWORD) for each in parameters.values()):
        raise ModelError(f"{what} takes no pixels; expected a function of pixels [b, 3, h, w] that gives logits")
