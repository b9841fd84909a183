#!/usr/bin/env bash
# The main job on the embedded default: zero-shot CLIP, CoOp and AdvPT on handwritten digits, then one table.
# Then APGD-CE + APGD-T on 200 fixed images under the three protocols (AA=aa@8 is standard AutoAttack, see `make demo-full`).
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
for trainer in ZeroshotCLIP CoOp AdvPT; do
  run_one "$OUTPUT/protocols/$trainer" --trainer "$trainer" --seed 1 --eval-only --model-dir "$OUTPUT/$trainer/seed1" \
    VERBOSE False EVAL.SUBSET 200 EVAL.ATTACKS "('${AA:-apgd-ce-t@8}',)" \
    EVAL.PROTOCOLS "('transfer','transfer-all','adaptive')"
done
"$PYTHON" -m advpt report "$OUTPUT"
