#!/usr/bin/env bash
# Choose the learning rates of the comparison with AdvPT's peers (reproduce.sh peers --demo): one grid for all, 16 shots of
# Digits, on the validation split. The criterion is clean plus adaptive accuracy. The test split is never read.
set -euo pipefail
source "$(dirname "$0")/common.sh"
RATES=${RATES:-"0.02 0.05 0.1"} SEEDS=${SEEDS:-1} OUTPUT=${OUTPUT:-output/peers_search}
for trainer in ${TRAINERS:-CoOp CoCoOp AdvPT APT FAP AdvIVLP CAPT}; do
  for rate in $RATES; do
    for seed in $SEEDS; do
      folder=$OUTPUT/$trainer/lr$rate/seed$seed
      run=(--trainer "$trainer" --seed "$seed" VERBOSE False OPTIM.LR "$rate" OPTIM.MAX_EPOCH 10
        DATALOADER.TRAIN_X.BATCH_SIZE 16 "TRAINER.${trainer^^}.CTX_INIT" "a photo of the digit")
      [ "$trainer" = AdvPT ] && run+=(BANK.ATTACK pgd10-fkl@2) # all train at 2/255
      run_one "$folder" "${run[@]}" DATASET.NUM_SHOTS 16 TEST.NO_TEST True >/dev/null
      "$PYTHON" train.py --eval-only --model-dir "$folder" --output-dir "$folder/val" "${run[@]}" TEST.SPLIT val \
        EVAL.SUBSET 150 EVAL.PROTOCOLS "('adaptive',)" EVAL.ATTACKS "('pgd5-ce@2',)" >"$folder/val.txt" 2>&1
      printf '%-9s lr %-6s seed %s  ' "$trainer" "$rate" "$seed"
      grep -E '^\* (robust_)?accuracy:' "$folder/val.txt" | tr '\n' ' '
      echo
    done
  done
done
