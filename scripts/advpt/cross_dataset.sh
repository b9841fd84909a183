#!/usr/bin/env bash
# Tune on one data set, evaluate on others: other classes, or the same classes under a distribution shift.
#
#   TRAINER=FAP bash scripts/advpt/cross_dataset.sh imagenet vit_b32 pets dtd imagenetv2 imagenet_sketch imagenet_r
#
# By environment: TRAINER (AdvPT), SEEDS ("1 2 3"), SHOTS (16, or all), DATA, OUTPUT, JOBS (runs at a time), SETTINGS
# ("KEY VALUE ..." of all runs). Runs that are done are skipped, broken ones continue.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/common.sh"
exec "$PYTHON" -m advpt run --root "${DATA:-}" --output "${OUTPUT:-output/cross_dataset}" --seeds "${SEEDS:-1 2 3}" \
  --shots "${SHOTS:-16}" --trainers "${TRAINER:-AdvPT}" --settings "${SETTINGS:-}" --jobs "${JOBS:-0}" cross_dataset "$@"
