"""What a check says of a record, made up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from advpt.backbones import clip
from advpt.evaluation import record as records
from advpt.evaluation.record import Accuracy
from advpt.results.check import Check, FileFacts, Published, agrees, compare
from advpt.results.exhibit import robust
from advpt.results.expected import KnownModel, KnownNumbers
from tests.helpers.reports import put

TEMPLATE = "a photo of a {}, a type of pet."
CARD = clip.card_of("ViT-B/16", clip.OFFICIAL["ViT-B/16"]).image
PAPER = KnownNumbers("Table 1 of AdvPT's paper", 89.1, 24.4, 3669)
OWN = KnownNumbers("this project's own numbers", 58.0, 39.0, 200, exact=True)
PUBLISHED = Published(PAPER, robust("pgd40-fkl@16").attack, CARD, TEMPLATE)
WEIGHTS, SPLIT = FileFacts("5806e77c", "5806e77c", True, "curl"), FileFacts("1758", "1758", True, "prepare")
CONFIG = {
    "INPUT.SIZE": [224, 224],
    "INPUT.INTERPOLATION": "bicubic",
    "INPUT.PIXEL_MEAN": list(CARD.mean),
    "INPUT.PIXEL_STD": list(CARD.std),
}


def check(
    folder: Path,
    hits: tuple[int, int | None] = (178, 49),
    *,
    published: Published = PUBLISHED,
    weights: FileFacts = WEIGHTS,
    split: FileFacts = SPLIT,
    given: Mapping[str, str] | None = None,
    n: int = 200,
    config: Mapping[str, object] | None = None,
    **more: object,
) -> Check:
    fields: dict[str, object] = {"hand_prompt": [TEMPLATE], "trainer": "ZeroshotCLIP"}
    fields["backbone"] = {"name": "ViT-B/16", "image": "a" * 64, "text": "b" * 64}
    observed = {"finished": 1.0, "host": {"machine": "x86_64", "device": "cpu"}, "versions": {"torch": "2.14"}}
    made = put(folder, *hits, n=n, **fields | more | {"config": CONFIG | dict(config or {}), "observed": observed})
    return compare(records.read(made), published, weights, split, given or {})


def different(made: Check) -> list[str]:
    return [row.name for row in made.rows if not row.same]


def test_all_is_as_published(tmp_path: Path) -> None:
    made = check(tmp_path)
    text = made.text()
    assert len(made.rows) == 13, "settings beside these only where they differ"
    assert made.all_same and "next" not in text and text.endswith("result    all is as published")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "accuracy" in line]
    assert cells[:2] == [
        ["clean accuracy", "89.1", "89.0 [83.9, 92.6], 178 of 200", "agrees"],
        ["accuracy under the attack", "24.4", "24.5 [19.1, 30.9], 49 of 200", "agrees"],
    ]
    assert "is of all 3,669 test images, ours of 200, in which classes take turns" in text
    assert "up to 6 points off (95 % interval, Wilson)" in text and "one of ten machines" in text
    assert "on cpu, torch 2.14" in text


def test_a_number_outside_the_interval_differs_and_more_images_are_advised(tmp_path: Path) -> None:
    made = check(tmp_path, (178, 30))
    assert different(made) == ["accuracy under the attack"] and not made.all_same
    assert "next      accuracy under the attack: --images 1000 tells more" in made.text()
    assert made.text().endswith("result    not all is as published")
    all_of_them = check(tmp_path / "all", (3269, 600), n=3669)
    assert different(all_of_them) == ["accuracy under the attack"] and "Both are of all 3,669" in all_of_them.text()
    assert "see the run's log" in all_of_them.text() and "--images" not in all_of_them.text()


@pytest.mark.parametrize(
    "config, name, advice",
    (
        ({"INPUT.SIZE": [32, 32]}, "INPUT.SIZE", '--set INPUT.SIZE "(224, 224)"'),
        ({"INPUT.INTERPOLATION": "bilinear"}, "INPUT.INTERPOLATION", '--set INPUT.INTERPOLATION "bicubic"'),
        ({"INPUT.RESIZE": "squash"}, "INPUT.RESIZE", '--set INPUT.RESIZE "shortest"'),
        ({"INPUT.PIXEL_MEAN": [0.5, 0.5, 0.5]}, "INPUT.PIXEL_MEAN", '"(0.48145466, 0.4578275, 0.40821073)"'),
        ({"INPUT.PIXEL_STD": [0.5, 0.5, 0.5]}, "INPUT.PIXEL_STD", '"(0.26862954, 0.26130258, 0.27577711)"'),
        ({"DATASET.PROTOCOL": "tecoa"}, "DATASET.PROTOCOL", '--set DATASET.PROTOCOL "coop"'),
        ({"DATASET.SUBSAMPLE_CLASSES": "new"}, "DATASET.SUBSAMPLE_CLASSES", '"all"'),
        ({"DATASET.TEST_SUBSET": "paper1000"}, "DATASET.TEST_SUBSET", '""'),
        ({"EVAL.ATTACK_AT": "native"}, "EVAL.ATTACK_AT", '"model"'),
        ({"BANK.PREC": "amp"}, "BANK.PREC", '"fp32"'),
    ),
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_other_settings_are_named_with_the_published_value(
    tmp_path: Path, config: dict[str, object], name: str, advice: str
) -> None:
    made = check(tmp_path, config=config)
    assert different(made) == [name] and not made.all_same
    (line,) = [line for line in made.text().splitlines() if line.startswith("next")]
    assert line.startswith(f"next      {name}: git diff configs") and advice in line
    again = check(tmp_path, config=config, given={name: "X"})
    assert f'next      {name}: leave out --set {name} "X"' in again.text()


def test_settings_of_today_may_say_what_a_record_leaves_out(tmp_path: Path) -> None:
    same = {"INPUT.RESIZE": "shortest", "DATASET.PROTOCOL": "coop", "INPUT.SIZE": [224, 224], "BANK.PREC": "fp32"}
    assert check(tmp_path, config=same).all_same


def test_another_prompt(tmp_path: Path) -> None:
    made = check(tmp_path, hand_prompt=["a photo of a {}."])
    assert different(made) == ["prompt"]
    assert f'--set TRAINER.ZEROSHOTCLIP.TEMPLATE "{TEMPLATE}"' in made.text()
    key = "TRAINER.ZEROSHOTCLIP.ENSEMBLE"
    made = check(tmp_path, hand_prompt=["a {}.", "b {}."], given={key: "True"})
    assert "2 templates" in made.text() and f'leave out --set {key} "True"' in made.text()


def test_other_weights_and_towers(tmp_path: Path) -> None:
    made = check(tmp_path, weights=FileFacts("5806e77c", "ffff", False, "curl -L -o FILE URL"))
    assert different(made) == ["weights", "image tower", "text tower"]
    assert "next      weights: curl -L -o FILE URL" in made.text() and "first the file of weights" in made.text()
    about: dict[str, object] = {"name": "ViT-B/16", "image": "c" * 64, "text": "b" * 64}
    tower = check(tmp_path, backbone=about | {"image_file": {"path": "tower.pt"}})
    assert different(tower) == ["image tower"] and "leave out MODEL.IMAGE_WEIGHTS" in tower.text()
    for more in ({"reads": {"image": {"activation": "gelu"}}}, {"source": {"repository": "x"}}):
        made = check(tmp_path, backbone=about | more)
        assert different(made) == ["image tower", "text tower"]
        assert "leave out MODEL.ACTIVATION and MODEL.BACKBONE.NAME" in made.text()


def test_towers_on_record_are_compared_by_their_digests(tmp_path: Path) -> None:
    known = Published(PAPER, PUBLISHED.attack, CARD, TEMPLATE, model=KnownModel("f", "a" * 64, "d" * 64))
    assert different(check(tmp_path, published=known)) == ["text tower"]


def test_another_split(tmp_path: Path) -> None:
    made = check(tmp_path, split=FileFacts("1758", "9999", False, "rm FILE && prepare"))
    assert different(made) == ["split"] and "next      split: rm FILE && prepare" in made.text()
    for comparable in (False, None):
        assert different(check(tmp_path, comparable=comparable)) == ["split"], "the record itself was of another"


def test_another_attack_and_none(tmp_path: Path) -> None:
    other = {"spec": "pgd10-ce@4/a1", "asked": "pgd10-ce@4/a1"}
    made = check(tmp_path, attack=other)
    assert different(made) == ["attack"] and "--set EVAL.ATTACKS \"('pgd40-fkl@16/a0.5:transfer',)\"" in made.text()
    assert different(check(tmp_path, protocol="adaptive")) == ["attack"]
    none = check(tmp_path / "none", (178, None))
    assert different(none) == ["attack", "accuracy under the attack"] and "not measured" in none.text()
    assert "next      attack: start the same command again" in none.text() and "up to 4 points off" in none.text()
    none = check(tmp_path / "none", (178, None), given={"EVAL.ATTACKS": "()"})
    assert "next      attack: leave out --set EVAL.ATTACKS" in none.text()


def test_what_differs_is_settled_before_numbers_are_explained(tmp_path: Path) -> None:
    made = check(tmp_path, (100, 49), hand_prompt=["a photo of a {}."])
    assert different(made) == ["prompt", "clean accuracy"]
    assert "next      clean accuracy: first the rows above that differ" in made.text()


def test_numbers_of_our_own_allow_for_another_processor(tmp_path: Path) -> None:
    own = Published(OWN, PUBLISHED.attack, CARD, TEMPLATE)
    for hits, names in (
        ((116, 78), []),
        ((118, 76), []),
        ((119, 78), ["clean accuracy"]),
        ((116, 75), ["accuracy under the attack"]),
    ):
        made = check(tmp_path, hits, published=own)
        assert different(made) == names
    text = check(tmp_path, (116, 78), published=own).text()
    assert "| on record" in text and "58.0, 116 of 200" in text and "Both are of the same 200 images" in text
    assert text.endswith("result    all is as on record")


def test_the_interval_has_the_rounding_of_the_paper() -> None:
    part = Accuracy.of(torch.arange(200) < 100)
    low, high = part.interval95
    inside = [agrees(number, part, PAPER) for number in (low - 0.06, low - 0.04, 50.0, high + 0.04, high + 0.06)]
    assert inside == [False, True, True, True, False]
