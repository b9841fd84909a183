"""Models of full size with random weights, in the files in which such models are published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.helpers.hub import hub_repository
from tests.helpers.open_clip import build
from tests.helpers.tokenizer import write_tokenizer


@dataclass(frozen=True)
class Published:
    """A model as it is published.

    Args:
        architecture: open_clip's name of it.
        backbone: its short name for ``main.sh``, or one whose settings it takes with ``name`` in its place.
        name: ``MODEL.BACKBONE.NAME``; "" where the short name says it.
        repository: of the hub; "" where its weights are a file for ``WEIGHTS``.
        file: with the weights.
        configured: whether the repository has a configuration, which open_clip's own names do not read.
        tokens: whether its images have tokens, for visual prompts.
    """

    architecture: str
    backbone: str
    name: str = ""
    repository: str = ""
    file: str = "open_clip_model.safetensors"
    configured: bool = False
    tokens: bool = True

    @property
    def words(self) -> tuple[str, ...]:
        """Its settings on a command line."""
        return ("MODEL.BACKBONE.NAME", self.name) if self.name else ()

    def write(self, folder: Path) -> dict[str, str]:
        """Its files below a folder; the environment in which ``main.sh`` finds them."""
        import open_clip

        config = open_clip.get_model_config(self.architecture)
        made = folder / "made"
        made.mkdir(parents=True)
        _save(build(config).state_dict(), made / self.file)
        if not self.repository:
            return {"WEIGHTS": str(made / self.file)}
        if self.configured:  # as in repositories of RobustVLM
            config["quick_gelu"] = "TRUE" if config.get("quick_gelu") else "FALSE"
            (made / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        if "hf_tokenizer_name" in config["text_cfg"]:
            write_tokenizer(made)
        hub_repository(folder / "hub", self.repository, {path.name: path.read_bytes() for path in made.iterdir()})
        return {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}


PUBLISHED = {
    "ViT-B/16, a training checkpoint": Published("ViT-B-16", "laion_b16", file="epoch_32.pt"),
    "FARE, whole": Published(
        "ViT-L-14-quickgelu", "fare2_l14", repository="chs20/fare2-clip", file="open_clip_pytorch_model.bin",
        configured=True,
    ),
    "ResNet": Published(
        "RN50-quickgelu", "rn50", "open_clip:RN50/yfcc15m", "timm/resnet50_clip.yfcc15m", tokens=False,
    ),
    "ConvNeXt": Published(
        "convnext_base_w", "laion_b16", "open_clip:convnext_base_w/laion2b_s13b_b82k",
        "laion/CLIP-convnext_base_w-laion2B-s13B-b82K", "open_clip_pytorch_model.bin", tokens=False,
    ),
    "SigLIP": Published("ViT-B-16-SigLIP", "siglip_b16", repository="timm/ViT-B-16-SigLIP"),
}  # fmt: skip


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Tensors alone; in a ``.pt`` file as open_clip's training saves them."""
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    elif path.suffix == ".pt":
        tensors = {f"module.{name}": value for name, value in tensors.items()}
        torch.save({"epoch": 32, "name": path.stem, "state_dict": tensors}, path)
    else:
        torch.save(dict(tensors), path)
