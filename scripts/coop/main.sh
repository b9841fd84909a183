#!/usr/bin/env bash
# CoOp's command for few-shot runs: seeds 1 2 3 of one configuration.
#
#   bash scripts/coop/main.sh DATASET CFG CTP NCTX SHOTS CSC [KEY VALUE ...]
#   bash scripts/coop/main.sh caltech101 rn50_ep50 end 16 1 False
#
# CFG is a file of configs/trainers/CoOp or composed of one (rn50_ep50, vit_b16_ep50_ctxv1, rn50_val, ...), CTP where the class
# name stands (end, middle, front). By environment: DATA (root of the data sets), SEEDS, OUTPUT. Runs that are done are skipped.
set -euo pipefail
[ $# -ge 6 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/../advpt/common.sh"
dataset=$1 cfg=$2 ctp=$3 nctx=$4 shots=$5 csc=$6
shift 6
for seed in ${SEEDS:-1 2 3}; do
  "$PYTHON" train.py --skip-done --root "${DATA:-${ADVPT_DATA:-data}}" --seed "$seed" --trainer CoOp \
    --dataset-config-file "configs/datasets/$dataset.yaml" --config-file "configs/trainers/CoOp/$cfg.yaml" \
    --output-dir "${OUTPUT:-output}/$dataset/CoOp/${cfg}_${shots}shots/nctx${nctx}_csc${csc}_ctp$ctp/seed$seed" \
    TRAINER.COOP.N_CTX "$nctx" TRAINER.COOP.CSC "$csc" TRAINER.COOP.CLASS_TOKEN_POSITION "$ctp" \
    DATASET.NUM_SHOTS "$shots" "$@"
done
