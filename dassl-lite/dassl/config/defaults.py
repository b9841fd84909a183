"""The default values of ``defaults.yaml``."""

import ast
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode


def _decode(value: Any) -> Any:
    """A node from a mapping, a tuple from a text in parentheses (YAML has none), anything else as it is."""
    if isinstance(value, dict):
        return CfgNode({key: _decode(inner) for key, inner in value.items()})
    if isinstance(value, str) and value.startswith("("):
        return ast.literal_eval(value)
    return value


cfg_default: CfgNode = _decode(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()))
