#!/usr/bin/env bash
# The main job on the embedded default: zero-shot CLIP, CoOp and AdvPT on handwritten digits, ten seeds each, then the tables.
# Transfer attacks on all 600 test images; adaptive PGD, and APGD-CE + APGD-T (AA=aa@8 is standard AutoAttack, see
# `make demo-full`), on 200 fixed ones, the latter adaptive with the first seed only (it costs ten times PGD).
# The learning rate was chosen on other seeds (demo_search.sh). Each process computes on one core, so that the numbers are
# the same on any number of cores; the three methods run side by side. Runs that are done are skipped, broken ones continue.
#
# By environment: SEEDS ("1 2 ... 10"), OUTPUT, AA, JOBS (runs at a time; default one per core, up to three).
set -euo pipefail
[ "${1:-}" != --help ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0; }
source "$(dirname "$0")/common.sh"
export OMP_NUM_THREADS=1
exec "$PYTHON" -m advpt run --output "${OUTPUT:-output/demo}" --seeds "${SEEDS:-1 2 3 4 5 6 7 8 9 10}" \
  --attack "${AA:-apgd-ce-t@8}" --jobs "${JOBS:-0}" demo
