"""Checkpoints are evaluated as they were tuned: what stands beside them decides, and what contradicts is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from advpt.backbones.clip import build
from advpt.cli import main
from advpt.evaluation import record as records
from tests.helpers.workspace import TINY

QUICK = ("EVAL.ATTACKS", "('pgd2-ce@8',)")
FRONT = ("TRAINER.ADVPT.CLASS_TOKEN_POSITION", "front")


def results(folder: Path) -> list[dict]:
    return [records.read(path).result.to_json() for path in sorted((folder / "records").glob("*.json"))]


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


def test_the_layout_comes_from_the_checkpoint_where_the_command_gives_none(workspace):
    workspace.run(*QUICK, *FRONT, "TRAINER.ADVPT.N_CTX", "3")
    printed = workspace.run(*QUICK, flags=evaluate(workspace.output), output=workspace.folder / "eval")
    assert f"TRAINER.ADVPT.CLASS_TOKEN_POSITION front, as {workspace.output} was tuned (not end)" in printed
    tuned, found = results(workspace.output), results(workspace.folder / "eval")
    assert [r["prompt"] for r in found] == [r["prompt"] for r in tuned]
    assert [r["robust"] for r in found] == [r["robust"] for r in tuned]
    assert found[0]["config"]["TRAINER.ADVPT.CLASS_TOKEN_POSITION"] == "front" and not found[0]["warnings"]


def test_a_layout_that_contradicts_the_checkpoint_is_refused(workspace):
    workspace.run(*QUICK, *FRONT)
    for given in ("end", "middle"):
        words = ("TRAINER.ADVPT.CLASS_TOKEN_POSITION", given)
        code, printed = workspace.call(
            *QUICK, *words, flags=evaluate(workspace.output), output=workspace.folder / given
        )
        assert code == 2 and f"CLASS_TOKEN_POSITION front, this run has {given}" in printed
        assert (
            "TRAINER.ADVPT.CLASS_TOKEN_POSITION front" in printed
            and not (workspace.folder / given / "records").exists()
        )


def test_deep_prompts_take_depth_and_words_from_the_checkpoint(workspace):
    tuned = ("TRAINER.FAP.DEPTH_TEXT", "1", "TRAINER.FAP.DEPTH_VISION", "1", "TRAINER.FAP.CTX_INIT", "one red photo of",
             "OPTIM.MAX_EPOCH", "1")  # fmt: skip
    workspace.run(*QUICK, *tuned, trainer="FAP")
    workspace.run(*QUICK, trainer="FAP", flags=evaluate(workspace.output), output=workspace.folder / "eval")
    assert [r["prompt"] for r in results(workspace.folder / "eval")] == [r["prompt"] for r in results(workspace.output)]
    words = ("TRAINER.FAP.CTX_INIT", "one red photo with")
    code, printed = workspace.call(
        *QUICK, *words, trainer="FAP", flags=evaluate(workspace.output), output=workspace.folder / "w"
    )
    assert code == 2 and "CTX_INIT one red photo of, this run has one red photo with" in printed


def test_a_layout_that_the_node_cannot_have_is_that_of_another_trainer(workspace):
    few = ("TRAINER.FAP.DEPTH_TEXT", "1", "TRAINER.FAP.DEPTH_VISION", "1", "OPTIM.MAX_EPOCH", "1")
    workspace.run(*QUICK, *few, trainer="FAP")
    for trainer in ("AdvPT", "AdvIVLP"):
        code, printed = workspace.call(
            *QUICK, trainer=trainer, flags=evaluate(workspace.output), output=workspace.folder / trainer
        )
        assert code == 2 and "was tuned with LAYOUT v2t, this run has" in printed
        assert "(--trainer FAP)" in printed and f"TRAINER.{trainer.upper()}.LAYOUT" not in printed


@pytest.mark.parametrize("trainer", ["AdvPT", "FastAT"])
def test_an_evaluation_of_nothing_that_was_trained_says_so(workspace, trainer):
    printed = workspace.run(*QUICK, trainer=trainer, flags=("--eval-only",))
    said = f"no --model-dir: {trainer} is evaluated as it starts, untrained"
    assert all(said in r["warnings"] for r in results(workspace.output)) and said in printed


def test_a_method_without_prompts_takes_no_layout(workspace):
    workspace.run(*QUICK, "TRAINER.ADVPT.N_CTX", "3")
    plain = workspace.run(*QUICK, trainer="ZeroshotCLIP", output=workspace.folder / "plain")
    printed = workspace.run(
        *QUICK, trainer="ZeroshotCLIP", flags=evaluate(workspace.output), output=workspace.folder / "beside"
    )
    assert "was tuned" not in printed + plain
    configs = [[r["config"] for r in results(workspace.folder / name)] for name in ("plain", "beside")]
    assert configs[0] == configs[1], "what lies in the folder of another method is no setting of this one"


def test_another_clip_of_the_same_sizes_is_refused_and_another_image_tower_is_in_the_record(workspace, other_files):
    workspace.run(*QUICK)
    other = ("MODEL.WEIGHTS", str(other_files["both"]))
    code, printed = workspace.call(*QUICK, *other, flags=evaluate(workspace.output), output=workspace.folder / "other")
    assert code == 2 and "was tuned on another CLIP: tiny with the text tower" in printed
    image = ("MODEL.WEIGHTS", str(other_files["image"]))
    workspace.run(*QUICK, *image, flags=evaluate(workspace.output), output=workspace.folder / "image")
    for found in results(workspace.folder / "image"):
        assert any(
            "the loaded prompt was tuned on another CLIP: tiny with the image tower" in w for w in found["warnings"]
        )


def test_visual_prompts_belong_to_both_towers_and_to_the_hand_written_prompt(workspace, other_files):
    tuned = ("TRAINER.ADVVPT.DEPTH_VISION", "1", "OPTIM.MAX_EPOCH", "1")
    template = ("TRAINER.ZEROSHOTCLIP.TEMPLATE", "a drawing of a {}.")
    workspace.run(*QUICK, *tuned, *template, trainer="AdvVPT")
    image = ("MODEL.WEIGHTS", str(other_files["image"]))
    code, printed = workspace.call(
        *QUICK, *template, *image, trainer="AdvVPT", flags=evaluate(workspace.output), output=workspace.folder / "image"
    )
    assert code == 2 and "with the image tower" in printed
    workspace.run(*QUICK, trainer="AdvVPT", flags=evaluate(workspace.output), output=workspace.folder / "words")
    said = results(workspace.folder / "words")[0]["warnings"]
    assert "tuned with the hand-written prompt ['a drawing of a {}.'], evaluated with ['a photo of a {}.']" in said


def test_a_checkpoint_without_a_history_says_what_is_assumed(workspace):
    workspace.run(*QUICK)
    (workspace.output / "prompt_learner" / "prompt.json").unlink()
    printed = workspace.run(*QUICK, flags=evaluate(workspace.output), output=workspace.folder / "eval")
    assert (
        "nothing beside it says how it was tuned; it is taken to be tuned on tiny with the class name at the end"
        in printed
    )
    loaded = results(workspace.folder / "eval")[0]["training"]["loaded"]
    assert loaded["assumed"] == {"class_token_position": "end", "backbone": "tiny"}


def test_an_imported_prompt_keeps_its_history(workspace, capsys):
    workspace.run(*QUICK, *FRONT)
    given = workspace.folder / "given"
    assert main(["prompt", str(workspace.output), str(given)]) == 0
    assert "tuned on tiny with the class name at the front" in capsys.readouterr().out
    workspace.run(*QUICK, flags=evaluate(given), output=workspace.folder / "eval")
    assert [r["prompt"] for r in results(workspace.folder / "eval")] == [r["prompt"] for r in results(workspace.output)]


def test_a_checkpoint_that_is_not_there_lists_what_is(workspace):
    workspace.run(*QUICK)
    theirs = workspace.folder / "maple" / "MultiModalPromptLearner"
    theirs.mkdir(parents=True)
    shutil.copy(workspace.output / "prompt_learner" / "model.pth.tar-3", theirs)
    for flags, words in (
        (
            (*evaluate(workspace.output), "--load-epoch", "7"),
            "has model.pth.tar-1, model.pth.tar-2, model.pth.tar-3: choose",
        ),
        (evaluate(theirs.parent), "has checkpoints in MultiModalPromptLearner (model.pth.tar-3)"),
    ):
        code, printed = workspace.call(*QUICK, flags=flags, output=workspace.folder / "eval")
        assert code == 2 and words in printed


def test_a_probe_belongs_to_its_classes_and_image_tower(workspace, other_files):
    workspace.run(*QUICK, trainer="LinearProbe")
    workspace.run(*QUICK, trainer="LinearProbe", flags=evaluate(workspace.output), output=workspace.folder / "same")
    other = ("MODEL.WEIGHTS", str(other_files["image"]))
    how = {"trainer": "LinearProbe", "flags": evaluate(workspace.output)}
    code, printed = workspace.call(*QUICK, *other, **how, output=workspace.folder / "tower")
    assert code == 2 and "with the image tower" in printed
    shutil.move(workspace.folder / "data" / "tiny_photos", workspace.folder / "data" / "image_folder")
    code, printed = workspace.call(*QUICK, "DATASET.NAME", "ImageFolder", **how, output=workspace.folder / "classes")
    assert code == 2 and "it was tuned on 3 classes (red_fox, owl, sea), this run has 3 (owl, red_fox, sea)" in printed


def test_a_tuned_encoder_belongs_to_the_text_tower(workspace, other_files):
    quick = (*QUICK, "OPTIM.MAX_EPOCH", "1", "TRAINER.ADVTRAIN.ATTACK", "pgd1-ce@4")
    workspace.run(*quick, trainer="AdvTrain")
    how = {"trainer": "AdvTrain", "flags": evaluate(workspace.output)}
    workspace.run(*quick, "MODEL.WEIGHTS", str(other_files["image"]), **how, output=workspace.folder / "image")
    code, printed = workspace.call(
        *quick, "MODEL.WEIGHTS", str(other_files["both"]), **how, output=workspace.folder / "both"
    )
    assert code == 2 and "with the text tower" in printed
