"""Whole runs on models that are not OpenAI's, from a folder with a configuration and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from advpt.backbones import find, hub, open_clip
from advpt.cli import main
from advpt.evaluation.saved_run import load_run
from tests.helpers.open_clip import VIT, changed
from tests.helpers.tokenizer import write_tokenizer
from tests.helpers.towers import TIMM, shake
from tests.helpers.workspace import Workspace, results

pytest.importorskip("open_clip")
CONFIGS = {
    "resnet": changed(VIT, vision={"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 64}),
    "vit": changed(VIT, vision={"image_size": 16, "width": 64}),
    "convnext": changed(
        VIT,
        vision=TIMM | {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
    ),
    "siglip": changed(
        VIT, vision=TIMM, embed_dim=64, custom_text=True, init_logit_bias=-10,
        text={"hf_tokenizer_name": "a/b", "vocab_size": 60, "context_length": 40, "pool_type": "last",
              "proj_bias": True, "no_causal_mask": True, "norm_kwargs": {"eps": 1e-6},
              "tokenizer_kwargs": {"clean": "canonicalize"}},
    ),
}  # fmt: skip
SQUASH = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
LEFT_TO_THE_MODEL = ("INPUT.SIZE", "(0,0)", "INPUT.INTERPOLATION", "", "INPUT.RESIZE", "", "MODEL.WEIGHTS", "",
                     "MODEL.ACTIVATION", "")  # fmt: skip
QUICK = ("OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "-1", "EVAL.ATTACKS", "('pgd1-ce@8',)", "EVAL.SUBSET", "3",
         "DATASET.NUM_SHOTS", "1")  # fmt: skip


def folder_of(where: Path, name: str) -> Path:
    """A folder as a repository of the hub is: configuration, weights and, for a SigLIP, the tokenizer."""
    where.mkdir()
    config: dict[str, Any] = {"model_cfg": CONFIGS[name], "preprocess_cfg": SQUASH if name == "siglip" else {}}
    (where / "open_clip_config.json").write_text(json.dumps(config))
    if name == "siglip":
        write_tokenizer(where)
    model = find.find_model(f"local-dir:{where}")
    assert model is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = shake(open_clip.build(model.card(model.tokenizer())))
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, where / hub.OPEN_CLIP_WEIGHTS[0])
    return where


@pytest.fixture
def words(workspace: Workspace, tmp_path: Path):
    """The settings of a run on one of these models."""

    def make(name: str) -> tuple[str, ...]:
        folder = tmp_path / name
        if not folder.exists():
            folder_of(folder, name)
        return ("MODEL.BACKBONE.NAME", f"local-dir:{folder}", *LEFT_TO_THE_MODEL, *QUICK)

    return make


@pytest.mark.parametrize(
    ("name", "trainer"),
    [*((name, trainer) for name in CONFIGS for trainer in ("AdvPT", "CoOp")), ("vit", "AdvMaPLe"), ("vit", "AdvIVLP"),
     ("siglip", "AdvMaPLe"), ("siglip", "AdvIVLP"), ("siglip", "CoCoOp"), ("convnext", "AdvTrain")],
)  # fmt: skip
def test_prompts_are_tuned_and_evaluated(workspace: Workspace, words, name: str, trainer: str) -> None:
    deep = trainer in ("AdvMaPLe", "AdvIVLP")
    depths = [word for tower in ("TEXT", "VISION") for word in (f"TRAINER.{trainer.upper()}.DEPTH_{tower}", "2")]
    workspace.run(*words(name), *(depths if deep else ()), trainer=trainer)
    result = next(iter(results(workspace.output).values()))
    reads = result["backbone"]["reads"]
    assert reads["text"]["activation"] == "gelu" and reads["text"]["causal"] == (name != "siglip")
    assert result["robust"]["n"] == 3
    model = load_run(workspace.output)
    pixels = torch.rand(2, 3, *model.backbone.card.image.size)
    with torch.no_grad():
        total = model.probabilities(pixels).sum(1)
    assert (name == "siglip") == bool((total < 0.99).any()), "SigLIP's probabilities are each by itself"


@pytest.mark.parametrize("name", ("vit", "siglip"))
def test_test_time_tuning_where_images_have_tokens(workspace: Workspace, words, name: str) -> None:
    depth = ("TRAINER.ADVVPT.DEPTH_VISION", "1", "TRAINER.TAPT.DEPTH_VISION", "1")
    workspace.run(*words(name), *depth, "EVAL.ATTACKS", "()", trainer="AdvVPT")
    how = ("TRAINER.TAPT.VIEWS", "4", "TRAINER.TAPT.RHO", "0.5", "TRAINER.TAPT.CLEAN_RUN", str(workspace.output))
    flags = ("--eval-only", "--model-dir", str(workspace.output))
    tuned = workspace.folder / "tapt"
    workspace.run(*words(name), *depth, *how, trainer="TAPTV", output=tuned, flags=flags)
    assert any(result["defenses"] == ["tapt"] for result in results(tuned).values())


def test_an_activation_that_no_configuration_says_is_kept_with_the_run(workspace: Workspace, words, capsys) -> None:
    named = (*words("vit"), "TRAINER.ADVVPT.DEPTH_VISION", "1", "EVAL.ATTACKS", "()", "MODEL.ACTIVATION")
    workspace.run(*named, "quickgelu", trainer="AdvVPT")
    assert load_run(workspace.output).backbone.card.image.activation == "quickgelu"
    for other in ("", "gelu"):
        printed = workspace.call(*named, other, trainer="AdvVPT")[1]
        assert "MODEL.ACTIVATION: the folder has 'quickgelu'" in printed, printed
    arguments = ("--root", str(workspace.folder / "data"), "--banks", str(workspace.folder / "banks"))
    assert main(["statistics", str(workspace.output), *arguments]) == 0, capsys.readouterr().err


def test_statistics_of_a_run_are_made_by_a_command(workspace: Workspace, words, capsys) -> None:
    workspace.run(*words("vit"), "TRAINER.ADVVPT.DEPTH_VISION", "1", "EVAL.ATTACKS", "()", trainer="AdvVPT")
    arguments = ("--root", str(workspace.folder / "data"), "--banks", str(workspace.folder / "banks"))
    assert main(["statistics", str(workspace.output), *arguments]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(("name", "family"), [("convnext", "ConvNeXt"), ("resnet", "ResNet")])
def test_visual_prompts_are_refused_before_any_data_are_read(
    workspace: Workspace, words, name: str, family: str
) -> None:
    for trainer in ("AdvMaPLe", "AdvIVLP", "AdvVPT", "TAPTV"):
        code, printed = workspace.call(*words(name), "DATASET.ROOT", "/nowhere", trainer=trainer)
        assert code == 2, printed
        assert f"image encoder is a {family} and has none: use LAYOUT text or text_deep" in printed, printed
