"""A cache of the Hugging Face hub, made by hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

LARGE = (".safetensors", ".bin")  # files that the hub stores by their SHA-256
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_repository(cache: Path, name: str, files: Mapping[str, bytes], revision: str = "main") -> Path:
    """Put a repository into a cache as huggingface_hub does; the folder of its snapshot."""
    top = cache / f"models--{name.replace('/', '--')}"
    snapshot, blobs, references = top / "snapshots" / COMMIT, top / "blobs", top / "refs"
    for folder in (snapshot, blobs, references):
        folder.mkdir(parents=True, exist_ok=True)
    (references / revision).write_text(COMMIT)
    for file, data in files.items():
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        blob = blobs / (hashlib.sha256(data).hexdigest() if file.endswith(LARGE) else git)
        blob.write_bytes(data)
        link = snapshot / file
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot
