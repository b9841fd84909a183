#!/usr/bin/env bash
# Tune on the first half of the classes, evaluate on it and on the other half (CoOp's base and new classes).
#
#   TRAINER=CAPT SHOTS=16 bash scripts/advpt/base_to_new.sh dtd vit_b32 MODEL.IMAGE_WEIGHTS vitb32_eps4.pth.tar
#
# By environment: TRAINER (AdvPT), SEEDS ("1 2 3"), SHOTS (16, or all), DATA, OUTPUT, JOBS (runs at a time). Words after the
# backbone are KEY VALUE settings. Runs that are done are skipped, broken ones continue.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/common.sh"
exec "$PYTHON" -m advpt run --root "${DATA:-}" --output "${OUTPUT:-output/base_to_new}" --seeds "${SEEDS:-1 2 3}" \
  --shots "${SHOTS:-16}" --trainers "${TRAINER:-AdvPT}" --jobs "${JOBS:-0}" base_to_new "$@"
