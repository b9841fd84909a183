import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import (
    UnsafeCheckpointError,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

RATES = [1e-5, 0.002, 0.00180902, 0.00130902, 0.000690983]


@pytest.fixture
def parts(cfg):
    """A model with its optimizer and CoOp's schedule: cosine over 5 epochs, 1 of constant warm-up."""

    def make():
        cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH = "sgd", 0.002, 5
        cfg.OPTIM.LR_SCHEDULER, cfg.OPTIM.WARMUP_TYPE, cfg.OPTIM.WARMUP_EPOCH = "cosine", "constant", 1
        model = nn.Linear(3, 2)
        optimizer = build_optimizer(model, cfg.OPTIM)
        return model, optimizer, build_lr_scheduler(optimizer, cfg.OPTIM)

    return make


def epoch(model, optimizer, scheduler):
    optimizer.zero_grad()
    model(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    scheduler.step()


def old_style(model, optimizer, scheduler, done):
    """What upstream writes: all fields of the warm-up scheduler, the inner scheduler as an object."""
    state = LRScheduler.state_dict(scheduler)
    assert isinstance(state["successor"], LRScheduler)
    return {
        "state_dict": OrderedDict(model.state_dict()),
        "epoch": done,
        "optimizer": optimizer.state_dict(),
        "scheduler": {**state, "verbose": False},
        "val_result": np.float64(81.25),
    }


def test_layout_and_content(parts, tmp_path, capsys):
    model, optimizer, scheduler = parts()
    state = {
        "state_dict": OrderedDict((f"module.{k}", v) for k, v in model.state_dict().items()),
        "epoch": 2,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "val_result": None,
    }
    folder = tmp_path / "out" / "prompt_learner"
    save_checkpoint(state, str(folder))
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint", "model.pth.tar-2"]
    assert (folder / "checkpoint").read_text() == "model.pth.tar-2\n"
    assert f"Checkpoint saved to {folder}/model.pth.tar-2" in capsys.readouterr().out
    save_checkpoint(state, str(folder), model_name="model-best.pth.tar")
    assert (folder / "checkpoint").read_text().strip() == "model-best.pth.tar"
    # The default of torch reads it: tensors and plain values only.
    loaded = torch.load(folder / "model.pth.tar-2", weights_only=True)
    assert list(loaded) == ["state_dict", "epoch", "optimizer", "scheduler", "val_result"]
    assert list(loaded["state_dict"]) == ["weight", "bias"]


def test_is_best_also_writes_the_best(parts, tmp_path):
    save_checkpoint({"state_dict": {"module.a": torch.ones(1)}, "epoch": 1}, tmp_path, is_best=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "model-best.pth.tar", "model.pth.tar-1"]
    assert list(load_checkpoint(tmp_path / "model-best.pth.tar")["state_dict"]) == ["a"]
    save_checkpoint({"state_dict": {"module.a": torch.ones(1)}, "epoch": 2}, tmp_path, False, False)
    assert list(load_checkpoint(tmp_path / "model.pth.tar-2")["state_dict"]) == ["module.a"]


@pytest.mark.parametrize("legacy_zip", [False, True])
@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_old_warm_up_checkpoints_resume_exactly(parts, tmp_path, done, legacy_zip):
    model, optimizer, scheduler = parts()
    for _ in range(done):
        epoch(model, optimizer, scheduler)
    path = tmp_path / f"model.pth.tar-{done}"
    torch.save(old_style(model, optimizer, scheduler, done), path, _use_new_zipfile_serialization=not legacy_zip)
    (tmp_path / "checkpoint").write_text(f"{path.name}\n")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)

    fresh, fresh_optimizer, fresh_scheduler = parts()
    inner = fresh_scheduler.successor
    assert resume_from_checkpoint(tmp_path, fresh, fresh_optimizer, fresh_scheduler) == done
    assert fresh_scheduler.successor is inner
    assert inner.optimizer is fresh_optimizer
    for rate in RATES[done:]:
        assert fresh_optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=5e-6)
        epoch(model, optimizer, scheduler)
        epoch(fresh, fresh_optimizer, fresh_scheduler)
        assert torch.equal(model.weight, fresh.weight)
    assert load_checkpoint(path)["val_result"] == 81.25


@pytest.mark.parametrize("inner", ["single_step", "multi_step"])
@pytest.mark.parametrize("optim", ["adam", "adamw", "rmsprop"])
def test_old_checkpoints_of_other_kinds_load(cfg, tmp_path, inner, optim):
    cfg.OPTIM.NAME, cfg.OPTIM.LR_SCHEDULER, cfg.OPTIM.STEPSIZE = optim, inner, (2, 3)
    cfg.OPTIM.WARMUP_EPOCH = 1
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, cfg.OPTIM)
    scheduler = build_lr_scheduler(optimizer, cfg.OPTIM)
    epoch(model, optimizer, scheduler)
    epoch(model, optimizer, scheduler)
    torch.save(old_style(model, optimizer, scheduler, 2), tmp_path / "old")
    state = load_checkpoint(tmp_path / "old")["scheduler"]
    assert state["successor"].last_epoch == 1
    assert not isinstance(state["successor"], LRScheduler)  # a stand-in, no live object
    build_lr_scheduler(optimizer, cfg.OPTIM).load_state_dict(state)


def test_a_warm_up_scheduler_stored_as_an_object_loads_as_a_stand_in(parts, tmp_path):
    model, optimizer, scheduler = parts()
    epoch(model, optimizer, scheduler)
    torch.save({"scheduler": scheduler}, tmp_path / "old")
    state = load_checkpoint(tmp_path / "old")["scheduler"]
    assert type(state) is not type(scheduler)
    _, fresh_optimizer, fresh = parts()
    fresh.load_state_dict(state)
    assert (fresh.last_epoch, fresh.optimizer) == (1, fresh_optimizer)


class Payload:
    """Pickles as a call of any callable."""

    def __init__(self, call, *args):
        self.call = call, args

    def __reduce__(self):
        return self.call


def plant(path, payload, parts, legacy=False):
    """An old-style checkpoint with something hidden in it."""
    state = old_style(*parts(), 1)
    state["scheduler"]["extra"] = payload
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_planted_payload_is_named_and_does_not_run(parts, tmp_path, legacy, capsys):
    path, proof = tmp_path / "model.pth.tar-1", tmp_path / "proof"
    plant(path, Payload(os.system, f"touch {proof}"), parts, legacy)
    with pytest.raises(UnsafeCheckpointError, match=rf"(?s){path}.*(posix|nt)\.system"):
        load_checkpoint(path)
    assert not proof.exists()
    assert f'Unable to load checkpoint from "{path}"' in capsys.readouterr().out
    torch.load(path, weights_only=False)  # the payload is live: an open unpickler does run it
    assert proof.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("collections", "OrderedDict.__init__"),
        ("collections", "_sys.modules"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch._utils", "os"),
        ("torch.optim.sgd", "SGD.__init__"),
        ("torch", "load"),
        ("torch.serialization", "_legacy_load"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("dassl.utils.safe_load", "Opaque"),
        ("dassl.optim.lr_scheduler", "ConstantWarmupScheduler.__init__"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_only_exact_names_are_admitted(parts, tmp_path, module, name, protocol):
    path = tmp_path / "model.pth.tar-1"
    if protocol == 2:
        stream = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."
    else:
        texts = (b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
        stream = b"\x80\x04" + b"".join(texts) + b"\x93."
    torch.save({"epoch": 1, "odd": os.getcwd}, path)  # a zip whose pickle is then replaced
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for record, data in records.items():
            archive.writestr(record, stream if record.endswith("data.pkl") else data)
    with pytest.raises(UnsafeCheckpointError, match=f"asks for {module}.{name}"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [np.dtype("O"), np.dtype("V8"), np.dtype([("a", "f4")]), np.zeros(2)])
def test_only_numbers_are_admitted_from_numpy(parts, tmp_path, value):
    plant(tmp_path / "old", value, parts)
    with pytest.raises(UnsafeCheckpointError):
        load_checkpoint(tmp_path / "old")


@pytest.mark.parametrize("value", [np.float64(1.5), np.float32(-2), np.int64(-7), np.uint8(3), np.bool_(True)])
def test_numpy_numbers_come_back_as_python_numbers(parts, tmp_path, value):
    plant(tmp_path / "old", value, parts)
    out = load_checkpoint(tmp_path / "old")["scheduler"]["extra"]
    assert out == value
    assert type(out) in (int, float, bool)


def test_other_failures_of_loading(tmp_path, capsys):
    with pytest.raises(ValueError, match="None"):
        load_checkpoint(None)
    with pytest.raises(FileNotFoundError, match="gone"):
        load_checkpoint(tmp_path / "gone")
    page = tmp_path / "page.pth"
    page.write_text("<html>not here</html>")
    with pytest.raises(pickle.UnpicklingError, match=str(page)):
        load_checkpoint(page)
    assert f'Unable to load checkpoint from "{page}"' in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["torch.save", "os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch, fault):
    state = {"state_dict": {"a": torch.ones(1)}, "epoch": 1}
    save_checkpoint(state, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(*args, **kwargs):
        if fault == "torch.save":
            args[1].write(b"half a che")
        # What readers that list the folder would see at this moment:
        seen.extend(p.name for p in tmp_path.iterdir() if "model" in p.name and p.name not in before)
        raise OSError("disk full")

    seen = []
    monkeypatch.setattr(fault, fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint({**state, "state_dict": {"a": torch.zeros(1)}}, tmp_path)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint({**state, "epoch": 2}, tmp_path)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert seen == []


def test_files_get_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    save_checkpoint({"state_dict": {}, "epoch": 1}, tmp_path)
    modes = {p.stat().st_mode for p in tmp_path.iterdir()}
    assert len(modes) == 1


def test_pretrained_weights_match_by_name_and_size(tmp_path, capsys):
    model = nn.Linear(3, 2)
    state = {"module.weight": torch.ones(2, 3), "bias": torch.ones(5), "extra": torch.ones(1)}
    torch.save({"state_dict": state}, tmp_path / "w")
    load_pretrained_weights(model, tmp_path / "w")
    assert model.weight.eq(1).all()
    assert "['bias', 'extra']" in capsys.readouterr().out
    torch.save({"nothing": torch.ones(1)}, tmp_path / "w")
    with pytest.warns(UserWarning, match="check the key names manually"):
        load_pretrained_weights(model, Path(tmp_path / "w"))


def test_resume_with_a_missing_optimizer_state_warns(parts, tmp_path):
    model, optimizer, scheduler = parts()
    save_checkpoint({"state_dict": model.state_dict(), "epoch": 3, "optimizer": None}, tmp_path)
    with pytest.warns(UserWarning, match="no optimizer state"):
        assert resume_from_checkpoint(tmp_path, model, optimizer, scheduler) == 3
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        resume_from_checkpoint(tmp_path / "empty", model)


def test_killed_between_the_first_checkpoint_and_its_pointer(parts, tmp_path):
    model, optimizer, scheduler = parts()
    epoch(model, optimizer, scheduler)
    state = {"state_dict": model.state_dict(), "epoch": 1, "optimizer": None, "scheduler": None}
    save_checkpoint(dict(state), tmp_path)
    (tmp_path / "checkpoint").unlink()
    fresh, *_ = parts()
    assert resume_from_checkpoint(tmp_path, fresh) == 1 and torch.equal(fresh.weight, model.weight)
    save_checkpoint(dict(state) | {"epoch": 2}, tmp_path)
    (tmp_path / "checkpoint").unlink()
    with pytest.raises(FileNotFoundError, match="which checkpoint"):
        resume_from_checkpoint(tmp_path, fresh)
