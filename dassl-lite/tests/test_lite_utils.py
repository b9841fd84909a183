import random
import socket
import sys

import numpy as np
import pytest
import torch
from dassl import utils
from dassl.utils import AverageMeter, MetricMeter
from torch import nn


def test_seed_check_values():
    utils.set_random_seed(3)
    assert random.random() == 0.23796462709189137
    assert np.random.rand() == 0.5507979025745755
    assert torch.rand(1).item() == 0.004263520240783691


def test_zero_is_a_seed():
    values = []
    for _ in range(2):
        utils.set_random_seed(0)
        values.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert values[0] == values[1]


def test_log_file_and_console(tmp_path, capsys):
    assert utils.setup_logger(None) is None
    utils.setup_logger(str(tmp_path / "run"))
    log = tmp_path / "run" / "log.txt"
    print("one")
    assert log.read_text() == "one\n"  # flushed as the line ends
    sys.stdout.write("two")
    sys.stdout.flush()
    assert log.read_text() == "one\ntwo"
    assert sys.stdout.isatty() is False  # whatever the tee lacks is the console's
    assert sys.stdout.encoding
    console = sys.stdout.console
    sys.stdout.close()
    assert sys.stdout is console
    assert not console.closed
    print("three")
    assert log.read_text() == "one\ntwo"
    assert capsys.readouterr().out == "one\ntwothree\n"


def test_second_logger_replaces_the_first(tmp_path, capsys):
    console = sys.stdout
    for _ in range(3):
        utils.setup_logger(tmp_path)
        print("again")
    assert sys.stdout.console is console
    files = sorted(p.name for p in tmp_path.iterdir())
    assert len(files) == 3
    assert files[0] == "log.txt"
    assert files[1].startswith("log.txt-20")
    assert {(tmp_path / name).read_text() for name in files} == {"again\n"}
    assert capsys.readouterr().out == "again\n" * 3


def test_log_file_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    utils.setup_logger("run.log")
    print("here")
    assert (tmp_path / "run.log").read_text() == "here\n"


def test_a_closed_console_does_not_stop_the_log(tmp_path, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    utils.setup_logger(tmp_path)
    with sys.stdout as tee:
        tee.console.close()
        print("still")
        tee.flush()
    assert (tmp_path / "log.txt").read_text() == "still\n"


def test_json_and_folders(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b.json"
    utils.write_json({"é": [1]}, path)
    assert path.read_text() == '{\n    "\\u00e9": [\n        1\n    ]\n}'
    assert utils.read_json(str(path)) == {"é": [1]}
    monkeypatch.chdir(tmp_path)
    utils.write_json([], "bare.json")
    utils.mkdir_if_missing(str(tmp_path / "x" / "y"))
    utils.mkdir_if_missing(str(tmp_path / "x" / "y"))
    with pytest.raises(FileNotFoundError):
        utils.mkdir_if_missing("")
    (tmp_path / ".hidden").touch()
    assert utils.listdir_nohidden(tmp_path, sort=True) == ["a", "bare.json", "x"]
    assert set(utils.listdir_nohidden(str(tmp_path))) == {"a", "bare.json", "x"}
    assert utils.check_isfile(path)
    with pytest.warns(UserWarning, match='No file found at "gone"'):
        assert not utils.check_isfile("gone")


def test_to_list():
    assert utils.tolist_if_not([1]) == [1]
    assert utils.tolist_if_not((1,)) == [(1,)]
    assert utils.tolist_if_not("a") == ["a"]


def test_meters():
    meter = AverageMeter()
    meter.update(torch.tensor(2.0))
    meter.update(5, n=3)
    assert (meter.val, meter.sum, meter.count, meter.avg) == (5, 17.0, 4, 4.25)
    ema = AverageMeter(ema=True)
    ema.update(1.0)
    ema.update(2.0)
    assert ema.avg == pytest.approx(0.9 * 0.1 + 0.1 * 2)
    row = MetricMeter()
    row.update(None)
    assert str(row) == ""
    row.update({"loss": torch.tensor(1.0), "acc": 50})
    row.update({"loss": 2.0, "acc": 100})
    assert str(row) == "loss 2.0000 (1.5000) acc 100.0000 (75.0000)"
    with pytest.raises(TypeError, match="dict"):
        row.update([1])


def test_layers(capsys):
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    model.add_module("head", nn.Linear(4, 2))
    assert utils.count_num_param(model) == 16 + 8 + 10
    assert utils.count_num_param(params=[{"params": model.head.parameters()}]) == 10
    assert utils.count_num_param(params=model.head.parameters()) == 10
    with pytest.raises(ValueError):
        utils.count_num_param()
    utils.open_specified_layers(model, "head")
    assert not any(p.requires_grad for p in model.body.parameters())
    assert all(p.requires_grad for p in model.head.parameters())
    assert (model.body.training, model.head.training) == (False, True)
    with pytest.raises(ValueError, match="'tail'"):
        utils.open_specified_layers(model, ["tail"])
    utils.open_all_layers(model)
    assert all(p.requires_grad for p in model.parameters())
    utils.init_network_weights(model, gain=0.0)
    assert all(p.eq(0).all() for p in model.head.parameters())
    assert model.body[1].weight.eq(1).all()
    with pytest.raises(NotImplementedError, match="'zeros'"):
        utils.init_network_weights(model, "zeros")


def test_environment_report(monkeypatch):
    monkeypatch.setattr("dassl.utils.tools.get_pretty_env_info", lambda: "torch report")
    assert utils.collect_env_info().startswith("torch report\n")
    assert "Pillow (" in utils.collect_env_info()


def test_downloads(tmp_path, monkeypatch):
    import io

    with pytest.raises(ValueError, match="only http"):
        utils.download_url("file:///etc/hosts", tmp_path / "x")
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(b"data"))
    utils.download_url("https://example.org/a", tmp_path / "new" / "a")
    assert (tmp_path / "new" / "a").read_bytes() == b"data"
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_a_download_that_stops_arriving_ends(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="timed out"):
        utils.download_url(f"http://127.0.0.1:{silent.getsockname()[1]}/a", tmp_path / "a", timeout=0.2)
    assert not list(tmp_path.iterdir())
