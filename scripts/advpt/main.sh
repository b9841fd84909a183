#!/usr/bin/env bash
# One data set, one backbone: seeds 1 2 3 on the full training split, then mean and deviation.
#
#   bash scripts/advpt/main.sh pets vit_b16
#   SEEDS="1 2 3" SHOTS="1 4 16 all" TRAINER=CoOp DATA=/data bash scripts/advpt/main.sh dtd vit_l14 BANK.LIMIT 200
#
# By environment: SEEDS, SHOTS, TRAINER, DATA (root of the data sets), OUTPUT, WEIGHTS (a file instead of OpenAI's by name),
# NAME (of the folder in OUTPUT; default: the data set, or the root's name where one's own data lie in the root itself),
# TOGETHER=1 (tune all seeds in one process and one batch: faster, the same numbers to rounding; AdvPT on its bank only).
# Words after the backbone are KEY VALUE settings. Runs whose records say done are skipped, broken ones continue.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  echo "data sets: $(cd "$(dirname "$0")/../../configs/datasets" && ls | sed 's/\.yaml$//' | tr '\n' ' ')"
  exit 2
fi
source "$(dirname "$0")/common.sh"
dataset=$1 backbone=$2
shift 2
TRAINER=${TRAINER:-AdvPT}
DATA=${DATA:-${ADVPT_DATA:-data}}
OUTPUT=${OUTPUT:-output}
recipes=configs/trainers/$TRAINER
config=$recipes/$backbone.yaml base=$backbone parts=
while [ ! -f "$recipes/$base.yaml" ] && [ "$base" != "${base%_*}" ]; do parts=_${base##*_}$parts base=${base%_*}; done
recipe=$recipes/${base}_$dataset # a data set with its own recipe (ImageNet) has its own file; vit_b16_ep50 is it with 50 epochs
[ -f "$recipe.yaml" ] && config=$recipe$parts.yaml
[ -f "configs/datasets/$dataset.yaml" ] || { echo "error: there is no configs/datasets/$dataset.yaml; see: ls configs/datasets" >&2; exit 2; }
settings=()
[ -n "${WEIGHTS:-}" ] && settings+=(MODEL.WEIGHTS "$WEIGHTS")
name=${NAME:-$(own_name "$dataset" "$DATA")}
if [ "$name" != "$dataset" ] && [ -z "${NAME:-}" ] && [ -d "$OUTPUT/$dataset/$TRAINER" ]; then
  echo "note: runs in $OUTPUT/$dataset/$TRAINER stay as they are; NAME=$dataset continues them" >&2
fi
top=$OUTPUT/$name/$TRAINER
for shots in ${SHOTS:-all}; do
  number=$shots
  [ "$shots" = all ] && number=-1
  folder=$top/$(basename "$config" .yaml)_${shots}shots seeds=${SEEDS:-1 2 3}
  common=(--root "$DATA" --trainer "$TRAINER" --dataset-config-file "configs/datasets/$dataset.yaml" --config-file "$config")
  common+=(VERBOSE False DATASET.NUM_SHOTS "$number" "${settings[@]}" "$@")
  if [ -n "${TOGETHER:-}" ]; then
    run_one "$folder" --seeds "${seeds// /,}" "${common[@]}"
  else
    for seed in $seeds; do run_one "$folder/seed$seed" --seed "$seed" "${common[@]}"; done
  fi
  echo
  "$PYTHON" -m advpt report "$folder"
done
