"""AdvPT: adversarial prompt tuning for CLIP.

The library the trainers stand on. It never imports ``trainers``, ``datasets`` or ``dassl``. What people use of it is
``load``, ``zero_shot``, ``attack`` and ``evaluate`` (docs/python.md); each is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    import fcntl as _fcntl  # noqa: F401 - locks on files, which every part of the library stands on
except ImportError:
    raise ImportError(
        "AdvPT needs a POSIX system (Linux, macOS, or the Windows Subsystem for Linux): it locks files with fcntl, "
        "which this Python does not have"
    ) from None

from advpt.version import __version__

if TYPE_CHECKING:
    from advpt.model import Model, load, zero_shot
    from advpt.outside import OutsideModel
    from advpt.prediction import Prediction
    from advpt.robustness import attack, evaluate

__all__ = ["Model", "OutsideModel", "Prediction", "__version__", "attack", "evaluate", "load", "zero_shot"]
_PLACES = {
    "Model": "model",
    "OutsideModel": "outside",
    "load": "model",
    "zero_shot": "model",
    "Prediction": "prediction",
    "attack": "robustness",
    "evaluate": "robustness",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'advpt' has no attribute {name!r}")
    return getattr(importlib.import_module(f"advpt.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
