"""Prompts travel between CoOp's, the official AdvPT's and our checkpoints."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from advpt.cli import main
from advpt.errors import PromptError, WeightsError
from advpt.files import write_json
from advpt.prompts import exchange


def coops_file(folder: Path, ctx: torch.Tensor, epoch: int = 50) -> Path:
    """As CoOp and the official AdvPT save it: half precision, with the class tokens beside the context."""
    path = folder / "prompt_learner" / f"model.pth.tar-{epoch}"
    path.parent.mkdir(parents=True)
    state = OrderedDict(ctx=ctx.half(), token_prefix=torch.zeros(3, 1, 8), token_suffix=torch.zeros(3, 60, 8))
    torch.save({"state_dict": state, "epoch": epoch, "optimizer": {}, "scheduler": {}, "val_result": None}, path)
    (path.parent / "checkpoint").write_text(path.name + "\n")
    return path


def load_as_coop(folder: Path, module: torch.nn.Module, epoch: int) -> None:
    """CoOp's load_model: drop the class tokens, load what fits."""
    saved = torch.load(folder / "prompt_learner" / f"model.pth.tar-{epoch}", map_location="cpu")
    state = saved["state_dict"]
    for name in ("token_prefix", "token_suffix"):
        state.pop(name, None)
    assert saved["epoch"] == epoch
    module.load_state_dict(state, strict=False)


@pytest.mark.parametrize("shape", [(4, 8), (3, 4, 8)])
def test_in_and_out(tmp_path, shape, capsys):
    ctx = torch.randn(shape).half()
    path = coops_file(tmp_path / "theirs", ctx)
    for source in (path, tmp_path / "theirs"):
        found = exchange.read(source)
        assert torch.equal(found.ctx, ctx.float()) and found.epoch == 50
    assert main(["prompt", str(path), str(tmp_path / "ours")]) == 0
    assert "4 context vectors of width 8" in capsys.readouterr().out

    module = torch.nn.Module()
    module.ctx = torch.nn.Parameter(torch.zeros(shape))
    module.register_buffer("token_prefix", torch.ones(3, 1, 8))
    load_as_coop(tmp_path / "ours", module, 50)
    assert torch.equal(module.ctx.data, ctx.float())
    assert torch.equal(exchange.read(tmp_path / "ours").ctx, ctx.float())


def test_nothing_is_overwritten(tmp_path):
    coops_file(tmp_path, torch.zeros(2, 3))
    with pytest.raises(WeightsError, match="exists already"):
        exchange.write_run(exchange.read(tmp_path), tmp_path)


def test_what_is_no_prompt_is_refused(tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "a.pth.tar")
    with pytest.raises(PromptError, match="no context vectors"):
        exchange.read(tmp_path / "a.pth.tar")
    torch.save({"state_dict": {"ctx": torch.zeros(2)}}, tmp_path / "b.pth.tar")
    with pytest.raises(PromptError, match="expected"):
        exchange.read(tmp_path / "b.pth.tar")
    with pytest.raises(WeightsError, match="no checkpoint"):
        exchange.read(tmp_path / "nowhere.pth.tar")


def test_names_of_data_parallel_are_read_and_tensors_of_another_method_are_refused(tmp_path):
    ctx = torch.randn(4, 8)
    torch.save({"state_dict": {"module.ctx": ctx, "module.token_prefix": torch.zeros(3, 1, 8)}}, tmp_path / "a.pth.tar")
    assert torch.equal(exchange.read(tmp_path / "a.pth.tar").ctx, ctx)
    torch.save({"state_dict": {"ctx": ctx, "proj.weight": torch.zeros(2)}}, tmp_path / "b.pth.tar")
    with pytest.raises(PromptError, match=r"also holds proj\.weight"):
        exchange.read(tmp_path / "b.pth.tar")


def test_the_history_of_a_prompt_goes_with_it_and_where_there_is_none_that_is_said(tmp_path, capsys):
    coops_file(tmp_path / "theirs", torch.zeros(4, 8))
    assert main(["prompt", str(tmp_path / "theirs")]) == 0
    assert "nothing beside it says on which CLIP, and with the class name where" in capsys.readouterr().out
    about = {"backbone": {"name": "ViT-B/16", "text": "t"}, "prompt": {"position": "front"}, "odd": 1, "seed": 3}
    write_json(tmp_path / "theirs" / "prompt_learner" / "prompt.json", about)
    exchange.write_run(exchange.read(tmp_path / "theirs"), tmp_path / "ours")
    found = exchange.about(tmp_path / "ours" / "prompt_learner" / "model.pth.tar-50")
    assert found == {name: about[name] for name in ("backbone", "prompt", "seed")} | {
        "imported_from": "model.pth.tar-50",
        "shape": [4, 8],
    }


def test_what_is_there_is_listed_where_a_checkpoint_is_not(tmp_path):
    coops_file(tmp_path, torch.zeros(2, 3), 5)
    (tmp_path / "prompt_learner" / "model.pth.tar-50").touch()
    for epoch in (7, 0):
        with pytest.raises(WeightsError, match=rf"tar-{epoch}; .* has model.pth.tar-5, model.pth.tar-50: choose .* 50"):
            exchange.checkpoint_file(tmp_path / "prompt_learner", epoch)
    (tmp_path / "prompt_learner" / "checkpoint").write_text("model.pth.tar-9\n")
    with pytest.raises(WeightsError, match=r"model\.pth\.tar-9; .* has model\.pth\.tar-5"):
        exchange.checkpoint_file(tmp_path / "prompt_learner")
    with pytest.raises(WeightsError, match=r"has checkpoints in prompt_learner \(model.pth.tar-5, model.pth.tar-50\)"):
        exchange.checkpoint_file(tmp_path / "image_encoder")
    with pytest.raises(WeightsError, match="name the folder of a finished run"):
        exchange.checkpoint_file(tmp_path / "no" / "where" / "prompt_learner")
    with pytest.raises(WeightsError, match=r"prompt_learner has checkpoints: name that run alone, or with --seeds"):
        exchange.checkpoint_file(tmp_path / "seed1" / "prompt_learner")
    for seed in (2, 1):
        coops_file(tmp_path / f"runs/seed{seed}", torch.zeros(2, 3), 5)
    with pytest.raises(WeightsError, match="holds the runs seed1, seed2: name one of them with --model-dir"):
        exchange.checkpoint_file(tmp_path / "runs" / "prompt_learner")


@pytest.mark.parametrize("odd", [{}, {"prompt": 3}, {"prompt": {"layout": []}}, {"prompt": {"n_ctx": 4}}])
def test_odd_histories_are_no_layout_and_no_traceback(tmp_path, odd):
    write_json(tmp_path / "prompt_learner" / "prompt.json", odd)
    found = exchange.layout_settings(tmp_path, "ADVPT", ["N_CTX", "CSC"])
    assert found == ({"TRAINER.ADVPT.N_CTX": 4} if odd.get("prompt") == {"n_ctx": 4} else {})
