"""The steps to prepare a data set by hand: files, addresses, checksums, places and commands."""

from __future__ import annotations

import shlex
from pathlib import Path

from advpt.data.catalog import COLLECTION
from advpt.data.facts import DatasetFacts, Source


def command(facts: DatasetFacts, root: Path, *options: str) -> str:
    """The ``prepare`` command for one data set, ready for a shell."""
    return shlex.join(["python", "-m", "advpt", "prepare", facts.config, "--root", str(root), *options])


def manual(facts: DatasetFacts, root: Path) -> str:
    """The steps to prepare a data set without this machine's network, several lines."""
    if facts.name == "Digits":
        return (
            f"{facts.name} needs no download: its images are made from scikit-learn's. If some are missing or damaged, "
            f"delete {root / facts.folder}; then run\n   {command(facts, root)}"
        )
    if not facts.parts:
        return (
            f"{facts.name} is your own data: put it under {root / facts.folder} as train/<class>/<image> and "
            "test/<class>/<image> (val may be left out); nothing has to be prepared"
        )
    lines = [f"{facts.name} by hand (terms: {facts.licence or 'unknown'}; {facts.disk or 'size unknown'}):"]
    lines.append("1. Fetch, in a browser if need be:")
    needed: list[str] = []
    for source in facts.sources:
        if source.optional:
            continue
        again = source.filename in needed
        if not again and source.address != COLLECTION:
            needed.append(source.filename)
        lines.append(f"   {'or ' if again or source.address == COLLECTION else ''}{_source(source)}")
    collected = facts.name != "ImageNet" and not facts.classnames  # it has CoOp's other sets
    if collected and not any(source.address == COLLECTION for source in facts.sources):
        lines.append(f"   An unofficial collection of copies, checked by counts only: {COLLECTION}")
    lines.append("2. Bring the files to this machine and, in their folder, run")
    options = [word for filename in needed for word in ("--archive", filename)]
    lines.append(f"   {command(facts, root, *options)}")
    lines.append("   or, with the unpacked folder, its path after --from (and --link to link instead of copying)")
    lines.append("3. That makes")
    for part in facts.parts:
        lines.append(f"   {root / facts.folder / part.target}")
    if facts.split is not None:
        lines.append(f"   {root / facts.folder / facts.split.filename}")
    lines.append(f"   which `{command(facts, root, '--check')}` compares with what is known of the data set")
    return "\n".join(lines)


def _source(source: Source) -> str:
    marks = [f"{source.size:,} bytes"] if source.size else []
    hashes = (("sha256", source.sha256), ("md5", source.md5), ("git blob", source.git_blob))
    marks += [f"{name} {value}" for name, value in hashes if value][:1]
    recognised_by = f" ({', '.join(marks)})" if marks else ""
    return f"{source.filename} from {source.url}{recognised_by}{f': {source.note}' if source.note else ''}"
