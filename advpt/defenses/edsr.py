"""EDSR-baseline x2 (Lim et al., CVPR Workshops 2017): 16 residual blocks of 64 features, no normalisation.

Written from the paper and the parameter names of the published file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advpt.defenses.weights import WeightFile
from advpt.errors import WeightsError

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K
PUBLISHED = WeightFile(
    "edsr_baseline_x2-1bc95232.pt",
    "https://cv.snu.ac.kr/research/EDSR/models/edsr_baseline_x2-1bc95232.pt",
    "1bc95232",  # the file's name ends with the beginning of its SHA-256
)


class ResidualBlock(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(features, features, 3, padding=1) for _ in range(2)]
        self.body = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class EDSR(nn.Module):
    """``[b, 3, h, w]`` in [0, 1] to ``[b, 3, 2h, 2w]``, not clipped (the network itself works in 0 to 255)."""

    def __init__(self, blocks: int = 16, features: int = 64) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, features, 3, padding=1))
        last = nn.Conv2d(features, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)), last)
        double = nn.Sequential(nn.Conv2d(features, 4 * features, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Sequential(double, nn.Conv2d(features, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.new_tensor(MEAN)[:, None, None]
        x = self.head(255 * (x - mean))
        return self.tail(x + self.body(x)) / 255 + mean


def from_state(state: dict[str, Tensor], source: str) -> EDSR:
    """A frozen EDSR of the size that the tensors have, loaded strictly.

    The published file also holds the mean shift as two fixed 1 x 1 convolutions; they must say what :data:`MEAN` says.

    Raises:
        WeightsError: tensors missing, unexpected, of another shape, or another mean.
    """
    state = dict(state)
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        weight, bias = state.pop(f"{name}.weight", None), state.pop(f"{name}.bias", None)
        if weight is None and bias is None:
            continue
        same = weight is not None and bias is not None and weight.shape == (3, 3, 1, 1) and bias.shape == (3,)
        if same and weight is not None and bias is not None:
            same = torch.allclose(weight[:, :, 0, 0].float(), torch.eye(3), atol=1e-5)
            same = same and torch.allclose(bias.float(), sign * 255 * torch.tensor(MEAN), atol=1e-2)
        if not same:
            raise WeightsError(f"{source}: {name} is not EDSR's mean shift {MEAN}; this is another network")
    blocks = len({name.split(".")[1] for name in state if name.startswith("body.") and ".body." in name})
    head = state.get("head.0.weight")
    if head is None or not blocks:
        raise WeightsError(f"{source} does not hold an EDSR: head.0.weight or the residual blocks are missing")
    with torch.random.fork_rng(devices=[]):
        model = EDSR(blocks, head.shape[0])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{source} does not fit EDSR x2: {error}") from error
    return model.float().eval().requires_grad_(False)
