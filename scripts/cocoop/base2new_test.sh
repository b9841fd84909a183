#!/usr/bin/env bash
# CoCoOp's command for base-to-new: evaluate what base2new_train.sh tuned on the other half of the classes.
#
#   bash scripts/cocoop/base2new_test.sh DATASET SEED [KEY VALUE ...]
#   bash scripts/cocoop/base2new_test.sh caltech101 1
#
# By environment: SUB (new; base evaluates the tuned half again), and those of base2new_train.sh.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/../advpt/common.sh"
dataset=$1 seed=$2 trainer=${TRAINER:-CoCoOp} cfg=${CFG:-vit_b16_c4_ep10_batch1_ctxv1} shots=${SHOTS:-16}
shift 2
top=${OUTPUT:-output}/base2new run=$dataset/shots_$shots/$trainer/$cfg/seed$seed
"$PYTHON" train.py --skip-done --root "${DATA:-${ADVPT_DATA:-data}}" --seed "$seed" --trainer "$trainer" \
  --dataset-config-file "configs/datasets/$dataset.yaml" --config-file "configs/trainers/$trainer/$cfg.yaml" \
  --output-dir "$top/test_${SUB:-new}/$run" --eval-only --model-dir "$top/train_base/$run" \
  DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES "${SUB:-new}" "$@"
