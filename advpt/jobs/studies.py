"""From the name of a table or figure to the runs that it needs and to what stands where in it.

Methods: ``vanilla`` is zero-shot CLIP with the hand-written prompt. One run per data set, backbone and seed serves
Tables 1 and 5, Figure 3 and the source of Figure 6; the others evaluate its prompt or train something else. All
attacks on images are shared through banks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt.errors import ConfigError, unknown_name
from advpt.jobs import effort
from advpt.jobs.plan import BankNeed, Job, Plan, Planner
from advpt.jobs.world import World
from advpt.results.layout import (
    CLEAN,
    Cell,
    Clock,
    Exhibit,
    Figure,
    Mark,
    Row,
    Table,
    Which,
    WordColumn,
    WordTable,
    robust,
)
from advpt.results.published import Key

VANILLA, LEARNED, CLASSIC, PROBE = "ZeroshotCLIP", "AdvPT", "CoOp", "LinearProbe"
TRAINED = ("AdvTrain", "FastAT", "TradesFT")
METHODS = {VANILLA: "vanilla", PROBE: "linear_probe"}  # the paper's names where they differ
NO = "none"
WORDS, PICTURES = 5, 4
TRANSFER = (
    "attackers of transfer rows know both encoders and the hand-written prompt, adaptive ones the learned prompt too"
)


@dataclass(frozen=True)
class Study:
    """What a request comes to."""

    exhibits: tuple[Exhibit, ...]
    plan: Plan


def quoted(*texts: str) -> str:
    """Attacks or defenses as a setting's value."""
    return "(" + "".join(f"'{text}'," for text in texts) + ")"


class Builder:
    """Makes the jobs of a world, and remembers them."""

    def __init__(self, world: World, repository: Path, more: Sequence[tuple[str, str]] = ()) -> None:
        self.world, self.repository, self.more = world, repository, tuple(more)
        self.planner = Planner()
        self.jobs: dict[str, Job] = {}

    def job(
        self,
        trainer: str,
        dataset: str,
        backbone: str,
        seed: int,
        purpose: str,
        settings: Sequence[tuple[str, str]],
        *,
        model: str = "",
        attacks: Sequence[str] = (),
        defenses: Sequence[str] = (),
        subset: int | None = None,
        shots: int = -1,
    ) -> str:
        """The id of a run that evaluates ``attacks``, each under the protocol behind its colon, in turn with
        ``defenses``."""
        world = self.world
        subset = world.subset if subset is None else subset
        name = trainer if not model else self.jobs[model].trainer
        chosen = [*world.common, ("EVAL.ATTACKS", quoted(*attacks)), ("EVAL.PROTOCOLS", quoted("transfer"))]
        chosen += [("EVAL.DEFENSES", quoted(*defenses))] if defenses else []
        chosen += [("EVAL.SUBSET", str(subset))] if subset else []
        chosen += [*settings, *self.more]
        config, own = self.config(name, backbone, dataset)
        made = Job(
            trainer=name,
            dataset=dataset,
            backbone=backbone,
            shots=shots,
            seed=seed,
            purpose=purpose,
            config=config,
            dataset_config=self.dataset_config(dataset),
            settings=(*own, *chosen),
            model=model,
            banks=self.banks(name, dataset, backbone, attacks, defenses, subset, bool(model)),
            gflop=self.cost(name, dataset, backbone, bool(model), dict(chosen)),
            size=2_000_000 if name not in TRAINED else 3 * effort.network(backbone).bytes,
        )
        self.jobs[made.id] = made
        return self.planner.add(made)

    def config(self, trainer: str, backbone: str, dataset: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The trainer's yaml, that of the data set's own recipe where there is one, and what it lacks."""
        folder, stem = Path("configs", "trainers", trainer), backbone
        lacks: tuple[tuple[str, str], ...] = ()
        if backbone == "democlip_s":
            stem, lacks = "democlip", (("MODEL.BACKBONE.NAME", "DemoCLIP-S"),)
        recipe = folder / f"{stem}_{dataset}.yaml"
        chosen = recipe if (self.repository / recipe).is_file() else folder / f"{stem}.yaml"
        if not (self.repository / chosen).is_file():
            raise ConfigError(f"there is no {chosen}; see the folder configs/trainers/{trainer}")
        return chosen.as_posix(), lacks

    def dataset_config(self, dataset: str) -> str:
        for path in (Path("configs/datasets", f"{dataset}.yaml"), Path("configs/datasets/demo", f"{dataset}.yaml")):
            if (self.repository / path).is_file():
                return path.as_posix()
        known = [p.stem for p in (self.repository / "configs" / "datasets").glob("*.yaml")]
        raise ConfigError(unknown_name("data set", dataset, known))

    def test_images(self, dataset: str, subset: int) -> int:
        whole = 1000 if dataset == "imagenet" else effort.counts(dataset)[2]
        return min(subset, whole) if subset else whole

    def train_images(self, dataset: str) -> int:
        limit = int(dict(self.world.common).get("BANK.LIMIT", "0"))
        whole = effort.counts(dataset)[0]
        return min(limit, whole) if limit else whole

    def banks(
        self,
        trainer: str,
        dataset: str,
        backbone: str,
        attacks: Sequence[str],
        defenses: Sequence[str],
        subset: int,
        evaluates: bool,
    ) -> tuple[BankNeed, ...]:
        """Banks that other runs may share: not those of an adaptive attack on a prompt, nor of an encoder of its
        own."""
        if trainer in TRAINED:
            return ()
        world, n = self.world, self.test_images(dataset, subset)
        found = [effort.clean_bank(dataset, backbone, "test", n)]
        if not evaluates and trainer == LEARNED:
            profile = dict(world.common).get("BANK.PROFILE", "sound")
            found.append(
                effort.attacked_bank(
                    dataset, backbone, "train", self.train_images(dataset), world.bank, extra=f"profile {profile}"
                )
            )
        if not evaluates and trainer in (PROBE, CLASSIC):
            found.append(effort.clean_bank(dataset, backbone, "train", self.train_images(dataset)))
        for attack in attacks:
            if attack.endswith(":adaptive") and trainer != VANILLA:
                continue
            for extra in ("", *map(effort.defense_label, defenses)):
                found.append(
                    effort.attacked_bank(dataset, backbone, "test", n, attack, extra=extra, surrogate=world.surrogate)
                )
        return tuple(found)

    def cost(self, trainer: str, dataset: str, backbone: str, evaluates: bool, settings: dict[str, str]) -> float:
        """GFLOP besides shared banks: tuning, and attacks that only this run makes."""
        world, n = self.world, self.test_images(dataset, int(settings.get("EVAL.SUBSET", "0")))
        gflop = 0.0
        if trainer in TRAINED:
            epochs, passes = 5, {"AdvTrain": 10, "FastAT": 1, "TradesFT": 11}[trainer]
            gflop += effort.training_cost(backbone, epochs, self.train_images(dataset), passes)
            gflop += (epochs + 1) * n * effort.attack_cost(world.pgd, backbone)
        elif trainer in (LEARNED, CLASSIC) and not evaluates:
            usual = 5 if dataset == "imagenet" else 200 if trainer == CLASSIC else 100
            epochs = int(settings.get("OPTIM.MAX_EPOCH", usual))
            context = int(settings.get("TRAINER.ADVPT.N_CTX", "32"))
            gflop += effort.tuning_cost(dataset, backbone, epochs, 32, self.train_images(dataset), context)
            if trainer == CLASSIC and not backbone.startswith(
                "democlip"
            ):  # it looks at augmented images in every epoch
                gflop += epochs * self.train_images(dataset) * effort.network(backbone).image
        if trainer not in (VANILLA, *TRAINED):
            own = [a for a in settings["EVAL.ATTACKS"].split("'") if a.endswith(":adaptive")]
            gflop += sum(n * effort.attack_cost(a, backbone) for a in own)
        return gflop

    # --- the runs -----------------------------------------------------------------------------------------------

    def main_attacks(self) -> list[str]:
        w = self.world
        return [f"{w.pgd}:transfer", f"{w.rap}:transfer", f"{w.adaptive}:adaptive"]

    def main(self, trainer: str, dataset: str, backbone: str) -> tuple[str, ...]:
        """Train on the whole split and evaluate as Table 1 does; zero-shot CLIP needs one seed only."""
        found = []
        for seed in self.seeds(trainer):
            settings: list[tuple[str, str]] = []
            if trainer == LEARNED:
                settings = [*settings, ("EVAL.WORDS", str(WORDS))]
                settings += [("EVAL.PICTURES", str(PICTURES))] if seed == self.world.seeds[0] else []
            found.append(self.job(trainer, dataset, backbone, seed, "main", settings, attacks=self.main_attacks()))
        return tuple(found)

    def seeds(self, trainer: str) -> tuple[int, ...]:
        return self.world.seeds[:1] if trainer in (VANILLA, PROBE) else self.world.seeds

    def evaluated(
        self,
        trainer: str,
        dataset: str,
        backbone: str,
        purpose: str,
        attacks: Sequence[str],
        defenses: Sequence[str] = (),
        subset: int | None = None,
        source: str = "",
    ) -> tuple[str, ...]:
        """Evaluate what :meth:`main` trained (on ``source``, else on the same data set); zero-shot CLIP as it is."""
        models = [""] if trainer == VANILLA else list(self.main(trainer, source or dataset, backbone))
        return tuple(
            self.job(
                trainer,
                dataset,
                backbone,
                seed,
                purpose,
                [],
                model=model,
                attacks=attacks,
                defenses=defenses,
                subset=subset,
            )
            for seed, model in zip(self.seeds(trainer), models)
        )


# --- tables ---------------------------------------------------------------------------------------------------------


def _row(b: Builder, table: str, backbone: str, trainer: str, attack: str, which: Which, names: Sequence[str],
         cells: Sequence[tuple[str, ...]], defense: str = NO) -> Row:  # fmt: skip
    """A row whose published numbers are found under the method's and the attack's names in the paper; the paper has no
    adaptive attackers."""
    method = METHODS.get(trainer, trainer)
    published = which.protocol != "adaptive"

    def key(dataset: str) -> Key | None:
        return (
            Key(table, b.world.column(backbone), b.world.column(dataset), method, defense, attack)
            if published
            else None
        )

    return Row(
        b.world.column(backbone),
        method,
        defense,
        attack if published else f"{attack} ({which.attack})",
        which.protocol or "-",
        tuple(Cell(runs, which, key(name)) for name, runs in zip(names, cells)),
    )


def said(world: World, *names: str) -> str:
    """What captions add in this world."""
    return " ".join(text for text in (world.said.get("all", ""), *(world.said.get(n, "") for n in names)) if text)


def table1(b: Builder) -> list[Exhibit]:
    w, rows = b.world, []
    measured = (
        ("clean", CLEAN),
        ("pgd40", robust(w.pgd)),
        ("rap", robust(w.rap)),
        ("pgd", robust(w.adaptive, "adaptive")),
    )
    for backbone in w.backbones:
        runs = {t: [b.main(t, d, backbone) for d in w.datasets] for t in (VANILLA, LEARNED)}
        for attack, which in measured:
            rows += [_row(b, "1", backbone, t, attack, which, w.datasets, runs[t]) for t in (VANILLA, LEARNED)]
    caption = f"PGD is {w.pgd}, RAP {w.rap}; {TRANSFER}. {said(w, 'table1')}"
    return [
        Table("table1", "Table 1: clean and robust accuracy", caption, tuple(map(w.column, w.datasets)), tuple(rows))
    ]


def _defended(b: Builder, trainer: str, dataset: str, backbone: str, table: str) -> tuple[str, ...]:
    """The runs behind defenses: Table 2's, Table 3's, or one for both where the world says so."""
    w = b.world
    pgd, aa = f"{w.pgd}:transfer", f"{w.aa}:transfer"
    if w.together:
        attacks, defenses = [pgd, aa], list(w.defenses.values())
        return b.evaluated(trainer, dataset, backbone, "defended", attacks, defenses, w.defended_subset)
    if table == "2":
        return b.evaluated(trainer, dataset, backbone, "defended", [pgd], list(w.defenses.values()))
    return b.evaluated(trainer, dataset, backbone, "diffpure", [aa], [w.defenses["diffpure"]])


def table2(b: Builder) -> list[Exhibit]:
    w, rows = b.world, []
    for backbone in w.backbones:
        runs = {t: [_defended(b, t, d, backbone, "2") for d in w.datasets] for t in (VANILLA, LEARNED)}
        for name, defense in w.defenses.items():
            which = robust(w.pgd, defense=defense)
            rows += [_row(b, "2", backbone, t, "pgd40", which, w.datasets, runs[t], name) for t in (VANILLA, LEARNED)]
    listed = ", ".join(f"{name} is {defense}" for name, defense in w.defenses.items())
    caption = (
        f"PGD is {w.pgd} against the undefended encoder; {listed}. The attacker does not know the defense, and "
        "nothing is clamped to the clean image. Costly defenses are evaluated on a part of the images. "
        f"{said(w, 'table2')}"
    )
    return [Table("table2", "Table 2: behind input defenses", caption, tuple(map(w.column, w.datasets)), tuple(rows))]


def table3(b: Builder) -> list[Exhibit]:
    w, rows = b.world, []
    aa, adaptive = robust(w.aa), robust(w.aa_adaptive, "adaptive")
    for backbone in w.backbones:
        for defense in (NO, "diffpure"):
            for trainer in (VANILLA, LEARNED):
                runs = []
                for d in w.datasets:
                    if defense != NO or w.together:
                        runs.append(_defended(b, trainer, d, backbone, "3"))
                    else:
                        attacks = [f"{w.aa}:transfer", f"{w.aa_adaptive}:adaptive"]
                        runs.append(b.evaluated(trainer, d, backbone, "autoattack", attacks))
                which = aa if defense == NO else robust(w.aa, defense=w.defenses[defense])
                rows.append(_row(b, "3", backbone, trainer, "autoattack", which, w.datasets, runs, defense))
        for trainer in (VANILLA, LEARNED):
            if w.together:
                runs = [b.main(trainer, d, backbone) for d in w.datasets]
            else:
                attacks = [f"{w.aa}:transfer", f"{w.aa_adaptive}:adaptive"]
                runs = [b.evaluated(trainer, d, backbone, "autoattack", attacks) for d in w.datasets]
            rows.append(_row(b, "3", backbone, trainer, "autoattack", adaptive, w.datasets, runs))
    caption = (
        f"AutoAttack is {w.aa}, the adaptive attacker {w.aa_adaptive}; {TRANSFER}. AutoAttack leaves images alone "
        "that the attacked prompt gets wrong: their share, and the accuracy on the others, stand below each number. "
        f"{said(w, 'table3')}"
    )
    return [Table("table3", "Table 3: AutoAttack", caption, tuple(map(w.column, w.datasets)), tuple(rows))]


def table4(b: Builder) -> list[Exhibit]:
    w, rows = b.world, []
    for backbone in w.backbones:
        attacks = [f"{w.pgd}:transfer", f"{w.adaptive}:adaptive"]
        probes = [(b.job(PROBE, d, backbone, w.seeds[0], "main", [], attacks=attacks),) for d in w.probed]
        learned = [b.main(LEARNED, d, backbone) for d in w.probed]
        measured = (("clean", CLEAN), ("pgd40", robust(w.pgd)), ("pgd", robust(w.adaptive, "adaptive")))
        for attack, which in measured:
            rows.append(_row(b, "4", backbone, PROBE, attack, which, w.probed, probes))
            rows.append(_row(b, "1", backbone, LEARNED, attack, which, w.probed, learned))
    caption = (
        f"Logistic regression on all training images; PGD is {w.pgd} on the very images of Table 1 (the paper does "
        "not say which PGD), the adaptive attacker goes through the head or the prompt. AdvPT's published numbers "
        f"are Table 1's. {said(w, 'table4')}"
    )
    return [Table("table4", "Table 4: linear probe", caption, tuple(map(w.column, w.probed)), tuple(rows))]


def table5(b: Builder) -> list[Exhibit]:
    w = b.world
    columns = tuple(
        WordColumn(w.column(d), w.column(backbone), b.main(LEARNED, d, backbone)[0])
        for backbone in w.backbones
        for d in w.datasets
    )
    caption = (
        f"Euclidean distance to the token table of the same backbone, seed {w.seeds[0]}. The paper does not say how "
        "it chose its five words, nor for which backbone; here they are the five smallest distances between a vector "
        "and its nearest word, and each vector's own nearest word. Beside them the words of the same vectors before "
        f"tuning: a vector near zero is close to any small token. {said(w, 'table5')}"
    )
    if w.name == "demo":
        caption += " Only tokens that DemoCLIP's pre-training has seen are searched."
    return [WordTable("table5", "Table 5: nearest words of the learned vectors", caption, columns)]


# --- figures --------------------------------------------------------------------------------------------------------


def fig3(b: Builder) -> list[Exhibit]:
    w, marks = b.world, []
    pgd = robust(w.pgd)
    for backbone in w.backbones:
        for dataset in w.datasets:
            for trainer in (VANILLA, CLASSIC, LEARNED):
                runs = b.main(trainer, dataset, backbone)
                x, y = Cell(runs, CLEAN), Cell(runs, pgd)
                marks.append(Mark(w.column(backbone), METHODS.get(trainer, trainer), w.column(dataset), x, y))
    caption = (
        f"Accuracy on clean images against that under {w.pgd} (transfer), mean over seeds, 95 % intervals. {said(w)}"
    )
    return [
        Figure(
            "fig3",
            "Figure 3: trade-off of CoOp and AdvPT",
            caption,
            "points",
            "clean accuracy (%)",
            "robust accuracy (%)",
            tuple(marks),
        )  # fmt: skip
    ]


def _clocked(b: Builder, trainer: str, dataset: str, backbone: str) -> tuple[str, ...]:
    w = b.world
    settings = [("TRAIN.CURVE_FREQ", str(w.curve_every[trainer]))]
    if w.name == "demo" and trainer != LEARNED:
        settings += [("OPTIM.MAX_EPOCH", "5")]
    attacks = [f"{w.pgd}:transfer"]
    return tuple(
        b.job(trainer, dataset, backbone, seed, "clock", settings, attacks=attacks, subset=w.clock_subset)
        for seed in w.seeds[: w.clock_seeds or None]
    )


def _clock_figure(b: Builder, name: str, part: str, title: str) -> list[Exhibit]:
    w, clocks = b.world, []
    for dataset in w.timed:
        for backbone in w.timed_backbones:
            for trainer in (LEARNED, *TRAINED):
                runs = _clocked(b, trainer, dataset, backbone)
                panel = f"{w.column(dataset)}, {w.column(backbone)}"
                clocks.append(Clock(panel, trainer, runs, "clean" if part == "clean" else "robust"))
    caption = (
        f"Seconds of training, AdvPT's with building its bank, without measuring; accuracy is {part}"
        + (
            ""
            if part == "clean"
            else f", under {w.pgd} made anew on the encoder as it is (AdvPT's encoder never changes)"
        )
        + f". One machine for all is what makes the times comparable. {said(w)}"
    )
    return [
        Figure(
            name, title, caption, "clock", "wall-clock (s)", f"{part} accuracy (%)", clocks=tuple(clocks), log_x=True
        )
    ]


def fig4(b: Builder) -> list[Exhibit]:
    return _clock_figure(b, "fig4", "clean", "Figure 4: clean accuracy over wall-clock, adversarial training and AdvPT")


def fig5(b: Builder) -> list[Exhibit]:
    return _clock_figure(
        b, "fig5", "robust", "Figure 5: robust accuracy over wall-clock, adversarial training and AdvPT"
    )


def fig6(b: Builder) -> list[Exhibit]:
    w, rows, marks = b.world, [], []
    attacks = [f"{w.pgd}:transfer"]
    for backbone in w.backbones:
        runs = {
            VANILLA: [b.evaluated(VANILLA, d, backbone, "shift", attacks) for d in w.targets],
            LEARNED: [b.evaluated(LEARNED, d, backbone, "shift", attacks, source=w.source) for d in w.targets],
        }
        for attack, which in (("clean", CLEAN), ("pgd40", robust(w.pgd))):
            for trainer in (VANILLA, LEARNED):
                row = _row(b, "shift", backbone, trainer, attack, which, w.targets, runs[trainer])
                rows.append(row)
                for dataset, cell in zip(w.targets, row.cells):
                    if cell is not None:
                        series = f"{row.method}, {'clean' if which.protocol is None else w.pgd}"
                        at = float(w.targets.index(dataset))
                        marks.append(Mark(w.column(backbone), series, w.column(dataset), at, cell))
    caption = (
        f"Tuned on {w.column(w.source)} alone; heads have the classes of each target. PGD is {w.pgd}, made on each "
        f"target. {said(w, 'fig6')}"
    )
    title = "Figure 6: domain shift"
    return [
        Figure("fig6", title, caption, "bars", "", "accuracy (%)", tuple(marks)),
        Table("fig6_table", f"{title}, in numbers", caption, tuple(map(w.column, w.targets)), tuple(rows)),
    ]


def fig7(b: Builder) -> list[Exhibit]:
    w, marks = b.world, []
    shown = (
        ("clean", CLEAN),
        (f"transfer {w.pgd}", robust(w.pgd)),
        (f"adaptive {w.adaptive}", robust(w.adaptive, "adaptive")),
    )
    for dataset in w.timed:
        for backbone in w.timed_backbones:
            for n in w.contexts:
                settings = [("TRAINER.ADVPT.N_CTX", str(n))]
                attacks = [f"{w.pgd}:transfer", f"{w.adaptive}:adaptive"]
                runs = tuple(
                    b.job(LEARNED, dataset, backbone, s, f"nctx{n}", settings, attacks=attacks) for s in w.seeds
                )
                panel = f"{w.column(dataset)}, {w.column(backbone)}"
                marks += [Mark(panel, series, f"M = {n}", float(n), Cell(runs, which)) for series, which in shown]
    caption = f"AdvPT with 1 to {max(w.contexts)} context vectors. {said(w)}"
    return [
        Figure(
            "fig7",
            "Figure 7: number of context vectors",
            caption,
            "lines",
            "context vectors",
            "accuracy (%)",
            tuple(marks),
        )
    ]


def curves(b: Builder) -> list[Exhibit]:
    """Not in the paper: accuracy over the budget, for attackers who know the learned prompt and who do not."""
    w, marks = b.world, []
    for dataset in w.timed:
        for backbone in w.timed_backbones:
            specs = [f"pgd{w.budget_steps}-ce@{eps}" for eps in w.budgets]
            attacks = [f"{spec}:{protocol}" for protocol in ("transfer", "adaptive") for spec in specs]
            for trainer in (VANILLA, CLASSIC, LEARNED):
                runs = b.evaluated(trainer, dataset, backbone, "budgets", attacks)
                method = METHODS.get(trainer, trainer)
                panel = f"{w.column(dataset)}, {w.column(backbone)}"
                for protocol in ("transfer", "adaptive"):
                    if trainer == VANILLA and protocol == "transfer":
                        continue  # its hand-written prompt is all there is to know
                    marks.append(Mark(panel, f"{method}, {protocol}", "clean", 0.0, Cell(runs, CLEAN)))
                    for eps, spec in zip(w.budgets, specs):
                        which = robust(spec, protocol)
                        marks.append(Mark(panel, f"{method}, {protocol}", f"{eps}/255", float(eps), Cell(runs, which)))
    caption = (
        f"PGD of {w.budget_steps} steps on the cross-entropy, over its budget; {TRANSFER}. Not in the paper. {said(w)}"
    )
    return [
        Figure(
            "curves", "Accuracy over the attack's budget", caption, "lines", "eps (1/255)", "accuracy (%)", tuple(marks)
        )
    ]


STUDIES: dict[str, Callable[[Builder], list[Exhibit]]] = {
    f.__name__: f for f in (table1, table2, table3, table4, table5, fig3, fig4, fig5, fig6, fig7, curves)
}


def study(names: Sequence[str], world: World, repository: Path, more: Sequence[tuple[str, str]] = ()) -> Study:
    """The exhibits of a request (``all``: every one) and the plan of what they need.

    Raises:
        ConfigError: an unknown exhibit, or one that has no data set or backbone left.
    """
    wanted = list(STUDIES) if "all" in names else list(dict.fromkeys(names))
    for name in wanted:
        if name not in STUDIES:
            raise ConfigError(f"{unknown_name('table or figure', name, [*STUDIES, 'all'])}")
    builder = Builder(world, repository, more)
    found: list[Exhibit] = []
    for name in wanted:
        made = STUDIES[name](builder)
        empty = [
            e for e in made if not (getattr(e, "columns", ()) or getattr(e, "marks", ()) or getattr(e, "clocks", ()))
        ]
        if empty and "all" not in names:
            raise ConfigError(f"{name} has nothing left to show with these data sets and backbones; give others")
        found += [e for e in made if e not in empty]
    plan = builder.planner.plan()
    if not plan.jobs:
        raise ConfigError("nothing is left to do with these data sets and backbones; give others")
    return Study(tuple(found), plan)


def sweep(
    datasets: Sequence[str],
    backbones: Sequence[str],
    trainers: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    repository: Path,
    more: Sequence[tuple[str, str]] = (),
) -> Plan:
    """Data sets x backbones x trainers x shots x seeds, each with the evaluation of its yaml; zero-shot CLIP once.

    Raises:
        ConfigError: a yaml that does not exist.
    """
    planner = Planner()
    for dataset in datasets:
        for backbone in backbones:
            for trainer in trainers:
                builder = Builder(_ANY, repository)
                config, own = builder.config(trainer, backbone, dataset)
                one = trainer == VANILLA
                for n in shots[:1] if one else shots:
                    for seed in seeds[:1] if one else seeds:
                        planner.add(
                            Job(
                                trainer=trainer,
                                dataset=dataset,
                                backbone=backbone,
                                shots=-1 if one else n,
                                seed=seed,
                                purpose="sweep",
                                config=config,
                                dataset_config=builder.dataset_config(dataset),
                                settings=(*own, *more),
                                banks=_sweep_banks(trainer, dataset, backbone),
                                size=2_000_000,
                            )
                        )
    return planner.plan()


def _sweep_banks(trainer: str, dataset: str, backbone: str) -> tuple[BankNeed, ...]:
    train, _, test = effort.counts(dataset)
    attack, eps = ("pgd10-fkl@4", "8") if backbone.startswith("democlip") else ("pgd10-fkl@8", "16")
    found = [effort.attacked_bank(dataset, backbone, "test", test, f"pgd40-fkl@{eps}")]
    if trainer == LEARNED:
        found.append(effort.attacked_bank(dataset, backbone, "train", train, attack))
    return tuple(found)


_ANY = World(
    name="any", datasets=(), probed=(), source="", targets=(), backbones=(), timed=(), timed_backbones=(), names={},
    seeds=(1,), pgd="", rap="", aa="", adaptive="", aa_adaptive="", bank="", budgets=(), budget_steps=0, defenses={},
    together=False, surrogate="", common=(), contexts=(), curve_every={},
)  # fmt: skip
