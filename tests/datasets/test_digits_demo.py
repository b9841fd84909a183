"""The demo's own data sets as data sets of Dassl."""

from __future__ import annotations

from pathlib import Path

from advpt.data import rendered


def test_they_are_registered_and_test_only_where_they_should_be(tmp_path: Path) -> None:
    from dassl.data.datasets import DATASET_REGISTRY
    from yacs.config import CfgNode

    import datasets  # noqa: F401

    node = {"NAME": "", "ROOT": str(tmp_path), "NUM_SHOTS": -1, "SUBSAMPLE_CLASSES": "all", "TEST_SUBSET": ""}
    cfg = CfgNode({"SEED": 1, "DATASET": node})
    noisy = DATASET_REGISTRY.get("NoisyDigits")(cfg)
    assert len(noisy.test) == 600 and noisy.train_x == noisy.test and noisy.num_classes == 10
    assert noisy.classnames == list(rendered.DIGIT_NAMES) and noisy.comparable
    assert issubclass(DATASET_REGISTRY.get("RotatedDigits"), DATASET_REGISTRY.get("NoisyDigits").__bases__)
    assert "RenderedDigits" in DATASET_REGISTRY.registered_names()
