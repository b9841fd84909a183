"""Names of transformers' CLIPModel, against transformers itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from advpt.backbones import hf
from advpt.backbones.configs import card_of, read_transformers
from advpt.errors import WeightsError
from tests.helpers.open_clip import build


def clip_model(act: str, **vision: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("open_clip")
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    image = {**text, "image_size": 32, "patch_size": 8} | vision
    config = transformers.CLIPConfig(
        text_config=text | {"hidden_act": act}, vision_config=image | {"hidden_act": act}, projection_dim=48
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.CLIPModel(config).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.05) if weight.dim() < 2 else weight.data.mul_(2.5)
    return model


@torch.no_grad()
@pytest.mark.parametrize("act", ("quick_gelu", "gelu"))
@pytest.mark.parametrize("heads", (4, 1))
def test_a_clip_model_computes_the_same_in_open_clips_classes(act: str, heads: int) -> None:
    import json

    theirs = clip_model(act, num_attention_heads=heads)
    read = read_transformers(theirs.config.to_dict(), {}, "a test")
    card = card_of("hf-hub:a/b", read)
    assert card.image.heads == heads and card.image.activation == ("quickgelu" if act == "quick_gelu" else "gelu")
    config = json.loads(card.config)
    ours = build(config)
    ours.load_state_dict(hf.from_clip_model(theirs.state_dict(), "a test"))
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(0, 49405, (4, 77), generator=torch.Generator().manual_seed(2))
    ids[:, 0], ids[:, 9], ids[:, 10:] = 49406, 49407, 0
    image = theirs.visual_projection(theirs.vision_model(pixels).pooler_output)
    text = theirs.text_projection(theirs.text_model(ids).pooler_output)
    for mine, other in ((ours.encode_image(pixels), image), (ours.encode_text(ids), text)):
        assert float((mine - other).norm() / other.norm()) <= 5e-6


def test_defaults_are_those_of_the_class() -> None:
    transformers = pytest.importorskip("transformers")
    default = transformers.CLIPConfig().to_dict()
    explicit, absent = (
        card_of("x", read_transformers(config, {}, "a test")) for config in (default, {"model_type": "clip"})
    )
    assert explicit == absent and absent.image.heads == 12 and absent.text.activation == "quickgelu"


@pytest.mark.parametrize(
    "name", ("text_model.encoder.layers.0.lora.weight", "vision_model.head.weight", "logit_scale.weight", "qformer")
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=f"no tensor called '{name}'"):
        hf.from_clip_model({name: torch.zeros(1)}, "FILE")


def test_a_block_without_a_projection_is_refused_and_old_buffers_are_dropped() -> None:
    part: dict[str, Tensor] = {"text_model.encoder.layers.0.self_attn.q_proj.bias": torch.zeros(2)}
    with pytest.raises(WeightsError, match="only the parts q are there"):
        hf.from_clip_model(part, "FILE")
    assert hf.from_clip_model({"text_model.embeddings.position_ids": torch.zeros(1, 77)}, "FILE") == {}
