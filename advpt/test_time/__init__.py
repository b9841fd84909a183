"""Defenses at test time, without training, behind one interface: each classifies images in the place of the plain
classifier."""

from advpt.test_time import anti_adversaries as anti_adversaries  # each of these registers its defenses
from advpt.test_time import clipure as clipure
from advpt.test_time import dbd as dbd
from advpt.test_time import ensemble as ensemble
from advpt.test_time import et3 as et3
from advpt.test_time import hedge as hedge
from advpt.test_time import mta as mta
from advpt.test_time import prompt_tuning as prompt_tuning
from advpt.test_time import rtpt as rtpt
from advpt.test_time import sstpt as sstpt
from advpt.test_time import ttc as ttc
from advpt.test_time import zero as zero
from advpt.test_time.base import TEST_TIME
from advpt.test_time.spec import parse, parse_all

__all__ = ["TEST_TIME", "parse", "parse_all"]
