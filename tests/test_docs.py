"""The pages that people read: every link and anchor resolves, every page is in the index, what they type exists."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest

from advpt.cli import parser

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "docs" / "README.md"
TOP = [ROOT / name for name in ("README.md", "DATASETS.md", "CONTRIBUTING.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^()]*)\)|<(?:img|a)\s[^>]*?(?:src|href)=\"([^\"]*)\"")
PAGE = """
# A `b`, c's [d](e.md)
## Twice
## Twice

    [no](no.md)

`[no](no.md)` [yes](x.md#y) ![f](f.png) <img src="g.png">
"""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """A page without its code: fenced lines, and indented ones after a blank one or a heading."""
    kept, fence, before = list[str](), "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        mark = re.match(r"`{3,}|~{3,}", line)
        if fence or mark:
            fence = "" if fence and line.startswith(fence) else fence or mark[0]  # type: ignore[index]
            line = ""
        elif line.startswith("    ") and before[:1] in ("", "#"):
            line = ""
        kept.append(line)
        before = line.strip()
    return "\n".join(kept)


def links(path: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "`code`", prose(path))
    return [marked or written for marked, written in LINK.findall(text)]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    made: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#{1,6} +(.*?)(?: +#+)? *$", prose(path), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names.add(f"{name}-{made[name]}" if made[name] else name)
        made[name] += 1
    return names


def dead(path: Path, link: str) -> str:
    """Why a link leads nowhere, "" where it leads somewhere."""
    file, _, anchor = link.partition("#")
    target = (path.parent / file).resolve() if file else path
    if not target.is_relative_to(ROOT):
        return f"{link} leads out of the repository"
    if not target.exists():
        return f"{link} is not there"
    if anchor and (target.suffix != ".md" or anchor not in anchors(target)):
        return f"{link} names no heading"
    return ""


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_somewhere(path: Path) -> None:
    relative = [link for link in links(path) if not re.match(r"https?:|mailto:", link)]
    assert [why for link in relative if (why := dead(path, link))] == []


def test_links_and_anchors_are_read_as_github_reads_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert links(page) == ["e.md", "x.md#y", "f.png", "g.png"]
    assert anchors(page) == {"a-b-cs-d", "twice", "twice-1"}


def test_the_index_has_every_page_once() -> None:
    listed = Counter((INDEX.parent / link).resolve() for link in links(INDEX))
    pages = {path for path in PAGES if path not in (INDEX, TOP[0])}
    assert sorted(name_of(path) for path in pages - set(listed)) == []
    assert [name_of(path) for path, times in listed.items() if times > 1] == []
    assert "docs/README.md" in links(TOP[0])


def test_the_index_has_the_doors_of_the_readme() -> None:
    readme, index = (re.findall(r"^## (I want to .*)$", prose(path), flags=re.MULTILINE) for path in (TOP[0], INDEX))
    assert len(readme) == 4 and index == readme


def test_every_extra_is_explained() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8").split("extras_require={")[1]
    names = re.findall(r'^        "(\w+)":', setup, flags=re.MULTILINE)
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert len(names) > 4 and [name for name in names if f'| `pip install "advpt[{name}]"` |' not in page] == []


def sentences(path: Path) -> set[str]:
    """Sentences of a page, tables and headings left out."""
    lines = [line if not line.startswith(("|", "#", "<!--")) else "\n" for line in prose(path).splitlines()]
    text = re.sub(r"\n(?=[-*] |\n)", "\n\n", "\n".join(lines))
    made: set[str] = set()
    for paragraph in text.split("\n\n"):
        for each in re.split(r"(?<=[.:;])\s+", " ".join(paragraph.split())):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", each).lower()
            if len(words) >= 30:
                made.add(words)
    return made


def test_nothing_is_said_twice() -> None:
    by = {name_of(path): sentences(path) for path in PAGES}
    shared = {(a, b): by[a] & by[b] for a, b in itertools.combinations(by, 2)}
    assert {pair: found for pair, found in shared.items() if found} == {}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_what_it_types_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {word for line in re.findall(r"^ {4}make ([a-z -]+?)(?: *#.*)?$|`make ([a-z -]+)`", text, flags=re.MULTILINE)
            for word in "".join(line).split()} <= targets  # fmt: skip
    scripts = set(re.findall(r"\bscripts/[\w./-]+\.(?:sh|sbatch)\b", text))
    assert [name for name in sorted(scripts) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_verb_it_types_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.sub(r"bash scripts/advpt/(reproduce|sweep)\.sh", r"python -m advpt \1", text)
    for line in re.findall(r"python -m advpt +([a-z][^#>`\n|]*)", text):
        words = line.split()
        if words[1:]:
            parser(words[:1]).parse_args(words)
        else:
            assert words[0] in parser(()).format_help()
