"""Models by the name on the command line, and the sentences where there is none."""

from __future__ import annotations

import sys

import pytest

from advpt.errors import ModelError
from advpt.outside.load import load

CODE = """
from torch import nn
network = nn.Flatten()
def make(): return nn.Flatten()
def apply(pixels): return pixels.flatten(1)
def several(*pixels): return pixels
def nothing(): pass
def broken(): raise OSError("no file weights.pt")
class Net(nn.Flatten): pass
class Needs(nn.Module):
    def __init__(self, depth): super().__init__()
class space: inner = nn.Flatten()
number = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with modules, in which the command was started."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "nets.py").write_text(CODE)
    (tmp_path / "own_half.py").write_text("import torch\nimport there_is_no_such\n")
    (tmp_path / "own_wrong.py").write_text("x = 1\ny = x / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own", "own_half", "own_wrong")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["network", "make", "apply", "several", "Net", "space.inner"])
def test_a_factory_a_class_or_the_model_itself(name):
    model = load(f"own.nets:{name}")
    assert model.name == model.source == f"own.nets:{name}" and model.preprocessing.size == (224, 224)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own.nets", "expected MODULE:NAME, for instance my.module:make"),
        ("own/nets.py:make", "expected MODULE:NAME"),
        ("own.net:make", "there is no module own.net, neither in .* nor on PYTHONPATH nor installed"),
        ("mine.net:make", "there is no module mine"),
        ("own.nets:mak", "unknown name in own.nets 'mak'. Did you mean 'make'"),
        ("own.nets:broken", r"it raised OSError: no file weights.pt \(.*nets.py, line 8\)"),
        ("own.nets:nothing", r"nothing\(\) gave nothing"),
        ("own.nets:number", "own.nets:number is 3, of type int; expected a function of pixels"),
        ("own.nets:Needs", "Needs needs depth to be made; give a function"),
        (
            "own_half:x",
            r"importing own_half, it raised ModuleNotFoundError: No module named 'there_is_no_such' \(.*line 2",
        ),
        (
            "own_wrong:x",
            r"importing own_wrong, it raised ZeroDivisionError: division by zero \(.*own_wrong.py, line 2\)",
        ),
    ],
)
def test_the_sentence_where_there_is_no_model(text, message):
    with pytest.raises(ModelError, match=message):
        load(text)
