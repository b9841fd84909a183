"""One file per method; importing this package registers them all in Dassl's TRAINER_REGISTRY."""

from trainers import adv_train as adv_train  # noqa: F401
from trainers import advpt as advpt  # noqa: F401
from trainers import apt as apt  # noqa: F401
from trainers import capt as capt  # noqa: F401
from trainers import cocoop as cocoop  # noqa: F401
from trainers import coop as coop  # noqa: F401
from trainers import fap as fap  # noqa: F401
from trainers import fare as fare  # noqa: F401
from trainers import fast_at as fast_at  # noqa: F401
from trainers import linear_probe as linear_probe  # noqa: F401
from trainers import mixture as mixture  # noqa: F401
from trainers import multimodal as multimodal  # noqa: F401
from trainers import pmgaft as pmgaft  # noqa: F401
from trainers import tame as tame  # noqa: F401
from trainers import tapt as tapt  # noqa: F401
from trainers import tecoa as tecoa  # noqa: F401
from trainers import tgazsr as tgazsr  # noqa: F401
from trainers import trades_ft as trades_ft  # noqa: F401
from trainers import zsclip as zsclip  # noqa: F401
