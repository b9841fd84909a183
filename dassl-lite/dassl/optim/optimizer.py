"""Optimizers by name."""

import warnings
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

AVAI_OPTIMS = ["adam", "amsgrad", "sgd", "rmsprop", "adamw"]


def _staged_groups(model: Any, optim_cfg: CfgNode) -> list[dict[str, Any]]:
    """Two groups: the old layers at a fraction of the rate first, then the new ones."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"OPTIM.STAGED_LR needs a model (nn.Module), got {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        model = model.module
    new_layers = optim_cfg.NEW_LAYERS
    if isinstance(new_layers, str):
        new_layers = [new_layers]
    children = dict(model.named_children())
    unknown = [name for name in new_layers if name not in children]
    if unknown or not new_layers:
        warnings.warn(
            f"OPTIM.NEW_LAYERS={list(new_layers)}: {unknown or 'it is empty, so all layers are old'}; "
            f"the layers of the model are {list(children)}",
            stacklevel=3,
        )
    old: list[nn.Parameter] = []
    new: list[nn.Parameter] = []
    for name, child in children.items():
        (new if name in new_layers else old).extend(child.parameters())
    return [{"params": old, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new}]


def build_optimizer(model: Any, optim_cfg: CfgNode, param_groups: Any = None) -> torch.optim.Optimizer:
    """Make the optimizer named by ``optim_cfg.NAME``.

    Args:
        model: a module (all its parameters are passed, frozen ones too), or parameters, or parameter groups.
        optim_cfg: the ``OPTIM`` node.
        param_groups: used in place of ``model``.

    Raises:
        ValueError: for an unknown name.
        TypeError: if ``OPTIM.STAGED_LR`` is on and ``model`` is no module.
    """
    name = optim_cfg.NAME
    if name not in AVAI_OPTIMS:
        hint = " (upstream's own RAdam is not included; torch's differs in its first steps)" if name == "radam" else ""
        raise ValueError(f"optimizer {name!r} is not one of {AVAI_OPTIMS}{hint}")
    if param_groups is not None:
        if optim_cfg.STAGED_LR:
            warnings.warn("OPTIM.STAGED_LR is ignored: parameter groups were given", stacklevel=2)
        params = param_groups
    elif optim_cfg.STAGED_LR:
        params = _staged_groups(model, optim_cfg)
    elif isinstance(model, nn.Module):
        params = model.parameters()
    else:
        params = model

    common = {"lr": optim_cfg.LR, "weight_decay": optim_cfg.WEIGHT_DECAY}
    betas = (optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2)
    momentum = optim_cfg.MOMENTUM
    if name == "sgd":
        dampening, nesterov = optim_cfg.SGD_DAMPNING, optim_cfg.SGD_NESTEROV
        return torch.optim.SGD(params, momentum=momentum, dampening=dampening, nesterov=nesterov, **common)
    if name == "rmsprop":
        return torch.optim.RMSprop(params, momentum=momentum, alpha=optim_cfg.RMSPROP_ALPHA, **common)
    if name == "adamw":
        return torch.optim.AdamW(params, betas=betas, **common)
    return torch.optim.Adam(params, betas=betas, amsgrad=name == "amsgrad", **common)
