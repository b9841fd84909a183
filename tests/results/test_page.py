"""The page: whole, escaped, a figure first, every number leads to its record; read by people without the README."""

from __future__ import annotations

import re
import shutil

import pytest

from advpt.results.exhibit import (
    CLEAN,
    Cell,
    Figure,
    PointCell,
)
from advpt.results.terms import SHORT
from tests.helpers.reports import NASTY, PGD, Links, put


@pytest.fixture
def small(small):
    small.glance = True
    return small


def trade_off(name: str = "fig3", panels=("panel",)) -> Figure:
    x, y = Cell(("adv1",), CLEAN), Cell(("adv1",), PGD)
    points = tuple(PointCell(panel, "AdvPT", NASTY, x, y) for panel in panels)
    return Figure(name, f"Figure {NASTY}", NASTY, "points", "x", "y", points)


def test_the_page_is_whole_escaped_and_every_number_leads_to_its_record(small):
    small.report(trade_off(panels=("one", NASTY)))
    text = (small.top / "report" / "index.html").read_text()
    page = Links(text)
    assert "script" not in page.tags and "<script" not in text and "&lt;script&gt;" in text
    inside = [link[1:] for link in page.to if link.startswith("#")]
    assert inside and set(inside) <= page.ids, "every link inside the page has its end"
    outside = [link for link in page.to if not link.startswith("#")]
    assert outside and all((small.top / "report" / link).is_file() for link in outside), "and every file is there"
    assert len(page.sources) == 3, "above the table, the figure, and that for narrow screens"
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"(src|srcset|href)=\"?https?:|url\(|@import", text)
    for row in small.cells().values():
        assert all(f'id="record-{i[:16]}"' in text for i in row["records"].split())


def test_a_figure_comes_first_then_how_to_read_the_table_then_the_table(small):
    small.report()
    text = small.page()
    order = [text.index(each) for each in ("<h1>", "<h2", "<img", "<figcaption>", "How to read the numbers", "<table>")]
    assert order == sorted(order)
    assert text.count("How to read the numbers") == 1
    assert {path.name for path in (small.top / "report" / "figures").iterdir()} == {
        f"table1_glance.{kind}" for kind in ("png", "pdf", "csv")
    }


def test_every_image_is_described(small):
    small.report(trade_off())
    texts = re.findall(r'<img alt="([^"]*)"', small.page())
    assert len(texts) == small.page().count("<img") == 2 and all(texts)
    assert "AdvPT, clean: 82.0" in texts[0] and "transfer: pgd40: 20.0" in texts[0], "with the numbers"


def test_columns_and_terms_are_explained(small):
    small.report()
    text = small.page()
    for words in ("what the attacker knows", "where the prompt comes from", "n = 100", SHORT["transfer"]):
        assert words in text, words
    for term in ("accuracy", "clean", "budget", "transfer", "seeds", "vanilla", "AdvPT"):
        assert f"<dt>{term}</dt>" in text, term
    assert "<dt>adaptive</dt>" not in text, "which is not on this page"


@pytest.mark.parametrize("case", ("no robust record", "one run", "nothing was run"))
def test_a_page_of_little(small, case):
    if case != "nothing was run":
        put(small.top / "only", 60, trainer="ZeroshotCLIP")
        small.runs = {} if case == "one run" else {k: small.runs[k] for k in ("zs",)}
        (small.top / "zs").rename(small.top / "elsewhere")
        (small.top / "only").rename(small.top / "zs")
    else:
        small.runs = {}
    small.report()
    text = small.page()
    figures = small.top / "report" / "figures" / "table1_glance.png"
    assert figures.is_file() == ("<img" in text) == (case == "no robust record")
    assert "not run" in text or "missing" in text


def test_attacks_of_rows_have_their_exact_form_beside_them(small):
    small.glance = False
    small.report()
    assert f'<span title="{PGD.attack}">pgd40</span>' in small.page()
    assert f"Attacks: pgd40 = {PGD.attack}." in (small.top / "report" / "tables" / "table1.md").read_text()


def test_in_a_browser_from_disk(small):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here (Debian's package is called chromium); the page is not looked at in a browser")
    import subprocess

    small.report()
    page, shot = small.top / "report" / "index.html", small.top / "shot.png"
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={small.top / 'profile'}"]
    subprocess.run(
        [browser, *words, f"--screenshot={shot}", "--window-size=390,844", page.as_uri()], check=True, timeout=120
    )
    assert shot.stat().st_size > 1000
