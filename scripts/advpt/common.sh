# Shared by the scripts of this folder: where Python is, and one run with its log and its errors.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi

# own_name DATASET DATA : the folder of a data set's results. One's own data that lie in the root itself have the root's name.
own_name() {
  if [ "$1" = image_folder ] && [ ! -d "$2/image_folder" ] && [ -d "$2/train" ]; then basename "$(cd "$2" && pwd)"; else echo "$1"; fi
}

# run_one FOLDER WORD... : train.py with the words after FOLDER; a run that is done is skipped, a broken one continues.
run_one() {
  local folder=$1 started=$SECONDS
  shift
  mkdir -p "$folder"
  printf '%s ... ' "$folder"
  if ! "$PYTHON" train.py --output-dir "$folder" --skip-done "$@" >"$folder/console.txt" 2>&1; then
    echo "stopped"
    grep -E '^error: ' -A 20 "$folder/console.txt" >&2 || tail -n 20 "$folder/console.txt" >&2
    exit 1
  fi
  if grep -q '^done already' "$folder/console.txt" && ! grep -q '^Setting fixed seed' "$folder/console.txt"; then echo "done already"; else echo "$((SECONDS - started)) s"; fi
}
