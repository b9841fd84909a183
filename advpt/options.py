"""``NAME[:PROFILE][/OPTION=VALUE...]``: how texts name a defense and its settings.

Options are bool, int, float or str; a profile has all of them, and a text changes some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from advpt.errors import ConfigError, unknown_name

Option = bool | int | float | str


def parse_options(kind: str, text: str, profiles: Mapping[str, Mapping[str, Option]]) -> tuple[str, dict[str, Option]]:
    """The profile and every option with its value, in the profile's order.

    Args:
        kind: a noun for messages. text: with its name in front.
        profiles: options by name; the first one is the default.

    Raises:
        ConfigError: an unknown profile or option, a value of another type, or a number that is not finite.
    """
    head, *words = text.split("/")
    profile = head.partition(":")[2] or next(iter(profiles))
    if profile not in profiles:
        raise ConfigError(f"{kind} {text!r}: {unknown_name('profile', profile, profiles)}")
    options = dict(profiles[profile])
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in options:
            raise ConfigError(f"{kind} {text!r}: {unknown_name('option', key, options)}; write OPTION=VALUE")
        options[key] = _value(f"{kind} {text!r}", key, value, options[key])
    return profile, options


def write_options(name: str, profile: str, options: Mapping[str, Option]) -> str:
    """The text of a profile with these options written behind it."""
    return "/".join([f"{name}:{profile}", *(f"{key}={_text(value)}" for key, value in options.items())])


def _text(value: Option) -> str:
    """As :func:`_value` reads it; large numbers without the ``+`` of 1e+16, which separates defenses."""
    return str(value).replace("+", "") if isinstance(value, float) else str(value)


def _value(where: str, key: str, value: str, like: Option) -> Option:
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
        read = type(like)(value)
        if isinstance(read, float) and not math.isfinite(read):
            raise ValueError
        return read
    except (ValueError, KeyError):
        kind = {bool: "True or False", int: "a whole number", float: "a finite number"}[type(like)]
        raise ConfigError(f"{where}: {key} is {value!r}; expected {kind}, for instance {like}") from None
