"""Trainers."""

from dassl.engine.build import TRAINER_REGISTRY, build_trainer
from dassl.engine.trainer import SimpleTrainer, TrainerBase, TrainerX, TrainerXU
