"""One file per method or family of methods; importing this package registers them all in Dassl's TRAINER_REGISTRY."""

from trainers import advpt as advpt  # noqa: F401
from trainers import apt as apt  # noqa: F401
from trainers import capt as capt  # noqa: F401
from trainers import cocoop as cocoop  # noqa: F401
from trainers import coop as coop  # noqa: F401
from trainers import fap as fap  # noqa: F401
from trainers import finetune as finetune  # noqa: F401
from trainers import linear_probe as linear_probe  # noqa: F401
from trainers import multimodal as multimodal  # noqa: F401
from trainers import tapt as tapt  # noqa: F401
from trainers import zsclip as zsclip  # noqa: F401
