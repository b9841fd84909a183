#!/usr/bin/env bash
# Choose the demo's learning rates: one grid for CoOp (on its clean bank) and AdvPT, on the validation split of Digits, on seeds
# that the demo does not report. The criterion is the mean robust (transfer) accuracy on the validation split, for both.
# The test split is never read. Runs that are done are skipped, broken ones continue.
set -euo pipefail
[ "${1:-}" != --help ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0; }
source "$(dirname "$0")/common.sh"
exec "$PYTHON" -m advpt run --output "${OUTPUT:-output/demo_search}" --seeds "${SEEDS:-101 102 103}" --trainers "CoOp AdvPT" \
  --grid "${RATES:-0.0002 0.0005 0.001 0.002 0.005 0.01 0.02 0.05 0.1}" --jobs "${JOBS:-0}" demo_search
