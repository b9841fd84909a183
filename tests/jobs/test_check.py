"""The check of a machine: its run, what it lacks, how long it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from advpt.backbones import clip
from advpt.backbones.backbone import Backbone
from advpt.data import catalog, demo_sets
from advpt.errors import ConfigError
from advpt.jobs import check as checks
from advpt.jobs.check import IMAGES, check_of, lacks, plan_of, seconds_per_image, split_of, weights_of
from advpt.jobs.places import Places
from advpt.jobs.recipes import Recipes
from advpt.jobs.setup import PAPER
from tests.helpers.dataset_trees import content, tree
from tests.helpers.workspace import ROOT

PETS = [(f"Abyssinian_{label}_{{}}.jpg", f"cat {label}") for label in range(3)]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Folders of a machine with neither weights nor data."""
    monkeypatch.setenv("ADVPT_CLIP_CACHE", str(tmp_path / "clip"))
    return Places(ROOT, tmp_path / "out", tmp_path / "data", tmp_path / "banks")


def weights(places: Places, text: str = "weights") -> Path:
    path = places.root.parent / "clip" / "ViT-B-16.pt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_every_cell_of_table_1_can_be_checked() -> None:
    for dataset in PAPER.datasets:
        for backbone in PAPER.backbones:
            made = check_of(dataset, backbone)
            assert made.numbers.clean > made.numbers.robust > 0 and made.images == IMAGES == 200
    pets = check_of("oxford_pets", "vit_b16")
    assert (pets.dataset, pets.numbers.clean, pets.numbers.robust, pets.numbers.images) == ("pets", 89.1, 24.4, 3669)
    assert "OxfordPets, ViT-B/16" in pets.title and "200 fixed test images" in pets.title and "@16" in pets.title
    imagenet = check_of("imagenet", "vit_b16")
    assert imagenet.numbers.images == 1000
    values = Recipes(ROOT).values(Recipes(ROOT).of("ZeroshotCLIP", "vit_b16", "imagenet"))
    assert values["DATASET.TEST_SUBSET"] == "paper1000", "as the check takes it to be"


@pytest.mark.parametrize(
    "words, images, reason",
    (
        (("pets", "rn50"), None, "no number of zero-shot CLIP is known; data sets: flowers"),
        (("caltech101", "vit_b16"), None, "--check digits democlip"),
        (("petz", "vit_b16"), None, "petz"),
        (("pets", "vit_b16"), -1, "--images is -1"),
        (("digits", "democlip"), 7, "40, 200 images"),
    ),
)
def test_mistakes_are_sentences(words: tuple[str, str], images: int | None, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_of(*words, images)


def test_what_is_missing_is_named_with_the_command(places: Places) -> None:
    pets = check_of("pets", "vit_b16")
    data, model = lacks(pets, places)
    assert f"advpt prepare pets --root {places.root}" in data and str(places.root / "oxford_pets" / "images") in data
    assert "not there: run curl -L" in model and "ViT-B-16.pt https://" in model
    assert clip.official_file("ViT-B/16")[1] in model
    tree(places.root, "OxfordPets", content(PETS))
    (model,) = lacks(pets, places)
    file = weights(places)
    (damaged,) = lacks(pets, places)
    assert "weights are damaged" in damaged and str(file) in damaged
    given = Places(ROOT, places.output, places.root, places.banks, {"vit_b16": str(file)})
    assert lacks(pets, given) == [], "a file of one's own is compared, not refused"
    facts = weights_of(pets, given)
    assert not facts.same and facts.ours and facts.bring.startswith("leave out --weights")
    split = places.root / "oxford_pets" / "split_zhou_OxfordPets.json"
    split.write_text("<html>")
    (broken,) = lacks(pets, given)
    assert "web page" in broken and "prepare pets" in broken
    with pytest.raises(ConfigError, match="there is no file /nowhere"):
        lacks(pets, Places(ROOT, places.output, places.root, places.banks, {"vit_b16": "/nowhere"}))


def test_the_official_split_is_told_from_others(places: Places) -> None:
    pets = check_of("pets", "vit_b16")
    assert split_of(pets, places).ours == "" and not split_of(pets, places).same
    tree(places.root, "OxfordPets", content(PETS))
    facts = split_of(pets, places)
    marks = catalog.get("OxfordPets").split
    assert marks is not None and facts.official == marks.content != facts.ours and not facts.same
    assert facts.bring.startswith("rm ") and "prepare pets" in facts.bring
    imagenet = split_of(check_of("imagenet", "vit_b16"), places)
    assert imagenet.same and imagenet.official == "official lists"
    demo_sets.prepare(demo_sets.DIGITS, places.root)
    digits = check_of("digits", "democlip")
    assert split_of(digits, places).same
    path = places.root / "digits" / "split_advpt_Digits.json"
    parts = json.loads(path.read_text())
    path.write_text(json.dumps(parts))
    assert split_of(digits, places).same, "equal content in another layout"
    parts["test"] = parts["test"][::-1]
    path.write_text(json.dumps(parts))
    assert not split_of(digits, places).same


def test_the_run_is_the_one_of_table_1_on_a_part_of_the_images(places: Places) -> None:
    tree(places.root, "OxfordPets", content(PETS))
    (job,) = plan_of(check_of("pets", "vit_b16"), places).jobs
    settings = dict(job.settings)
    assert (job.trainer, job.dataset, job.backbone, job.seed) == ("ZeroshotCLIP", "pets", "vit_b16", 1)
    assert settings["EVAL.ATTACKS"] == "('pgd40-fkl@16:transfer',)" and settings["EVAL.SUBSET"] == "200"
    assert settings["BANK.PROFILE"] == "paper"
    (whole,) = plan_of(check_of("pets", "vit_b16", 0, [("MODEL.COMPILE", "True")]), places).jobs
    assert "EVAL.SUBSET" not in dict(whole.settings) and dict(whole.settings)["MODEL.COMPILE"] == "True"


def test_other_weights_or_another_split_are_another_run(places: Places) -> None:
    pets, folders = check_of("pets", "vit_b16"), set()
    tree(places.root, "OxfordPets", content(PETS))
    folders.add(plan_of(pets, places).jobs[0].folder)
    weights(places)
    folders.add(plan_of(pets, places).jobs[0].folder)
    tree(places.root, "OxfordPets", content(PETS, test=3))
    folders.add(plan_of(pets, places).jobs[0].folder)
    assert len(folders) == 3
    digits = check_of("digits", "democlip")
    before = plan_of(digits, places).jobs[0].folder
    demo_sets.prepare(demo_sets.DIGITS, places.root)
    assert plan_of(digits, places).jobs[0].folder == before, "the data of the demo are made by the run"


def test_time_is_told_from_a_few_passes(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = check_of("digits", "democlip")
    job = plan_of(digits, places).jobs[0]
    monkeypatch.setattr(checks, "seconds_per_image", lambda *args: (0.5, 4))
    monkeypatch.setattr(checks, "START_SECONDS", 0.0)
    text = checks.estimate(digits, job, places)
    assert text.startswith("about 68 min on cpu: 200 images x 40 passes forward and backward of 500 ms, timed on 4")


@pytest.mark.parametrize("least, batch", ((0.0, 1), (1000.0, 6)))
def test_the_timed_batch_grows_until_it_can_be_timed(
    monkeypatch: pytest.MonkeyPatch, tiny_clip: Backbone, least: float, batch: int
) -> None:
    monkeypatch.setattr(checks, "PASS_SECONDS", least)
    assert seconds_per_image(tiny_clip, torch.device("cpu"), 6)[1] == batch


def test_what_does_not_fit_into_memory_is_not_timed(monkeypatch: pytest.MonkeyPatch, tiny_clip: Backbone) -> None:
    def passed(image: torch.nn.Module, pixels: torch.Tensor, device: torch.device) -> float:
        if len(pixels) > 4:
            raise torch.OutOfMemoryError
        return 0.01 * len(pixels)

    monkeypatch.setattr(checks, "_timed_pass", passed)
    assert seconds_per_image(tiny_clip, torch.device("cpu"), 64) == (0.01, 4)


def test_a_run_without_a_sound_record_says_so(places: Places) -> None:
    digits = check_of("digits", "democlip")
    plan = plan_of(digits, places)
    folder = places.folder(plan.jobs[0]) / "records"
    folder.mkdir(parents=True)
    (folder / "test_clean.json").write_text("{}")
    made, notes = checks.result_of(digits, plan, places)
    assert made is None and any("refused" in note for note in notes)
