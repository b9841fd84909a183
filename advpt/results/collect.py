"""Gather records from folders. Numbers come from records only, never from logs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation.record import Record

log = logging.getLogger(__name__)


def collect(folders: Sequence[Path]) -> list[Record]:
    """All sound records below the folders, in the order of their paths; unsound ones are named and left out.

    Raises:
        RecordError: a folder does not exist, or there is no record at all.
    """
    found, seen = [], set()
    for folder in folders:
        if not folder.is_dir():
            raise RecordError(f"no folder {folder}; name the output folder of finished runs")
        for path in sorted(folder.glob(f"**/{records.FOLDER}/*.json")):
            try:
                record = records.read(path)
            except RecordError as error:
                log.warning("left out: %s", error)
                continue
            if record.id not in seen:
                seen.add(record.id)
                found.append(record)
    if not found:
        raise RecordError(f"no records below {', '.join(map(str, folders))}; run train.py first")
    return found
