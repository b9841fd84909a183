"""Learned prompts in and out of CoOp's and the official AdvPT's checkpoints."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from advpt.errors import PromptError, WeightsError
from advpt.files import atomic_path, load_checkpoint, write_json, write_text

FOLDER = "prompt_learner"


@dataclass(frozen=True)
class SavedPrompt:
    """Context ``[M, d]`` or ``[K, M, d]`` float32, the epoch it was saved after, and the file it came from."""

    ctx: Tensor
    epoch: int
    source: Path

    def __str__(self) -> str:
        kind = f"{self.ctx.shape[0]} classes x " if self.ctx.dim() == 3 else ""
        m, d = self.ctx.shape[-2:]
        return f"{kind}{m} context vectors of width {d}, epoch {self.epoch}, from {self.source}"


def checkpoint_file(folder: Path, epoch: int | None = None) -> Path:
    """The checkpoint of a run's model folder: of an epoch, else ``model-best``, else the one ``checkpoint`` names."""
    if epoch is not None:
        return folder / f"model.pth.tar-{epoch}"
    best, last = folder / "model-best.pth.tar", folder / "checkpoint"
    if not best.is_file() and last.is_file():
        return folder / Path(last.read_text().strip()).name
    return best


def read(path: Path) -> SavedPrompt:
    """The prompt in a checkpoint file, or in the last checkpoint of a run's folder; nothing in the file is executed.

    Raises:
        WeightsError: missing, damaged or unsafe file. PromptError: a checkpoint without context vectors.
    """
    if path.is_dir():
        path = checkpoint_file(path / FOLDER if (path / FOLDER).is_dir() else path)
    saved = load_checkpoint(path)
    state = {key.removeprefix("prompt_learner."): value for key, value in saved["state_dict"].items()}
    if "ctx" not in state:
        raise PromptError(f"{path} holds no context vectors ('ctx'); found: {', '.join(sorted(state)[:8])}")
    if deeper := sorted(key for key in state if key.startswith(("ctx_deep", "visual", "couple_", "meta_net."))):
        raise PromptError(
            f"{path} also holds {', '.join(deeper)}: prompts of several layers, of the image or moved by it, which "
            "CoOp's checkpoints have no place for. Evaluate it with --eval-only --model-dir and its own trainer"
        )
    if not isinstance(state["ctx"], Tensor):
        raise PromptError(
            f"{path}: 'ctx' is {type(state['ctx']).__name__}, expected a tensor [M, d] or [classes, M, d]"
        )
    if state["ctx"].dim() not in (2, 3):
        raise PromptError(f"{path}: context of shape {list(state['ctx'].shape)}; expected [M, d] or [classes, M, d]")
    epoch = saved.get("epoch")
    return SavedPrompt(state["ctx"].float(), epoch if isinstance(epoch, int) else 0, path)


def write_run(prompt: SavedPrompt, folder: Path) -> Path:
    """Lay a prompt out as a run's folder, in CoOp's layout: for ``--eval-only --model-dir`` here or in CoOp's code.

    The file holds tensors and numbers only; every version of torch opens it.

    Raises:
        WeightsError: the folder holds a checkpoint already.
    """
    target = folder / FOLDER / f"model.pth.tar-{max(1, prompt.epoch)}"
    if target.exists():
        raise WeightsError(f"{target} exists already; name another folder")
    state = {
        "state_dict": OrderedDict(ctx=prompt.ctx.clone()),
        "epoch": max(1, prompt.epoch),
        "optimizer": None,
        "scheduler": None,
        "val_result": None,
    }
    with atomic_path(target) as partial:
        torch.save(state, partial)
    write_text(target.parent / "checkpoint", target.name + "\n")
    write_json(target.parent / "prompt.json", {"imported_from": prompt.source.name, "shape": list(prompt.ctx.shape)})
    return target
