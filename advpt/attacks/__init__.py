"""Pixel-space attacks behind one interface."""

from advpt.attacks import autoattack, files, pgd, rap  # they register themselves
from advpt.attacks.base import ATTACKS, Attack, AttackOutput
from advpt.attacks.noise import SampleNoise
from advpt.attacks.spec import AttackSpec, parse, parse_all

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackOutput",
    "AttackSpec",
    "SampleNoise",
    "autoattack",
    "files",
    "parse",
    "parse_all",
    "pgd",
    "rap",
]
