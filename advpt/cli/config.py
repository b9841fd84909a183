"""``python -m advpt config``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from dassl.config import get_cfg_default

from advpt.cli import common
from advpt.settings import extend_cfg, merge_yaml, plain, yaml_layers
from advpt.version import __version__


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", type=Path, help="for instance configs/trainers/AdvPT/vit_b16.yaml")


def run(args: argparse.Namespace) -> int:
    """A configuration file as one flat yaml, what it builds on merged in; for checkouts whose train.py does not know
    `_BASE_` and composed names such as rn50_ep50.yaml."""
    common.register_plugins()
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
