"""Banks on disk, format v1: a manifest and shards, both safe to open.

    <BANK.DIR>/<dataset>/<backbone>/<key>/manifest.json
                                          part-00000.safetensors ...

A shard is written under a temporary name, flushed and renamed; the manifest comes last. Nothing holds a date, so equal
content is equal files.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from advpt.bank.spec import FORMAT, differences
from advpt.checkpoints import open_safetensors
from advpt.errors import BankError, BankMismatchError, shown
from advpt.files import atomic_path, digest, file_digest, read_json, tensor_digest, write_json
from advpt.schema import FieldError, Json, from_json

MANIFEST = "manifest.json"
AGAIN = "delete the file and run the same command again: the missing rows are rebuilt"
# dtype and trailing shape of every column of a shard ("L" is the embedding width).
COLUMNS: dict[str, torch.dtype] = {
    "embeddings": torch.float32,  # [n, L] projected, not normalised; or logits [n, K], see Bank.kind
    "label": torch.int64,
    "row": torch.int64,  # place in the image list
    "clean_correct": torch.int8,  # by the attacked prompt: 1, 0, or -1 where the attack used no prompt
    "perturbed": torch.bool,
    "stage": torch.int16,  # which stage of the attack broke the image, -1 none or unknown
    "loss": torch.float32,  # the objective at the returned image, 0 for clean banks
    "linf": torch.float32,  # largest pixel change in 1/255
    "file_hash": torch.uint8,  # [n, 32] SHA-256 of the image file
}


@dataclass(frozen=True, eq=False)
class Bank:
    """Rows of a bank in memory: columns as in :data:`COLUMNS`, ``ids`` by row, ``key`` of the whole bank."""

    key: str
    ids: tuple[str, ...]
    columns: Mapping[str, Tensor]
    spec: Mapping[str, Any]

    @property
    def embeddings(self) -> Tensor:
        """``[n, L]`` float32 embeddings, not normalised, or ``[n, K]`` logits; see :attr:`kind`."""
        return self.columns["embeddings"]

    @property
    def kind(self) -> Literal["embeddings", "logits"]:
        """The content of :attr:`embeddings`: logits where test-time tuning classified the images."""
        stages = self.spec.get("defenses", ())
        return "logits" if any(stage.get("gives") == "logits" for stage in stages) else "embeddings"

    @property
    def labels(self) -> Tensor:
        """``[n]`` int64."""
        return self.columns["label"]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, ids: Sequence[str]) -> Bank:
        """The rows of these ids, in this order. Raises BankError for an id that is not in the bank."""
        place = {name: i for i, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in place]
        if missing:
            raise BankError(
                f"bank {self.key[:12]} has no row for {missing[0]} ({len(missing)} of {len(ids)} asked for are missing)"
            )
        rows = torch.tensor([place[name] for name in ids], dtype=torch.int64)
        return dataclasses.replace(self, ids=tuple(ids), columns={k: v[rows] for k, v in self.columns.items()})


def shard_name(index: int) -> str:
    return f"part-{index:05d}.safetensors"


def write_tensors(path: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard of any kind of bank atomically, with the bank's key and a digest of its content."""
    about = {"format": FORMAT, "key": key, "content": tensor_digest(tensors)}
    with atomic_path(path) as partial:
        # One entry only: safetensors writes several in an order that changes from process to process.
        partial.write_bytes(save(dict(tensors), metadata={"bank": json.dumps(about, sort_keys=True)}))


def read_tensors(path: Path, key: str, again: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a shard of any kind of bank, and the digest of their content that its header has.

    Args:
        path: the shard. key: of the bank it should belong to. again: advice to make it anew, for messages.

    Raises:
        BankError: missing, damaged, or from another bank.
    """
    try:
        with open_safetensors(path) as file:
            about = json.loads((file.metadata() or {}).get("bank", "{}"))
            about = about if isinstance(about, dict) else {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise BankError(f"{path} is missing; {again}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise BankError(f"{path} is damaged ({error}); {again}") from error
    if about.get("key") != key or about.get("format") != FORMAT:
        raise BankMismatchError(
            f"{path} belongs to bank {str(about.get('key'))[:12]} (format {about.get('format')}), not to {key[:12]} "
            f"(format {FORMAT}); {again}"
        )
    return tensors, str(about.get("content"))


def write_shard(folder: Path, index: int, key: str, ids: Sequence[str], columns: Mapping[str, Tensor]) -> None:
    """Write one shard of embeddings, as :func:`write_tensors`."""
    tensors = {name: columns[name].to(kind).contiguous() for name, kind in COLUMNS.items()}
    tensors["ids"] = torch.frombuffer(bytearray("\n".join(ids).encode()), dtype=torch.uint8)
    write_tensors(folder / shard_name(index), key, tensors)


def read_shard(path: Path, key: str, *, check: bool) -> tuple[list[str], dict[str, Tensor]]:
    """Ids and columns of one shard, as :func:`read_tensors`; with ``check`` its content is compared with the digest in
    its header."""
    tensors, content = read_tensors(path, key, AGAIN)
    wrong = [n for n, kind in COLUMNS.items() if n not in tensors or tensors[n].dtype != kind]
    if wrong or "ids" not in tensors:
        raise BankError(f"{path} lacks column {(wrong or ['ids'])[0]}; {AGAIN}")
    if check and tensor_digest(tensors) != content:
        raise BankError(f"{path} is damaged: its content does not match its checksum; {AGAIN}")
    text = tensors.pop("ids").numpy().tobytes().decode()
    ids = text.split("\n") if text else []
    if any(len(t) != len(ids) for t in tensors.values()):
        raise BankError(f"{path} is damaged: its columns differ in length; {AGAIN}")
    return ids, tensors


def shard_is_sound(folder: Path, index: int, key: str) -> bool:
    """Whether a finished, undamaged shard of this bank is already there."""
    try:
        read_shard(folder / shard_name(index), key, check=True)
    except BankError:
        return False
    return True


def write_manifest(
    folder: Path, spec: Mapping[str, Any], rows: Sequence[int], built_with: Mapping[str, Any], **more: Any
) -> None:
    """Finish a bank of any kind: list its shards with rows and SHA-256.

    Args:
        folder: of the bank, with its shards. spec: the fields that its key is made of. rows: of each shard.
        built_with: what the bits depend on besides. more: further fields of the manifest.
    """
    shards = [
        {"file": shard_name(i), "rows": n, "sha256": file_digest(folder / shard_name(i))} for i, n in enumerate(rows)
    ]
    manifest = {"key": digest(spec), "spec": dict(spec), "shards": shards, "built_with": dict(built_with)} | more
    write_json(folder / MANIFEST, manifest)


@dataclass(frozen=True)
class _Shard:
    file: str
    rows: int
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"part-\d{5,}\.safetensors", self.file):
            raise FieldError(f"file is {shown(self.file)}, expected a name like {shard_name(0)}")


@dataclass(frozen=True)
class _Manifest:
    key: str
    spec: Mapping[str, Json]
    shards: tuple[_Shard, ...]


@dataclass(frozen=True)
class _ImageList:
    n: int
    classnames: Json


@dataclass(frozen=True)
class _AdversarialSet:
    data: _ImageList
    attack: Mapping[str, Json] | None = None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest. Raises BankError where it is missing, of another form or format, or does not fit its key."""
    manifest = read_json(folder / MANIFEST, BankError)
    if not isinstance(manifest, dict) or not {"key", "spec", "shards"} <= manifest.keys():
        raise BankError(f"{folder / MANIFEST} is not a bank manifest; delete the folder and build the bank again")
    try:
        spec = from_json(_Manifest, manifest).spec
        from_json(_AdversarialSet, spec.get("adversarial_set"), "adversarial_set")
    except FieldError as error:
        raise BankError(
            f"{folder / MANIFEST} is damaged: {error}; delete the folder and build the bank again"
        ) from None
    version = spec.get("format")
    if version != FORMAT:
        raise BankError(f"{folder} has bank format {version}; this version reads format {FORMAT}: build the bank again")
    if digest(spec) != manifest["key"]:
        raise BankMismatchError(
            f"{folder / MANIFEST} does not match its own key {str(manifest['key'])[:12]}: it was changed after the "
            "build. Delete the folder and build the bank again"
        )
    return manifest


def open_bank(folder: Path, wanted: Mapping[str, Any] | None, *, verify: bool) -> Bank:
    """Read a finished bank.

    Args:
        wanted: the spec fields that the run asks for (None: whatever the folder holds, for inspection).
        verify: compare every shard with the SHA-256 in the manifest.

    Raises:
        BankMismatchError: the bank was made by something else; every differing field is named.
        BankError: missing, damaged or incomplete.
    """
    manifest = read_manifest(folder)
    if wanted is not None and (lines := differences(manifest["spec"], wanted)):
        raise BankMismatchError(f"the bank in {folder} cannot be used\n  " + "\n  ".join(lines))
    ids, parts = [], []
    for entry in manifest["shards"]:
        path = folder / entry["file"]
        if verify:
            verify_shard(path, entry["sha256"], AGAIN)
        names, columns = read_shard(path, manifest["key"], check=False)
        if len(names) != entry["rows"]:
            raise BankError(
                f"{path} has {len(names)} rows, the manifest says {entry['rows']}; delete it and build again"
            )
        ids += names
        parts.append(columns)
    expected = manifest["spec"]["adversarial_set"]["data"]["n"]
    if len(ids) != expected:
        raise BankError(f"{folder} has {len(ids)} rows, its spec says {expected}; delete the folder and build it again")
    columns = {name: torch.cat([part[name] for part in parts]) for name in COLUMNS}
    return Bank(manifest["key"], tuple(ids), columns, manifest["spec"])


def verify_shard(path: Path, sha256: str, again: str) -> None:
    """Raise BankError for a shard that differs from the SHA-256 in its manifest. One that is missing is left to its
    reader. ``again`` as for :func:`read_tensors`."""
    if path.is_file() and file_digest(path) != sha256:
        raise BankError(f"{path} is damaged: its SHA-256 differs from the manifest's; {again}")
