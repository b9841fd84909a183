"""A folder of records, and the report of a small table of them."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path

import torch

from advpt.evaluation import record as records
from advpt.evaluation.record import Record
from advpt.results.exhibit import (
    CLEAN,
    Cell,
    Table,
    TableRow,
    robust,
)
from advpt.results.index import Run
from advpt.results.published import PaperCell
from advpt.results.report import write
from tests.helpers.records import accuracy

PGD = robust("pgd40-fkl@16")
NASTY = "<script>alert('x')</script>&\"dogs\""


def put(folder: Path, hits: int, robust_hits: int | None = None, *, n: int = 100, seed: int = 1, **more) -> Path:
    def part(k):
        return accuracy(torch.arange(n) < k)

    r = {
        "split": "test", "dataset": "OxfordPets", "trainer": "AdvPT", "seed": seed, "backbone": {"name": "ViT-B/16"},
        "images": {"n": n, "digest": "d", "part": False}, "clean": part(hits), "robust": None, "config": {},
        "protocol": None, "defenses": [], "comparable": True, "attack": None, "training": {},
    }  # fmt: skip
    if robust_hits is not None:
        r |= {"robust": part(robust_hits) | {"untouched": 0.0}, "protocol": PGD.protocol}
        r["attack"] = {"spec": PGD.attack, "asked": PGD.attack}
    observed = more.pop("observed", {})
    return records.write(Record.from_json(r | more, observed), folder)


def key(method: str, attack: str) -> PaperCell:
    return PaperCell("1", "ViT-B/16", "Pets", method, "none", attack)


class Small:
    """Two methods, three seeds of one of them, clean and under PGD; one folder per run. ``glance``: with the figure of
    its table, which takes longer than all else."""

    glance = False

    def __init__(self, top: Path) -> None:
        self.top = top
        self.runs = {"zs": Run("zs", top / "zs", 1, "done", "ZeroshotCLIP, pets")}
        put(top / "zs", 60, 20, trainer="ZeroshotCLIP")
        for seed in (1, 2, 3):
            name = f"adv{seed}"
            self.runs[name] = Run(name, top / name, seed, "done", f"AdvPT, pets, seed {seed}", top / f"{name}.log")
            put(top / name, 80 + seed, 50 + seed, seed=seed)

    def table(self) -> Table:
        adv = ("adv1", "adv2", "adv3")
        rows = [
            TableRow(
                "ViT-B/16",
                method,
                "none",
                attack,
                metric.protocol or "-",
                (Cell(runs, metric, key(method, attack)), None),
            )
            for attack, metric in (("clean", CLEAN), ("pgd40", PGD))
            for method, runs in (("vanilla", ("zs",)), ("AdvPT", adv))
        ]
        return Table("table1", f"Table 1 {NASTY}", f"About {NASTY}.", ("Pets", NASTY), tuple(rows), glance=self.glance)

    def report(self, *more):
        return write([self.table(), *more], self.runs, self.top / "report", title=NASTY, about=NASTY, top=self.top)

    def page(self) -> str:
        return (self.top / "report" / "index.html").read_text()

    def cells(self) -> dict[tuple[str, str], dict[str, str]]:
        with (self.top / "report" / "tables" / "table1.csv").open() as file:
            return {(row["method"], row["attack"]): row for row in csv.DictReader(file)}


def kinds(report) -> list[str]:
    return [note.kind for note in report.notes]


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.to, self.sources, self.tags = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.ids |= {found["id"]} if "id" in found else set()
        self.to += [found["href"]] if "href" in found else []
        self.sources += [found[name] for name in ("src", "srcset") if name in found]
