"""Copy what is printed into a log file."""

import sys
import time
from pathlib import Path
from typing import Any, TextIO


class Logger:
    """A tee over ``sys.stdout``: the console, and a file flushed at every line end.

    Anything a stream can do besides is passed on to the console. The console is never closed.

    Args:
        fpath: the file, made anew; None writes to the console only.
    """

    def __init__(self, fpath: str | Path | None = None) -> None:
        if isinstance(sys.stdout, Logger):  # a second logger replaces the first one, it does not nest
            sys.stdout.close()
        self.console: TextIO = sys.stdout
        self.file: TextIO | None = None
        if fpath is not None:
            path = Path(fpath)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("w", encoding="utf-8", errors="backslashreplace")

    def write(self, text: str) -> int:
        if not getattr(self.console, "closed", False):  # pytest and notebooks replace and close streams
            self.console.write(text)
        if self.file is not None:
            self.file.write(text)
            if "\n" in text:
                self.file.flush()
        return len(text)

    def flush(self) -> None:
        if not getattr(self.console, "closed", False):
            self.console.flush()
        if self.file is not None:
            self.file.flush()

    def close(self) -> None:
        """Close the file and, where this tee is ``sys.stdout``, put the console back."""
        if self.file is not None:
            self.file.close()
            self.file = None
        if sys.stdout is self:
            sys.stdout = self.console

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name == "console":  # not set yet: a half-made or unpickled object
            raise AttributeError(name)
        return getattr(self.console, name)


def setup_logger(output: str | Path | None = None) -> None:
    """From now on, copy standard output into a log file.

    Args:
        output: None does nothing; a path ending in .txt or .log is the file; anything else is a folder that
            receives ``log.txt``. A file that exists is kept: the new one gets the date and time as a suffix.
    """
    if output is None:
        return
    path = Path(output)
    if path.suffix not in (".txt", ".log"):
        path = path / "log.txt"
    if path.exists():
        stamped = path.with_name(path.name + time.strftime("-%Y-%m-%d-%H-%M-%S"))
        path, count = stamped, 2
        while path.exists():
            path, count = stamped.with_name(f"{stamped.name}-{count}"), count + 1
    sys.stdout = Logger(path)
