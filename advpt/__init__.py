"""AdvPT: adversarial prompt tuning for CLIP.

The library the trainers stand on. It never imports ``trainers``, ``datasets`` or ``dassl``.
"""

try:
    import fcntl as _fcntl  # noqa: F401 - locks on files, which every part of the library stands on
except ImportError:
    raise ImportError(
        "AdvPT needs a POSIX system (Linux, macOS, or the Windows Subsystem for Linux): it locks files with fcntl, "
        "which this Python does not have"
    ) from None

from advpt.version import __version__

__all__ = ["__version__"]
