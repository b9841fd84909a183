"""Filled tables as Markdown, CSV and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from advpt.evaluation.statistics import MIN_SEEDS, STATEMENT
from advpt.results.index import RecordIndex
from advpt.results.layout import Row, Table, WordTable
from advpt.results.published import words as published_words
from advpt.results.values import NO_CELL, Value

COLUMNS = ("table", "backbone", "dataset", "method", "defense", "protocol", "attack", "ours", "low95", "high95",
           "interval", "paper", "difference", "seeds", "images", "untouched", "on_perturbed", "comparable", "better",
           "notes", "records")  # fmt: skip
LEGEND = (
    f"Accuracy in % [95 % interval]. {STATEMENT} n/a: the paper has no such cell; not run, failed, missing (the run is "
    "done, its record is gone) and refused (a record of another schema, or changed) mean what they say. Bold: above "
    f"every other method of its group, with at least {MIN_SEEDS} seeds of each trained one and 0 outside the interval "
    "of each difference. Published numbers have no interval."
)


def any_published(values: Sequence[Sequence[Value]]) -> bool:
    return any(value.paper is not None for row in values for value in row)


def cell_text(value: Value, with_paper: bool, bold: str = "{}") -> str:
    """``87.6 [85.1, 90.0]; paper 88.2, -0.6``."""
    if value.state == NO_CELL:
        return ""
    text = bold.format(value.text) if value.better else value.text
    if value.untouched:
        rest = "" if value.on_perturbed is None else f", {value.on_perturbed:.1f} on the others"
        text += f" ({value.untouched:.0f} % untouched{rest})"
    if value.notes and value.state == "value":
        text += f" ({'; '.join(value.notes)})"
    if with_paper:
        text += f"; paper {value.paper_text}" + (f", {value.difference_text}" if value.difference_text else "")
    return text


def head(row: Row, seeds: str) -> list[str]:
    return [row.backbone, row.attack, row.protocol, row.defense, row.method, seeds]


HEADS = ["backbone", "attack", "protocol", "defense", "method", "seeds"]


def seeds_of(values: Sequence[Value]) -> str:
    found = sorted({seed for value in values for seed in value.seeds})
    return ",".join(map(str, found)) or "-"


def caption(table: Table, values: Sequence[Sequence[Value]]) -> str:
    text = f"{table.title}. {table.caption} {LEGEND}"
    if not any_published(values):
        text += " Paper: n/a for every cell, the paper has no such data sets or backbones."
    official = {value.comparable for row in values for value in row}
    if False in official:
        text += " Some data are not the official ones: their numbers compare with nothing published."
    if None in official:
        text += " Of some data it is unknown whether they are the official ones."
    return text


def markdown(table: Table, values: Sequence[Sequence[Value]]) -> str:
    paper = any_published(values)
    rows = [
        head(row, seeds_of(line)) + [cell_text(value, paper, "**{}**") for value in line]
        for row, line in zip(table.rows, values)
    ]
    text = tabulate(rows, headers=[*HEADS, *table.columns], tablefmt="github", disable_numparse=True)
    return f"{caption(table, values)}\n\n{text}\n"


def comma_separated(table: Table, values: Sequence[Sequence[Value]]) -> str:
    """One line per cell, with the ids of the records behind it."""
    lines: list[list[Any]] = []
    for row, line in zip(table.rows, values):
        for dataset, v in zip(table.columns, line):
            if v.state == NO_CELL:
                continue
            shown = v.state == "value"
            lines.append(
                [table.name, row.backbone, dataset, row.method, row.defense, row.protocol, row.attack]
                + ([f"{v.mean:.2f}", f"{v.low:.2f}", f"{v.high:.2f}"] if shown else [v.state, "", ""])
                + [v.over]
                + [v.paper_text, v.difference_text, " ".join(map(str, v.seeds)), v.images or ""]
                + [f"{v.untouched:.1f}" if shown else "", "" if v.on_perturbed is None else f"{v.on_perturbed:.1f}"]
                + ["unknown" if v.comparable is None else v.comparable, v.better, "; ".join(v.notes), " ".join(v.ids)]
            )
    return to_csv(COLUMNS, lines)


def to_csv(heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    return out.getvalue()


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}",
          ">": r"\textgreater{}"}  # fmt: skip


def latex_text(text: str) -> str:
    """Any text, safe to stand in LaTeX."""
    return "".join(_LATEX.get(c, c) for c in text)


def latex(table: Table, values: Sequence[Sequence[Value]]) -> str:
    """A booktabs table: ours with its interval, the published number in brackets below each other's caption."""
    paper = any_published(values)

    def show(v: Value) -> str:
        if v.state == NO_CELL:
            return ""
        text = latex_text(v.state)
        if v.state == "value":
            text = f"{v.mean:.1f}"
            text = rf"\textbf{{{text}}}" if v.better else text
            text += rf" {{\scriptsize {latex_text(v.interval_text)}}}"
        return text + (f" ({latex_text(v.paper_text)})" if paper else "")

    lines = [
        " & ".join([*map(latex_text, head(row, seeds_of(line))), *map(show, line)]) + r" \\"
        for row, line in zip(table.rows, values)
    ]
    heads = " & ".join(map(latex_text, [*HEADS, *table.columns])) + r" \\"
    spec = "l" * len(HEADS) + "r" * len(table.columns)
    about = latex_text(caption(table, values)) + (" In brackets: the paper." if paper else "")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{about}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            heads,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]  # fmt: skip
    )


# --- nearest words --------------------------------------------------------------------------------------------------

WORD_HEADS = ("dataset", "backbone", "reading", "vector", "rank", "word", "distance", "untrained_word",
              "untrained_distance", "paper_word", "paper_distance", "record")  # fmt: skip


def word_rows(table: WordTable, index: RecordIndex) -> tuple[list[list[Any]], dict[str, str]]:
    """Every word of both readings, as :data:`WORD_HEADS`, and by data set and backbone why there are none."""
    lines: list[list[Any]] = []
    why: dict[str, str] = {}
    for column in table.columns:
        name = f"{column.dataset}, {column.backbone}"
        run = index.runs.get(column.run)
        found = [r for r in index.of(run).values() if "words" in r.result] if run is not None else []
        if run is None or not found:
            why[name] = (
                "not run" if run is None or run.state == "not run" else "failed" if run.state == "failed" else "missing"
            )
            if why[name] == "missing":
                index.note(
                    "missing", f"the run {column.run} is done, but no record of it has nearest words: run it again"
                )
            continue
        record = found[0]
        index.used[record.id] = (record, run)
        trained, untrained = record.result["words"]["trained"], record.result["words"]["untrained"]
        published = {w.rank: w for w in published_words(column.dataset)}
        for rank, (word, distance) in enumerate(trained["overall"], start=1):
            before = untrained["overall"][rank - 1] if rank <= len(untrained["overall"]) else ["", ""]
            paper = published.get(rank)
            lines.append(
                [column.dataset, column.backbone, "overall", "", rank, word, distance, *before]
                + ([paper.word, paper.distance] if paper else [NO_CELL, NO_CELL])
                + [record.id]
            )
        for vector, (near, near_before) in enumerate(zip(trained["per_vector"], untrained["per_vector"]), start=1):
            for rank, ((word, distance), before) in enumerate(zip(near, near_before), start=1):
                lines.append(
                    [
                        column.dataset,
                        column.backbone,
                        "per vector",
                        vector,
                        rank,
                        word,
                        distance,
                        *before,
                        "",
                        "",
                        record.id,
                    ]
                )
    return lines, why


def word_markdown(table: WordTable, index: RecordIndex) -> str:
    """The five nearest of all, and for every vector its nearest word; all others are in the CSV."""
    lines, why = word_rows(table, index)
    overall = [[*x[:2], *x[4:11]] for x in lines if x[2] == "overall"]
    heads = ["data set", "backbone", "rank", "word", "distance", "untrained", "distance", "paper's word", "distance"]
    text = tabulate(overall, headers=heads, tablefmt="github", disable_numparse=True)
    per = [[*x[:2], x[3], x[5], x[6], x[7], x[8]] for x in lines if x[2] == "per vector" and x[4] == 1]
    heads = ["data set", "backbone", "vector", "nearest word", "distance", "before tuning", "distance"]
    more = tabulate(per, headers=heads, tablefmt="github", disable_numparse=True)
    absent = "".join(f"\n{name}: {state}" for name, state in why.items())
    return f"{table.title}. {table.caption}\n\n{text}\n{absent}\n\nThe nearest word of each vector:\n\n{more}\n"
