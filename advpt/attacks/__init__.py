"""Pixel-space attacks behind one interface."""

from advpt.attacks import autoattack as autoattack  # each of the four registers its attacks
from advpt.attacks import files as files
from advpt.attacks import pgd as pgd
from advpt.attacks import rap as rap
from advpt.attacks.base import ATTACKS, Attack
from advpt.attacks.noise import SampleNoise
from advpt.attacks.spec import parse, parse_all

__all__ = ["ATTACKS", "Attack", "SampleNoise", "parse", "parse_all"]
