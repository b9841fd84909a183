import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bank"), str(HERE.parent / "trainers")]

from conftest_bank import bank_cache, clip_model, pictures  # noqa: E402
from small_world import _restore_streams, tiny_file, world  # noqa: E402

__all__ = ["_restore_streams", "clip_model", "bank_cache", "pictures", "tiny_file", "world"]
