"""``python -m advpt VERB``."""

import sys

from advpt.cli import main

sys.exit(main())
