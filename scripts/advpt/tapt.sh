#!/usr/bin/env bash
# TAPT on the 11 data sets of its paper, beside its Tables 1 and 2: prompts tuned on attacked and on clean images (ImageNet,
# 16 shots), their statistics, and test-time tuning under attackers who know of it and who do not.
#
#   bash scripts/advpt/tapt.sh --root DATA                                   # all of it; --dry-run prints the plan
#   bash scripts/advpt/tapt.sh --root DATA --only pets,dtd --backbones vit_b32
#   bash scripts/advpt/tapt.sh --root DATA --set EVAL.SUBSET 0               # all test images, not 1,000 of each data set
#   bash scripts/advpt/tapt.sh --root DATA --all-statistics                  # statistics over all of ImageNet, as in the paper
#   bash scripts/advpt/tapt.sh --demo                                        # DemoCLIP and digits, no download
#
# It can be stopped and started again. Other settings go to all evaluations: --set TRAINER.TAPT.PROFILE paper.
set -euo pipefail
source "$(dirname "$0")/common.sh"
exec "$PYTHON" -m advpt reproduce tapt "$@"
