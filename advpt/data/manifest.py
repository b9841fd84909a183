"""``advpt_prepare.json`` in a data set's folder: its sources, and what it contained when it was complete."""

from __future__ import annotations

import contextlib
import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import PIL

from advpt import files
from advpt.data.layout import Report
from advpt.data.split import PARTS
from advpt.errors import DataError
from advpt.schema import FieldError, Json, JsonObject, from_json
from advpt.version import __version__

NAME = "advpt_prepare.json"
FORMAT = 1


@dataclass(frozen=True)
class _Split:
    sha256: str = ""


@dataclass(frozen=True)
class _Fields:
    """What is read again: ``extra`` images beside the listed ones, number and bytes of the images in each folder."""

    sources: tuple[Mapping[str, Json], ...] = ()
    extra: int = 0
    folders: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    split: _Split = _Split()
    date: Json = None


def manifest(folder: Path) -> JsonObject | None:
    """The manifest of a data set's folder, None where there is none.

    Raises:
        DataError: if it is no JSON or of another format; the message names the file.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    content = files.read_json(path, DataError)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(
            f"{path} is not a manifest of format {FORMAT}; delete it and run `python -m advpt prepare` again"
        )
    try:
        from_json(_Fields, content)
    except FieldError as error:
        raise DataError(f"{path}: {error}; delete it and run `python -m advpt prepare` again") from None
    return content


def _fields(folder: Path) -> _Fields | None:
    content = manifest(folder)
    return from_json(_Fields, content) if content else None


def write(report: Report, sources: Sequence[JsonObject], manner: str) -> None:
    """Write the manifest of a complete data set; sources of an earlier one are kept if this run had none.

    Args:
        manner: "unpacked", "copied", "linked", "found" (it was there already) or "made".

    Raises:
        OSError: if the folder cannot be written.
    """
    facts, folder = report.facts, report.folder
    if not sources:
        with contextlib.suppress(DataError):
            sources = (manifest(folder) or {}).get("sources", [])
    content = {
        "format": FORMAT,
        "dataset": facts.name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "how": manner,
        "sources": sources,
        "counts": dict(zip(PARTS, report.counts)),
        "classes": report.classes,
        "extra": len(report.extra),
        "folders": report.folders,
        "versions": {"advpt": __version__, "python": platform.python_version(), "pillow": PIL.__version__},
    }
    if facts.split is not None:
        content["split"] = {
            "file": facts.split.filename,
            "sha256": files.file_digest(folder / facts.split.filename),
            "official": not report.notes,
        }
    files.write_json(folder / NAME, content)


def known_extra(folder: Path) -> int:
    """How many images beside the listed ones came with an archive whose hash was right; 0 without a manifest."""
    try:
        made = _fields(folder) or _Fields()
    except DataError:
        return 0
    verified = any(source.get("checked") and source.get("what") == "images" for source in made.sources)
    return made.extra if verified else 0


def changes(folder: Path, report: Report) -> list[str]:
    """What differs from the manifest, one sentence per folder; [] if nothing does or there is no manifest."""
    try:
        made = _fields(folder)
    except DataError as error:
        return [str(error)]
    if made is None:
        return []
    lines = []
    for name in sorted(made.folders.keys() | report.folders.keys()):
        was, now = made.folders.get(name, (0, 0)), report.folders.get(name, (0, 0))
        if was != now:
            lines.append(
                f"{name or '.'} has {now[0]:,} images with {now[1]:,} bytes; when it was prepared on "
                f"{made.date} it had {was[0]:,} with {was[1]:,}"
            )
    if report.facts.split is not None and made.split.sha256:
        path = folder / report.facts.split.filename
        if path.is_file() and files.file_digest(path) != made.split.sha256:
            lines.append(f"{path.name} was changed since it was prepared on {made.date}")
    return lines
