"""Bringing a data set into CoOp's layout: fetch, verify, unpack beside the target, compare with the lists, rename;
and what ``python -m advpt prepare`` says of it.

Nothing gets its final name before it is complete, so a folder that is there is a whole one. Work in progress is kept
in ``<data set>/.prepare``; the next run continues there. A lock makes a second process wait.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from advpt import files
from advpt.data import catalog, decode, demo_sets, layout, manifest, steps
from advpt.data.class_archives import Caltech256Preparation, RecordPreparation, TinyImageNetPreparation
from advpt.data.facts import DatasetFacts
from advpt.data.imagenet_archives import ImageNetPreparation
from advpt.data.layout import Report
from advpt.data.preparation import Preparation
from advpt.data.source_files import Options
from advpt.data.split import triple
from advpt.errors import ConfigError, DataError

log = logging.getLogger(__name__)

LOCK = ".advpt_prepare.lock"
KINDS: dict[str, type[Preparation]] = {
    "ImageNet": ImageNetPreparation,
    "TinyImageNet": TinyImageNetPreparation,
    "Caltech256": Caltech256Preparation,
}
HEADERS = ("data set", "train / val / test", "classes", "extra images", "state")


def prepare(facts: DatasetFacts, root: Path, options: Options | None = None) -> Report:
    """Bring one data set into ``root / facts.folder``; does nothing if it is complete.

    Raises:
        ConfigError: for options that do not fit the data set.
        DataError: if it cannot be completed; the message ends with what to do by hand. What was complete before
            is as it was.
    """
    options = options or Options()
    _check_options(facts, options)
    root = root.expanduser().absolute()
    folder = root / facts.folder
    log.info("%s: %s; terms: %s", facts.name, facts.disk or "size unknown", facts.licence or "unknown")
    kind = RecordPreparation if facts.records else KINDS.get(facts.name, Preparation)
    try:
        if facts.name == "Digits":
            demo_sets.prepare(demo_sets.DIGITS, root)
            return kind(facts, root, options).finish("made", anew=False)
        with files.FileLock(folder / LOCK, f"{facts.name} in {folder}"):
            return kind(facts, root, options).run()
    except OSError as error:
        raise DataError(
            f"{facts.name}: {error.filename or folder} cannot be read or written ({error.strerror or error}). "
            "Check the disk and the permissions, then run the same command again: it continues"
        ) from error


def _check_options(facts: DatasetFacts, options: Options) -> None:
    if not facts.parts:
        raise ConfigError(
            f"{facts.name} is your own data; nothing has to be prepared. See DATASETS.md, 'Your own data'"
        )
    if options.sort_val and facts.name != "ImageNet":
        raise ConfigError(f"--sort-val is for imagenet; {facts.name} has no val images to sort")
    if options.link and options.origin is None:
        raise ConfigError("--link needs --from DIR, the folder that has the images")
    for path in (*options.archives, *([options.origin] if options.origin else [])):
        if not path.exists():
            raise ConfigError(f"{path} does not exist; give the path of a file (--archive) or a folder (--from)")
    if options.origin is not None and not options.origin.is_dir():
        raise ConfigError(f"{options.origin} is no folder; give archives with --archive")


def chosen(names: Sequence[str], root: Path, look_only: bool) -> list[DatasetFacts]:
    """The data sets meant: those named, or, to look only, all that have a folder under ``root``.

    Raises:
        ConfigError: for an unknown name, or if there is none.
    """
    if names:
        return list(dict.fromkeys(catalog.get(name) for name in names))
    known = [facts for facts in map(catalog.get, catalog.names()) if facts.parts]
    there = [facts for facts in known if (root / facts.folder).is_dir()]
    if look_only and there:
        return there
    choices = ", ".join(facts.config for facts in known)
    if look_only:
        raise ConfigError(f"no data set in {root}; give the folder that holds them as --root. Known: {choices}")
    raise ConfigError(f"name at least one data set: {choices}")


def prepare_or_check(
    facts: DatasetFacts, root: Path, options: Options, look_only: bool, decode_images: bool
) -> tuple[list[str], list[str]]:
    """Prepare or check one data set.

    Returns:
        Its row of the table (see :data:`HEADERS`), and what is wrong with it, one line each.

    Raises:
        AdvPTError: as :func:`prepare`; a check only raises ConfigError, for ImageFolder.
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
    if lines and (advice := layout.advice(facts, root)):
        lines.append(advice.strip())
    lines += [f"{facts.name} in {folder}: {line}" for line in manifest.changes(folder, report)]
    state = "DIFFERS" if lines else "complete"
    if decode_images and report.counts != (0, 0, 0):
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
