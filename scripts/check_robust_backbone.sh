#!/usr/bin/env bash
# Is a robust image tower what it says? Zero-shot CLIP with the hand-written prompt on ImageNet, under PGD-100 (cross-entropy,
# step eps/4) at 4/255. Reference for TeCoA, ViT-B/32, eps 4: 39.7 clean, 10.2 robust (PFPT, NAACL 2025).
#
#   WEIGHTS=vitb32_eps4.pth.tar DATA=/data bash scripts/check_robust_backbone.sh
#
# By environment: WEIGHTS (the tower), DATA, BACKBONE (vit_b32), EPS (4), SUBSET (images, 0 = all), OUTPUT.
set -euo pipefail
source "$(dirname "$0")/advpt/common.sh"
BACKBONE=${BACKBONE:-vit_b32} EPS=${EPS:-4} OUTPUT=${OUTPUT:-output/robust_backbone}
if [ ! -f "${WEIGHTS:-}" ] && [[ ${WEIGHTS:-} != hf-hub:* ]]; then
  echo "error: WEIGHTS names no file (${WEIGHTS:-it is empty}); expected a robust image tower, a file or hf-hub:ORG/REPO." >&2
  "$PYTHON" -c 'from advpt.backbones.tower_files import SOURCES; print("They come from", SOURCES)' >&2
  exit 2
fi
[ -d "${DATA:-${ADVPT_DATA:-data}}/imagenet" ] || {
  echo "error: no imagenet below ${DATA:-${ADVPT_DATA:-data}}; see: python -m advpt prepare imagenet" >&2
  exit 2
}
name=$(basename "$WEIGHTS")
folder=$OUTPUT/${name//[:@]/_}_$BACKBONE
"$PYTHON" train.py --output-dir "$folder" --skip-done --root "${DATA:-${ADVPT_DATA:-data}}" --seed 1 --trainer ZeroshotCLIP \
  --dataset-config-file configs/datasets/imagenet.yaml --config-file "configs/trainers/ZeroshotCLIP/$BACKBONE.yaml" \
  VERBOSE False MODEL.IMAGE_WEIGHTS "$WEIGHTS" EVAL.PROTOCOLS "('adaptive',)" EVAL.SUBSET "${SUBSET:-0}" \
  EVAL.ATTACKS "('pgd100-ce@$EPS/a$(awk "BEGIN { print $EPS / 4 }")',)" "$@"
grep -E '^\* (robust_)?accuracy:' "$folder/log.txt" | tail -n 2
echo "reference for TeCoA, ViT-B/32, eps 4 on all of ImageNet: 39.7 clean, 10.2 robust"
