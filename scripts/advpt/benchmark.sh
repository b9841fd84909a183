#!/usr/bin/env bash
# Which published gains survive an attacker who knows the method: image towers x prompts x defenses (docs/benchmark.md).
#
#   bash scripts/advpt/benchmark.sh --demo                                   # DemoCLIP and digits, no download
#   bash scripts/advpt/benchmark.sh --sets pets --backbones vit_b16 --defenses ttc,mean --budgets 4
#   SETS="pets dtd" BACKBONES=vit_b16 bash scripts/advpt/benchmark.sh --dry-run
#   bash scripts/advpt/benchmark.sh --model my.module:make --folder photos   # a model of your own
#
# By environment: SETS, BACKBONES, PROMPTS, TOWERS, INPUTS, DEFENSES, BUDGETS, SEEDS (as the options of these names), JOBS (runs
# at a time), DATA, OUTPUT. Words go to the verb. Runs that are done are skipped, broken ones continue.
set -euo pipefail
[ $# -ge 1 ] || [ -n "${SETS:-}" ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
source "$(dirname "$0")/common.sh"
words=()
for name in SETS BACKBONES PROMPTS TOWERS INPUTS DEFENSES BUDGETS SEEDS OUTPUT; do
  [ -z "${!name:-}" ] || words+=("--${name,,}" "${!name}")
done
exec "$PYTHON" -m advpt benchmark "${words[@]}" --jobs "${JOBS:-0}" --root "${DATA:-}" "$@"
