"""Image to image defenses behind one interface."""

from advpt.defenses.base import DEFENSES, Defense, attackable
from advpt.defenses.chain import Chain
from advpt.defenses.diffpure import DiffPure
from advpt.defenses.rescale import RandomRescale
from advpt.defenses.spec import DefenseSpec, parse, parse_all
from advpt.defenses.super_resolution import SuperResolution

__all__ = [
    "DEFENSES",
    "Chain",
    "Defense",
    "DefenseSpec",
    "DiffPure",
    "RandomRescale",
    "SuperResolution",
    "attackable",
    "parse",
    "parse_all",
]
