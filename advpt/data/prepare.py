"""Bringing a data set into CoOp's layout: fetch, verify, unpack beside the target, compare with the lists, rename.

Nothing gets its final name before it is complete, so a folder that is there is a whole one. Work in progress is kept
in ``<data set>/.prepare``; the next run continues there. A lock makes a second process wait.
"""

from __future__ import annotations

import logging
from pathlib import Path

from advpt import files
from advpt.data import demo_sets, steps
from advpt.data.facts import DatasetFacts
from advpt.data.imagenet_archives import ImageNetPreparation
from advpt.data.layout import Report
from advpt.data.preparation import Preparation
from advpt.data.source_files import Options
from advpt.errors import ConfigError, DataError

__all__ = ["LOCK", "Options", "prepare"]

log = logging.getLogger(__name__)

LOCK = ".advpt_prepare.lock"


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
    log.info("%s", steps.terms(facts))
    kind = ImageNetPreparation if facts.name == "ImageNet" else Preparation
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
