"""One HTML file with everything: tables, figures, pictures, notes and the list of records that every number links to.

Self-contained: styles and images are inside, no script, no network. Whatever comes from a record, a path or a data set
is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from advpt.errors import RecordError
from advpt.evaluation import pictures
from advpt.evaluation.defended import inexact_gradient
from advpt.evaluation.record import Record
from advpt.files import read_object
from advpt.results.index import Note, RecordIndex, Run
from advpt.results.layout import Figure, Table, WordTable
from advpt.results.published import words as published_words
from advpt.results.render import LEGEND, any_published, seeds_of, word_rows
from advpt.results.values import NO_CELL, Value

STYLE = """
:root{color-scheme:light;--line:#d0d4da;--soft:#5a6472;--shade:#f4f6f8}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1180px;padding:1rem;color:#1c2126;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem;border-bottom:1px solid var(--line)}
nav a{display:inline-block;margin:0 .8rem .3rem 0}a{color:#0b5cad}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.82rem}caption{text-align:left;padding:.3rem 0}
th,td{border-bottom:1px solid var(--line);padding:.25rem .5rem;text-align:left;vertical-align:top;white-space:nowrap}
th{background:var(--shade)}th.group{padding-top:.8rem;font-size:.9rem}td.narrow{white-space:normal;max-width:9rem}
td.wrap{white-space:normal;min-width:12rem;overflow-wrap:anywhere}
.word{color:#9a3412}.sub{display:block;color:var(--soft);font-size:.75rem}.better{font-weight:700}
p.about{color:var(--soft);font-size:.85rem;max-width:75ch}img{max-width:100%;height:auto}
.pictures{display:flex;flex-wrap:wrap;gap:1rem}.pictures figure{margin:0;max-width:21rem}
.pictures img{width:6rem;image-rendering:pixelated;border:1px solid var(--line)}figcaption{font-size:.8rem}
code{font-size:.8rem;overflow-wrap:anywhere}sup a{text-decoration:none}
@media print{body{max-width:none;font-size:10pt}.scroll{overflow:visible}nav{display:none}h2{break-after:avoid}
table{font-size:6.5pt}tr,figure,img{break-inside:avoid}a{color:inherit;text-decoration:none}}
"""


def anchor(record_id: str) -> str:
    return f"record-{record_id[:16]}"


def links(ids: Iterable[str]) -> str:
    """One small link per record."""
    return " ".join(
        f'<sup><a href="#{anchor(i)}" title="record {escape(i[:16])}">{n}</a></sup>' for n, i in enumerate(ids, start=1)
    )


def cell(value: Value, with_paper: bool) -> str:
    if value.state == NO_CELL:
        return "<td></td>"
    if value.state != "value":
        body = f'<span class="word">{escape(value.state)}</span>'
    else:
        shown = f'<span class="better">{value.mean:.1f}</span>' if value.better else f"{value.mean:.1f}"
        body = f'{shown}{links(value.ids)}<span class="sub">{escape(value.interval_text)}</span>'
        if value.untouched:
            rest = "" if value.on_perturbed is None else f", {value.on_perturbed:.1f} on the others"
            body += f'<span class="sub">{value.untouched:.0f} % untouched{rest}</span>'
        body += "".join(f'<span class="sub word">{escape(note)}</span>' for note in value.notes)
    if with_paper:
        difference = f" ({value.difference_text})" if value.difference_text else ""
        body += f'<span class="sub">paper {escape(value.paper_text)}{difference}</span>'
    return f"<td>{body}</td>"


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; heads are plain text."""
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def plain(text: Any, kind: str = "") -> str:
    return f"<td{f' class={kind}' if kind else ''}>{escape(str(text))}</td>"


def section(name: str, title: str, body: str, files: Sequence[str] = ()) -> str:
    """A section with links to the files that lie beside the page."""
    also = " · ".join(f'<a href="{escape(file, quote=True)}">{escape(Path(file).name)}</a>' for file in files)
    head_ = f'<h2 id="{escape(name, quote=True)}">{escape(title)}</h2>'
    return f"<section>{head_}{body}{f'<p>{also}</p>' if also else ''}</section>"


def table_section(table: Table, values: Sequence[Sequence[Value]], files: Sequence[str]) -> str:
    paper = any_published(values)
    note = "" if paper else " Paper: n/a for every cell, the paper has no such data sets or backbones."
    rows: list[list[str]] = []
    for i, (row, line) in enumerate(zip(table.rows, values)):
        if not i or row.backbone != table.rows[i - 1].backbone:
            rows.append(
                [f'<th class="group" colspan="{len(table.columns) + 2}" scope="rowgroup">{escape(row.backbone)}</th>']
            )
        what = [row.protocol] if row.protocol != "-" else []
        what += [f"behind {row.defense}"] if row.defense != "none" else []
        first = f'<td class="narrow">{escape(row.attack)}<span class="sub">{escape(", ".join(what))}</span></td>'
        second = f'<td>{escape(row.method)}<span class="sub">seeds {escape(seeds_of(line))}</span></td>'
        rows.append([first, second, *(cell(value, paper) for value in line)])
    about = f'<p class="about">{escape(table.caption)}{note}</p>'
    return section(table.name, table.title, about + grid(["attack", "method", *table.columns], rows), files)


def word_section(table: WordTable, index: RecordIndex, files: Sequence[str]) -> str:
    lines, why = word_rows(table, index)
    heads = ["data set", "backbone", "rank", "word", "distance", "untrained", "distance", "paper's word", "distance"]
    rows = [
        [*map(plain, x[:2]), plain(x[4]), f"<td>{escape(str(x[5]))}{links([x[11]])}</td>", *map(plain, x[6:11])]
        for x in lines
        if x[2] == "overall"
    ]
    rows += [
        [plain(name), plain(""), f'<td colspan="7"><span class="word">{escape(state)}</span></td>']
        for name, state in why.items()
    ]
    about = f'<p class="about">{escape(table.caption)}</p>'
    if not any(published_words(column.dataset) for column in table.columns):
        about += '<p class="about">Paper: n/a, it has no such data sets.</p>'
    per = [
        [*map(plain, x[:2]), plain(x[3]), plain(x[5]), plain(x[6]), plain(x[7]), plain(x[8])]
        for x in lines
        if x[2] == "per vector" and x[4] == 1
    ]
    per_heads = ["data set", "backbone", "vector", "nearest word", "distance", "before tuning", "distance"]
    more = f"<details><summary>The nearest word of each vector</summary>{grid(per_heads, per)}</details>" if per else ""
    return section(table.name, table.title, about + grid(heads, rows) + more, files)


def figure_section(figure: Figure, png: Path, ids: Sequence[str], files: Sequence[str]) -> str:
    caption = f"{figure.caption} Error bars are 95 % intervals, as in the tables."
    about = f'<p class="about">{escape(caption)}</p>'
    image = f'<img alt="{escape(figure.title, quote=True)}" src="{data_uri(png)}">'
    source = f'<p class="about">Records: {links(ids)}</p>' if ids else ""
    return section(figure.name, figure.title, about + image + source, files)


def data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def picture_section(runs: Iterable[Run], index: RecordIndex) -> str:
    """Clean image, attacked image, magnified change, and what both prompts say; "" where no run kept pictures."""
    shown = []
    for run in runs:
        path = run.folder / pictures.FOLDER / pictures.FILE
        if not path.is_file():
            continue
        try:
            about = read_object(path, RecordError)
            known = {record.id: record for record in index.of(run).values()}
            if about["record"] not in known:
                index.note(
                    "missing", f"the pictures of {run.label or run.id} belong to a record that is not there any more"
                )
                continue
            head_ = f"<h3>{escape(run.label or run.id)}{links([about['record']])}</h3><p class=about>"
            head_ += f"{escape(about['protocol'])}, {escape(about['attack'])}; change magnified "
            head_ += f"{about['magnified']:.0f} times around grey.</p>"
            found = f'{head_}<div class="pictures">{"".join(_picture(run, p) for p in about["pictures"])}</div>'
        except (RecordError, KeyError, TypeError, ValueError, AttributeError) as error:
            index.note("refused", f"{index.name(path)} is not what a run leaves ({error!r}); make the pictures again")
            continue
        index.used[about["record"]] = (known[about["record"]], run)
        shown.append(found)
    return section("pictures", "Pictures of the attack", "".join(shown)) if shown else ""


def _picture(run: Run, picture: Mapping[str, Any]) -> str:
    images = ""
    for kind in pictures.KINDS:
        path = run.folder / pictures.FOLDER / Path(picture["files"][kind]).name
        if path.is_file():
            images += f'<img alt="{escape(kind)}" title="{escape(kind)}" src="{data_uri(path)}"> '
    said = "".join(
        f"<br>{escape(who)} prompt: {escape(says['clean'])} → {escape(says['attacked'])}"
        for who, says in picture["said"].items()
    )
    return f"<figure>{images}<figcaption>truth: {escape(picture['label'])}{said}</figcaption></figure>"


def record_section(used: Mapping[str, tuple[Record, Run]], index: RecordIndex) -> str:
    """The list that every number links to."""
    heads = ["record", "run and file", "seed", "protocol and attack", "clean", "robust", "images", "seconds"]
    rows = []
    for record_id, (record, run) in sorted(used.items(), key=lambda x: (x[1][1].label, x[1][1].seed, x[0])):
        r = record.result
        attack = (r.get("attack") or {}).get("spec", "")
        robust = r.get("robust")
        where = index.name(record.path) if record.path is not None else ""
        behind = f", behind {'+'.join(r['defenses'])}" if r.get("defenses") else ""
        behind += f" ({word})" if robust and (word := inexact_gradient(r.get("defense"))) else ""
        rows.append(
            [f'<td id="{anchor(record_id)}"><code title="{escape(record_id)}">{escape(record_id[:16])}</code></td>']
            + [
                f'<td class="wrap">{escape(run.label)}<span class="sub">{escape(where)}</span></td>',
                plain(r.get("seed")),
            ]
            + [f'<td class="wrap">{escape(r.get("protocol") or "clean")} {escape(attack)}{escape(behind)}</td>']
            + [plain(f"{r['clean']['accuracy']:.1f}"), plain(f"{robust['accuracy']:.1f}" if robust else "-")]
            + [plain(r["clean"]["n"]), plain(record.observed.get("seconds", ""))]
        )
    return section("records", "Records", grid(heads, rows))


def note_section(notes: Sequence[Note]) -> str:
    if not notes:
        return section("notes", "Notes", "<p>Nothing is missing, refused or there twice.</p>")
    return section("notes", "Notes", grid(["kind", "what"], ([plain(n.kind), plain(n.text, "wrap")] for n in notes)))


def page(title: str, about: str, sections: Sequence[str], entries: Sequence[tuple[str, str]]) -> str:
    """The whole file. ``entries``: (anchor, title) of the table of contents; ``about`` is plain text."""
    nav = "".join(f'<a href="#{escape(name, quote=True)}">{escape(text)}</a>' for name, text in entries)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p>{escape(about)}</p><p class="about">{escape(LEGEND)}</p><nav>{nav}</nav>'
        f"{''.join(sections)}</body></html>\n"
    )
