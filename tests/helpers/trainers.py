"""The trainers of this project, from Dassl's registry."""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY

import trainers  # noqa: F401 - they register themselves
from trainers.advpt import CLIPTrainer


def registered_trainers(base: type = CLIPTrainer) -> list[str]:
    """Names of those that are built on ``base``, in order."""
    return [name for name in TRAINER_REGISTRY.registered_names() if issubclass(TRAINER_REGISTRY.get(name), base)]
