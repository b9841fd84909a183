#!/usr/bin/env bash
# The main job on the embedded default: zero-shot CLIP, CoOp and AdvPT on handwritten digits, then one table.
# Runs that are done are skipped, broken ones continue.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python}
SEEDS=${SEEDS:-"1 2 3"}
OUTPUT=${OUTPUT:-output/demo}
mkdir -p "$OUTPUT"
one() { # trainer seed
  local folder=$OUTPUT/$1/seed$2 started=$SECONDS
  printf '%-13s seed %s ... ' "$1" "$2"
  mkdir -p "$folder"
  if ! "$PYTHON" train.py --trainer "$1" --seed "$2" --output-dir "$folder" --skip-done VERBOSE False \
    >"$folder/console.txt" 2>&1; then
    echo "failed; the end of $folder/console.txt:" && tail -n 20 "$folder/console.txt" && exit 1
  fi
  echo "$((SECONDS - started)) s"
}
one ZeroshotCLIP 1
for seed in $SEEDS; do
  one CoOp "$seed"
  one AdvPT "$seed"
done
"$PYTHON" -m advpt report "$OUTPUT"
