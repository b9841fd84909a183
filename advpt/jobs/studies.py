"""From the name of a table or figure to the runs that it needs and to what stands where in it.

Methods: ``vanilla`` is zero-shot CLIP with the hand-written prompt. One run per data set, backbone and seed serves
Tables 1 and 5, Figure 3 and the source of Figure 6; the others evaluate its prompt or train something else. All
attacks on images are shared through banks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from advpt.errors import ConfigError, unknown_name
from advpt.evaluation.protocols import threats
from advpt.jobs import effort
from advpt.jobs.plan import BankNeed, Job, Plan, Planner, Tuning
from advpt.jobs.setup import InputDefense, ReproductionSetup
from advpt.jobs.tapt import TRAINERS as TEST_TIME
from advpt.jobs.tapt import cost as test_time_cost
from advpt.jobs.tapt import tapt
from advpt.results.exhibit import (
    CLEAN,
    Cell,
    Exhibit,
    Figure,
    Metric,
    PointCell,
    Table,
    TableRow,
    TimeCurve,
    WordColumn,
    WordTable,
    robust,
)
from advpt.results.published import PaperCell
from advpt.settings import recipe as settings_of

VANILLA, LEARNED, CLASSIC, PROBE = "ZeroshotCLIP", "AdvPT", "CoOp", "LinearProbe"
CONDITIONAL = "CoCoOp"  # text features of every image's own, tuned on clean images
TWIN = "CoOp-clean"  # CoOp by AdvPT's recipe on a bank of clean images: the two differ in the attack alone
PIXEL_PEERS, VISUAL_PEERS = ("APT",), ("FAP", "AdvIVLP", "CAPT")  # the latter see images through prompts of their own
PEERS = (VANILLA, CLASSIC, CONDITIONAL, LEARNED, *PIXEL_PEERS, *VISUAL_PEERS)
MULTIMODAL = ("AdvVPT", "AdvMaPLe")
PEER_SHOTS = 16
TRAINED = ("AdvTrain", "FastAT", "TradesFT")
METHODS = {VANILLA: "vanilla", PROBE: "linear_probe", TWIN: "CoOp, clean bank"}  # names in tables where they differ
NO = "none"
WORDS, PICTURES = 5, 4
TRANSFER = (
    "attackers of transfer rows know both encoders and the hand-written prompt, adaptive ones the learned prompt too"
)


@dataclass(frozen=True)
class Exhibits:
    """What a request comes to."""

    exhibits: tuple[Exhibit, ...]
    plan: Plan


def quoted(*texts: str) -> str:
    """Attacks or defenses as a setting's value."""
    return "(" + "".join(f"'{text}'," for text in texts) + ")"


class Builder:
    """Makes the jobs of a world, and remembers them."""

    def __init__(
        self,
        setup: ReproductionSetup,
        repository: Path,
        more: Sequence[tuple[str, str]] = (),
        *,
        as_published: bool = False,
        all_statistics: bool = False,
    ) -> None:
        """``as_published``: peers have the recipes that their authors published. ``all_statistics``: TAPT's are taken
        over all training images."""
        self.setup, self.repository, self.more = setup, repository, tuple(more)
        self.as_published, self.all_statistics = as_published, all_statistics
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
        runs: Sequence[tuple[str, str]] = (),
        more_banks: Sequence[BankNeed] = (),
    ) -> str:
        """The id of a run that evaluates ``attacks``, each under the protocol behind its colon, in turn with
        ``defenses``."""
        setup = self.setup
        subset = setup.subset if subset is None else subset
        name, config, own = self.recipe_of(trainer, backbone, dataset)
        purpose = f"{purpose}-clean" if trainer == TWIN else purpose
        chosen = [*setup.common, ("EVAL.ATTACKS", quoted(*attacks)), ("EVAL.PROTOCOLS", quoted("transfer"))]
        chosen += [("EVAL.DEFENSES", quoted(*defenses))] if defenses else []
        chosen += [("EVAL.SUBSET", str(subset))] if subset else []
        chosen += [*settings, *self.more]
        recipe = settings_of(self.repository / config, (*own, *chosen))
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
            runs=tuple(runs),
            banks=(
                *self.banks(name, dataset, backbone, attacks, defenses, recipe, bool(model) or shots > 0),
                *more_banks,
            ),
            gflop=self.cost(name, dataset, backbone, bool(model), recipe, shots),
            tuning=self.tuning(name, dataset, backbone, shots, recipe) if not model else Tuning(),
            size=self.size(name, backbone, recipe, self.test_images(dataset, subset), bool(model), len(attacks)),
        )
        self.jobs[made.id] = made
        return self.planner.add(made)

    def recipe_of(self, trainer: str, backbone: str, dataset: str) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """The trainer that runs, its yaml, and settings that this lacks. :data:`TWIN` runs CoOp with AdvPT's."""
        if trainer != TWIN:
            return (trainer, *self.config(trainer, backbone, dataset))
        config, lacks = self.config(LEARNED, backbone, dataset)
        recipe = settings_of(self.repository / config, lacks)
        context = ("N_CTX", "CSC", "CTX_INIT", "CLASS_TOKEN_POSITION", "PREC")
        same = tuple((f"TRAINER.COOP.{leaf}", str(recipe[f"TRAINER.ADVPT.{leaf}"])) for leaf in context)
        return CLASSIC, config, (*lacks, *same, ("TRAINER.COOP.CLEAN_BANK", "True"))

    def recipe(self, trainer: str, backbone: str, dataset: str) -> Mapping[str, Any]:
        """What a trainer's yaml for a backbone and a data set says, with this world's settings."""
        name, config, own = self.recipe_of(trainer, backbone, dataset)
        return settings_of(self.repository / config, (*own, *self.setup.common, *self.more)) | {"TRAINER.NAME": name}

    def config(self, trainer: str, backbone: str, dataset: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The trainer's yaml, that of the data set's own recipe where there is one, and what it lacks."""
        folder, stem = Path("configs", "trainers", trainer), backbone
        lacks: tuple[tuple[str, str], ...] = ()
        if backbone == "democlip_s":
            stem, lacks = "democlip", (("MODEL.BACKBONE.NAME", "DemoCLIP-S"),)
        recipe = folder / f"{stem}_{dataset}.yaml"
        chosen = recipe if (self.repository / recipe).is_file() else folder / f"{stem}.yaml"
        known = [path.name for path in (self.repository / folder.parent).iterdir() if path.is_dir()]
        if trainer not in known:
            raise ConfigError(unknown_name("trainer", trainer, known))
        if not (self.repository / chosen).is_file():
            raise ConfigError(f"there is no {chosen}; see the folder configs/trainers/{trainer}")
        if trainer == LEARNED:  # recipes that once were others under their names: their runs are other runs
            if chosen == recipe:  # it had a warm-up epoch
                lacks = (*lacks, ("OPTIM.WARMUP_EPOCH", "0"))
            if stem == "democlip":  # its rate was 0.005
                lacks = (*lacks, ("OPTIM.LR", str(settings_of(self.repository / chosen, ())["OPTIM.LR"])))
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
        limit = int(dict(self.setup.common).get("BANK.LIMIT", "0"))
        whole = effort.counts(dataset)[0]
        return min(limit, whole) if limit else whole

    def banks(
        self,
        trainer: str,
        dataset: str,
        backbone: str,
        attacks: Sequence[str],
        defenses: Sequence[str],
        recipe: Mapping[str, Any],
        alone: bool,
    ) -> tuple[BankNeed, ...]:
        """Banks that other runs may share: not those of an adaptive attack on a prompt, nor of an encoder of its
        own. ``alone``: it needs no bank of training images that others have."""
        if trainer in (*TRAINED, *VISUAL_PEERS, *MULTIMODAL, *TEST_TIME):
            return ()
        setup, n = self.setup, self.test_images(dataset, recipe["EVAL.SUBSET"])
        found = [effort.clean_bank(dataset, backbone, "test", n)]
        if not alone and trainer == LEARNED:
            attack, extra = recipe["BANK.ATTACK"], f"profile {recipe['BANK.PROFILE']}"
            found.append(
                effort.attacked_bank(dataset, backbone, "train", self.train_images(dataset), attack, extra=extra)
            )
        if not alone and (trainer == PROBE or (trainer == CLASSIC and recipe["TRAINER.COOP.CLEAN_BANK"])):
            extra = f"profile {recipe['BANK.PROFILE']}" if trainer == CLASSIC else ""
            found.append(effort.clean_bank(dataset, backbone, "train", self.train_images(dataset), extra=extra))
        for attack in attacks:
            if attack.endswith(":adaptive") and trainer != VANILLA:
                continue
            for extra in ("", *map(effort.defense_label, defenses)):
                some, own = min(n, effort.COSTLY_SUBSET) if "diffpure" in extra else n, setup.surrogate
                found.append(effort.attacked_bank(dataset, backbone, "test", some, attack, extra=extra, surrogate=own))
        return tuple(found)

    def cost(
        self,
        trainer: str,
        dataset: str,
        backbone: str,
        evaluates: bool,
        recipe: Mapping[str, Any],
        shots: int,
    ) -> float:
        """GFLOP through the image encoder besides shared banks: training, and attacks that only this run makes."""
        setup, n = self.setup, self.test_images(dataset, recipe["EVAL.SUBSET"])
        images = min(self.train_images(dataset), shots * effort.classes(dataset) if shots > 0 else 10**9)
        epochs, gflop = recipe.get("OPTIM.MAX_EPOCH", 200), 0.0
        if trainer in TRAINED:
            passes = {"AdvTrain": 10, "FastAT": 1, "TradesFT": 11}[trainer]
            gflop += effort.training_cost(backbone, epochs, images, passes)
            gflop += (epochs + 1) * n * effort.attack_cost(setup.pgd, backbone)
        elif trainer in TEST_TIME:
            return test_time_cost(n, backbone, list(recipe["EVAL.ATTACKS"]))
        elif trainer in (*PIXEL_PEERS, *VISUAL_PEERS, *MULTIMODAL) and not evaluates:
            gflop += effort.training_cost(backbone, epochs, images, 3)
        elif trainer == CONDITIONAL and not evaluates:
            gflop += epochs * images * (effort.network(backbone).image + 3 * effort.texts_cost(dataset, backbone))
        elif trainer == CLASSIC and not evaluates and not recipe["TRAINER.COOP.CLEAN_BANK"]:  # augmented images
            gflop += epochs * images * effort.network(backbone).image
        if trainer not in (VANILLA, *TRAINED):  # what others may have made too is among the banks
            ends = (":adaptive", ":transfer") if trainer in VISUAL_PEERS else ":adaptive"
            own = [a for a in recipe["EVAL.ATTACKS"] if a.endswith(ends)]
            texts = effort.texts_cost(dataset, backbone) if trainer == CONDITIONAL else 0.0
            gflop += sum(n * effort.attack_cost(a, backbone, texts=texts) for a in own)
        return gflop

    def size(
        self, trainer: str, backbone: str, recipe: Mapping[str, Any], images: int, evaluates: bool, attacks: int
    ) -> int:
        """Bytes that a run leaves, and those of the banks of attacks on its own prompt, in the worst case all."""
        if trainer in TRAINED:
            return 3 * effort.network(backbone).bytes
        context = 0 if evaluates else recipe.get(f"TRAINER.{trainer.upper()}.N_CTX", 0)
        own = sum(a.endswith(":adaptive") for a in recipe["EVAL.ATTACKS"]) if trainer != VANILLA else 0
        records = attacks * (1 + len(recipe["EVAL.DEFENSES"]))
        return effort.run_size(backbone, recipe, context, records, own * images)

    def tuning(self, trainer: str, dataset: str, backbone: str, shots: int, recipe: Mapping[str, Any]) -> Tuning:
        """The steps that tune a prompt on embeddings, if the run does that."""
        if trainer not in (LEARNED, CLASSIC):
            return Tuning()
        images = min(self.train_images(dataset), shots * effort.classes(dataset) if shots > 0 else 10**9)
        limit = recipe["BANK.LIMIT"] if trainer == LEARNED else 0
        images, context = min(images, limit or images), recipe[f"TRAINER.{trainer.upper()}.N_CTX"]
        epochs, batch = recipe.get("OPTIM.MAX_EPOCH", 10), recipe.get("DATALOADER.TRAIN_X.BATCH_SIZE", 32)
        return effort.tuning(dataset, backbone, epochs, batch, images, context)

    # --- the runs -----------------------------------------------------------------------------------------------

    def main_attacks(self) -> list[str]:
        w = self.setup
        return [f"{w.pgd}:transfer", f"{w.rap}:transfer", f"{w.adaptive}:adaptive"]

    def peer_settings(self, trainer: str) -> list[tuple[str, str]]:
        """Of a run in the comparison with peers: budget, images and epochs are those of all; none of a run that has its
        own published recipe."""
        w = self.setup
        if self.as_published or trainer == VANILLA:
            return []
        node = f"TRAINER.{trainer.upper()}"
        words = [(f"{node}.CTX_INIT", w.peers_words)] if w.peers_words else []
        rate = [("OPTIM.LR", w.peers_rates[trainer])] if trainer in w.peers_rates else []
        sees = {
            LEARNED: [("BANK.ATTACK", w.peers_bank)],
            CLASSIC: [(f"{node}.CLEAN_BANK", "True"), (f"{node}.PREC", "fp32")],
            CONDITIONAL: [(f"{node}.PREC", "fp32")],
        }
        attack = sees[trainer] if trainer in sees else [(f"{node}.ATTACK", w.peers_attacks[trainer])]
        return [*w.peers_settings, *words, *rate, *attack]

    def main(self, trainer: str, dataset: str, backbone: str) -> tuple[str, ...]:
        """Train on the whole split and evaluate as Table 1 does; zero-shot CLIP needs one seed only."""
        found = []
        for seed in self.seeds(trainer):
            settings: list[tuple[str, str]] = []
            if trainer == LEARNED:
                settings = [*settings, ("EVAL.WORDS", str(WORDS))]
                settings += [("EVAL.PICTURES", str(PICTURES))] if seed == self.setup.seeds[0] else []
            found.append(self.job(trainer, dataset, backbone, seed, "main", settings, attacks=self.main_attacks()))
        return tuple(found)

    def tuned_rivals(self) -> tuple[str, ...]:
        """Zero-shot CLIP, CoOp by its own recipe, CoOp that differs from AdvPT in the attack alone, and AdvPT. Where
        CoOp's own recipe is already on a clean bank (the demo), it stands once."""
        w = self.setup
        own = self.recipe(CLASSIC, w.backbones[0], w.datasets[0]) if w.backbones and w.datasets else {}
        return (VANILLA, *(() if own.get("TRAINER.COOP.CLEAN_BANK") else (CLASSIC,)), TWIN, LEARNED)

    def seeds(self, trainer: str, of: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Those of a trainer's runs, from ``of`` (default: the world's): one where nothing is drawn."""
        seeds = of or self.setup.seeds
        return seeds[:1] if trainer in (VANILLA, PROBE) else seeds

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


UNDEFENDED = InputDefense(NO, "", NO)


def _row(b: Builder, table: str, backbone: str, trainer: str, attack: str, metric: Metric, names: Sequence[str],
         cells: Sequence[tuple[str, ...]], behind: InputDefense = UNDEFENDED) -> TableRow:  # fmt: skip
    """A row whose published numbers are found under the method's, the defense's and the attack's names in the paper;
    the paper has no adaptive attackers."""
    method = METHODS.get(trainer, trainer)
    published = metric.protocol != "adaptive"

    def key(dataset: str) -> PaperCell | None:
        return (
            PaperCell(table, b.setup.column(backbone), b.setup.column(dataset), method, behind.published, attack)
            if published and behind.published
            else None
        )

    return TableRow(
        b.setup.column(backbone),
        method,
        behind.name,
        attack if published else f"{attack} ({metric.attack})",
        metric.protocol or "-",
        tuple(Cell(runs, metric, key(name)) for name, runs in zip(names, cells)),
    )


def said(setup: ReproductionSetup, *names: str) -> str:
    """What captions add in this world."""
    return " ".join(text for text in (setup.said.get("all", ""), *(setup.said.get(n, "") for n in names)) if text)


def table1(b: Builder) -> list[Exhibit]:
    w, rows = b.setup, []
    measured = (
        ("clean", CLEAN),
        ("pgd40", robust(w.pgd)),
        ("rap", robust(w.rap)),
        ("pgd", robust(w.adaptive, "adaptive")),
    )
    for backbone in w.backbones:
        runs = {t: [b.main(t, d, backbone) for d in w.datasets] for t in (VANILLA, LEARNED)}
        for attack, metric in measured:
            rows += [_row(b, "1", backbone, t, attack, metric, w.datasets, runs[t]) for t in (VANILLA, LEARNED)]
    caption = f"PGD is {w.pgd}, RAP {w.rap}; {TRANSFER}. {said(w, 'table1')}"
    return [
        Table("table1", "Table 1: clean and robust accuracy", caption, tuple(map(w.column, w.datasets)), tuple(rows))
    ]


def _defended(b: Builder, trainer: str, dataset: str, backbone: str, table: str) -> tuple[str, ...]:
    """The runs behind defenses: Table 2's, Table 3's, or one for both where the world says so."""
    w = b.setup
    pgd, aa = f"{w.pgd}:transfer", f"{w.aa}:transfer"
    if w.together:
        attacks, defenses = [pgd, aa], [each.chain for each in w.defenses]
        return b.evaluated(trainer, dataset, backbone, "defended", attacks, defenses, w.defended_subset)
    if table == "2":
        return b.evaluated(trainer, dataset, backbone, "defended", [pgd], [each.chain for each in w.defenses])
    return b.evaluated(trainer, dataset, backbone, "diffpure", [aa], [_diffpure(w).chain])


def _diffpure(setup: ReproductionSetup) -> InputDefense:
    return next(each for each in setup.defenses if each.name == "diffpure")


def table2(b: Builder) -> list[Exhibit]:
    w, rows = b.setup, []
    for backbone in w.backbones:
        runs = {t: [_defended(b, t, d, backbone, "2") for d in w.datasets] for t in (VANILLA, LEARNED)}
        for each in w.defenses:
            metric = robust(w.pgd, defense=each.chain)
            rows += [_row(b, "2", backbone, t, "pgd40", metric, w.datasets, runs[t], each) for t in (VANILLA, LEARNED)]
    listed = ", ".join(f"{each.name} is {each.chain}" for each in w.defenses)
    caption = (
        f"PGD is {w.pgd} against the undefended encoder; {listed}. The attacker does not know the defense, and "
        "nothing is clamped to the clean image. Costly defenses are evaluated on a part of the images. "
        f"{said(w, 'table2')}"
    )
    return [Table("table2", "Table 2: behind input defenses", caption, tuple(map(w.column, w.datasets)), tuple(rows))]


def table3(b: Builder) -> list[Exhibit]:
    w, rows = b.setup, []
    aa, adaptive = robust(w.aa), robust(w.aa_adaptive, "adaptive")
    for backbone in w.backbones:
        for behind in (UNDEFENDED, _diffpure(w)):
            for trainer in (VANILLA, LEARNED):
                runs = []
                for d in w.datasets:
                    if behind.chain or w.together:
                        runs.append(_defended(b, trainer, d, backbone, "3"))
                    else:
                        attacks = [f"{w.aa}:transfer", f"{w.aa_adaptive}:adaptive"]
                        runs.append(b.evaluated(trainer, d, backbone, "autoattack", attacks))
                metric = robust(w.aa, defense=behind.chain) if behind.chain else aa
                rows.append(_row(b, "3", backbone, trainer, "autoattack", metric, w.datasets, runs, behind))
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
    w, rows = b.setup, []
    for backbone in w.backbones:
        attacks = [f"{w.pgd}:transfer", f"{w.adaptive}:adaptive"]
        probes = [(b.job(PROBE, d, backbone, w.seeds[0], "main", [], attacks=attacks),) for d in w.probed]
        learned = [b.main(LEARNED, d, backbone) for d in w.probed]
        measured = (("clean", CLEAN), ("pgd40", robust(w.pgd)), ("pgd", robust(w.adaptive, "adaptive")))
        for attack, metric in measured:
            rows.append(_row(b, "4", backbone, PROBE, attack, metric, w.probed, probes))
            rows.append(_row(b, "1", backbone, LEARNED, attack, metric, w.probed, learned))
    caption = (
        f"Logistic regression on all training images; PGD is {w.pgd} on the very images of Table 1 (the paper does "
        "not say which PGD), the adaptive attacker goes through the head or the prompt. AdvPT's published numbers "
        f"are Table 1's. {said(w, 'table4')}"
    )
    return [Table("table4", "Table 4: linear probe", caption, tuple(map(w.column, w.probed)), tuple(rows))]


def table5(b: Builder) -> list[Exhibit]:
    w = b.setup
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


# --- what recipes differ in -----------------------------------------------------------------------------------------


def facts_of(trainer: str, recipe: Mapping[str, Any]) -> dict[str, str]:
    """What a trainer's recipe says of the training attack, prompts, images and schedule, for captions."""
    node, get = f"TRAINER.{trainer.upper()}", recipe.get
    banked = trainer == LEARNED or (trainer == CLASSIC and bool(get("TRAINER.COOP.CLEAN_BANK")))
    random = any(str(name).startswith("random") for name in get("INPUT.TRANSFORMS", ()))
    return {
        "training attack": str(get("BANK.ATTACK") if trainer == LEARNED else get(f"{node}.ATTACK", "none")),
        "M": str(get(f"{node}.N_CTX")),
        "images": "augmented" if random and not banked else "not augmented",
        "epochs": str(get("OPTIM.MAX_EPOCH")),
        "warm-up epochs": str(get("OPTIM.WARMUP_EPOCH")),
        "batch": str(get("DATALOADER.TRAIN_X.BATCH_SIZE", 32)),
        "rate": str(get("OPTIM.LR")),
        "precision": str(get(f"{node}.PREC")),
    }


def _two_coops(b: Builder, datasets: Sequence[str], backbones: Sequence[str]) -> str:
    """What the one CoOp differs from AdvPT in, and the other."""
    twin = (
        f"{METHODS[TWIN]} is tuned by AdvPT's recipe, on embeddings of clean images: they differ in the attack alone."
    )
    if CLASSIC not in b.tuned_rivals():
        return twin
    differs: dict[str, list[tuple[str, str]]] = {}
    for dataset, backbone in itertools.product(datasets, backbones):
        one, other = (facts_of(t, b.recipe(t, backbone, dataset)) for t in (CLASSIC, LEARNED))
        for name in one:
            if one[name] != other[name] and name != "training attack":
                differs.setdefault(name, []).append((one[name], other[name]))
    listed = ", ".join(
        f"{name} {' or '.join(dict.fromkeys(x for x, _ in pairs))} / {' or '.join(dict.fromkeys(y for _, y in pairs))}"
        for name, pairs in differs.items()
    )
    return f"{twin} CoOp has its own recipe, which differs from AdvPT's in more (CoOp / AdvPT): {listed}."


def _own_recipes(b: Builder, datasets: Sequence[str], backbone: str) -> str:
    """The recipe of every peer, side by side."""
    trainers = [trainer for trainer in PEERS if trainer != VANILLA]
    listed = "; ".join(
        f"{trainer}: " + ", ".join(f"{name} {value}" for name, value in facts_of(trainer, recipe).items())
        for trainer, recipe in ((t, b.recipe(t, backbone, dataset)) for dataset in datasets[:1] for t in trainers)
    )
    return (
        f"Every method has its own recipe, that of its authors where we know it, and all are judged under "
        f"{b.setup.peers}: rows differ in more than the method. {listed}."
    )


# --- figures --------------------------------------------------------------------------------------------------------


def fig3(b: Builder) -> list[Exhibit]:
    w, point_cells = b.setup, []
    pgd = robust(w.pgd)
    for backbone in w.backbones:
        for dataset in w.datasets:
            for trainer in b.tuned_rivals():
                runs = b.main(trainer, dataset, backbone)
                x, y = Cell(runs, CLEAN), Cell(runs, pgd)
                point_cells.append(
                    PointCell(w.column(backbone), METHODS.get(trainer, trainer), w.column(dataset), x, y)
                )
    caption = (
        f"Accuracy on clean images against that under {w.pgd} (transfer), mean over seeds, 95 % intervals. "
        f"{_two_coops(b, w.datasets, w.backbones)} {said(w)}"
    )
    return [
        Figure(
            "fig3",
            "Figure 3: trade-off of CoOp and AdvPT",
            caption,
            "points",
            "clean accuracy (%)",
            "robust accuracy (%)",
            tuple(point_cells),
        )  # fmt: skip
    ]


def _clocked(b: Builder, trainer: str, dataset: str, backbone: str) -> tuple[str, ...]:
    w = b.setup
    settings = [("TRAIN.CURVE_FREQ", str(w.curve_every[trainer]))]
    if w.name == "demo" and trainer != LEARNED:
        settings += [("OPTIM.MAX_EPOCH", "5")]
    attacks = [f"{w.pgd}:transfer"]
    return tuple(
        b.job(trainer, dataset, backbone, seed, "clock", settings, attacks=attacks, subset=w.clock_subset)
        for seed in w.seeds[: w.clock_seeds or None]
    )


def _clock_figure(b: Builder, name: str, title: str, trainers: Sequence[str], note: str = "") -> list[Exhibit]:
    """AdvPT and other trainers over wall-clock: a panel for clean and one for robust accuracy."""
    w, time_curves = b.setup, []
    parts: tuple[Literal["clean", "robust"], ...] = ("clean", "robust")
    for dataset, backbone, part in itertools.product(w.timed, w.timed_backbones, parts):
        panel = f"{w.column(dataset)}, {w.column(backbone)}, {part}"
        for trainer in (LEARNED, *trainers):
            time_curves.append(TimeCurve(panel, trainer, _clocked(b, trainer, dataset, backbone), part))
    caption = (
        "Seconds of training, AdvPT's with building its bank, without measuring; robust accuracy is under "
        f"{w.pgd} made anew on the encoder as it is (AdvPT's encoder never changes). One machine for all is what makes "
        f"the times comparable. {note}{said(w)}"
    )
    axes = ("wall-clock (s)", "accuracy (%)")
    return [Figure(name, title, caption, "lines", *axes, time_curves=tuple(time_curves), log_x=True)]


def fig4(b: Builder) -> list[Exhibit]:
    return _clock_figure(b, "fig4", "Figure 4: PGD adversarial training and AdvPT over wall-clock", ("AdvTrain",))


def fig5(b: Builder) -> list[Exhibit]:
    return _clock_figure(b, "fig5", "Figure 5: fast adversarial training and AdvPT over wall-clock", ("FastAT",))


def efficiency(b: Builder) -> list[Exhibit]:
    """Not in the paper: Figures 4 and 5 in one, with TRADES."""
    note = "Not in the paper, which has no TRADES. "
    return _clock_figure(b, "efficiency", "Adversarial training and AdvPT over wall-clock", TRAINED, note)


def fig6(b: Builder) -> list[Exhibit]:
    w, rows, point_cells = b.setup, [], []
    attacks = [f"{w.pgd}:transfer"]
    for backbone in w.backbones:
        runs = {
            VANILLA: [b.evaluated(VANILLA, d, backbone, "shift", attacks) for d in w.targets],
            LEARNED: [b.evaluated(LEARNED, d, backbone, "shift", attacks, source=w.source) for d in w.targets],
        }
        for attack, metric in (("clean", CLEAN), ("pgd40", robust(w.pgd))):
            for trainer in (VANILLA, LEARNED):
                row = _row(b, "shift", backbone, trainer, attack, metric, w.targets, runs[trainer])
                rows.append(row)
                for dataset, cell in zip(w.targets, row.cells):
                    if cell is not None:
                        series = f"{row.method}, {'clean' if metric.protocol is None else w.pgd}"
                        at = float(w.targets.index(dataset))
                        point_cells.append(PointCell(w.column(backbone), series, w.column(dataset), at, cell))
    caption = (
        f"Tuned on {w.column(w.source)} alone; heads have the classes of each target. PGD is {w.pgd}, made on each "
        f"target. {said(w, 'fig6')}"
    )
    title = "Figure 6: domain shift"
    return [
        Figure("fig6", title, caption, "bars", "", "accuracy (%)", tuple(point_cells)),
        Table("fig6_table", f"{title}, in numbers", caption, tuple(map(w.column, w.targets)), tuple(rows)),
    ]


def fig7(b: Builder) -> list[Exhibit]:
    w, point_cells = b.setup, []
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
                point_cells += [
                    PointCell(panel, series, f"M = {n}", float(n), Cell(runs, metric)) for series, metric in shown
                ]
    caption = f"AdvPT with 1 to {max(w.contexts)} context vectors. {said(w)}"
    return [
        Figure(
            "fig7",
            "Figure 7: number of context vectors",
            caption,
            "lines",
            "context vectors",
            "accuracy (%)",
            tuple(point_cells),
        )
    ]


def curves(b: Builder) -> list[Exhibit]:
    """Not in the paper: accuracy over the budget, for attackers who know the learned prompt and who do not."""
    w, point_cells = b.setup, []
    for dataset in w.timed:
        for backbone in w.timed_backbones:
            specs = [f"pgd{w.budget_steps}-ce@{eps}" for eps in w.budgets]
            attacks = [f"{spec}:{protocol}" for protocol in ("transfer", "adaptive") for spec in specs]
            for trainer in b.tuned_rivals():
                runs = b.evaluated(trainer, dataset, backbone, "budgets", attacks)
                method = METHODS.get(trainer, trainer)
                panel = f"{w.column(dataset)}, {w.column(backbone)}"
                for protocol in ("transfer", "adaptive"):
                    if trainer == VANILLA and protocol == "transfer":
                        continue  # its hand-written prompt is all there is to know
                    point_cells.append(PointCell(panel, f"{method}, {protocol}", "clean", 0.0, Cell(runs, CLEAN)))
                    for eps, spec in zip(w.budgets, specs):
                        metric = robust(spec, protocol)
                        point_cells.append(
                            PointCell(panel, f"{method}, {protocol}", f"{eps}/255", float(eps), Cell(runs, metric))
                        )
    caption = (
        f"PGD of {w.budget_steps} steps on the cross-entropy, over its budget; {TRANSFER}. Not in the paper. "
        f"{_two_coops(b, w.timed, w.timed_backbones)} {said(w)}"
    )
    return [
        Figure(
            "curves",
            "Accuracy over the attack's budget",
            caption,
            "lines",
            "eps (1/255)",
            "accuracy (%)",
            tuple(point_cells),
        )
    ]


def peers(b: Builder) -> list[Exhibit]:
    """Not in the paper: methods that tune prompts against attacks, for attackers who know the prompts and who do
    not."""
    w, rows, point_cells = b.setup, [], []
    bank = w.bank if b.as_published else w.peers_bank
    attacks = [f"{bank}:transfer", f"{w.peers}:transfer", f"{w.peers}:adaptive"]
    measured = (CLEAN, robust(bank), robust(w.peers), robust(w.peers, "adaptive"))
    for backbone in w.timed_backbones[:1] if w.name == "paper" else w.backbones[:1]:
        runs: dict[str, list[tuple[str, ...]]] = {trainer: [] for trainer in PEERS}
        for trainer, dataset in itertools.product(PEERS, w.timed):
            settings, shots = b.peer_settings(trainer), -1 if trainer == VANILLA else PEER_SHOTS
            runs[trainer].append(
                tuple(
                    b.job(trainer, dataset, backbone, seed, "peers", settings, attacks=attacks, shots=shots)
                    for seed in b.seeds(trainer, w.peers_seeds)
                )
            )
        for metric in measured:
            for trainer in PEERS:
                cells = tuple(Cell(each, metric) for each in runs[trainer])
                method = METHODS.get(trainer, trainer)
                rows.append(
                    TableRow(w.column(backbone), method, NO, metric.attack or "clean", metric.protocol or "-", cells)
                )
        for i, dataset in enumerate(w.timed):
            for metric in measured[2:]:
                panel = f"{w.column(dataset)}, {w.column(backbone)}, {metric.protocol}"
                for trainer in PEERS:
                    x, y = Cell(runs[trainer][i], CLEAN), Cell(runs[trainer][i], metric)
                    point_cells.append(PointCell(panel, METHODS.get(trainer, trainer), "", x, y))
    name, title, apart = "peers", "AdvPT and its peers", said(w, "peers")
    if b.as_published:
        name, title = "peers_as_published", "AdvPT and its peers, each by its own recipe"
        apart = f"{_own_recipes(b, w.timed, backbone)} {said(w)}"
    caption = (
        f"{PEER_SHOTS} images of each class, AdvPT's bank {bank}; {TRANSFER}. Methods with visual prompts see what "
        "was made on CLIP without them under transfer. CAPT has our choices where its paper is not known to us: no "
        f"reproduction of its numbers. Not in the paper. {apart}"
    )
    axes = ("clean accuracy (%)", f"accuracy under {w.peers} (%)")
    return [
        Table(name, title, caption, tuple(map(w.column, w.timed)), tuple(rows)),
        Figure(f"{name}_figure", f"{title}: trade-off", caption, "points", *axes, tuple(point_cells)),
    ]


EXHIBITS: dict[str, Callable[[Builder], list[Exhibit]]] = {
    f.__name__: f
    for f in (table1, table2, table3, table4, table5, fig3, fig4, fig5, fig6, fig7, curves, efficiency, peers, tapt)
}
OWN = ("peers", "tapt")  # not in AdvPT's paper, so not in `all`


def plan_exhibits(
    names: Sequence[str],
    setup: ReproductionSetup,
    repository: Path,
    more: Sequence[tuple[str, str]] = (),
    *,
    as_published: bool = False,
    all_statistics: bool = False,
) -> Exhibits:
    """The exhibits of a request (``all``: those of AdvPT's paper) and the plan of what they need.

    ``as_published`` and ``all_statistics`` are variants of the exhibits peers and tapt; see :class:`Builder`.

    Raises:
        ConfigError: an unknown exhibit, one that has no data set or backbone left, or a variant of one that was not
            asked for.
    """
    paper = [name for name in EXHIBITS if name not in OWN]
    wanted = list(dict.fromkeys(part for name in names for part in (paper if name == "all" else [name])))
    for name in wanted:
        if name not in EXHIBITS:
            raise ConfigError(f"{unknown_name('table or figure', name, [*EXHIBITS, 'all'])}")
    for flag, given, of in (("--as-published", as_published, "peers"), ("--all-statistics", all_statistics, "tapt")):
        if given and of not in wanted:
            raise ConfigError(f"{flag} is a variant of {of}, which is not asked for; expected: reproduce {of} {flag}")
    builder = Builder(setup, repository, more, as_published=as_published, all_statistics=all_statistics)
    found: list[Exhibit] = []
    for name in wanted:
        made = EXHIBITS[name](builder)
        empty = [
            e
            for e in made
            if not (getattr(e, "columns", ()) or getattr(e, "point_cells", ()) or getattr(e, "time_curves", ()))
        ]
        if empty and "all" not in names:
            raise ConfigError(f"{name} has nothing left to show with these data sets and backbones; give others")
        found += [e for e in made if e not in empty]
    plan = builder.planner.plan()
    if not plan.jobs:
        raise ConfigError("nothing is left to do with these data sets and backbones; give others")
    return Exhibits(tuple(found), plan)


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
                name, config, own = builder.recipe_of(trainer, backbone, dataset)
                one, purpose = trainer == VANILLA, "sweep-clean" if trainer == TWIN else "sweep"
                recipe = settings_of(repository / config, (*own, *more))
                for n in shots[:1] if one else shots:
                    banks, gflop, size = _sweep_work(builder, name, dataset, backbone, n, recipe)
                    for seed in seeds[:1] if one else seeds:
                        planner.add(
                            Job(
                                trainer=name,
                                dataset=dataset,
                                backbone=backbone,
                                shots=-1 if one else n,
                                seed=seed,
                                purpose=purpose,
                                config=config,
                                dataset_config=builder.dataset_config(dataset),
                                settings=(*own, *more),
                                banks=banks,
                                gflop=gflop,
                                tuning=builder.tuning(name, dataset, backbone, n, recipe),
                                size=size,
                            )
                        )
    return planner.plan()


def _sweep_work(
    builder: Builder, trainer: str, dataset: str, backbone: str, shots: int, recipe: Mapping[str, Any]
) -> tuple[tuple[BankNeed, ...], float, int]:
    """The banks that a run shares with others, the GFLOP of what it does for itself, and the bytes it leaves."""
    train, n = effort.counts(dataset)[0], builder.test_images(dataset, recipe["EVAL.SUBSET"])
    if shots > 0:
        train = min(train, shots * effort.classes(dataset))
    surrogate, gflop, own = recipe["EVAL.SURROGATE"], 0.0, 0
    own_encoder = trainer in (*TRAINED, *VISUAL_PEERS)
    found = [] if own_encoder else [effort.clean_bank(dataset, backbone, "test", n)]
    asked = threats(recipe["EVAL.ATTACKS"], recipe["EVAL.PROTOCOLS"])
    for threat in asked:
        attack = str(threat.attack)
        if own_encoder or (threat.protocol == "adaptive" and trainer != VANILLA):
            own += n
            texts = effort.texts_cost(dataset, backbone) if trainer == CONDITIONAL else 0.0
            gflop += n * effort.attack_cost(attack, backbone, surrogate, texts=texts)
        else:
            found.append(effort.attacked_bank(dataset, backbone, "test", n, attack, surrogate=surrogate))
    if trainer == LEARNED:
        limit = recipe["BANK.LIMIT"] or train
        attack = recipe["BANK.ATTACK"]
        found.append(effort.attacked_bank(dataset, backbone, "train", min(limit, train), attack))
    elif trainer == CLASSIC and recipe["TRAINER.COOP.CLEAN_BANK"]:
        found.append(effort.clean_bank(dataset, backbone, "train", train))
    elif trainer in (CLASSIC, CONDITIONAL):  # augmented images in every epoch, and texts for each of CoCoOp's
        texts = 3 * effort.texts_cost(dataset, backbone) if trainer == CONDITIONAL else 0.0
        gflop += recipe.get("OPTIM.MAX_EPOCH", 200) * train * (effort.network(backbone).image + texts)
    context = recipe.get(f"TRAINER.{trainer.upper()}.N_CTX", 0)
    return tuple(found), gflop, effort.run_size(backbone, recipe, context, len(asked), own)


_ANY = ReproductionSetup(
    name="any", datasets=(), probed=(), source="", targets=(), backbones=(), timed=(), timed_backbones=(), names={},
    seeds=(1,), pgd="", rap="", aa="", adaptive="", aa_adaptive="", bank="", budgets=(), budget_steps=0, defenses=(),
    together=False, surrogate="", common=(), contexts=(), curve_every={},
)  # fmt: skip
