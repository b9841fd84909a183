"""The parts of ``gpu.py``: each is a module with ``run(report)``."""
