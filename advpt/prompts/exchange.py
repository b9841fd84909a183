"""Learned prompts in and out of CoOp's and the official AdvPT's checkpoints."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advpt import additions
from advpt.backbones.backbone import Backbone
from advpt.checkpoints import load_checkpoint
from advpt.data import listing
from advpt.errors import PromptError, WeightsError
from advpt.files import atomic_path, read_object, write_json, write_text
from advpt.prompts.learner import WITH_VISUAL, prompt_tensors
from advpt.settings import CONTEXT_LEAVES, COUPLED, ContextSettings

FOLDER = "prompt_learner"
ABOUT = "prompt.json"  # beside a checkpoint: its settings, data and backbone
CARRIED = ("trainer", "dataset", "data", "classnames", "backbone", "templates", "n_ctx", "csc", "class_token_position",
           "prompt", "training", "seed")  # fmt: skip


@dataclass(frozen=True)
class SavedPrompt:
    """Context ``[M, d]`` or ``[K, M, d]`` float32, the epoch it was saved after, its file, and the contents of
    :data:`ABOUT` beside that file."""

    ctx: Tensor
    epoch: int
    source: Path
    about: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        kind = f"{self.ctx.shape[0]} classes x " if self.ctx.dim() == 3 else ""
        m, d = self.ctx.shape[-2:]
        text = f"{kind}{m} context vectors of width {d}, epoch {self.epoch}, from {self.source}"
        name = tuned_in(self.about, "backbone").get("name")
        position = tuned_in(self.about, "prompt").get("position")
        if name is None or position is None:
            return text + "; nothing beside it says on which CLIP, and with the class name where, it was tuned"
        return text + f"; tuned on {name} with the class name at the {position}"


def checkpoint_file(folder: Path, epoch: int | None = None) -> Path:
    """The checkpoint of a run's model folder: of an epoch, else ``model-best``, else the one ``checkpoint`` names.

    Raises:
        WeightsError: it is not there; the message lists what is.
    """
    best, last = folder / "model-best.pth.tar", folder / "checkpoint"
    if epoch is not None:
        path = folder / f"model.pth.tar-{epoch}"
    elif not best.is_file() and last.is_file():
        path = folder / Path(last.read_text(encoding="utf-8", errors="replace").strip()).name
    else:
        path = best
    if not path.is_file():
        raise WeightsError(f"no checkpoint at {path}; {contents(folder)}")
    return path


def contents(folder: Path) -> str:
    """The part of a message about checkpoints in a run's model folder, else in the folders beside, below or above."""
    if names := _checkpoints(folder):
        epochs = [name.rpartition("-")[2] for name in names if name.rpartition("-")[2].isdigit()]
        return f"{folder} has {', '.join(names)}" + (f": choose one with --load-epoch {epochs[-1]}" if epochs else "")
    beside = sorted(folder.parent.iterdir()) if folder.parent.is_dir() else []
    others = [f"{path.name} ({', '.join(names)})" for path in beside if path.is_dir() and (names := _checkpoints(path))]
    if others:
        return (
            f"{folder.parent} has checkpoints in {', '.join(others)}, where those of another method lie; name its "
            "--trainer, or a run of this one with --model-dir"
        )
    if runs := sorted({path.parents[1].name for path in folder.parent.glob(f"*/{folder.name}/model*.pth.tar*")}):
        return f"{folder.parent} holds the runs {listing.some(runs)}: name one of them with --model-dir, or --seeds"
    if _checkpoints(above := folder.parent.parent / folder.name):
        return f"{above} has checkpoints: name that run alone, or with --seeds the folder that holds its seeds"
    return "name the folder of a finished run with --model-dir"


def _checkpoints(folder: Path) -> list[str]:
    names = [path.name for pattern in ("model*.pth.tar*", "*.safetensors") for path in folder.glob(pattern)]
    return sorted(names, key=lambda name: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)])


# --- the file beside a checkpoint -----------------------------------------------------------------------------------


def about(checkpoint: Path) -> dict[str, Any]:
    """The contents of :data:`ABOUT` beside a checkpoint; {} where there is none.

    Raises:
        WeightsError: it is damaged.
    """
    path = checkpoint.parent / ABOUT
    return read_object(path, WeightsError) if path.is_file() else {}


def tuned_in(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object in the file beside a checkpoint; {} where it is missing or no object."""
    value = about.get(name)
    return value if isinstance(value, Mapping) else {}


def origin(about: Mapping[str, Any]) -> dict[str, Any]:
    """The run of a checkpoint, as far as the file beside it says: trainer, data set, seed."""
    return {name: about[name] for name in ("trainer", "dataset", "seed") if name in about}


def other_data(about: Mapping[str, Any], lists: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data that a checkpoint was tuned on; {} where they are those of ``lists`` or unknown.

    Args:
        about: contents of the file beside the checkpoint. lists: :attr:`advpt.data.lists.DataLists.tuned_on`.
    """
    data = tuned_in(about, "data")
    return data if data and data.get("digest") != lists["digest"] else {}


def require_data(about: Mapping[str, Any], run: Path, lists: Mapping[str, Any]) -> None:
    """Refuse to go on with a run on other data.

    Args:
        about, lists: as of :func:`other_data`. run: its folder, for the message.

    Raises:
        PromptError: with the numbers of classes and images of both.
    """
    if data := other_data(about, lists):
        raise PromptError(
            f"{run} was tuned on other data: {data.get('title')}, {data.get('classes')} classes and "
            f"{data.get('images')} training images, this run has {lists['classes']} and {lists['images']}; start anew "
            "without --resume"
        )


def layout_settings(run: Path, node: str, leaves: Collection[str]) -> dict[str, Any]:
    """The settings of ``TRAINER.<node>`` that a run's prompts were tuned with, by dotted name.

    Args:
        run: its folder. leaves: that the node has.
    """
    tuned = tuned_in(about(run / FOLDER / ABOUT), "prompt")
    names = list(CONTEXT_LEAVES)
    if tuned.get("layout", "text") == "text":
        names = [name for name in names if name in ("n_ctx", "csc", "ctx_init", "position", "layout")]
    return {
        f"TRAINER.{node}.{CONTEXT_LEAVES[name]}": tuned[name]
        for name in names
        if name in tuned and CONTEXT_LEAVES[name] in leaves
    }


def require_layout(
    about: Mapping[str, Any], source: str, context: ContextSettings, node: str, leaves: Collection[str]
) -> None:
    """Refuse prompts that were tuned in another layout than ``context``, which equal shapes would hide.

    Args:
        about: contents of the file beside the checkpoint.
        source: name of the checkpoint in messages.
        node: of TRAINER, with the settings.
        leaves: names of the node's settings; the trainer fixes the others.

    Raises:
        PromptError: each setting that differs.
    """
    tuned = tuned_in(about, "prompt")
    names = ["layout", *(name for name in additions.PROMPT_FIELDS if context.experts or tuned.get("experts"))]
    if context.layout in ("text", "text_deep"):
        names += ["csc", "position"]
    if context.layout not in ("text", "visual"):
        names += ["ctx_init"]
    if context.layout in COUPLED:
        names += ["shared_coupling"]
    lines = []
    for name in names:
        mine, theirs = getattr(context, name), tuned.get(name, additions.PROMPT_FIELDS.get(name))
        if name == "ctx_init" and isinstance(theirs, str):
            mine, theirs = (text.replace("_", " ").strip() for text in (mine, theirs))
        if (name in tuned or (tuned and name in additions.PROMPT_FIELDS)) and mine != theirs:
            lines.append(f"{CONTEXT_LEAVES[name]} {theirs}, this run has {mine}")
    if lines:
        settings = [line.partition(",")[0] for line in lines]
        as_tuned = " ".join(f"TRAINER.{node}.{setting}" for setting in settings)
        if not {setting.partition(" ")[0] for setting in settings} <= set(leaves):
            as_tuned = f"the trainer that tuned it (--trainer {about.get('trainer', 'NAME')}), or one with such prompts"
        raise PromptError(
            f"{source} was tuned with {' and '.join(lines)}: another prompt. Evaluate it as it was tuned, with "
            f"{as_tuned}"
        )


def other_classes(about: Mapping[str, Any], classnames: Sequence[str]) -> str:
    """The difference between the classes that a checkpoint was tuned on and ``classnames``, as part of a sentence; ""
    where there is none or they are unknown."""
    tuned = about.get("classnames")
    if not isinstance(tuned, list) or tuned == list(classnames):
        return ""
    theirs, mine = (listing.some([str(name) for name in names], 3) for names in (tuned, classnames))
    return f"it was tuned on {len(tuned)} classes ({theirs}), this run has {len(classnames)} ({mine})"


def other_towers(about: Mapping[str, Any], backbone: Backbone, towers: Sequence[str] = ("text", "image")) -> str:
    """The difference between the CLIP that a checkpoint was tuned on and ``backbone``, as part of a sentence; "" where
    there is none or it is unknown.

    Args:
        about: contents of the file beside the checkpoint. towers: that are compared, ``text`` and ``image``.
    """
    tuned = tuned_in(about, "backbone")
    for tower in towers:
        theirs, mine = tuned.get(tower), backbone.text_digest if tower == "text" else backbone.image_digest
        if theirs is not None and theirs != mine:
            return (
                f"was tuned on another CLIP: {tuned.get('name')} with the {tower} tower {str(theirs)[:12]}, this run "
                f"has {backbone.name} with {mine[:12]}"
            )
    return ""


def require_towers(about: Mapping[str, Any], source: str, backbone: Backbone, towers: Sequence[str]) -> None:
    """Refuse what was tuned on another CLIP than ``backbone``.

    Args:
        about, towers: as of :func:`other_towers`. source: the checkpoint's name in the message.

    Raises:
        WeightsError: with both CLIPs.
    """
    if other := other_towers(about, backbone, towers):
        raise WeightsError(
            f"{source} {other}. Name that CLIP with MODEL.BACKBONE.NAME, MODEL.WEIGHTS and MODEL.IMAGE_WEIGHTS"
        )


def towers_of(context: ContextSettings) -> tuple[str, ...]:
    """The towers of CLIP that prompts of this layout are in, or are made from."""
    return ("text", "image") if context.layout in WITH_VISUAL else ("text",)


def read(path: Path) -> SavedPrompt:
    """The prompt in a checkpoint file, or in the last checkpoint of a run's folder; nothing in the file is executed.

    Raises:
        WeightsError: missing, damaged or unsafe file. PromptError: a checkpoint without context vectors.
    """
    if path.is_dir():
        path = checkpoint_file(path / FOLDER if (path / FOLDER).is_dir() else path)
    saved = load_checkpoint(path)
    state = prompt_tensors(saved["state_dict"], str(path))
    if "ctx" not in state:
        raise PromptError(f"{path} holds no context vectors ('ctx'); found: {', '.join(sorted(state)[:8])}")
    if more := sorted(state.keys() - {"ctx"}):
        raise PromptError(
            f"{path} also holds {listing.some(more, 8)}: prompts of several layers, of the image or of another method, "
            "which CoOp's checkpoints have no place for. Evaluate it with --eval-only --model-dir and its own trainer"
        )
    if not isinstance(state["ctx"], Tensor):
        raise PromptError(
            f"{path}: 'ctx' is {type(state['ctx']).__name__}, expected a tensor [M, d] or [classes, M, d]"
        )
    if state["ctx"].dim() not in (2, 3):
        raise PromptError(f"{path}: context of shape {list(state['ctx'].shape)}; expected [M, d] or [classes, M, d]")
    epoch = saved.get("epoch")
    return SavedPrompt(state["ctx"].float(), epoch if isinstance(epoch, int) else 0, path, about(path))


def write_run(prompt: SavedPrompt, folder: Path) -> Path:
    """Write a prompt as a run's folder, in CoOp's layout: for ``--eval-only --model-dir`` here or in CoOp's code.

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
    history = {name: prompt.about[name] for name in CARRIED if name in prompt.about}
    origin = {"imported_from": prompt.source.name, "shape": list(prompt.ctx.shape)}
    write_json(target.parent / ABOUT, history | origin)
    return target
