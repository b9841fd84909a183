"""Scripts around several runs: which runs they make, in which order, from which prompt. No run is made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.settings import has_config
from tests.helpers.script_calls import calls, plan_of, value
from tests.helpers.workspace import ROOT


def test_base_to_new_evaluates_the_prompt_of_the_base_classes_on_the_others(tmp_path):
    settings = ("OPTIM.LR", "0.1")
    made, script = plan_of(tmp_path, "advpt/base_to_new.sh", "dtd", "vit_b32", *settings, TRAINER="CAPT", SEEDS="0 1")
    base, new = made[0], made[1]
    assert len(made) == 4 and [heading for heading, _ in script.tables] == ["base classes", "new classes"]
    assert value(base, "DATASET.SUBSAMPLE_CLASSES") == "base" and "--eval-only" not in base
    assert value(new, "DATASET.SUBSAMPLE_CLASSES") == "new" and "--eval-only" in new
    assert value(new, "--model-dir") == value(base, "--output-dir") and value(base, "--seed") == "0"
    assert value(base, "--output-dir") == str(tmp_path / "out/dtd/CAPT/vit_b32_16shots/base/seed0")
    for words in (base, new):
        assert value(words, "OPTIM.LR") == "0.1" and value(words, "DATASET.NUM_SHOTS") == "16"
        assert has_config(Path(value(words, "--config-file"))) and value(words, "--root") == "/data"


@pytest.mark.parametrize("script", ("advpt/main.sh", "advpt/base_to_new.sh"))
def test_scripts_take_composed_configuration_names(tmp_path, script):
    made, _ = plan_of(tmp_path, script, "pets", "rn50_ep50", TRAINER="CoOp", SEEDS="1", SHOTS="16")
    assert value(made[0], "--config-file") == str(ROOT / "configs/trainers/CoOp/rn50_ep50.yaml")
    assert "rn50_ep50_16shots" in value(made[0], "--output-dir")


def test_cross_dataset_takes_one_prompt_to_every_target(tmp_path):
    made, script = plan_of(
        tmp_path, "advpt/cross_dataset.sh", "imagenet", "vit_b32", "pets", "imagenetv2", "noisy_digits",
        TRAINER="FAP", SEEDS="1", SHOTS="all", SETTINGS="EVAL.SUBSET 100",
    )  # fmt: skip
    source, *targets = made
    names = ["imagenet", "pets", "imagenetv2", "noisy_digits"]
    assert [Path(value(w, "--dataset-config-file")).stem for w in made] == names
    assert all(value(w, "--model-dir") == value(source, "--output-dir") and "--eval-only" in w for w in targets)
    assert all(value(w, "DATASET.NUM_SHOTS") == "-1" and value(w, "EVAL.SUBSET") == "100" for w in made)
    assert all(Path(value(w, "--dataset-config-file")).is_file() for w in made)
    assert [Path(folder).name for _, folder in script.tables] == names


@pytest.mark.parametrize("script", ("advpt/main.sh", "advpt/base_to_new.sh", "advpt/cross_dataset.sh"))
def test_without_words_a_script_says_what_it_takes(tmp_path, script):
    made, printed = calls(tmp_path, script)
    assert not made and f"bash scripts/{script}" in printed


@pytest.mark.parametrize("script", ("demo", "demo_search", "peers_search", "tapt_search"))
def test_scripts_that_need_no_words_say_with_help_what_they_do(tmp_path, script):
    made, printed = calls(tmp_path, f"advpt/{script}.sh", "--help")
    assert not made and len(printed.splitlines()) >= 2 and "set -euo" not in printed


def test_main_makes_a_run_of_every_seed_and_number_of_shots(tmp_path):
    env = {"SEEDS": "1 2", "SHOTS": "4 all", "TRAINER": "CoOp", "WEIGHTS": "mine.pt", "NAME": "my pets"}
    made, script = plan_of(tmp_path, "advpt/main.sh", "pets", "vit_b16", "BANK.LIMIT", "200", **env)
    assert [(value(w, "DATASET.NUM_SHOTS"), value(w, "--seed")) for w in made] == [
        ("4", "1"), ("4", "2"), ("-1", "1"), ("-1", "2"),
    ]  # fmt: skip
    assert value(made[3], "--output-dir") == str(tmp_path / "out/my pets/CoOp/vit_b16_allshots/seed2")
    assert all(value(w, "BANK.LIMIT") == "200" and value(w, "MODEL.WEIGHTS") == "mine.pt" for w in made)
    assert [folder for _, folder in script.tables] == [f"my pets/CoOp/vit_b16_{n}shots" for n in ("4", "all")]
    assert script.page and ["EVAL.PICTURES" in w for w in made] == [True, False, True, False]
    together, _ = plan_of(tmp_path / "again", "advpt/main.sh", "pets", "vit_b16", **env | {"TOGETHER": "1"})
    assert [(value(w, "--seeds"), "--seed" in w) for w in together] == [("1,2", False)] * 2


def test_the_demo_attacks_what_it_tuned_and_zero_shot_clip_once(tmp_path):
    made, script = plan_of(tmp_path, "advpt/demo.sh", SEEDS="3 4", AA="aa@8")
    by_folder = {str(Path(value(w, "--output-dir")).relative_to(tmp_path / "out")): w for w in made}
    assert len(made) == 12 and script.page and script.tables == (("", ""),)
    assert value(by_folder["AdvPT"], "EVAL.PICTURES") == "4" and "EVAL.PICTURES" not in by_folder["CoOp"]
    assert value(by_folder["AdvPT"], "--seeds") == "3,4" and "--eval-only" not in by_folder["AdvPT"]
    assert value(by_folder["adaptive_aa/CoOp"], "--seeds") == "3"
    assert value(by_folder["adaptive_aa/CoOp"], "--model-dir") == str(tmp_path / "out/CoOp")
    zero_shot = by_folder["transfer/ZeroshotCLIP/seed1"]
    assert value(zero_shot, "--seed") == "1" and value(zero_shot, "--model-dir") == str(
        tmp_path / "out/ZeroshotCLIP/seed1"
    )
    assert value(zero_shot, "EVAL.ATTACKS") == "('aa@8:transfer','aa@8:transfer-all')"


def test_searches_never_read_the_test_split_and_say_where_each_result_is(tmp_path):
    made, script = plan_of(tmp_path, "advpt/demo_search.sh", RATES="0.1 0.2", SEEDS="7 8")
    assert len(made) == 4 and len(script.results) == 8 and all(value(w, "TEST.SPLIT") == "val" for w in made)
    made, script = plan_of(tmp_path / "2", "advpt/peers_search.sh", RATES="0.1", TRAINERS="AdvPT FAP")
    tuned, judged = made[::2], made[1::2]
    assert all(value(w, "TEST.NO_TEST") == "True" and value(w, "DATASET.NUM_SHOTS") == "16" for w in tuned)
    assert all(value(w, "TEST.SPLIT") == "val" and value(w, "DATASET.NUM_SHOTS") == "-1" for w in judged)
    assert ["BANK.ATTACK" in w for w in tuned] == [True, False], "all train at 2/255"
    assert script.results[1] == ("FAP       lr 0.1    seed 1", "FAP/lr0.1/seed1/val")
    made, script = plan_of(tmp_path / "3", "advpt/tapt_search.sh", GRID="0.5:1 0.5:4")
    assert [value(w, "--trainer") for w in made[:4]] == ["AdvVPT", "AdvVPT", "TAPTV", "TAPTV"] and len(made) == 12
    assert value(made[3], "TRAINER.TAPT.CLEAN_RUN") == value(made[1], "--output-dir").replace("adv_half", "clean")
    assert (
        value(made[3], "--model-dir") == value(made[0], "--output-dir") and value(made[3], "TRAINER.TAPT.STEPS") == "4"
    )


def test_the_check_of_a_robust_backbone(tmp_path):
    made, printed = calls(tmp_path, "check_robust_backbone.sh")
    assert "WEIGHTS names no file" in printed and [w[0] for w in made] == ["-c"], "it asks the library for the sources"
    weights = tmp_path / "vitb32_eps4.pth.tar"
    weights.write_bytes(b"x")
    _, printed = calls(tmp_path, "check_robust_backbone.sh", WEIGHTS=str(weights), DATA=str(tmp_path))
    assert "no imagenet below" in printed
    (tmp_path / "imagenet").mkdir()
    made, _ = calls(tmp_path, "check_robust_backbone.sh", WEIGHTS=str(weights), DATA=str(tmp_path), SUBSET="100")
    run = made[-1]
    assert value(run, "EVAL.ATTACKS") == "('pgd100-ce@4/a1',)" and value(run, "MODEL.IMAGE_WEIGHTS") == str(weights)
    assert value(run, "EVAL.SUBSET") == "100" and value(run, "--trainer") == "ZeroshotCLIP"
    name = "hf-hub:chs20/fare2-clip@main"
    made, _ = calls(tmp_path, "check_robust_backbone.sh", WEIGHTS=name, DATA=str(tmp_path), BACKBONE="vit_l14")
    assert value(made[-1], "MODEL.IMAGE_WEIGHTS") == name
    assert value(made[-1], "--output-dir") == str(tmp_path / "out/fare2-clip_main_vit_l14")
