"""DiffPure (Nie et al., ICML 2022): add the noise of t diffusion steps, then denoise with a diffusion model.

The paper's ImageNet setting is t = 150 of 1000 (against eps 4/255; at 16/255 some of the perturbation stays) and
OpenAI's unconditional 256 x 256 ADM; images are resized to its size and back (bilinear, not antialiased, as there).
Profiles: ``ddpm`` (default) is ancestral sampling with the learned variance; ``sde`` Euler steps of the reverse SDE,
which DiffPure's ImageNet scripts run. An image takes 336 TFLOP: one to two seconds on a current data-centre GPU.
``stride`` above 1 leaves steps out and ``dtype`` below fp32 rounds: approximations that key and record name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advpt.attacks.noise import SampleNoise
from advpt.defenses import adm
from advpt.defenses.base import DEFENSES, Defense, Option
from advpt.defenses.diffusion import SAMPLERS, STEPS, NoiseModel, calls, diffuse
from advpt.errors import DefenseError, unknown_name
from advpt.files import tensor_digest

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GRADIENT_CALLS = 20  # with more calls an adaptive attacker uses the identity's gradient


@DEFENSES.add
class DiffPure(Defense):
    """Adds noise and removes it with a diffusion model.

    Args:
        t: forward steps, 0 to 1000 (0: the resize round trip alone).
        sampler: ``ddpm`` or ``sde``.
        stride: steps from one network call to the next.
        dtype: of the network: ``fp32``, ``bf16`` or ``fp16``.
        weights: the name of a file in the weights folder ("": OpenAI's).
    """

    name = "diffpure"
    summary = "diffusion purification (Nie et al., ICML 2022); needs diffusers and a 2.2 GB file"
    draws_noise = True
    costly = True
    gradient_note = f"own up to {GRADIENT_CALLS} network calls"
    profiles = {
        "ddpm": {"t": 150, "sampler": "ddpm", "stride": 1, "dtype": "fp32", "weights": ""},
        "sde": {"t": 150, "sampler": "sde", "stride": 1, "dtype": "fp32", "weights": ""},
    }

    def __init__(
        self,
        *,
        t: int = 150,
        sampler: str = "ddpm",
        stride: int = 1,
        dtype: str = "fp32",
        weights: str = "",
        model: NoiseModel | None = None,
        size: int = 0,
    ) -> None:
        """``model`` and ``size`` replace the file by any noise model (see :mod:`~advpt.defenses.diffusion`)."""
        self.check({"t": t, "sampler": sampler, "stride": stride, "dtype": dtype, "weights": weights})
        self.t, self.sampler, self.stride, self.dtype = t, sampler, stride, dtype
        self.reads: dict[str, Any] = {}
        if model is None:
            unet, config = adm.load(weights)
            model, size, self.reads = UNet(unet), config["sample_size"], adm.reads(config)
        if size < 1:
            raise DefenseError(f"size={size}: give the side of the images that the noise model works on")
        self.model, self.size = model, size
        state = model.state_dict() if isinstance(model, nn.Module) else {}
        self.digest = tensor_digest(state) if state else None
        self.has_gradient = calls(sampler, t, stride) <= GRADIENT_CALLS

    @classmethod
    def check(cls, options: Mapping[str, Option]) -> None:
        if not 0 <= int(options["t"]) <= STEPS or int(options["stride"]) < 1:
            raise DefenseError(f"t={options['t']}, stride={options['stride']}: expected 0 to {STEPS}, and at least 1")
        if options["sampler"] not in SAMPLERS:
            raise DefenseError(unknown_name("sampler", str(options["sampler"]), SAMPLERS))
        if options["dtype"] not in DTYPES:
            raise DefenseError(unknown_name("dtype", str(options["dtype"]), DTYPES))

    @classmethod
    def require(cls, options: Mapping[str, Option]) -> None:
        if find_spec("diffusers") is None:
            raise DefenseError('DiffPure needs diffusers; pip install "advpt[diffpure]"')
        adm.PUBLISHED.find(str(options["weights"]))

    def parameters(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in ("t", "sampler", "stride", "dtype", "size")}
        weights = {"weights": self.digest} | ({"reads": self.reads} if self.reads else {})
        return super().parameters() | options | weights

    def apply(self, pixels: Tensor, noise: SampleNoise | None) -> Tensor:
        noise = self.needed(noise)
        x = 2 * _resize(pixels, (self.size, self.size)) - 1
        if self.t:
            x = SAMPLERS[self.sampler](self._noise_in, diffuse(x, self.t, noise), self.t, noise, self.stride)
        return (_resize(x.clamp(-1, 1), (pixels.shape[-2], pixels.shape[-1])) + 1) / 2

    def _noise_in(self, x: Tensor, index: int) -> Tensor:
        """One network call; for a gradient its inner values are computed again instead of being kept."""
        with torch.autocast(x.device.type, DTYPES[self.dtype], enabled=self.dtype != "fp32"):
            if torch.is_grad_enabled() and x.requires_grad:
                out: Tensor = checkpoint(self.model, x, index, use_reentrant=False, preserve_rng_state=False)
            else:
                out = self.model(x, index)
        return out.float()


class UNet(nn.Module):
    """A diffusers UNet as a noise model."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, index: int) -> Tensor:
        return self.unet(x, index).sample


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if (x.shape[-2], x.shape[-1]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
