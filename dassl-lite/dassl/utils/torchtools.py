"""Checkpoints and layers."""

import contextlib
import os
import random
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dassl.utils.safe_load import safe_load
from dassl.utils.tools import SettingError, tolist_if_not

POINTER = "checkpoint"
BEST = "model-best.pth.tar"


def write_whole(path: Path, write: Callable[[Any], object]) -> None:
    """Fill a file so that it is seen complete or not at all, even when the process is killed."""
    # The name must not contain "model.pth.tar": some readers list the folder for that.
    partial = path.with_name(f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except RuntimeError as error:  # how torch's writer says that a file did not take it all
        why = error.__context__ if isinstance(error.__context__, OSError) else str(error).splitlines()[0]
        raise OSError(f"{path} could not be written ({why}); free some space and run the same command again") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _without_module(state_dict: dict[str, Any]) -> "OrderedDict[str, Any]":
    return OrderedDict((name.removeprefix("module."), value) for name, value in state_dict.items())


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str | Path,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write a checkpoint, then point the text file ``checkpoint`` at it.

    Args:
        state: holds ``state_dict`` and ``epoch`` (epochs done), and whatever else is to be kept.
        save_dir: the folder, made if missing.
        is_best: also write it as ``model-best.pth.tar``.
        remove_module_from_keys: strip the ``module.`` that DataParallel puts before names.
        model_name: file name; default ``model.pth.tar-<epoch>``.
    """
    folder = Path(save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if remove_module_from_keys:
        state["state_dict"] = _without_module(state["state_dict"])
    path = folder / (model_name or f"model.pth.tar-{state['epoch']}")
    write_whole(path, lambda file: torch.save(state, file))
    print(f"Checkpoint saved to {path}")
    if is_best:
        write_whole(folder / BEST, lambda file: torch.save(state, file))
        print(f"Best checkpoint saved to {folder / BEST}")
    write_whole(folder / POINTER, lambda file: file.write(f"{path.name}\n".encode()))


def load_checkpoint(fpath: str | Path | None) -> dict[str, Any]:
    """Read a checkpoint; without CUDA its tensors land on the CPU.

    Raises:
        ValueError: for None.
        FileNotFoundError: if there is no such file.
        UnsafeCheckpointError: if the file would have to run code to be read.
    """
    if fpath is None:
        raise ValueError("the path of the checkpoint is None")
    path = Path(fpath)
    if not path.exists():
        raise FileNotFoundError(f'no checkpoint at "{fpath}"')
    try:
        return safe_load(path, map_location=None if torch.cuda.is_available() else "cpu")
    except Exception:
        print(f'Unable to load checkpoint from "{fpath}"')
        raise


def read_latest(fdir: str | Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint a folder's ``checkpoint`` file points at, and its path.

    Raises:
        FileNotFoundError: if either file is absent, unless there is one checkpoint alone.
    """
    folder = Path(fdir)
    pointer = folder / POINTER
    if not pointer.is_file():
        only = list(folder.glob("model*.pth.tar*"))
        if len(only) == 1:  # killed between its first checkpoint and the pointer to it; checkpoints are whole
            return only[0], load_checkpoint(only[0])
        raise FileNotFoundError(f'no file "{pointer}" to say which checkpoint to resume from')
    path = folder / Path(pointer.read_text(errors="replace").strip()).name  # never a file elsewhere
    return path, load_checkpoint(path)


def restore(checkpoint: dict[str, Any], model: nn.Module, optimizer: Any = None, scheduler: Any = None) -> int:
    """Put a checkpoint into live objects, give its number of epochs; ValueError for another model's."""
    try:
        model.load_state_dict(checkpoint["state_dict"])
        print("Loaded model weights")
        for name, live in (("optimizer", optimizer), ("scheduler", scheduler)):
            if live is None or name not in checkpoint:
                continue
            if checkpoint[name] is None:
                warnings.warn(f"the checkpoint holds no {name} state; the {name} starts anew", stacklevel=3)
                continue
            live.load_state_dict(checkpoint[name])
            print(f"Loaded {name}")
        print(f"Previous epoch: {checkpoint['epoch']}")
        return checkpoint["epoch"]
    except (KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        raise ValueError(f"the checkpoint does not fit this model, optimizer or scheduler: {error}") from error


def resume_from_checkpoint(fdir: str | Path, model: nn.Module, optimizer: Any = None, scheduler: Any = None) -> int:
    """Load the latest checkpoint of a folder; returns the number of epochs done.

    Raises:
        FileNotFoundError: if the folder holds none.
    """
    path, checkpoint = read_latest(fdir)
    print(f'Loading checkpoint from "{path}"')
    return restore(checkpoint, model, optimizer, scheduler)


def random_state() -> dict[str, Any]:
    """State of all random generators, as tensors and plain values."""
    version, words, spare = random.getstate()
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    words_of_numpy = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    return {
        "python": (version, torch.tensor(words, dtype=torch.int64), spare),
        "numpy": (str(kind), words_of_numpy, int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Undo of :func:`random_state`."""
    version, words, spare = state["python"]
    random.setstate((version, tuple(words.tolist()), spare))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])


def load_pretrained_weights(model: nn.Module, weight_path: str | Path) -> None:
    """Copy the weights whose names and shapes match; report the others.

    Warns:
        UserWarning: if nothing matches.
    """
    checkpoint = load_checkpoint(weight_path)
    source = _without_module(checkpoint.get("state_dict", checkpoint))
    target = model.state_dict()
    matched = {k: v for k, v in source.items() if k in target and torch.is_tensor(v) and v.size() == target[k].size()}
    discarded = [k for k in source if k not in matched]
    if not matched:
        warnings.warn(
            f"Cannot load {weight_path} (check the key names manually): no name and shape matches the model",
            stacklevel=2,
        )
        return
    target.update(matched)
    model.load_state_dict(target)
    print(f"Successfully loaded pretrained weights from {weight_path}")
    if discarded:
        print(f"Layers discarded due to unmatched keys or size: {discarded}")


def open_all_layers(model: nn.Module) -> None:
    """Put the model in training mode and let every parameter learn."""
    model.train()
    model.requires_grad_(True)


def open_specified_layers(model: nn.Module, open_layers: str | list[str]) -> None:
    """Train only the named direct children; the others are frozen and put in eval mode.

    Raises:
        SettingError: if the model has no child of a given name.
    """
    if isinstance(model, nn.DataParallel):
        model = model.module
    wanted = tolist_if_not(open_layers)
    children = dict(model.named_children())
    for name in wanted:
        if name not in children:
            raise SettingError(f"the model has no layer {name!r}; it has {list(children)}")
    for name, child in children.items():
        child.train(name in wanted)
        child.requires_grad_(name in wanted)


def count_num_param(model: nn.Module | None = None, params: Any = None) -> int:
    """Number of values in a model, or in parameters or parameter groups; ValueError for neither."""
    if model is not None:
        params = model.parameters()
    if params is None:
        raise ValueError("give a model or params")
    total = 0
    for item in params:
        group = item["params"] if isinstance(item, dict) else [item]
        total += sum(p.numel() for p in ([group] if torch.is_tensor(group) else group))
    return total


def init_network_weights(model: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Re-initialise convolution and linear layers (biases 0) and normalisation layers (weight 1, bias 0).

    Args:
        init_type: normal (standard deviation ``gain``), xavier, kaiming or orthogonal.

    Raises:
        NotImplementedError: for another ``init_type``.
    """
    fill = {
        "normal": lambda w: nn.init.normal_(w, 0.0, gain),
        "xavier": lambda w: nn.init.xavier_normal_(w, gain=gain),
        "kaiming": lambda w: nn.init.kaiming_normal_(w, a=0, mode="fan_in"),
        "orthogonal": lambda w: nn.init.orthogonal_(w, gain=gain),
    }.get(init_type)
    if fill is None:
        raise NotImplementedError(f"initialisation {init_type!r}; known: normal, xavier, kaiming, orthogonal")
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    for module in model.modules():
        if isinstance(module, layers):
            fill(module.weight)
        elif isinstance(module, norms) and module.weight is not None:
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
