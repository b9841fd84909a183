#!/usr/bin/env bash
# One data set, one backbone: seeds 1 2 3 on the full training split, then a table, and a page (index.html) in its folder.
#
#   bash scripts/advpt/main.sh pets vit_b16
#   SEEDS="1 2 3" SHOTS="1 4 16 all" TRAINER=CoOp DATA=/data bash scripts/advpt/main.sh dtd vit_l14 BANK.LIMIT 200
#
# By environment: SEEDS, SHOTS, TRAINER, DATA (root of the data sets), OUTPUT, WEIGHTS (a file instead of OpenAI's by name),
# NAME (of the folder in OUTPUT; default: the data set, or the root's name where one's own data lie in the root itself),
# TOGETHER=1 (tune all seeds in one process and one batch: faster, the same numbers to rounding; AdvPT on its bank only),
# JOBS (runs at a time; default one per GPU, else up to two). Words after the backbone are KEY VALUE settings. Runs whose
# records say done are skipped, broken ones continue.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0"
  echo "data sets: $(cd "$(dirname "$0")/../../configs/datasets" && ls | sed 's/\.yaml$//' | tr '\n' ' ')"
  exit 2
fi
source "$(dirname "$0")/common.sh"
exec "$PYTHON" -m advpt run --root "${DATA:-}" --output "${OUTPUT:-output}" --seeds "${SEEDS:-1 2 3}" --shots "${SHOTS:-all}" \
  --trainers "${TRAINER:-AdvPT}" --weights "${WEIGHTS:-}" --name "${NAME:-}" ${TOGETHER:+--together} --jobs "${JOBS:-0}" main "$@"
