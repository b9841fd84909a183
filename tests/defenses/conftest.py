import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bank"), str(HERE.parent / "trainers")]

from conftest_bank import clip_model, library, pictures  # noqa: E402
from small_world import _restore_streams, tiny_file, world  # noqa: E402

__all__ = ["_restore_streams", "clip_model", "library", "pictures", "tiny_file", "world"]
