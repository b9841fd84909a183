#!/usr/bin/env bash
# Tune on the first half of the classes, evaluate on it and on the other half (CoOp's base and new classes).
#
#   TRAINER=CAPT SHOTS=16 bash scripts/advpt/base_to_new.sh dtd vit_b32 MODEL.IMAGE_WEIGHTS vitb32_eps4.pth.tar
#
# By environment: TRAINER (AdvPT), SEEDS ("1 2 3"), SHOTS (16, or all), DATA, OUTPUT. Words after the backbone are KEY VALUE
# settings. Runs that are done are skipped, broken ones continue.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/common.sh"
dataset=$1 backbone=$2
shift 2
TRAINER=${TRAINER:-AdvPT} SHOTS=${SHOTS:-16} DATA=${DATA:-${ADVPT_DATA:-data}}
top=${OUTPUT:-output/base_to_new}/$(own_name "$dataset" "$DATA")/$TRAINER/${backbone}_${SHOTS}shots
for seed in ${SEEDS:-1 2 3}; do
  run=(--root "$DATA" --seed "$seed" --trainer "$TRAINER" --dataset-config-file "configs/datasets/$dataset.yaml"
    --config-file "configs/trainers/$TRAINER/$backbone.yaml")
  settings=(VERBOSE False DATASET.NUM_SHOTS "${SHOTS/all/-1}" "$@")
  run_one "$top/base/seed$seed" "${run[@]}" "${settings[@]}" DATASET.SUBSAMPLE_CLASSES base
  run_one "$top/new/seed$seed" "${run[@]}" --eval-only --model-dir "$top/base/seed$seed" "${settings[@]}" \
    DATASET.SUBSAMPLE_CLASSES new
done
for part in base new; do
  printf '\n%s classes\n' "$part"
  "$PYTHON" -m advpt report "$top/$part"
done
