"""The printed numbers of fine-tuned towers: none under a place that differs, and the means that papers print."""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict

import pytest

from advpt.attacks import parse
from advpt.results.published import FOLDER
from advpt.results.published_towers import (
    CLEAN,
    FIELDS,
    FILE,
    SOURCES,
    Difference,
    TowerNumber,
    TowerPlace,
    paper_attack,
    tower_number,
    tower_numbers,
)

PETS = TowerPlace("TeCoA", "ViT-B/32", "TinyImageNet eps1", "OxfordPets", "1", "PGD-100")


def rows(name: str = FILE) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_is_there_with_what_its_source_says_of_its_evaluation():
    assert len(rows()) == 948 and {row["source"] for row in rows()} == {row["source"] for row in rows(SOURCES)}
    robust = [each for each in tower_numbers() if each.place.attack != CLEAN]
    assert len(robust) == 948 and len(set(tower_numbers())) == len(tower_numbers())
    assert all(0 <= each.accuracy <= 100 for each in tower_numbers())
    of_fare = [each for each in robust if each.source.startswith("FARE")]
    assert of_fare and all((n.place.images, n.place.prompt) == ("1000", "fare") for n in of_fare)


def test_a_number_is_given_where_everything_agrees_with_source_and_attack_beside_it():
    number = tower_number(PETS)
    assert isinstance(number, TowerNumber) and number.accuracy == 36.44
    assert number.text.endswith("(TGA-ZSR NeurIPS'24 paper text, PGD-100 at 1/255)")
    clean = tower_number(dataclasses.replace(PETS, attack=CLEAN, eps=""))
    assert isinstance(clean, TowerNumber) and clean.text.endswith("paper text, clean)")
    plain = {"method": "CLIP", "train_set": "none"}
    ours = {
        protocol: tower_number(dataclasses.replace(PETS, protocol=protocol, prompt=protocol, **plain))
        for protocol in ("tecoa", "coop")
    }
    assert (ours["tecoa"].accuracy, ours["coop"].accuracy) == (3.84, 3.27), "two papers, two protocols"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"eps": "4"}, "budget 1, not 4"),
        ({"attack": "PGD-20"}, "attack PGD-100, not PGD-20"),
        ({"backbone": "ViT-B/16"}, "backbone ViT-B/32, not ViT-B/16"),
        ({"train_set": "ImageNet eps1"}, "training set TinyImageNet eps1, not ImageNet eps1"),
        ({"protocol": "coop"}, "protocol tecoa, not coop"),
        ({"prompt": "coop"}, "prompt tecoa, not coop"),
        ({"images": "1000"}, "test images all, not 1000"),
        ({"base": "LAION-2B"}, "base weights CLIP, not LAION-2B"),
        ({"dataset": "CIFAR10", "attack_at": "native"}, "resolution of attacks model, not native"),
    ],
)
def test_no_number_stands_where_anything_differs_and_the_cell_says_what(changed, words):
    near = tower_number(dataclasses.replace(PETS, **changed))
    assert isinstance(near, Difference) and near.nearest is not None
    assert near.text == f"{near.nearest.text} differs: {words}"


def test_each_field_counts_and_only_those_that_matter():
    fields = {field.name for field in dataclasses.fields(TowerPlace)}
    assert fields == {*FIELDS, "method", "dataset"}
    assert tower_number(dataclasses.replace(PETS, attack_at="native")) == tower_number(PETS), "its images are large"
    assert tower_number(dataclasses.replace(PETS, dataset="Digits")) == Difference(
        None, "no source prints TeCoA on Digits"
    )
    third = tower_number(TowerPlace("CAW", "ViT-B/32", "TinyImageNet eps1", "mean16", "1", "AutoAttack"))
    assert isinstance(third, Difference) and "protocol not known, not tecoa" in third.text


def test_the_nearest_differs_in_the_fewest_fields_and_in_what_matters_least():
    near = tower_number(dataclasses.replace(PETS, eps="4", attack="PGD-10", prompt="tecoa"))
    assert near.nearest.source == "DOC AAAI'26 paper text" and near.text.endswith("differs: prompt ttc, not tecoa")
    fare = TowerPlace("FARE4", "ViT-L/14", "ImageNet eps4", "OxfordPets", "4", "APGD-CE + APGD-T 100 it")
    assert tower_number(fare).text.endswith(
        "protocol clip-benchmark, not tecoa, test images 1000, not all, prompt fare, not tecoa"
    )
    same = dataclasses.replace(fare, protocol="clip-benchmark", prompt="fare", images="1000")
    assert isinstance(tower_number(same), TowerNumber)


def test_a_probable_misprint_stands_beside_nothing():
    doc = TowerPlace("PMG-AFT", "ViT-B/32", "TinyImageNet eps1", "PCAM", "4", "PGD-10", prompt="ttc")
    assert tower_number(doc).accuracy == 12.87
    assert all(n.accuracy != 12.87 for n in tower_numbers() if n.place.attack == CLEAN and n.place.dataset == "PCAM")
    other = tower_number(dataclasses.replace(doc, dataset="CIFAR10", attack=CLEAN, eps=""))
    assert other.accuracy == 70.68, "the other sets of that source are as they are"


def test_attacks_by_the_papers_names():
    names = {"pgd10-ce@1/a1": "PGD-10", "pgd100-ce@4/a1": "PGD-100", "aa@1": "AutoAttack",
             "apgd-ce-t@2": "APGD-CE + APGD-T 100 it"}  # fmt: skip
    assert {text: paper_attack(parse(text)) for text in names} == names
    for other in ("pgd20-ce@2", "pgd10-ce@1/a1/none", "pgd10-margin@1/a1", "pgd10-fkl@1/a1", "aa@128/l2"):
        assert paper_attack(parse(other)) == str(parse(other)), "no paper has it"


# What a source prints as the mean of its data sets, where its entries give another one.
MISPRINTS = {
    ("TGA-ZSR", "CLIP", "none", "CW", "robust"): ("3.64", 2.64),
    ("TGA-ZSR", "TGA-ZSR", "TinyImageNet eps1", "PGD-100", "clean"): ("56.44", 56.38),
    ("TGA-ZSR", "TGA-ZSR", "TinyImageNet eps1", "CW", "clean"): ("56.44", 56.38),
    ("DOC", "FARE", "TinyImageNet eps4", "PGD-10", "clean"): ("46.23", 46.17),
    ("FARE", "CLIP", "none", "APGD-CE + APGD-T 100 it", "clean"): ("73.1", 72.95),
    ("RITA", "PMG-AFT", "TinyImageNet eps1", "PGD-7", "clean"): ("36.5", 36.59),
    ("RITA", "PMG-AFT", "TinyImageNet eps1", "PGD-7", "robust"): ("26.1", 26.19),
}
OUTSIDE_THE_MEAN = {"TGA-ZSR": ("ImageNetA", "ImageNetO", "ImageNetR"), "FARE": ("ImageNet",)}


def test_printed_means_are_those_of_their_entries_but_for_known_misprints():
    by_row = defaultdict(dict)
    for row in rows():
        key = tuple(row[name] for name in ("source", "method", "base", "backbone", "train_set", "eps_255", "attack"))
        by_row[key][row["dataset"]] = row
    off, compared = {}, 0
    for (source, method, _, _, train_set, _, attack), datasets in by_row.items():
        paper = source.split()[0]
        means = [name for name in datasets if name.startswith("mean") and name[4:].isdigit()]
        entries = [r for name, r in datasets.items() if not name.startswith("mean")]
        entries = [r for r in entries if r["dataset"] not in OUTSIDE_THE_MEAN.get(paper, ())]
        for mean, kind in ((mean, kind) for mean in means for kind in ("clean", "robust")):
            numbers = [float(r[kind]) for r in entries if r[kind]]
            if len(numbers) != int(mean[4:]):
                continue
            printed, computed = datasets[mean][kind], sum(numbers) / len(numbers)
            digits, compared = len(printed.partition(".")[2]), compared + 1
            if abs(float(printed) - computed) > 0.7 * 10**-digits:  # entries are rounded, too
                off[paper, method, train_set, attack, kind] = (printed, round(computed, 2))
    assert off == MISPRINTS and compared > 70
