#!/usr/bin/env bash
# One model on all data sets of the zero-shot robustness protocol that have data (docs/zero_shot.md): clean and robust
# accuracy of each, and their means.
#
#   bash scripts/advpt/zero_shot.sh vit_b32
#   ATTACK="pgd10-ce@1/a1 aa@1" SETS="cifar10 pets" SUBSET=1000 bash scripts/advpt/zero_shot.sh vit_b32 --image-weights FILE
#   bash scripts/advpt/zero_shot.sh democlip                                 # digits, no download
#
# By environment: ATTACK (pgd10-ce@1/a1), SETS (all with data), PROTOCOL (tecoa, or coop), SUBSET (images of each, 0 for all),
# JOBS (runs at a time), DATA, OUTPUT. More words go to the verb: --attack-at native, --templates fare, --dry-run,
# --engine ray. Runs that are done are skipped, broken ones continue.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/common.sh"
model=$1
shift
attacks=()
for attack in ${ATTACK:-}; do attacks+=(--attack "$attack"); done
exec "$PYTHON" -m advpt zero-shot --model "$model" "${attacks[@]}" --sets "${SETS:-}" --protocol "${PROTOCOL:-}" \
  --subset "${SUBSET:-0}" --jobs "${JOBS:-0}" --root "${DATA:-}" --output "${OUTPUT:-output/zero_shot}" "$@"
