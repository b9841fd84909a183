"""Short words for a first reader: what the terms of a page mean, and what stands under the heads of its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from advpt.evaluation.intervals import STATEMENT
from advpt.evaluation.protocols import KNOWS, KNOWS_NOTHING, NOT_KNOWN
from advpt.evaluation.record import Record
from advpt.results.exhibit import Table
from advpt.results.render import LEGEND
from advpt.results.values import NO_CELL, FilledTable, Value

# What the attacker of each protocol knows, for heads and figures; KNOWS has the whole of it.
SHORT = {
    "": "no attack",
    "transfer": "the attacker does not know the tuned prompt",
    "transfer-all": "as transfer, and every image is changed",
    "untuned": "the attacker knows the encoders before training",
    "static": "the attacker knows the prompt, not the defense",
    "pseudo": "as static, but without the labels",
    "tuned": "the attacker knows one tuning at test time",
    "adaptive": "the attacker knows everything",
}
APART = {KNOWS_NOTHING: "the attacker has a network of its own", NOT_KNOWN: "the images were made elsewhere"}
METHODS = {
    "ZeroshotCLIP": "CLIP with a hand-written prompt: nothing is tuned.",
    "vanilla": "CLIP with a hand-written prompt (zero-shot): nothing is tuned.",
    "CoOp": "a prompt tuned on clean images.",
    "AdvPT": "a prompt tuned on attacked images, on their embeddings.",
}
# Under the heads of the columns before the numbers.
HEADS = {
    "backbone": "the CLIP",
    "attack": "what changes the images",
    "protocol": "what the attacker knows",
    "defense": "what is done to each image first",
    "method": "where the prompt comes from",
    "seeds": "of the training",
    "tower": "the image tower",
    "prompt": "where it comes from",
    "training (s)": "mean of the runs",
    "won by": "the strongest of the adaptive attacks",
    "passes": "through CLIP, per image",
    "ms": "per image",
}


def apart_from_clip(attacker_knows: str | None) -> str:
    """What a record says of an attacker that is not in the name of its protocol."""
    return APART.get(attacker_knows or "", "")


def under_heads(filled: FilledTable) -> list[str]:
    """A few words for each column of numbers: what the attacker knows, or on how many images (n)."""
    table = filled.table
    return [
        _attacker(table, head) if head in table.conditions else _images(line[column] for line in filled.values)
        for column, head in enumerate(table.columns)
    ]


def _attacker(table: Table, head: str) -> str:
    condition = table.conditions[head]
    return condition.about or SHORT.get(condition.protocol, "")


def _images(values: Iterable[Value]) -> str:
    """``n = 200``, or the least and the most."""
    counts = sorted({value.runs.images for value in values if value.runs is not None})
    if not counts:
        return ""
    return f"n = {counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")


def _knows(text: str) -> str:
    return f"{text}." if text.startswith("as ") else f"the attacker knows {text}."


def explained(tables: Sequence[FilledTable], records: Sequence[Record]) -> list[tuple[str, str]]:
    """The terms that are on a page, and what each means."""
    values = [value for table in tables for line in table.values for value in line]
    protocols = {record.result.protocol for record in records if record.result.protocol}
    for table in tables:
        protocols |= {row.protocol for row in table.table.rows} | {c.protocol for c in table.table.conditions.values()}
    attacked = [name for name in KNOWS if name in protocols]
    methods = {row.method for table in tables for row in table.table.rows}
    terms = [("accuracy", "percent of the test images (n of them) that get their true class.")]
    terms += [("clean", "images as they are, without an attack.")]
    if attacked:
        text = "how much the attacker may change each pixel, in steps of 1/255: 8/255 is 8 of the 255 levels."
        terms += [("budget", text)]
        terms += [(name, _knows(KNOWS[name])) for name in attacked]
    terms += [(name, about) for name, about in METHODS.items() if name in methods]
    if any(value.interval is not None for value in values):
        terms += [("[85.1, 90.0]", STATEMENT)]
        terms += [("seeds", "how a run was started; a number is the mean over the runs of these seeds.")]
    if any(value.untouched for value in values):
        text = (
            "share of the images that the attack left as they were, as the model that it attacks gets them wrong "
            "anyway; beside it the accuracy on the others."
        )
        terms += [("untouched", text)]
    if any(table.has_paper for table in tables):
        terms += [("paper", "the published number, and ours minus it in points.")]
    if any(value.runs is None and value.state != NO_CELL for value in values):
        terms += [("words", LEGEND)]
    return terms
