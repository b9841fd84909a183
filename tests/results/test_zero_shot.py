"""The table of one model on many data sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from advpt.results.exhibit import robust
from advpt.results.index import Run
from advpt.results.published_towers import Difference, TowerNumber, tower_numbers
from advpt.results.zero_shot import MeasuredSet, SetRow, Tower, ZeroShotTable, fill, paper_text, published_mean
from tests.helpers.reports import put

ATTACK = "pgd100-ce@1/a1"
CLIP = Tower("CLIP", "ViT-B/32", "none")


def table(
    folder: Path, hits: dict[str, tuple[int, int] | None], tower: Tower | None = None, **about: object
) -> ZeroShotTable:
    """A table of runs with so many of 100 images right, clean and under attack; None: a run that was not made."""
    metric, runs, measured = robust(ATTACK, "adaptive"), {}, []
    for name, numbers in hits.items():
        if numbers is not None:
            attack = {"spec": metric.attack, "asked": metric.attack}
            more = {"protocol": "adaptive", "attack": attack, "trainer": "ZeroshotCLIP", "dataset": name}
            put(folder / name, *numbers, **more, **about)
        runs[name] = Run(name, folder / name, 1, "done" if numbers else "not run")
        measured.append(MeasuredSet(name, name))
    rows, _ = fill(measured, [ATTACK], runs, tower)
    return ZeroShotTable("clip", (ATTACK,), rows, ("STL10: run prepare",))


def lines(made: ZeroShotTable) -> list[list[str]]:
    rows = [line for line in made.text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_a_row_for_each_data_set_and_their_mean(tmp_path: Path) -> None:
    made = table(tmp_path, {"CIFAR10": (90, 10), "OxfordPets": (60, 20), "EuroSAT": None})
    head, cifar, pets, eurosat, mean = lines(made)
    assert head == ["data set", "images", "clean", f"{ATTACK}, adaptive"]
    assert cifar[:2] == ["CIFAR10", "100"] and cifar[2].startswith("90.0 [") and cifar[3].startswith("10.0 [")
    assert pets[3].startswith("20.0 [") and eurosat == ["EuroSAT", "-", "not run", "not run"]
    assert mean == ["mean of 2", "", "75.0", "15.0"] and made.means() == [75.0, 15.0]
    text = made.text()
    assert "The mean is over CIFAR10, OxfordPets, each counted once. Means over other lists" in text
    assert "without data: STL10: run prepare" in text


def test_nothing_measured_has_no_mean(tmp_path: Path) -> None:
    made = table(tmp_path, {"CIFAR10": None})
    assert (
        made.means() == [] and lines(made)[-1] == ["mean of 0", "", "-", "-"] and "The mean is over" not in made.text()
    )


def test_a_printed_number_stands_beside_ours_only_where_all_agrees(tmp_path: Path) -> None:
    agreeing = [each for each in tower_numbers() if (p := each.place).method == "CLIP" and p.attack == "PGD-100"]
    printed = next(each for each in agreeing if each.place.dataset == "CIFAR10" and each.place.eps == "1")
    place = printed.place
    fields = {name: getattr(place, name) for name in ("protocol", "prompt", "backbone", "train_set")}
    tower, of = Tower(method="CLIP", **fields), MeasuredSet("CIFAR10", "run", place.attack_at, place.images)
    assert tower.published(of, ATTACK) == printed
    assert paper_text(printed) == f"{printed.accuracy:.1f} ({printed.source})"
    for other, words in (
        (Tower(method="CLIP", **fields | {"protocol": "coop"}), "protocol"),
        (Tower(method="CLIP", **fields | {"prompt": "own"}), "prompt"),
    ):
        cell = paper_text(other.published(of, ATTACK))
        assert cell.startswith("not comparable: ") and words in cell
    part = dataclasses.replace(of, images="1000")
    assert paper_text(tower.published(part, ATTACK)) == "not comparable: test images all, not 1000"
    assert "attack" in paper_text(tower.published(of, "pgd10-ce@1/a1"))
    there = MeasuredSet("CIFAR10", "run", {"model": "native", "native": "model"}[of.attack_at])
    assert "resolution of attacks" in paper_text(tower.published(there, ATTACK))
    assert "budget" in paper_text(tower.published(of, "pgd100-ce@3/a1"))
    assert paper_text(tower.published(MeasuredSet("Digits", "run"), ATTACK)) == "-"


@pytest.mark.parametrize(
    ("comparable", "words"),
    [(False, "our images are not the official ones"), (None, "nobody knows which images ours are")],
)
def test_no_number_is_printed_beside_images_that_are_not_the_official_ones(
    tmp_path: Path, comparable: bool | None, words: str
) -> None:
    _, official, mean = lines(table(tmp_path / "a", {"OxfordPets": (90, 10)}, CLIP))
    assert official[3].endswith(")") and "(" in mean[3]
    _, other, mean = lines(table(tmp_path / "b", {"OxfordPets": (90, 10)}, CLIP, comparable=comparable))
    assert other[3] == other[5] == f"not comparable: {words}" and mean[3] == mean[5] == "-"


def number(source: str, accuracy: float) -> TowerNumber:
    place = next(iter(tower_numbers())).place
    return TowerNumber(place, accuracy, source)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ((number("A", 10.0), number("A", 30.0)), "20.0 (A)"),
        ((number("A", 10.0), number("B", 30.0)), "-"),
        ((number("A", 10.0), Difference(None, "no source")), "-"),
        ((), "-"),
    ],
)
def test_a_papers_mean_is_over_the_same_data_sets(printed: tuple, expected: str) -> None:
    assert published_mean(printed) == expected


def test_columns_of_papers_stand_behind_ours(tmp_path: Path) -> None:
    head, cifar, mean = lines(table(tmp_path, {"CIFAR10": (90, 10)}, CLIP))
    assert head == ["data set", "images", "clean", "papers", f"{ATTACK}, adaptive", "papers"]
    assert len(cifar) == len(mean) == 6 and cifar[2].startswith("90.0") and cifar[3] != ""


def test_a_row_says_where_it_was_attacked() -> None:
    assert SetRow(MeasuredSet("CIFAR10", "x", "native"), ()).name == "CIFAR10, attacked at its own size"
    assert SetRow(MeasuredSet("CIFAR10", "x"), ()).name == "CIFAR10"
