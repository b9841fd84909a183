"""Filters and sorting of long tables: which columns have them, what the page gives its script, and that it is whole
without it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from advpt.evaluation.record import PartAccuracy
from advpt.results import survival_text
from advpt.results.exhibit import DefenseTable, PartTable
from advpt.results.filters import MAX_TEXTS, MIN_ROWS, SCRIPT, columns, policy, sort_numbers
from advpt.results.index import RecordIndex
from advpt.results.page import Section, page
from advpt.results.test_time import PART_HEADS, FilledParts, PartLine
from advpt.results.values import FilledTable, Value
from tests.helpers.benchmark import SOME, N, defense, hits, survival, survivors
from tests.helpers.figures import METHODS, filled, number
from tests.helpers.reports import NASTY

DEFENSES = ("none", "mean", NASTY)
ATTACKS = (("", "clean"), ("adaptive", "pgd20"))


def long_table(**more) -> FilledTable:
    """Twelve rows of four methods behind three defenses, one with a hostile name, the last number not run."""
    return filled(METHODS, ATTACKS, **{"defenses": DEFENSES, "word": "not run", **more})


def text_of(*tables: FilledTable | FilledParts) -> str:
    return page("t", "a", [Section(each.table, each) for each in tables], RecordIndex())


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))


class Rows(HTMLParser):
    """The first table that the script takes: its heads, and its rows, each cell as its first text and its number."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.heads, self.filtered, self.rows = [], [], []
        start = text.index("<table data-rows")
        self.feed(text[start : text.index("</table>", start)])

    def handle_starttag(self, tag, attributes):
        about = dict(attributes)
        if tag == "table":
            self.name = about["data-rows"]
        elif tag == "th":
            self.heads.append("")
            self.filtered.append("data-filter" in about)
        elif tag == "tr" and self.heads:
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append(["", about.get("data-value")])

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1][0] = self.rows[-1][-1][0] or data.strip()
        elif self.heads:
            self.heads[-1] = self.heads[-1] or data


def chosen(content: object) -> tuple[bool, ...] | None:
    made = columns(content)
    return made and made.filtered


# --- which tables and columns -----------------------------------------------------------------------------------------


def test_a_column_of_words_has_a_filter_where_its_rows_differ():
    table = long_table()
    table.values[0] = [number(50.0, seeds=(1,)), number(40.0, seeds=(1,))]
    table.extra = {
        "won by": ["pgd", "apgd"] * 6,
        "training (s)": ["12", "-"] * 6,
        "same": ["x"] * 12,
        "many": [f"w{i}" for i in range(12)],
    }
    assert chosen(table) == (True, True, False, True, False, False, True), "defense, method, seeds, then these"
    table.extra = {"many": [f"w{i % (MAX_TEXTS + 1)}" for i in range(4 * (MAX_TEXTS + 1))]}
    more = long_table(defenses=[*DEFENSES, *(f"d{i}" for i in range(MAX_TEXTS + 1 - len(DEFENSES)))])
    more.extra = table.extra
    assert chosen(more) == (False, True, False, False), "one text too many for boxes"


def test_tables_without_a_choice_have_no_filters():
    assert columns(long_table(defenses=DEFENSES[:1])) is None and MIN_ROWS > 4, "short"
    assert columns(filled(METHODS * 2, ATTACKS)) is not None, f"{MIN_ROWS} rows"
    assert columns(filled(("AdvPT",) * 12, ATTACKS)) is None, "all of one method"
    assert columns([]) is None and columns(None) is None, "figures"
    text = text_of(long_table(defenses=DEFENSES[:1]))
    assert "<script" not in text and "data-filter" not in text and "script-src 'none'" in policy("")
    assert Tags(text).all[3] == ("meta", {"http-equiv": "Content-Security-Policy", "content": policy("")})


def test_parts_of_adaptive_attacks_are_filtered_by_defense_and_part():
    defended = DefenseTable("d", "D", "", "B", "Digits", "pgd20-ce@4", 200, 50, ())
    lines = [
        PartLine(defense, PartAccuracy(name=name, attack="a", n=50, correct=20.0, accuracy=40.0), "r" * 64)
        for defense in ("mean", "mta")
        for name in ("pgd", "apgd", "static", "square")
    ]
    content = FilledParts(PartTable("p", "P", "", defended), lines, {"hedge": "not run"})
    assert chosen(content) == tuple(head in ("defense", "part") for head in PART_HEADS)
    rows = Rows(text_of(content))
    assert rows.heads == [*PART_HEADS] and rows.name == "p" and len(rows.rows) == len(lines) + 1
    assert rows.rows[0][4] == ["40.0", "40.0"] and rows.rows[-1][0] == ["hedge", None]


def test_what_survives_is_filtered_by_its_outcome_and_sorted_by_the_gain(tmp_path):
    made = survivors(tmp_path)
    for name in ("noise", "low-pass"):
        defense(made, name, hits(10, N), hits(15, SOME))
    content = survival(made)
    heads = survival_text.heads(content)
    assert chosen(content) == tuple(head in ("over", "outcome", "by") for head in heads)
    rows = Rows(text_of(content))
    assert [row[heads.index("outcome")][0] for row in rows.rows] == [row.word for row in content.rows]
    gains = [row[heads.index("gain, adaptive")] for row in rows.rows]
    assert gains[0] == ["-", None] and gains[2][1] == f"{content.rows[2].adaptive.mean:+.1f}"


@pytest.mark.parametrize(
    "texts, numbers",
    (
        (("12", "-", "3.5"), ["12", "", "3.5"]),
        (("64 F, 2 f", "", "1 F"), ["64", "", "1"]),
        (("+3.1 [1.0, 5.2]", "-0.4 [-2, 1]", "not run"), ["+3.1", "-0.4", ""]),
        (("[85.1, 90.0]", "[-3, 4]"), ["85.1", "-3"]),
        (("1.2e+03", "7"), ["1.2e+03", "7"]),
        (("1,2,3", "1"), ["", ""]),  # seeds
        (("1-10", "1"), ["", ""]),
        (("4/255", "8/255"), ["", ""]),
        (("mean", "3"), ["", ""]),
        (("2x", "3"), ["", ""]),
    ),
)
def test_texts_are_sorted_by_the_number_that_they_begin_with_where_all_do(texts, numbers):
    assert sort_numbers(texts) == numbers


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_gives_each_cell_its_number_and_is_in_the_order_of_the_table():
    table = long_table()
    table.extra = {"ms here": [str(i) for i in range(12)]}
    rows = Rows(text_of(table))
    assert rows.name == "made" and rows.filtered == [True, True, False, False, False, False]
    assert [(row[0][0], row[1][0]) for row in rows.rows] == [(r.defense, r.method) for r in table.table.rows]
    assert any(row[0][0] == NASTY for row in rows.rows), "escaped, and read back as it was"
    for i, (row, line) in enumerate(zip(rows.rows, table.values)):
        assert [value for _, value in row[:4]] == [None, None, None, str(i)]
        for cell, value in zip(row[4:], line):
            if value.interval is None:
                assert cell == ["not run", None]
            else:
                assert float(cell[1]) == pytest.approx(value.interval.mean, abs=1e-3)
                assert cell[0].startswith(value.mean_text)


def test_numbers_of_a_paper_and_empty_cells_are_not_sorted_by():
    table = long_table(word="")
    table.values[3][1] = Value("n/a", paper=50.0)
    row = Rows(text_of(table)).rows[3]
    assert row[-1] == ["", None]


def test_the_page_is_the_same_without_its_script_and_has_no_other():
    text = text_of(long_table(), long_table())
    tags = Tags(text).all
    scripts = [about for tag, about in tags if tag == "script"]
    assert scripts == [{}], "one, inside: no source, however many tables"
    assert not {"input", "select", "button", "form", "template", "noscript"} & {tag for tag, _ in tags}
    assert not any("hidden" in about or any(name.startswith("on") for name in about) for _, about in tags)
    inside = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    assert inside == SCRIPT.read_text() and text.rstrip().endswith("</script></body></html>")
    digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    allowed = next(about["content"] for tag, about in tags if about.get("http-equiv") == "Content-Security-Policy")
    assert allowed == policy(inside) and f"script-src 'sha256-{digest}';" in allowed
    assert "default-src 'none'" in allowed and "unsafe-eval" not in allowed and "http" not in allowed
    assert allowed.count("'unsafe-inline'") == 1 and "style-src 'unsafe-inline'" in allowed
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<table")
    assert "&lt;script&gt;alert" in text and "<script>alert" not in text


def test_the_script_loads_nothing_and_writes_texts_as_text():
    script = SCRIPT.read_text()
    code = re.sub(r"(^|\s)//.*|/\*\*.*?\*/", "", script, flags=re.MULTILINE)
    words = "innerHTML outerHTML insertAdjacentHTML write( eval Function( setTimeout fetch XMLHttp import http src href"
    assert [word for word in [*words.split(), "localStorage", "cookie"] if word in code] == []
    assert "</" not in script.replace("</th", "") and "<!--" not in script, "it cannot end its element"
    assert script.isascii()
    for name in ("data-rows", "dataset.rows", '"filter" in', "dataset.value"):
        assert name in script, "as the page has it"


def test_rows_are_filtered_and_sorted_in_a_browser(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here (Debian's package is called chromium); filters are not tried in a browser")
    table = long_table()
    table.values[5][1] = Value("not run")  # CoOp behind mean: the last
    path = tmp_path / "page.html"
    path.write_text(text_of(table))
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    address = f"{path.as_uri()}#rows?made.defense=mean&made.defense=none&made-search=co&made-sort=down+pgd20+adaptive"
    done = subprocess.run([*words, "--dump-dom", address], capture_output=True, text=True, check=True, timeout=120)
    text = done.stdout
    shown = re.findall(r'<tr(?! hidden)[^>]*>(?=<td class="narrow">)(.*?)</tr>', text, flags=re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.DOTALL) for row in shown]
    wanted = [
        (line[1].interval.mean if line[1].interval else -1, row.defense, row.method)
        for row, line in zip(table.table.rows, table.values)
        if row.defense in ("mean", "none") and "CoOp" in row.method
    ]
    wanted = [(defense, method) for _, defense, method in sorted(wanted, key=lambda each: -each[0])]
    assert [(row[0], row[1]) for row in cells] == wanted and wanted[3] == ("mean", "CoOp")
    assert text.count("<tr hidden") == 8, "the others are there"
    assert "4 of 12 rows shown, 8 left out (defense: none or mean; search: co)." in text
    assert text.count('aria-sort="descending"') == 1, "the column's head"
