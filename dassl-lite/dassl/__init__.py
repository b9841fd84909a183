"""A small, compatible subset of Dassl: configuration, registries, trainers, data, optimizers, evaluation.

Distribution name ``dassl-lite``. Code written for Dassl 0.6.3 in the manner of CoOp runs on it unmodified.
"""

import sys

from dassl._imports import AbsentPartFinder, refuse_other_packages

__version__ = "0.6.3+lite"

refuse_other_packages()
sys.meta_path.append(AbsentPartFinder)
