"""Signs that something failed without an error. Pure rules: numbers in, a sentence for ``warnings`` of a record out, ""
where all is well."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

STUCK = 1e-3  # relative change of the training loss over all epochs
STUCK_EPOCHS = 3  # warm-up and one more are too few to judge by
CHANCE, CONSISTENT = 0.95, 0.01
CLEAN_CE, CONSISTENCY = "ce_clean", "consistency"  # names of these two among the losses of a batch
ROWS_AT_ONCE = 8192
NAMED = 5  # classes of one prompt that a sentence names
UNTUNED = "test-time tuning changed no prediction"


def collapsed(clean_ce: Sequence[float], consistency: Sequence[float], classes: int) -> str:
    """The collapse of adversarial prompt tuning: in every batch of a whole epoch the clean cross-entropy is that of
    guessing, above 0.95 ln C, while clean and attacked predictions agree, a consistency loss below 0.01 (issue 3 of the
    code of Zhou et al., NeurIPS 2024: EuroSAT, C = 10, 2.27 to 2.30 against ln 10 = 2.3026).

    Args:
        clean_ce, consistency: one value per batch of the epoch, natural logarithms. classes: C.
    """
    if not clean_ce or len(clean_ce) != len(consistency) or classes < 2:
        return ""
    least, guessing = min(clean_ce), math.log(classes)
    if least <= CHANCE * guessing or max(consistency) >= CONSISTENT:
        return ""
    return (
        f"tuning collapsed: for a whole epoch the clean cross-entropy was {least:.4g} or more (guessing among "
        f"{classes} classes has {guessing:.4g}) while clean and attacked predictions agreed (consistency below "
        f"{CONSISTENT}): every image gets the same answer. Lower OPTIM.LR or the weight of the consistency term"
    )


def stuck(losses: Sequence[float]) -> str:
    """A training loss that does not move. ``losses``: the mean of each epoch, from the first."""
    finite = all(map(math.isfinite, losses))
    if len(losses) < STUCK_EPOCHS or not finite or max(losses) - min(losses) > STUCK * abs(losses[0]):
        return ""
    return (
        f"the training loss did not move: {losses[0]:.6g} in the first epoch, {losses[-1]:.6g} after {len(losses)}; "
        "look at OPTIM.LR, and whether gradients reach the prompt"
    )


def bank_rows(embeddings: Tensor, ids: Sequence[str], votes: bool = False) -> list[str]:
    """Warnings about rows of a bank (``embeddings [n, L]`` float32, with the images' ids) that have norm 0, are not
    finite, or equal another row; ``votes``: they are counts, which may well be equal."""
    warnings = []
    norms = embeddings.norm(dim=1)
    for what, bad in (("are not finite", ~torch.isfinite(norms)), ("have norm 0", norms == 0)):
        if rows := bad.nonzero().flatten().tolist():
            warnings.append(f"{len(rows)} of {len(ids)} embeddings {what}, the first of {ids[rows[0]]}")
    if not votes and (twice := repeats(embeddings)):
        one, other = twice[0]
        warnings.append(
            f"{len(twice)} of {len(ids)} embeddings equal another one bit by bit, {ids[other]} that of {ids[one]}: "
            "the same image twice, or an encoder that looks away"
        )
    return warnings


def repeats(embeddings: Tensor) -> list[tuple[int, int]]:
    """(earlier row, row) for every row of ``[n, L]`` float32 that repeats an earlier one exactly."""
    if not len(embeddings):
        return []
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (embeddings.shape[1],), generator=generator)
    bits = embeddings.contiguous().view(torch.int32)
    keys = torch.cat([(part.long() * weights).sum(1) for part in bits.split(ROWS_AT_ONCE)])
    first: dict[int, int] = {}
    pairs = []
    for row, key in enumerate(keys.tolist()):
        if (earlier := first.setdefault(key, row)) != row and torch.equal(bits[earlier], bits[row]):
            pairs.append((earlier, row))
    return pairs


def same_prompts(classnames: Sequence[str], prompts: Sequence[Hashable]) -> list[str]:
    """Warnings about classes with the same prompt (its tokens), which no classifier can distinguish."""
    groups: dict[Hashable, list[int]] = {}
    for label, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(label)
    return [
        "one prompt for several classes: "
        + ", ".join(f"{classnames[label]!r} (label {label})" for label in labels[:NAMED])
        + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")
        + " read the same, so none of them can be told from the others; give them different names"
        for labels in groups.values()
        if len(labels) > 1
    ]


def idle_tuning(images: int, which: str, settings: str) -> str:
    """The warning that every image is classified as without tuning at test time. ``which``: the images, in words;
    ``settings``: the node of the tuning."""
    return (
        f"{UNTUNED}: all {images} images, {which}, are classified as without it; its number says nothing about tuning. "
        f"Look at {settings}.LR and {settings}.STEPS"
    )


@dataclass
class LossWatch:
    """Watches the losses of every batch of a run: :func:`stuck` and :func:`collapsed`. A resumed run warns as an
    uninterrupted one.

    Args:
        epochs: mean loss of each finished epoch.
        collapse: the first epoch (from 1, 0 for none) that showed a collapse, and the sentence.
        batches: the losses of the current epoch.
    """

    classes: int = 0
    epochs: list[float] = field(default_factory=list)
    collapse: tuple[int, str] = (0, "")
    batches: dict[str, list[float]] = field(default_factory=dict)

    def batch(self, losses: Mapping[str, Any] | None) -> None:
        """Add the losses of a batch, as a trainer's ``forward_backward`` returns them."""
        for name in ("loss", CLEAN_CE, CONSISTENCY):
            if losses and name in losses:
                self.batches.setdefault(name, []).append(float(losses[name]))

    def epoch_over(self) -> None:
        """Finish the current epoch."""
        loss = self.batches.get("loss", [])
        self.epochs.append(math.fsum(loss) / max(1, len(loss)))
        sentence = collapsed(self.batches.get(CLEAN_CE, []), self.batches.get(CONSISTENCY, []), self.classes)
        if sentence and not self.collapse[0]:
            self.collapse = len(self.epochs), sentence
        self.batches = {}

    def state(self) -> dict[str, Any]:
        """The state that :meth:`go_on` reads, as JSON values; a loss that is not finite as None."""
        finite = [value if math.isfinite(value) else None for value in self.epochs]
        return {"epochs": finite, "collapse": list(self.collapse)}

    def go_on(self, saved: Mapping[str, Any], done: int) -> None:
        """Restore the state after the first ``done`` epochs."""
        self.epochs = [math.nan if value is None else float(value) for value in saved.get("epochs", [])][:done]
        epoch, sentence = saved.get("collapse", (0, ""))
        self.collapse = (int(epoch), str(sentence)) if 0 < int(epoch) <= done else (0, "")

    def warnings(self) -> list[str]:
        epoch, sentence = self.collapse
        return [s for s in (stuck(self.epochs), f"epoch {epoch}: {sentence}" if sentence else "") if s]
