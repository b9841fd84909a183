"""What ``python -m advpt prepare`` does for each data set, apart from printing."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from advpt.data import catalog, decode, layout, manifest, steps
from advpt.data.facts import DatasetFacts
from advpt.data.prepare import Options, prepare
from advpt.data.split import triple
from advpt.errors import ConfigError

__all__ = ["HEADERS", "Options", "chosen", "manual", "one"]

log = logging.getLogger(__name__)

HEADERS = ("data set", "train / val / test", "classes", "extra images", "state")

manual = steps.manual


def chosen(names: Sequence[str], root: Path, look_only: bool) -> list[DatasetFacts]:
    """The data sets meant: those named, or, to look only, all that have a folder under ``root``.

    Raises:
        ConfigError: for an unknown name, or if there is none.
    """
    every = [catalog.get(name) for name in catalog.names()]
    if names:
        return list(dict.fromkeys(catalog.get(name) for name in names))
    there = [facts for facts in every if facts.parts and (root / facts.folder).is_dir()]
    if look_only and there:
        return there
    choices = ", ".join(facts.config for facts in every if facts.parts)
    if look_only:
        raise ConfigError(f"no data set in {root}; give the folder that holds them as --root. Known: {choices}")
    raise ConfigError(f"name at least one data set: {choices}")


def one(
    facts: DatasetFacts, root: Path, options: Options, look_only: bool, decode_images: bool
) -> tuple[list[str], list[str]]:
    """Prepare or check one data set.

    Returns:
        Its row of the table (see :data:`HEADERS`), and what is wrong with it, one line each.

    Raises:
        AdvPTError: as :func:`advpt.data.prepare.prepare`; a check only raises ConfigError, for ImageFolder.
    """
    folder = root / facts.folder
    if look_only:
        if not facts.parts:
            raise ConfigError(f"{facts.name} is your own data; there is nothing to compare it with")
        report = layout.examine(facts, folder)
    else:
        report = prepare(facts, root, options)
    report = dataclasses.replace(report, known_extra=manifest.known_extra(folder))
    lines = report.lines()
    if lines:
        lines += [line.strip() for line in [layout.advice(facts, root)] if line]
    changed = manifest.changes(folder, report)
    lines += [f"{facts.name} in {folder}: {line}" for line in changed]
    state = "complete" if not lines else "DIFFERS"
    if decode_images and (report.counts != (0, 0, 0)):
        bad = decode.bad_images(folder, decode.images(facts, folder))
        lines += [f"{facts.name}: {folder / path}: {reason}" for path, reason in bad]
        state = f"{len(bad):,} BAD IMAGES" if bad else f"{state}, all decode"
    if lines:
        command = steps.command(facts, root)
        lines.append(f"Next: delete what is damaged, then `{command}` (add --archive or --from if you have the data)")
    for note in report.notes:
        log.warning("%s", note)
    row = [facts.name, triple(report.counts), f"{report.classes:,}", f"{len(report.extra):,}", state]
    return row, lines
