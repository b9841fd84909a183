#!/usr/bin/env bash
# Data sets x backbones x trainers x shots x seeds as one plan: done runs are skipped, a failed one is tried once more, and
# the summary at the end names every failure and its log. Runs that share a bank build it once.
#
#   SHOTS="1 4 16 all" BACKBONES="vit_b16 vit_l14" JOBS=2 bash scripts/advpt/sweep.sh pets flowers
#
# By environment: BACKBONES (default vit_b16), TRAINERS ("ZeroshotCLIP CoOp CoOp-clean AdvPT"; CoOp-clean is CoOp by AdvPT's
# recipe on clean embeddings: they differ in the attack alone), SHOTS (all), SEEDS ("1 2 3"), JOBS (runs at a time; default one
# per GPU, else up to two), DATA, OUTPUT, WEIGHTS (BACKBONE=FILE ...). More words go to the verb, for instance --engine ray
# (docs/clusters.md).
set -euo pipefail
source "$(dirname "$0")/common.sh"
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' scripts/advpt/sweep.sh; exit 2; }
files=()
for word in ${WEIGHTS:-}; do files+=(--weights "$word"); done
exec "$PYTHON" -m advpt sweep "$@" --backbones "${BACKBONES:-vit_b16}" --trainers "${TRAINERS:-ZeroshotCLIP CoOp CoOp-clean AdvPT}" \
  --shots "${SHOTS:-all}" --seeds "${SEEDS:-1 2 3}" --jobs "${JOBS:-0}" --root "${DATA:-${ADVPT_DATA:-data}}" \
  --output "${OUTPUT:-output/sweep}" "${files[@]}"
