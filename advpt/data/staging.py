"""From an unpacked archive or a user's folder to the layout: find its parts, and give them their names at the end."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from advpt.data import archives, listing
from advpt.data.facts import DatasetFacts, Part
from advpt.errors import DataError

log = logging.getLogger(__name__)


def find_part(base: Path, part: Part, facts: DatasetFacts) -> Path | None:
    """A part of the layout in an unpacked archive or a user's folder; None if it is not there.

    Looked for are the layouts of CoOp, torchvision and the archive, under up to three folders that hold nothing
    else; ``base`` itself counts if it has the part's name.
    """
    names = (*part.inside, f"{facts.folder}/{part.target}", part.target)
    wrapper = base
    for _ in range(4):
        for name in names:
            if (wrapper / name).exists():
                return wrapper / name
        inner = [path for path in wrapper.iterdir() if not path.name.startswith(".")] if wrapper.is_dir() else []
        if len(inner) != 1 or not inner[0].is_dir():
            break
        wrapper = inner[0]
    if base.name in {PurePosixPath(name).name for name in names}:
        return base
    return None


def hints(facts: DatasetFacts, folder: Path) -> list[str]:
    """Advice on other layouts in an unpacked or staged folder."""
    advice = []
    for hint in facts.lookalikes:
        inner = (path.removeprefix(f"{facts.folder}/") for path in hint.paths)
        if any(any(folder.glob(pattern)) for pattern in (*hint.paths, *inner)):
            advice.append(hint.advice)
    return advice


def install(facts: DatasetFacts, wanted: Sequence[Part], staged: Path, folder: Path, work: Path) -> None:
    """Give the staged parts their names in ``folder``. An older one is replaced if all its files are in the new one.

    Raises:
        DataError: if an older folder has files that the new one lacks; nothing was changed then.
    """
    for part in wanted:
        old = folder / part.target
        extra = sorted(names_below(old) - names_below(staged / part.target)) if old.exists() else []
        if extra:
            raise DataError(
                f"{facts.name}: {old} is there but is not complete, and it has {len(extra):,} files of its own: "
                f"{listing.some(extra, 5)}. Move it away, then run the same command again. Nothing was changed"
            )
    for number, part in enumerate(wanted):
        old = folder / part.target
        replaced = work / f"replaced-{number}"
        archives.remove(replaced)
        old.parent.mkdir(parents=True, exist_ok=True)
        if old.is_symlink() or old.is_file():
            old.unlink()
        elif old.exists():
            rename(old, replaced)
        rename(staged / part.target, old)
        archives.remove(replaced)


def names_below(path: Path) -> set[str]:
    """Relative paths of all files below a folder, hidden ones left out; {""} for a file."""
    return {name for name, _ in listing.files(path)} if path.is_dir() else {""}


def put(path: Path, target: Path, action: str) -> None:
    """Bring a file or folder to ``target``. ``action``: "move", "copy" (without hidden files) or "link"."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if action == "move":
        path.rename(target)
    elif action == "link":
        target.symlink_to(path.resolve())
    elif path.is_dir():
        log.info("copying %s", path)
        shutil.copytree(path, target, ignore=shutil.ignore_patterns(".*"))
    else:
        shutil.copyfile(path, target)


def rename(source: Path, target: Path) -> None:
    """Rename, also to another disk (a folder of the layout may be a link): copied beside the target, then renamed."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        partial = target.with_name(f".{target.name}.partial")
        archives.remove(partial)
        if source.is_dir():
            shutil.copytree(source, partial, symlinks=True)
        else:
            shutil.copyfile(source, partial)
        partial.rename(target)
        archives.remove(source)
