#!/usr/bin/env bash
# Install the project and dassl-lite into the environment of PYTHON. A foreign dassl is left alone and used.
#   PYTHON=.venv/bin/python scripts/setup.sh [dev]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
project=.
[ "${1:-}" = dev ] && project='.[dev]'
"$PYTHON" -m pip install --quiet --disable-pip-version-check --editable "$project"
found=$("$PYTHON" -P -c 'import importlib.util as u; s = u.find_spec("dassl"); print(s.origin if s else "")')
if [ -z "$found" ] || [ "$found" = "$PWD/dassl-lite/dassl/__init__.py" ]; then
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --editable ./dassl-lite
else
  echo "dassl is already installed at $found; it is used as it is, dassl-lite is not installed"
fi
