"""Methods (and defenses) x threats: clean and robust accuracy side by side, and how sure their differences are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from advpt.evaluation.record import Record, outcome
from advpt.evaluation.statistics import Difference, paired_bootstrap

Column = tuple[str, str]  # protocol, attack as it was asked for
ORDER = ("ZeroshotCLIP", "CoOp", "AdvPT")


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
        names = {r.result["trainer"] for r in self.records}
        return [n for n in ORDER if n in names] + sorted(names - set(ORDER))

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
            if r["trainer"] != method or _defense(r) != defense:
                continue
            if column is None:
                found[r["seed"]] = r["clean"]
            elif r["robust"] is not None and (r["protocol"], _asked(r["attack"])) == column:
                found[r["seed"]] = r["robust"]
        return found


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


def cell(parts: dict[int, dict[str, Any]]) -> str:
    """Mean over seeds in percent, with the standard deviation where there are several and they differ (of a single run
    behind a random defense, that over the defense's draws); where the attack left images untouched, their share and the
    accuracy on the others."""
    if not parts:
        return "not run"
    values = np.array([part["accuracy"] for part in parts.values()])
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 and values.std() > 0 else ""
    if len(values) == 1 and (deviation := next(iter(parts.values())).get("deviation")):
        spread = f" ± {deviation:.1f}"
    text = f"{values.mean():.1f}{spread}"
    if untouched := np.mean([part.get("untouched", 0.0) for part in parts.values()]):
        others = [part["on_perturbed"]["accuracy"] for part in parts.values() if part.get("on_perturbed")]
        rest = f", {np.mean(others):.1f} on the others" if others else ""
        text += f" ({untouched:.0f} % untouched{rest})"
    return text


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
            rows.append(
                [method, *([defense or "none"] if shown else []), ",".join(str(s) for s in sorted(clean)), cell(clean)]
                + [cell(group.parts(method, column, defense)) for column in group.columns]
            )
    text = tabulate(rows, headers=heads, tablefmt=style, disable_numparse=True)
    advpt = [r.result["config"] for r in group.records if r.result["trainer"] == "AdvPT"]
    banks = sorted({str(config["BANK.ATTACK"]) for config in advpt if "BANK.ATTACK" in config})
    caption = (
        f"{group.dataset}, {group.split} split, {group.images} images, {group.backbone}; accuracy in %, mean ± standard"
        f" "
        f"deviation over seeds. Budgets in 1/255" + (f"; AdvPT's training bank: {', '.join(banks)}." if banks else ".")
    )
    if shown:
        caption += " Transfer attackers do not know the defense, adaptive ones attack through it."
    official = {r.result.get("comparable", True) for r in group.records}
    if False in official:
        caption += " Not the official split: these numbers compare with nothing published."
    elif None in official:
        caption += " Whether this is the official split is unknown."
    said = dict.fromkeys(
        f"WARNING {r['trainer']}, seed {r['seed']}: {line}"
        for r in (x.result for x in group.records)
        for line in r.get("warnings", [])
    )
    return "\n\n".join([caption, text, *(["\n".join(said)] if said else [])])


def compare(group: Group, one: str, other: str, column: Column | None) -> Difference | None:
    """Paired difference ``one - other`` over their common seeds; a method without a seed of its own is paired with
    all."""
    a, b = group.parts(one, column), group.parts(other, column)
    if not a or not b:
        return None
    if len(a) == 1 or len(b) == 1:
        seeds = sorted(a.keys() if len(a) >= len(b) else b.keys())
    else:
        seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None

    def stack(parts: dict[int, dict[str, Any]]) -> np.ndarray:
        only = next(iter(parts.values()))
        return np.stack([outcome(parts.get(seed, only)) for seed in seeds])

    return paired_bootstrap(stack(a), stack(b))


def render_comparisons(group: Group) -> str:
    """AdvPT against the others, in points, for clean and the first transfer attack and the adaptive ones."""
    lines = []
    for other in group.methods:
        if other == "AdvPT" or "AdvPT" not in group.methods:
            continue
        for column in [None, *group.columns]:
            d = compare(group, "AdvPT", other, column)
            if d is None:
                continue
            what = "clean" if column is None else f"robust: {column[0]}, {column[1]}"
            lines.append([f"AdvPT - {other}", what, f"{d.mean:+.1f}", f"{d.low:+.1f} to {d.high:+.1f}"])
    if not lines:
        return ""
    heads = ["difference", "accuracy", "points", "95 % interval"]
    note = "Paired bootstrap over seeds and images (10,000 draws)."
    return f"{note}\n\n{tabulate(lines, headers=heads, tablefmt='github', disable_numparse=True)}"
