"""The arithmetic of the frozen encoders."""

import functools

import pytest
import torch

from advpt.backbones.precision import half_precision, in_precision, tf32

CPU = torch.device("cpu")


def test_fp32_is_the_encoder_itself(tiny_clip):
    encode = tiny_clip.require_image()
    assert in_precision(encode, "fp32") is encode
    assert in_precision(encode, "tf32") is encode


def test_amp_is_close_float32_and_differentiable(tiny_clip):
    encode = tiny_clip.require_image()
    x = torch.rand(4, 3, *(tiny_clip.card.image.size[0],) * 2).requires_grad_()
    plain, half = encode(x), in_precision(encode, "amp")(x)
    assert half.dtype == torch.float32
    assert not torch.equal(plain, half)
    assert float((plain - half).norm() / plain.norm()) < 1e-2
    (a,), (b,) = torch.autograd.grad(plain.sum(), x), torch.autograd.grad(half.sum(), x)
    assert b.dtype == torch.float32
    assert float((a - b).norm() / a.norm()) < 5e-2


@pytest.mark.parametrize("precision", ["fp32+compiled", "amp+compiled"])
def test_compiled_is_close_and_differentiable(tiny_clip, precision, monkeypatch):
    """With the backend that needs no compiler; the graph and its gradient are those of every backend."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    encode, tolerance = tiny_clip.require_image(), 1e-5 if precision.startswith("fp32") else 5e-2
    x = torch.rand(4, 3, *(tiny_clip.card.image.size[0],) * 2).requires_grad_()
    fast = in_precision(encode, precision)
    assert fast is not encode
    plain, found = encode(x), fast(x)
    assert torch.allclose(plain, found, atol=tolerance, rtol=tolerance)
    (a,), (b,) = torch.autograd.grad(plain.sum(), x), torch.autograd.grad(found.sum(), x)
    assert (a - b).norm() / a.norm() < tolerance


@pytest.mark.parametrize(("precision", "enabled"), [("fp32", False), ("amp", True), ("fp16", False)])
def test_what_autocasts_on_a_cpu(precision, enabled):
    with half_precision(precision, CPU):
        assert torch.is_autocast_enabled("cpu") is enabled


def test_tf32_is_given_back():
    before = torch.backends.cuda.matmul.allow_tf32
    with pytest.raises(RuntimeError), tf32(not before):
        assert torch.backends.cuda.matmul.allow_tf32 is not before
        raise RuntimeError
    assert torch.backends.cuda.matmul.allow_tf32 is before
