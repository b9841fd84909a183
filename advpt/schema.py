"""Dataclasses from JSON and back: the annotations of a dataclass are the schema of the JSON object.

Annotations may be ``bool``, ``int``, ``float``, ``str``, ``Literal``, :data:`Json` (anything), other dataclasses,
``X | None``, ``tuple[X, ...]``, ``tuple[X, Y]`` and ``Mapping[str, X]``. Names in the JSON that no field has are
ignored. Conditions that a type cannot express stand in ``__post_init__``, which raises :class:`FieldError`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from advpt.errors import AdvPTError, shown

Json = Any  # a JSON value whose form is a plug-in's own: parameters of an attack, settings, ...
JsonObject = dict[str, Json]
T = TypeVar("T")
_WORDS = {bool: "true, false", int: "a whole number", float: "a number", str: "a text", types.NoneType: "null"}


class FieldError(AdvPTError, ValueError):
    """A value that does not fit its field: which field, what was found, what was expected."""


def optional(default: Any = None) -> Any:
    """A field that stands in the JSON only where it differs from its default."""
    return dataclasses.field(default=default, metadata={"optional": True})


def other_names() -> Any:
    """A ``Mapping`` field for the JSON names that no other field has; they stand beside the other fields."""
    return dataclasses.field(default_factory=dict, metadata={"others": True})


def from_json(cls: type[T], value: Json, name: str = "") -> T:
    """The dataclass ``cls`` from a JSON object. ``name``: that of the field which holds it, for messages.

    Raises:
        FieldError: a field is missing, of another type, or outside its range.
    """
    if not isinstance(value, Mapping):
        raise FieldError(f"{name or cls.__name__} is {shown(value)}, expected an object")
    values: JsonObject = {}
    others = dict(value)
    for field, annotation in _fields(typing.cast(type, cls)):
        inside = f"{name}.{field.name}" if name else field.name
        if field.metadata.get("others"):
            values[field.name] = others  # what later fields have is taken out of it
        elif field.name in value:
            values[field.name] = _read(annotation, others.pop(field.name), inside)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise FieldError(f"{inside} is missing")
    try:
        return cls(**values)
    except FieldError as error:
        raise FieldError(f"{name}.{error}" if name else str(error)) from None


def to_json(value: Any) -> Json:
    """A dataclass as a JSON object, and whatever its fields hold as JSON values."""
    if dataclasses.is_dataclass(value):
        names: JsonObject = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if field.metadata.get("others"):
                names |= to_json(item)
            elif not (field.metadata.get("optional") and item == field.default):
                names[field.name] = to_json(item)
        return names
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value


@functools.cache
def _fields(cls: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    annotations = typing.get_type_hints(cls)
    return [(field, annotations[field.name]) for field in dataclasses.fields(cls)]


def _read(annotation: Any, value: Json, name: str) -> Any:
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if annotation is Json or (value is None and types.NoneType in kinds):
        return value
    kind, arguments = typing.get_origin(kinds[0]) or kinds[0], typing.get_args(kinds[0])
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return from_json(typing.cast(type, kind), value, name)
    if kind is Mapping and isinstance(value, Mapping):
        return {key: _read(arguments[1], item, f"{name}.{key}") for key, item in value.items()}
    if kind is tuple and isinstance(value, list | tuple):
        each = [arguments[0]] * len(value) if arguments[1:] == (...,) else arguments
        if len(each) == len(value):
            return tuple(_read(one, item, f"{name}[{i}]") for i, (one, item) in enumerate(zip(each, value)))
    if kind is typing.Literal and value in arguments:
        return value
    scalar = kind in _WORDS and isinstance(value, (int, float) if kind is float else kind)
    if scalar and isinstance(value, bool) is (kind is bool) and (not isinstance(value, float) or math.isfinite(value)):
        return value  # true and false are no numbers, and infinity and NaN are none either
    *first, last = [word for one in kinds for word in _expected(one)]
    raise FieldError(f"{name} is {shown(value)}, expected {' or '.join([', '.join(first), last] if first else [last])}")


def _expected(annotation: Any) -> list[str]:
    kind, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind is tuple:
        return ["a list" if arguments[1:] == (...,) else f"a list of {len(arguments)}"]
    if kind is typing.Literal:
        return [repr(value) for value in arguments]
    return _WORDS.get(kind, "an object").split(", ")
