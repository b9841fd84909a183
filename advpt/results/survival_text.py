"""What survives, in plain words, Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from advpt.evaluation.intervals import MIN_SEEDS, STATEMENT, UPPER, Interval
from advpt.results.render import DIFFERENCES, grid, latex_text, to_csv
from advpt.results.survival import (
    HIDDEN,
    LOSES,
    NOTHING,
    UNCLAIMED,
    WORDS,
    WORSE,
    FilledSurvival,
    SurvivalRow,
)

HEADS = ("method", "over", "outcome", "by", "gain as its authors measure it", "gain, adaptive", "taken",
         "right as published, adaptive (%)", "without it (%)", "seeds")  # fmt: skip
OUTCOME, LINKED = HEADS.index("outcome"), HEADS.index("gain, adaptive")  # the second: of the links to its records
PRINTED = "published"
CSV_HEADS = ("table", "backbone", "dataset", "tower", "prompt", "defense", "over", "kind", "protocol", "attack",
             "gain", "low95", "high95", "adaptive_gain", "adaptive_low95", "adaptive_high95", "taken", "taken_low95",
             "taken_high95", "interval", "outcome", "accuracy", "adaptive_accuracy", "over_accuracy",
             "over_adaptive_accuracy", "paper_gain", "seeds", "images", "notes", "records")  # fmt: skip
CHANCE = 2 * (1 - UPPER)  # of a 95 % interval without 0 where there is no difference


def sentences(filled: FilledSurvival) -> list[str]:
    """Who keeps the gain, who loses it, of whom nothing is claimed, and what none of this says."""
    rows, of = filled.compared, filled.table.of
    if not rows:
        return ["No row has both gains yet, so that nothing can be said of what survives."]
    gain = [row for row in rows if row.word not in (HIDDEN, NOTHING) and _up(row.published)]
    keep = [row for row in gain if row.keeps]
    made = [
        f"As its authors measure it, {_count(gain, rows)} a gain over the same without it. Against an attacker who "
        f"knows the method {_count(keep, gain, 'keep', 'keeps')} one that chance does not explain"
        + (f": {_listed(keep, _both)}." if keep else ".")
        + " In brackets: points against this attacker of those as published, and the 95 % interval of the first."
    ]
    for word, text, shown in (
        (LOSES, "The gain is lost to an attacker who knows the method: ", _both),
        (WORSE, "Worse with it than without, against an attacker who knows it: ", _both),
        (HIDDEN, "A gain against an attacker who knows the method, none as its authors measure it: ", _both),
        (NOTHING, "No gain by either measure that chance does not explain: ", _label),
        (UNCLAIMED, "Of these nothing is claimed, their intervals do not tell kept from lost: ", _both),
    ):
        if chosen := [row for row in rows if row.word == word]:
            made.append(f"{text}{_listed(chosen, shown)}.")
    if absent := [row for row in filled.rows if row.adaptive is None and row.about.against is not None]:
        made.append(f"Not compared: {'; '.join(f'{row.name} ({row.missing})' for row in absent)}.")
    where = f"{of.backbone}, {of.dataset}, {' and '.join(map(str, filled.images))} of its images, {of.attack}"
    made.append(
        f"Nothing is claimed beyond {where} and the attacks of these records: other data, models or budgets may give "
        "another order, and a stronger attack can only take more. "
        f"{len(rows)} {'row was' if len(rows) == 1 else 'rows were'} looked at, each interval is for itself: if no "
        f"method did anything, about {CHANCE * len(rows):.2g} of {len(rows)} adaptive intervals would leave 0 out "
        "by chance, half of them above it."
    )
    return made


def _up(interval: Interval | None) -> bool:
    return interval is not None and interval.significant and interval.mean > 0


def _count(some: Sequence[SurvivalRow], every: Sequence[SurvivalRow], many: str = "have", one: str = "has") -> str:
    if not some:
        return f"none of {len(every)} {one}"
    return f"{len(some)} of {len(every)} {one if len(some) == 1 else many}"


def _listed(rows: Sequence[SurvivalRow], text: Callable[[SurvivalRow], str]) -> str:
    """Rows, the largest adaptive gain first; those of each row that they are compared with for themselves."""
    ordered = sorted(rows, key=lambda row: -row.adaptive.mean if row.adaptive is not None else 0.0)
    parts = [
        (over, ", ".join(text(row) for row in ordered if row.over == over))
        for over in dict.fromkeys(row.over for row in rows)
    ]
    return "; ".join(f"over {over}: {part}" for over, part in parts)


def _label(row: SurvivalRow) -> str:
    return row.label


def _both(row: SurvivalRow) -> str:
    """``mean (+21.0 of +30.0, +12.9 to +29.1)``: the adaptive gain, that as published, the interval of the first."""
    published, adaptive = row.published, row.adaptive
    if published is None or adaptive is None:
        return row.label
    return f"{row.label} ({adaptive.mean:+.1f} of {published.mean:+.1f}, {adaptive.low:+.1f} to {adaptive.high:+.1f})"


# --- below the table --------------------------------------------------------------------------------------------------


def below(filled: FilledSurvival) -> list[str]:
    """What the columns and the words are."""
    used = dict.fromkeys(row.word for row in filled.compared)
    words = "; ".join(f"{word}: {text}" for word, text in WORDS.items() if word in used)
    parts = [
        "Gains are in points, over the row without the method, on the images that adaptive attackers get. By: protocol "
        "and attack of the authors. Taken: the first gain minus the second.",
        DIFFERENCES,
    ]
    if words:
        text = "Above and below 0: the 95 % interval excludes it, with at least"
        parts.append(f"{words}. {text} {MIN_SEEDS} seeds of each trained method.")
    if any(row.printed is not None for row in filled.rows):
        parts.append(f"{PRINTED.capitalize()}: the static gain in print, where a source has both accuracies.")
    return parts


# --- the table --------------------------------------------------------------------------------------------------------


def heads(filled: FilledSurvival) -> tuple[str, ...]:
    """Those of :func:`cells`."""
    printed = any(row.printed is not None for row in filled.rows)
    return (*HEADS, PRINTED) if printed else HEADS


def cells(filled: FilledSurvival, row: SurvivalRow) -> list[str]:
    """A row in words."""
    gains = [_gain(interval) for interval in (row.published, row.adaptive, row.taken)]
    outcome = row.word + "".join(f" ({note})" for note in row.notes)
    about = [row.name, row.over or "-", outcome, f"{row.protocol} {row.attack}", *gains]
    printed = ["" if row.printed is None else f"{row.printed:+.1f}"] if PRINTED in heads(filled) else []
    return [*about, _accuracies(row, False), _accuracies(row, True), row.seeds or "-", *printed]


def _gain(interval: Interval | None) -> str:
    """``+21.0 [+12.9, +29.1]``"""
    return f"{interval.mean:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]" if interval is not None else "-"


def _accuracies(row: SurvivalRow, base: bool) -> str:
    pair = row.base if base else row.pair
    return f"{pair.published.mean:.1f}, {pair.adaptive.mean:.1f}" if pair is not None else "-"


def text(filled: FilledSurvival) -> str:
    """As Markdown."""
    about = " ".join(part for part in (f"{filled.table.title}.", filled.table.caption, STATEMENT) if part)
    table = grid(heads(filled), [cells(filled, row) for row in filled.rows])
    return "\n\n".join([about, *sentences(filled), table, *below(filled)])


def comma_separated(filled: FilledSurvival) -> str:
    """One line per row, with the ids of the records behind it."""
    of, lines = filled.table.of, list[list[object]]()
    for row in filled.rows:
        where = [filled.table.name, of.backbone, of.dataset, row.about.tower, row.about.prompt]
        where += [row.about.defense if row.about.recorded else "none", row.over, row.kind, row.protocol, row.attack]
        gains = [number for i in (row.published, row.adaptive, row.taken) for number in _three(i)]
        means = [f"{r.mean:.2f}" for pair in (row.pair, row.base) if pair for r in (pair.published, pair.adaptive)]
        scope, images = (row.adaptive.scope, row.adaptive.images) if row.adaptive is not None else ("", "")
        printed = f"{row.printed:.2f}" if row.printed is not None else ""
        about = [*means, *[""] * (4 - len(means)), printed, row.seeds, images, "; ".join(row.notes), " ".join(row.ids)]
        lines.append([*where, *gains, scope, row.word, *about])
    return to_csv(CSV_HEADS, lines)


def _three(interval: Interval | None) -> list[str]:
    return [f"{x:.2f}" for x in (interval.mean, interval.low, interval.high)] if interval is not None else [""] * 3


def latex(filled: FilledSurvival) -> str:
    """A booktabs table."""
    names = heads(filled)
    lines = [names, *(cells(filled, row) for row in filled.rows)]
    body = [" & ".join(map(latex_text, line)) + r" \\" for line in lines]
    about = latex_text(f"{filled.table.title}. {filled.table.caption}")
    return "\n".join(
        [r"\begin{table}", r"\centering", rf"\caption{{{about}}}", rf"\label{{tab:{filled.table.name}}}"]
        + [rf"\begin{{tabular}}{{{'l' * len(names)}}}", r"\toprule", body[0], r"\midrule", *body[1:]]
        + [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    )
