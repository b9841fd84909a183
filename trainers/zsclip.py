"""Zero-shot CLIP: the data set's hand-written prompt, or an ensemble of templates. Nothing is trained.

``TRAINER.ZEROSHOTCLIP.TEMPLATE`` replaces the data set's template, ``ENSEMBLE True`` adds CoOp's seven general ones.
Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dassl.engine import TRAINER_REGISTRY

from advpt.evaluation.saved_run import ZERO_SHOT
from advpt.files import write_json
from advpt.prompts import exchange
from trainers.advpt import CLIPTrainer


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(CLIPTrainer):
    trained = False

    def train(self, *args: Any, **kwargs: Any) -> None:
        write_json(Path(self.output_dir, ZERO_SHOT, exchange.ABOUT), self.about())
        print("Finish training")  # there is nothing to train; result parsers look for this line
        self.test()

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """There is nothing to load."""
