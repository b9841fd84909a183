"""What several exhibits share: rows beside published numbers, and sentences of captions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from advpt.jobs import methods
from advpt.jobs.builder import Builder
from advpt.jobs.setup import InputDefense, ReproductionSetup
from advpt.results.exhibit import Cell, Metric, TableRow
from advpt.results.published import PaperCell

NO_DEFENSE = "none"
UNDEFENDED = InputDefense(NO_DEFENSE, "", NO_DEFENSE)
TRANSFER = (
    "attackers of transfer rows know both encoders and the hand-written prompt, adaptive ones the learned prompt too"
)


def columns(setup: ReproductionSetup, datasets: Sequence[str]) -> tuple[str, ...]:
    """Heads of columns, as the paper calls the data sets."""
    return tuple(map(setup.column, datasets))


def row(
    b: Builder,
    table: str,
    backbone: str,
    method: str,
    attack: str,
    metric: Metric,
    cells: Mapping[str, tuple[str, ...]],
    behind: InputDefense = UNDEFENDED,
) -> TableRow:
    """A row whose published numbers stand under the method's, the defense's and the attack's names in the paper, which
    has no adaptive attackers. ``cells``: ids of runs by data set."""
    name, published = methods.table_name(method), metric.protocol != "adaptive"
    backbone_name = b.setup.column(backbone)

    def key(dataset: str) -> PaperCell | None:
        if not published or not behind.published:
            return None
        return PaperCell(table, backbone_name, b.setup.column(dataset), name, behind.published, attack)

    return TableRow(
        backbone_name,
        name,
        behind.name,
        attack if published else f"{attack} ({metric.attack})",
        metric.protocol or "-",
        tuple(Cell(runs, metric, key(dataset)) for dataset, runs in cells.items()),
    )


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
