"""The methods that tables and sweeps compare: names of trainers, and how their recipes go together. All data."""

from __future__ import annotations

ZEROSHOT, ADVPT, COOP, PROBE = "ZeroshotCLIP", "AdvPT", "CoOp", "LinearProbe"
COCOOP = "CoCoOp"  # text features for each image, tuned on clean images
COOP_CLEAN = "CoOp-clean"  # CoOp by AdvPT's recipe on a bank of clean images: the two differ in the attack alone
PEERS = (ZEROSHOT, COOP, COCOOP, ADVPT, "APT", "FAP", "AdvIVLP", "CAPT")
BY_IMAGE = (COCOOP, "AdvIVLPMoE")  # another prompt for each image
NO_TEXT = ("AdvVPT", "AdvVPTMoE")  # their text is the hand-written prompt
ENCODER_TRAINERS = ("AdvTrain", "FastAT", "TradesFT")
ONE_SEED = (ZEROSHOT, PROBE)  # nothing is drawn in them
TABLE_NAMES = {ZEROSHOT: "vanilla", PROBE: "linear_probe", COOP_CLEAN: "CoOp, clean bank"}  # where they differ
PUBLISHED_TOWERS = {"PMGAFT": "PMG-AFT", "TGAZSR": "TGA-ZSR"}  # tuned towers, where papers write them otherwise
FIRST_IN_TABLES = (ZEROSHOT, COOP, TABLE_NAMES[COOP_CLEAN], ADVPT)
# The design of TAPT's prompts, who trains them, who tunes them at test time.
TAPT_DESIGNS = (("V", "AdvVPT", "TAPTV"), ("VLI", "AdvIVLP", "TAPTVLI"), ("VLJ", "AdvMaPLe", "TAPTVLJ"))

CONTEXT_LEAVES = ("N_CTX", "CSC", "CTX_INIT", "CLASS_TOKEN_POSITION", "PREC")
# Recipes that were changed under their names, and their values before: their runs are other runs.
WARMUP_BEFORE = (ADVPT, ("OPTIM.WARMUP_EPOCH", "0"))  # of a data set's own recipe, which had a warm-up epoch
RATE_BEFORE = (ADVPT, "democlip")  # whose rate was 0.005: the rate is named in every run


def table_name(trainer: str) -> str:
    """A method as tables call it."""
    return TABLE_NAMES.get(trainer, trainer)
