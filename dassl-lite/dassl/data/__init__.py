"""Data."""

from dassl.data.data_manager import DataManager, DatasetWrapper, build_data_loader
