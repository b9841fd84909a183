"""The comparison with TAPT's paper: its designs before and after test-time tuning, under attackers who know of it and
who do not, beside the published Tables 1 and 2.

For each design: prompts tuned on attacked images, their cleanly tuned twins, and an evaluation on every data set. The
evaluation on the data set that the prompts were tuned on makes the statistics that the others read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advpt.jobs import effort
from advpt.jobs.plan import BankNeed
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Metric, Table, TableRow, robust
from advpt.results.published import PaperCell

if TYPE_CHECKING:
    from advpt.jobs.studies import Builder

# The design, who trains its prompts, who tunes them at test time.
DESIGNS = (("V", "AdvVPT", "TAPTV"), ("VLI", "AdvIVLP", "TAPTVLI"), ("VLJ", "AdvMaPLe", "TAPTVLJ"))
TRAINERS = tuple(trainer for _, _, trainer in DESIGNS)
DEFENSES = {"loaded": "tapt", "constructed": "tapt:constructed"}


@dataclass(frozen=True)
class Setting:
    """The data set that prompts are tuned on, attacks and settings of a world.

    attacks: by the paper's name, on the prompts as they were tuned; ``tuned`` and ``adaptive``: those of attackers who
    know the tuning. pretraining: settings of all runs that tune prompts; context: leaves of the prompts' node, in them
    and in the evaluations. shots, subset: images per class for tuning and statistics, and images that are evaluated.
    """

    source: str
    attacks: Mapping[str, str]
    tuned: str
    adaptive: str
    shots: int
    subset: int
    pretraining: tuple[tuple[str, str], ...] = ()
    context: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    said: str = ""

    def column(self, name: str) -> str:
        """As TAPT's paper calls it."""
        return self.names.get(name, name)


PAPER = Setting(
    source="imagenet",
    attacks={"pgd": "pgd100-ce@1/a1", "di": "difgsm100-ce@1/a1", "aa": "aa@1"},
    tuned="pgd100-ce@1/a1",
    adaptive="pgd20-ce@1",
    shots=16,
    subset=1000,
    settings=(("EVAL.EOT", "2"),),
    names={"imagenet": "ImageNet", "caltech101": "Caltech101", "dtd": "DTD", "eurosat": "EuroSAT", "pets": "Pets",
           "fgvc_aircraft": "Aircraft", "food101": "Food101", "flowers": "Flowers", "stanford_cars": "Cars",
           "sun397": "SUN397", "ucf101": "UCF101", "vit_b16": "ViT-B/16", "vit_b32": "ViT-B/32"},
    said="The published numbers are of all test images (ImageNet: 50,000); ours of 1,000 at most for each data set, "
    "unless EVAL.SUBSET says otherwise.",
)  # fmt: skip
DEMO = Setting(
    source="digits",
    attacks={"pgd": "pgd10-ce@2", "aa": "apgd-ce-t@2"},
    tuned="pgd10-ce@2",
    adaptive="pgd5-ce@2",
    shots=16,
    subset=50,
    pretraining=(("OPTIM.MAX_EPOCH", "10"), ("DATALOADER.TRAIN_X.BATCH_SIZE", "16"), ("OPTIM.LR", "0.02")),
    context=(("CTX_INIT", "a photo of the digit"),),
    settings=(("EVAL.EOT", "1"), ("TRAINER.TAPT.LR", "0.01")),
    names={"digits": "Digits", "democlip": "DemoCLIP"},
    said="Demo: DemoCLIP and handwritten digits, 16 images of each class, 50 test images, prompts tuned at 2/255 in "
    "100 steps; aa is cut to its two APGD stages. The tuning's rate, 0.01 in place of 5e-4, is the best on validation "
    "images by static accuracy. It shows the machinery and the protocols, not the paper's numbers.",
)
SETTINGS = {"paper": PAPER, "demo": DEMO}


def statistics_images(s: Setting, whole: bool) -> int:
    """Training images that statistics are taken over: so many of each class, or all."""
    return effort.counts(s.source)[0] if whole else s.shots * effort.classes(s.source)


def statistics_bank(source: str, backbone: str, design: str, seed: int, images: int) -> BankNeed:
    """The two statistics banks of a design, made by the first evaluation that needs them."""
    size = 2 * 2 * 4 * 12 * 199 * 768
    label = f"{source}, {backbone}: statistics of {design}, seed {seed}"
    return BankNeed(label, 2 * images, effort.network(backbone).image, size // max(1, 2 * images))


def tapt(b: Builder) -> list[Exhibit]:
    """Not in AdvPT's paper: test-time tuning of defensive prompts beside TAPT's published tables."""
    s, datasets = SETTINGS[b.setup.name], b.setup.tuned
    rows: list[TableRow] = []
    for backbone in b.setup.tuned_backbones if datasets else ():
        runs = {design: _evaluated(b, s, backbone, datasets, design, *who) for design, *who in DESIGNS}
        for attack, metric, published in _measured(s):
            for design, _, _ in DESIGNS:
                for method, defense in ((f"APT-{design}", ""), *((f"TAPT-{design}", d) for d in DEFENSES.values())):
                    if defense.endswith("constructed") and metric.protocol in ("tuned", "adaptive"):
                        continue
                    own = dataclasses.replace(metric, defense=defense)
                    cells = tuple(
                        Cell((runs[design][d],), own, _key(s, backbone, d, method, attack) if published else None)
                        for d in datasets
                    )
                    protocol = metric.protocol or "-"
                    rows.append(TableRow(s.column(backbone), method, defense or "none", attack, protocol, cells))
    attacks = ", ".join(f"{name} is {attack}" for name, attack in s.attacks.items())
    caption = (
        "APT-X are prompts tuned on attacked images, TAPT-X the same tuned once more on every test image: tapt starts "
        "each image from the trained prompts, tapt:constructed from what the released code restores (untrained prompts "
        "in V, all but two input vectors in VLI; VLJ is not concerned). static attacks the prompts before the tuning, "
        "as the paper does; tuned attacks through what the tuning makes of them on the clean image; adaptive "
        f"differentiates through the tuning (EOT over views). {attacks}; tuned {s.tuned}, adaptive {s.adaptive}. "
        f"{_statistics_text(b, s)} aa "
        f"leaves images alone: their share, and the accuracy on the others, stand beside. {s.said}"
    )
    return [Table("tapt", "TAPT: tuning at test time", caption, tuple(map(s.column, datasets)), tuple(rows))]


def _statistics_text(b: Builder, s: Setting) -> str:
    """What the statistics are taken over, and what the paper takes."""
    source, n = s.column(s.source), statistics_images(s, b.all_statistics)
    if b.all_statistics:
        return f"Statistics are taken over all {n:,} training images of {source}."
    return (
        f"Statistics are taken over {s.shots} training images of each class of {source} ({n:,}), where TAPT's authors "
        f"take all of ImageNet's; --all-statistics takes all {statistics_images(s, True):,}."
    )


def _measured(s: Setting) -> Iterator[tuple[str, Metric, bool]]:
    """The paper's name of an attack, which number it is, and whether the paper has it."""
    yield "clean", CLEAN, True
    for name, attack in s.attacks.items():
        yield name, robust(attack, "static"), True
    yield "pgd", robust(s.tuned, "tuned"), False
    yield "pgd", robust(s.adaptive, "adaptive"), False


def _key(s: Setting, backbone: str, dataset: str, method: str, attack: str) -> PaperCell:
    table = "tapt 2" if attack == "clean" else "tapt 1"
    return PaperCell(table, s.column(backbone), s.column(dataset), method, "none", attack)


def _evaluated(
    b: Builder, s: Setting, backbone: str, datasets: tuple[str, ...], design: str, trained_by: str, trainer: str
) -> dict[str, str]:
    """By data set, the run that evaluates a design."""
    seed = b.setup.seeds[0]  # the paper has one

    def prompts(purpose: str, *more: tuple[str, str]) -> str:
        context = [(f"TRAINER.{trained_by.upper()}.{leaf}", value) for leaf, value in s.context]
        settings = [*s.pretraining, *context, *more]
        return b.job(trained_by, s.source, backbone, seed, purpose, settings, shots=s.shots, subset=s.subset)

    robust_run = prompts("defensive")
    clean_run = prompts("clean", (f"TRAINER.{trained_by.upper()}.LOSS", "clean"))
    attacks = [f"{attack}:static" for attack in s.attacks.values()]
    attacks += [f"{s.tuned}:tuned", f"{s.adaptive}:adaptive"]
    settings = [("TRAINER.TAPT.RESET_SOURCE", "('loaded','constructed')"), *s.settings]
    settings += [(f"TRAINER.TAPT.{leaf}", value) for leaf, value in s.context]
    if b.all_statistics:
        settings += [("TRAINER.TAPT.ADV_STATISTICS", "all"), ("TRAINER.TAPT.CLEAN_STATISTICS", "all")]
    images = statistics_images(s, b.all_statistics)
    return {
        dataset: b.job(
            trainer,
            dataset,
            backbone,
            seed,
            "tuned",
            settings,
            model=robust_run,
            runs=(("TRAINER.TAPT.CLEAN_RUN", clean_run),),
            attacks=attacks,
            shots=-1 if b.all_statistics else s.shots,
            subset=s.subset,
            more_banks=(statistics_bank(s.source, backbone, design, seed, images),),
        )
        for dataset in dict.fromkeys((s.source, *datasets))
    }


def cost(images: int, backbone: str, attacks: list[str]) -> float:
    """GFLOP of evaluating so many images: 64 views without and 6 with a graph for every set and reset, and attackers
    who do the same in each of their steps."""
    image, total = effort.network(backbone).image, 0.0
    for text in attacks:
        passes = effort.attack_cost(text, backbone) / image
        total += passes * (90 if text.endswith(":adaptive") else 1)
    return images * image * (total + 2 * 80 * (len(attacks) + 1))


__all__ = ["TRAINERS", "cost", "tapt"]
