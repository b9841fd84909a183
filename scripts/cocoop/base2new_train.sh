#!/usr/bin/env bash
# CoCoOp's command for base-to-new: tune on the first half of the classes.
#
#   bash scripts/cocoop/base2new_train.sh DATASET SEED [KEY VALUE ...]
#   bash scripts/cocoop/base2new_train.sh caltech101 1
#
# By environment: TRAINER (CoCoOp; CoOp for its rows), CFG (vit_b16_c4_ep10_batch1_ctxv1), SHOTS (16), DATA, OUTPUT.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/../advpt/common.sh"
dataset=$1 seed=$2 trainer=${TRAINER:-CoCoOp} cfg=${CFG:-vit_b16_c4_ep10_batch1_ctxv1} shots=${SHOTS:-16}
shift 2
"$PYTHON" train.py --skip-done --root "${DATA:-${ADVPT_DATA:-data}}" --seed "$seed" --trainer "$trainer" \
  --dataset-config-file "configs/datasets/$dataset.yaml" --config-file "configs/trainers/$trainer/$cfg.yaml" \
  --output-dir "${OUTPUT:-output}/base2new/train_base/$dataset/shots_$shots/$trainer/$cfg/seed$seed" \
  DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES base "$@"
