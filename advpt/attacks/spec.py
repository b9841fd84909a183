"""The text form of an attack: ``pgd40-fkl@16``, ``pgd100-ce@4/a1``, ``pgd20-margin@128/l2/r5``.

    NAME[STEPS][-OBJECTIVE]@EPS[/255][/aSTEP][/rRESTARTS][/l2][/START]

EPS and STEP are in units of 1/255. Short forms expand (``pgd40@16`` is AdvPT's ``pgd40-fkl@16/a0.5``), and the expansion
is what is printed and recorded.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from decimal import Decimal

from advpt.attacks.base import ATTACKS, Attack
from advpt.attacks.objectives import OBJECTIVES
from advpt.attacks.pgd import PROFILES, STARTS, default_step
from advpt.errors import AttackError, ConfigError, unknown_name

_SHAPE = re.compile(r"^([a-z]+(?:-[a-z]+)*?)(\d*)((?:-[a-z]+)?)@([^/]+)((?:/[^/]+)*)$")
EXAMPLES = "pgd40-fkl@16, pgd100-ce@4/a1, pgd20-margin@128/l2"
SMALLEST_EPS = 0.1


def parse_eps(text: str) -> float:
    """``"4"``, ``"2.5"`` and ``"4/255"`` all mean a number of 1/255 steps.

    Raises:
        ConfigError: not a number, out of range, or a fraction of 1 (with the value that was meant).
    """
    try:
        value = float(text.removesuffix("/255"))
    except ValueError:
        raise ConfigError(f"eps {text!r} is not a number; write it in units of 1/255, like 4 or 4/255") from None
    if 0 < value < SMALLEST_EPS:
        raise ConfigError(f"eps {text} looks like a fraction of 1; the unit is 1/255, write {value * 255:.4g}")
    if not 0 < value <= 255:
        raise ConfigError(f"eps {text} is outside (0, 255]; the unit is 1/255")
    return value


@dataclass(frozen=True)
class AttackSpec:
    """An attack by name and numbers; ``eps`` and ``step`` in 1/255. See :func:`parse`."""

    name: str
    objective: str
    eps: float
    steps: int
    step: float
    restarts: int = 1
    norm: str = "linf"
    start: str = "uniform"
    clip_first: bool = True

    def __str__(self) -> str:
        """The full expansion; parsing it gives the same spec back (``clip_first`` belongs to the profile)."""
        text = f"{self.name}{self.steps}-{self.objective}@{_decimal(self.eps)}/a{_decimal(self.step)}"
        text += f"/r{self.restarts}" if self.restarts > 1 else ""
        text += f"/{self.norm}" if self.norm != "linf" else ""
        return text + (f"/{self.start}" if self.start != "uniform" else "")

    def build(self) -> Attack:
        """The attack object."""
        return ATTACKS.get(self.name)(  # type: ignore[call-arg]
            eps=self.eps,
            steps=self.steps,
            step=self.step,
            objective=self.objective,
            norm=self.norm,
            restarts=self.restarts,
            start=self.start,
            clip_first=self.clip_first,
        )

    def with_objective(self, objective: str) -> AttackSpec:
        """The same budget and steps on another objective, with that objective's own step rule."""
        return dataclasses.replace(self, objective=objective, step=default_step(objective, self.eps, self.steps))


def _decimal(value: float) -> str:
    """The shortest decimal that is exactly this float, without an exponent."""
    return f"{Decimal(repr(value)).normalize():f}"


def parse(text: str, profile: str = "sound") -> AttackSpec:
    """An :class:`AttackSpec` from its text form; what the text leaves out comes from ``profile``.

    Raises:
        ConfigError: the text does not follow the grammar; the message says where and gives examples.
    """
    found = _SHAPE.match(text.strip().lower())
    if not found:
        raise ConfigError(f"attack {text!r} is not of the form NAME[STEPS][-OBJECTIVE]@EPS[/...]; examples: {EXAMPLES}")
    if profile not in PROFILES:
        raise ConfigError(unknown_name("profile", profile, PROFILES))
    name, steps, objective, eps, rest = found.groups()
    ATTACKS.get(name)
    objective = objective.removeprefix("-") or "fkl"
    if objective not in OBJECTIVES:
        raise ConfigError(f"attack {text!r}: {unknown_name('objective', objective, OBJECTIVES)}")
    options = [part for part in rest.split("/") if part]
    if options[:1] == ["255"]:
        options = options[1:]
    budget, count = parse_eps(eps), int(steps or 40)
    step, restarts, norm = None, 1, "linf"
    start, clip_first = PROFILES[profile].start, PROFILES[profile].clip_first
    for option in options:
        if number := re.fullmatch(r"a(\d+(?:\.\d+)?)", option):
            step = float(number[1])
        elif number := re.fullmatch(r"r(\d+)", option):
            restarts = int(number[1])
        elif option in ("l2", "linf"):
            norm = option
        elif option in STARTS:
            start = option
        else:
            raise ConfigError(
                f"attack {text!r}: option {option!r} is not one of aSTEP, rRESTARTS, l2, {', '.join(STARTS)}"
            )
    if count < 1 or restarts < 1 or (step is not None and step <= 0):
        raise ConfigError(f"attack {text!r}: steps, restarts and step size must be above 0")
    if step is None:
        step = default_step(objective, budget, count)
    spec = AttackSpec(name, objective, budget, count, step, restarts, norm, start, clip_first)
    try:
        spec.build()
    except AttackError as error:
        raise ConfigError(f"attack {text!r}: {error}") from None
    return spec
