"""Diffusion purification: the schedule, both samplers, ADM's weights in diffusers, and the files they come from."""

from __future__ import annotations

import builtins

import pytest
import torch
import torch.nn.functional as F

from advpt.attacks.noise import SampleNoise
from advpt.defenses import adm, diffusion, parse
from advpt.defenses.diffpure import GRADIENT_CALLS, DiffPure
from advpt.errors import DefenseError, WeightsError
from tests.helpers.adm_reference import ADM, CONFIG, Attention, make_adm


def noise(n: int = 2, seed: int = 0) -> SampleNoise:
    return SampleNoise([str(i) for i in range(n)], seed)


def picture(n: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def oracle(image):
    """The noise that really is in x, if ``image`` in [-1, 1] was diffused."""

    def model(x, index):
        bar = diffusion.alpha_bars()[index]
        return (x - bar**0.5 * image) / (1 - bar) ** 0.5

    return model


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers", reason='diffusers is not installed: pip install "advpt[diffpure]"')


# --- schedule and samplers --------------------------------------------------------------------------------------


def test_the_noise_of_150_steps():
    assert diffusion.alpha_bars()[149] == pytest.approx(0.788321, abs=5e-7)
    x = torch.zeros(4, 3, 64, 64)
    assert diffusion.diffuse(x, 150, noise(4)).std() == pytest.approx(0.46009, abs=0.005)
    assert diffusion.diffuse(x + 1, 150, noise(4)).mean() == pytest.approx(0.88787, abs=0.01)


def test_indices():
    assert diffusion.ddpm_indices(150) == list(range(149, -1, -1))
    times = diffusion.sde_times(150)
    assert [i for _, _, i in times] == [149, 148, *range(148, 0, -1)]
    assert sum(dt for _, dt, _ in times) == pytest.approx(0.15 - 1e-5, abs=1e-6)
    assert times[0][0] == pytest.approx(0.15, abs=1e-6)
    assert [diffusion.calls(s, 150) for s in ("ddpm", "sde")] == [150, 150]
    assert [diffusion.calls(s, 150, 10) for s in ("ddpm", "sde")] == [15, 15]
    assert diffusion.calls("ddpm", 0) == 0


@pytest.mark.parametrize("stride", [1, 7])
def test_perfect_noise_gives_the_image_back(stride):
    x = picture()
    model = oracle(2 * x - 1)
    out = DiffPure(t=150, model=model, size=16, stride=stride)(x, noise())
    torch.testing.assert_close(out, x, atol=2e-5, rtol=0)
    out = DiffPure(t=150, sampler="sde", model=model, size=16)(x, noise())
    assert (out - x).abs().mean() < 0.01  # no last denoising step: the noise of its last steps stays


def test_no_steps_are_the_resize_round_trip():
    x = picture(size=28)
    never = lambda *a: pytest.fail("a network call")  # noqa: E731
    for sampler in diffusion.SAMPLERS:
        out = DiffPure(t=0, sampler=sampler, model=never, size=32)(x, noise())
        there = F.interpolate(2 * x - 1, (32, 32), mode="bilinear", align_corners=False)
        back = F.interpolate(there, (28, 28), mode="bilinear", align_corners=False)
        torch.testing.assert_close(out, (back + 1) / 2)
    assert torch.equal(DiffPure(t=0, model=never, size=28)(x, noise()), (2 * x - 1 + 1) / 2)


@pytest.mark.parametrize("index", [149, 100, 10, 1, 0])
@pytest.mark.parametrize("channels", [3, 6])
def test_a_step_is_diffusers_step(diffusers, index, channels):
    kind = {6: "learned_range", 3: "fixed_small"}[channels]
    scheduler = diffusers.DDPMScheduler(
        1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", variance_type=kind, clip_sample=True,
        clip_sample_range=1.0, prediction_type="epsilon",
    )  # fmt: skip
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(index))
    out = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)

    class Zero(SampleNoise):
        def normal(self, like):
            return torch.ones_like(like) * self.value

    means = []
    for value in (0.0, 1.0):
        draws = Zero(["x"], 0)
        draws.value = value
        ours = diffusion.ddpm_step(lambda *a: out, x, index, index - 1, draws)
        with pytest.MonkeyPatch.context() as patch:
            fixed = lambda shape, **kw: torch.full(shape, value)  # noqa: E731, B023
            patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", fixed)
            theirs = scheduler.step(out, index, x).prev_sample
        torch.testing.assert_close(ours, theirs, atol=6e-5, rtol=1e-4)
        means.append(ours)
    assert torch.equal(*means) == (index == 0)


def test_samplers_and_seeds_differ():
    model = oracle(torch.zeros(2, 3, 16, 16))
    make = lambda **how: DiffPure(t=20, model=lambda x, i: 0.5 * model(x, i), size=16, **how)  # noqa: E731
    one = make()(picture(), noise())
    assert torch.equal(one, make()(picture(), noise()))
    assert not torch.equal(one, make()(picture(), noise(seed=1)))
    assert not torch.equal(one, make(sampler="sde")(picture(), noise()))


def test_short_chains_have_a_gradient_long_ones_do_not():
    model = oracle(torch.zeros(2, 3, 16, 16))
    assert DiffPure(t=GRADIENT_CALLS, model=model, size=16).has_gradient
    assert not DiffPure(t=GRADIENT_CALLS + 1, model=model, size=16).has_gradient
    assert DiffPure(t=150, stride=10, model=model, size=16).has_gradient


def test_parameters_change_with_everything():
    base = {"t": 10, "model": lambda x, i: x, "size": 16}
    found = {str(DiffPure(**base).parameters())}
    for change in ({"t": 11}, {"sampler": "sde"}, {"stride": 2}, {"dtype": "bf16"}, {"size": 32}):
        found.add(str(DiffPure(**base | change).parameters()))
    assert len(found) == 6


def test_half_precision_is_close():
    model = torch.nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x, index):
            return self.net(x)

    full = DiffPure(t=5, model=Net(), size=16)(picture(), noise())
    half = DiffPure(t=5, model=Net(), size=16, dtype="bf16")(picture(), noise())
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.02, rtol=0)


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
    out = chain(picture(size=20), noise())
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


def test_gradient_through_a_network_is_the_plain_one(diffusers):
    """Recomputing inner values must not change it."""
    from advpt.defenses.diffpure import UNet

    unet = UNet(adm.from_state(adm.convert(make_adm().state_dict(), CONFIG), CONFIG, "here"))
    x = picture().requires_grad_()
    (one,) = torch.autograd.grad(DiffPure(t=2, model=unet, size=16).apply(x, noise()).sum(), x)
    plain = DiffPure(t=2, model=lambda at, i: unet(at, i), size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("advpt.defenses.diffpure.checkpoint", lambda f, *a, **k: f(*a))
        (two,) = torch.autograd.grad(plain.apply(x, noise()).sum(), x)
    torch.testing.assert_close(one, two)
    assert all(p.grad is None for p in unet.parameters())


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


def test_the_small_random_model_is_a_diffpure(diffusers, tmp_path, monkeypatch):
    from advpt.defenses import tiny

    monkeypatch.setenv("ADVPT_WEIGHTS", str(tmp_path / "new"))
    tiny.write("tiny.safetensors")
    chain = parse("diffpure/t=2/weights=tiny.safetensors").build()
    assert chain(picture(size=32), noise()).shape == (2, 3, 32, 32)
    assert chain.parameters() == parse("diffpure/t=2/weights=tiny.safetensors").build().parameters()
