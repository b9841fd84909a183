"""The hub's cache, folders and shards; nothing here opens a connection."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save

from advpt.backbones import hub
from advpt.backbones.hub import Folder, Repository
from advpt.errors import WeightsError
from tests.helpers.hub import COMMIT, hub_repository

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def test_the_cache_lies_where_the_hub_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub.cache_root() == Path.home() / ".cache/huggingface/hub"
    monkeypatch.setenv("HF_HOME", "/hf")
    assert hub.cache_root() == Path("/hf/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/elsewhere")
    assert hub.cache_root() == Path("/elsewhere")


@pytest.mark.parametrize("revision", ("", "main", COMMIT))
def test_files_are_read_from_a_cache_made_by_hand(cache: Path, revision: str) -> None:
    hub_repository(cache, "org/repo", {"config.json": b"{}", "model.safetensors": save(TENSORS)})
    place = Repository("org/repo", revision)
    assert place.commit == COMMIT
    assert hub.read_json(place.fetch(["other.json", "config.json"])) == {}
    weights = hub.read_weights(place, hub.TRANSFORMERS_WEIGHTS)
    assert weights.file == "model.safetensors" and torch.equal(weights.tensors["a"], TENSORS["a"])
    assert len(weights.sha256) == 64 and place.cached("tokenizer.json") is None


@pytest.mark.parametrize("file", ("config.json", "model.safetensors"))
def test_a_damaged_file_of_the_cache_is_refused_without_a_network(cache: Path, file: str) -> None:
    snapshot = hub_repository(cache, "org/repo", {"config.json": b"{}", "model.safetensors": save(TENSORS)})
    blob = (snapshot / file).resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(WeightsError, match=rf"{file} is damaged.*Delete"):
        Repository("org/repo").fetch([file])


def test_a_configuration_without_weights_is_no_model(cache: Path) -> None:
    hub_repository(cache, "org/repo", {"open_clip_config.json": b"{}"})
    with pytest.raises(WeightsError, match="open_clip_model.safetensors or open_clip_pytorch_model.bin is needed"):
        hub.read_weights(Repository("org/repo"), hub.OPEN_CLIP_WEIGHTS)


def test_without_a_network_the_message_says_what_where_why_and_what_to_do(cache: Path) -> None:
    with pytest.raises(WeightsError) as error:
        Repository("org/repo", "v1").fetch(["config.json"])
    for part in (
        "hf-hub:org/repo@v1: config.json is needed",
        str(cache / "models--org--repo"),
        "HF_HUB_OFFLINE is set",
        "hf download org/repo --revision v1 --local-dir DIR",
        "MODEL.BACKBONE.NAME local-dir:DIR",
    ):
        assert part in str(error.value)
    with pytest.raises(WeightsError) as error:
        Repository("org/repo").fetch(hub.OPEN_CLIP_WEIGHTS)
    for file in ('"*.json"', *hub.OPEN_CLIP_WEIGHTS):
        assert f" --include {file}" in str(error.value)


def test_what_huggingface_hub_warns_of_is_said_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warn = logging.getLogger("huggingface_hub.utils").warning

    def download(*args: Any, **options: Any) -> None:
        warn("Retrying")
        raise OSError("no route")

    class Lazy(SimpleNamespace):
        @property
        def hf_hub_download(self) -> Any:
            logging.getLogger("huggingface_hub").setLevel(logging.WARNING)
            return download

    fake_hub(monkeypatch, download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", Lazy(errors=sys.modules["huggingface_hub"].errors))
    with caplog.at_level(logging.INFO), pytest.raises(WeightsError, match="no route"):
        Repository("org/repo").fetch(["config.json"])
    assert caplog.messages == ["hf-hub:org/repo: looking for config.json on the hub"]
    warn("Retrying")
    assert caplog.messages[1:] == ["Retrying"]


def fake_hub(monkeypatch: pytest.MonkeyPatch, download: Any) -> type[Exception]:
    """A huggingface_hub whose downloads do what ``download`` does; its error for a file that is not there."""
    entry = type("EntryNotFoundError", (Exception,), {})
    errors = SimpleNamespace(
        EntryNotFoundError=entry, LocalEntryNotFoundError=type("LocalEntryNotFoundError", (entry,), {})
    )
    module = SimpleNamespace(errors=errors, hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    return entry


@pytest.mark.parametrize(
    "kind, part",
    [
        ("ConnectError", "no route"),
        ("RepositoryNotFoundError", "no such repository"),
        ("GatedRepoError", "accept its licence on the hub's page and set HF_TOKEN"),
        ("LocalEntryNotFoundError", "no route"),
    ],
)
def test_whatever_the_hub_raises_is_one_kind_of_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, part: str
) -> None:
    def download(*args: Any, **options: Any) -> None:
        raise (getattr(sys.modules["huggingface_hub"].errors, kind, None) or type(kind, (Exception,), {}))("no route")

    fake_hub(monkeypatch, download)
    with pytest.raises(WeightsError, match=part):
        Repository("org/repo").fetch(["config.json"])


def test_files_that_a_repository_lacks_are_passed_over_and_what_comes_is_checked(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(name: str, file: str, revision: str | None, cache_dir: str) -> None:
        asked.append((file, revision))
        if file == "open_clip_config.json":
            raise entry("404")
        hub_repository(Path(cache_dir), name, {file: b'{"model_type": "clip"}'})

    entry = fake_hub(monkeypatch, download)
    place = Repository("org/repo")
    assert hub.read_json(place.fetch(["open_clip_config.json", "config.json"])) == {"model_type": "clip"}
    assert asked == [("open_clip_config.json", None), ("config.json", None)]
    place.fetch(["tokenizer.json"], beside=["open_clip_config.json", "tokenizer_config.json"])
    assert asked[2:] == [
        (file, COMMIT) for file in ("tokenizer.json", "open_clip_config.json", "tokenizer_config.json")
    ]
    assert place.cached("open_clip_config.json") is None and place.cached("tokenizer_config.json") is not None
    place.fetch(["tokenizer.json"], beside=["more.json"])
    assert len(asked) == 5, "what is there is not asked for"


def test_a_folder_has_the_same_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no such folder"):
        Folder(tmp_path / "none").fetch(["config.json"])
    (tmp_path / "other.txt").write_text("")
    with pytest.raises(WeightsError, match="expected a.json or b.json in .*; it holds other.txt"):
        Folder(tmp_path).fetch(["a.json", "b.json"])
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(WeightsError, match="holds list"):
        hub.read_json(Folder(tmp_path).fetch(["a.json", "b.json"]))


def shards(folder: Path, listed: dict[str, Any], **files: dict[str, torch.Tensor]) -> Folder:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    for name, tensors in files.items():
        (folder / f"{name}.safetensors").write_bytes(save(tensors))
    return Folder(folder)


def test_shards_are_one_state_dict(tmp_path: Path) -> None:
    place = shards(
        tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}, one={"a": TENSORS["a"]}, two={"b": TENSORS["b"]}
    )
    weights = hub.read_weights(place, hub.TRANSFORMERS_WEIGHTS)
    assert weights.tensors.keys() == {"a", "b"} and weights.file == "model.safetensors.index.json"
    (tmp_path / "two.safetensors").write_bytes(save({"b": TENSORS["b"] + 1}))
    assert hub.read_weights(place, hub.TRANSFORMERS_WEIGHTS).sha256 != weights.sha256


@pytest.mark.parametrize(
    "listed, part",
    [
        ({"a": "../one.safetensors"}, "no name of a shard"),
        ({"a": "/etc/one.bin"}, "no name of a shard"),
        ({"a": "one.py"}, "no name of a shard"),
        ({"a": 3}, "no weight_map"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "do not hold what it lists: b"),
    ],
)
def test_shards_that_are_none_are_refused(tmp_path: Path, listed: dict[str, Any], part: str) -> None:
    place = shards(tmp_path, listed, one={"a": TENSORS["a"]})
    with pytest.raises(WeightsError, match=part):
        hub.read_weights(place, hub.TRANSFORMERS_WEIGHTS)
