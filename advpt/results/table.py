"""Methods (and defenses) x threats: clean and robust accuracy side by side, and how sure their differences are."""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from advpt.additions import complete
from advpt.evaluation import record as records
from advpt.evaluation.defended import inexact_gradient
from advpt.evaluation.record import Record
from advpt.evaluation.run_folder import identity
from advpt.evaluation.statistics import STATEMENT, Interval, Runs, accuracy_interval, bounds_text, difference

Column = tuple[str, str]  # protocol, attack as it was asked for
TWIN = "CoOp, clean bank"  # where it stands beside a CoOp on augmented images
ORDER = ("ZeroshotCLIP", "CoOp", TWIN, "AdvPT")


@dataclass(frozen=True)
class Group:
    """Comparable records: one data set, split, image list and backbone."""

    dataset: str
    split: str
    backbone: str
    images: int
    records: tuple[Record, ...]

    @property
    def methods(self) -> list[str]:
        names = {self.method(r.result) for r in self.records}
        known = [n for n in ORDER if n in names]
        return known + sorted(names - set(known), key=_natural)

    @functools.cached_property
    def _augmented(self) -> bool:
        """Whether a CoOp on augmented images is among the records."""
        return any(r.result["trainer"] == "CoOp" and not _on_clean_bank(r.result) for r in self.records)

    @functools.cached_property
    def _shots(self) -> dict[str, set[int]]:
        """By trainer, the numbers of shots among the records."""
        shots: dict[str, set[int]] = defaultdict(set)
        for r in (x.result for x in self.records):
            shots[r["trainer"]].add(r.get("shots", -1))
        return shots

    def method(self, result: dict[str, Any]) -> str:
        """The trainer of a record; a CoOp on a clean bank has a name of its own beside one on augmented images, and so
        has each number of shots where there are several."""
        name = trainer = str(result["trainer"])
        if name == "CoOp" and self._augmented and _on_clean_bank(result):
            name = TWIN
        if len(self._shots[trainer]) > 1:
            shots = result.get("shots", -1)
            name += f", {shots} shots" if shots > 0 else ", all images"
        return name

    def trainer(self, method: str) -> str:
        """The trainer behind a row's name."""
        return next(str(r.result["trainer"]) for r in self.records if self.method(r.result) == method)

    def shots(self, method: str) -> set[int]:
        """The numbers of shots among a method's records; -1 for all images."""
        return {r.result.get("shots", -1) for r in self.records if self.method(r.result) == method}

    def mixtures(self) -> list[str]:
        """Cells that stand for runs of several settings: a sentence for each method and seed."""
        configs: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        for r in (x.result for x in self.records):
            config = identity(complete(r["config"]))
            if config not in (known := configs[self.method(r), r["seed"]]):
                known.append(config)
        sentences = []
        for (method, seed), kinds in sorted(configs.items()):
            names = sorted({k for c in kinds for k in c.keys() | kinds[0].keys() if c.get(k) != kinds[0].get(k)})
            if names:
                sentences.append(
                    f"WARNING {method}, seed {seed}: {len(kinds)} runs that differ in {', '.join(names[:6])} share a "
                    "row, and one of them is shown in each cell; name their folders one by one"
                )
        return sentences

    @property
    def defenses(self) -> list[str]:
        """The chains of defenses, "" for none first, in the order of their names."""
        return sorted({_defense(r.result) for r in self.records})

    @property
    def columns(self) -> list[Column]:
        """The threats, transfer before adaptive; in each by budget, AdvPT's own attack first, the worst case last."""
        rank = {"transfer": 0, "transfer-all": 1, "adaptive": 2}

        def place(attack: dict[str, Any]) -> tuple[Any, ...]:
            worst = attack.get("name") == "worst-case"
            return _eps(attack), worst, attack.get("objective") != "fkl", _asked(attack)

        found = {
            (r["protocol"], _asked(r["attack"])): (rank.get(r["protocol"], 9), *place(r["attack"]))
            for r in (x.result for x in self.records)
            if r["robust"] is not None
        }
        return sorted(found, key=found.__getitem__)

    def parts(self, method: str, column: Column | None, defense: str = "") -> dict[int, dict[str, Any]]:
        """By seed, the clean (column None) or robust part of a method's records behind a defense ("": none)."""
        found = {}
        for r in (x.result for x in self.records):
            if self.method(r) != method or _defense(r) != defense:
                continue
            if column is None:
                found[r["seed"]] = r["clean"]
            elif r["robust"] is not None and (r["protocol"], _asked(r["attack"])) == column:
                word = inexact_gradient(r.get("defense"))
                found[r["seed"]] = r["robust"] | ({"gradient": word} if word else {})
        return found

    def trained(self, method: str) -> bool:
        """Whether another seed would give other numbers."""
        return any(records.is_trained(r.result) for r in self.records if self.method(r.result) == method)

    def runs(self, method: str, column: Column | None, defense: str = "") -> Runs | None:
        """What :meth:`parts` finds, by seed; None where nothing was run."""
        parts = self.parts(method, column, defense)
        return records.runs(parts, self.trained(method)) if parts else None


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 4 shots before 16 shots."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", name)]


def _on_clean_bank(result: dict[str, Any]) -> bool:
    return bool(result["config"].get("TRAINER.COOP.CLEAN_BANK"))


def _defense(result: dict[str, Any]) -> str:
    return "+".join(result.get("defenses") or [])


def _eps(attack: dict[str, Any]) -> float:
    eps = attack.get("eps", 0.0)
    return float(eps) if isinstance(eps, int | float) else 0.0


def _asked(attack: dict[str, Any]) -> str:
    """The attack without what a defense made the attacker add."""
    return str(attack.get("asked", attack["spec"]))


def groups(found: Sequence[Record]) -> list[Group]:
    """Records that may stand in one table."""
    by: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    for record in found:
        r = record.result
        images = r.get("images") or {}
        by[r["dataset"], r["split"], r["backbone"]["name"], str(images.get("digest", ""))].append(record)
    return [
        Group(dataset, split, backbone, members[0].result["clean"]["n"], tuple(members))
        for (dataset, split, backbone, _), members in sorted(by.items())
    ]


def cell(parts: dict[int, dict[str, Any]], trained: bool = True, seeds: Collection[int] = ()) -> str:
    """Mean over seeds in percent with its 95 % interval; which seeds, where they are not those of the row (``seeds``,
    if given); of a single run behind a random defense also the standard deviation over the defense's draws; where the
    attack left images untouched, their share and the accuracy on the others; and what kind of gradient it is where the
    attacker had no other."""
    if not parts:
        return "not run"
    mean = accuracy_interval(records.runs(parts, trained))
    text = f"{mean.mean:.1f} {bounds_text(mean.low, mean.high, mean.images_only)}"
    if seeds and parts.keys() != set(seeds):
        text += f" (seed{'s' if len(parts) > 1 else ''} {_listed(parts)})"
    if len(parts) == 1 and (deviation := next(iter(parts.values())).get("deviation")):
        text += f" (± {deviation:.1f} over draws)"
    if untouched := np.mean([part.get("untouched", 0.0) for part in parts.values()]):
        others = [part["on_perturbed"]["accuracy"] for part in parts.values() if part.get("on_perturbed")]
        rest = f", {np.mean(others):.1f} on the others" if others else ""
        text += f" ({untouched:.0f} % untouched{rest})"
    for word in dict.fromkeys(part["gradient"] for part in parts.values() if part.get("gradient")):
        text += f" ({word})"
    return text


def _listed(seeds: Iterable[int]) -> str:
    """``1,2,5``, and ``1-10`` for a row of numbers without a gap."""
    numbers = sorted(seeds)
    if len(numbers) > 3 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))


def render(group: Group, style: str = "github") -> str:
    """One table with its caption: what the numbers are, how many images and seeds, which budgets."""
    shown = group.defenses != [""]
    heads = ["method", *(["defense"] if shown else []), "seeds", "clean"]
    heads += [f"robust: {protocol}, {spec}" for protocol, spec in group.columns]
    rows = []
    for method in group.methods:
        for defense in group.defenses:
            clean = group.parts(method, None, defense)
            if defense and not clean:
                continue
            parts = [group.parts(method, column, defense) for column in (None, *group.columns)]
            cells = [cell(part, group.trained(method), set(clean)) for part in parts]
            rows.append([method, *([defense or "none"] if shown else []), _listed(clean), *cells])
    text = tabulate(rows, headers=heads, tablefmt=style, disable_numparse=True)
    advpt = [r.result["config"] for r in group.records if r.result["trainer"] == "AdvPT"]
    banks = sorted({str(config["BANK.ATTACK"]) for config in advpt if "BANK.ATTACK" in config})
    caption = (
        f"{group.dataset}, {group.split} split, {group.images} images, {group.backbone}; accuracy in % "
        f"[95 % interval]. Budgets in 1/255" + (f"; AdvPT's training bank: {', '.join(banks)}. " if banks else ". ")
    ) + STATEMENT
    if shown:
        caption += " Transfer attackers do not know the defense, adaptive ones attack through it."
    official = {r.result.get("comparable", True) for r in group.records}
    if False in official:
        caption += " Not the official split: these numbers compare with nothing published."
    elif None in official:
        caption += " Whether this is the official split is unknown."
    own = dict.fromkeys(
        f"WARNING {r['trainer']}, seed {r['seed']}: {line}"
        for r in (x.result for x in group.records)
        for line in r.get("warnings", [])
    )
    warnings = [*own, *group.mixtures()]
    return "\n\n".join([caption, text, *(["\n".join(warnings)] if warnings else [])])


def compare(group: Group, one: str, other: str, column: Column | None) -> Interval | None:
    """The difference ``one - other`` of two methods without a defense; None where one was not run."""
    a, b = group.runs(one, column), group.runs(other, column)
    if a is None or b is None or not (a.correct and b.correct) or not a.images == b.images > 0:
        return None
    return difference(a, b)


def render_comparisons(group: Group) -> str:
    """AdvPT against the others, in points, for clean and the first transfer attack and the adaptive ones."""
    lines = []
    ours = [method for method in group.methods if group.trainer(method) == "AdvPT"]
    for one, other in itertools.product(ours, group.methods):
        if other in ours or (group.trained(other) and group.shots(other) != group.shots(one)):
            continue
        for column in [None, *group.columns]:
            d = compare(group, one, other, column)
            if d is None:
                continue
            what = "clean" if column is None else f"robust: {column[0]}, {column[1]}"
            lines.append([f"{one} - {other}", what, f"{d.mean:+.1f}", f"{d.low:+.1f} to {d.high:+.1f}", d.scope])
    if not lines:
        return ""
    heads = ["difference", "accuracy", "points", "95 % interval", "interval over"]
    note = (
        "Differences on the same images, paired by seed where both methods have the same seeds; 95 % intervals over "
        "seeds and images (variance components with Student's t, docs/statistics.md)."
    )
    return f"{note}\n\n{tabulate(lines, headers=heads, tablefmt='github', disable_numparse=True)}"
