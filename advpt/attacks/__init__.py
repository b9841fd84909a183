"""Pixel-space attacks behind one interface."""

from advpt.attacks import pgd as pgd  # registers itself
from advpt.attacks.base import ATTACKS, Attack, AttackOutput
from advpt.attacks.noise import SampleNoise
from advpt.attacks.spec import AttackSpec, parse

__all__ = ["ATTACKS", "Attack", "AttackOutput", "AttackSpec", "SampleNoise", "parse"]
