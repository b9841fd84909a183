"""The answers of a model to images on standard output: a table, JSON lines or comma-separated values."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tabulate import tabulate

from advpt.errors import StorageError
from advpt.prediction import Prediction


@dataclass(frozen=True)
class Row:
    """The answers to an image.

    Args:
        clean: to it as it is. attacked: to the attacked one.
        saved: to the attacked one in its file, whose colours have 8 bits.
        clean_file, attacked_file: where both were saved.
    """

    clean: Prediction
    attacked: Prediction | None = None
    saved: Prediction | None = None
    clean_file: str = ""
    attacked_file: str = ""

    def fields(self) -> dict[str, str | float]:
        """Values by name."""
        fields: dict[str, str | float] = dataclasses.asdict(self.clean)
        for kind, made in (("attacked", self.attacked), ("saved", self.saved)):
            if made is not None:
                fields |= {f"{kind}_{k}": v for k, v in dataclasses.asdict(made).items() if k != "image"}
        if self.saved is not None:
            fields |= {"clean_file": self.clean_file, "attacked_file": self.attacked_file}
        return fields


class Writer(Protocol):
    """One form of the answers."""

    streams: bool  # whether a row is written as soon as it is there

    def add(self, rows: Sequence[Row]) -> None:
        """The next rows."""

    def close(self) -> None:
        """There are no more."""


class Table:
    """One line per image, when all are there."""

    streams = False

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, rows: Sequence[Row]) -> None:
        self.rows += rows

    def close(self) -> None:
        if self.rows:
            write(f"{table(self.rows)}\n")


class JsonLines:
    """One JSON object per line."""

    streams = True

    def add(self, rows: Sequence[Row]) -> None:
        is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
        write("".join(f"{json.dumps(row.fields(), ensure_ascii=not is_unicode)}\n" for row in rows))

    def close(self) -> None:
        return


class Csv:
    """Comma-separated values under a line of names; with quotes where a value has commas or line breaks."""

    streams = True

    def __init__(self, *, attacked: bool, saved: bool) -> None:
        empty = Prediction("", "", 0.0)
        example = Row(empty, empty if attacked else None, empty if saved else None)
        self._write([list(example.fields())])

    def add(self, rows: Sequence[Row]) -> None:
        self._write([list(row.fields().values()) for row in rows])

    def close(self) -> None:
        return

    def _write(self, lines: Sequence[Sequence[str | float]]) -> None:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(lines)
        write(buffer.getvalue())


def table(rows: Sequence[Row]) -> str:
    """One line per image; what does not print is escaped."""
    heads = ["image", "label", "confidence", "runner-up", "confidence"]
    if rows[0].attacked is not None:
        heads += ["attacked", "confidence"]
    if rows[0].saved is not None:
        heads += ["as saved", "confidence"]
    lines = []
    for row in rows:
        line = [row.clean.image, *_cells(row.clean)]
        for other in (row.attacked, row.saved):
            if other is not None:
                line += _cells(other)[:2]
        lines.append([visible(cell) for cell in line])
    return str(tabulate(lines, heads, disable_numparse=True))


def _cells(made: Prediction) -> list[str]:
    second = f"{100 * made.runner_up_confidence:.1f} %" if made.runner_up else ""
    return [made.label, f"{100 * made.confidence:.1f} %", made.runner_up, second]


def visible(text: str) -> str:
    """A text on one line: line breaks and other characters that do not print as escapes (``\\n``)."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def write(text: str) -> None:
    """Write to standard output at once; what its encoding lacks as escapes.

    Raises:
        StorageError: its disk is full. BrokenPipeError: its reader has closed it.
    """
    out = sys.stdout
    encoding = out.encoding or "utf-8"
    try:
        out.write(text.encode(encoding, "backslashreplace").decode(encoding))
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # or Python tries again at its end
        why = error.strerror or str(error)
        advice = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "give another file"
        raise StorageError(f"standard output could not be written: {why[:1].lower()}{why[1:]}; {advice}") from error
