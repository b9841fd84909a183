"""Statistics banks: mean and variance of every token and channel at the input of every block of the image tower.

TAPT aligns an image's views to them (Wang et al., CVPR 2025): once for prompts that were tuned on attacked images and
once for cleanly tuned ones, both over *clean* training images. A bank of them is one shard in
``<BANK.DIR>/<dataset>/<backbone>/statistics/<key>``. Block l has its input after prompts were put in, so the rows of
prompts of deeper layers have the prompt itself as mean, and variance 0, unless a router makes them of each image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from advpt import additions
from advpt.backbones.backbone import Backbone
from advpt.backbones.mixture import Visual, prompts_per_layer
from advpt.bank import store
from advpt.bank.build import environment
from advpt.bank.spec import FORMAT, AdversarialSet, differences
from advpt.bank.store import MANIFEST, read_manifest, shard_name
from advpt.data import views
from advpt.data.images import ImageSet
from advpt.errors import BankError, BankMismatchError, ConfigError, unknown_name
from advpt.files import FileLock, digest
from advpt.progress import Bar
from advpt.prompts.image_encoder import visual_digest

log = logging.getLogger(__name__)

FOLDER, KIND, VERSION = "statistics", "token statistics", 1
FILE = shard_name(0)
CROPS = ("centre", "random")


class TokenStatistics:
    """Mean and variance of tensors that come in parts, all of one shape, as if they had come at once; float64 (Welford;
    Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.m2 = torch.zeros((), dtype=torch.float64)

    def update(self, part: Tensor) -> None:
        """Add ``part [n, ...]``."""
        part = part.double()
        count, mean = len(part), part.mean(0)
        total, gap = self.count + count, mean - self.mean
        self.m2 = self.m2 + (part - mean).square().sum(0) + gap.square() * (self.count * count / total)
        self.mean = self.mean + gap * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Over count - 1. Raises BankError for fewer than two images."""
        if self.count < 2:
            raise BankError(f"a variance needs at least 2 images; there are {self.count}")
        return self.m2 / (self.count - 1)


@dataclass(frozen=True, eq=False)
class Statistics:
    """``mean`` and ``variance``, ``[blocks, tokens, D_v]`` float32; ``count`` images; ``spec`` what determines them."""

    key: str
    mean: Tensor
    variance: Tensor
    count: int
    spec: Mapping[str, Any]

    def of(self, blocks: tuple[int, ...], device: torch.device | str = "cpu") -> list[tuple[Tensor, Tensor]]:
        """Mean and variance ``[tokens, D_v]`` of each of these blocks."""
        return [(self.mean[i].to(device), self.variance[i].to(device)) for i in blocks]


@dataclass(frozen=True)
class Source:
    """The images of statistics: whole (``centre``) or one random crop of each, drawn by ``seed``."""

    images: ImageSet
    crops: str = "centre"
    seed: int = 0
    chunk: int = 64

    def __post_init__(self) -> None:
        if self.crops not in CROPS:
            raise ConfigError(f"crops of statistics: {unknown_name('kind', self.crops, CROPS)}")

    def fields(self) -> dict[str, Any]:
        drawn, seed = self.crops == "random", self.seed if self.crops == "random" else None
        areas = {"scale": list(views.SCALE), "ratio": list(views.RATIO)} if drawn else {}
        clean = AdversarialSet(self.images, self.chunk, seed=seed)
        return {"adversarial_set": clean.fields(), "crops": {"kind": self.crops} | areas}

    def batches(self, workers: int = 0) -> Iterator[Tensor]:
        """Pixels ``[b, 3, h, w]`` in [0, 1], ``chunk`` at a time."""
        if self.crops == "centre":
            yield from (b.pixels for b in self.images.batches(range(len(self.images)), self.chunk, workers))
            return
        pixels = self.images.preprocessing
        for start in range(0, len(self.images), self.chunk):
            some = self.images.samples[start : start + self.chunk]
            draws = [views.generator_of(self.seed, "crop", sample.id) for sample in some]
            crops = [
                views.crops_of_file(Path(sample.path), pixels.size, 1, draw, pixels.interpolation)
                for sample, draw in zip(some, draws)
            ]
            yield torch.cat(crops)


def encoder_fields(backbone: Backbone, visual: Visual) -> dict[str, Any]:
    """The fields of whose statistics they are: weights and prompts ``[J, n, D_v]``, and the shape that follows."""
    card = backbone.card.image
    return {
        "encoder": {"image": backbone.image_digest, "visual_prompt": visual_digest(visual)},
        "blocks": card.blocks,
        "tokens": (card.tokens or 0) + prompts_per_layer(visual),
    }


def spec(backbone: Backbone, visual: Visual, source: Source) -> dict[str, Any]:
    """Everything that determines a bank, as JSON values; its SHA-256 is the key."""
    fields = {"format": FORMAT, "kind": KIND, "version": VERSION} | encoder_fields(backbone, visual) | source.fields()
    return additions.omit(fields, additions.BANK_FIELDS)


def folder_of(dataset_folder: Path, wanted: Mapping[str, Any]) -> Path:
    """The folder of a bank. ``dataset_folder``: of all banks of its data set and backbone."""
    return dataset_folder / FOLDER / digest(wanted)


@torch.no_grad()
def measure(backbone: Backbone, visual: Visual, source: Source, workers: int = 0) -> TokenStatistics:
    """Statistics ``[blocks, tokens, D_v]`` of the images in one pass."""
    backbone.require_preprocessing(source.images.preprocessing)
    statistics, encoder = TokenStatistics(), backbone.require_image()
    with Bar("statistics", len(source.images), "image") as bar:
        for pixels in source.batches(workers):
            hidden_states: list[Tensor] = []
            encoder.features(pixels.to(backbone.device), visual, hidden_states)
            statistics.update(torch.stack([x.cpu() for x in hidden_states], 1))
            bar.update(len(pixels))
    return statistics


def build(
    backbone: Backbone,
    visual: Visual,
    source: Source,
    dataset_folder: Path,
    about: Mapping[str, Any] = MappingProxyType({}),
    workers: int = 0,
) -> Statistics:
    """The bank from disk, or made now. ``about``: notes on its prompts for readers; not part of the key.

    Raises:
        BankError: it is there and damaged, or its numbers would not be finite.
    """
    wanted = spec(backbone, visual, source)
    folder = folder_of(dataset_folder, wanted)
    with FileLock(folder / ".lock", str(folder)):
        if (folder / MANIFEST).is_file():
            return open_statistics(folder, wanted)
        measured = measure(backbone, visual, source, workers)
        mean, variance, key = measured.mean.float(), measured.variance.float(), digest(wanted)
        if not (bool(mean.isfinite().all()) and bool(variance.isfinite().all())):
            raise BankError("statistics that are not finite; check the weights and the prompts. Nothing was written")
        store.write_tensors(folder / FILE, key, {"mean": mean, "variance": variance})
        made_with = environment(backbone.device, backbone.packages)
        store.write_manifest(folder, wanted, [measured.count], made_with, about=dict(about))
        log.info("bank     statistics of %d images: built %s", measured.count, key[:12])
        return Statistics(key, mean, variance, measured.count, wanted)


def is_statistics(manifest: Mapping[str, Any]) -> bool:
    return bool(manifest["spec"].get("kind") == KIND)


def open_statistics(folder: Path, wanted: Mapping[str, Any] | None = None) -> Statistics:
    """Read a bank and compare it with its checksums.

    Args:
        wanted: fields it must have; see :func:`spec` and :func:`encoder_fields`.

    Raises:
        BankMismatchError: it is of other prompts, weights or images; every differing field is named.
        BankError: missing or damaged.
    """
    manifest = read_manifest(folder)
    if not is_statistics(manifest):
        raise BankError(f"{folder} is a bank of embeddings; expected statistics (python -m advpt statistics RUN)")
    if wanted is not None:
        has = {name: manifest["spec"].get(name) for name in wanted}
        if lines := differences(has, wanted):
            raise BankMismatchError(f"the statistics in {folder} cannot be used\n  " + "\n  ".join(lines))
    again = f"delete {folder} and make it again: python -m advpt statistics RUN"
    if not manifest["shards"]:
        raise BankError(f"{folder} lists no file; expected {FILE}. {again[0].upper()}{again[1:]}")
    entry = manifest["shards"][0]
    store.verify_shard(folder / FILE, entry["sha256"], again)
    tensors, _ = store.read_tensors(folder / FILE, manifest["key"], again)
    if not {"mean", "variance"} <= tensors.keys():
        raise BankError(f"{folder / FILE} lacks mean or variance; {again}")
    return Statistics(manifest["key"], tensors["mean"], tensors["variance"], int(entry["rows"]), manifest["spec"])


def find(root: Path, backbone: Backbone, visual: Visual, crops: str = "centre") -> list[Path]:
    """Folders of all banks below ``root`` that are of these weights and prompts."""
    wanted, folders = encoder_fields(backbone, visual), []
    for path in sorted(root.glob(f"*/{backbone.folder}/{FOLDER}/*/{MANIFEST}")):
        try:
            made = read_manifest(path.parent)["spec"]
        except BankError as error:
            log.warning("not used: %s", error)
            continue
        if all(made.get(name) == value for name, value in wanted.items()) and made["crops"]["kind"] == crops:
            folders.append(path.parent)
    return folders
