#!/usr/bin/env bash
# Tables and figures of the paper beside the published numbers: plans the runs, runs what is missing, writes the report.
#
#   bash scripts/advpt/reproduce.sh table1 --only pets,dtd --backbones vit_b16 --dry-run
#   bash scripts/advpt/reproduce.sh all --demo
#
# Names: table1 to table5, fig3 to fig7 (fig6 is the domain shift), curves, efficiency, all of these; peers, tapt,
# test_time, towers.
# It can be stopped and started again.
set -euo pipefail
source "$(dirname "$0")/common.sh"
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' scripts/advpt/reproduce.sh; exit 2; }
exec "$PYTHON" -m advpt reproduce "$@"
