"""Packages that come with an extra."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from advpt.backbones import extras
from advpt.errors import WeightsError


@pytest.mark.parametrize("module, extra", extras.EXTRA_OF.items())
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        WeightsError, match=rf'a model needs the package {module}, which.*pip install "advpt\[{extra}\]"'
    ):
        extras.need(module, "a model")


def test_versions_are_those_of_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in extras.EXTRA_OF:
        monkeypatch.setitem(sys.modules, name, None)
    assert extras.versions() == {}
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(__version__="1.0.31"))
    assert extras.versions() == {"timm": "1.0.31"}


def test_the_tables_are_open_clips() -> None:
    pytest.importorskip("open_clip")
    assert "ViT-B-32" in extras.architectures() and "laion2b_s34b_b79k" in extras.tags("ViT-B-32")
    assert extras.architecture("ViT-B-32")["embed_dim"] == 512
    assert extras.tag("ViT-B-32", "laion400m_e32")["quick_gelu"] is True
    assert extras.quick_of_repository("laion/CLIP-ViT-B-32-laion2B-s34B-b79K") is False
    assert extras.quick_of_repository("apple/DFN2B-CLIP-ViT-B-16") is True
    assert extras.quick_of_repository("nobody/nothing") is None
