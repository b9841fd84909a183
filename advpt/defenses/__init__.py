"""Image to image defenses behind one interface."""

from advpt.defenses import diffpure as diffpure  # each of the five registers its defense
from advpt.defenses import low_pass as low_pass
from advpt.defenses import noise as noise
from advpt.defenses import rescale as rescale
from advpt.defenses import super_resolution as super_resolution
from advpt.defenses.base import DEFENSES
from advpt.defenses.spec import parse, parse_all

__all__ = ["DEFENSES", "parse", "parse_all"]
