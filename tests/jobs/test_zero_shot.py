"""The plan of one model on many data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.data import catalog, zero_shot
from advpt.errors import ConfigError
from advpt.jobs.places import Places, missing_data, missing_files
from advpt.jobs.zero_shot import OPTIONS, Evaluation, plan_of, split_by_data
from advpt.settings import DEFAULTS
from tests.helpers.workspace import ROOT

B32 = Evaluation("vit_b32", ("pgd10-ce@1/a1", "aa@1"))


def settings_of(evaluation: Evaluation, dataset: str) -> dict[str, str]:
    plan, _ = plan_of(evaluation, [dataset], ROOT)
    return dict(plan.jobs[0].settings)


def test_every_data_set_has_one_run_under_the_same_attacks() -> None:
    sets = B32.sets([])
    assert [catalog.get(name).name for name in sets] == list(zero_shot.table())
    plan, measured = plan_of(B32, sets, ROOT)
    assert [job.dataset for job in plan.jobs] == list(sets) and {job.trainer for job in plan.jobs} == {"ZeroshotCLIP"}
    assert [each.run for each in measured] == [job.id for job in plan.jobs]
    assert {dict(job.settings)["EVAL.ATTACKS"] for job in plan.jobs} == {"('pgd10-ce@1/a1:adaptive','aa@1:adaptive',)"}
    assert {dict(job.settings)["DATASET.PROTOCOL"] for job in plan.jobs} == {"tecoa"}
    assert settings_of(B32, "imagenet")["DATASET.TEST_SUBSET"] == "all", "not the 1,000 images of the recipe"
    some = Evaluation("vit_b32", ("pgd10-ce@1",), imagenet="robustbench1000", subset=50, templates="fare")
    part = settings_of(some, "imagenet")
    assert (part["DATASET.TEST_SUBSET"], part["EVAL.SUBSET"]) == ("robustbench1000", "50")
    assert part["TRAINER.ZEROSHOTCLIP.TEMPLATES"] == "fare" and "DATASET.TEST_SUBSET" not in settings_of(some, "pets")


def test_native_attacks_are_about_data_sets_of_one_size() -> None:
    native = Evaluation("vit_b32", ("pgd10-ce@1",), attack_at="native")
    at = {name: settings_of(native, name)["EVAL.ATTACK_AT"] for name in ("cifar10", "stl10", "tiny_imagenet", "pets")}
    assert at == {"cifar10": "native", "stl10": "native", "tiny_imagenet": "model", "pets": "model"}
    _, measured = plan_of(native, ["cifar10", "pets"], ROOT)
    assert [(each.dataset, each.attack_at) for each in measured] == [("CIFAR10", "native"), ("OxfordPets", "model")]


def test_the_demo_needs_no_data_and_other_names_are_refused(tmp_path: Path) -> None:
    demo = Evaluation("democlip", ("pgd2-ce@1",))
    assert demo.sets([]) == ("digits", "rendered_digits", "noisy_digits", "rotated_digits")
    assert demo.images_of == "coop" and split_by_data(demo.sets([]), tmp_path, "coop") == (list(demo.sets([])), [])
    assert B32.sets(["oxford_pets", "pets"]) == ("pets",)
    with pytest.raises(ConfigError, match="UCF101 is not among its data sets"):
        B32.sets(["ucf101"])
    assert Evaluation("vit_b32", (), protocol="coop").sets(["ucf101"]) == ("ucf101",)
    with pytest.raises(ConfigError, match=r"there is no .*nobody\.yaml"):
        plan_of(Evaluation("nobody", ()), ["pets"], ROOT)


def test_towers_of_other_files_have_other_runs(tmp_path: Path) -> None:
    folders = set()
    for content in (b"one", b"two"):
        (tmp_path / "tower.pt").write_bytes(content)
        plan, _ = plan_of(Evaluation("vit_b32", (), image_weights=str(tmp_path / "tower.pt")), ["pets"], ROOT)
        folders.add(plan.jobs[0].folder)
        assert dict(plan.jobs[0].settings)["MODEL.IMAGE_WEIGHTS"] == str(tmp_path / "tower.pt")
    assert len(folders) == 2, "the content is in the folder's name, as the path is the same"


def test_what_papers_call_it() -> None:
    tower = B32.tower(ROOT)
    assert tower is not None and vars(tower) == {
        "method": "CLIP", "backbone": "ViT-B/32", "train_set": "none", "base": "CLIP", "protocol": "tecoa",
        "prompt": "tecoa",
    }  # fmt: skip
    assert all(Evaluation(model, ()).tower(ROOT) is None for model in ("democlip", "fare2_l14", "laion_b32"))
    assert Evaluation("vit_b32", (), image_weights="a.pt").tower(ROOT) is None
    tuned = Evaluation("vit_b32", (), image_weights="a.pt", method="TeCoA", train_set="TinyImageNet eps1")
    assert vars(tuned.tower(ROOT))["method"] == "TeCoA"
    own = (("TRAINER.ZEROSHOTCLIP.TEMPLATE", "a {}"),)
    assert vars(Evaluation("vit_b32", (), more=own).tower(ROOT))["prompt"] == "own"
    assert vars(Evaluation("vit_b32", (), templates="fare").tower(ROOT))["prompt"] == "fare"


def test_a_subset_of_imagenet_is_of_imagenet_alone() -> None:
    def images(**fields: object) -> list[str]:
        _, measured = plan_of(Evaluation("vit_b32", (), **fields), ["imagenet", "pets"], ROOT)
        return [each.images for each in measured]

    assert images() == ["all", "all"] and images(subset=100) == ["100", "100"]
    assert images(imagenet="robustbench5000") == ["robustbench5000", "all"]
    assert images(imagenet="robustbench5000", subset=100) == ["100 of robustbench5000", "100"]


@pytest.mark.parametrize(("key", "option"), OPTIONS.items())
def test_settings_that_options_give_are_refused(key: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"--set {key} 100: expected the option of zero-shot, {option} 100"):
        Evaluation("vit_b32", (), more=((key, "100"),))
    assert key in DEFAULTS or key in settings_of(B32, "imagenet"), "a setting of another name"


def test_nothing_is_printed_beside_a_tower_or_images_that_settings_change() -> None:
    for key in ("MODEL.WEIGHTS", "INPUT.SIZE", "DATASET.SUBSAMPLE_CLASSES"):
        assert Evaluation("vit_b32", (), method="CLIP", more=((key, "x"),)).tower(ROOT) is None
    for key, text in (("DATASET.ROOT", "x"), ("EVAL.SEED", "2"), ("MODEL.BACKBONE.NAME", "ViT-B/16")):
        tower = Evaluation("vit_b32", (), more=((key, text),)).tower(ROOT)
        assert tower is not None and tower.backbone == ("ViT-B/16" if key.startswith("MODEL") else "ViT-B/32")


@pytest.mark.parametrize("name", ["eurosat", "caltech101", "sun397", "dtd", "food101", "flowers", "pets"])
def test_what_is_missing_depends_on_the_protocol(tmp_path: Path, name: str) -> None:
    facts, rule = catalog.get(name), zero_shot.facts_of(name, "tecoa")
    assert rule is not None
    assert "advpt prepare" in missing_files(name, tmp_path, "tecoa")
    (tmp_path / facts.folder / facts.image_dir).mkdir(parents=True)
    assert facts.split and facts.split.filename in missing_files(name, tmp_path)
    needs_split = rule.lists in ("split", "setid")
    assert (facts.split.filename in missing_files(name, tmp_path, "tecoa")) == needs_split
    (tmp_path / facts.folder / facts.split.filename).touch()
    assert missing_files(name, tmp_path) == ""
    sentence = missing_files(name, tmp_path, "tecoa")
    assert (rule.file in sentence and "run curl" in sentence) if rule.file else sentence == ""
    plan, _ = plan_of(B32, [name], ROOT)
    assert missing_data(plan, Places(ROOT, tmp_path / "out", tmp_path, tmp_path)) == ([sentence] if sentence else [])
