"""Refuse to share the import name ``dassl`` with another package."""

import importlib.metadata
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MARK = Path(__file__).name  # a `dassl` folder that holds this file is a copy of this package


def _foreign_in(entry: str) -> Path | None:
    """A ``dassl`` package or module in one folder of ``sys.path`` that is no copy of this package."""
    folder = Path(entry or ".").resolve() / "dassl"
    if (folder / "__init__.py").is_file() and folder.resolve() != HERE and not (folder / MARK).is_file():
        return folder
    single = folder.with_name("dassl.py")
    return single if single.is_file() else None


def foreign_copies() -> list[Path]:
    """Other things named ``dassl`` that this interpreter could import, or that are installed."""
    found: list[Path] = []
    for entry in sys.path:
        try:
            path = _foreign_in(str(entry))
        except OSError:  # a folder that cannot be read cannot be imported from either
            continue
        if path is not None and path not in found:
            found.append(path)
    if not found:
        try:
            installed = importlib.metadata.distribution("dassl")
        except importlib.metadata.PackageNotFoundError:
            return []
        found.append(Path(str(installed.locate_file(""))).resolve())
    return found


def refuse_foreign() -> None:
    """Raise when a second ``dassl`` is present.

    Raises:
        ImportError: naming each path and the two ways out.
    """
    found = foreign_copies()
    if found:
        paths = "\n  ".join(str(path) for path in found)
        raise ImportError(
            f"dassl-lite (in {HERE}) will not shadow another package named 'dassl':\n  {paths}\n"
            "Keep one of the two: to use dassl-lite, `pip uninstall dassl` and take its folder off PYTHONPATH; "
            "to use the other one, `pip uninstall dassl-lite`."
        )
