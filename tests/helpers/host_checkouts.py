"""Small checkouts in the layout of public CoOp-style repositories, each with its own trainer, data set, configurations
and a package ``clip`` that is not OpenAI's; written from the interface that these repositories share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Host:
    """A repository: the name of its trainer, and what its ``extend_cfg`` adds beyond CoOp's nodes."""

    trainer: str
    nodes: str
    design: bool  # whether its CLIP takes one more argument, as in what descends from MaPLe


COOP_NODES = """
    cfg.TRAINER.COOP = CN()
    cfg.TRAINER.COOP.N_CTX = 16
    cfg.TRAINER.COOP.CSC = False
    cfg.TRAINER.COOP.CTX_INIT = ""
    cfg.TRAINER.COOP.PREC = "fp16"
    cfg.TRAINER.COOP.CLASS_TOKEN_POSITION = "end"

    cfg.TRAINER.COCOOP = CN()
    cfg.TRAINER.COCOOP.N_CTX = 16
    cfg.TRAINER.COCOOP.CTX_INIT = ""
    cfg.TRAINER.COCOOP.PREC = "fp16"
"""
HOSTS = {
    "CoOp": Host("CoOp", "", design=False),
    "KgCoOp": Host("KgCoOp", "    cfg.TRAINER.COOP.W = 8.0\n", design=False),
    "MaPLe": Host(
        "MaPLe",
        "    cfg.TRAINER.MAPLE = CN()\n    cfg.TRAINER.MAPLE.N_CTX = 2\n    cfg.TRAINER.MAPLE.PROMPT_DEPTH = 9\n"
        '    cfg.TRAINER.MAPLE.CTX_INIT = "a photo of a"\n    cfg.TRAINER.MAPLE.PREC = "fp16"\n',
        design=True,
    ),
}

TRAIN = '''import argparse
import torch

from dassl.utils import setup_logger, set_random_seed, collect_env_info
from dassl.config import get_cfg_default
from dassl.engine import build_trainer

import datasets.oxford_pets

import trainers.{module}


def print_args(args, cfg):
    print("** Arguments **")
    for key in sorted(args.__dict__):
        print("{{}}: {{}}".format(key, args.__dict__[key]))
    print("** Config **")
    print(cfg)


def reset_cfg(cfg, args):
    if args.root:
        cfg.DATASET.ROOT = args.root
    if args.output_dir:
        cfg.OUTPUT_DIR = args.output_dir
    if args.resume:
        cfg.RESUME = args.resume
    if args.seed:
        cfg.SEED = args.seed
    if args.trainer:
        cfg.TRAINER.NAME = args.trainer
    if args.backbone:
        cfg.MODEL.BACKBONE.NAME = args.backbone


def extend_cfg(cfg):
    """
    Add new config variables.
    """
    from yacs.config import CfgNode as CN
{nodes}
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base or new


def setup_cfg(args):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    if args.dataset_config_file:
        cfg.merge_from_file(args.dataset_config_file)
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    reset_cfg(cfg, args)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    return cfg


def main(args):
    cfg = setup_cfg(args)
    if cfg.SEED >= 0:
        print("Setting fixed seed: {{}}".format(cfg.SEED))
        set_random_seed(cfg.SEED)
    setup_logger(cfg.OUTPUT_DIR)
    if torch.cuda.is_available() and cfg.USE_CUDA:
        torch.backends.cudnn.benchmark = True
    print_args(args, cfg)
    trainer = build_trainer(cfg)
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
        return
    if not args.no_train:
        trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=str, default="")
    parser.add_argument("--output-dir", type=str, default="")
    parser.add_argument("--resume", type=str, default="")
    parser.add_argument("--seed", type=int, default=-1)
    parser.add_argument("--config-file", type=str, default="")
    parser.add_argument("--dataset-config-file", type=str, default="")
    parser.add_argument("--trainer", type=str, default="")
    parser.add_argument("--backbone", type=str, default="")
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--model-dir", type=str, default="")
    parser.add_argument("--load-epoch", type=int)
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("opts", default=None, nargs=argparse.REMAINDER)
    main(parser.parse_args())
'''

TRAINER = """import torch
from torch import nn
from torch.nn import functional as F

from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_optimizer, build_lr_scheduler

from clip import clip
from clip.simple_tokenizer import SimpleTokenizer as _Tokenizer

_tokenizer = _Tokenizer()


class PromptLearner(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        self.clip_model = clip_model
        self.ctx = nn.Parameter(torch.zeros(len(classnames), clip_model.width))

    def forward(self, image):
        return self.clip_model(image) @ self.ctx.t()


@TRAINER_REGISTRY.register()
class {trainer}(TrainerX):
    def build_model(self):
        cfg = self.cfg
        clip_model = clip.build_model({{}}{design})
        print("Loading the CLIP of this checkout:", clip.WHOSE, _tokenizer.encode("a"))
        self.model = PromptLearner(cfg, self.dm.dataset.classnames, clip_model)
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        loss = F.cross_entropy(self.model(image), label)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {{"loss": loss.item()}}

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)
"""

CLIP = {
    "__init__.py": "from .clip import *\n",
    "clip.py": "from .model import build_model\n\n__all__ = ['build_model', 'WHOSE']\nWHOSE = {name!r}\n",
    "simple_tokenizer.py": "class SimpleTokenizer(object):\n    def encode(self, text):\n        return [len(text)]\n",
    "model.py": """from torch import nn


class CLIP(nn.Module):
    def __init__(self, width{design_argument}):
        super().__init__()
        self.width = width
        self.pool = nn.AdaptiveAvgPool2d(2)

    def forward(self, image):
        return self.pool(image).flatten(1)


def build_model(state_dict{design_argument}):
    return CLIP(12{design_value})
""",
}

DATASET = """import os
import pickle

from dassl.data.datasets import DATASET_REGISTRY, Datum, DatasetBase
from dassl.utils import mkdir_if_missing


@DATASET_REGISTRY.register()
class OxfordPets(DatasetBase):

    dataset_dir = "oxford_pets"

    def __init__(self, cfg):
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.split_fewshot_dir = os.path.join(self.dataset_dir, "split_fewshot")
        mkdir_if_missing(self.split_fewshot_dir)
        train, val, test = (self.read_data(part) for part in ("train", "val", "test"))

        num_shots = cfg.DATASET.NUM_SHOTS
        if num_shots >= 1:
            preprocessed = os.path.join(self.split_fewshot_dir, f"shot_{num_shots}-seed_{cfg.SEED}.pkl")
            if os.path.exists(preprocessed):
                with open(preprocessed, "rb") as file:
                    data = pickle.load(file)
                    train, val = data["train"], data["val"]
            else:
                train = self.generate_fewshot_dataset(train, num_shots=num_shots)
                val = self.generate_fewshot_dataset(val, num_shots=min(num_shots, 4))
                with open(preprocessed, "wb") as file:
                    pickle.dump({"train": train, "val": val}, file, protocol=pickle.HIGHEST_PROTOCOL)

        super().__init__(train_x=train, val=val, test=test)

    def read_data(self, part):
        items = []
        for label, breed in enumerate(("abyssinian", "beagle", "pug")):
            folder = os.path.join(self.dataset_dir, "images", part, breed)
            for name in sorted(os.listdir(folder)):
                items.append(Datum(impath=os.path.join(folder, name), label=label, classname=breed))
        return items
"""

YAML = """DATALOADER:
  TRAIN_X:
    BATCH_SIZE: 4
  TEST:
    BATCH_SIZE: 100
  NUM_WORKERS: 0

INPUT:
  SIZE: (224, 224)
  INTERPOLATION: "bicubic"
  PIXEL_MEAN: [0.48145466, 0.4578275, 0.40821073]
  PIXEL_STD: [0.26862954, 0.26130258, 0.27577711]
  TRANSFORMS: ["random_resized_crop", "random_flip", "normalize"]

OPTIM:
  NAME: "sgd"
  LR: 0.002
  MAX_EPOCH: 1
  LR_SCHEDULER: "cosine"
  WARMUP_EPOCH: 1
  WARMUP_TYPE: "constant"
  WARMUP_CONS_LR: 1e-5

MODEL:
  BACKBONE:
    NAME: "ViT-B/16"
"""


def write(folder: Path, host: Host) -> None:
    """The checkout, ready to run its own trainer."""
    module = host.trainer.lower()
    more = {"design_argument": ", design_details" * host.design, "design_value": ", design_details" * host.design}
    files = {
        "train.py": TRAIN.format(module=module, nodes=COOP_NODES + host.nodes),
        "trainers/__init__.py": "",
        f"trainers/{module}.py": TRAINER.format(trainer=host.trainer, design=', {"trainer": "MaPLe"}' * host.design),
        "datasets/__init__.py": "",
        "datasets/oxford_pets.py": DATASET,
        "configs/datasets/oxford_pets.yaml": 'DATASET:\n  NAME: "OxfordPets"\n',
        f"configs/trainers/{host.trainer}/vit_b16.yaml": YAML,
    } | {f"clip/{name}": text.format(name=host.trainer, **more) for name, text in CLIP.items()}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_pets(root: Path) -> None:
    """Images of three breeds in train, val and test."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 18), ("val", 2), ("test", 4)):
        for label, breed in enumerate(("abyssinian", "beagle", "pug")):
            for i in range(n):
                path = root / "oxford_pets" / "images" / part / breed / f"{breed}_{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 120, (18, 20, 3)) + 60 * np.eye(3, dtype=int)[label]
                Image.fromarray(pixels.astype(np.uint8)).save(path)
