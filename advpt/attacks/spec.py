"""The text form of an attack: ``pgd40-fkl@16``, ``pgd100-ce@4/a1``, ``aa@16``, ``rap400@16/di-enlarge``.

    NAME[STEPS][-OBJECTIVE]@EPS[,EPS...][/255][/OPTION...]

EPS, and every option that is a budget or a step, is in units of 1/255; a length that reads like a fraction of 1 is
refused. Short forms expand (``mifgsm10-ce@8`` is ``pgd10-ce@8/a0.8/none/mi``), and the expansion is what is printed and
recorded. What a text leaves out comes from the profile, else from the attack's ``default_options``, else from its
constructor. ``files:PATH@EPS[/255][/l2]`` are images made elsewhere (:mod:`advpt.attacks.files`); the last @ ends PATH.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from advpt.attacks.base import ATTACKS, Attack
from advpt.attacks.files import Files, content
from advpt.attacks.objectives import OBJECTIVES
from advpt.attacks.pgd import PROFILES, STARTS
from advpt.errors import AttackError, ConfigError, unknown_name

GRAMMAR = "NAME[STEPS][-OBJECTIVE]@EPS[/...]"
EXAMPLES = (
    "pgd40-fkl@16",
    "pgd100-ce@4/a1",
    "pgd20-margin@128/l2",
    "pgd40-ce@1,2,4,8,16",
    "fgsm-ce@8",
    "mifgsm10-ce@8",
    "difgsm10-ce@8",
    "cw40@8",
    "aa@16",
    "aa-rand@8",
    "apgd-ce-t@8",
    "rap400@16",
    "rap400@16/advpt-released",
)
SMALLEST_EPS = {"linf": 0.1, "l2": 1.0}  # L2 below 1 could not move one colour of one pixel by one level
LARGEST_STEP = 2.0  # times the budget: what a step that is written as a fraction of 1 may come to
REACH = 0.9  # of the budget: an attack whose steps come to less together stops short of it
FILES = f"{Files.name}:"
_NUMBER = r"(\d+(?:\.\d+)?)"


def _decimal(value: float) -> str:
    """The shortest decimal that is exactly this float, without an exponent."""
    return f"{Decimal(repr(float(value))).normalize():f}"


def _write_momentum(value: float) -> str:
    return "mi" if value == 1 else f"mi{_decimal(value)}"


@dataclass(frozen=True)
class Option:
    """A word after the budget: the constructor's keyword, functions that read and write its value, and its form in
    messages."""

    keyword: str
    pattern: str
    read: Callable[[str], Any]
    write: Callable[[Any], str]
    form: str


# In the order in which they are printed. Whether an attack has one, and its default, is its constructor's signature.
OPTIONS = (
    Option("step", f"a{_NUMBER}", float, lambda v: f"a{_decimal(v)}", "aSTEP"),
    Option("late_start", r"late(\d+)", int, lambda v: f"late{v}", "lateSTEP"),
    Option("eps_n", f"n{_NUMBER}", float, lambda v: f"n{_decimal(v)}", "nEPS"),
    Option("inner_steps", r"inner(\d+)", int, lambda v: f"inner{v}", "innerSTEPS"),
    Option("restarts", r"r(\d+)", int, lambda v: f"r{v}", "rRESTARTS"),
    Option("norm", r"(l2|linf)", str, str, "l2"),
    Option("start", f"({'|'.join(STARTS)})", str, str, ", ".join(STARTS)),
    Option("clip_first", r"(unclipped)", lambda _: False, lambda _: "unclipped", "unclipped"),
    Option("momentum", f"mi{_NUMBER}?", lambda v: float(v or 1), _write_momentum, "mi[DECAY]"),
    Option("diverse", r"di-([a-z]+)", str, lambda v: f"di-{v}", "di-KIND"),
    Option("ti", r"(ti)", lambda _: True, lambda _: "ti", "ti"),
    Option("copies", r"si(\d+)", int, lambda v: f"si{v}", "siCOPIES"),
    Option("eot_samples", r"eot(\d+)", int, lambda v: f"eot{v}", "eotDRAWS"),
    Option("every", r"(every)", lambda _: True, lambda _: "every", "every"),
)  # fmt: skip


@dataclass(frozen=True)
class ShortName:
    """Another name for an attack with options set; ``ratio``: its step as a multiple of eps / steps, None for the
    attack's own default."""

    name: str
    steps: int
    objective: str
    ratio: float | None
    options: Mapping[str, Any]


SHORT_NAMES = {
    "fgsm": ShortName("pgd", 1, "ce", 1.0, {"start": "none"}),
    "mifgsm": ShortName("pgd", 10, "ce", 1.0, {"start": "none", "momentum": 1.0}),
    "difgsm": ShortName("pgd", 10, "ce", 1.0, {"start": "none", "diverse": "slight"}),
    "cw": ShortName("pgd", 40, "margin", None, {}),
}


def parse_eps(text: str, norm: str = "linf", what: str = "eps") -> float:
    """A budget: ``"4"``, ``"2.5"`` and ``"4/255"`` all mean a number of 1/255 steps.

    Args:
        norm: ``linf`` or ``l2``, of the budget. what: its name in messages.

    Raises:
        ConfigError: not a number, out of range, or a fraction of 1 (with the value that was meant).
    """
    try:
        value = float(text.removesuffix("/255"))
    except ValueError:
        raise ConfigError(f"{what} {text!r} is not a number; write it in units of 1/255, like 4 or 4/255") from None
    if 0 < value < SMALLEST_EPS[norm]:
        raise ConfigError(f"{what} {text} looks like a fraction of 1; the unit is 1/255, write {value * 255:.4g}")
    if not 0 < value <= 255:
        raise ConfigError(f"{what} {text} is outside (0, 255]; the unit is 1/255")
    return value


def require_step(step: float, steps: int, eps: float) -> None:
    """Refuse a step (``step`` and ``eps`` in 1/255) that is written as a fraction of 1: times 255 it is an ordinary one
    for this budget (at most twice ``eps``), and as it stands all ``steps`` together stop short of the budget. Small
    steps that get there (``pgd1000-ce@8/a0.02``), and short ways that no fraction explains (``pgd2-ce@8/a1``), pass.

    Raises:
        ConfigError: with the value that was meant.
    """
    if 255 * step <= LARGEST_STEP * eps and steps * step < REACH * eps:
        raise ConfigError(
            f"step {_decimal(step)} looks like a fraction of 1: {steps} step(s) of it come to {steps * step:.3g} of a "
            f"budget of {_decimal(eps)}; the unit is 1/255, write a{step * 255:.4g}"
        )


@dataclass(frozen=True)
class AttackSpec:
    """An attack by name, with every keyword of its constructor and its value, in their order. See :func:`parse`."""

    name: str
    arguments: tuple[tuple[str, Any], ...]

    def get(self, keyword: str, default: Any = None) -> Any:
        """The value of a keyword, ``default`` where the constructor does not have it."""
        return dict(self.arguments).get(keyword, default)

    @property
    def eps(self) -> float:
        """The budget in units of 1/255."""
        return float(self.get("eps"))

    @property
    def objective(self) -> str:
        return str(self.get("objective", ATTACKS.get(self.name).default_objective))

    @property
    def steps(self) -> int:
        """0 for attacks without steps."""
        return int(self.get("steps", 0))

    @property
    def norm(self) -> str:
        return str(self.get("norm", "linf"))

    @property
    def path(self) -> str:
        """The path of images that were made elsewhere; "" for other attacks."""
        return str(self.get("path", ""))

    def __str__(self) -> str:
        """The full expansion; parsing it gives the same spec back."""
        cls, values = ATTACKS.get(self.name), dict(self.arguments)
        fixed = cls.default_options(self.objective, self.eps, self.steps)
        defaults = _defaults(cls)
        head = self.name + (f":{self.path}" if self.path else "") + (str(self.steps) if cls.default_steps else "")
        head += f"-{self.objective}" if "objective" in values else ""
        words = [
            option.write(values[option.keyword])
            for option in OPTIONS
            if option.keyword in values
            and (option.keyword in fixed or values[option.keyword] != defaults[option.keyword])
        ]
        return "/".join([f"{head}@{_decimal(self.eps)}", *words])

    @property
    def label(self) -> str:
        """The name in records: the expansion, with a digest of the images in the place of their path."""
        return str(self._with(path=content(Path(self.path).expanduser())[:12]) if self.path else self)

    def build(self) -> Attack:
        """The attack object."""
        return ATTACKS.get(self.name)(**dict(self.arguments))

    def with_objective(self, objective: str) -> AttackSpec:
        """The same budget and steps on another objective, with that objective's own step rule."""
        defaults = ATTACKS.get(self.name).default_options(objective, self.eps, self.steps)
        step = {"step": defaults["step"]} if "step" in defaults else {}
        return self._with(objective=objective, **step)

    def on(self, objective: str) -> AttackSpec:
        """The same budget, steps and step on another objective."""
        return self._with(objective=objective)

    def with_eot(self, eot_samples: int) -> AttackSpec:
        """The same attack on a model that draws noise: gradients are means over ``eot_samples`` forward passes
        (unless the text says how many), or the attack's stochastic variant takes its place."""
        if other := ATTACKS.get(self.name).stochastic_variant:
            return dataclasses.replace(self, name=other)
        return self._with(eot_samples=eot_samples) if self.get("eot_samples") == 1 else self

    def perturbing_all(self) -> AttackSpec:
        """The same attack such that it perturbs every image; itself where it does so already."""
        return self if ATTACKS.get(self.name).perturbs_all else self._with(every=True)

    def _with(self, **changes: Any) -> AttackSpec:
        return dataclasses.replace(self, arguments=tuple((dict(self.arguments) | changes).items()))


def _defaults(cls: type[Attack]) -> dict[str, Any]:
    """The constructor's keywords and their defaults; those without one have None."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: None if p.default is p.empty else p.default for p in parameters}


def is_files(text: str) -> bool:
    """Whether a text names images that were made elsewhere."""
    return text.strip().startswith(FILES)


def parse_all(text: str, profile: str = "sound") -> list[AttackSpec]:
    """Every :class:`AttackSpec` of a text that may name several budgets, like ``pgd40-ce@1,2,4``; as :func:`parse`."""
    if is_files(text):
        return [parse(text, profile)]
    head, at, tail = text.partition("@")
    budgets, slash, options = tail.partition("/")
    return [parse(f"{head}{at}{budget.strip()}{slash}{options}", profile) for budget in budgets.split(",")]


def parse(text: str, profile: str = "sound") -> AttackSpec:
    """An :class:`AttackSpec` from its text form; what the text leaves out comes from ``profile``.

    Raises:
        ConfigError: the text does not follow the grammar; the message says where and gives examples.
    """
    if profile not in PROFILES:
        raise ConfigError(unknown_name("profile", profile, PROFILES))
    try:
        cls, values = _read_files(text) if is_files(text) else _read(text.strip().lower(), profile)
        spec = AttackSpec(cls.name, tuple((name, values.get(name, v)) for name, v in _defaults(cls).items()))
        spec.build()
    except (AttackError, ConfigError) as error:
        raise ConfigError(f"attack {text!r}: {error}") from None
    return spec


def parse_training(text: str, leaf: str, profile: str = "sound") -> AttackSpec:
    """As :func:`parse`, for training images: those made elsewhere are refused. ``leaf``: the setting with the text,
    which is named in messages."""
    try:
        spec = parse(text, profile)
    except ConfigError as error:
        raise ConfigError(f"{leaf}: {error}") from None
    if spec.path:
        raise ConfigError(f"{leaf} is {text!r}; images made elsewhere can be evaluated (EVAL.ATTACKS), not trained on")
    return spec


def _read_files(text: str) -> tuple[type[Attack], dict[str, Any]]:
    """The class of images made elsewhere, and what the text says of its constructor's keywords."""
    path, _, tail = text.strip().removeprefix(FILES).rpartition("@")
    if not path:
        raise ConfigError(
            f"it names no budget that its images are checked against; write {FILES}PATH@EPS, for instance "
            f"{FILES}adv.safetensors@8 ({FILES}PATH@255 takes any change)"
        )
    budget, *words = tail.lower().split("/")
    given, _ = _read_options(Files, words, 0)
    return Files, given | {"eps": parse_eps(budget, given.get("norm", "linf")), "path": path}


def _read(text: str, profile: str) -> tuple[type[Attack], dict[str, Any]]:
    """The class of an attack, and what text and profile say of its constructor's keywords."""
    head, at, tail = text.partition("@")
    budget, *words = tail.split("/")
    if not (at and budget) or ":" in text:
        raise ConfigError(f"it is not of the form {GRAMMAR}; {_examples(text)}")
    if "," in budget:
        first = f"{head}@{budget.split(',')[0]}"
        raise ConfigError(f"it names several budgets where one is needed; write the first as {first}")
    name, steps, objective = _read_head(head, text)
    eps = parse_eps(budget)
    short = SHORT_NAMES.get(name)
    cls = ATTACKS.get(short.name if short else name)
    if steps and not cls.default_steps:
        raise ConfigError(f"{name} has no number of steps; write {name}@{_decimal(eps)}")
    if short and short.steps == 1 and steps not in (None, 1):
        raise ConfigError(f"{name} takes one step; for {steps} write pgd{steps}-ce@{_decimal(eps)}/none")
    count = steps or (short.steps if short else cls.default_steps)
    given, preset = _read_options(cls, words, count)
    if steps == 0 or given.get("step", 1) <= 0 or given.get("restarts", 1) <= 0:
        raise ConfigError("steps, restarts and step size must be above 0")
    parse_eps(budget, given.get("norm", "linf"))
    if "eps_n" in given:
        parse_eps(_decimal(given["eps_n"]), what="the inner budget n")
    if "step" in given:
        require_step(given["step"], count, eps)
    if preset is None:  # no profile in the text
        preset = short.options if short else cls.profiles(count).get(profile, {})
    objective = objective or preset.get("objective") or (short.objective if short else cls.default_objective)
    if objective not in cls.objectives:
        raise ConfigError(unknown_name("objective", objective, [o for o in OBJECTIVES if o in cls.objectives]))
    options = cls.default_options(objective, eps, count)
    if short and short.ratio is not None:
        options["step"] = short.ratio * eps / count
    return cls, options | dict(preset) | given | {"eps": eps, "objective": objective, "steps": count}


def _examples(text: str) -> str:
    near = difflib.get_close_matches(text, EXAMPLES, n=4, cutoff=0.3)
    return f"examples: {', '.join(near or EXAMPLES[:4])}"


def _read_head(head: str, text: str) -> tuple[str, int | None, str]:
    """Name, steps and objective ("" where there is none) from the part before the @; the longest known name wins."""
    known = [*ATTACKS, *SHORT_NAMES]
    for name in sorted(known, key=len, reverse=True):
        if match := re.fullmatch(rf"{re.escape(name)}(\d*)(?:-([a-z]+\d?(?:-[a-z]+)*))?", head):
            return name, int(match[1]) if match[1] else None, match[2] or ""
    shape = re.fullmatch(r"([a-z]+(?:-[a-z]+)*?)(\d*)((?:-[a-z]+\d?)*)", head)
    if not shape:
        raise ConfigError(f"it is not of the form {GRAMMAR}; {_examples(text)}")
    raise ConfigError(f"{unknown_name('attack', shape[1], known)}. The form is {GRAMMAR}; {_examples(text)}")


def _read_options(cls: type[Attack], words: list[str], steps: int) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """The options that the words after the budget set one by one, and those of a profile named among them."""
    takes = _defaults(cls)
    options, profiles = [o for o in OPTIONS if o.keyword in takes], cls.profiles(steps)
    given: dict[str, Any] = {}
    named: Mapping[str, Any] | None = None
    for word in words[1:] if words[:1] == ["255"] else words:
        if word in profiles:
            named = profiles[word]
            continue
        for option in options:
            if match := re.fullmatch(option.pattern, word):
                break
        else:
            accepted = [*(o.form for o in options), *profiles]
            near = difflib.get_close_matches(word, accepted, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"option {word!r} is not one of {', '.join(accepted)}{hint}")
        if option.keyword in given:
            raise ConfigError(f"{option.form} is given twice")
        given[option.keyword] = option.read(match[1])
    return given, named
