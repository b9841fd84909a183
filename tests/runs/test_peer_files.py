"""Trainer files of other repositories in ``trainers/``, unknown trainers, and what Dassl's functions are given."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path, PurePath

import dassl.utils
import pytest
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX
from yacs.config import CfgNode

import train
from advpt.backbones.shim import import_clip
from advpt.files import file_digest
from tests.helpers.workspace import ROOT


def is_clip(name: str) -> bool:
    return name == "clip" or name.startswith("clip.")


@pytest.fixture
def no_clip():
    """No module is called ``clip``, as in a fresh process; afterwards all is as before."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if is_clip(name)}
    yield
    for name in [name for name in sys.modules if is_clip(name)]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def peer(no_clip, monkeypatch, tmp_path, tiny_archive, workspace):
    """A workspace with a peer's trainer file in ``trainers/``, and its CLIP in OpenAI's cache."""
    sha = file_digest(tiny_archive)
    (tmp_path / "cache").mkdir()
    os.link(tiny_archive, tmp_path / "cache" / "tiny.pt")
    monkeypatch.setenv("ADVPT_CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(import_clip().clip._MODELS, "tiny", f"http://127.0.0.1:1/{sha}/tiny.pt")
    train.register_plugins()
    importlib.import_module("tests.helpers.peer_trainer")
    yield workspace
    TRAINER_REGISTRY._items.pop("PeerPrompt")
    del sys.modules["tests.helpers.peer_trainer"]


def with_node(monkeypatch) -> None:
    """What a user does who copies the lines of the peer's ``extend_cfg`` into ours."""
    ours = train.extend_cfg

    def extend_cfg(cfg):
        ours(cfg)
        cfg.TRAINER.PEERPROMPT = CfgNode()
        cfg.TRAINER.PEERPROMPT.N_CTX = 4
        cfg.TRAINER.PEERPROMPT.PREC = "fp16"

    monkeypatch.setattr(train, "extend_cfg", extend_cfg)


SETTINGS = ("INPUT.SIZE", "(32, 32)", "OPTIM.MAX_EPOCH", "2")


def test_a_peers_trainer_trains_and_is_evaluated_on_openais_clip(peer, monkeypatch):
    with_node(monkeypatch)
    more = (*SETTINGS, "TRAINER.PEERPROMPT.PREC", "fp32")
    printed = peer.run(*more, trainer="PeerPrompt")
    assert "epoch [2/2]" in printed and "Finish training" in printed
    accuracy = re.findall(r"^\* accuracy: [\d.]+%$", printed, flags=re.MULTILINE)
    flags = ("--eval-only", "--model-dir", str(peer.output), "--load-epoch", "2")
    again = peer.run(*more, trainer="PeerPrompt", flags=flags, output=peer.folder / "again")
    assert accuracy and re.findall(r"^\* accuracy: [\d.]+%$", again, flags=re.MULTILINE) == accuracy


def test_a_peers_trainer_without_its_node_says_which_lines_to_copy(peer):
    code, printed = peer.call(*SETTINGS, trainer="PeerPrompt")
    assert code == 2 and "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    where = Path(__file__).parents[1] / "helpers" / "peer_trainer.py"
    number = 1 + next(i for i, text in enumerate(where.read_text().splitlines()) if "PREC in [" in text)
    assert f"{where}, line {number}, reads TRAINER.PEERPROMPT. " in line
    assert "copy the lines about it from the extend_cfg of that repository's train.py" in line
    assert f"into extend_cfg of {ROOT / 'train.py'}" in line


def test_a_peers_yaml_without_its_node_says_so_too(peer):
    (peer.folder / "tiny.yaml").write_text("TRAINER: {PEERPROMPT: {N_CTX: 16, PREC: fp16}}\n")
    code, printed = peer.call(*SETTINGS, trainer="PeerPrompt")
    assert code == 2 and "TRAINER.PEERPROMPT.N_CTX: no such key" in printed
    assert printed.count("TRAINER.PEERPROMPT is no setting of this project") == 1
    assert f"into extend_cfg of {ROOT / 'train.py'}" in printed


def test_a_clip_of_theirs_that_needs_pkg_resources_is_named(workspace, no_clip, monkeypatch, tmp_path):
    (tmp_path / "theirs/clip").mkdir(parents=True)
    (tmp_path / "theirs/clip/__init__.py").write_text("x = 1\nfrom pkg_resources import packaging\n")
    (tmp_path / "theirs/needs_clip.py").write_text("import clip\n")
    monkeypatch.syspath_prepend(str(tmp_path / "theirs"))
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    monkeypatch.setattr(train, "register_plugins", lambda: importlib.import_module("needs_clip"))
    code, printed = workspace.call()
    assert code == 2 and f"{tmp_path}/theirs/clip/__init__.py, line 2, imports pkg_resources" in printed
    assert "write `import packaging.version` there" in printed


def test_an_error_of_a_trainer_that_is_no_setting_stays_what_it_is(peer, monkeypatch):
    with_node(monkeypatch)
    monkeypatch.setattr(TRAINER_REGISTRY.get("PeerPrompt"), "build_model", lambda self: self.no_such_thing)
    with pytest.raises(AttributeError, match="no_such_thing"):
        peer.call(*SETTINGS, trainer="PeerPrompt")


@pytest.mark.parametrize(("name", "near"), [("AdvTP", "AdvPT"), ("coop", "CoOp"), ("ProGrad", "")])
def test_an_unknown_trainer_is_named_and_not_the_keys_of_its_yaml(workspace, name, near):
    (workspace.folder / "tiny.yaml").write_text(f"TRAINER: {{{name.upper()}: {{GM_LAMBDA: 1.0}}}}\n")
    code, printed = workspace.call(trainer=name)
    assert code == 2 and f"unknown trainer {name!r}" in printed and "no such key" not in printed
    assert (f"Did you mean {near!r}?" in printed) == bool(near) and "ZeroshotCLIP" in printed
    assert "import line" in printed and not workspace.output.exists()
    code, printed = workspace.call_words(["--trainer", name])
    assert code == 2 and f"unknown trainer {name!r}" in printed


def test_a_trainer_that_only_has_a_folder_of_configurations_is_unknown_too(workspace, monkeypatch):
    monkeypatch.setitem(TRAINER_REGISTRY._items, "AdvPT", TRAINER_REGISTRY._items["AdvPT"])
    del TRAINER_REGISTRY._items["AdvPT"]
    code, printed = workspace.call()
    assert code == 2 and "unknown trainer 'AdvPT'" in printed


def test_a_trainer_of_ours_without_its_settings_says_what_the_host_lacks(workspace, monkeypatch):
    monkeypatch.setattr(TRAINER_REGISTRY.get("AdvPT").settings, "node", "TRAINER.OWN")
    code, printed = workspace.call()
    assert code == 2 and "the configuration lacks OWN" in printed
    assert "trainers.advpt.extend_cfg(cfg) at the end of extend_cfg" in printed


def test_dassls_functions_are_given_paths_as_text(workspace, monkeypatch):
    """Upstream's take no other: ``setup_logger`` asks a path for its ``endswith``."""
    called = set()

    def strict(owner, name):
        plain = getattr(owner, name)

        def checked(*args, **kwargs):
            assert not any(isinstance(value, PurePath) for value in (*args, *kwargs.values())), (name, args, kwargs)
            called.add(name)
            return plain(*args, **kwargs)

        monkeypatch.setattr(owner, name, checked)

    strict(dassl.utils, "setup_logger")
    for name in ("save_model", "resume_model_if_exist", "init_writer"):
        strict(TrainerX, name)
    strict(Datum, "__init__")
    workspace.run()
    assert called == {"setup_logger", "save_model", "resume_model_if_exist", "init_writer", "__init__"}
    words = workspace.argv(output=workspace.folder / "both", flags=("--seeds", "1,2"))
    at = words.index("--seed")
    code, printed = workspace.call_words([*words[:at], *words[at + 2 :]])
    assert code == 0, printed
