"""Faults are counted: every test says how often it injected which, and the sum is printed as a table.

``ADVPT_FAULTS`` scales how often (1 for ``make faults``, 0.1 otherwise); ``ADVPT_FAULTS_TABLE`` names a file that the
table is written to as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tabulate import tabulate

HEADS = ("fault", "kind", "times injected", "survived", "lost rows", "wrong results")
DAMAGE, CONFUSION = "damage", "confusion"


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``tally(fault, injected, survived, lost, wrong)``: one row of the table; rows of one name are summed. Call it
    before asserting, so that a failure is counted too. It fails the test where something was lost or wrong.
    ``confusion``: the inputs were whole, and in the wrong place or of another kind than they were taken for."""

    def count(
        fault: str, injected: int, survived: int | None = None, lost: int = 0, wrong: int = 0, confusion: bool = False
    ) -> None:
        survived = injected if survived is None else survived
        record_property("fault", [fault, CONFUSION if confusion else DAMAGE, injected, survived, lost, wrong])
        assert injected > 0, f"{fault}: nothing was injected"
        assert (survived, lost, wrong) == (injected, 0, 0), f"{fault}: of {injected}, {survived=} {lost=} {wrong=}"

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows: dict[tuple[str, str], list[int]] = {}
    seen = set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") != "call" or report.nodeid in seen:
                continue
            seen.add(report.nodeid)
            for name, value in report.user_properties:
                if name == "fault":
                    row = rows.setdefault((value[0], value[1]), [0, 0, 0, 0])
                    row[:] = [a + b for a, b in zip(row, value[2:])]
    if not rows:
        return
    lines = [[name, kind, *row] for (name, kind), row in sorted(rows.items(), key=lambda item: item[0][::-1])]
    for kinds in ((CONFUSION,), (DAMAGE,), (CONFUSION, DAMAGE)):
        of_kind = [row for (_, kind), row in rows.items() if kind in kinds] or [[0, 0, 0, 0]]
        lines.append(["all", " and ".join(kinds), *(sum(column) for column in zip(*of_kind))])
    table = tabulate(lines, headers=HEADS, tablefmt="github", disable_numparse=True)
    terminalreporter.section("faults")
    terminalreporter.write_line(table)
    if target := os.environ.get("ADVPT_FAULTS_TABLE"):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(table + "\n", encoding="utf-8")
