"""Files of a model: from the Hugging Face hub's cache, from the hub itself, or from a folder.

The cache is read here and checked without a network: ``models--ORG--REPO/refs`` says which commit a revision is,
``snapshots/COMMIT/FILE`` are links into ``blobs``, and a blob's name is its SHA-256 (large files) or its git hash.
huggingface_hub is used to download and for nothing else. No code of a repository is run, and no path inside a file of
a repository is followed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from advpt.backbones import extras
from advpt.backbones.names import MODEL
from advpt.checkpoints import read_state_dict
from advpt.errors import WeightsError, first_words
from advpt.files import digest, file_digest, network_timeout

# Weight files in the order in which they are looked for: open_clip's names, then transformers'.
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TRANSFORMERS_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INDEX = ".index.json"  # ends the names of lists of shards
WEIGHTS_LABEL = "weights of a CLIP"
log = logging.getLogger(__name__)


def cache_root() -> Path:
    """The hub's cache: ``$HF_HUB_CACHE``, else ``$HF_HOME/hub``, else ``~/.cache/huggingface/hub``."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "huggingface") / "hub"


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at a revision ("" is ``main``); its files are those of one commit. ``instead``: the
    setting that names a copy in a folder DIR, for messages."""

    name: str
    revision: str = ""
    instead: str = dataclasses.field(default=f"{MODEL} local-dir:DIR", compare=False)

    def __str__(self) -> str:
        return f"hf-hub:{self.name}{'@' if self.revision else ''}{self.revision}"

    @property
    def cache(self) -> Path:
        """Its folder in the cache, whether it is there or not."""
        return cache_root() / f"models--{self.name.replace('/', '--')}"

    @property
    def commit(self) -> str:
        """The commit that the cache has for the revision; "" where it has none."""
        revision = self.revision or "main"
        reference = self.cache / "refs" / revision
        if reference.is_file():
            return reference.read_text(encoding="utf-8").strip()
        return revision if re.fullmatch("[0-9a-f]{40}", revision) else ""

    def has(self, file: str) -> bool:
        """Whether the cache has a file, which is not looked into."""
        return bool(self.commit) and (self.cache / "snapshots" / self.commit / file).is_file()

    def cached(self, file: str) -> Path | None:
        """A file in the cache, checked against the hash in its blob's name; None where it is not there.

        Raises:
            WeightsError: it is damaged.
        """
        commit = self.commit
        path = self.cache / "snapshots" / commit / file
        if not commit or not path.is_file():
            return None
        expected = path.resolve().name
        if path.is_symlink() and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", expected):
            actual = file_digest(path) if len(expected) == 64 else _git_hash(path)
            if actual != expected:
                raise WeightsError(
                    f"{path} is damaged: its hash is {actual[:16]}, and the cache says {expected[:16]}. Delete "
                    f"{path.resolve()} and run the same command again, with a network"
                )
        return path

    def fetch(self, files: Sequence[str], beside: Sequence[str] = ()) -> Path:
        """The first of ``files`` that the cache has, else the first that the hub has. Where it is downloaded, files
        ``beside`` it are too, as far as the repository has them.

        Raises:
            WeightsError: neither has one. The message says which, where they were looked for, why the network did not
                help, and what to do.
        """
        for file in files:
            if path := self.cached(file):
                return path
        reason = "the repository has none of them"
        try:
            for file in files if not _offline() else ():
                if self._download(file):
                    for other in beside:
                        self._download(other)
                    if path := self.cached(file):
                        return path
                    reason = "the hub's cache lacks what was downloaded"
        except WeightsError:
            raise
        except Exception as error:  # noqa: BLE001 - of many kinds: no network, offline, gated, no such repository
            reason = _why(error).rstrip(".")
        raise WeightsError(self._absent(files, "HF_HUB_OFFLINE is set" if _offline() else reason))

    def _download(self, file: str) -> bool:
        """Put a file into the cache; False where the repository has no such file."""
        hub = extras.need("huggingface_hub", f"{self}, which is not in the cache {self.cache},")
        commit = self.commit if (self.cache / "snapshots" / self.commit).is_dir() else ""
        log.info("%s: looking for %s on the hub", self, file)
        download = hub.hf_hub_download  # imported at this moment, which sets the level of its log
        try:
            with network_timeout(), _without_warnings():
                download(self.name, file, revision=commit or self.revision or None, cache_dir=str(cache_root()))
        except hub.errors.LocalEntryNotFoundError:  # no network; also an EntryNotFoundError
            raise
        except hub.errors.EntryNotFoundError:
            return False
        return True

    def _absent(self, files: Sequence[str], reason: str) -> str:
        what = " or ".join(files)
        revision = f" --revision {shlex.quote(self.revision)}" if self.revision else ""
        whole = any(file.endswith(".json") or "-of-" in file for file in files)  # what else is needed is not known yet
        only = "" if whole else "".join(f" --include {each}" for each in ('"*.json"', *files))
        return (
            f"{self}: {what} is needed; it is not in the cache ({self.cache}), and was not downloaded: {reason}. On a "
            f"machine with a network run: hf download {self.name}{revision}{only} --local-dir DIR, copy DIR, and give "
            f"{self.instead}; or copy that machine's {self.cache.name} into {cache_root()}"
        )


@dataclass(frozen=True)
class Folder:
    """A folder with the files of a repository."""

    path: Path

    def __str__(self) -> str:
        return f"local-dir:{self.path}"

    @property
    def commit(self) -> str:
        return ""

    def fetch(self, files: Sequence[str], beside: Sequence[str] = ()) -> Path:
        """The first of ``files`` that the folder has.

        Raises:
            WeightsError: it has none, or there is no such folder.
        """
        for file in files:
            if path := self.cached(file):
                return path
        there = sorted(each.name for each in self.path.iterdir()) if self.path.is_dir() else []
        holds = f"it holds {', '.join(there[:12]) or 'nothing'}" if self.path.is_dir() else "there is no such folder"
        raise WeightsError(f"{self}: expected {' or '.join(files)} in {self.path}; {holds}")

    def cached(self, file: str) -> Path | None:
        """A file of the folder; None where it is not there."""
        path = self.path / file
        return path if path.is_file() else None


Place = Repository | Folder


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """For downloads: each of huggingface_hub's attempts warns, and what came of them is in the error at the end."""
    theirs = logging.getLogger("huggingface_hub")
    before = theirs.level
    theirs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.setLevel(before)


def _git_hash(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _sha256(path: Path) -> str:
    """SHA-256 of a file; a blob of the cache has it as its name, and :meth:`Repository.cached` has compared them."""
    name = path.resolve().name
    return name if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", name) else file_digest(path)


def _why(error: Exception) -> str:
    """Why the network did not help, in one line."""
    kind, line = type(error).__name__, first_words(error)
    if kind == "GatedRepoError":
        return f"the repository is gated: accept its licence on the hub's page and set HF_TOKEN ({line})"
    if kind == "RepositoryNotFoundError":
        return f"the hub knows no such repository, or it is private and HF_TOKEN is not set ({line})"
    return line


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a repository.

    Raises:
        WeightsError: it is damaged or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not valid JSON ({first_words(error)}); fetch it again") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds {type(value).__name__}; expected an object with names")
    return value


@dataclass(frozen=True)
class Weights:
    """The tensors of a weight file or of all its shards, the name of the file, and its SHA-256 (of shards: that of
    their names and SHA-256)."""

    tensors: dict[str, Tensor]
    file: str
    sha256: str


def read_weights(place: Place, files: Sequence[str]) -> Weights:
    """The tensors in the first of ``files`` that a place has.

    Raises:
        WeightsError: none is there, or one is damaged or names a shard that is none.
    """
    path = place.fetch(files)
    if not path.name.endswith(INDEX):
        return Weights(read_state_dict(path, WEIGHTS_LABEL), path.name, _sha256(path))
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(each, str) for each in listed.values()):
        raise WeightsError(f"{path} has no weight_map of tensors and files; fetch it again")
    tensors, hashes = dict[str, Tensor](), dict[str, str]()
    for file in sorted(set(listed.values())):
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(safetensors|bin)", file):
            raise WeightsError(f"{path} names {file!r}, which is no name of a shard; expected a file beside it")
        shard = place.fetch([file])
        tensors |= read_state_dict(shard, WEIGHTS_LABEL)
        hashes[file] = _sha256(shard)
    if absent := sorted(listed.keys() ^ tensors.keys()):
        first = f"{absent[0]} is the first of {len(absent)}"
        raise WeightsError(f"the shards beside {path} do not hold what it lists: {first}")
    return Weights(tensors, path.name, digest(hashes))
