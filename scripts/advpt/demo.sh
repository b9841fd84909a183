#!/usr/bin/env bash
# The main job on the embedded default: zero-shot CLIP, CoOp and AdvPT on handwritten digits, then one table.
# Runs that are done are skipped, broken ones continue.
set -euo pipefail
source "$(dirname "$0")/common.sh"
SEEDS=${SEEDS:-"1 2 3"}
OUTPUT=${OUTPUT:-output/demo}
run_one "$OUTPUT/ZeroshotCLIP/seed1" --trainer ZeroshotCLIP --seed 1 VERBOSE False
for seed in $SEEDS; do
  run_one "$OUTPUT/CoOp/seed$seed" --trainer CoOp --seed "$seed" VERBOSE False
  run_one "$OUTPUT/AdvPT/seed$seed" --trainer AdvPT --seed "$seed" VERBOSE False
done
"$PYTHON" -m advpt report "$OUTPUT"
