"""Image super-resolution as a defense (Mustafa et al., IEEE TIP 2020): wavelet denoising, then EDSR x2 and back down.

Profile ``advpt`` (default) is as AdvPT's code under this name: the wavelet stage alone, sigma 0.02. (Its paper says
0.2, which would blur images beyond recognition.) Profile ``mustafa``: sigma 0.01 in channel space, as scikit-image
counted it in 2019, then EDSR x2 rounded to 8 bit; the original's JPEG files are left out, and the image is scaled down
to CLIP's input size (bicubic, antialiased), where the original classifies at twice the size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from advpt.attacks.noise import SampleNoise
from advpt.defenses import edsr
from advpt.defenses.base import DEFENSES, Defense, Option
from advpt.defenses.wavelet import SIGMA_SPACES, denoise
from advpt.errors import DefenseError, unknown_name
from advpt.files import tensor_digest

NETWORKS = ("none", "edsr")


@DEFENSES.add
class SuperResolution(Defense):
    """Args: ``sigma`` of the wavelet stage (0: none), ``space`` it counts in (``rgb``, ``channel``); ``sr``:
    ``none`` or ``edsr``; ``weights``: a file in the weights folder for it ("": the published one)."""

    name = "super"
    summary = "wavelet denoising, and EDSR x2 in profile mustafa (Mustafa et al., TIP 2020)"
    profiles = {
        "advpt": {"sigma": 0.02, "space": "rgb", "sr": "none", "weights": ""},
        "mustafa": {"sigma": 0.01, "space": "channel", "sr": "edsr", "weights": ""},
    }

    def __init__(self, *, sigma: float = 0.02, space: str = "rgb", sr: str = "none", weights: str = "") -> None:
        self.check({"sigma": sigma, "space": space, "sr": sr, "weights": weights})
        self.sigma, self.space = float(sigma), space
        self.network: edsr.EDSR | None = None
        if sr == "edsr":
            self.use(edsr.from_state(edsr.PUBLISHED.read(weights), weights or edsr.PUBLISHED.name))

    def use(self, network: edsr.EDSR) -> SuperResolution:
        """Use this network for super-resolution."""
        self.network = network
        self.digest = tensor_digest(network.state_dict())
        self.gradient_note = "rounding to 8 bit passed straight through"
        return self

    @classmethod
    def check(cls, options: Mapping[str, Option]) -> None:
        if not 0 <= float(options["sigma"]) <= 1:
            raise DefenseError(f"sigma={options['sigma']}: expected 0 to 1, for pixels in [0, 1]")
        if options["space"] not in SIGMA_SPACES:
            raise DefenseError(unknown_name("sigma space", str(options["space"]), SIGMA_SPACES))
        if options["sr"] not in NETWORKS:
            raise DefenseError(unknown_name("super-resolution network", str(options["sr"]), NETWORKS))

    @classmethod
    def require(cls, options: Mapping[str, Option]) -> None:
        if options["sr"] == "edsr":
            edsr.PUBLISHED.find(str(options["weights"]))

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {
            "sigma": self.sigma,
            "space": self.space,
            "sr": {"network": "edsr-x2", "weights": self.digest} if self.network is not None else None,
        }

    def apply(self, pixels: Tensor, noise: SampleNoise | None) -> Tensor:
        if self.sigma:
            pixels = denoise(pixels, self.sigma, self.space)
        if self.network is None:
            return pixels
        large = self.network(pixels.clamp(0, 1)).clamp(0, 1)
        large = large + ((255 * large).round() / 255 - large).detach()
        return F.interpolate(large, pixels.shape[-2:], mode="bicubic", align_corners=False, antialias=True)
