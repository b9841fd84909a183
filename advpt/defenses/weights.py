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

    def find(self, own: str = "") -> Path:
        """The path of the file, or of the user's file ``own`` in its place. Raises WeightsError when it is missing."""
        path = folder() / (own or self.name)
        if own and not path.is_file():
            raise WeightsError(f"{path} is not there; put the file named by weights={own} there, or set ADVPT_WEIGHTS")
        if not path.is_file():
            raise WeightsError(
                f"{path} is not there. Fetch {self.url} and put it at that path (its SHA-256 is {self.sha256}"
                f"{'...' if len(self.sha256) < 64 else ''}), or set ADVPT_WEIGHTS to the folder that has it"
            )
        return path

    def read(self, own: str = "") -> dict[str, Tensor]:
        """The tensors of :meth:`find`; the published file's SHA-256 is compared first. Raises WeightsError."""
        path = self.find(own)
        if not own and not (actual := file_digest(path)).startswith(self.sha256):
            raise WeightsError(
                f"{path} has SHA-256 {actual}, expected {self.sha256}; it is cut off or another file: "
                f"delete it and fetch {self.url} again"
            )
        return read_state_dict(path, f"the weights {own or self.name}")
