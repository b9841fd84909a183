"""CLIPure: worked examples, its geometry, and why its released gradient is none."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.bank.defended_input import Encode
from advpt.errors import ConfigError
from advpt.test_time import clipure, parse
from advpt.test_time.base import DefendedModel, Draws, Variant
from advpt.test_time.clipure import CLIPure, angle, angle_after, closed_form, iterate, rotate, step
from tests.helpers.float64 import in_float64
from tests.helpers.tiny_clip import DTYPES, defended_model, images, vectors

KEYS = ("a", "b", "c", "d")


def unit(n: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """``[n, width]`` random directions."""
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, width, generator=g, dtype=torch.float64), dim=-1).to(dtype)


def build(text: str, model: DefendedModel, null: Tensor | None = None) -> CLIPure:
    """The defense; ``null``: a direction in place of the text's, since a random tower's texts lie anywhere."""
    defense = parse(text).build(model)
    assert isinstance(defense, CLIPure)
    if null is not None:
        defense.__dict__["null"] = F.normalize(null, dim=-1)
    return defense


def far_null(encode: Encode, x: Tensor) -> Tensor:
    """A direction at a cosine of about 0.25 to the images, as texts are in CLIP."""
    mean = F.normalize(F.normalize(encode(x), dim=-1).mean(0), dim=-1)
    other = unit(1, len(mean), 9, mean.dtype)[0]
    return 0.25 * mean + (1 - 0.25**2) ** 0.5 * F.normalize(other - (other @ mean) * mean, dim=-1)


def variants(defense: CLIPure) -> dict[str, Variant]:
    """By name."""
    return {each.name: each for each in defense.variants()}


# --- formulas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("section", "eta", "batch"),
    (("per_image_step_30", 30, 1), ("per_image_step_0.1", 0.1, 1), ("batch_norm_step_30_as_released", 30, 2)),
)
def test_iteration_of_the_worked_example(section: str, eta: float, batch: int, dtype: torch.dtype) -> None:
    example = vectors("clipure_cos", dtype)
    u, t, expected = example["embeddings"], F.normalize(example["null_text"], dim=-1), example[section]
    for k, cosine in enumerate(expected["cos_to_null"], 1):
        after = iterate(u, t, eta, k, batch)
        torch.testing.assert_close(after @ t, cosine, **DTYPES[dtype])
        if k in (1, 2, 10):
            torch.testing.assert_close(after, expected[f"after_{k}"], **DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_closed_form_of_the_worked_example(dtype: torch.dtype) -> None:
    example = vectors("clipure_cos", dtype)
    u, t = example["embeddings"][:1], F.normalize(example["null_text"], dim=-1)
    expected, theta = example["closed_form_image_0_step_0.1"], angle(u, t)
    after = angle_after(theta, 0.1, 10)
    a, b = after.sin() / theta.sin(), (theta - after).sin() / theta.sin()
    values = (theta, theta - angle_after(theta, 0.1, 1), after, a, b)
    names = ("angle_before", "rotation_per_step", "angle_after_10", "a", "b")
    for value, name in zip(values, names):
        assert value.item() == pytest.approx(expected[name], rel=1e-6 if dtype == torch.float64 else 1e-4), name
    torch.testing.assert_close(closed_form(u, t, 0.1, 10)[0], expected["a_u_plus_b_t"], **DTYPES[dtype])
    u = F.normalize(example["embeddings"], dim=-1)
    whole = (iterate(u, t, 30, 10) - u).abs().max()
    assert float(whole) < (1e-14 if dtype == torch.float64 else 1e-5), "ten large steps lead back"


@pytest.mark.parametrize(("eta", "steps"), ((30, 1), (30, 7), (30, 10), (0.1, 3), (0.1, 40), (1.0, 2), (0.7, 5)))
def test_closed_form_is_the_iteration(eta: float, steps: int) -> None:
    u, t = unit(50, 6, 1), unit(1, 6, 2)[0]
    once = closed_form(u, t, eta, steps)
    torch.testing.assert_close(once, iterate(u, t, eta, steps), rtol=0, atol=1e-9)
    torch.testing.assert_close(once.norm(dim=-1), torch.ones(50, dtype=torch.float64))
    for before, after in zip(u[:5], once):
        assert int(torch.linalg.matrix_rank(torch.stack([before, t, after]), rtol=1e-9)) == 2, "a u + b t"


def test_an_even_number_of_large_steps_leads_back() -> None:
    t = unit(1, 8, 2)[0]
    u = unit(60, 8, 1)
    near = u[u @ t > math.cos(math.atan(30.0))]
    assert len(near) > 15
    for steps in (2, 4, 6, 8, 10):
        torch.testing.assert_close(iterate(near, t, 30, steps), near, rtol=0, atol=1e-12)
    assert float((iterate(near, t, 30, 9) - near).norm(dim=-1).min()) > 0.1


def test_a_rotation_takes_its_share_of_the_angle() -> None:
    u, t = unit(20, 5, 3), unit(1, 5, 4)[0]
    for share in (0.0, 0.25, 0.5, 0.999):
        turned = rotate(u, t, share)
        torch.testing.assert_close(angle(turned, t), (1 - share) * angle(u, t))
        torch.testing.assert_close(angle_of_rows(u, turned), share * angle(u, t), rtol=1e-6, atol=1e-7)
    assert torch.equal(rotate(u, t, 0.0), u)


def angle_of_rows(u: Tensor, v: Tensor) -> Tensor:
    """``[b]``: angles between rows."""
    return 2 * torch.asin(((u - v).norm(dim=-1) / 2).clamp(max=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sign", (1, -1))
def test_an_embedding_at_the_null_text_stays(sign: int, dtype: torch.dtype) -> None:
    t = unit(1, 64, 5, dtype)[0]
    ways = (lambda u: step(u, t, 30), lambda u: rotate(u, t, 0.5), lambda u: closed_form(u, t, 30, 3))
    for way in ways:
        u = torch.stack([sign * t, unit(1, 64, 6, dtype)[0]]).requires_grad_()
        with torch.enable_grad():
            out = way(u)
            gradient = torch.autograd.grad(out.square().sum() + out[:, 0].sum(), u)[0]
        torch.testing.assert_close(out[0], sign * t, rtol=0, atol=1e-6)
        assert bool(gradient.isfinite().all())
    exactly = F.one_hot(torch.tensor([2]), 4).to(dtype)
    leaf = (sign * exactly).requires_grad_()
    with torch.enable_grad():
        gradient = torch.autograd.grad(rotate(leaf, exactly[0], 0.5).sum(), leaf)[0]
    assert bool(gradient.isfinite().all()), "no rounding error at all"
    assert bool(step(torch.stack([sign * t, sign * t]), t, 30, batch=2).isfinite().all())


# --- the defense -------------------------------------------------------------------------------------------------


def test_the_null_text_is_the_mean_of_80_templates_without_a_class(tiny_clip: Backbone) -> None:
    texts = clipure.null_texts()
    assert len(set(texts)) == 80 and "a photo of a ." in texts and "a origami ." in texts and "itap of my ." in texts
    features = torch.stack([F.normalize(tiny_clip.text.encode_texts([text])[0], dim=-1) for text in texts])
    defense = build("clipure", defended_model(tiny_clip))
    torch.testing.assert_close(defense.null, F.normalize(features.mean(0), dim=-1), rtol=0, atol=1e-5)


def test_the_null_text_is_part_of_the_key(tiny_clip: Backbone) -> None:
    model, width = defended_model(tiny_clip), tiny_clip.text.encode_texts(["x"]).shape[1]
    one, other = (build("clipure", model, unit(1, width, seed, torch.float32)[0]) for seed in (1, 2))
    assert one.parameters()["null"] != other.parameters()["null"]
    assert one.parameters() == build("clipure", model, one.null).parameters()
    for first, second in zip(one.variants(), other.variants()):
        assert (first.parameters == second.parameters) == (first.name == "plain")


def test_no_share_is_the_plain_model(tiny_clip: Backbone) -> None:
    model, encode, x = in_float64(tiny_clip), tiny_clip.require_image(), images(4).double()
    plain = model.classifier.logits(encode(x))
    torch.testing.assert_close(build("clipure/share=0", model)(x, KEYS, True, encode), plain, rtol=0, atol=1e-9)
    null = far_null(encode, x)
    paper = build("clipure:paper", model, null)
    torch.testing.assert_close(paper(x, KEYS, True, encode), plain, rtol=0, atol=1e-6)
    turned = build("clipure", model, null)
    assert float((turned(x, KEYS, True, encode) - plain).abs().max()) > 0.1


def test_only_the_released_form_depends_on_the_batch() -> None:
    """As the spec measured it: nothing at one image, 0.25 at 32."""
    t = unit(1, 32, 8)[0]
    u = F.normalize(unit(64, 32, 7) + 0.6 * t, dim=-1)
    change = {}
    for batch in (1, 2, 32):
        change[batch] = float((iterate(u, t, 30, 10, batch) - u).abs().max())
    assert change[1] < 1e-12 < 1e-6 < change[2] < change[32] and change[32] > 0.05, change
    pairs = torch.cat([iterate(pair, t, 30, 10, 64) for pair in u[:5].split(2)])
    torch.testing.assert_close(iterate(u[:5], t, 30, 10, 2), pairs, rtol=0, atol=1e-12)
    alone = iterate(u[:1], t, 30, 10, 32)
    torch.testing.assert_close(alone, u[:1], rtol=0, atol=1e-12)


def test_the_released_form_says_that_it_depends_on_the_batch(tiny_clip: Backbone) -> None:
    model, encode, x = defended_model(tiny_clip), tiny_clip.require_image(), images(4)
    null = far_null(encode, x)
    for text, by_image in (("clipure", True), ("clipure:paper", True), ("clipure:released", False)):
        defense = build(text, model, null)
        together, alone = defense(x, KEYS, True, encode), defense(x[:1], KEYS[:1], True, encode)
        turned = defense(x[[2, 0, 1, 3]], ("c", "a", "b", "d"), True, encode)[1]
        same = torch.allclose(together[0], alone[0], atol=2e-4) and torch.allclose(together[0], turned, atol=2e-4)
        assert same == by_image == defense.by_image, text
    assert build("clipure:released", model).parameters()["settings"]["batch"] == 2


@pytest.mark.parametrize(
    "wrong", ("share=1", "share=-0.1", "share=nan", "steps=3", "batch=0", "batch=2", "eta=inf", "steps=-1")
)
def test_wrong_settings_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse(f"clipure/{wrong}")


# --- gradients ---------------------------------------------------------------------------------------------------


def gradient(variant: Variant, encode: Encode, x: Tensor) -> Tensor:
    """``[b, ...]``: of cross-entropy with the first class."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        loss = -variant.logits(encode, x, Draws(KEYS[: len(x)])).log_softmax(-1)[:, 0].sum()
        return torch.autograd.grad(loss, x)[0]


@pytest.mark.parametrize("text", ("clipure", "clipure/share=0/steps=3/eta=0.2", "clipure:released"))
def test_the_exact_gradient_is_that_of_central_differences(tiny_clip: Backbone, text: str) -> None:
    model, encode, x = in_float64(tiny_clip), tiny_clip.require_image(), images(2).double()
    defense = build(text, model, far_null(encode, x))
    exact = variants(defense)["exact"]
    slope, g, h = gradient(exact, encode, x), torch.Generator().manual_seed(3), 1e-5
    for _ in range(5):
        way = torch.randn(x.shape, generator=g, dtype=torch.float64)
        far, near = (exact.logits(encode, x + s * h * way, Draws(KEYS[:2])).log_softmax(-1) for s in (1, -1))
        numeric = -(far - near)[:, 0].sum() / (2 * h)
        assert float((slope * way).sum()) == pytest.approx(float(numeric), rel=1e-4)


@pytest.mark.parametrize("text", ("clipure:released", "clipure:paper"))
def test_the_released_gradient_is_rounding_error_and_the_exact_one_is_the_plain_models(
    tiny_clip: Backbone, text: str
) -> None:
    model, encode, x = in_float64(tiny_clip), tiny_clip.require_image(), images(4).double()
    ways = variants(build(text, model, far_null(encode, x)))
    assert list(ways) == ["exact", "released gradient", "plain"]
    exact, released, plain = (gradient(each, encode, x).flatten(1) for each in ways.values())
    assert float(released.norm() / plain.norm()) < 1e-6, "it vanishes"
    assert float(F.cosine_similarity(exact, plain).min()) > 0.99
    assert float(exact.norm() / plain.norm()) == pytest.approx(1, abs=0.05)
    values = [each.logits(encode, x, Draws(KEYS)) for each in ways.values()]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(values[2], model.classifier.logits(encode(x)))


def test_in_float32_the_released_gradient_has_no_direction_left(tiny_clip: Backbone) -> None:
    model, encode, x = defended_model(tiny_clip), tiny_clip.require_image(), images(4)
    for text in ("clipure:released", "clipure:paper"):
        ways = variants(build(text, model, far_null(encode, x)))
        exact, released, plain = (gradient(each, encode, x).flatten(1) for each in ways.values())
        ratio = float(released.norm() / plain.norm())
        assert 0 < ratio < 1e-6, "rounding error"
        assert float(F.cosine_similarity(released / ratio, plain).mean().abs()) < 0.3
        assert float(F.cosine_similarity(exact, plain).min()) > 0.99
