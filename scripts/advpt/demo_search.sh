#!/usr/bin/env bash
# Choose the demo's learning rates: one grid for CoOp (on its clean bank) and AdvPT, on the validation split of Digits, on seeds
# that the demo does not report. The criterion is the mean robust (transfer) accuracy on the validation split, for both.
# The test split is never read. Runs that are done are skipped, broken ones continue.
set -euo pipefail
source "$(dirname "$0")/common.sh"
RATES=${RATES:-"0.0002 0.0005 0.001 0.002 0.005 0.01 0.02 0.05 0.1"}
SEEDS=${SEEDS:-"101 102 103"}
OUTPUT=${OUTPUT:-output/demo_search}
for trainer in CoOp AdvPT; do
  for rate in $RATES; do
    run_one "$OUTPUT/$trainer/lr$rate" --trainer "$trainer" --seeds "${SEEDS// /,}" VERBOSE False TEST.SPLIT val \
      OPTIM.LR "$rate" EVAL.PROTOCOLS "('transfer',)" EVAL.ATTACKS "('pgd40-fkl@8',)"
    for seed in $SEEDS; do
      printf '%-6s lr %-6s seed %s  ' "$trainer" "$rate" "$seed"
      grep -E '^\* (robust_)?accuracy:' "$OUTPUT/$trainer/lr$rate/seed$seed/log.txt" | tail -2 | tr '\n' ' '
      echo
    done
  done
done
