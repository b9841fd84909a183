"""One file per method; importing this package registers them all in Dassl's TRAINER_REGISTRY."""

from trainers import advpt as advpt  # noqa: F401
from trainers import coop as coop  # noqa: F401
from trainers import zsclip as zsclip  # noqa: F401
