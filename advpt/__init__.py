"""AdvPT: adversarial prompt tuning for CLIP.

The library the trainers stand on. It never imports ``trainers``, ``datasets`` or ``dassl``.
"""

from advpt.version import __version__

__all__ = ["__version__"]
