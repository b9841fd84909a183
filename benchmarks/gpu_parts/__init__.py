"""The parts of ``gpu.py``: each is a module with ``run(report)``."""

from __future__ import annotations

import os

import bank
from measurements import Report
from tuning_step import text_tower

from advpt.backbones.backbone import Backbone
from advpt.backbones.load import load_backbone
from advpt.settings import BackboneSettings

SMALL = "DemoCLIP"  # what a CPU can try every part with


def backbone(name: str, report: Report) -> Backbone:
    """An official CLIP with random weights; DemoCLIP for every name where sizes are small."""
    return load_backbone(BackboneSettings(SMALL, "", False), report.device) if report.small else bank.backbone(name)


def workers(report: Report) -> int:
    """Processes that read images."""
    return 0 if report.small else min(8, os.cpu_count() or 1)


def text_model(name: str, report: Report) -> Backbone:
    """A CLIP with the text tower of ``name``; DemoCLIP where sizes are small."""
    return backbone(name, report) if report.small else text_tower(name)
