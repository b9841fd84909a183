from small_world import _restore_streams, tiny_file, world

__all__ = ["_restore_streams", "tiny_file", "world"]
