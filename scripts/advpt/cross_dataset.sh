#!/usr/bin/env bash
# Tune on one data set, evaluate on others: other classes, or the same classes under a distribution shift.
#
#   TRAINER=FAP bash scripts/advpt/cross_dataset.sh imagenet vit_b32 pets dtd imagenetv2 imagenet_sketch imagenet_r
#
# By environment: TRAINER (AdvPT), SEEDS ("1 2 3"), SHOTS (16, or all), DATA, OUTPUT, SETTINGS ("KEY VALUE ..." of all runs).
# Runs that are done are skipped, broken ones continue.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/common.sh"
source_set=$1 backbone=$2
shift 2
TRAINER=${TRAINER:-AdvPT} SHOTS=${SHOTS:-16} DATA=${DATA:-${ADVPT_DATA:-data}}
top=${OUTPUT:-output/cross_dataset}/$(own_name "$source_set" "$DATA")/$TRAINER/${backbone}_${SHOTS}shots
yaml() { [ -f "configs/datasets/$1.yaml" ] && echo "configs/datasets/$1.yaml" || echo "configs/datasets/demo/$1.yaml"; }
for seed in ${SEEDS:-1 2 3}; do
  run=(--root "$DATA" --seed "$seed" --trainer "$TRAINER" --config-file "configs/trainers/$TRAINER/$backbone.yaml")
  # shellcheck disable=SC2206 # words of SETTINGS are settings
  settings=(VERBOSE False DATASET.NUM_SHOTS "${SHOTS/all/-1}" ${SETTINGS:-})
  run_one "$top/$source_set/seed$seed" "${run[@]}" --dataset-config-file "$(yaml "$source_set")" "${settings[@]}"
  for target in "$@"; do
    run_one "$top/$target/seed$seed" "${run[@]}" --dataset-config-file "$(yaml "$target")" --eval-only \
      --model-dir "$top/$source_set/seed$seed" "${settings[@]}"
  done
done
for set in "$source_set" "$@"; do
  "$PYTHON" -m advpt report "$top/$set"
done
