"""Train and evaluate: CoOp's command line, with an embedded default that needs no download.

    python train.py --trainer AdvPT
    python train.py --trainer AdvPT --dataset-config-file configs/datasets/pets.yaml \\
        --config-file configs/trainers/AdvPT/vit_b16.yaml --root DATA --seed 1 DATASET.NUM_SHOTS 16
    python train.py --trainer AdvPT --eval-only --model-dir output/... EVAL.ATTACKS "('pgd40@16',)"
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from advpt import settings
from advpt.advice import advice_on_nodes, explanation, naming_missing_settings
from advpt.data.listing import require_unicode
from advpt.data.lists import DataLists
from advpt.errors import ConfigError, unknown_name
from advpt.settings import backbone_file, leaves, merge_overrides, merge_yaml, unread
from advpt.signals import report_stop, stoppable

HERE = Path(__file__).resolve().parent
log = logging.getLogger("train")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Tune and evaluate prompts for CLIP. Without config files: DemoCLIP on handwritten digits.",
        epilog="trailing KEY VALUE pairs change any setting, for instance: OPTIM.LR 0.01 EVAL.ATTACKS \"('pgd40@8',)\"",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", default="", help="where the data sets lie (default: data, or $ADVPT_DATA)")
    parser.add_argument("--output-dir", default="", help="default: output/<dataset>/<Trainer>/<cfg>_<shots>shots/...")
    parser.add_argument("--resume", default="", help="folder of a run to continue (default: the output folder itself)")
    parser.add_argument("--seed", type=int, default=None, help="0 is a seed; -1 draws one (default: 1)")
    parser.add_argument(
        "--seeds", default="", help="for instance 1,2,3: in one process, tuned in one batch; folders seed1, ..."
    )
    parser.add_argument("--source-domains", nargs="+", help="Dassl's source domains")
    parser.add_argument("--target-domains", nargs="+", help="Dassl's target domains")
    parser.add_argument("--transforms", nargs="+", help="training transforms, replacing the config's")
    parser.add_argument("--config-file", default="", help="trainer yaml, configs/trainers/<Trainer>/<backbone>.yaml")
    parser.add_argument("--dataset-config-file", default="", help="data set yaml, configs/datasets/<name>.yaml")
    parser.add_argument("--trainer", default="", help="AdvPT, CoOp, ZeroshotCLIP, ...")
    parser.add_argument("--backbone", default="", help="CLIP's name, or one of configs/backbones, such as fare2_l14")
    parser.add_argument("--head", default="", help="Dassl's head name (unused by prompt trainers)")
    parser.add_argument("--engine", choices=("local", "ray"), help="who builds banks: this machine, or a Ray cluster")
    parser.add_argument("--cpus-per-worker", type=float, help="of the cluster, for --engine ray (default: our choice)")
    parser.add_argument("--gpus-per-worker", type=float, help="of the cluster, for --engine ray; 0.5: two share one")
    parser.add_argument("--eval-only", action="store_true", help="load --model-dir and evaluate")
    parser.add_argument("--model-dir", default="", help="folder of the run to load, for --eval-only")
    parser.add_argument("--load-epoch", type=int, help="which checkpoint to load (default: best, else last)")
    parser.add_argument("--skip-done", action="store_true", help="exit at once when this run's records say done")
    parser.add_argument("--no-train", action="store_true", help="set everything up, do not train")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    parser.set_defaults(from_checkpoint=[])  # settings of the loaded checkpoint, for the log: setup_cfg fills them in
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit status."""
    try:
        with stoppable():
            run(parse_args(argv))
        return 0
    except KeyboardInterrupt as stop:
        return report_stop(stop)
    except Exception as error:
        reason, status = explanation(error)
        if not reason:
            raise
        print(f"error: {reason}", file=sys.stderr)
        return status


# --- configuration ----------------------------------------------------------------------------------------------------


def extend_cfg(cfg: CfgNode) -> None:
    """Add settings to Dassl's. Those of a trainer from another repository go here: copy the lines about it from the
    ``extend_cfg`` of its own train.py, below."""
    settings.extend_cfg(cfg)


def register_plugins() -> None:
    """Fill Dassl's registries; ``from clip import clip`` in a trainer of another repository finds OpenAI's package."""
    from advpt.backbones.clip import cache_folder
    from advpt.backbones.shim import offer_clip

    offer_clip(cache_folder())
    import datasets  # noqa: F401 - registers the data sets
    import trainers  # noqa: F401 - registers the trainers and their settings


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """Defaults, our nodes, yaml files of data set, trainer and backbone, flags, KEY VALUE pairs; what is left to the
    model is filled in; then frozen."""
    register_plugins()
    from dassl.config import get_cfg_default

    from advpt.backbones.load import settle
    from advpt.evaluation.run_folder import usual_folder

    cfg = get_cfg_default()
    with naming_missing_settings(HERE, cfg):
        extend_cfg(cfg)
    trainer = args.trainer or "AdvPT"
    dataset_yaml, trainer_yaml = yaml_files(args)
    backbone_yaml = backbone_file(HERE, args.backbone)
    merge_yaml(cfg, dataset_yaml)
    try:
        merge_yaml(cfg, trainer_yaml)
    except ConfigError as error:
        raise ConfigError(f"{error}{advice_on_nodes(str(error), cfg, HERE)}") from None
    if backbone_yaml is not None:
        merge_yaml(cfg, backbone_yaml)
    cfg.DATASET.ROOT = args.root or cfg.DATASET.ROOT or os.environ.get("ADVPT_DATA") or "data"
    cfg.SEED = args.seed if args.seed is not None else (cfg.SEED if cfg.SEED >= 0 else 1)
    cfg.TRAINER.NAME = trainer
    cfg.RESUME = args.resume
    for value, node, leaf in (
        (args.source_domains, cfg.DATASET, "SOURCE_DOMAINS"),
        (args.target_domains, cfg.DATASET, "TARGET_DOMAINS"),
        (args.transforms, cfg.INPUT, "TRANSFORMS"),
        (args.backbone if backbone_yaml is None else "", cfg.MODEL.BACKBONE, "NAME"),
        (args.head, cfg.MODEL.HEAD, "NAME"),
        (args.engine, cfg.BANK, "ENGINE"),
        (args.cpus_per_worker, cfg.BANK, "CPUS_PER_WORKER"),
        (args.gpus_per_worker, cfg.BANK, "GPUS_PER_WORKER"),
    ):
        if value:
            node[leaf] = value
    if args.eval_only and args.model_dir:
        changed = take_layout(cfg, args.model_dir)
        args.from_checkpoint = [line for key, line in changed.items() if key not in args.opts[::2]]
    if late := [word for word in args.opts if word.startswith("--")]:
        raise ConfigError(f"{late[0]} comes after KEY VALUE pairs; put flags first and pairs last")
    merge_overrides(cfg, args.opts)
    settle(cfg)
    stem = trainer_yaml.stem if backbone_yaml is None else backbone_yaml.stem
    cfg.OUTPUT_DIR = args.output_dir or str(usual_folder(cfg, stem, Path("output")))
    require_unicode([value for _, value in leaves(cfg) if isinstance(value, str)], "the settings")
    require_unicode([args.model_dir], "--model-dir")
    cfg.freeze()
    return cfg


def yaml_files(args: argparse.Namespace) -> tuple[Path, Path]:
    """The yaml files of the data set and of the trainer.

    Raises:
        ConfigError: a trainer that no file registers, said before the keys of its yaml or its missing settings are
            blamed; or one that has no embedded default.
    """
    from dassl.engine import TRAINER_REGISTRY

    trainer, names = args.trainer or "AdvPT", TRAINER_REGISTRY.registered_names()
    if trainer not in names:
        raise ConfigError(
            f"--trainer: {unknown_name('trainer', trainer, names)}. A trainer of your own needs its file in "
            f"{HERE / 'trainers'} and an import line in the __init__.py there"
        )
    of_data = Path(args.dataset_config_file or HERE / "configs/datasets/digits.yaml")
    of_trainer = Path(args.config_file or HERE / f"configs/trainers/{trainer}/democlip.yaml")
    if not args.config_file and not of_trainer.is_file():
        known = sorted(p.name for p in (HERE / "configs/trainers").iterdir() if p.is_dir())
        raise ConfigError(
            f"no embedded default for trainer {trainer!r} (there is one for {', '.join(known)}); name a yaml with "
            "--config-file"
        )
    return of_data, of_trainer


def take_layout(cfg: CfgNode, run: str) -> dict[str, str]:
    """Let the prompts in a run's folder say in which layout they are evaluated: their settings take the place of the
    yaml's, KEY VALUE pairs come after them. Returns what changed, in words, by setting."""
    from dassl.engine import TRAINER_REGISTRY

    from advpt.prompts.exchange import layout_settings
    from trainers.advpt import PromptTrainer

    kind = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if not issubclass(kind, PromptTrainer):  # its method tunes no prompts
        return {}
    before, node = dict(leaves(cfg)), kind.nodes()[0]
    tuned = layout_settings(Path(run), node, list(cfg.TRAINER[node]))
    try:
        merge_overrides(cfg, [word for pair in tuned.items() for word in pair])
    except ConfigError as error:
        raise ConfigError(f"what stands beside the checkpoint of {run}: {error}") from None
    after = dict(leaves(cfg))
    changed = [key for key in tuned if after[key] != before[key]]
    return {key: f"{key} {after[key]}, as {run} was tuned (not {before[key]})" for key in changed}


# --- runs -------------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> None:
    """Tune, or with --eval-only evaluate: one seed, or several with the folders and the records they would have alone,
    tuned in one batch or evaluated one after the other (seed 3 of --model-dir DIR is DIR/seed3)."""
    each = split_seeds(args) if args.seeds else [args]
    if args.eval_only:
        for one in each:
            evaluate(one, setup_cfg(one))
    else:
        train(args, [setup_cfg(one) for one in each])


def split_seeds(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The arguments of each of the runs of --seeds."""
    if args.seed is not None or args.resume:
        raise ConfigError("--seeds does not go with --seed or --resume; give the seeds once, or continue one run alone")
    try:
        seeds = list(dict.fromkeys(int(word) for word in args.seeds.replace(",", " ").split()))
    except ValueError:
        raise ConfigError(f"--seeds {args.seeds!r}: give whole numbers, for instance --seeds 1,2,3") from None
    if not seeds or min(seeds) < 0:
        raise ConfigError(f"--seeds {args.seeds!r}: give seeds of 0 or more, for instance --seeds 1,2,3")
    per_seed = []
    for seed in seeds:
        folders = {n: str(Path(top, f"seed{seed}")) for n in ("output_dir", "model_dir") if (top := getattr(args, n))}
        per_seed.append(argparse.Namespace(**vars(args) | {"seed": seed, "seeds": ""} | folders))
    return per_seed


def train(args: argparse.Namespace, cfgs: list[CfgNode]) -> None:
    """Tune one run, alone in its folder, or those of --seeds in one batch; evaluate one after the other."""
    from advpt.evaluation.run_folder import check, claim, lock_run_folder, mark_done
    from trainers import multi_seed
    from trainers.advpt import PromptTrainer

    def finish(trainer: PromptTrainer) -> None:
        open_log(trainer.cfg.OUTPUT_DIR)  # its results go into its own log
        trainer.after_train()
        if not trainer.cfg.TEST.NO_TEST:
            mark_done(Path(trainer.cfg.OUTPUT_DIR), trainer.cfg)

    with naming_missing_settings(HERE, *cfgs), contextlib.ExitStack() as stack:
        for cfg in cfgs:
            stack.enter_context(lock_run_folder(Path(cfg.OUTPUT_DIR)))
            check(Path(cfg.OUTPUT_DIR), cfg)
        cfgs = [cfg for cfg in cfgs if not done_already(args, cfg)]
        if not cfgs:
            return
        open_log(Path(cfgs[0].OUTPUT_DIR, "together.txt" if args.seeds else ""))
        built = [build(args, cfg) for cfg in cfgs]
        for trainer in built:
            claim(Path(trainer.cfg.OUTPUT_DIR), trainer.cfg, lists_of(trainer))
        if args.no_train:
            return
        if args.seeds:
            multi_seed.train_batched(built, finish)
            return
        built[0].train()
        if not cfgs[0].TEST.NO_TEST:
            mark_done(Path(cfgs[0].OUTPUT_DIR), cfgs[0])


def evaluate(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Evaluate what another run tuned."""
    from advpt.evaluation.run_folder import check_data, claim, mark_done

    folder, evaluated = Path(cfg.OUTPUT_DIR), str(Path(args.model_dir).absolute())
    with naming_missing_settings(HERE, cfg):
        if done_already(args, cfg, evaluated):
            return
        open_log(folder)
        trainer = build(args, cfg)
        data = lists_of(trainer)
        if data is not None:
            check_data(folder, cfg, data, evaluating=True)
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        claim(folder, cfg, data, evaluating=True)
        trainer.test()
        if str(folder.absolute()) != evaluated:  # evaluating a run in its own folder must not mark it done
            mark_done(folder, cfg, evaluated)


def build(args: argparse.Namespace, cfg: CfgNode) -> Any:
    """The trainer of a configuration, seeded; the log begins with what it runs on."""
    import dassl
    import torch
    from dassl.engine import build_trainer
    from dassl.utils import collect_env_info, set_random_seed

    from trainers.advpt import CLIPTrainer

    for line in args.from_checkpoint:
        log.info("%s", line)
    if cfg.SEED >= 0:
        print(f"Setting fixed seed: {cfg.SEED}")
        set_random_seed(cfg.SEED)
    print(f"dassl {getattr(dassl, '__version__', 'of unknown version')} from {Path(dassl.__file__).parent}")
    if torch.cuda.is_available() and cfg.USE_CUDA:
        torch.backends.cudnn.benchmark = True
    if cfg.VERBOSE:
        print(f"** Arguments **\n{vars(args)}\n** Config **\n{cfg}\n** System info **\n{collect_env_info()}")
    trainer = build_trainer(cfg)
    if isinstance(trainer, CLIPTrainer):
        trainer.unread_settings = tuple(unread(cfg, args.opts, yaml_files(args), trainer.nodes()))
        for text in trainer.set_up_warnings():
            log.warning("WARNING %s", text)
    return trainer


def open_log(place: str | Path) -> None:
    """From now on everything printed and logged goes into this file, or ``log.txt`` of this folder, too."""
    from dassl.utils import setup_logger

    setup_logger(str(place))  # upstream's takes no Path
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)


def done_already(args: argparse.Namespace, cfg: CfgNode, evaluated: str = "") -> bool:
    """Whether a run may be skipped: all of it is there, and the data are those that it is on.

    Raises:
        RecordError: it is on other data. DataError: the data are not there.
    """
    from dassl.data.datasets import build_dataset
    from dassl.utils import set_random_seed

    from advpt.evaluation.run_folder import claim, is_done

    folder = Path(cfg.OUTPUT_DIR)
    if not (args.skip_done and is_done(folder, cfg, evaluated)):
        return False
    if cfg.SEED >= 0:  # which draws the few shots
        set_random_seed(cfg.SEED)
    claim(folder, cfg, DataLists.of(build_dataset(cfg)), evaluating=args.eval_only)
    print(f"done already: {cfg.OUTPUT_DIR} (its records are kept; delete the folder to run it again)")
    return True


def lists_of(trainer: Any) -> DataLists | None:
    """The lists of a trainer's data; None where its loaders are not Dassl's."""
    manager = getattr(trainer, "dm", None)
    return DataLists.of(manager.dataset) if manager is not None else None


if __name__ == "__main__":
    sys.exit(main())
