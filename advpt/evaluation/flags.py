"""Signs that a robust number says less than it seems, as short words for records and tables."""

from __future__ import annotations

from collections.abc import Sequence

from advpt.evaluation.record import CleanAccuracy, PartAccuracy, RobustAccuracy

LABEL_LEAK = "robust above clean"
MASKED = "adaptive weaker than static"
VANISHING = "gradient vanishes"
PARTLY_CLEAN = "images partly clean"
BATCH = "depends on batch"
NO_GRADIENT = "no gradient"
FLAGS = {
    LABEL_LEAK: "attacked images carry their label: more of them are correct than of the clean ones",
    MASKED: "attacks through the defense's own gradients leave more images correct than those that know nothing of it",
    VANISHING: "a gradient through the defense is below a millionth of the undefended model's",
    PARTLY_CLEAN: "the attack left some images as they were",
    BATCH: "an image's answer depends on the images beside it",
    NO_GRADIENT: "the model has no gradient: only attacks that ask it for answers were made",
}
SQUARE = "Square"  # name of the part of an adaptive number that needs no gradient
VANISHED = 1e-6  # of the undefended model's gradient


def flags(clean: CleanAccuracy, robust: RobustAccuracy | None, depends_on_batch: bool) -> tuple[str, ...]:
    """The flags of a result, in the order of :data:`FLAGS`; ``robust`` None: of clean images alone."""
    raised = {BATCH: depends_on_batch}
    if robust is not None:
        raised[LABEL_LEAK] = robust.accuracy > clean.accuracy
        raised[MASKED] = weaker_than_static(robust.parts)
        raised[VANISHING] = any(part.gradient is not None and part.gradient < VANISHED for part in robust.parts)
        raised[PARTLY_CLEAN] = robust.untouched > 0
        raised[NO_GRADIENT] = has_no_gradient(robust.parts)
    return tuple(flag for flag in FLAGS if raised.get(flag))


def has_no_gradient(parts: Sequence[PartAccuracy]) -> bool:
    """Whether an attacker who knows everything had Square alone: a model without a gradient."""
    return [part.name for part in parts] == [SQUARE]


def weaker_than_static(parts: Sequence[PartAccuracy]) -> bool:
    """Whether the strongest attack through gradients from a start of its own, on all images, leaves more than the
    static images (the first part)."""
    own = [part.accuracy for part in own_attacks(parts)]
    return bool(own) and min(own) > parts[0].accuracy


def own_attacks(parts: Sequence[PartAccuracy]) -> list[PartAccuracy]:
    """The attacks through the defense, from a start of their own, on all images."""
    own = [part for part in parts[1:] if not part.left and not part.undefended]
    return [part for part in own if "from static" not in part.name]
