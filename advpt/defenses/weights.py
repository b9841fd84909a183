"""Weight files of defenses: their places and sources."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from advpt.checkpoints import read_state_dict
from advpt.errors import WeightsError
from advpt.files import file_digest


def folder() -> Path:
    """``$ADVPT_WEIGHTS``, else ``~/.cache/advpt``."""
    return Path(os.environ.get("ADVPT_WEIGHTS") or Path.home() / ".cache" / "advpt")


@dataclass(frozen=True)
class WeightFile:
    """A published file. ``sha256`` is its SHA-256 or the beginning of it, as far as it is published."""

    name: str
    url: str
    sha256: str

    @property
    def path(self) -> Path:
        return folder() / self.name

    def find(self) -> Path:
        """The file's path. Raises WeightsError with path, source and hash when it is missing."""
        if not self.path.is_file():
            raise WeightsError(
                f"{self.path} is not there. Fetch {self.url} and put it at that path (its SHA-256 is {self.sha256}"
                f"{'...' if len(self.sha256) < 64 else ''}), or set ADVPT_WEIGHTS to the folder that has it"
            )
        return self.path

    def read(self) -> dict[str, Tensor]:
        """Its tensors, after comparing its SHA-256. Raises WeightsError when missing, different or damaged."""
        path = self.find()
        actual = file_digest(path)
        if not actual.startswith(self.sha256):
            raise WeightsError(
                f"{path} has SHA-256 {actual}, expected {self.sha256}; it is cut off or another file: "
                f"delete it and fetch {self.url} again"
            )
        return read_state_dict(path, f"the weights {self.name}")


def own_file(name: str) -> Path:
    """A file of the user in :func:`folder`. Raises WeightsError when it is missing."""
    path = folder() / name
    if not path.is_file():
        raise WeightsError(f"{path} is not there; put the file named by weights={name} there, or set ADVPT_WEIGHTS")
    return path
