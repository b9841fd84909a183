"""Reports: numbers beside the paper's, words where there are none, and what a damaged shelf of records changes."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from advpt.cli import main
from advpt.evaluation import record as records
from advpt.evaluation.intervals import IMAGES_ONLY, STATEMENT, Runs, accuracy_interval, wilson
from advpt.evaluation.record import Record
from advpt.results.exhibit import (
    CLEAN,
    Cell,
    Figure,
    PointCell,
    Table,
    TableRow,
    TimeCurve,
    WordColumn,
    WordTable,
    robust,
)
from advpt.results.figures import COLOURS, MARKERS
from advpt.results.index import RecordIndex, Run
from advpt.results.published import PaperCell
from advpt.results.render import latex_text
from advpt.results.report import write
from advpt.results.values import value
from tests.helpers.records import accuracy

PGD = robust("pgd40-fkl@16")
NASTY = "<script>alert('x')</script>&\"dogs\""


def put(folder: Path, hits: int, robust_hits: int | None = None, *, n: int = 100, seed: int = 1, **more) -> Path:
    def part(k):
        return accuracy(torch.arange(n) < k)

    r = {
        "split": "test", "dataset": "OxfordPets", "trainer": "AdvPT", "seed": seed, "backbone": {"name": "ViT-B/16"},
        "images": {"n": n, "digest": "d", "part": False}, "clean": part(hits), "robust": None, "config": {},
        "protocol": None, "defenses": [], "comparable": True, "attack": None, "training": {},
    }  # fmt: skip
    if robust_hits is not None:
        r |= {"robust": part(robust_hits) | {"untouched": 0.0}, "protocol": PGD.protocol}
        r["attack"] = {"spec": PGD.attack, "asked": PGD.attack}
    observed = more.pop("observed", {})
    return records.write(Record.from_json(r | more, observed), folder)


def key(method: str, attack: str) -> PaperCell:
    return PaperCell("1", "ViT-B/16", "Pets", method, "none", attack)


class Small:
    """Two methods, three seeds of one of them, clean and under PGD; one folder per run."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.runs = {"zs": Run("zs", top / "zs", 1, "done", "ZeroshotCLIP, pets")}
        put(top / "zs", 60, 20, trainer="ZeroshotCLIP")
        for seed in (1, 2, 3):
            name = f"adv{seed}"
            self.runs[name] = Run(name, top / name, seed, "done", f"AdvPT, pets, seed {seed}", top / f"{name}.log")
            put(top / name, 80 + seed, 50 + seed, seed=seed)

    def table(self) -> Table:
        adv = ("adv1", "adv2", "adv3")
        rows = [
            TableRow(
                "ViT-B/16",
                method,
                "none",
                attack,
                metric.protocol or "-",
                (Cell(runs, metric, key(method, attack)), None),
            )
            for attack, metric in (("clean", CLEAN), ("pgd40", PGD))
            for method, runs in (("vanilla", ("zs",)), ("AdvPT", adv))
        ]
        return Table("table1", f"Table 1 {NASTY}", f"About {NASTY}.", ("Pets", NASTY), tuple(rows))

    def report(self, *more):
        return write([self.table(), *more], self.runs, self.top / "report", title=NASTY, about=NASTY, top=self.top)

    def page(self) -> str:
        return (self.top / "report" / "index.html").read_text()

    def cells(self) -> dict[tuple[str, str], dict[str, str]]:
        with (self.top / "report" / "tables" / "table1.csv").open() as file:
            return {(row["method"], row["attack"]): row for row in csv.DictReader(file)}


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path)


def kinds(report) -> list[str]:
    return [note.kind for note in report.notes]


def test_ours_the_papers_the_difference_and_where_it_comes_from(small):
    report = small.report()
    cells = small.cells()
    zs, adv = cells["vanilla", "clean"], cells["AdvPT", "pgd40"]
    low, high = wilson(60, 100)
    assert (zs["ours"], zs["paper"], zs["difference"], zs["seeds"]) == ("60.00", "89.1", "-29.1", "1")
    assert (zs["low95"], zs["high95"]) == (f"{low:.2f}", f"{high:.2f}")
    assert (adv["ours"], adv["seeds"], adv["paper"]) == ("52.00", "1 2 3", str(key_number("AdvPT", "pgd40")))
    right = {seed: (torch.arange(100) < 50 + seed).numpy() for seed in (1, 2, 3)}
    over = accuracy_interval(Runs({seed: 50.0 + seed for seed in right}, right, 100))
    assert (adv["low95"], adv["high95"]) == (f"{over.low:.2f}", f"{over.high:.2f}") and adv["better"] == "True"
    assert over.high - over.low > wilson(52, 100)[1] - wilson(52, 100)[0], "the images, too, and not the seeds alone"
    assert (adv["interval"], zs["interval"]) == ("3 seeds and images", "images")
    assert zs["better"] == "False" and len(adv["records"].split()) == 3
    assert kinds(report) == [] and dict(report.words) == {"value": 4, "n/a": 4}
    markdown = (small.top / "report" / "tables" / "table1.md").read_text()
    assert f"**52.0 [{over.low:.1f}, {over.high:.1f}]**; paper" in markdown and "; paper 89.1, -29.1" in markdown
    assert all(STATEMENT in html.unescape(page) for page in (markdown, small.page()))


def key_number(method: str, attack: str) -> float:
    from advpt.results.published import number

    return number(key(method, attack))


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_bold_needs_three_seeds_and_one_seed_is_said(small, seeds):
    for name in [f"adv{seed}" for seed in range(seeds + 1, 4)]:
        del small.runs[name]
    small.report()
    adv, zs = (small.cells()[method, "pgd40"] for method in ("AdvPT", "vanilla"))
    assert adv["better"] == str(seeds == 3) and zs["better"] == "False"
    text = (small.top / "report" / "tables" / "table1.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ViT-B/16") and "AdvPT" in line]
    assert sum("**" in row for row in rows) == 2 * (seeds == 3)
    for shown in (*rows, small.page().split("<tbody>")[1].split("</tbody>")[0]):
        assert (f"({IMAGES_ONLY})" in shown) == (seeds == 1)
    assert not any(IMAGES_ONLY in line for line in text.splitlines() if "| vanilla" in line)
    tex = (small.top / "report" / "tables" / "table1.tex").read_text()
    assert (r"\textbf" in tex) == (seeds == 3) and tex.count(f"({IMAGES_ONLY})") == 2 * (seeds == 1)


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.to, self.sources, self.tags = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.ids |= {found["id"]} if "id" in found else set()
        self.to += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []


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


def test_report_of_folders_writes_the_same_page(small, capsys):
    """Heads are words; the exact attack is in the tooltip, in the legend of the page and in that of the text."""
    attack = {"spec": PGD.attack, "name": "pgd", "objective": "fkl", "steps": 40, "eps": 16.0}
    put(small.top / "adv1", 81, 51, attack=attack, warnings=[NASTY])
    path = small.top / "page.html"
    assert main(["report", str(small.top / "adv1"), "--page", str(path)]) == 0
    printed, text = capsys.readouterr().out, path.read_text()
    head = "PGD-40 (feature KL) 16/255, transfer"
    assert f"page      {path}" in printed and f"{head} = {PGD.attack}" in printed and f"| {head} " in printed
    assert f'<span title="{PGD.attack}">{head}</span>' in text and f"<dd><code>{PGD.attack}</code></dd>" in text
    page = Links(text)
    assert "script" not in page.tags and "&lt;script&gt;" in text
    inside = {link[1:] for link in page.to if link.startswith("#")}
    assert inside <= page.ids and any(link.startswith("record-") for link in inside)


def test_attacks_of_rows_have_their_exact_form_beside_them(small):
    small.report()
    assert f'<span title="{PGD.attack}">pgd40</span>' in small.page()
    assert f"Attacks: pgd40 = {PGD.attack}." in (small.top / "report" / "tables" / "table1.md").read_text()


def test_latex_is_escaped_and_has_booktabs(small):
    small.report()
    text = (small.top / "report" / "tables" / "table1.tex").read_text()
    assert r"\toprule" in text and r"\textless{}script\textgreater{}" in text and r"\textbf{52.0}" in text
    assert latex_text("50%_a&b") == r"50\%\_a\&b"


def test_three_words_for_three_things(small):
    small.runs["adv2"] = Run("adv2", small.top / "none", 2, "not run", "AdvPT, pets, seed 2")
    small.runs["zs"] = Run("zs", small.top / "none", 1, "failed", "ZeroshotCLIP, pets", small.top / "zs.log")
    small.report()
    cells = small.cells()
    assert cells["vanilla", "clean"]["ours"] == "failed" and cells["vanilla", "clean"]["paper"] == "89.1"
    assert cells["AdvPT", "clean"]["ours"] == "82.00" and cells["AdvPT", "clean"]["notes"] == "seed 2: not run"
    cell = Cell(("nobody",), CLEAN)
    assert (
        value(cell, RecordIndex(small.runs)).state == "not run"
        and value(cell, RecordIndex(small.runs)).paper_text == "n/a"
    )
    assert value(None, RecordIndex(small.runs)).state == "n/a"


def test_a_deleted_record_is_missing_and_said_so(small):
    for path in (small.top / "zs" / "records").glob("*.json"):
        path.unlink()
    report = small.report()
    assert small.cells()["vanilla", "pgd40"]["ours"] == "missing" == small.cells()["vanilla", "clean"]["ours"]
    assert kinds(report)[0] == "missing" and "ZeroshotCLIP, pets is done, but its record" in report.notes[0].text
    assert "run it again" in (small.top / "report" / "index.html").read_text()


def test_a_record_of_another_schema_is_refused_and_said_so(small):
    (path,) = (small.top / "zs" / "records").glob("*.json")
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"schema": 99}))
    report = small.report()
    assert small.cells()["vanilla", "pgd40"]["ours"] == "refused"
    assert kinds(report) == ["refused"] and "schema 99; this version reads 1" in report.notes[0].text


def test_a_changed_record_is_refused(small):
    (path,) = (small.top / "zs" / "records").glob("*.json")
    path.write_text(path.read_text().replace('"accuracy": 60.0', '"accuracy": 99.0'))
    assert kinds(small.report()) == ["refused"] and small.cells()["vanilla", "clean"]["ours"] == "refused"


def test_of_two_records_of_one_thing_the_newest_counts_with_a_note(small):
    (path,) = (small.top / "zs" / "records").glob("*.json")
    shutil.copy(path, path.with_name("old copy.json"))
    put(small.top / "zs", 70, 30, trainer="ZeroshotCLIP", observed={"finished": 2.0})
    report = small.report()
    assert small.cells()["vanilla", "pgd40"]["ours"] == "30.00" and kinds(report) == ["duplicate"]
    assert "with another result; the newest" in report.notes[0].text and "old copy.json" in report.notes[0].text


def test_a_copy_counts_once_and_is_noted(small):
    (path,) = (small.top / "zs" / "records").glob("*.json")
    shutil.copy(path, path.with_name("copy.json"))
    os.utime(path, (1, 1))
    report = small.report()
    assert small.cells()["vanilla", "pgd40"]["ours"] == "20.00" and "the same result" in report.notes[0].text


def test_records_of_nobody_are_noted_and_not_used(small):
    put(small.top / "elsewhere", 1, 1)
    report = small.report()
    assert kinds(report) == ["stray"] and "elsewhere/records" in report.notes[0].text


def test_seeds_that_saw_other_images_are_not_compared(small):
    put(small.top / "zs", 60, 20, trainer="ZeroshotCLIP", images={"n": 100, "digest": "other", "part": False})
    small.report()
    assert small.cells()["AdvPT", "pgd40"]["better"] == "False"
    put(small.top / "adv2", 82, 52, seed=2, images={"n": 100, "digest": "other", "part": False})
    for path in (small.top / "adv2" / "records").glob("*"):
        assert path.is_file()
    assert "different images" in value(Cell(("adv1", "adv2"), PGD), RecordIndex(small.runs)).notes[0]


@pytest.mark.parametrize(("official", "shown"), [(None, "unknown"), (False, "False"), (True, "True")])
def test_whether_the_data_are_the_official_ones_is_said(small, official, shown):
    put(small.top / "adv1", 81, 51, seed=1, comparable=official)
    small.report()
    assert small.cells()["AdvPT", "pgd40"]["comparable"] == shown
    assert small.cells()["vanilla", "pgd40"]["comparable"] == "True"
    markdown = (small.top / "report" / "tables" / "table1.md").read_text()
    assert ("Whether this is the official split is unknown" in markdown) == (official is None)
    assert ("compare with nothing published" in markdown) == (official is False)


def test_accuracy_over_wall_clock_counts_the_bank(small):
    def curve(*points):
        return [
            {"epoch": e, "clean": {"accuracy": a, "correct": 0, "n": 10, "interval95": [a - 5, a + 5]}}
            for e, a in points
        ]

    for seed, extra in ((1, 0.0), (2, 2.0)):
        times = {"before": 10.0 + extra, "epochs": [1.0, 2.0, 3.0]}
        training = {"curve": curve((1, 30.0), (3, 50.0 + seed))}
        put(small.top / f"adv{seed}", 80, 51, seed=seed, training=training, observed={"training": times})
    time_curves = (TimeCurve("p", "AdvPT", ("adv1", "adv2"), "clean"), TimeCurve("p", "FastAT", ("nobody",), "clean"))
    small.report(Figure("fig4", "t", "c", "lines", "s", "%", time_curves=time_curves, log_x=True))
    with (small.top / "report" / "figures" / "fig4.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["series"], r["label"], r["x"], r["y"]) for r in rows] == [
        ("AdvPT", "epoch 1", "12", "30.00"), ("AdvPT", "epoch 3", "17", "51.50"), ("FastAT", "", "", "not run"),
    ]  # fmt: skip
    assert len(rows[0]["records"].split()) == 2 and rows[0]["paper"] == "n/a"
    low, high = wilson(3, 10)  # both seeds alike: the ten images remain
    assert (rows[0]["y_low"], rows[0]["y_high"]) == (f"{low:.2f}", f"{high:.2f}")
    assert float(rows[1]["y_high"]) - 51.5 > 12.706 * 0.5 and rows[1]["interval"] == "2 seeds and images"
    assert (small.top / "report" / "figures" / "fig4.png").read_bytes()[:4] == b"\x89PNG"
    assert (small.top / "report" / "figures" / "fig4.pdf").read_bytes()[:4] == b"%PDF"


def test_words_stand_beside_the_papers_and_the_untrained_ones(small):
    near = {
        "per_vector": [[["cat", 0.5], ["dog", 0.6]], [[NASTY, 0.7], ["a", 0.8]]],
        "overall": [["cat", 0.5], [NASTY, 0.7]],
    }
    before = {"per_vector": [[["x", 0.1], ["y", 0.2]], [["z", 0.1], ["w", 0.2]]], "overall": [["x", 0.1], ["z", 0.1]]}
    put(small.top / "adv1", 81, 51, words={"trained": near, "untrained": before})
    columns = (WordColumn("Pets", "ViT-B/16", "adv1"), WordColumn("DTD", "ViT-B/16", "adv2"))
    small.report(WordTable("table5", "Table 5", "c", columns))
    with (small.top / "report" / "tables" / "table5.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = rows[0]
    assert (first["word"], first["untrained_word"], first["paper_word"], first["paper_distance"]) == (
        "cat",
        "x",
        "stores",
        "0.63",
    )
    assert [r["vector"] for r in rows if r["reading"] == "per vector"] == ["1", "1", "2", "2"]
    page = (small.top / "report" / "index.html").read_text()
    assert "<script" not in page and "DTD, ViT-B/16" in page and "missing" in page
    assert "DTD, ViT-B/16: missing" in (small.top / "report" / "tables" / "table5.md").read_text()


def test_bars_lines_and_empty_panels_are_drawn(small):
    cell = Cell(("adv1",), PGD, key("AdvPT", "pgd40"))
    bars = Figure(
        "fig6",
        "t",
        "c",
        "bars",
        "",
        "%",
        (PointCell("p", "s", "Pets", 0.0, cell), PointCell("q", "s", "DTD", 1.0, Cell(("no",), PGD))),
    )
    lines = Figure("fig7", "t", "c", "lines", "M", "%", tuple(PointCell("p", "s", "l", float(x), cell) for x in (1, 2)))
    report = small.report(bars, lines)
    with (small.top / "report" / "figures" / "fig7.csv").open() as file:
        assert {row["interval"] for row in csv.DictReader(file)} == {IMAGES_ONLY}
    assert "Error bars are 95 % intervals" in small.page()
    assert {p.name for p in report.files if p.suffix == ".png"} == {"fig6.png", "fig7.png"}


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


def test_a_dozen_series_look_different():
    looks = {(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(12)}
    assert len(looks) == 12
