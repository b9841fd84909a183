#!/usr/bin/env bash
# The main job on the embedded default: zero-shot CLIP, CoOp and AdvPT on handwritten digits, ten seeds each, then the tables.
# Transfer attacks on all 600 test images; adaptive PGD and APGD-CE + APGD-T (AA=aa@8 is standard AutoAttack, see
# `make demo-full`) on 200 fixed ones. The learning rate was chosen on other seeds (demo_search.sh).
# Runs that are done are skipped, broken ones continue.
set -euo pipefail
source "$(dirname "$0")/common.sh"
SEEDS=${SEEDS:-"1 2 3 4 5 6 7 8 9 10"}
OUTPUT=${OUTPUT:-output/demo}
AA=${AA:-apgd-ce-t@8}
transfer=(EVAL.ATTACKS "('pgd40-fkl@8:transfer','pgd10-ce@2:transfer')")
adaptive=(EVAL.SUBSET 200
  EVAL.ATTACKS "('pgd10-ce@2:adaptive','pgd10-ce@8:adaptive','$AA:transfer','$AA:transfer-all','$AA:adaptive')")
run_one "$OUTPUT/ZeroshotCLIP/seed1" --trainer ZeroshotCLIP --seed 1 VERBOSE False "${transfer[@]}" # nothing is drawn
for trainer in CoOp AdvPT; do
  run_one "$OUTPUT/$trainer" --trainer "$trainer" --seeds "${SEEDS// /,}" VERBOSE False "${transfer[@]}"
done
for trainer in ZeroshotCLIP CoOp AdvPT; do
  seeds=${SEEDS// /,}
  [ $trainer = ZeroshotCLIP ] && seeds=1
  run_one "$OUTPUT/adaptive/$trainer" --trainer "$trainer" --seeds "$seeds" --eval-only --model-dir "$OUTPUT/$trainer" \
    VERBOSE False "${adaptive[@]}"
done
"$PYTHON" -m advpt report "$OUTPUT"
