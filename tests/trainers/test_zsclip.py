"""Zero-shot CLIP: no training, and its own prompt is the attacked one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from advpt.data import catalog, zero_shot
from tests.helpers.dataset_trees import Content, content, tree
from tests.helpers.workspace import parse_as_coop, results


def test_zero_shot_needs_no_training_and_its_prompt_is_the_attacked_one(workspace):
    workspace.run(trainer="ZeroshotCLIP")
    found = results(workspace.output)
    transfer, adaptive = found["test_transfer_pgd2-ce@8-a8.json"], found["test_adaptive_pgd2-ce@8-a8.json"]
    assert transfer["robust"]["bank"] == adaptive["robust"]["bank"] and transfer["hand_prompt"] == ["a photo of a {}."]
    assert parse_as_coop(workspace.output / "log.txt", "accuracy") == round(transfer["clean"]["accuracy"], 1)
    workspace.run("TRAINER.ZEROSHOTCLIP.ENSEMBLE", "True", trainer="ZeroshotCLIP", output=workspace.folder / "ensemble")
    other = results(workspace.folder / "ensemble")["test_transfer_pgd2-ce@8-a8.json"]
    assert len(other["hand_prompt"]) == 8 and other["prompt"] != transfer["prompt"]


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ("TRAINER.ZEROSHOTCLIP.TEMPLATES fare", "TEMPLATES is fare, which has no template for TinyPhotos"),
        ("TRAINER.ZEROSHOTCLIP.TEMPLATES fare TRAINER.ZEROSHOTCLIP.ENSEMBLE True", "TEMPLATE empty and ENSEMBLE False"),
        ("TRAINER.ZEROSHOTCLIP.TEMPLATES mine", "TRAINER.ZEROSHOTCLIP.TEMPLATES: unknown value 'mine'"),
        ("DATASET.PROTOCOL tecoa", "the file of TinyPhotos in datasets/ gives the images of coop"),
        (
            "EVAL.ATTACK_AT native",
            "the images of TinyPhotos have no one square size: tiny_photos/test/red_fox/0.png",
        ),
        ("EVAL.ATTACK_AT native EVAL.DEFENSES ('squeeze',)", "defenses read them at the model's"),
        ("EVAL.ATTACK_AT native EVAL.TEST_TIME ('zero',)", "measure them with EVAL.ATTACK_AT model"),
        ("EVAL.ATTACK_AT native EVAL.ATTACKS ('rap@8',)", "does not go through the model, which alone enlarges"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(workspace, pairs: str, sentence: str) -> None:
    status, printed = workspace.call(*pairs.split(), trainer="ZeroshotCLIP")
    assert status == 2 and sentence in printed, printed


def written(workspace, name: str, made: Content) -> None:
    """A small data set of the catalogue, with images."""
    folder = tree(workspace.folder / "data", name, made) / catalog.get(name).image_dir
    rng = np.random.default_rng(0)
    for rows in made.values():
        for path, *_ in rows:
            Image.fromarray(rng.integers(0, 255, (18, 18, 3), dtype=np.uint8)).save(folder / path)


def test_fares_prompts_are_an_ensemble_with_names_of_their_own(workspace) -> None:
    folders = list(zero_shot.table()["EuroSAT"].by_folder)
    written(workspace, "EuroSAT", content([(f"{name}/{{}}.jpg", f"CoOp's {name}") for name in folders], 1, 1, 1))
    words = ("DATASET.NAME", "EuroSAT", "EVAL.ATTACKS", "('pgd1-ce@8',)", "TRAINER.ZEROSHOTCLIP.TEMPLATES", "fare")
    workspace.run(*words, trainer="ZeroshotCLIP")
    result = results(workspace.output)["test_transfer_pgd1-ce@8-a8.json"]
    assert tuple(result["hand_prompt"]) == zero_shot.templates("fare", "EuroSAT") and len(result["hand_prompt"]) == 3
    about = json.loads((workspace.output / "zero_shot" / "prompt.json").read_text())
    assert about["classnames"][:4] == ["annual crop land", "forest", "brushland or shrubland", "highway or road"]


def test_nothing_of_one_protocol_is_read_for_the_other(workspace) -> None:
    """The same test images under the same names: banks, records and folders are apart all the same."""
    written(workspace, "OxfordPets", content([("beagle_{}.jpg", "beagle"), ("pug_{}.jpg", "pug")]))
    by_protocol = {}
    for protocol in ("coop", "tecoa"):
        words = ("DATASET.NAME", "OxfordPets", "DATASET.PROTOCOL", protocol, "EVAL.ATTACKS", "('pgd1-ce@8',)")
        output = workspace.folder / protocol
        workspace.run(*words, "TRAINER.ZEROSHOTCLIP.TEMPLATES", "tecoa", trainer="ZeroshotCLIP", output=output)
        by_protocol[protocol] = results(output)["test_transfer_pgd1-ce@8-a8.json"]
    coop, tecoa = by_protocol["coop"], by_protocol["tecoa"]
    assert coop["hand_prompt"] == tecoa["hand_prompt"] == ["A photo of a {}, a type of pet."]
    assert (coop["dataset"], tecoa["dataset"]) == ("OxfordPets", "OxfordPets-tecoa")
    assert coop["split_digest"] != tecoa["split_digest"] and coop["images"] == tecoa["images"]
    assert coop["clean"]["outcome"] == tecoa["clean"]["outcome"], "the images and the prompt are the same"
    keys = [{result[part]["bank"] for part in ("clean", "robust")} for result in (coop, tecoa)]
    assert not keys[0] & keys[1] and coop["prompt"] == tecoa["prompt"]
    banks = {path.name for path in (workspace.folder / "banks").iterdir()}
    assert banks == {"OxfordPets", "OxfordPets-tecoa"}
    assert "DATASET.PROTOCOL" not in coop["config"] and tecoa["config"]["DATASET.PROTOCOL"] == "tecoa"
    manifests = [json.loads(path.read_text())["spec"]["adversarial_set"]["data"].get("protocol")
                 for path in (workspace.folder / "banks").rglob("manifest.json")]  # fmt: skip
    assert sorted(map(str, manifests)) == ["None", "None", "tecoa", "tecoa"]
    for trainer in ("AdvPT", "LinearProbe"):
        words = ("DATASET.NAME", "OxfordPets", "DATASET.PROTOCOL", "tecoa")
        status, printed = workspace.call(*words, trainer=trainer, output=workspace.folder / trainer)
        assert status == 2 and "OxfordPets cannot be trained on: DATASET.PROTOCOL tecoa tests it and has no" in printed
