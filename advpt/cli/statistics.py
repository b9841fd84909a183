"""``python -m advpt statistics``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dassl.config import get_cfg_default

from advpt.backbones import names
from advpt.bank.statistics import Source, build, folder_of
from advpt.cli import common
from advpt.data import data_root
from advpt.errors import ConfigError, RecordError
from advpt.evaluation import run_folder
from advpt.files import read_json
from advpt.prompts.exchange import FOLDER, about, checkpoint_file, origin, other_classes
from advpt.settings import merge_overrides


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, metavar="RUN", help="folder of a finished run with prompts in the image")
    sub.add_argument("--root", default="", help=common.ROOT_HELP)
    sub.add_argument("--banks", type=Path, default=Path("banks"))
    sub.add_argument("--crops", default="centre", choices=["centre", "random"], help="of each image")
    sub.add_argument("--shots", type=int, default=0, help="images per class, -1 for all (default: the run's)")
    sub.add_argument("--limit", type=int, default=0, help="images at most (default: no limit)")
    sub.add_argument("--chunk", type=int, default=0, help="images per forward pass (default: the run's BANK.CHUNK)")
    sub.add_argument("--seed", type=int, default=0, help="of random crops")
    sub.add_argument("--weights", default="", help="a file instead of OpenAI's weights by name (default: the run's)")


def run(args: argparse.Namespace) -> int:
    """Statistics bank of a run's visual prompts, for TAPT: mean and variance of every token at the input of every
    block, over the clean training images of the run's data set."""
    from dassl.engine import build_trainer  # brings torchvision, a second to import

    train = common.register_plugins()
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    saved = read_json(args.folder / run_folder.FILE, RecordError)
    settings = {**saved, "BANK.DIR": str(args.banks), "DATASET.ROOT": data_root(args.root)[0]}
    settings["DATALOADER.NUM_WORKERS"] = str(min(4, os.cpu_count() or 1))
    for name, value in (("DATASET.NUM_SHOTS", args.shots), ("MODEL.WEIGHTS", args.weights), ("BANK.CHUNK", args.chunk)):
        settings |= {name: str(value)} if value else {}
    merge_overrides(cfg, [word for name, value in settings.items() for word in (name, value)])
    if names.parse(cfg.MODEL.BACKBONE.NAME) is None:
        # OpenAI's model code has read the run's weights: that is what a folder that does not name the activation means
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
    folder, workers = trainer.bank_cache.dataset_folder(source.images.dataset), cfg.DATALOADER.NUM_WORKERS
    made = build(trainer.backbone, visual.detach(), source, folder, about=origin(tuned), workers=workers)
    print(f"statistics of {made.count} images in {folder_of(folder, made.spec)}")
    return 0
