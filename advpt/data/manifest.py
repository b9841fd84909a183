"""``advpt_prepare.json`` in a data set's folder: its sources, and what it contained when it was complete."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import PIL

from advpt import files
from advpt.data.facts import Checksums
from advpt.data.layout import Report
from advpt.errors import DataError
from advpt.version import __version__

NAME = "advpt_prepare.json"
FORMAT = 1


def manifest(folder: Path) -> dict[str, Any] | None:
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
    for name, value in content.items():
        if problem := _problem(name, value):
            raise DataError(f"{path}: {name} {problem}; delete it and run `python -m advpt prepare` again")
    return content


def _problem(name: str, value: Any) -> str:
    """What is wrong with a field of a manifest; "" for those that are not read again."""
    if name == "sources" and not (isinstance(value, list) and all(isinstance(x, dict) for x in value)):
        return f"is {value!r:.60}, expected a list of objects"
    if name == "split" and not (isinstance(value, dict) and isinstance(value.get("sha256", ""), str)):
        return f"is {value!r:.60}, expected an object with a SHA-256"
    if name == "extra" and (not isinstance(value, int) or isinstance(value, bool)):
        return f"is {value!r:.60}, expected a whole number"
    if name == "folders" and not (
        isinstance(value, dict)
        and all(isinstance(x, list) and len(x) == 2 and all(isinstance(n, int) for n in x) for x in value.values())
    ):
        return f"is {value!r:.60}, expected two whole numbers for each folder"
    return ""


def source_entry(
    what: str, filename: str, came_from: str, checksums: Checksums, checked: Iterable[str]
) -> dict[str, Any]:
    """One source in a manifest. ``checked``: checksums of the catalogue that agree."""
    return {
        "what": what,
        "file": filename,
        "from": came_from,
        "size": checksums.size,
        "sha256": checksums.sha256,
        "md5": checksums.md5,
        "checked": sorted(checked),
    }


def write(report: Report, sources: Iterable[dict[str, Any]], manner: str) -> Path:
    """Write the manifest of a complete data set; sources of an earlier one are kept if this run had none.

    Args:
        manner: "unpacked", "copied", "linked", "found" (it was there already) or "made".

    Raises:
        OSError: if the folder cannot be written.
    """
    facts, folder = report.facts, report.folder
    made_from = list(sources)
    if not made_from:
        try:
            made_from = (manifest(folder) or {}).get("sources", [])
        except DataError:
            made_from = []
    content = {
        "format": FORMAT,
        "dataset": facts.name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "how": manner,
        "sources": made_from,
        "counts": dict(zip(("train", "val", "test"), report.counts)),
        "classes": report.classes,
        "extra": len(report.extra),
        "folders": {name: list(pair) for name, pair in report.folders.items()},
        "versions": {
            "advpt": __version__,
            "python": platform.python_version(),
            "pillow": PIL.__version__,
        },
    }
    if facts.split is not None:
        content["split"] = {
            "file": facts.split.filename,
            "sha256": files.file_digest(folder / facts.split.filename),
            "official": not report.notes,
        }
    files.write_json(folder / NAME, content)
    return folder / NAME


def known_extra(folder: Path) -> int:
    """How many images beside the listed ones came with an archive whose hash was right; 0 without a manifest."""
    try:
        made = manifest(folder) or {}
    except DataError:
        return 0
    verified = any(source.get("checked") and source.get("what") == "images" for source in made.get("sources", []))
    return int(made.get("extra", 0)) if verified else 0


def changes(folder: Path, report: Report) -> list[str]:
    """What differs from the manifest, one sentence per folder; [] if nothing does or there is no manifest."""
    try:
        made = manifest(folder)
    except DataError as error:
        return [str(error)]
    if made is None:
        return []
    lines = []
    before = {name: (pair[0], pair[1]) for name, pair in made.get("folders", {}).items()}
    for name in sorted(before.keys() | report.folders.keys()):
        was, now = before.get(name, (0, 0)), report.folders.get(name, (0, 0))
        if was != now:
            lines.append(
                f"{name or '.'} has {now[0]:,} images with {now[1]:,} bytes; when it was prepared on "
                f"{made.get('date')} it had {was[0]:,} with {was[1]:,}"
            )
    recorded = made.get("split", {}).get("sha256", "")
    if report.facts.split is not None and recorded:
        path = folder / report.facts.split.filename
        if path.is_file() and files.file_digest(path) != recorded:
            lines.append(f"{path.name} was changed since it was prepared on {made.get('date')}")
    return lines
