#!/usr/bin/env bash
# Choose the demo's learning rates: the same grid for CoOp and AdvPT, on the validation split of Digits, seeds 1 2 3.
# The criterion is robust (transfer) accuracy on the validation split, for both. The test split is never read.
set -euo pipefail
source "$(dirname "$0")/common.sh"
RATES=${RATES:-"0.005 0.01 0.02 0.05 0.1"}
SEEDS=${SEEDS:-"1 2 3"}
OUTPUT=${OUTPUT:-output/demo_search}
for trainer in CoOp AdvPT; do
  for rate in $RATES; do
    for seed in $SEEDS; do
      folder=$OUTPUT/$trainer/lr$rate/seed$seed
      $PYTHON train.py --trainer "$trainer" --seed "$seed" --output-dir "$folder" VERBOSE False \
        TEST.SPLIT val OPTIM.LR "$rate" EVAL.PROTOCOLS "('transfer',)" EVAL.ATTACKS "('pgd40-fkl@8',)" ${EXTRA:-} >/dev/null
      printf '%-6s lr %-6s seed %s  ' "$trainer" "$rate" "$seed"
      grep -E '^\* (robust_)?accuracy:' "$folder/log.txt" | tail -2 | tr '\n' ' '
      echo
    done
  done
done
