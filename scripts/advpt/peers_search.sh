#!/usr/bin/env bash
# Choose the learning rates of the comparison with AdvPT's peers (reproduce.sh peers --demo): one grid for all, 16 shots of
# Digits, on the validation split. The criterion is clean plus adaptive accuracy. The test split is never read.
set -euo pipefail
[ "${1:-}" != --help ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0; }
source "$(dirname "$0")/common.sh"
RATES=${RATES:-"0.02 0.05 0.1"} SEEDS=${SEEDS:-1} OUTPUT=${OUTPUT:-output/peers_search}
exec "$PYTHON" -m advpt run --output "$OUTPUT" --seeds "$SEEDS" --grid "$RATES" --jobs "${JOBS:-0}" \
  --trainers "${TRAINERS:-CoOp CoCoOp AdvPT APT FAP AdvIVLP CAPT}" peers_search
