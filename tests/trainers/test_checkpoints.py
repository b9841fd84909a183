"""Checkpoints are evaluated as they were tuned: what stands beside them decides, and what contradicts is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_world import TINY

from advpt.backbones.clip import build
from advpt.cli import main
from advpt.evaluation import record as records

QUICK = ("EVAL.ATTACKS", "('pgd2-ce@8',)")
FRONT = ("TRAINER.ADVPT.CLASS_TOKEN_POSITION", "front")


def results(folder: Path) -> list[dict]:
    return [records.read(path).result for path in sorted((folder / "records").glob("*.json"))]


def evaluate(run: Path) -> tuple[str, ...]:
    return ("--eval-only", "--model-dir", str(run))


@pytest.fixture(scope="session")
def other_files(tmp_path_factory, tiny_file) -> dict[str, Path]:
    """CLIPs of the same sizes: another one, and one with another image tower alone."""
    folder = tmp_path_factory.mktemp("other")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        other = build(TINY).state_dict()
    own = torch.load(tiny_file, weights_only=True)
    image = {name: (other if name.startswith("visual.") else own)[name] for name in own}
    for name, state in (("both", other), ("image", image)):
        torch.save(state, folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in ("both", "image")}


def test_the_layout_comes_from_the_checkpoint_where_the_command_gives_none(world):
    world.run(*QUICK, *FRONT, "TRAINER.ADVPT.N_CTX", "3")
    printed = world.run(*QUICK, flags=evaluate(world.output), output=world.folder / "eval")
    assert f"TRAINER.ADVPT.CLASS_TOKEN_POSITION front, as {world.output} was tuned (not end)" in printed
    tuned, found = results(world.output), results(world.folder / "eval")
    assert [r["prompt"] for r in found] == [r["prompt"] for r in tuned]
    assert [r["robust"] for r in found] == [r["robust"] for r in tuned]
    assert found[0]["config"]["TRAINER.ADVPT.CLASS_TOKEN_POSITION"] == "front" and not found[0]["warnings"]


def test_a_layout_that_contradicts_the_checkpoint_is_refused(world):
    world.run(*QUICK, *FRONT)
    for given in ("end", "middle"):
        words = ("TRAINER.ADVPT.CLASS_TOKEN_POSITION", given)
        code, printed = world.call(*QUICK, *words, flags=evaluate(world.output), output=world.folder / given)
        assert code == 2 and f"CLASS_TOKEN_POSITION front, this run has {given}" in printed
        assert "TRAINER.ADVPT.CLASS_TOKEN_POSITION front" in printed and not (world.folder / given / "records").exists()


def test_deep_prompts_take_depth_and_words_from_the_checkpoint(world):
    tuned = ("TRAINER.FAP.DEPTH_TEXT", "1", "TRAINER.FAP.DEPTH_VISION", "1", "TRAINER.FAP.CTX_INIT", "one red photo of",
             "OPTIM.MAX_EPOCH", "1")  # fmt: skip
    world.run(*QUICK, *tuned, trainer="FAP")
    world.run(*QUICK, trainer="FAP", flags=evaluate(world.output), output=world.folder / "eval")
    assert [r["prompt"] for r in results(world.folder / "eval")] == [r["prompt"] for r in results(world.output)]
    words = ("TRAINER.FAP.CTX_INIT", "one red photo with")
    code, printed = world.call(*QUICK, *words, trainer="FAP", flags=evaluate(world.output), output=world.folder / "w")
    assert code == 2 and "CTX_INIT one red photo of, this run has one red photo with" in printed


def test_a_layout_that_the_node_cannot_have_is_that_of_another_trainer(world):
    few = ("TRAINER.FAP.DEPTH_TEXT", "1", "TRAINER.FAP.DEPTH_VISION", "1", "OPTIM.MAX_EPOCH", "1")
    world.run(*QUICK, *few, trainer="FAP")
    for trainer in ("AdvPT", "AdvIVLP"):
        code, printed = world.call(*QUICK, trainer=trainer, flags=evaluate(world.output), output=world.folder / trainer)
        assert code == 2 and "was tuned with LAYOUT v2t, this run has" in printed
        assert "(--trainer FAP)" in printed and f"TRAINER.{trainer.upper()}.LAYOUT" not in printed


@pytest.mark.parametrize("trainer", ["AdvPT", "FastAT"])
def test_an_evaluation_of_nothing_that_was_trained_says_so(world, trainer):
    printed = world.run(*QUICK, trainer=trainer, flags=("--eval-only",))
    said = f"no --model-dir: {trainer} is evaluated as it starts, untrained"
    assert all(said in r["warnings"] for r in results(world.output)) and said in printed


def test_a_method_without_prompts_takes_no_layout(world):
    world.run(*QUICK, "TRAINER.ADVPT.N_CTX", "3")
    plain = world.run(*QUICK, trainer="ZeroshotCLIP", output=world.folder / "plain")
    printed = world.run(*QUICK, trainer="ZeroshotCLIP", flags=evaluate(world.output), output=world.folder / "beside")
    assert "was tuned" not in printed + plain
    configs = [[r["config"] for r in results(world.folder / name)] for name in ("plain", "beside")]
    assert configs[0] == configs[1], "what lies in the folder of another method is no setting of this one"


def test_another_clip_of_the_same_sizes_is_refused_and_another_image_tower_is_in_the_record(world, other_files):
    world.run(*QUICK)
    other = ("MODEL.WEIGHTS", str(other_files["both"]))
    code, printed = world.call(*QUICK, *other, flags=evaluate(world.output), output=world.folder / "other")
    assert code == 2 and "was tuned on another CLIP: tiny with the text tower" in printed
    image = ("MODEL.WEIGHTS", str(other_files["image"]))
    world.run(*QUICK, *image, flags=evaluate(world.output), output=world.folder / "image")
    for found in results(world.folder / "image"):
        assert any(
            "the loaded prompt was tuned on another CLIP: tiny with the image tower" in w for w in found["warnings"]
        )


def test_visual_prompts_belong_to_both_towers_and_to_the_hand_written_prompt(world, other_files):
    tuned = ("TRAINER.ADVVPT.DEPTH_VISION", "1", "OPTIM.MAX_EPOCH", "1")
    template = ("TRAINER.ZEROSHOTCLIP.TEMPLATE", "a drawing of a {}.")
    world.run(*QUICK, *tuned, *template, trainer="AdvVPT")
    image = ("MODEL.WEIGHTS", str(other_files["image"]))
    code, printed = world.call(
        *QUICK, *template, *image, trainer="AdvVPT", flags=evaluate(world.output), output=world.folder / "image"
    )
    assert code == 2 and "with the image tower" in printed
    world.run(*QUICK, trainer="AdvVPT", flags=evaluate(world.output), output=world.folder / "words")
    said = results(world.folder / "words")[0]["warnings"]
    assert "tuned with the hand-written prompt ['a drawing of a {}.'], evaluated with ['a photo of a {}.']" in said


def test_a_checkpoint_without_a_history_says_what_is_assumed(world):
    world.run(*QUICK)
    (world.output / "prompt_learner" / "prompt.json").unlink()
    printed = world.run(*QUICK, flags=evaluate(world.output), output=world.folder / "eval")
    assert (
        "nothing beside it says how it was tuned; it is taken to be tuned on tiny with the class name at the end"
        in printed
    )
    loaded = results(world.folder / "eval")[0]["training"]["loaded"]
    assert loaded["assumed"] == {"class_token_position": "end", "backbone": "tiny"}


def test_an_imported_prompt_keeps_its_history(world, capsys):
    world.run(*QUICK, *FRONT)
    given = world.folder / "given"
    assert main(["prompt", str(world.output), str(given)]) == 0
    assert "tuned on tiny with the class name at the front" in capsys.readouterr().out
    world.run(*QUICK, flags=evaluate(given), output=world.folder / "eval")
    assert [r["prompt"] for r in results(world.folder / "eval")] == [r["prompt"] for r in results(world.output)]


def test_a_checkpoint_that_is_not_there_lists_what_is(world):
    world.run(*QUICK)
    theirs = world.folder / "maple" / "MultiModalPromptLearner"
    theirs.mkdir(parents=True)
    shutil.copy(world.output / "prompt_learner" / "model.pth.tar-3", theirs)
    for flags, words in (
        (
            (*evaluate(world.output), "--load-epoch", "7"),
            "has model.pth.tar-1, model.pth.tar-2, model.pth.tar-3: choose",
        ),
        (evaluate(theirs.parent), "has checkpoints in MultiModalPromptLearner (model.pth.tar-3)"),
    ):
        code, printed = world.call(*QUICK, flags=flags, output=world.folder / "eval")
        assert code == 2 and words in printed


def test_a_probe_belongs_to_its_classes_and_image_tower(world, other_files):
    world.run(*QUICK, trainer="LinearProbe")
    world.run(*QUICK, trainer="LinearProbe", flags=evaluate(world.output), output=world.folder / "same")
    other = ("MODEL.WEIGHTS", str(other_files["image"]))
    how = {"trainer": "LinearProbe", "flags": evaluate(world.output)}
    code, printed = world.call(*QUICK, *other, **how, output=world.folder / "tower")
    assert code == 2 and "with the image tower" in printed
    shutil.move(world.folder / "data" / "tiny_photos", world.folder / "data" / "image_folder")
    code, printed = world.call(*QUICK, "DATASET.NAME", "ImageFolder", **how, output=world.folder / "classes")
    assert code == 2 and "it was tuned on 3 classes (red_fox, owl, sea), this run has 3 (owl, red_fox, sea)" in printed


def test_a_tuned_encoder_belongs_to_the_text_tower(world, other_files):
    quick = (*QUICK, "OPTIM.MAX_EPOCH", "1", "TRAINER.ADVTRAIN.ATTACK", "pgd1-ce@4")
    world.run(*quick, trainer="AdvTrain")
    how = {"trainer": "AdvTrain", "flags": evaluate(world.output)}
    world.run(*quick, "MODEL.WEIGHTS", str(other_files["image"]), **how, output=world.folder / "image")
    code, printed = world.call(*quick, "MODEL.WEIGHTS", str(other_files["both"]), **how, output=world.folder / "both")
    assert code == 2 and "with the text tower" in printed
