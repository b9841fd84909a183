"""The plans behind ``scripts/advpt/*.sh``: which runs each one makes, in which folders, and what it shows at its end.

Folders are CoOp's: they name the data set, the trainer, its yaml and the seed. Other settings are compared by
``train.py``, which refuses a folder of another configuration.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from advpt.errors import ConfigError
from advpt.jobs.methods import ADVPT, COOP, TAPT_DESIGNS, ZEROSHOT
from advpt.jobs.plan import Job, Pairs, Plan, Planner
from advpt.jobs.recipes import DATASETS, TRAINERS, Recipes
from advpt.settings import has_config

SEARCHED = "a photo of the digit"  # what prompts start as in the searches
PICTURES: Pairs = (("EVAL.PICTURES", "4"),)  # for the page; settings of a request may say otherwise
RESULT_LINE = re.compile(r"^\* (?:robust_)?accuracy:.*", re.MULTILINE)


@dataclass(frozen=True)
class Request:
    """The words and options of a script.

    Args:
        repository: the checkout. root: of the data sets. output: of the results, for a note about folders there.
        words: data set, backbone and what follows them. trainers: their names. seeds: of the runs.
        shots: images per class, or ``all``. grid: values that a search goes through. name: of the folder of results.
        together: tune all seeds in one process. settings: of every run. attack: the demo's AutoAttack.
    """

    repository: Path
    root: Path
    output: Path
    words: tuple[str, ...] = ()
    trainers: tuple[str, ...] = (ADVPT,)
    seeds: tuple[int, ...] = (1, 2, 3)
    shots: tuple[str, ...] = ("all",)
    grid: tuple[str, ...] = ()
    name: str = ""
    together: bool = False
    settings: Pairs = ()
    attack: str = ""


@dataclass(frozen=True)
class Script:
    """What a script does.

    Args:
        plan: its runs. tables: headings ("" for none) and folders whose records are shown at the end.
        results: lines that are completed by what a run measured, and its folder. page: whether each of those folders
            gets an HTML page.
        side_by_side: runs at a time that its small networks leave room for, 0 for the usual number.
        notes: sentences to begin with.
    """

    plan: Plan
    tables: tuple[tuple[str, str], ...] = ()
    results: tuple[tuple[str, str], ...] = ()
    page: bool = False
    side_by_side: int = 0
    notes: tuple[str, ...] = ()


class Runs(Planner):
    """Makes the jobs of a script, in folders that have names."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.settings, self.recipes = request.settings, Recipes(request.repository)
        self.dataset, self.backbone, *_ = request.words or ("digits", "democlip")

    def run(
        self,
        trainer: str,
        place: str,
        seeds: int | Sequence[int],
        settings: Pairs = (),
        *,
        recipe: Pairs = (),
        dataset: str = "",
        config: str = "",
        shots: int = -1,
        model: str = "",
        runs: Pairs = (),
    ) -> str:
        """The id of a job in the folder ``place``: of one seed, or of several in folders below it. ``recipe``: settings
        that those of the request may change."""
        several = () if isinstance(seeds, int) else tuple(seeds)
        return self.add(
            Job(
                trainer=trainer,
                dataset=dataset or self.dataset,
                backbone=self.backbone,
                shots=shots,
                seed=seeds if isinstance(seeds, int) else several[0],
                purpose="script",
                config=config or f"{TRAINERS}/{trainer}/{self.backbone}.yaml",
                dataset_config=self.recipes.dataset(dataset) if dataset else f"{DATASETS}/{self.dataset}.yaml",
                settings=(*recipe, *self.settings, *settings),
                model=model,
                runs=runs,
                place=place,
                seeds=several,
            )
        )


def shots_of(text: str) -> int:
    """``all`` is -1.

    Raises:
        ConfigError: another word.
    """
    if text != "all" and not re.fullmatch(r"-?\d+", text):
        raise ConfigError(f"SHOTS has {text!r}; give numbers of images per class, or all")
    return -1 if text == "all" else int(text)


def folder_name(dataset: str, root: Path) -> str:
    """Of a data set's results. One's own data that lie in the root itself have the root's name."""
    in_root = dataset == "image_folder" and not (root / "image_folder").is_dir() and (root / "train").is_dir()
    return root.resolve().name if in_root else dataset


def main_config(repository: Path, trainer: str, backbone: str, dataset: str) -> str:
    """The yaml, which may be composed: ``vit_b16_ep50`` is ``vit_b16`` with 50 epochs, and on a data set with its own
    recipe (ImageNet) ``vit_b16_imagenet_ep50``."""
    folder, base, parts = repository / TRAINERS / trainer, backbone, ""
    while not has_config(folder / f"{base}.yaml") and "_" in base:
        base, _, part = base.rpartition("_")
        parts = f"_{part}{parts}"
    special = f"{base}_{dataset}"
    return f"{TRAINERS}/{trainer}/{f'{special}{parts}' if has_config(folder / f'{special}.yaml') else backbone}.yaml"


def main(request: Request) -> Script:
    """One data set, one backbone: each seed, for each number of shots."""
    (dataset, backbone, *_), trainer, runs = request.words, request.trainers[0], Runs(request)
    if not (request.repository / DATASETS / f"{dataset}.yaml").is_file():
        raise ConfigError(f"there is no {DATASETS}/{dataset}.yaml; see: ls {DATASETS}")
    config = main_config(request.repository, trainer, backbone, dataset)
    name, notes = request.name or folder_name(dataset, request.root), []
    images = PICTURES if trainer in (ADVPT, COOP) else ()
    older = request.output / dataset / trainer
    if name != dataset and not request.name and older.is_dir():
        notes.append(f"note: runs in {older} stay as they are; NAME={dataset} continues them")
    folders = [f"{name}/{trainer}/{Path(config).stem}_{shots}shots" for shots in request.shots]
    for shots, folder in zip(map(shots_of, request.shots), folders):
        if request.together:
            runs.run(trainer, folder, request.seeds, recipe=images, config=config, shots=shots)
        else:
            for seed in request.seeds:
                first = images if seed == request.seeds[0] else ()
                runs.run(trainer, f"{folder}/seed{seed}", seed, recipe=first, config=config, shots=shots)
    return Script(runs.plan(), tuple(("", folder) for folder in folders), page=True, notes=tuple(notes))


def base_to_new(request: Request) -> Script:
    """Tune on the first half of the classes, evaluate on it and on the other half."""
    (dataset, backbone, *_), trainer, runs = request.words, request.trainers[0], Runs(request)
    top = f"{folder_name(dataset, request.root)}/{trainer}/{backbone}_{request.shots[0]}shots"
    shots = shots_of(request.shots[0])
    for seed in request.seeds:
        model = ""
        for part in ("base", "new"):
            classes = (("DATASET.SUBSAMPLE_CLASSES", part),)
            model = runs.run(trainer, f"{top}/{part}/seed{seed}", seed, classes, shots=shots, model=model)
    return Script(runs.plan(), tuple((f"{part} classes", f"{top}/{part}") for part in ("base", "new")))


def cross_dataset(request: Request) -> Script:
    """Tune on one data set, evaluate on others."""
    (source, backbone, *targets), trainer, runs = request.words, request.trainers[0], Runs(request)
    shots = shots_of(request.shots[0])
    top = f"{folder_name(source, request.root)}/{trainer}/{backbone}_{request.shots[0]}shots"
    for seed in request.seeds:
        model = ""
        for dataset in (source, *targets):
            made = runs.run(trainer, f"{top}/{dataset}/seed{seed}", seed, dataset=dataset, shots=shots, model=model)
            model = model or made
    return Script(runs.plan(), tuple(("", f"{top}/{dataset}") for dataset in (source, *targets)))


def demo(request: Request) -> Script:
    """Zero-shot CLIP, CoOp and AdvPT on handwritten digits: tuned, then attacked; nothing is drawn in zero-shot CLIP,
    so it has one seed."""
    transfer = (("EVAL.ATTACKS", "('pgd40-fkl@8:transfer','pgd10-ce@2:transfer')"),)
    subset, attack = ("EVAL.SUBSET", "200"), request.attack
    evaluations = (
        ("transfer", (subset, ("EVAL.ATTACKS", f"('{attack}:transfer','{attack}:transfer-all')"))),
        ("adaptive", (subset, ("EVAL.ATTACKS", "('pgd10-ce@2:adaptive','pgd10-ce@8:adaptive')"))),
        ("adaptive_aa", (subset, ("EVAL.ATTACKS", f"('{attack}:adaptive',)"))),
    )
    runs, trained = Runs(request), {}
    for trainer in (ADVPT, COOP, ZEROSHOT):  # the longest first
        place, seeds = (f"{trainer}/seed1", 1) if trainer == ZEROSHOT else (trainer, request.seeds)
        images = PICTURES if trainer == ADVPT else ()
        trained[trainer] = runs.run(trainer, place, seeds, transfer, recipe=images)
    for folder, settings in evaluations:
        for trainer, model in trained.items():
            place, seeds = f"{folder}/{trainer}", request.seeds[:1] if folder == "adaptive_aa" else request.seeds
            if trainer == ZEROSHOT:
                runs.run(trainer, f"{place}/seed1", 1, settings, model=model)
            else:
                runs.run(trainer, place, seeds, settings, model=model)
    return Script(runs.plan(), (("", ""),), page=True, side_by_side=3)


def demo_search(request: Request) -> Script:
    """The demo's learning rates, on the validation split."""
    runs, results = Runs(request), []
    validation = (("TEST.SPLIT", "val"), ("EVAL.PROTOCOLS", "('transfer',)"), ("EVAL.ATTACKS", "('pgd40-fkl@8',)"))
    for trainer, rate in itertools.product(request.trainers, request.grid):
        place = f"{trainer}/lr{rate}"
        runs.run(trainer, place, request.seeds, (("OPTIM.LR", rate), *validation))
        results += [(f"{trainer:6} lr {rate:6} seed {seed}", f"{place}/seed{seed}") for seed in request.seeds]
    return Script(runs.plan(), results=tuple(results), side_by_side=3)


def _ten_epochs(trainer: str) -> Pairs:
    """Settings of the searches over methods: 10 epochs of batches of 16, from the hand-written words."""
    batch = ("DATALOADER.TRAIN_X.BATCH_SIZE", "16")
    return (("OPTIM.MAX_EPOCH", "10"), batch, (f"TRAINER.{trainer.upper()}.CTX_INIT", SEARCHED))


def peers_search(request: Request) -> Script:
    """The learning rates of the comparison with AdvPT's peers, on the validation split."""
    runs, results = Runs(request), []
    attack = (("EVAL.PROTOCOLS", "('adaptive',)"), ("EVAL.ATTACKS", "('pgd5-ce@2',)"))
    validation = (("TEST.SPLIT", "val"), ("EVAL.SUBSET", "150"), *attack)
    for trainer, rate, seed in itertools.product(request.trainers, request.grid, request.seeds):
        bank = (("BANK.ATTACK", "pgd10-fkl@2"),) if trainer == ADVPT else ()  # all train at 2/255
        recipe, place = (("OPTIM.LR", rate), *_ten_epochs(trainer), *bank), f"{trainer}/lr{rate}/seed{seed}"
        model = runs.run(trainer, place, seed, (("TEST.NO_TEST", "True"),), recipe=recipe, shots=16)
        runs.run(trainer, f"{place}/val", seed, validation, recipe=recipe, model=model)
        results.append((f"{trainer:9} lr {rate:6} seed {seed}", f"{place}/val"))
    return Script(runs.plan(), results=tuple(results), side_by_side=3)


def tapt_search(request: Request) -> Script:
    """How the demo tunes at test time: learning rate and steps, on the validation split."""
    runs, results, seed = Runs(request), [], request.seeds[0]
    words, attack = ("TRAINER.TAPT.CTX_INIT", SEARCHED), ("EVAL.ATTACKS", "('pgd10-ce@2:static',)")
    for _, trained_by, trainer in TAPT_DESIGNS:
        trained, node = {}, f"TRAINER.{trained_by.upper()}.LOSS"
        for loss in ("adv_half", "clean"):
            settings = (("TEST.NO_TEST", "True"), ("OPTIM.LR", "0.02"), *_ten_epochs(trained_by), (node, loss))
            trained[loss] = runs.run(trained_by, f"{trained_by}-{loss}", seed, settings, shots=16)
        clean = (("TRAINER.TAPT.CLEAN_RUN", trained["clean"]),)
        for point in request.grid:
            rate, _, steps = point.partition(":")
            tuning = (("TRAINER.TAPT.LR", rate), ("TRAINER.TAPT.STEPS", steps))
            settings, place = (("TEST.SPLIT", "val"), words, attack, *tuning), f"{trainer}/lr{rate}_steps{steps}"
            runs.run(trainer, place, seed, settings, shots=16, model=trained["adv_half"], runs=clean)
            results.append((f"{trainer:8} lr {rate:7} steps {steps}", place))
    return Script(runs.plan(), results=tuple(results), side_by_side=3)


def sweep(
    datasets: Sequence[str],
    backbones: Sequence[str],
    methods: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    repository: Path,
    more: Sequence[tuple[str, str]] = (),
) -> Plan:
    """Data sets x backbones x methods x shots x seeds, each with the evaluation of its yaml; zero-shot CLIP, which
    reads no training image and draws nothing, stands once.

    Raises:
        ConfigError: a yaml that does not exist.
    """
    planner, recipes = Planner(), Recipes(repository)
    for dataset, backbone, method in itertools.product(datasets, backbones, methods):
        job, once = recipes.of(method, backbone, dataset), method == ZEROSHOT
        settings, purpose = (*job.settings, *more), f"sweep{job.purpose}"
        for n, seed in itertools.product(shots[:1] if once else shots, seeds[:1] if once else seeds):
            planner.add(replace(job, shots=-1 if once else n, seed=seed, purpose=purpose, settings=settings))
    return planner.plan()


SCRIPTS: dict[str, tuple[Callable[[Request], Script], int]] = {  # and how many words each needs
    "main": (main, 2),
    "base_to_new": (base_to_new, 2),
    "cross_dataset": (cross_dataset, 3),
    "demo": (demo, 0),
    "demo_search": (demo_search, 0),
    "peers_search": (peers_search, 0),
    "tapt_search": (tapt_search, 0),
}


def result_lines(script: Script, output: Path) -> list[str]:
    """What each run measured, as it printed it, behind its line."""
    lines = []
    for text, folder in script.results:
        path = output / folder / "log.txt"
        printed = RESULT_LINE.findall(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []
        lines.append(f"{text}  {' '.join(printed[-2:]) or 'no result'}")
    return lines
