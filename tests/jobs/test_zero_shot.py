"""The plan of one model on many data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.data import catalog, zero_shot
from advpt.errors import ConfigError
from advpt.jobs.places import Places, missing_data, missing_files
from advpt.jobs.zero_shot import Evaluation, plan_of, split_by_data
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
    found = settings_of(some, "imagenet")
    assert (found["DATASET.TEST_SUBSET"], found["EVAL.SUBSET"]) == ("robustbench1000", "50")
    assert found["TRAINER.ZEROSHOTCLIP.TEMPLATES"] == "fare" and "DATASET.TEST_SUBSET" not in settings_of(some, "pets")


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
        "prompt": "tecoa", "images": "all",
    }  # fmt: skip
    assert all(Evaluation(model, ()).tower(ROOT) is None for model in ("democlip", "fare2_l14", "laion_b32"))
    assert Evaluation("vit_b32", (), image_weights="a.pt").tower(ROOT) is None
    tuned = Evaluation("vit_b32", (), image_weights="a.pt", method="TeCoA", train_set="TinyImageNet eps1", subset=100)
    assert vars(tuned.tower(ROOT))["method"] == "TeCoA" and vars(tuned.tower(ROOT))["images"] == "100"
    own = (("TRAINER.ZEROSHOTCLIP.TEMPLATE", "a {}"),)
    assert vars(Evaluation("vit_b32", (), more=own).tower(ROOT))["prompt"] == "own"
    assert vars(Evaluation("vit_b32", (), templates="fare").tower(ROOT))["prompt"] == "fare"
    assert vars(Evaluation("vit_b32", (), imagenet="robustbench1000").tower(ROOT))["images"] == "robustbench1000"


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
