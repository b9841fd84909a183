"""Small plans."""

from __future__ import annotations

from advpt.jobs.setup import PAPER

PETS = PAPER.narrowed(["pets"], ["vit_b16"], [1, 2, 3])


ZS, ADV, COOP = "ZeroshotCLIP", "AdvPT", "CoOp"
