#!/usr/bin/env bash
# Data sets x backbones x shots x seeds, one after the other; done runs are skipped.
#
#   SHOTS="1 4 16 all" BACKBONES="vit_b16 vit_l14" bash scripts/advpt/sweep.sh pets flowers
#
# By environment: BACKBONES (default vit_b16), TRAINERS (default "ZeroshotCLIP CoOp AdvPT"), and all of main.sh's.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(dirname "$0")
for dataset in "$@"; do
  for backbone in ${BACKBONES:-vit_b16}; do
    for trainer in ${TRAINERS:-ZeroshotCLIP CoOp AdvPT}; do
      TRAINER=$trainer bash "$here/main.sh" "$dataset" "$backbone"
    done
  done
done
