"""AutoAttack (Croce and Hein, ICML 2020) through its authors' package ``pyautoattack``, kept in bounds.

AutoAttack leaves alone what it need not change: images that the attacked prompt misclassifies already, and images that
it cannot break, come back bit-identical. ``every`` perturbs those too, with the iterate of highest loss of APGD-CE.

Its stages run one by one, each on the images that the earlier ones left, as its own ``run_standard_evaluation`` does;
so every broken image has a stage. What it would do to its surroundings (random state, trace function, gradients of
parameters, counters of its checks) is undone.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from advpt.attacks.base import ATTACKS, TOLERANCE, Attack, Forward
from advpt.attacks.noise import SampleNoise
from advpt.attacks.objectives import is_wrong
from advpt.errors import AttackError

log = logging.getLogger(__name__)

PACKAGES = ("pyautoattack", "autoattack")  # the maintained one, and the original of the same authors
LOGGER = "auto-attack"
TARGETS = 9  # target classes of the targeted stages, fewer where there are not as many other classes


def package() -> ModuleType:
    """The installed package. Raises AttackError where there is none."""
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise AttackError(
        "AutoAttack needs the package pyautoattack, which is not installed: pip install 'pyautoattack>=0.2'"
    )


class _Standard(Attack):
    """AutoAttack's run over its stages; subclasses name them."""

    stages: ClassVar[tuple[str, ...]]
    kind: ClassVar[str] = "standard"  # the package's version, which gives the settings of the stages
    source_model = "encoder"
    stochastic_variant = "aa-rand"
    perturbs_all = False
    thread_safe = False
    objectives = ("margin",)
    default_objective = "margin"

    def __init__(self, *, eps: float, norm: str = "linf", every: bool = False) -> None:
        super().__init__(eps=eps, norm=norm, objective="margin")
        self.every = every

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"stages": list(self.stages), "every": self.every}

    def provenance(self) -> dict[str, str]:
        name = package().__name__
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return {name: importlib.metadata.version(name)}
        return {name: "unknown version"}

    def project(self, images: Tensor, x: Tensor) -> Tensor:
        """Images in the ball and the box already, but for rounding, stay as they are to the last bit."""
        inside = self.measure(images - x) <= self.eps + 255 * TOLERANCE
        inside &= (images >= 0).flatten(1).all(1) & (images <= 1).flatten(1).all(1)
        return torch.where(inside[:, None, None, None], images, super().project(images, x))

    def run(self, forward: Forward, x: Tensor, y: Tensor, noise: SampleNoise) -> tuple[Tensor, Tensor, Tensor]:
        model, y = input_gradients_only(forward), y.long()
        with torch.no_grad():
            logits = model(x)
        classes, alive = logits.shape[1], ~is_wrong(logits, y)
        images, stage = x.clone(), torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        if not bool(logits.isfinite().all()):  # the package would take them for misclassified; the base class does not
            return images, torch.full((len(x),), float("nan")), stage
        with preserved_globals() as warnings:
            for index, name in stages_for(self.stages, classes):
                rows = alive.nonzero().flatten()
                if not len(rows):
                    break
                attack = self._package_attack(model, name, classes, noise.batch_seed, x.device, warnings)
                attacked, predicted = evaluate(attack, x[rows], y[rows])
                broken = (predicted != y[rows]) & (attacked != x[rows]).flatten(1).any(1)
                images[rows[broken]] = attacked[broken].detach()
                stage[rows[broken]], alive[rows[broken]] = index, False
            left = (images == x).flatten(1).all(1).nonzero().flatten()
            if self.every and len(left):
                attack = self._package_attack(model, "apgd-ce", classes, noise.batch_seed, x.device, warnings)
                torch.manual_seed(noise.batch_seed)  # best-loss mode does not seed itself
                attack.apgd.loss = "ce"
                images[left] = attack.apgd.perturb(x[left], y[left], best_loss=True).detach()
        self._report(warnings.lines)
        with torch.no_grad():
            return images, self.objective.loss(model(images), logits, y), stage

    def _package_attack(
        self, model: Forward, stage: str, classes: int, seed: int, device: torch.device, warnings: WarningLines
    ) -> Any:
        """A fresh object of the package (its objects do not survive a second use) for one stage and K classes."""
        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        where = package()
        attack = where.AutoAttack(model, norm=norm, eps=self.radius, seed=seed, version=self.kind, device=device)
        attack.attacks_to_run = [stage]
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(TARGETS, classes - 1)
        if is_original(attack):  # it prints instead of logging
            attack.verbose = False
            attack.logger = attack.apgd.logger = attack.apgd_targeted.logger = warnings
        return attack

    def _report(self, warnings: list[str]) -> None:
        for line in dict.fromkeys(warnings):
            if "it is not possible to use" in line:  # about stages that stages_for() has replaced
                continue
            if "randomized defense" in line and self.kind != "rand":
                raise AttackError(
                    f"{self.name}: the attacked model gives other logits each time; attack it with aa-rand@{self.eps:g}"
                )
            log.warning("%s: %s", self.name, line)


@ATTACKS.add
class AutoAttack(_Standard):
    """The standard version: APGD on cross-entropy, targeted APGD and FAB with nine targets, 5,000 queries of Square."""

    name = "aa"
    summary = "AutoAttack, standard version (APGD-CE, APGD-T, FAB-T, Square)"
    stages = ("apgd-ce", "apgd-t", "fab-t", "square")


@ATTACKS.add
class AutoAttackRand(_Standard):
    """The version for random defenses: every gradient a mean over 20 draws."""

    name = "aa-rand"
    summary = "AutoAttack for random defenses (APGD-CE and APGD-DLR, 20 draws per gradient)"
    stages = ("apgd-ce", "apgd-dlr")
    kind = "rand"


@ATTACKS.add
class APGDPair(_Standard):
    """The first two stages of the standard version, as much of the field evaluates CLIP (RobustVLM)."""

    name = "apgd-ce-t"
    summary = "the first half of AutoAttack (APGD-CE, APGD-T)"
    stages = ("apgd-ce", "apgd-t")


class _OneStage(_Standard):
    """One stage of AutoAttack with a number of steps of its own."""

    default_objective = "margin"

    def __init__(self, *, eps: float, steps: int, norm: str = "linf", every: bool = False) -> None:
        super().__init__(eps=eps, norm=norm, every=every)
        if steps < 1:
            raise AttackError(f"steps={steps}: at least 1")
        self.steps = steps

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"steps": self.steps}

    def _package_attack(self, *arguments: Any) -> Any:
        attack, steps = super()._package_attack(*arguments), self.steps
        attack.apgd.n_iter = attack.square.n_queries = steps
        (
            attack.apgd.n_iter_2,
            attack.apgd.n_iter_min,
            attack.apgd.size_decr,
        ) = (  # its checkpoints, as shares of the steps
            max(int(share * steps), 1) for share in (0.22, 0.06, 0.03)
        )
        return attack


@ATTACKS.add
class APGD(_OneStage):
    """APGD on cross-entropy, from one random start."""

    name = "apgd-ce"
    summary = "APGD-CE alone, with a number of steps"
    stages = ("apgd-ce",)
    default_steps = 100


@ATTACKS.add
class Square(_OneStage):
    """Square (Andriushchenko et al., ECCV 2020): random squares, no gradient; ``steps`` are queries."""

    name = "square"
    summary = "Square alone, with a number of queries and no gradient"
    stages = ("square",)
    default_steps = 5000


def stages_for(stages: tuple[str, ...], classes: int) -> list[tuple[int, str]]:
    """The stages that exist for so many classes, with their index. Three classes are too few for the targeted DLR loss,
    which the untargeted one replaces; two are too few for either, and targeted FAB has one target then."""
    if classes < 2:
        raise AttackError(f"AutoAttack needs at least two classes, got {classes}")
    existing = []
    for index, name in enumerate(stages):
        if name == "apgd-t" and classes == 3:
            name = "apgd-dlr"
        if classes > 2 or name not in ("apgd-t", "apgd-dlr"):
            existing.append((index, name))
    return existing


def is_original(attack: Any) -> bool:
    """Whether the object is of the original package ``autoattack``."""
    return hasattr(attack, "is_tf_model")


def evaluate(attack: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Images and predicted labels of one run of the package over one batch."""
    arguments = {"bs": len(x), "return_labels": True} if is_original(attack) else {"batch_size": len(x)}
    images, predicted = attack.run_standard_evaluation(x, y, **arguments)
    return images, predicted


class WarningLines(logging.Handler):
    """Collects the package's warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def log(self, text: str) -> None:
        """Called by the original package, which has its own logger."""
        if "warning" in text.lower():
            self.lines.append(text)


@contextlib.contextmanager
def preserved_globals() -> Iterator[WarningLines]:
    """Restore the global state that AutoAttack changes: the random state (of the CPU, and of the current CUDA device if
    CUDA is in use), the trace function, and the counters of its check for dynamic defenses, which outlive a model."""
    counters = importlib.import_module(f"{package().__name__}.checks").funcs
    zeros, warnings, logger = dict.fromkeys(counters, 0), WarningLines(), logging.getLogger(LOGGER)
    cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with contextlib.ExitStack() as undo, torch.random.fork_rng(devices=cuda):
        undo.callback(sys.settrace, sys.gettrace())
        undo.callback(counters.update, zeros)
        undo.callback(logger.removeHandler, warnings)
        undo.callback(setattr, logger, "propagate", logger.propagate)
        undo.callback(setattr, torch.cuda.random, "manual_seed", torch.cuda.random.manual_seed)
        if not cuda:  # else its seed would stay for when CUDA is first used
            torch.cuda.random.manual_seed = lambda seed: None
        counters.update(zeros)
        logger.addHandler(warnings)
        logger.propagate = False
        yield warnings


class _InputGradient(torch.autograd.Function):
    """A function whose backward pass reaches its input and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            ctx.inner = x.detach().requires_grad_()
            ctx.output = function(ctx.inner)
        return ctx.output.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inner_gradient,) = torch.autograd.grad(ctx.output, ctx.inner, gradient, retain_graph=True)
        return inner_gradient, None


def input_gradients_only(forward: Forward) -> Forward:
    """``forward`` such that ``backward()`` through it leaves no gradient on any parameter, and whose logits may be
    written into (FAB does the one, Square the other)."""

    def model(x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _InputGradient.apply(x, forward)
        with torch.no_grad():
            return forward(x).clone()

    return model
