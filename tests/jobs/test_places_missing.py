"""What a plan lacks, in sentences."""

from __future__ import annotations

from pathlib import Path

from advpt.cli.backbones import backbone_name
from advpt.jobs.exhibits import plan_exhibits
from advpt.jobs.places import Places, missing_data, missing_weights
from advpt.jobs.plan import Job, Plan
from advpt.jobs.setup import DEMO, PAPER
from tests.helpers.hub import hub_repository

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_missing_is_named_and_the_demo_misses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVPT_CLIP_CACHE", str(tmp_path / "cache"))
    places = Places(ROOT, tmp_path, tmp_path / "data", tmp_path, {"vit_b16": str(tmp_path / "mine.pt")})
    paper = plan_exhibits(["table1"], PAPER.narrowed(["dtd"], [], [1]), ROOT).plan
    (data,) = missing_data(paper, places)
    assert data.startswith("DescribableTextures: ") and "split_zhou_DescribableTextures.json" in data
    mine, large = missing_weights(paper, places)
    assert mine == f"vit_b16: there is no file {tmp_path / 'mine.pt'}" and "ViT-L-14.pt is fetched from" in large
    demo = plan_exhibits(["all"], DEMO, ROOT).plan
    assert missing_data(demo, places) == [] and missing_weights(demo, places) == []


def test_a_model_of_the_hub_is_fetched_when_it_is_needed_unless_its_weights_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    plan = Plan((Job("T", "digits", "fare2_l14", -1, 1, "main", "configs/trainers/AdvPT/fare2_l14.yaml", "b"),))
    places = Places(ROOT, tmp_path, tmp_path / "data", tmp_path)
    (sentence,) = missing_weights(plan, places)
    assert sentence.startswith("hf-hub:chs20/fare2-clip: fetched from the hub, chs20/fare2-clip, into ")
    hub_repository(tmp_path / "hub", "chs20/fare2-clip", {"open_clip_pytorch_model.bin": b"weights"})
    assert missing_weights(plan, places) == []
    assert backbone_name("democlip_s", ROOT) == "DemoCLIP-S"
    assert backbone_name("vit_b16", ROOT) == backbone_name("ViT-B/16", ROOT) == "ViT-B/16"


def test_images_of_ones_own_need_two_folders_and_other_repositories_data_sets_nothing(tmp_path):
    plan = Plan(tuple(Job("T", dataset, "rn50", -1, 1, "main", "a", "b") for dataset in ("image_folder", "theirs")))
    (sentence,) = missing_data(plan, Places(ROOT, tmp_path, tmp_path / "data", tmp_path))
    assert "expected folders with a folder of images per class" in sentence and "train" in sentence
