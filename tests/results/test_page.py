"""The page: whole, escaped, every number leads to its record."""

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
from tests.helpers.reports import NASTY, PGD, Links


def test_the_page_is_whole_escaped_and_every_number_leads_to_its_record(small):
    figure = Figure(
        "fig3", f"Figure {NASTY}", NASTY, "points", "x", "y",
        (PointCell("panel", "AdvPT", NASTY, Cell(("adv1",), CLEAN), Cell(("adv1",), PGD)),),
    )  # fmt: skip
    small.report(figure)
    text = (small.top / "report" / "index.html").read_text()
    page = Links(text)
    assert "script" not in page.tags and "<script" not in text and "&lt;script&gt;" in text
    inside = [link[1:] for link in page.to if link.startswith("#")]
    assert inside and set(inside) <= page.ids, "every link inside the page has its end"
    outside = [link for link in page.to if not link.startswith("#")]
    assert outside and all((small.top / "report" / link).is_file() for link in outside), "and every file is there"
    assert page.sources and all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"(src|href)=\"?https?:", text)
    for row in small.cells().values():
        assert all(f'id="record-{i[:16]}"' in text for i in row["records"].split())


def test_attacks_of_rows_have_their_exact_form_beside_them(small):
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
        [browser, *words, f"--screenshot={shot}", "--window-size=390,844", page.as_uri()], check=True, timeout=60
    )
    assert shot.stat().st_size > 1000
