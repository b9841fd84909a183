"""OpenAI's files by name: from a (local) server, from the cache, and without a network."""

from __future__ import annotations

import hashlib
import socket
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from advpt.backbones import clip as backbones
from advpt.backbones.clip import Backbone, download
from advpt.backbones.load import load_backbone
from advpt.backbones.shim import import_clip
from advpt.errors import WeightsError
from advpt.settings import BackboneSettings

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
NAME = "Tiny/8"


class Server:
    """Serves one file at ``/<sha>/tiny-8.pt`` and counts how often it is asked."""

    def __init__(self, data: bytes) -> None:
        self.data, self.asked, self.send_length, self.cut = data, 0, True, False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(200)
                if outer.send_length:
                    self.send_header("Content-Length", str(len(outer.data)))
                self.end_headers()
                self.wfile.write(outer.data[: len(outer.data) // 2] if outer.cut else outer.data)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *args: None  # a client that hangs up is part of these tests
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(
    tiny_archive: Path, tiny_clip: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """A server whose file is one of OpenAI's as far as the library knows."""
    made = Server(tiny_archive.read_bytes())
    sha = hashlib.sha256(made.data).hexdigest()
    monkeypatch.setitem(import_clip().clip._MODELS, NAME, f"{made.address}/{sha}/tiny-8.pt")
    monkeypatch.setitem(backbones.OFFICIAL, NAME, backbones.architecture_of(tiny_clip.model.state_dict()))
    monkeypatch.setenv("ADVPT_CLIP_CACHE", str(tmp_path / "cache"))
    yield made
    made.stop()


def cached(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "tiny-8.pt"


def without_network(monkeypatch: pytest.MonkeyPatch) -> str:
    """Nobody listens at the model's address; returns that address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sha = import_clip().clip._MODELS[NAME].split("/")[-2]
    url = f"http://127.0.0.1:{port}/{sha}/tiny-8.pt"
    monkeypatch.setitem(import_clip().clip._MODELS, NAME, url)
    return url


def test_by_name_from_the_server_then_from_the_cache(
    server: Server, tiny_clip: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_backbone(BackboneSettings(NAME, "", False))
    assert cached(tmp_path).read_bytes() == server.data
    assert (found.image_digest, found.text_digest) == (tiny_clip.image_digest, tiny_clip.text_digest)
    assert found.name == NAME and found.folder == "Tiny-8"
    load_backbone(BackboneSettings(NAME, "", False))
    assert server.asked == 1
    without_network(monkeypatch)
    assert load_backbone(BackboneSettings(NAME, "", False)).image_digest == tiny_clip.image_digest


def test_a_damaged_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    cached(tmp_path).parent.mkdir()
    cached(tmp_path).write_bytes(server.data[:-7])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clip says that the checksum differs
        assert download(NAME).read_bytes() == server.data


def test_no_network_and_no_cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = without_network(monkeypatch)
    with pytest.raises(WeightsError, match="is not there, and downloading failed") as caught:
        load_backbone(BackboneSettings(NAME, "", False))
    for part in (url, str(cached(tmp_path)), hashlib.sha256(server.data).hexdigest(), "MODEL.WEIGHTS", NAME):
        assert part in str(caught.value)
    assert not cached(tmp_path).exists()


def test_no_network_and_a_damaged_cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path).parent.mkdir()
    cached(tmp_path).write_bytes(server.data[:-7])
    url = without_network(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(WeightsError, match="is damaged.*downloading failed") as caught:
            download(NAME)
    for part in (url, str(cached(tmp_path)), hashlib.sha256(server.data).hexdigest()):
        assert part in str(caught.value)


def test_a_server_that_sends_something_else(server: Server, tmp_path: Path) -> None:
    server.data = b"please log in to the hotel network"
    with pytest.raises(WeightsError, match="downloading failed.*(?i:checksum)"):
        download(NAME)


@pytest.mark.parametrize("fault", ("cut", "send_length"))
def test_a_transfer_that_breaks(server: Server, fault: str) -> None:
    setattr(server, fault, fault == "cut")
    with pytest.raises(WeightsError, match="downloading failed"):
        download(NAME)


def test_the_file_lies_where_openais_package_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADVPT_CLIP_CACHE", raising=False)
    assert backbones.cache_folder() == Path.home() / ".cache" / "clip"
