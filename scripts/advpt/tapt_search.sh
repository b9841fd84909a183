#!/usr/bin/env bash
# Choose how the demo tunes at test time (tapt.sh --demo): learning rate and steps from one grid for the three designs, on the
# validation images of Digits (16 shots: 40 of them). The criterion is static accuracy, which TAPT's authors measure, mean over
# designs; clean accuracy is printed beside. The test split is never read. Runs that are done are skipped, broken ones continue.
set -euo pipefail
[ "${1:-}" != --help ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0; }
source "$(dirname "$0")/common.sh"
GRID=${GRID:-"0.0005:1 0.002:1 0.005:1 0.01:1 0.02:1 0.01:2 0.005:4"} SEED=${SEED:-1} OUTPUT=${OUTPUT:-output/tapt_search}
exec "$PYTHON" -m advpt run --output "$OUTPUT" --seeds "$SEED" --grid "$GRID" --jobs "${JOBS:-0}" tapt_search
