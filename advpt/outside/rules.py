"""What a model must be so that its numbers can stand beside others: each rule is tried on some of the images."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.card import CLIP_MEAN, CLIP_STD
from advpt.data.images import ImageSet
from advpt.errors import AdvPTError, ModelError
from advpt.outside.model import VARIANT, Logits, OutsideModel, raised

IMAGES = 8  # that answers are compared on
RANGE_IMAGES = 64  # that ranges of pixels are compared on
REPEAT = 1e-5  # largest difference of two calls, as a share of the largest logit
OTHERS = 1e-3  # largest difference alone, in another order, and after other images: kernels round by the batch's shape
RANGE_P = 1e-3  # of an exact one-sided McNemar test
SUMS = 1e-4  # how far from 1 the probabilities of an image may sum up
SUMS_OF_HALVES = 1e-2  # likewise, computed in half precision
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Rule:
    """A rule that a model keeps: what must hold, and what was measured."""

    name: str
    text: str
    measured: str


@dataclass(frozen=True, eq=False)
class Checked:
    """A model that keeps all rules.

    Args:
        rules: what was tried. pixels, answers: images ``[n, 3, h, w]`` and their logits, for :func:`still_answers`.
        gradients: by path ("" for the model, "undefended", names of variants) the mean size of the gradient of an
            image's cross-entropy, of those that have one. without: of the others, why.
        log_probabilities: whether logits are logarithms of probabilities.
    """

    rules: tuple[Rule, ...]
    pixels: Tensor
    answers: Tensor
    gradients: Mapping[str, float] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    log_probabilities: bool = False

    @property
    def differentiable(self) -> bool:
        """Whether attackers who do not know the defense have a gradient."""
        return bool(self.gradients)


def check(model: OutsideModel, images: ImageSet) -> Checked:
    """Try every rule on the first images. The model's modules are frozen (:func:`~advpt.outside.identity.frozen`).

    Raises:
        ModelError: the first rule that is broken, with what was measured.
    """
    some = images.first(RANGE_IMAGES)
    batch = next(some.batches(range(len(some)), len(some)))
    pixels, labels = batch.pixels.to(model.device), batch.labels.to(model.device)
    few, rules = pixels[:IMAGES], list[Rule]()
    gradients, without = dict[str, float](), dict[str, str]()
    with torch.no_grad():
        for what in model.paths:
            function = _function(model, what)
            where = f"{model.name}{f', {what}' if what else ''}"
            before = _random_states()
            answers = _kept(function, few, where)
            if model.seed is None and _random_states() != before:
                raise ModelError(
                    f"{where} draws random numbers and states no seed; draw them from a generator of a seed that the "
                    "pixels of each image decide, and state it as its seed"
                )
            _outputs(answers, len(images.classnames), where)
            rules += _same(function, few, answers, what, where)
        answers = _kept(model, few, model.name)
    for what in model.paths:
        size = _gradient(_function(model, what), few, labels[:IMAGES])
        (gradients if isinstance(size, float) else without)[what] = size  # type: ignore[assignment]
    _require_gradients(model, gradients, without)
    with torch.no_grad():
        logits = torch.cat([_kept(model, part, model.name) for part in pixels.split(IMAGES)])
        log_probabilities = _outputs(logits, len(images.classnames), model.name)
        rules.append(_range(model, pixels, labels, logits))
        checked = Checked(tuple(rules), few, answers, gradients, without, log_probabilities)
        return Checked((*rules, still_answers(model, checked)), few, answers, gradients, without, log_probabilities)


@torch.no_grad()
def still_answers(model: OutsideModel, checked: Checked) -> Rule:
    """The rule that a model gives the first images the same answers after all others. Raises ModelError."""
    difference = _difference(checked.answers, model(checked.pixels))
    if difference > OTHERS:
        raise ModelError(
            f"{model.name} gives the first images other logits after other images (difference {difference:.2g} of the "
            f"largest logit, at most {OTHERS:g}): it keeps something between images. Reset it in every call"
        )
    return Rule("memory", "the same answers after other images, their gradients included", f"{difference:.2g}")


def _random_states() -> list[str]:
    """The global states that random numbers are drawn from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    states = [each.numpy().tobytes() for each in (torch.get_rng_state(), *cuda)]
    of_numpy = [np.asarray(each).tolist() for each in np.random.get_state()]
    own = (repr(random.getstate()).encode(), repr(of_numpy).encode())
    return [hashlib.sha256(each).hexdigest() for each in (*states, *own)]


def _function(model: OutsideModel, what: str) -> Logits:
    if not what:
        return model
    return model.embed if what == "undefended" else model.through(what.removeprefix(VARIANT))


def _kept(function: Logits, pixels: Tensor, where: str) -> Tensor:
    """Logits of pixels that must be as before afterwards."""
    given = pixels.clone()
    logits = function(given).detach().clone()
    if not torch.equal(given, pixels):
        raise ModelError(f"{where} changes the pixels that it is given; work on a copy (sub, not sub_)")
    return logits


def _outputs(logits: Tensor, classes: int, where: str) -> bool:
    """Whether logits are log-probabilities. Raises ModelError for what are no logits of these classes."""
    if logits.shape[1] != classes:
        raise ModelError(
            f"{where} gives {logits.shape[1]} logits, and the images have {classes} classes; give a model of these"
        )
    if not bool(logits.isfinite().all()):
        raise ModelError(
            f"{where} gives logits that are not finite; look at its weights and at the range of its pixels"
        )
    if classes < 2:
        return False
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < SUMS_OF_HALVES).all()):
        raise ModelError(
            f"{where} gives probabilities (none is negative, and each image's sum up to 1); expected logits, as "
            "rounding to 0 and 1 hides the gradient: leave the softmax out"
        )
    return bool((logits <= 0).all()) and bool((logits.logsumexp(1).abs() < SUMS).all())


def _same(function: Logits, pixels: Tensor, answers: Tensor, what: str, where: str) -> list[Rule]:
    """The rules that an image has one answer."""
    about = f" ({what})" if what else ""
    again = _difference(answers, function(pixels.clone()))
    if again > REPEAT:
        raise ModelError(
            f"{where} gives the same pixels other logits in a second call (difference {again:.2g} of the largest "
            f"logit, at most {REPEAT:g}): it draws anew, or keeps something between calls. Draw from a seed that the "
            "pixels of each image decide, and state it as its seed"
        )
    others = 1 - pixels
    ways: dict[str, Callable[[], Tensor]] = {
        "alone": lambda: torch.cat([function(pixels[i : i + 1].clone()) for i in range(len(pixels))]),
        "in another order": lambda: function(pixels.flip(0)).flip(0),
        "beside other images": lambda: function(torch.cat([others, pixels]))[len(pixels) :],
        "after other images": lambda: (function(others.clone()), function(pixels.clone()))[1],
    }
    most = 0.0
    for way, call in ways.items():
        difference = _difference(answers, call())
        most = max(most, difference)
        if difference > OTHERS:
            raise ModelError(
                f"{where} gives an image other logits {way} (difference {difference:.2g} of the largest logit, at most "
                f"{OTHERS:g}): what it says of an image must depend on that image alone. Batch norm belongs in "
                "evaluation mode, and nothing may be kept from one image to the next"
            )
    return [
        Rule(
            f"repeats{about}", f"the same pixels have the same logits in a second call, to {REPEAT:g}", f"{again:.2g}"
        ),
        Rule(f"by image{about}", f"so has an image {', '.join(ways)}, to {OTHERS:g}", f"{most:.2g}"),
    ]


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of logits as a share of the largest one of a class that an image could be taken for (the
    two with the largest logits: others may be masked); infinity for what cannot be compared."""
    if one.shape != other.shape or not bool(other.isfinite().all()):
        return math.inf
    leading = one.topk(min(2, one.shape[1]), dim=1).values
    return float((one - other).abs().max() / leading.abs().max().clamp_min(1e-12))


def _gradient(function: Logits, pixels: Tensor, labels: Tensor) -> float | str:
    """The mean size of the gradient of an image's cross-entropy at its pixels; in words why there is none."""
    with torch.enable_grad():
        x = pixels.clone().requires_grad_()
        try:
            logits = function(x)
            if not logits.requires_grad:
                return "its logits do not require a gradient"
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except (AdvPTError, RuntimeError) as error:
            return raised(error.__cause__ or error)
    if gradient is None:
        return "its logits do not depend on the pixels"
    if not bool(gradient.isfinite().all()):
        return "its gradient is not finite"
    return float(gradient.flatten(1).norm(dim=1).mean())


def _require_gradients(model: OutsideModel, gradients: Mapping[str, float], without: Mapping[str, str]) -> None:
    for what, why in without.items():
        if what:
            raise ModelError(f"{model.name}, {what}, has no gradient to follow: {why}; mend it, or leave it out")
    if "" in without and model.variants and model.undefended is None:
        raise ModelError(
            f"{model.name} has variants, and no gradient of its own ({without['']}), so that nothing stands for an "
            "attacker who does not know its defense; give its model without the defense as undefended"
        )


def _range(model: OutsideModel, pixels: Tensor, labels: Tensor, logits: Tensor) -> Rule:
    """The rule that pixels lie in [0, 1]: no other range gives significantly more right answers."""
    right = logits.argmax(1) == labels
    measured = [f"[0, 1] {int(right.sum())}"]
    for name, change in RANGES.items():
        try:
            other = torch.cat([model(change(part)) for part in pixels.split(IMAGES)]).argmax(1) == labels
        except AdvPTError:  # a model may well refuse such pixels
            measured.append(f"{name} refused")
            continue
        gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
        p = binomial_tail(gained, gained + lost)
        measured.append(f"{name} {int(other.sum())}")
        if gained > lost and p < RANGE_P:
            raise ModelError(
                f"{model.name} is right on {int(right.sum())} of {len(right)} images with pixels in [0, 1], and on "
                f"{int(other.sum())} with pixels {name} (exact McNemar test, p = {p:.1g}, below {RANGE_P:g}): it was "
                "made for these. Let it take pixels in [0, 1], and change them itself"
            )
    text = f"no other range of pixels has significantly more right answers (exact McNemar test, p < {RANGE_P:g})"
    return Rule("range", text, f"right of {len(right)}: {', '.join(measured)}")


def binomial_tail(k: int, n: int) -> float:
    """The probability of ``k`` or more heads among ``n`` throws of a fair coin."""
    return sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n


def _normaliser(mean: tuple[float, ...], std: tuple[float, ...]) -> Logits:
    def normalise(pixels: Tensor) -> Tensor:
        return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]

    return normalise


RANGES: dict[str, Logits] = {
    "in 0 .. 255": lambda pixels: 255 * pixels,
    "normalised as for ImageNet": _normaliser(IMAGENET_MEAN, IMAGENET_STD),
    "normalised as for CLIP": _normaliser(CLIP_MEAN, CLIP_STD),
}
