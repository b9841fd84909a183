#!/usr/bin/env bash
# The main job on the embedded default: zero-shot CLIP, CoOp and AdvPT on handwritten digits, ten seeds each, then the tables.
# Transfer attacks on all 600 test images; adaptive PGD, and APGD-CE + APGD-T (AA=aa@8 is standard AutoAttack, see
# `make demo-full`), on 200 fixed ones, the latter adaptive with the first seed only (it costs ten times PGD).
# The learning rate was chosen on other seeds (demo_search.sh). Each process computes on one core, so that the numbers are
# the same on any number of cores; the three methods run side by side. Runs that are done are skipped, broken ones continue.
set -euo pipefail
source "$(dirname "$0")/common.sh"
SEEDS=${SEEDS:-"1 2 3 4 5 6 7 8 9 10"}
OUTPUT=${OUTPUT:-output/demo}
AA=${AA:-apgd-ce-t@8}
export OMP_NUM_THREADS=1
transfer=(EVAL.ATTACKS "('pgd40-fkl@8:transfer','pgd10-ce@2:transfer')")
transfer_aa=(EVAL.SUBSET 200 EVAL.ATTACKS "('$AA:transfer','$AA:transfer-all')")
adaptive=(EVAL.SUBSET 200 EVAL.ATTACKS "('pgd10-ce@2:adaptive','pgd10-ce@8:adaptive')")
adaptive_aa=(EVAL.SUBSET 200 EVAL.ATTACKS "('$AA:adaptive',)")
all=${SEEDS// /,}
first=${all%%,*}

# evaluate TRAINER SEEDS FOLDER WORD... : finished runs once more, with other attacks, in a folder beside them
evaluate() {
  run_one "$OUTPUT/$3/$1" --trainer "$1" --seeds "$2" --eval-only --model-dir "$OUTPUT/$1" VERBOSE False "${@:4}"
}

# all_of TRAINER : tuned, then attacked; nothing is drawn in zero-shot CLIP, so it has one seed
all_of() {
  local seeds=$all one=$first
  if [ "$1" = ZeroshotCLIP ]; then
    seeds=1 one=1
    run_one "$OUTPUT/$1/seed1" --trainer "$1" --seed 1 VERBOSE False "${transfer[@]}"
  else
    run_one "$OUTPUT/$1" --trainer "$1" --seeds "$seeds" VERBOSE False "${transfer[@]}"
  fi
  evaluate "$1" "$seeds" transfer "${transfer_aa[@]}"
  evaluate "$1" "$seeds" adaptive "${adaptive[@]}"
  evaluate "$1" "$one" adaptive_aa "${adaptive_aa[@]}"
}

echo "zero-shot CLIP, CoOp and AdvPT side by side; a line for each step when it is done:"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
jobs=()
for trainer in ZeroshotCLIP CoOp AdvPT; do
  all_of $trainer | sed -u '' & # whole lines
  jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
"$PYTHON" -m advpt report "$OUTPUT" --page "$OUTPUT/index.html"
