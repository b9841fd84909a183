"""Fixtures shared by all tests: no network, one thread, and a tiny CLIP."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # of this process and those that tests start
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import trainers  # noqa: F401 - brings their settings, as train.py does
from advpt.backbones.clip import Architecture, Backbone, build, from_state
from advpt.backbones.extras import EXTRA_OF
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet, Preprocessing, Sample
from tests.helpers.banks import make_clip, make_images
from tests.helpers.workspace import TINY as SMALLEST
from tests.helpers.workspace import Workspace, write_weights

if os.environ.get("ADVPT_WITHOUT_EXTRAS"):  # as where advpt[openclip] and advpt[siglip] are not installed
    for name in (*EXTRA_OF, "transformers"):
        sys.modules[name] = None  # type: ignore[assignment]
REPOSITORY = Path(__file__).resolve().parents[1]
TINY = Architecture(
    embed_dim=64,
    resolution=32,
    vision_layers=2,
    vision_width=64,
    patch=8,
    context=77,
    vocabulary=49408,
    text_width=64,
    text_layers=2,
)
State = dict[str, Tensor]


# --- nothing leaves the machine ---------------------------------------------------------------------------------


class NetworkBlocked(RuntimeError):
    """A test tried to reach something beyond loopback."""


class _Guard:
    lifted = False

    def check(self, host: Any) -> None:
        if not self.lifted and not _is_loopback(host):
            raise NetworkBlocked(f"a test tried to reach {host!r}; mark it 'network' or serve it from 127.0.0.1")


_GUARD = _Guard()


def _is_loopback(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", "ip6-localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Every connection and look-up beyond loopback raises."""
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            _GUARD.check(address[0])

    def guarded_connect(self: socket.socket, address: Any) -> None:
        check(self, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        check(self, address)
        return connect_ex(self, address)

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        _GUARD.check(host)
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


@pytest.fixture(autouse=True)
def _network_marker(request: pytest.FixtureRequest) -> Iterator[None]:
    """The marker ``network`` lifts the guard for one test."""
    _GUARD.lifted = request.node.get_closest_marker("network") is not None
    yield
    _GUARD.lifted = False


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _restore_streams() -> Iterator[None]:
    """Dassl's logger replaces sys.stdout; put it back after each test."""
    out, err = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = out, err


# --- a tiny CLIP ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_state() -> State:
    """The tensors of :func:`tiny_clip`; nobody may change them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(build(TINY).state_dict())


@pytest.fixture
def tiny_clip(tiny_state: State) -> Backbone:
    """A small ViT (32 px, patch 8, 2 + 2 layers) with CLIP's real vocabulary; a fresh object for every test."""
    return from_state("tiny", tiny_state, "the test suite")


class Towers(tuple):
    """OpenAI's model and our encoder on the same weights (both frozen)."""

    def __repr__(self) -> str:
        return "<towers>"


@pytest.fixture(scope="module")
def towers(tiny_state: State) -> Towers:
    made = from_state("tiny", tiny_state, "the test suite")
    return Towers((made.model, made.text))


@pytest.fixture(scope="session")
def tiny_weights(tiny_state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of :func:`tiny_clip` as a state-dict file."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(tiny_state, path)
    return path


@pytest.fixture(scope="session")
def tiny_archive(tiny_state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of :func:`tiny_clip` as a TorchScript archive, the kind of file OpenAI publishes."""
    model = from_state("tiny", tiny_state, "the test suite").model
    tokens = torch.tensor([[49406, 320, 49407] + [0] * 74])
    path = tmp_path_factory.mktemp("archive") / "tiny.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and OpenAI's files are traced
        torch.jit.trace(model, (torch.zeros(1, 3, 32, 32), tokens), check_trace=False).save(str(path))
    return path


# --- images -----------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., ImageSet]:
    """``images(n, classes, ...)`` writes ``n`` random PNG and JPEG images in ``classes`` folders, in turn."""

    def make(
        n: int = 6,
        classes: int = 2,
        *,
        seed: int = 0,
        split: str = "train",
        image_size: tuple[int, int] = (40, 36),
        size: tuple[int, int] = (32, 32),
        interpolation: str = "bicubic",
        folder: str = "pictures",
    ) -> ImageSet:
        rng, pick = np.random.default_rng(seed), random.Random(seed)
        names = tuple(f"class_{label}" for label in range(classes))
        samples = []
        for i in range(n):
            label = i % classes
            name = f"{folder}/{names[label]}/{split}_{i:03d}{pick.choice(('.png', '.jpg'))}"
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            width, height = image_size
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            samples.append(Sample(name, str(path), label))
        return ImageSet("random", split, tuple(samples), names, Preprocessing(size, interpolation))

    return make


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real split files and real images; the test is skipped, and says so, where there is none."""
    folder = REPOSITORY / os.environ.get("ADVPT_TEST_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; set ADVPT_TEST_DATA to the folder with splits/ and pets_sample/")
    return folder


# --- banks, and whole runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def clip_model() -> Backbone:
    """A CLIP of one layer a tower, for 16 px."""
    return make_clip()


@pytest.fixture
def pictures(tmp_path: Path) -> ImageSet:
    """Ten random images of three classes."""
    return make_images(tmp_path / "images", 10)


@pytest.fixture
def bank_cache(tmp_path: Path, clip_model: Backbone) -> BankCache:
    """An empty library of banks for :func:`clip_model`."""
    return BankCache(tmp_path / "banks", clip_model, lambda: clip_model, chunk=4)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a CLIP of one layer a tower, for 16 px."""
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.pt", SMALLEST)


@pytest.fixture
def workspace(tmp_path: Path, tiny_file: Path) -> Workspace:
    """A folder with data, configurations and weights, in which ``train.py`` runs."""
    return Workspace(tmp_path, tiny_file)
