#!/usr/bin/env bash
# Choose how the demo tunes at test time (tapt.sh --demo): learning rate and steps from one grid for the three designs, on the
# validation images of Digits (16 shots: 40 of them). The criterion is static accuracy, which TAPT's authors measure, mean over
# designs; clean accuracy is printed beside. The test split is never read. Runs that are done are skipped, broken ones continue.
set -euo pipefail
source "$(dirname "$0")/common.sh"
GRID=${GRID:-"0.0005:1 0.002:1 0.005:1 0.01:1 0.02:1 0.01:2 0.005:4"} SEED=${SEED:-1} OUTPUT=${OUTPUT:-output/tapt_search}
for pair in AdvVPT:TAPTV AdvIVLP:TAPTVLI AdvMaPLe:TAPTVLJ; do
  trained_by=${pair%:*} trainer=${pair#*:}
  all=(--seed "$SEED" VERBOSE False DATASET.NUM_SHOTS 16)
  for loss in adv_half clean; do
    run_one "$OUTPUT/$trained_by-$loss" --trainer "$trained_by" "${all[@]}" TEST.NO_TEST True OPTIM.MAX_EPOCH 10 OPTIM.LR 0.02 \
      DATALOADER.TRAIN_X.BATCH_SIZE 16 "TRAINER.${trained_by^^}.CTX_INIT" "a photo of the digit" \
      "TRAINER.${trained_by^^}.LOSS" "$loss" >/dev/null
  done
  for point in $GRID; do
    folder=$OUTPUT/$trainer/lr${point%:*}_steps${point#*:}
    run_one "$folder" --trainer "$trainer" --eval-only --model-dir "$OUTPUT/$trained_by-adv_half" "${all[@]}" TEST.SPLIT val \
      TRAINER.TAPT.CLEAN_RUN "$OUTPUT/$trained_by-clean" TRAINER.TAPT.CTX_INIT "a photo of the digit" \
      TRAINER.TAPT.LR "${point%:*}" TRAINER.TAPT.STEPS "${point#*:}" EVAL.ATTACKS "('pgd10-ce@2:static',)" >/dev/null
    printf '%-8s lr %-7s steps %s  ' "$trainer" "${point%:*}" "${point#*:}"
    grep -E '^\* (robust_)?accuracy:' "$folder/log.txt" | tail -n 2 | tr '\n' ' '
    echo
  done
done
