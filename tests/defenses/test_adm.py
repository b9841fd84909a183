"""ADM's weights in diffusers: against a network written by hand, and from files."""

from __future__ import annotations

import builtins

import pytest
import torch
import torch.nn.functional as F

from advpt.defenses import adm, parse
from advpt.errors import DefenseError, WeightsError
from tests.helpers.adm_reference import ADM, CONFIG, Attention, make_adm
from tests.helpers.defenses import noise, picture

# --- ADM in diffusers -------------------------------------------------------------------------------------------


def test_split_qkv_is_what_a_hand_written_attention_does():
    torch.manual_seed(0)
    attention, x = Attention(64, 16), torch.randn(2, 64, 3, 5)
    h = attention.norm(x.reshape(2, 64, 15)).transpose(1, 2)

    def by_parts(parts):
        q, k, v = (h @ w.squeeze(-1).T + b for w, b in parts)
        q, k, v = (t.reshape(2, 15, 4, 16).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 15, 64)
        return x + attention.proj_out(mixed.transpose(1, 2)).reshape(x.shape)

    weight, bias = attention.qkv.weight, attention.qkv.bias
    right = by_parts(zip(adm.split_qkv(weight, 16), adm.split_qkv(bias, 16)))
    naive = by_parts(zip(weight.chunk(3), bias.chunk(3)))
    torch.testing.assert_close(right, attention(x), atol=1e-5, rtol=1e-5)
    assert (naive - attention(x)).abs().max() > 0.05


def test_a_converted_adm_gives_the_same_noise(diffusers):
    reference = make_adm()
    state = reference.state_dict()
    unet = adm.from_state(adm.convert(state, CONFIG), CONFIG, "here")
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for index in (0, 10, 149):
        torch.testing.assert_close(unet(x, index).sample, reference(x, index), atol=1e-5, rtol=1e-4)
    assert not any(p.requires_grad for p in unet.parameters()) and not unet.training

    def naive(fused, head):
        return fused.chunk(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adm, "split_qkv", naive)
        wrong = adm.from_state(adm.convert(state, CONFIG), CONFIG, "here")  # loads strictly, and is wrong
    assert (wrong(x, 10).sample - reference(x, 10)).abs().max() > 1e-3


def test_the_full_size_map_is_complete(diffusers):
    with torch.device("meta"):
        source, target = ADM(adm.ADM_256).state_dict(), adm.build(adm.ADM_256).state_dict()
    converted = adm.convert(source, adm.ADM_256)
    assert len(source) == 566 and len(target) == 630
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in target.items()}
    assert sum(v.numel() for v in target.values()) == 552_814_086


def test_loading_is_strict(diffusers):
    state = make_adm().state_dict()
    with pytest.raises(WeightsError, match="belongs to no part"):
        adm.convert(state | {"label_emb.weight": torch.zeros(2, 2)}, CONFIG)
    converted = adm.convert(state, CONFIG)
    with pytest.raises(WeightsError, match="does not fit"):
        adm.from_state({k: v for k, v in converted.items() if k != "conv_in.bias"}, CONFIG, "here")
    with pytest.raises(WeightsError, match="does not accept"):
        adm.build({"no_such": 1})


def test_own_files_come_back(diffusers, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVPT_WEIGHTS", str(tmp_path))
    unet = adm.from_state(adm.convert(make_adm().state_dict(), CONFIG), CONFIG, "here")
    adm.save(unet, CONFIG, tmp_path / "own.safetensors")
    spec = parse("diffpure/t=2/weights=own.safetensors")
    spec.require()
    chain = spec.build()
    out = chain(picture(size=20), noise(2))
    assert out.shape == (2, 3, 20, 20)
    named = chain.parameters()[0]
    assert named["size"] == 16 and len(named["weights"]) == 64
    other = adm.from_state(adm.convert(make_adm(1).state_dict(), CONFIG), CONFIG, "here")
    adm.save(other, CONFIG, tmp_path / "other.safetensors")
    assert parse("diffpure/t=2/weights=other.safetensors").build().parameters()[0]["weights"] != named["weights"]
    adm.save(unet, CONFIG | {"act_fn": "gelu"}, tmp_path / "gelu.safetensors")  # fits the same tensors
    read_otherwise = parse("diffpure/t=2/weights=gelu.safetensors").build().parameters()[0]
    assert read_otherwise["weights"] == named["weights"] and read_otherwise != named
    assert adm.reads(adm.ADM_256) == {}  # banks of the published model keep their keys
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="adm.save"):
        parse("diffpure/weights=bad.safetensors").build()


def test_a_missing_checkpoint_is_explained(diffusers, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVPT_WEIGHTS", str(tmp_path))
    for act in (parse("diffpure").require, parse("diffpure:sde").build):
        with pytest.raises(WeightsError) as error:
            act()
        for part in (str(tmp_path / adm.PUBLISHED.name), adm.PUBLISHED.url, adm.PUBLISHED.sha256):
            assert part in str(error.value)
    (tmp_path / adm.PUBLISHED.name).write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="SHA-256"):
        parse("diffpure").build()


def test_missing_diffusers_is_explained(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("diffusers"):
            raise ImportError("no diffusers here")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DefenseError, match=r'pip install "advpt\[diffpure\]"'):
        adm.build(CONFIG)
    monkeypatch.setattr("advpt.defenses.diffpure.find_spec", lambda name: None)
    with pytest.raises(DefenseError, match=r'pip install "advpt\[diffpure\]"'):
        parse("diffpure").require()
