"""The grammar of MODEL.BACKBONE.NAME."""

from __future__ import annotations

import pytest

from advpt.backbones import names
from advpt.backbones.names import Source
from advpt.errors import ConfigError

GOOD = {
    "open_clip:ViT-B-16/laion2b_s34b_b88k": Source("open_clip", "ViT-B-16", "laion2b_s34b_b88k"),
    "open_clip:ViT-B-32-quickgelu/laion400m_e32": Source("open_clip", "ViT-B-32-quickgelu", "laion400m_e32"),
    "open_clip:ViT-L-14/LAION2B-s32b-b82k": Source("open_clip", "ViT-L-14", "laion2b_s32b_b82k"),
    "open_clip:RN50/cc12m": Source("open_clip", "RN50", "cc12m"),
    "open_clip:convnext_base_w": Source("open_clip", "convnext_base_w"),
    "open_clip:ViT-B-16-SigLIP-i18n-256/webli": Source("open_clip", "ViT-B-16-SigLIP-i18n-256", "webli"),
    "open_clip:ViT-H-14-378-quickgelu/dfn5b": Source("open_clip", "ViT-H-14-378-quickgelu", "dfn5b"),
    "hf-hub:chs20/fare2-clip": Source("hf-hub", repository="chs20/fare2-clip"),
    "hf-hub:chs20/FARE4-ViT-B-32-laion2B-s34B-b79K": Source(
        "hf-hub", repository="chs20/FARE4-ViT-B-32-laion2B-s34B-b79K"
    ),
    "hf-hub:chs20/fare2-clip@main": Source("hf-hub", repository="chs20/fare2-clip", revision="main"),
    "hf-hub:a/b@refs/pr/1": Source("hf-hub", repository="a/b", revision="refs/pr/1"),
    "hf-hub:a/b.c_d@0123abc": Source("hf-hub", repository="a/b.c_d", revision="0123abc"),
    "local-dir:/models/mine": Source("local-dir", folder="/models/mine"),
    "local-dir:mine": Source("local-dir", folder="mine"),
    "local-dir:~/with space": Source("local-dir", folder="~/with space"),
    "ViT-B/16": None,
    "RN50": None,
    "DemoCLIP": None,
    "my own file": None,
    "run:3": None,
}
BAD = (
    "open_clip:",
    "open_clip:/laion2b",
    "open_clip:ViT-B-16/",
    "open_clip:ViT-B/16/laion2b",
    "open_clip:ViT B 16/x",
    "open_clip: ViT-B-16/x",
    "open_clip:ViT-B-16/x y",
    "open_clip:-ViT/x",
    "open-clip:ViT-B-16/x",
    "openclip:ViT-B-16/x",
    "OPEN_CLIP:ViT-B-16/x",
    "hf-hub:",
    "hf-hub:alone",
    "hf-hub:a/b/c",
    "hf-hub:a/../b",
    "hf-hub:a/b@",
    "hf-hub:a/b@../x",
    "hf-hub:-a/b",
    "hfhub:a/b",
    "local-dir:",
    "local-dir:  ",
    "localdir:/x",
)


@pytest.mark.parametrize("name", GOOD)
def test_a_name_says_where_a_model_comes_from(name: str) -> None:
    assert names.parse(name) == GOOD[name]


@pytest.mark.parametrize("name", BAD)
def test_what_begins_like_a_name_and_is_none_is_refused_with_the_grammar(name: str) -> None:
    with pytest.raises(ConfigError, match="expected|did you mean"):
        names.parse(name)


def test_names_without_a_colon_need_no_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    assert names.canonical("ViT-B/16") == "ViT-B/16" and names.canonical("hf-hub:a/b") == "hf-hub:a/b"


def test_the_canonical_name_has_the_suffix_of_the_weights() -> None:
    pytest.importorskip("open_clip")
    assert names.canonical("open_clip:ViT-B-32/laion400m_e32") == "open_clip:ViT-B-32-quickgelu/laion400m_e32"
    assert names.canonical("open_clip:ViT-B-32-quickgelu/metaclip_400m") == "open_clip:ViT-B-32-quickgelu/metaclip_400m"
    assert names.canonical("open_clip:ViT-B-32/laion2b_s34b_b79k") == "open_clip:ViT-B-32/laion2b_s34b_b79k"
    assert names.canonical("open_clip:ViT-B-32") == "open_clip:ViT-B-32"


def test_openais_weights_are_run_by_openais_code_whatever_they_are_called() -> None:
    pytest.importorskip("open_clip")
    for name, openai in names.OPENAI.items():
        assert names.canonical(f"open_clip:{name}/openai") == openai
        assert names.canonical(f"open_clip:{name}-quickgelu/openai") == openai


def test_a_suffix_that_contradicts_its_weights_is_refused() -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(ConfigError, match=r"trained with gelu.*open_clip:ViT-B-32/laion2b_s34b_b79k"):
        names.canonical("open_clip:ViT-B-32-quickgelu/laion2b_s34b_b79k")


@pytest.mark.parametrize(
    "name, part",
    [
        ("open_clip:ViT-B/32", r"Write - inside an architecture: open_clip:ViT-B-32\."),
        ("open_clip:VIT-B-32/laion2b_e16", "Did you mean 'ViT-B-32'"),
        ("open_clip:ViT-B-32/laion2b_e61", "Did you mean 'laion2b_e16'.*MODEL.WEIGHTS FILE"),
        ("open_clip:no-such-thing", "unknown architecture"),
    ],
)
def test_unknown_architectures_and_tags_are_named_with_the_nearest(name: str, part: str) -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(ConfigError, match=part):
        names.canonical(name)


def test_without_open_clip_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from advpt.backbones import extras
    from advpt.errors import WeightsError

    extras.architectures.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(WeightsError, match=r'pip install "advpt\[openclip\]"'):
        names.canonical("open_clip:ViT-B-32/laion2b_e16")
