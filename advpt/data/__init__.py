"""Facts of the data sets, split files and few-shot lists. Nothing here imports Dassl."""

import os


def data_root(given: str = "") -> tuple[str, str]:
    """The folder of all data sets, and which setting decided: ``given`` by ``--root``, else ``$ADVPT_DATA``, else
    ``data``."""
    for folder, origin in ((given, "--root"), (os.environ.get("ADVPT_DATA", ""), "$ADVPT_DATA")):
        if folder:
            return folder, origin
    return "data", "the default"
