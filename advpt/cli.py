"""``python -m advpt VERB``: look at the installation, attacks, banks and results."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from advpt.cluster import ENGINES
from advpt.data.listing import require_unicode
from advpt.errors import AdvPTError, ConfigError
from advpt.version import __version__

EXTRAS = {
    "diffusers": ("diffpure", "DiffPure purification"),
    "ray": ("ray", "banks and sweeps over many machines"),
    "tensorboard": ("", "training curves"),
    "pytest": ("dev", "the test suite"),
}


def doctor(args: argparse.Namespace) -> int:
    """Versions, devices, which dassl is in use, weights and data roots and which setting decided."""
    import torch

    from advpt.backbones import clip

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(
        f"advpt {__version__}   python {platform.python_version()}   torch {torch.__version__}   {os.cpu_count()} cores"
    )
    print(f"devices     {', '.join(devices) or 'CPU only'}")
    found = importlib.util.find_spec("dassl")
    if found is None:
        print("dassl       missing: run `make setup`, or pip install ./dassl-lite")
    else:
        import dassl

        print(f"dassl       {getattr(dassl, '__version__', 'unknown version')} at {Path(str(dassl.__file__)).parent}")
    root, why = Path("data"), "the default"
    if os.environ.get("ADVPT_DATA"):
        root, why = Path(os.environ["ADVPT_DATA"]), "$ADVPT_DATA"
    if args.root:
        root, why = Path(args.root), "--root"
    print(f"data root   {root.absolute()} (from {why}){'' if root.is_dir() else ': not there yet'}")
    if root.is_dir():
        print(f"            {', '.join(sorted(p.name for p in root.iterdir() if p.is_dir())) or 'empty'}")
    why = "$ADVPT_CLIP_CACHE" if os.environ.get("ADVPT_CLIP_CACHE") else "OpenAI's default"
    print(f"weights     {clip.cache_folder()} (from {why}); DemoCLIP ships with the project")
    for name in clip.OFFICIAL:
        file = clip.cache_folder() / clip.official_file(name)[0].rsplit("/", 1)[-1]
        if file.is_file():
            same = clip.file_digest(file) == clip.official_file(name)[1]
            print(f"            {name}: {'ok' if same else 'DAMAGED, its SHA-256 differs: delete it'}")
    for module, (extra, gives) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        how = f'pip install "advpt[{extra}]"' if extra else f"pip install {module}"
        print(f"extra       {module}: {'yes' if there else f'no ({how})'}, {gives}")
    return 0


def attacks(args: argparse.Namespace) -> int:
    """Attacks and objectives, and what a specification expands to."""
    from advpt.attacks import ATTACKS, parse_all
    from advpt.attacks.objectives import OBJECTIVES

    if args.spec:
        for text in args.spec:
            for spec in parse_all(text):
                print(f"{text} = {spec}: {spec.build()!r}")
        return 0
    print(tabulate([[n, ATTACKS.get(n).summary] for n in ATTACKS], headers=["attack", "what it does"]))
    rows = [[o.name, o.space, "yes" if o.uses_labels else "no", o.summary] for o in OBJECTIVES.values()]
    print("\n" + tabulate(rows, headers=["objective", "space", "labels", "what it makes large"]))
    return 0


def defenses(args: argparse.Namespace) -> int:
    """Defenses and their profiles, and what a chain expands to."""
    from advpt.defenses import DEFENSES, parse

    if args.spec:
        for text in args.spec:
            print(f"{text} = {parse(text).expanded}")
        return 0
    rows = []
    for kind in map(DEFENSES.get, DEFENSES):
        gradient = kind.gradient_note or "own"
        for place, (profile, options) in enumerate(kind.profiles.items()):
            said = "/".join(f"{k}={v}" for k, v in options.items())
            about = [kind.summary, gradient, "yes" if kind.draws_noise else "no"] if not place else ["", "", ""]
            rows.append([f"{kind.name}:{profile}", *about, said])
    print(tabulate(rows, headers=["defense", "what it does", "gradient", "random", "options"], disable_numparse=True))
    return 0


def bank(args: argparse.Namespace) -> int:
    """List the banks below a folder, or verify them against their checksums."""
    from advpt.bank.statistics import KIND, is_statistics, open_statistics
    from advpt.bank.store import MANIFEST, open_bank, read_manifest
    from advpt.errors import BankError

    folders = sorted(path.parent for path in args.folder.glob(f"**/{MANIFEST}"))
    rows, bad = [], 0
    for folder in folders:
        try:
            manifest = read_manifest(folder)
            made = manifest["spec"]["adversarial_set"]
            if is_statistics(manifest):
                state = "ok" if args.action == "verify" and open_statistics(folder).count else ""
                rows.append([str(folder.relative_to(args.folder))[:70], KIND, made["data"]["n"], state])
                continue
            attack = made["attack"]
            what = "clean" if attack is None else f"{attack['name']}-{attack['objective']}@{attack['eps']:g}"
            state = "ok" if args.action == "verify" and len(open_bank(folder, None, verify=True)) else ""
            rows.append([str(folder.relative_to(args.folder))[:70], what, made["data"]["n"], state])
        except BankError as error:
            bad += 1
            rows.append([str(folder.relative_to(args.folder))[:70], "", "", f"BAD: {error}"])
    print(tabulate(rows, headers=["bank", "attack", "images", "state"]) if rows else f"no banks below {args.folder}")
    return 1 if bad else 0


def prompt(args: argparse.Namespace) -> int:
    """Show a learned prompt, or convert between checkpoints of CoOp, the official AdvPT and this project."""
    from advpt.prompts import exchange

    found = exchange.read(args.source)
    print(found)
    if args.folder:
        print(f"wrote {exchange.write_run(found, args.folder)}; evaluate it with --eval-only --model-dir {args.folder}")
    return 0


def prepare(args: argparse.Namespace) -> int:
    """Bring data sets into CoOp's layout below --root: fetch, verify, unpack, compare with the lists. Returns 1 on
    differences and bad images, 2 where something could not be prepared."""
    from advpt.data import prepare_verb

    root = Path(args.root or os.environ.get("ADVPT_DATA") or "data").expanduser().absolute()
    chosen = prepare_verb.chosen(args.names, root, look_only=args.check)
    if len(chosen) > 1 and args.archive:
        raise ConfigError("--archive belongs to one data set; prepare them one by one")
    if args.offline and not (args.archive or args.origin or args.check):
        print("\n\n".join(prepare_verb.manual(facts, root) for facts in chosen))
        return 0
    options = prepare_verb.Options(
        archives=tuple(args.archive),
        origin=args.origin,
        link=args.link,
        offline=args.offline,
        unverified=args.unverified,
        keep=args.keep_archives,
        sort_val=args.sort_val,
    )
    rows, status = [], 0
    for facts in chosen:
        try:
            row, lines = prepare_verb.one(facts, root, options, look_only=args.check, decode_images=args.decode)
        except AdvPTError as error:
            if args.verbose:
                raise
            print(f"error: {error}", file=sys.stderr)
            row, lines, status = [facts.name, "", "", "", "NOT PREPARED"], [], 2
        except KeyboardInterrupt:
            print("\nstopped; the same command continues where this one was", file=sys.stderr)
            return 130
        print("\n".join(lines), end="\n" if lines else "")
        status = max(status, 1 if lines else 0)
        rows.append(row)
    print(tabulate(rows, headers=prepare_verb.HEADERS, disable_numparse=True))
    return status


def statistics(args: argparse.Namespace) -> int:
    """Statistics bank of a run's visual prompts, for TAPT: mean and variance of every token at the input of every
    block, over the clean training images of the run's data set."""
    from advpt.errors import RecordError
    from advpt.evaluation import run_folder
    from advpt.files import read_json
    from advpt.prompts.exchange import FOLDER, about, checkpoint_file, origin, other_classes
    from advpt.settings import extend_cfg, merge_overrides

    _register_plugins()
    from dassl.config import get_cfg_default
    from dassl.engine import build_trainer

    from advpt.bank.statistics import Source, build, folder_of

    cfg = get_cfg_default()
    extend_cfg(cfg)
    saved = read_json(args.folder / run_folder.FILE, RecordError)
    merge_overrides(cfg, [word for pair in saved.items() for word in pair])
    merge_overrides(
        cfg,
        ["BANK.DIR", str(args.banks), "DATASET.ROOT", args.root or os.environ.get("ADVPT_DATA") or "data"]
        + ["DATALOADER.NUM_WORKERS", str(min(4, os.cpu_count() or 1))],
    )
    for name, value in (("DATASET.NUM_SHOTS", args.shots), ("MODEL.WEIGHTS", args.weights), ("BANK.CHUNK", args.chunk)):
        merge_overrides(cfg, [name, str(value)] if value else [])
    # The run's weights went through OpenAI's model code: what a folder that does not name the activation means.
    cfg.MODEL.ACTIVATION = cfg.MODEL.ACTIVATION or "quickgelu"
    cfg.freeze()
    trainer = build_trainer(cfg)
    trainer.load_model(str(args.folder))
    tuned = about(checkpoint_file(args.folder / FOLDER))
    if classes := other_classes(tuned, trainer.classnames):
        raise ConfigError(f"{args.folder} is no run on the data below {cfg.DATASET.ROOT}: {classes}; name its --root")
    visual = trainer.prompt_learner().visual
    if visual is None:
        raise ConfigError(f"the prompts of {args.folder} are in the text alone; statistics are of those in the image")
    source = Source(trainer.image_set("train").first(args.limit), args.crops, args.seed, cfg.BANK.CHUNK)
    dataset_folder = trainer.bank_cache.dataset_folder(source.images.dataset)
    workers = cfg.DATALOADER.NUM_WORKERS
    made = build(trainer.backbone, visual.detach(), source, dataset_folder, about=origin(tuned), workers=workers)
    print(f"statistics of {made.count} images in {folder_of(dataset_folder, made.spec)}")
    return 0


def config(args: argparse.Namespace) -> int:
    """A configuration file as one flat yaml, what it builds on merged in; for checkouts whose train.py does not know
    `_BASE_` and composed names such as rn50_ep50.yaml."""
    import yaml

    from advpt.settings import extend_cfg, merge_yaml, plain, yaml_layers

    _register_plugins()
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    extend_cfg(cfg)
    merge_yaml(cfg, args.file)
    named = {name for _, values in yaml_layers(args.file) for name in values}
    tree: dict[str, Any] = {}
    for name, value in plain(cfg).items():
        if name in named:
            *nodes, leaf = name.split(".")
            node = tree
            for each in nodes:
                node = node.setdefault(each, {})
            node[leaf] = value
    print(f"# {args.file.name} of AdvPT {__version__} with all it builds on: python -m advpt config {args.file}")
    print(yaml.safe_dump(tree, default_flow_style=None, width=120), end="")
    return 0


def report(args: argparse.Namespace) -> int:
    """Tables of all records below the folders."""
    from advpt.results.report import overview

    tables = overview(args.folders)
    for text in tables.texts(args.format):
        print(f"\n{text}\n")
    if args.page:
        title = f"Records of {', '.join(folder.absolute().name for folder in args.folders)}"
        print(f"page      {tables.write_page(args.page, title)}")
    return 0


def _repository() -> Path:
    """The checkout with train.py and the yaml files.

    Raises:
        ConfigError: the library is installed without it.
    """
    found = Path(__file__).resolve().parents[1]
    for folder in (Path.cwd(), found):
        if (folder / "train.py").is_file() and (folder / "configs" / "trainers").is_dir():
            return folder
    raise ConfigError("this verb starts train.py and reads its yaml files: run it in the root of the repository")


def _register_plugins() -> None:
    """The repository's trainers and data sets, which bring their settings."""
    if str(_repository()) not in sys.path:
        sys.path.insert(0, str(_repository()))
    importlib.import_module("train").register_plugins()


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _whole_numbers(name: str, text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError:
        raise ConfigError(f"{name} is {text!r}; give whole numbers with commas, for instance 1,2,3") from None


def _engine(args: argparse.Namespace) -> Any:
    from advpt.cluster import Engine

    return Engine(args.engine, args.cpus_per_worker, args.gpus_per_worker)


def _execute(plan: Any, places: Any, args: argparse.Namespace) -> tuple[Any, list[str]]:
    """Run what is missing of a plan; the summary and one line per failure."""
    import signal

    from advpt.jobs import reproduce as steps
    from advpt.jobs.local import Executor, LocalBackend
    from advpt.jobs.on_ray import RayBackend

    engine = _engine(args)
    backend = RayBackend(engine, args.jobs) if engine.name == "ray" else LocalBackend(*steps.slots_here(args.jobs))
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    summary = Executor(plan, places, backend=backend, tell=lambda line: print(line, file=sys.stderr, flush=True)).run()
    return summary, steps.failures(plan, places, summary)


def _tell_plan(plan: Any, places: Any, args: argparse.Namespace) -> None:
    from advpt.jobs import reproduce as steps
    from advpt.jobs.local import command

    print(tabulate(steps.plan_rows(plan, places), headers=steps.PLAN_HEADS, disable_numparse=True))
    if args.cluster:
        _tell_model(plan, places, args)
    else:
        print(steps.estimate(plan, places, steps.slots_here(args.jobs)[0]))
    if args.verbose:
        for label, users in plan.shared_banks.items():
            print(f"bank      {label}: {len(users)} runs, built by {plan.by_id[users[0]].label}")
        for job in plan.jobs:
            print(f"{job.id}  {' '.join(command(job, plan, places))}")


def _tell_model(plan: Any, places: Any, args: argparse.Namespace) -> None:
    """Time and disk of what is not done of a plan, on the cluster of ``--cluster``."""
    from advpt.jobs import model
    from advpt.jobs.local import is_complete
    from advpt.jobs.reproduce import in_words

    workers, device = model.cluster(args.cluster)
    precision = dict(tuple(pair) for pair in args.set).get("BANK.PREC", "fp32")
    rates = model.rates_for(device, plan, places.repository, precision)
    played = model.play(plan, rates, workers, [job.id for job in plan.jobs if is_complete(job, places)])
    print(tabulate(model.rows(played), headers=model.HEADS, disable_numparse=True))
    print("\n".join(model.sentences(played, rates, in_words)))


def reproduce(args: argparse.Namespace) -> int:
    """Tables and figures of the paper: print the plan of the runs they need, run what is missing, write the report.
    Returns 1 where a run failed."""
    from advpt.jobs import needs
    from advpt.jobs import reproduce as steps
    from advpt.jobs.local import Places
    from advpt.jobs.setup import DEMO, PAPER
    from advpt.jobs.studies import EXHIBITS, plan_exhibits

    if not args.names:
        raise ConfigError(f"name at least one of {', '.join(EXHIBITS)}, or all")
    setup = (DEMO if args.demo else PAPER).narrowed(
        _words(args.only), _words(args.backbones), _whole_numbers("--seeds", args.seeds)
    )
    _register_plugins()
    repository = _repository()
    output = args.output or Path("output", "reproduce-demo" if args.demo else "reproduce")
    places = Places(
        repository=repository,
        output=output.absolute(),
        root=Path(args.root or os.environ.get("ADVPT_DATA") or "data").expanduser().absolute(),
        banks=(args.banks or output / "banks").absolute(),
        weights=steps.weights(args.weights),
    )
    wanted = plan_exhibits(
        args.names,
        setup,
        repository,
        [tuple(pair) for pair in args.set],
        as_published=args.as_published,
        all_statistics=args.all_statistics,
    )
    _tell_plan(wanted.plan, places, args)
    absent = needs.missing_data(wanted.plan, places)
    for line in needs.missing_weights(wanted.plan, places):
        print(f"weights   {line}")
    for line in absent:
        print(f"missing   {line}")
    if args.dry_run:
        return 0
    summary, failed = None, list[str]()
    if not args.report_only:
        if absent:
            raise ConfigError(
                f"{len(absent)} data sets are not under {places.root} (listed above); prepare them, leave them out "
                f"with "
                "--only, or see it all small with --demo"
            )
        summary, failed = _execute(wanted.plan, places, args)
    made = steps.report(
        wanted,
        places,
        title="AdvPT: the paper's tables and figures" + (", as a demo" if args.demo else ""),
        about=setup.said.get("all", "Our numbers beside the published ones; protocols say what the attacker knew."),
    )
    for note in made.notes:
        print(f"{note.kind:10}{note.text}")
    if summary is not None:
        print(f"{len(summary.done)} runs in {steps.in_words(summary.seconds)}, {len(summary.there)} were done before")
    for line in failed:
        print(f"FAILED    {line}")
    print(f"cells: {', '.join(f'{n} {word}' for word, n in sorted(made.words.items())) or 'none'}")
    print(f"report    {made.page}")
    return 1 if failed else 0


def sweep(args: argparse.Namespace) -> int:
    """Data sets x backbones x trainers x shots x seeds as one plan of runs that may be started again at any time.
    With ``plan`` before the data sets nothing is run; ``plan`` alone is the whole paper. Returns 1 where a run failed.
    """
    from advpt.jobs import needs, studies
    from advpt.jobs import reproduce as steps
    from advpt.jobs.local import Places, is_complete
    from advpt.jobs.setup import PAPER
    from advpt.results.report import overview

    _register_plugins()
    repository, output = _repository(), args.output.absolute()
    places = Places(
        repository,
        output,
        Path(args.root or os.environ.get("ADVPT_DATA") or "data").expanduser().absolute(),
        args.banks.absolute(),
        steps.weights(args.weights),
    )
    only_plan, names = args.names[0] == "plan", args.names[args.names[0] == "plan" :]
    if only_plan and not names:
        plan = studies.plan_exhibits(["all"], PAPER, repository, [tuple(pair) for pair in args.set]).plan
        _tell_plan(plan, places, args)
        return 0
    shots = [
        -1 if word == "all" else n
        for word in _words(args.shots)
        for n in _whole_numbers("--shots", word.replace("all", "-1"))
    ]
    plan = studies.sweep(
        names,
        _words(args.backbones),
        _words(args.trainers),
        shots,
        _whole_numbers("--seeds", args.seeds),
        repository,
        [tuple(pair) for pair in args.set],
    )
    _tell_plan(plan, places, args)
    for line in needs.missing_weights(plan, places):
        print(f"weights   {line}")
    absent = needs.missing_data(plan, places)
    for line in absent:
        print(f"missing   {line}")
    if args.dry_run or only_plan:
        return 0
    if absent:
        raise ConfigError(f"{len(absent)} data sets are not under {places.root} (listed above); prepare them first")
    summary, failed = _execute(plan, places, args)
    if done := [places.folder(job) for job in plan.jobs if is_complete(job, places)]:
        for text in overview(done).texts():
            print(f"\n{text}\n")
    print(f"{len(summary.done)} runs in {steps.in_words(summary.seconds)}, {len(summary.there)} were done before")
    for line in failed:
        print(f"FAILED    {line}")
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m advpt", description=__doc__)
    top.add_argument("--verbose", action="store_true", help="more log lines, and tracebacks for errors")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    sub = verbs.add_parser("doctor", help="versions, devices, weights, data", description=doctor.__doc__)
    sub.add_argument("--root", default="", help="data root to look at")
    sub.set_defaults(run=doctor)

    sub = verbs.add_parser("attacks", help="attacks and what a spec means", description=attacks.__doc__)
    sub.add_argument("spec", nargs="*", help="specifications to expand, for instance pgd40@16")
    sub.set_defaults(run=attacks)

    sub = verbs.add_parser("defenses", help="defenses and what a chain means", description=defenses.__doc__)
    sub.add_argument("spec", nargs="*", help="chains to expand, for instance super:advpt+rescale")
    sub.set_defaults(run=defenses)

    sub = verbs.add_parser("bank", help="list or verify banks", description=bank.__doc__)
    sub.add_argument("action", choices=["ls", "verify"])
    sub.add_argument("folder", type=Path, nargs="?", default=Path("banks"))
    sub.set_defaults(run=bank)

    sub = verbs.add_parser("prompt", help="show, import or export a learned prompt", description=prompt.__doc__)
    sub.add_argument("source", type=Path, help="a .pth.tar file or a run's folder (CoOp's, the official AdvPT's, ours)")
    sub.add_argument("folder", type=Path, nargs="?", help="write it there in CoOp's layout, plain tensors only")
    sub.set_defaults(run=prompt)

    sub = verbs.add_parser("prepare", help="fetch, lay out and check data sets", description=prepare.__doc__)
    sub.add_argument(
        "names", nargs="*", help="data sets, for instance pets dtd; with --check, none means all there are"
    )
    sub.add_argument("--root", default="", help="folder of all data sets (default: $ADVPT_DATA or data)")
    sub.add_argument("--archive", action="append", type=Path, default=[], help="a file you have; repeat for more")
    sub.add_argument("--from", dest="origin", type=Path, help="a folder you have: unpacked, or with the archives")
    sub.add_argument("--link", action="store_true", help="with --from: link to the images instead of copying them")
    sub.add_argument(
        "--offline", action="store_true", help="fetch nothing; without --archive or --from, print the steps"
    )
    sub.add_argument("--check", action="store_true", help="only compare what is there with the lists; change nothing")
    sub.add_argument("--decode", action="store_true", help="also open every image and list the bad ones")
    sub.add_argument("--sort-val", action="store_true", help="imagenet: move loose val images into class folders")
    sub.add_argument("--unverified", action="store_true", help="accept an archive of another hash")
    sub.add_argument("--keep-archives", action="store_true", help="keep what was downloaded in <data set>/.prepare")
    sub.set_defaults(run=prepare)

    sub = verbs.add_parser("reproduce", help="the paper's tables and figures", description=reproduce.__doc__)
    sub.add_argument("names", nargs="*", help="table1 to table5, fig3 to fig7, curves, efficiency, all; peers, tapt")
    sub.add_argument("--demo", action="store_true", help="all of it small: DemoCLIP and digits, no download")
    sub.add_argument("--only", default="", help="data sets, for instance pets,dtd")
    sub.add_argument("--backbones", default="", help="for instance vit_b16")
    sub.add_argument("--seeds", default="", help="for instance 1,2,3 (the default)")
    sub.add_argument("--as-published", action="store_true", help="peers: each method by its own recipe, not one budget")
    sub.add_argument("--all-statistics", action="store_true", help="tapt: statistics over all training images")
    sub.add_argument("--report-only", action="store_true", help="run nothing; write the report of what is there")
    sub.add_argument("--output", type=Path, default=None, help="default: output/reproduce or output/reproduce-demo")
    sub.add_argument("--banks", type=Path, default=None, help="default: banks below the output folder")
    _plan_options(sub)
    sub.set_defaults(run=reproduce)

    sub = verbs.add_parser("sweep", help="data sets x backbones x trainers x shots x seeds", description=sweep.__doc__)
    sub.add_argument(
        "names", nargs="+", metavar="dataset", help="yaml names, for instance pets dtd; see above for plan"
    )
    sub.add_argument("--backbones", default="vit_b16", help="yaml names, for instance vit_b16,vit_l14")
    sub.add_argument("--trainers", default="ZeroshotCLIP,CoOp,CoOp-clean,AdvPT")
    sub.add_argument("--shots", default="all", help="for instance 1,4,16,all")
    sub.add_argument("--seeds", default="1,2,3")
    sub.add_argument("--output", type=Path, default=Path("output", "sweep"))
    sub.add_argument("--banks", type=Path, default=Path("banks"))
    _plan_options(sub)
    sub.set_defaults(run=sweep)

    sub = verbs.add_parser("statistics", help="statistics bank of a run's prompts", description=statistics.__doc__)
    sub.add_argument("folder", type=Path, metavar="RUN", help="folder of a finished run with prompts in the image")
    sub.add_argument("--root", default="", help="folder of all data sets (default: $ADVPT_DATA or data)")
    sub.add_argument("--banks", type=Path, default=Path("banks"))
    sub.add_argument("--crops", default="centre", choices=["centre", "random"], help="of each image")
    sub.add_argument("--shots", type=int, default=0, help="images per class, -1 for all (default: the run's)")
    sub.add_argument("--limit", type=int, default=0, help="images at most (default: no limit)")
    sub.add_argument("--chunk", type=int, default=0, help="images per forward pass (default: the run's BANK.CHUNK)")
    sub.add_argument("--seed", type=int, default=0, help="of random crops")
    sub.add_argument("--weights", default="", help="a file instead of OpenAI's weights by name (default: the run's)")
    sub.set_defaults(run=statistics)

    sub = verbs.add_parser("config", help="a configuration as one flat yaml file", description=config.__doc__)
    sub.add_argument("file", type=Path, help="for instance configs/trainers/AdvPT/vit_b16.yaml")
    sub.set_defaults(run=config)

    sub = verbs.add_parser("report", help="tables of records", description=report.__doc__)
    sub.add_argument("folders", type=Path, nargs="+", help="output folders of finished runs")
    sub.add_argument("--format", default="github", choices=["github", "plain", "latex_booktabs", "tsv"])
    sub.add_argument("--page", type=Path, help="also write the tables, with the records behind them, as an HTML page")
    sub.set_defaults(run=report)
    return top


def _plan_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--root", default="", help="folder of all data sets (default: $ADVPT_DATA or data)")
    sub.add_argument(
        "--cluster", default="", metavar="8xH200", help="what the plan takes there; 2xhere: as this machine"
    )
    sub.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")
    sub.add_argument("--jobs", type=int, default=0, help="runs at a time (default: one per GPU, else up to two)")
    sub.add_argument("--engine", default="local", choices=ENGINES, help="ray: on a cluster, see docs/clusters.md")
    sub.add_argument("--cpus-per-worker", type=float, default=0.0, help="cores of each run on ray (default: we choose)")
    sub.add_argument("--gpus-per-worker", type=float, default=0.0, help="its GPUs on ray; 0.5: two runs share one")
    sub.add_argument(
        "--weights", action="append", default=[], metavar="BACKBONE=FILE", help="instead of OpenAI's by name"
    )
    sub.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="for every run")


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(words)
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.INFO, format="%(message)s")
    try:
        require_unicode(words, "the command line")
        return int(args.run(args))
    except BrokenPipeError:  # the reader (head, a pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("stopped; the same command continues where it was", file=sys.stderr)
        return 130
    except AdvPTError as error:
        if args.verbose:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
