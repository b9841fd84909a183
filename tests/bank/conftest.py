from conftest_bank import bank_cache, clip_model, pictures

__all__ = ["clip_model", "bank_cache", "pictures"]
