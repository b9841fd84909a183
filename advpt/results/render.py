"""Filled tables as text (Markdown and others), CSV and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tabulate import tabulate

from advpt.evaluation.intervals import MIN_SEEDS, STATEMENT
from advpt.results.values import NO_CELL, FilledTable, Value

COLUMNS = ("table", "backbone", "dataset", "method", "defense", "protocol", "attack", "ours", "low95", "high95",
           "interval", "paper", "difference", "seeds", "images", "untouched", "on_perturbed", "comparable", "better",
           "notes", "records", "passes", "ms")  # fmt: skip
LEGEND = (
    "n/a: the paper has no such cell; not run, failed, missing (the run is done, its record is gone) and refused (a "
    "record of another schema, or changed) mean what they say. Published numbers have no interval."
)
BOLD = (
    f"Bold: above every other method of its group, with at least {MIN_SEEDS} seeds of each trained one and 0 outside "
    "the interval of each difference."
)
DIFFERENCES = (
    "Differences on the same images, paired by seed where both methods have the same seeds; 95 % intervals over seeds "
    "and images (variance components with Student's t, docs/statistics.md)."
)
COST = (
    "Cost per image: F and B are forward and backward passes of the image tower, f and b of the text tower over all "
    "classes; ms were measured one row at a time, on the machine that the records name."
)
COST_HEADS = ("passes", "ms")
HEADS = ("backbone", "attack", "protocol", "defense", "method")
DIFFERENCE_HEADS = ("difference", "accuracy", "points", "95 % interval", "interval over")


def caption(filled: FilledTable, *, alone: bool = True) -> str:
    """What the numbers of a table are; one that is not ``alone`` stands below its title and the statement."""
    parts = [filled.table.caption]
    if alone:
        title = f"{filled.table.title}; accuracy in % [95 % interval]. Budgets in 1/255."
        parts = [title, filled.table.caption, STATEMENT]
    if filled.bold:
        parts += [BOLD, LEGEND]
        if not filled.has_paper:
            parts.append("Paper: n/a for every cell, the paper has no such data sets or backbones.")
    if filled.has_cost:
        parts.append(COST)
    official = {value.comparable for line in filled.values for value in line if value.runs is not None}
    if False in official:
        parts.append("Not the official split: these numbers compare with nothing published.")
    elif None in official:
        parts.append("Whether this is the official split is unknown.")
    return " ".join(part for part in parts if part)


def cell_text(value: Value, with_paper: bool = False, bold: str = "{}") -> str:
    """``87.6 [85.1, 90.0] (3 % untouched); paper 88.2, -0.6``."""
    if value.state == NO_CELL:
        return ""
    text = f"{value.mean_text} {value.interval_text}".rstrip()
    text = bold.format(text) if value.better else text
    if value.runs is not None:
        text += "".join(f" ({note})" for note in [*value.notes, value.untouched_text] if note)
    if with_paper:
        text += f"; paper {value.paper_text}" + (f", {value.difference_text}" if value.difference_text else "")
    return text


def row_heads(filled: FilledTable) -> tuple[list[str], list[list[str]]]:
    """Names of the columns before the values, and these columns row by row; those that are empty are left out."""
    rows = [(row.backbone, row.attack, row.protocol, row.defense, row.method) for row in filled.table.rows]
    shown = [i for i in range(len(HEADS)) if any(row[i] for row in rows)]
    names = filled.names or {HEADS[i]: [row[i] for row in rows] for i in shown}
    heads, lines = [*names, "seeds"], []
    for number, line in enumerate(filled.values):
        about = [texts[number] for texts in names.values()]
        extra = [texts[number] for texts in filled.extra.values()]
        cost = filled.cost(line) if filled.has_cost else ()
        lines.append([*about, filled.seeds(line), *extra, *cost])
    return [*heads, *filled.extra, *(COST_HEADS if filled.has_cost else ())], lines


def grid(heads: Sequence[str], rows: Sequence[Sequence[object]], style: str = "github") -> str:
    return str(tabulate(rows, headers=heads, tablefmt=style, disable_numparse=True))


def text(filled: FilledTable, style: str = "github") -> str:
    """A table with its caption, the exact attacks, warnings and comparisons."""
    heads, rows = row_heads(filled)
    bold = "**{}**" if filled.bold else "{}"
    cells = [[cell_text(value, filled.has_paper, bold) for value in line] for line in filled.values]
    table = grid([*heads, *filled.table.columns], [[*row, *line] for row, line in zip(rows, cells)], style)
    parts = [caption(filled), *filled.sentences, table]
    parts += filled.below
    if filled.attacks:
        parts.append(f"Attacks: {'; '.join(f'{words} = {exact}' for words, exact in filled.attacks.items())}.")
    if filled.warnings:
        parts.append("\n".join(f"WARNING {warning}" for warning in filled.warnings))
    if filled.comparisons:
        parts.append(f"{DIFFERENCES}\n\n{grid(DIFFERENCE_HEADS, differences(filled))}")
    return "\n\n".join(parts)


def differences(filled: FilledTable) -> list[list[str]]:
    """The comparisons of a table, as :data:`DIFFERENCE_HEADS`."""
    rows = ((each.names, each.accuracy, each.interval) for each in filled.comparisons)
    return [
        [names, accuracy, f"{d.mean:+.1f}", f"{d.low:+.1f} to {d.high:+.1f}", d.scope] for names, accuracy, d in rows
    ]


def comma_separated(filled: FilledTable) -> str:
    """One line per cell, with the ids of the records behind it."""
    lines: list[list[object]] = []
    for row, line in zip(filled.table.rows, filled.values):
        for dataset, v in zip(filled.table.columns, line):
            if v.state == NO_CELL:
                continue
            where = (filled.table.name, row.backbone, dataset, row.method, row.defense, row.protocol, row.attack)
            lines.append(csv_line(where, v))
    return to_csv(COLUMNS, lines)


def csv_line(where: Sequence[str], v: Value) -> list[object]:
    """A line of :data:`COLUMNS`. ``where``: the first of them, up to the attack."""
    untouched = f"{v.untouched:.1f}" if v.runs is not None else ""
    on_perturbed = f"{v.on_perturbed:.1f}" if v.on_perturbed is not None else ""
    comparable = "unknown" if v.comparable is None else v.comparable
    about = [*images_of(v), untouched, on_perturbed, comparable, v.better, "; ".join(v.notes), " ".join(v.ids)]
    cost = [v.passes, f"{v.milliseconds:.4g}" if v.milliseconds is not None else ""]
    return [*where, *measured(v), v.difference_text, *about, *cost]


def measured(v: Value) -> list[str]:
    """A number in a CSV: mean (or the word), both ends of its interval, what that is over, and the paper's number."""
    if v.interval is None:
        return [v.state, "", "", "", v.paper_text]
    return [*(f"{x:.2f}" for x in (v.interval.mean, v.interval.low, v.interval.high)), v.interval.scope, v.paper_text]


def images_of(v: Value) -> list[object]:
    """The seeds of a number, and how many images each of them classified."""
    return [" ".join(map(str, v.seeds)), v.runs.images if v.runs is not None else ""]


def to_csv(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([heads, *lines])
    return out.getvalue()


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}",
          ">": r"\textgreater{}"}  # fmt: skip


def latex_text(text: str) -> str:
    """Any text, safe to stand in LaTeX."""
    return "".join(_LATEX.get(c, c) for c in text)


def latex(filled: FilledTable) -> str:
    """A booktabs table: ours with its interval, the published number in brackets."""

    def cell(v: Value) -> str:
        if v.state == NO_CELL:
            return ""
        number = rf"\textbf{{{v.mean_text}}}" if v.better else latex_text(v.mean_text)
        number += rf" {{\scriptsize {latex_text(v.interval_text)}}}" if v.runs is not None else ""
        return number + (f" ({latex_text(v.paper_text)})" if filled.has_paper else "")

    heads, rows = row_heads(filled)
    lines = [[*map(latex_text, row), *map(cell, line)] for row, line in zip(rows, filled.values)]
    body = [" & ".join(line) + r" \\" for line in ([*map(latex_text, [*heads, *filled.table.columns])], *lines)]
    about = latex_text(caption(filled)) + (" In brackets: the paper." if filled.has_paper else "")
    return "\n".join(
        [r"\begin{table}", r"\centering", rf"\caption{{{about}}}", rf"\label{{tab:{filled.table.name}}}"]
        + [rf"\begin{{tabular}}{{{'l' * len(heads)}{'r' * len(filled.table.columns)}}}", r"\toprule", body[0]]
        + [r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    )
