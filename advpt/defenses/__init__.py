"""Image to image defenses behind one interface."""

from advpt.defenses import diffpure as diffpure  # each registers itself
from advpt.defenses import rescale as rescale
from advpt.defenses import super_resolution as super_resolution
from advpt.defenses.base import DEFENSES, Defense, attackable
from advpt.defenses.chain import Chain
from advpt.defenses.spec import DefenseSpec, parse, parse_all

__all__ = ["DEFENSES", "Chain", "Defense", "DefenseSpec", "attackable", "parse", "parse_all"]
