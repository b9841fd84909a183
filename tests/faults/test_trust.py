"""Files of strangers are safe to open: a planted payload runs in no loader, and nothing leaves its folder."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dassl.utils import load_checkpoint as host_load_checkpoint
from dassl.utils import load_pretrained_weights
from dassl.utils.torchtools import read_latest
from safetensors.torch import save_file

from advpt import checkpoints, files
from advpt.attacks import surrogate
from advpt.backbones import clip, democlip
from advpt.bank.store import open_bank, read_shard
from advpt.checkpoints import read_state_dict
from advpt.data import fewshot, manifest, split
from advpt.data.images import Preprocessing, read_image
from advpt.errors import AdvPTError, WeightsError
from advpt.evaluation import record as records
from advpt.evaluation import run_folder
from advpt.prompts import exchange
from advpt.settings import SurrogateSettings, extend_cfg, merge_yaml
from advpt.tuning.progress import Progress
from tests.helpers.banks import make_clip
from tests.helpers.workspace import ROOT, Workspace
from trainers.linear_probe import FILE as PROBE
from trainers.linear_probe import LinearProbe

pytestmark = pytest.mark.filterwarnings("ignore")


class Payload:
    """Unpickled without restriction, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def as_pickle(marker: Path) -> bytes:
    return pickle.dumps(Payload(marker))


def as_torch_file(marker: Path) -> bytes:
    out = io.BytesIO()
    torch.save({"state_dict": {"ctx": torch.zeros(2, 3)}, "epoch": 1, "parts": Payload(marker)}, out)
    return out.getvalue()


def as_old_torch_file(marker: Path) -> bytes:
    out = io.BytesIO()
    torch.save({"state_dict": Payload(marker)}, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def as_torchscript(marker: Path) -> bytes:
    """An archive that torch would hand to its own interpreter, with a pickle for it inside."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(as_torch_file(marker))) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr(f"{source.namelist()[0].split('/')[0]}/constants.pkl", as_pickle(marker))
    return out.getvalue()


def as_yaml(marker: Path) -> bytes:
    return f"BANK: !!python/object/apply:os.system [\"touch '{marker}'\"]\n".encode()


def as_json(marker: Path) -> bytes:
    return json.dumps({"__reduce__": ["os.system", f"touch '{marker}'"], "format": 1}).encode()


def with_name(path: Path, name: str) -> Path:
    target = path.with_name(name)
    target.write_bytes(path.read_bytes())
    return target


def run_files(path: Path) -> None:
    with_name(path, "done.json")
    run_folder.problems(path.parent)
    with_name(path, "progress.json")
    Progress(path.parent / "progress.json", 1)


def a_probe(path: Path) -> None:
    target = path.parent / PROBE
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(path.read_bytes())
    stand_in = SimpleNamespace(classnames=["a"], backbone=make_clip())
    LinearProbe.load_model(stand_in, str(path.parent))


def a_surrogate(path: Path) -> None:
    surrogate.read_or_make(path.parent, {"network": "x"}, lambda: {})
    name = f"{files.digest({'network': 'x'})}.safetensors"
    surrogate.read_or_make(with_name(path, name).parent, {"network": "x"}, lambda: {})


def a_config(path: Path) -> None:
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    extend_cfg(cfg)
    merge_yaml(cfg, path)


def a_rolling_checkpoint(path: Path) -> None:
    from advpt.detectors import LossWatch
    from advpt.tuning.rolling import RollingCheckpoint

    RollingCheckpoint(path, LossWatch()).restore(SimpleNamespace(start_epoch=0, get_model_names=lambda: []))


# Every function of ours that opens a file which somebody else may have made.
LOADERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": checkpoints.load_checkpoint,
    "prompt": exchange.read,
    "rolling checkpoint": a_rolling_checkpoint,
    "dassl-lite's checkpoint": host_load_checkpoint,
    "dassl-lite's resume": lambda path: read_latest(with_name(path, "model.pth.tar-1").parent),
    "dassl-lite's pretrained weights": lambda path: load_pretrained_weights(torch.nn.Linear(1, 1), path),
    "CLIP weights": clip.read_state,
    "CLIP safetensors": lambda path: clip.read_state(with_name(path, "w.safetensors")),
    "DemoCLIP": democlip.load,
    "weights": lambda path: read_state_dict(path, "weights"),
    "safetensors": lambda path: read_state_dict(with_name(path, "w.safetensors"), "weights"),
    "surrogate": a_surrogate,
    "surrogate's head": lambda path: surrogate.load_surrogate(
        SurrogateSettings("resnet50", str(path)), None, path.parent, "cpu", 4
    ),
    "linear probe": a_probe,
    "bank shard": lambda path: read_shard(path, "k", check=True),
    "bank": lambda path: open_bank(with_name(path, "manifest.json").parent, None, verify=True),
    "data manifest": lambda path: manifest.manifest(with_name(path, manifest.NAME).parent),
    "split file": split.read,
    "few-shot list": lambda path: fewshot.difference(path.read_bytes(), {"train": []}),
    "record": records.read,
    "files of a run": run_files,
    "configuration": a_config,
    "image": lambda path: read_image(path, Preprocessing((8, 8), "bicubic")),
}
PAYLOADS = (as_pickle, as_torch_file, as_old_torch_file, as_torchscript, as_yaml, as_json)


def test_the_payload_works_where_nothing_is_restricted(tmp_path):
    pickle.loads(as_pickle(tmp_path / "it-ran"))
    assert (tmp_path / "it-ran").exists()
    torch.load(io.BytesIO(as_torch_file(tmp_path / "here-too")), weights_only=False)
    assert (tmp_path / "here-too").exists()


@pytest.mark.parametrize("loader", LOADERS)
def test_a_planted_payload_runs_in_no_loader(loader, tmp_path, tally, monkeypatch):
    monkeypatch.setenv("ADVPT_CLIP_CACHE", str(tmp_path / "none"))
    ran = 0
    for i, make in enumerate(PAYLOADS):
        folder, marker = tmp_path / str(i), tmp_path / f"it-ran-{i}"
        folder.mkdir()
        (folder / "given").write_bytes(make(marker))
        (folder / "checkpoint").write_text("model.pth.tar-1\n")
        try:
            LOADERS[loader](folder / "given")
        except Exception as error:  # noqa: BLE001 - tests/faults/test_bad_input.py looks at how it is said
            assert not isinstance(error, NameError | AttributeError), error
        ran += marker.exists()
    tally("planted payload in a loader", len(PAYLOADS), wrong=ran)


SOURCES = [
    path
    for top in ("advpt", "trainers", "datasets", "dassl-lite/dassl", "train.py")
    for path in ([ROOT / top] if (ROOT / top).is_file() else sorted((ROOT / top).rglob("*.py")))
]
FORBIDDEN = {
    "pickle.load", "pickle.loads", "os.system", "os.popen", "eval", "exec", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "subprocess.getoutput", "marshal.loads", "joblib.load", "shelve.open", "pandas.read_pickle",
    "torch.hub.load", "np.load", "numpy.load",
}  # fmt: skip
# torch.load with a pickle module of its own in dassl-lite; torch.jit.load after a look at the SHA-256. What a Ray
# driver sends its workers is no file: it never leaves the memory of one cluster, which unpickles every call anyway.
UNRESTRICTED = {"dassl-lite/dassl/utils/safe_load.py": 1, "advpt/bank/on_ray.py": 1}
IN_MEMORY = ("advpt/bank/on_ray.py", "io.BytesIO(parcel)")
JIT = {"advpt/backbones/clip.py": 1}


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}, node


def test_nothing_is_unpickled_or_run_unrestricted():
    """Read from the sources: no loader that runs what it reads, no shell, no text run as code."""
    loads: dict[str, int] = {}
    jit: dict[str, int] = {}
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        for function, keywords, node in calls(path):
            where = f"{name}:{node.lineno}: {function}"
            assert function not in FORBIDDEN, where
            assert keywords.get("shell", "False") == "False", f"{where} with a shell"
            assert keywords.get("allow_pickle", "False") == "False", where
            if function == "torch.load" and keywords.get("weights_only") != "True":
                assert "pickle_module" in keywords or (name, ast.unparse(node.args[0])) == IN_MEMORY, where
                loads[name] = loads.get(name, 0) + 1
            if function == "torch.jit.load":
                jit[name] = jit.get(name, 0) + 1
    assert loads == UNRESTRICTED and jit == JIT and len(SOURCES) > 100


def test_processes_are_started_with_lists_of_words():
    """A setting with quotes, spaces or semicolons is one word to the process that gets it."""
    found = []
    for path in SOURCES:
        for function, _, node in calls(path):
            if function.startswith("subprocess.") and function.split(".")[1] in (
                "run",
                "Popen",
                "call",
                "check_output",
            ):
                found.append(path.name)
                assert isinstance(node.args[0], ast.List | ast.Call | ast.Name), f"{path}:{node.lineno}"
    assert "process.py" in found and "record.py" in found


def test_shell_scripts_quote_what_they_are_given(tmp_path):
    import subprocess

    marker = tmp_path / "it-ran"
    said = subprocess.run(
        ["bash", str(ROOT / "scripts/advpt/main.sh"), f"$(touch {marker})", f"; touch {marker};", f"`touch {marker}`"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHON": sys.executable, "OUTPUT": str(tmp_path)},
    )  # fmt: skip
    assert said.returncode == 2 and "error: " in said.stderr and "touch" in said.stderr and not marker.exists()


def test_settings_are_data(workspace: Workspace):
    marker = workspace.folder / "it-ran"
    for text in (f"__import__('os').system('touch {marker}')", f"$(touch {marker})", f"'; touch {marker} #"):
        for key in ("EVAL.ATTACKS", "TRAINER.ADVPT.CTX_INIT", "DATASET.NAME", "BANK.CHUNK", "MODEL.BACKBONE.NAME"):
            workspace.call(key, text, output=workspace.folder / "out")
    assert not marker.exists()


def test_paths_in_files_stay_in_their_folder(tmp_path):
    """The pointer of a run's folder, a bank's shard list: only the last part of a path counts, or it is refused."""
    outside = tmp_path / "outside.pth.tar"
    torch.save({"state_dict": {"ctx": torch.ones(2, 3)}, "epoch": 9}, outside)
    run = tmp_path / "run" / "prompt_learner"
    run.mkdir(parents=True)
    (run / "checkpoint").write_text("../../outside.pth.tar\n")
    with pytest.raises(WeightsError):
        exchange.read(tmp_path / "run")
    with pytest.raises(Exception, match="outside"):
        read_latest(run)

    bank = tmp_path / "bank"
    bank.mkdir()
    spec = {"format": 1, "adversarial_set": {"data": {"n": 1, "classnames": []}, "attack": None}}
    for name in ("../part-00000.safetensors", "/etc/passwd", "part-0/../../x"):
        shards = [{"file": name, "rows": 1, "sha256": "0" * 64}]
        (bank / "manifest.json").write_text(json.dumps({"key": files.digest(spec), "spec": spec, "shards": shards}))
        save_file({"a": torch.zeros(1)}, tmp_path / "part-00000.safetensors")
        with pytest.raises(AdvPTError, match=r"shards\[0\].file is"):
            open_bank(bank, None, verify=True)
