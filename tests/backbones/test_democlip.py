"""The embedded default: its file, the rule of its token table, its loss, and a shortened pre-training."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from advpt.backbones import democlip
from advpt.backbones.backbone import Backbone
from advpt.backbones.card import CLIP_MEAN, CLIP_STD
from advpt.backbones.load import load_backbone
from advpt.backbones.shim import import_clip
from advpt.data import rendered
from advpt.errors import WeightsError
from advpt.settings import BackboneSettings
from tests.helpers.prompts import tokenize, word_tokens

# Of untrained_rows(). It may never change: shipped weights are trained rows in this table.
RULE_1 = "f3725e1efaea6d64f74f5a30985bec3baaceb185a8687dd67653025e9990acb6"


@pytest.fixture(scope="module")
def demo() -> Backbone:
    return load_backbone(BackboneSettings("DemoCLIP", "", False))


def test_it_loads_and_is_small(demo: Backbone) -> None:
    assert democlip.NAME == demo.name == "DemoCLIP"
    assert democlip.WEIGHTS.stat().st_size <= 8_000_000
    image, text = demo.card.image, demo.card.text
    assert (image.size, image.tokens, text.context, text.vocabulary) == ((32, 32), 1 + 8 * 8, 77, 49408)
    assert image.width <= 128 and text.width <= 128
    assert type(demo.model) is import_clip().model.CLIP


def test_the_token_rule_never_changes() -> None:
    table = democlip.untrained_rows()
    assert table.dtype == torch.float32 and table.shape == (49408, 128)
    assert hashlib.sha256(table.numpy().tobytes()).hexdigest() == RULE_1
    assert table.std().item() == pytest.approx(0.02, rel=1e-3)
    assert abs(table.mean().item()) < 1e-4


def test_trained_rows_are_in_their_places(demo: Backbone) -> None:
    with safe_open(democlip.WEIGHTS, framework="pt") as file:
        ids, rows = file.get_tensor("token_ids"), file.get_tensor("token_rows")
    table, start = demo.model.token_embedding.weight, democlip.untrained_rows()
    assert torch.equal(table[ids], rows)
    others = torch.ones(len(table), dtype=torch.bool)
    others[ids] = False
    assert torch.equal(table[others], start[others])
    assert (table[ids] != start[ids]).any(1).float().mean() > 0.99
    assert democlip.trained_token_ids() == ids.tolist() == sorted(ids.tolist())


def test_trained_rows_cover_the_language_it_has_read() -> None:
    trained = set(democlip.trained_token_ids())
    for caption in ("a photo of a red digit three on a navy background.", "a small pink word fox.", "the number nine."):
        assert set(tokenize([caption])[0].tolist()) - {0} <= trained
    assert not set(word_tokens("hydrangea")) <= trained


def test_it_reads_printed_digits_far_above_chance(demo: Backbone) -> None:
    masks = rendered.draw_many(200, seed=12345, digit_share=1.0, word_share=0.0)
    ink = torch.ones(200, 3)
    images = rendered.colour(masks.pixels[:, None].float() / 255, ink, 0 * ink, torch.Generator().manual_seed(0), 0.0)
    with torch.no_grad():
        text = demo.text.encode_texts([f"a photo of the number {n}." for n in rendered.DIGIT_NAMES])
        features = demo.require_image()(images)
    guessed = (F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).T).argmax(1)
    assert (guessed == masks.sign).float().mean() > 0.6


# --- files --------------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="missing at .*none.safetensors"):
        democlip.load(tmp_path / "none.safetensors")


def about(**changes: Any) -> dict[str, str]:
    facts = {"vocabulary": 49408, "width": 64, "layers": 1, "rule_version": 1} | changes
    return {"democlip": json.dumps(facts)}


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    (
        ({"token_ids": torch.zeros(1)}, None),
        ({"token_ids": torch.zeros(1)}, about(rule_version=2)),
        ({"text_projection": torch.zeros(1)}, about()),
    ),
    ids=("no facts", "other rule", "other tensors"),
)
def test_a_file_of_something_else(tensors: dict[str, Tensor], metadata: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(WeightsError, match="is not a DemoCLIP file of token rule 1"):
        democlip.load(path)


@pytest.mark.parametrize("spoil", (lambda d: d[:-100], lambda d: d[:20], lambda d: b"", lambda d: b"{" + d[1:]))
def test_a_damaged_file(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(spoil(democlip.WEIGHTS.read_bytes()))
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        democlip.load(path)


# --- training -----------------------------------------------------------------------------------------------------


def test_contrastive_loss_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    images, texts = torch.randn(3, 5, generator=g), torch.randn(2, 5, generator=g)
    true = np.array([[1, 0], [1, 1], [0, 1]])
    i, t = images.double().numpy(), texts.double().numpy()
    cosine = (i @ t.T) / np.linalg.norm(i, axis=1)[:, None] / np.linalg.norm(t, axis=1)[None]
    logits = 7.0 * cosine
    by_image = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    by_text = logits - np.log(np.exp(logits).sum(0, keepdims=True))
    to_text = -np.mean([by_image[0, 0], (by_image[1, 0] + by_image[1, 1]) / 2, by_image[2, 1]])
    to_image = -np.mean([(by_text[0, 0] + by_text[1, 0]) / 2, (by_text[1, 1] + by_text[2, 1]) / 2])
    found = democlip.contrastive_loss(images, texts, torch.from_numpy(true).bool(), torch.tensor(7.0))
    assert found.item() == pytest.approx((to_text + to_image) / 2, rel=1e-5)


def test_contrastive_loss_of_plain_pairs_is_clips() -> None:
    images, texts = torch.randn(6, 5), torch.randn(6, 5)
    logits = 10 * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    pairs = torch.arange(6)
    expected = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    found = democlip.contrastive_loss(images, texts, torch.eye(6).bool(), torch.tensor(10.0))
    assert torch.allclose(found, expected, atol=1e-6)


def test_text_features_of_pre_training_are_clips(tiny_clip: Backbone) -> None:
    tokens = tokenize(["a red digit three.", "the word fox", "a"])
    with torch.no_grad():
        found = democlip.text_features(tiny_clip.model, tokens)
        assert torch.allclose(found, tiny_clip.model.encode_text(tokens), atol=1e-5)


def held_out_loss(model: nn.Module) -> tuple[float, float]:
    """The loss on signs that pre-training never drew, and what guessing would give."""
    data = rendered.sample_batch(rendered.draw_many(96, seed=777), 96, torch.Generator().manual_seed(7))
    mean, std = torch.tensor(CLIP_MEAN)[:, None, None], torch.tensor(CLIP_STD)[:, None, None]
    with torch.no_grad():
        images = model.encode_image((data.images - mean) / std)
        texts = model.encode_text(tokenize(data.captions))
        scale = model.logit_scale.exp()
        return (
            float(democlip.contrastive_loss(images, texts, data.true, scale)),
            (math.log(len(images)) + math.log(len(texts))) / 2,
        )


SHORT = {"drawn": 300, "width": 64, "layers": 1}


@pytest.mark.slow
def test_a_shortened_pre_training_learns_and_survives_its_file(tmp_path: Path) -> None:
    state, facts = democlip.pretrain(steps=160, batch=64, **SHORT)
    path = tmp_path / "short.safetensors"
    democlip.save(path, state, facts)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    model = democlip.load(path)
    assert not model.training
    for name, value in model.state_dict().items():
        if name != "token_embedding.weight":
            assert torch.equal(value, state[name])
    assert torch.equal(model.token_embedding.weight[state["token_ids"]], state["token_rows"])
    found, guessing = held_out_loss(model)
    assert found < guessing - 0.2
    assert facts["made_with"] == {"steps": 160, "stopped_at": 160, "batch": 64, "drawn": 300, "seed": 0, "lr": 1e-3}


def test_pre_training_follows_its_seed(tmp_path: Path) -> None:
    small = {"steps": 3, "batch": 8} | SHORT
    runs = [democlip.pretrain(seed=seed, **small)[0] for seed in (0, 0, 1)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_the_command_writes_a_file_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = democlip.pretrain
    monkeypatch.setattr(democlip, "pretrain", lambda **given: real(**(given | SHORT | {"batch": 4})))
    path = tmp_path / "made.safetensors"
    democlip.main(["--out", str(path), "--steps", "3", "--seed", "3", "--save-every", "2"])
    assert democlip.load(path).visual.input_resolution == 32


def test_the_second_democlip_is_small_and_another() -> None:
    path = democlip.FILES["DemoCLIP-S"]
    assert path.stat().st_size <= 2_500_000
    model = democlip.load(path)
    assert model.visual.input_resolution == 32 and model.ln_final.weight.shape == (64,)
    assert len(model.visual.transformer.resblocks) == 2 and len(democlip.trained_token_ids(path)) > 100
