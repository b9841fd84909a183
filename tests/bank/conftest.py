from conftest_bank import clip_model, library, pictures

__all__ = ["clip_model", "library", "pictures"]
