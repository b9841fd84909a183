import copy

import pytest
import torch
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.lr_scheduler import ConstantWarmupScheduler, LinearWarmupScheduler
from torch import nn

COOP = [1e-5, 0.002, 0.00180902, 0.00130902, 0.000690983, 0.000190983, 0]
TABLE = {
    "cosine": ({}, [0.002, 0.00180902, 0.00130902, 0.000690983, 0.000190983, 0]),
    "constant 1": ({"WARMUP_EPOCH": 1}, COOP),
    "constant 2": ({"WARMUP_EPOCH": 2}, [1e-5, 1e-5, 0.002, 0.00180902, 0.00130902]),
    "linear 2": (
        {"WARMUP_EPOCH": 2, "WARMUP_TYPE": "linear"},
        [1e-5, 0.001, 0.002, 0.00180902, 0.00130902],
    ),
    "linear 3": (
        {"WARMUP_EPOCH": 3, "WARMUP_TYPE": "linear"},
        [1e-5, 0.000666667, 0.00133333, 0.002, 0.00180902],
    ),
    "constant 1, no recount": (
        {"WARMUP_EPOCH": 1, "WARMUP_RECOUNT": False},
        [1e-5, 0.002, 0.00144721, 0.000763932, 0.000211146],
    ),
    "constant 2, no recount": (
        {"WARMUP_EPOCH": 2, "WARMUP_RECOUNT": False},
        [1e-5, 1e-5, 0.002, 0.00105573, 0.000291796],
    ),
    "single step": (
        {"WARMUP_EPOCH": 1, "LR_SCHEDULER": "single_step"},
        [1e-5, 0.002, 0.002, 0.002, 0.002, 0.002, 0.0002],
    ),
    "single step, no recount": (
        {"WARMUP_EPOCH": 1, "LR_SCHEDULER": "single_step", "WARMUP_RECOUNT": False},
        [1e-5, 0.002, 0.002, 0.002, 0.002, 0.0002],
    ),
    "single step at 2": (
        {"LR_SCHEDULER": "single_step", "STEPSIZE": (2,)},
        [0.002, 0.002, 0.0002, 0.0002, 2e-05],
    ),
    "multi step": (
        {"LR_SCHEDULER": "multi_step", "STEPSIZE": (2, 4)},
        [0.002, 0.002, 0.0002, 0.0002, 2e-05],
    ),
}


def make(cfg, **settings):
    optim = cfg.OPTIM
    optim.NAME, optim.LR, optim.MAX_EPOCH = "sgd", 0.002, 5
    optim.LR_SCHEDULER, optim.WARMUP_TYPE = "cosine", "constant"
    for key, value in settings.items():
        optim[key] = value
    optimizer = build_optimizer(nn.Linear(2, 1), optim)
    return optimizer, build_lr_scheduler(optimizer, optim)


@pytest.mark.parametrize("row", TABLE)
def test_rates_match_the_reference_table(cfg, row):
    settings, expected = TABLE[row]
    optimizer, scheduler = make(cfg, **settings)
    for rate in expected:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=5e-6, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_every_parameter_group_warms_up(cfg):
    cfg.OPTIM.STAGED_LR, cfg.OPTIM.NEW_LAYERS = True, ("1",)
    cfg.OPTIM.WARMUP_EPOCH = 2
    optimizer = build_optimizer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), cfg.OPTIM)
    scheduler = build_lr_scheduler(optimizer, cfg.OPTIM)
    assert [g["lr"] for g in optimizer.param_groups] == [1e-5, 1e-5]
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.0003 * 0.1 / 2, 0.0003 / 2])


def test_constructors_take_upstreams_arguments():
    for kind in (ConstantWarmupScheduler, LinearWarmupScheduler):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        inner = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        scheduler = kind(optimizer, inner, 2, 0.5, -1, True)
        assert scheduler.successor is inner
        assert scheduler.get_last_lr() == [0.5]


@pytest.mark.parametrize("row", ["constant 1", "linear 3", "single step", "multi step"])
@pytest.mark.parametrize("stop", range(5))
def test_state_dict_resumes_exactly(cfg, row, stop):
    settings, expected = TABLE[row]
    optimizer, scheduler = make(cfg, **settings)
    for _ in range(stop):
        optimizer.step()
        scheduler.step()
    states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    optimizer, scheduler = make(cfg, **settings)
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    for rate in expected[stop:]:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=5e-6, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_warm_up_refuses_a_state_saved_without_warm_up(cfg):
    _, plain = make(cfg)
    _, warm = make(cfg, WARMUP_EPOCH=1)
    with pytest.raises(KeyError, match="saved without warm-up"):
        warm.load_state_dict(plain.state_dict())


def test_wrong_schedules(cfg):
    with pytest.raises(ValueError, match="'linear_decay' is not one of"):
        make(cfg, LR_SCHEDULER="linear_decay")
    with pytest.raises(TypeError, match="multi_step must be a list"):
        make(cfg, LR_SCHEDULER="multi_step", STEPSIZE=3)
    with pytest.raises(TypeError, match="must end in an int"):
        make(cfg, LR_SCHEDULER="single_step", STEPSIZE=(2.5,))
    with pytest.raises(ValueError, match="WARMUP_TYPE 'exp'"):
        make(cfg, LR_SCHEDULER="cosine", WARMUP_EPOCH=1, WARMUP_TYPE="exp")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", "Adam"), ("amsgrad", "Adam"), ("sgd", "SGD"), ("rmsprop", "RMSprop"), ("adamw", "AdamW")],
)
def test_optimizers(cfg, name, kind):
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    cfg.OPTIM.NAME, cfg.OPTIM.MOMENTUM = name, 0.7
    optimizer = build_optimizer(model, cfg.OPTIM)
    group = optimizer.param_groups[0]
    assert type(optimizer).__name__ == kind
    assert len(group["params"]) == 2
    assert group["lr"] == 0.0003
    assert group["weight_decay"] == 5e-4
    assert group.get("amsgrad", False) == (name == "amsgrad")
    if name in ("sgd", "rmsprop"):
        assert group["momentum"] == 0.7


def test_optimizer_takes_parameters_and_groups(cfg):
    weight = nn.Parameter(torch.zeros(2))
    assert build_optimizer([weight], cfg.OPTIM).param_groups[0]["params"] == [weight]
    groups = [{"params": [weight], "lr": 0.5}]
    assert build_optimizer(None, cfg.OPTIM, param_groups=groups).param_groups[0]["lr"] == 0.5
    cfg.OPTIM.STAGED_LR = True
    with pytest.warns(UserWarning, match="STAGED_LR is ignored"):
        build_optimizer(None, cfg.OPTIM, param_groups=groups)
    with pytest.raises(TypeError, match="needs a model"):
        build_optimizer([weight], cfg.OPTIM)


@pytest.mark.parametrize("name", ["radam", "lion"])
def test_unknown_optimizer(cfg, name):
    cfg.OPTIM.NAME = name
    with pytest.raises(ValueError, match="is not one of"):
        build_optimizer(nn.Linear(1, 1), cfg.OPTIM)


def test_staged_rates_put_old_layers_first(cfg):
    model = nn.Sequential()
    model.add_module("body", nn.Linear(2, 2))
    model.add_module("head", nn.Linear(2, 1))
    cfg.OPTIM.STAGED_LR, cfg.OPTIM.NEW_LAYERS = True, "head"
    old, new = build_optimizer(model, cfg.OPTIM).param_groups
    assert (old["lr"], new["lr"]) == (pytest.approx(3e-5), 3e-4)
    assert old["params"][0] is model.body.weight
    cfg.OPTIM.NEW_LAYERS = ("haed",)
    with pytest.warns(UserWarning, match="haed"):
        build_optimizer(model, cfg.OPTIM)
