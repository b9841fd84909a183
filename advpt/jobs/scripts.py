"""The plans behind ``scripts/advpt/*.sh``: which runs each one makes, in which folders, and what it shows at its end.

Folders are CoOp's: they name the data set, the trainer, its yaml and the seed. Other settings are compared by
``train.py``, which refuses a folder of another configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advpt.errors import ConfigError
from advpt.jobs.methods import ADVPT, COOP, TAPT_DESIGNS, ZEROSHOT
from advpt.jobs.plan import Job, Pairs, Plan, Planner
from advpt.jobs.recipes import DATASETS, TRAINERS, Recipes
from advpt.settings import has_config

SEARCHED = "a photo of the digit"  # what prompts start as in the searches
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
        results: lines that are completed by what a run measured, and its folder. page: whether an HTML page is written.
        side_by_side: runs at a time that its small networks leave room for, 0 for the usual number.
        notes: sentences to begin with.
    """

    plan: Plan
    tables: tuple[tuple[str, str], ...] = ()
    results: tuple[tuple[str, str], ...] = ()
    page: bool = False
    side_by_side: int = 0
    notes: tuple[str, ...] = ()


@dataclass
class Runs:
    """Makes the jobs of one trainer on one data set and backbone."""

    planner: Planner
    trainer: str
    dataset: str = "digits"
    backbone: str = "democlip"
    config: str = ""
    dataset_config: str = ""
    settings: Pairs = field(default=())

    def add(
        self, place: str, seeds: int | Sequence[int], settings: Pairs = (), *, shots: int = -1, model: str = "",
        runs: Pairs = (),
    ) -> str:  # fmt: skip
        """The id of a job in the folder ``place``: of one seed, or of several in folders below it."""
        several = () if isinstance(seeds, int) else tuple(seeds)
        return self.planner.add(
            Job(
                trainer=self.trainer,
                dataset=self.dataset,
                backbone=self.backbone,
                shots=shots,
                seed=seeds if isinstance(seeds, int) else several[0],
                purpose="script",
                config=self.config or f"{TRAINERS}/{self.trainer}/{self.backbone}.yaml",
                dataset_config=self.dataset_config or f"{DATASETS}/{self.dataset}.yaml",
                settings=(*self.settings, *settings),
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
    (dataset, backbone, *_), trainer, planner = request.words, request.trainers[0], Planner()
    dataset_config = f"{DATASETS}/{dataset}.yaml"
    if not (request.repository / dataset_config).is_file():
        raise ConfigError(f"there is no {dataset_config}; see: ls {DATASETS}")
    config = main_config(request.repository, trainer, backbone, dataset)
    runs = Runs(planner, trainer, dataset, backbone, config, dataset_config, request.settings)
    name = request.name or folder_name(dataset, request.root)
    notes = []
    if name != dataset and not request.name and (request.output / dataset / trainer).is_dir():
        older = request.output / dataset / trainer
        notes.append(f"note: runs in {older} stay as they are; NAME={dataset} continues them")
    folders = [f"{name}/{trainer}/{Path(config).stem}_{shots}shots" for shots in request.shots]
    for shots, folder in zip(request.shots, folders):
        n = shots_of(shots)
        if request.together:
            runs.add(folder, request.seeds, shots=n)
        else:
            for seed in request.seeds:
                runs.add(f"{folder}/seed{seed}", seed, shots=n)
    return Script(planner.plan(), tuple(("", folder) for folder in folders), notes=tuple(notes))


def base_to_new(request: Request) -> Script:
    """Tune on the first half of the classes, evaluate on it and on the other half."""
    (dataset, backbone, *_), trainer, planner = request.words, request.trainers[0], Planner()
    runs = Runs(planner, trainer, dataset, backbone, settings=request.settings)
    top = f"{folder_name(dataset, request.root)}/{trainer}/{backbone}_{request.shots[0]}shots"
    shots = shots_of(request.shots[0])
    for seed in request.seeds:
        base = runs.add(f"{top}/base/seed{seed}", seed, (("DATASET.SUBSAMPLE_CLASSES", "base"),), shots=shots)
        new = (("DATASET.SUBSAMPLE_CLASSES", "new"),)
        runs.add(f"{top}/new/seed{seed}", seed, new, shots=shots, model=base)
    return Script(planner.plan(), tuple((f"{part} classes", f"{top}/{part}") for part in ("base", "new")))


def cross_dataset(request: Request) -> Script:
    """Tune on one data set, evaluate on others."""
    (source, backbone, *targets), trainer, planner = request.words, request.trainers[0], Planner()
    recipes, shots = Recipes(request.repository), shots_of(request.shots[0])
    top = f"{folder_name(source, request.root)}/{trainer}/{backbone}_{request.shots[0]}shots"
    for seed in request.seeds:
        model = ""
        for dataset in (source, *targets):
            dataset_config = recipes.dataset(dataset)
            runs = Runs(planner, trainer, dataset, backbone, "", dataset_config, request.settings)
            made = runs.add(f"{top}/{dataset}/seed{seed}", seed, shots=shots, model=model)
            model = model or made
    return Script(planner.plan(), tuple(("", f"{top}/{dataset}") for dataset in (source, *targets)))


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
    planner, trained = Planner(), {}
    for trainer in (ADVPT, COOP, ZEROSHOT):  # the longest first
        place, seeds = (f"{trainer}/seed1", 1) if trainer == ZEROSHOT else (trainer, request.seeds)
        trained[trainer] = Runs(planner, trainer, settings=request.settings).add(place, seeds, transfer)
    for folder, settings in evaluations:
        for trainer, model in trained.items():
            place, seeds = f"{folder}/{trainer}", request.seeds[:1] if folder == "adaptive_aa" else request.seeds
            runs = Runs(planner, trainer, settings=request.settings)
            if trainer == ZEROSHOT:
                runs.add(f"{place}/seed1", 1, settings, model=model)
            else:
                runs.add(place, seeds, settings, model=model)
    return Script(planner.plan(), (("", ""),), page=True, side_by_side=3)


def demo_search(request: Request) -> Script:
    """The demo's learning rates, on the validation split."""
    planner, results = Planner(), []
    validation = (("TEST.SPLIT", "val"), ("EVAL.PROTOCOLS", "('transfer',)"), ("EVAL.ATTACKS", "('pgd40-fkl@8',)"))
    for trainer in request.trainers:
        for rate in request.grid:
            place = f"{trainer}/lr{rate}"
            runs = Runs(planner, trainer, settings=request.settings)
            runs.add(place, request.seeds, (("OPTIM.LR", rate), *validation))
            results += [(f"{trainer:6} lr {rate:6} seed {seed}", f"{place}/seed{seed}") for seed in request.seeds]
    return Script(planner.plan(), results=tuple(results), side_by_side=3)


def _ten_epochs(trainer: str) -> Pairs:
    """Settings of the searches over methods: 10 epochs of batches of 16, from the hand-written words."""
    batch = ("DATALOADER.TRAIN_X.BATCH_SIZE", "16")
    return (("OPTIM.MAX_EPOCH", "10"), batch, (f"TRAINER.{trainer.upper()}.CTX_INIT", SEARCHED))


def peers_search(request: Request) -> Script:
    """The learning rates of the comparison with AdvPT's peers, on the validation split."""
    planner, results = Planner(), []
    attack = (("EVAL.PROTOCOLS", "('adaptive',)"), ("EVAL.ATTACKS", "('pgd5-ce@2',)"))
    validation = (("TEST.SPLIT", "val"), ("EVAL.SUBSET", "150"), *attack)
    for trainer in request.trainers:
        bank = (("BANK.ATTACK", "pgd10-fkl@2"),) if trainer == ADVPT else ()  # all train at 2/255
        for rate in request.grid:
            settings = (("OPTIM.LR", rate), *_ten_epochs(trainer), *bank, *request.settings)
            runs = Runs(planner, trainer, settings=settings)
            for seed in request.seeds:
                place = f"{trainer}/lr{rate}/seed{seed}"
                model = runs.add(place, seed, (("TEST.NO_TEST", "True"),), shots=16)
                runs.add(f"{place}/val", seed, validation, model=model)
                results.append((f"{trainer:9} lr {rate:6} seed {seed}", f"{place}/val"))
    return Script(planner.plan(), results=tuple(results), side_by_side=3)


def tapt_search(request: Request) -> Script:
    """How the demo tunes at test time: learning rate and steps, on the validation split."""
    planner, results, seed = Planner(), [], request.seeds[0]
    words, attack = ("TRAINER.TAPT.CTX_INIT", SEARCHED), ("EVAL.ATTACKS", "('pgd10-ce@2:static',)")
    evaluation = (("TEST.SPLIT", "val"), words, attack)
    for _, trained_by, trainer in TAPT_DESIGNS:
        trained, node = {}, f"TRAINER.{trained_by.upper()}.LOSS"
        for loss in ("adv_half", "clean"):
            settings = (("TEST.NO_TEST", "True"), ("OPTIM.LR", "0.02"), *_ten_epochs(trained_by), (node, loss))
            runs = Runs(planner, trained_by, settings=request.settings)
            trained[loss] = runs.add(f"{trained_by}-{loss}", seed, settings, shots=16)
        for point in request.grid:
            rate, _, steps = point.partition(":")
            place, clean = f"{trainer}/lr{rate}_steps{steps}", (("TRAINER.TAPT.CLEAN_RUN", trained["clean"]),)
            settings = (*evaluation, ("TRAINER.TAPT.LR", rate), ("TRAINER.TAPT.STEPS", steps))
            runs = Runs(planner, trainer, settings=request.settings)
            runs.add(place, seed, settings, shots=16, model=trained["adv_half"], runs=clean)
            results.append((f"{trainer:8} lr {rate:7} steps {steps}", place))
    return Script(planner.plan(), results=tuple(results), side_by_side=3)


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
