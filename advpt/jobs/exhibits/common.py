"""What several exhibits share: rows beside published numbers, and sentences of captions."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt.jobs import methods
from advpt.jobs.builder import Builder
from advpt.jobs.setup import InputDefense, ReproductionSetup
from advpt.results.exhibit import Cell, Metric, TableRow
from advpt.results.published import PaperCell

NO_DEFENSE = "none"
UNDEFENDED = InputDefense(NO_DEFENSE, "", NO_DEFENSE)
_CAPTIONS: dict[str, str] = tomllib.loads(Path(__file__).with_name("captions.toml").read_text(encoding="utf-8"))


def caption(b: Builder, name: str, **facts: object) -> str:
    """A caption of ``captions.toml``, with the setup's values and further facts."""
    more = b.setup.caption(name)
    return _CAPTIONS[name].format(s=b.setup, more=more, transfer=_CAPTIONS["transfer"], **facts)


RunsOf = Callable[[str, str, str], tuple[str, ...]]  # ids of a method's runs on a data set and a backbone


@dataclass(frozen=True)
class Measured:
    """A number of a table: the attack's name in the paper, which number of a run it is, the runs that have it, and the
    defense."""

    attack: str
    metric: Metric
    runs: RunsOf
    behind: InputDefense = UNDEFENDED


def columns(setup: ReproductionSetup, datasets: Sequence[str]) -> tuple[str, ...]:
    """Heads of columns, as the paper calls the data sets."""
    return tuple(map(setup.column, datasets))


def panel(setup: ReproductionSetup, dataset: str, backbone: str) -> str:
    """The title of a figure's part."""
    return f"{setup.column(dataset)}, {setup.column(backbone)}"


def rows(
    b: Builder, tables: Mapping[str, str], datasets: Sequence[str], measured: Sequence[Measured]
) -> tuple[TableRow, ...]:
    """A row for each backbone, number and method. Published numbers stand under the method's, the defense's and the
    attack's names in the paper, which has no adaptive attackers.

    Args:
        tables: the methods, and the paper's table of each.
    """
    made, column = [], b.setup.column
    for backbone, each, (method, table) in itertools.product(b.setup.backbones, measured, tables.items()):
        name, adaptive, cells = methods.table_name(method), each.metric.protocol == "adaptive", []
        for dataset in datasets:
            published = None
            if each.behind.published and not adaptive:
                places = (column(backbone), column(dataset), name, each.behind.published)
                published = PaperCell(table, *places, each.attack)
            cells.append(Cell(each.runs(method, dataset, backbone), each.metric, published))
        attack = f"{each.attack} ({each.metric.attack})" if adaptive else each.attack
        protocol = each.metric.protocol or "-"
        made.append(TableRow(column(backbone), name, each.behind.name, attack, protocol, tuple(cells)))
    return tuple(made)


def recipe_facts(trainer: str, values: Mapping[str, object]) -> dict[str, str]:
    """What a trainer's settings say of the training attack, prompts, images and schedule, for captions."""
    node, get = f"TRAINER.{trainer.upper()}", values.get
    on_bank = trainer == methods.ADVPT or (trainer == methods.COOP and bool(get("TRAINER.COOP.CLEAN_BANK")))
    transforms = get("INPUT.TRANSFORMS") or ()
    random = isinstance(transforms, list | tuple) and any(str(name).startswith("random") for name in transforms)
    return {
        "training attack": str(get("BANK.ATTACK") if trainer == methods.ADVPT else get(f"{node}.ATTACK", "none")),
        "M": str(get(f"{node}.N_CTX")),
        "images": "augmented" if random and not on_bank else "not augmented",
        "epochs": str(get("OPTIM.MAX_EPOCH")),
        "warm-up epochs": str(get("OPTIM.WARMUP_EPOCH")),
        "batch": str(get("DATALOADER.TRAIN_X.BATCH_SIZE", 32)),
        "rate": str(get("OPTIM.LR")),
        "precision": str(get(f"{node}.PREC")),
    }


def two_coops(b: Builder, datasets: Sequence[str], backbones: Sequence[str]) -> str:
    """What the one CoOp differs from AdvPT in, and the other."""
    clean = (
        f"{methods.table_name(methods.COOP_CLEAN)} is tuned by AdvPT's recipe, on embeddings of clean images: they "
        "differ in the attack alone."
    )
    if methods.COOP not in b.tuned_methods():
        return clean
    differences: dict[str, list[tuple[str, str]]] = {}
    for dataset, backbone in itertools.product(datasets, backbones):
        coop, advpt = (recipe_facts(name, b.values(name, backbone, dataset)) for name in (methods.COOP, methods.ADVPT))
        for name in coop:
            if coop[name] != advpt[name] and name != "training attack":
                differences.setdefault(name, []).append((coop[name], advpt[name]))
    listed = ", ".join(
        f"{name} {' or '.join(dict.fromkeys(x for x, _ in pairs))} / {' or '.join(dict.fromkeys(y for _, y in pairs))}"
        for name, pairs in differences.items()
    )
    return f"{clean} CoOp has its own recipe, which differs from AdvPT's in more (CoOp / AdvPT): {listed}."
