"""The table of the zero-shot robustness protocol, its class names and prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advpt.data import catalog, imagenet, zero_shot
from advpt.data.split import Split
from advpt.data.zero_shot import NAMES, TECOA, class_names, facts_of, split_digest, table, templates
from advpt.errors import ConfigError, DataError
from advpt.files import file_digest

PLAIN = "This is a photo of a {}"
# Images, classes and prompt of each data set.
SETS = {
    "CIFAR10": (10_000, 10, PLAIN),
    "CIFAR100": (10_000, 100, PLAIN),
    "STL10": (8_000, 10, PLAIN),
    "TinyImageNet": (10_000, 200, PLAIN),
    "ImageNet": (50_000, 1_000, PLAIN),
    "Caltech101": (8_677, 101, PLAIN),
    "Caltech256": (30_607, 257, "A photo of a {}."),
    "SUN397": (108_754, 397, PLAIN),
    "EuroSAT": (27_000, 10, "A centered satellite photo of {}."),
    "DescribableTextures": (1_880, 47, "A surface with a {} texture."),
    "OxfordFlowers": (6_149, 102, "A photo of a {}, a type of flower."),
    "Food101": (25_250, 101, "A photo of {}, a type of food."),
    "OxfordPets": (3_669, 37, "A photo of a {}, a type of pet."),
    "StanfordCars": (8_041, 196, "A photo of a {}."),
    "FGVCAircraft": (3_333, 100, "A photo of a {}, a type of aircraft."),
}
SHARED = ("CIFAR10", "CIFAR100", "STL10", "TinyImageNet", "ImageNet", "Caltech256", "OxfordPets", "StanfordCars")


def test_the_table_is_the_papers() -> None:
    made = {name: (f.images, f.classes or catalog.get(name).classes, f.template) for name, f in table().items()}
    assert made == SETS
    assert all(facts.names in NAMES for facts in table().values())
    assert [name for name, facts in table().items() if facts.native] == ["CIFAR10", "CIFAR100", "STL10"]


@pytest.mark.parametrize("name", [*SHARED, "FGVCAircraft"])
def test_where_coop_tests_the_same_images_the_numbers_agree(name: str) -> None:
    assert table()[name].lists == "split" and table()[name].images == catalog.get(name).counts[2]


def test_where_coop_has_cut_its_own_split_the_numbers_differ() -> None:
    others = set(SETS) - {*SHARED, "FGVCAircraft"}
    assert others == {name for name, facts in table().items() if facts.lists != "split"}
    assert all(table()[name].images != catalog.get(name).counts[2] for name in others)


def test_lists_that_ship_are_the_sources_bytes() -> None:
    digests = {
        "robustbench_imagenet5000.txt": "d4121626d07722a0126c35b1563042e46a546f1a05ce705f2cdc635896d58574",
        "imagenet_first_synonyms.txt": "25d91744b49f9629e3c33fa42cf421b00c1839b3802daf82d94648740844e947",
        "fare_templates.json": "074816f21717424922d8c07ec39a435b8083727dba3bff48280d9502a96760c7",
        "fare_names.json": "67c3c7cd635f82179b1013bf8e23d614b50a4ad6a6af5d170b1466ccbd7734db",
    }
    assert {name: file_digest(zero_shot.HERE / name) for name in digests} == digests
    for name in ("robustbench_imagenet5000", "imagenet_first_synonyms", "fare"):
        assert "MIT" in (zero_shot.HERE / f"{name}.LICENSE.txt").read_text(encoding="utf-8")


def test_other_protocols_and_other_data_sets_are_refused() -> None:
    assert facts_of("pets", "coop") is None and facts_of("digits", "coop") is None
    assert facts_of("pets", TECOA) == table()["OxfordPets"]
    with pytest.raises(ConfigError, match="protocol 'tecos'. Did you mean 'tecoa'"):
        facts_of("pets", "tecos")
    with pytest.raises(ConfigError, match="PROTOCOL is tecoa, and UCF101 is not among its data sets: CIFAR10, .*coop"):
        facts_of("ucf101", TECOA)


def test_names_of_imagenet_are_first_synonyms() -> None:
    names = zero_shot.first_synonyms()
    assert names.keys() == imagenet.shipped_names().keys()
    assert names["n02119789"] == "kit fox" and names["n02100735"] == "english setter"
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    assert twice == {"crane", "maillot", "cardigan"}
    assert NAMES["first_synonyms"]("val/n02119789/a.JPEG", "CLIP's name") == "kit fox"


@pytest.mark.parametrize(
    ("rule", "path", "name", "expected"),
    [
        ("", "a/b.jpg", "red_fox", "red_fox"),
        ("spaced", "a/b.jpg", "aquarium_fish", "aquarium fish"),
        ("without_letter", "", "a/apartment_building/outdoor", "apartment building outdoor"),
        ("without_letter", "", "a/abbey", "abbey"),
        ("without_year", "", "2012 BMW M3 Coupe", "BMW M3 Coupe"),
        ("without_year", "", "BMW M3 Coupe", "BMW M3 Coupe"),
        ("boeing", "", "737-200", "boeing 737-200"),
        ("boeing", "", "A300B4", "a300b4"),
    ],
)
def test_names_of_classes(rule: str, path: str, name: str, expected: str) -> None:
    assert NAMES[rule](path, name) == expected


def test_prompts_are_those_of_the_protocol_or_of_a_template_set() -> None:
    assert templates("", "pets") == ("a photo of a {}, a type of pet.",)
    assert templates("", "pets", TECOA) == templates(TECOA, "pets") == ("A photo of a {}, a type of pet.",)
    sizes = {name: len(templates("fare", name)) for name, facts in table().items() if facts.fare}
    assert sizes == {
        "CIFAR10": 18, "CIFAR100": 18, "STL10": 2, "ImageNet": 80, "Caltech101": 34, "SUN397": 2, "EuroSAT": 3,
        "DescribableTextures": 8, "OxfordFlowers": 1, "Food101": 1, "OxfordPets": 1, "StanfordCars": 8,
        "FGVCAircraft": 2,
    }  # fmt: skip
    assert templates("fare", "eurosat")[0] == "a centered satellite photo of {}."
    assert all("{}" in text and "{c}" not in text for name in sizes for text in templates("fare", name))
    for template_set, name in (("fare", "Caltech256"), ("tecoa", "digits")):
        with pytest.raises(ConfigError, match=f"TEMPLATES is {template_set}, which has no template for {name}; it has"):
            templates(template_set, name)


def test_fare_has_names_of_its_own_for_some() -> None:
    eurosat = list(table()["EuroSAT"].by_folder)
    assert class_names("fare", "eurosat", ["x"] * 10, eurosat)[3] == "highway or road"
    assert (
        class_names("", "eurosat", ["x"] * 10, eurosat)
        == class_names(TECOA, "eurosat", ["x"] * 10, eurosat)
        == ["x"] * 10
    )
    assert class_names("fare", "cars", ["a", "b"], ["", ""]) == ["a", "b"]
    assert class_names("fare", "ImageNet", ["first synonym"], ["n02119789"]) == [imagenet.shipped_names()["n02119789"]]
    with pytest.raises(ConfigError, match="names 10 classes of eurosat, and there are 5; .*SUBSAMPLE_CLASSES all"):
        class_names("fare", "eurosat", ["x"] * 5, eurosat[:5])


def test_fares_names_of_caltech_are_by_folder() -> None:
    others = [f"{letter}{i}" for letter, n in (("b", 44), ("g", 54)) for i in range(n)][:97]
    folders = sorted(["Faces", "airplanes", "accordion", *others])
    names = class_names("fare", "Caltech101", ["x"] * len(folders), folders)
    by_folder = dict(zip(folders, names))
    assert by_folder["accordion"] == "accordion" and by_folder["airplanes"] == "airplane" and len(names) == 100
    with pytest.raises(ConfigError, match="Caltech101, and there are 3"):
        class_names("fare", "Caltech101", ["x"] * 3, folders[:3])


rows = st.lists(st.text(alphabet="ab/", min_size=1, max_size=5), unique=True, min_size=1, max_size=6)


@given(rows, rows)
def test_a_split_has_another_digest_under_another_protocol(one: list[str], other: list[str]) -> None:
    first, second = (Split((), (), tuple((path, 0, "x") for path in paths)) for paths in (one, other))
    assert split_digest("coop", first) == first.digest()
    assert split_digest(TECOA, first) not in (first.digest(), second.digest())
    assert (split_digest(TECOA, first) == split_digest(TECOA, second)) == (one == other)


# --- lists on disk --------------------------------------------------------------------------------------------------


def nothing() -> Split:
    raise AssertionError("CoOp's split is not needed")


@given(st.dictionaries(st.sampled_from(["B", "a", "a/x", "c"]), st.integers(1, 3), min_size=1))
def test_all_images_of_class_folders_are_tested_in_the_order_of_folders(folders: dict[str, int]) -> None:
    import tempfile

    facts, rule = catalog.get("Caltech101"), table()["Caltech101"]
    with tempfile.TemporaryDirectory() as top:
        for folder, n in [*folders.items(), ("BACKGROUND_Google", 2)]:
            for i in range(n):
                path = Path(top, facts.image_dir, folder, f"{i}.jpg")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        split, different = zero_shot.lists_of(facts, rule, Path(top), nothing)
    wanted = [(f"{f}/{i}.jpg", k, f) for k, f in enumerate(sorted(folders)) for i in range(folders[f])]
    assert list(split.test) == wanted and not split.train and not split.val
    n, classes = sum(folders.values()), len(folders)
    assert different == [
        f"Caltech101: {n:,} images of {classes} classes are tested, the protocol has 8,677 of 101. Results are marked "
        "as not comparable with published ones"
    ]


def test_a_list_of_another_form_is_refused(tmp_path: Path) -> None:
    facts, rule = catalog.get("Food101"), table()["Food101"]
    (tmp_path / "meta").mkdir()
    (tmp_path / rule.file).write_text("pizza/1\n\nno_slash\n")
    with pytest.raises(DataError, match="has the line 'no_slash'; expected a class, a slash and an image"):
        zero_shot.lists_of(facts, rule, tmp_path, nothing)


def test_a_damaged_setid_is_refused_before_it_is_read(tmp_path: Path) -> None:
    facts, rule = catalog.get("OxfordFlowers"), table()["OxfordFlowers"]
    (tmp_path / "setid.mat").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"setid.mat is not the official file .* curl -L -o .*setid.mat https"):
        zero_shot.lists_of(facts, rule, tmp_path, lambda: Split((), (), ()))
