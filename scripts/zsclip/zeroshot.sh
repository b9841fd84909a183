#!/usr/bin/env bash
# CoOp's command for zero-shot CLIP: the data set's hand-written prompt, with a configuration of CoOp's.
#
#   bash scripts/zsclip/zeroshot.sh DATASET CFG [KEY VALUE ...]
#   bash scripts/zsclip/zeroshot.sh caltech101 rn50
#
# By environment: DATA (root of the data sets), OUTPUT.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/../advpt/common.sh"
dataset=$1 cfg=$2
shift 2
"$PYTHON" train.py --skip-done --root "${DATA:-${ADVPT_DATA:-data}}" --trainer ZeroshotCLIP \
  --dataset-config-file "configs/datasets/$dataset.yaml" --config-file "configs/trainers/CoOp/$cfg.yaml" \
  --output-dir "${OUTPUT:-output}/ZeroshotCLIP/$cfg/$dataset" --eval-only "$@"
