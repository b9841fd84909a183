#!/usr/bin/env bash
# CoOp's command for other data sets: prompts tuned by main.sh on SOURCE (imagenet), evaluated on another one.
#
#   bash scripts/coop/eval.sh DATASET CFG [KEY VALUE ...]
#   bash scripts/coop/eval.sh imagenetv2 rn50_ep50
#
# By environment: SOURCE (imagenet), SHOTS (16), NCTX (16), CSC (False), CTP (end) as the runs have them, DATA, SEEDS, OUTPUT.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/../advpt/common.sh"
dataset=$1 cfg=$2 nctx=${NCTX:-16} csc=${CSC:-False} ctp=${CTP:-end} output=${OUTPUT:-output}
shift 2
run=CoOp/${cfg}_${SHOTS:-16}shots/nctx${nctx}_csc${csc}_ctp$ctp
for seed in ${SEEDS:-1 2 3}; do
  "$PYTHON" train.py --skip-done --root "${DATA:-${ADVPT_DATA:-data}}" --seed "$seed" --trainer CoOp \
    --dataset-config-file "configs/datasets/$dataset.yaml" --config-file "configs/trainers/CoOp/$cfg.yaml" \
    --output-dir "$output/evaluation/$run/$dataset/seed$seed" \
    --eval-only --model-dir "$output/${SOURCE:-imagenet}/$run/seed$seed" \
    TRAINER.COOP.N_CTX "$nctx" TRAINER.COOP.CSC "$csc" TRAINER.COOP.CLASS_TOKEN_POSITION "$ctp" "$@"
done
