"""A small, compatible subset of Dassl: configuration, registries, trainers, data, optimizers, evaluation.

Distribution name ``dassl-lite``. Code written for Dassl 0.6.3 in the manner of CoOp runs on it unmodified.
"""

from dassl._absent import explain_absent_parts
from dassl._foreign import refuse_foreign

__version__ = "0.6.3+lite"

refuse_foreign()
explain_absent_parts()
