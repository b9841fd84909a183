"""The network that a transfer attack goes through in CLIP's place: the attacker's own, trained on the same classes.

``resnet50`` is torchvision's ResNet-50 with the weights IMAGENET1K_V1; on ImageNet's 1,000 classes with its own head,
on any other data set with a linear head fitted to the pooled features of the training images (AdamW 1e-3, cosine, 90
epochs, as AdvPT's code fine-tunes; on features it takes seconds). ``small-cnn`` is a stand-in for tests and DemoCLIP:
four convolutions trained on the training images. Trained weights are cached under a key of all that determines them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from advpt.checkpoints import load_safetensors, read_state_dict
from advpt.data.images import ImageSet
from advpt.errors import AttackError, ConfigError, WeightsError
from advpt.files import atomic_path, digest, file_digest, network_timeout, tensor_digest
from advpt.settings import SurrogateSettings

log = logging.getLogger(__name__)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, not CLIP's
URL = "https://download.pytorch.org/models/resnet50-0676ba61.pth"  # IMAGENET1K_V1, torchvision's old `pretrained=True`
SHA = "0676ba61"  # the first digits of its SHA-256
OFFICIAL_CLASSES = 1000
SMALL_SIDE = 64  # pixels: the training images of the stand-in are kept in memory
VERSION = 1  # of the two recipes below


@dataclass(frozen=True)
class Recipe:
    """AdamW with a cosine schedule to zero; ``batch`` images a step, in an order drawn from ``seed``."""

    lr: float
    weight_decay: float
    epochs: int
    batch: int
    seed: int = 0


HEAD = Recipe(lr=1e-3, weight_decay=0.01, epochs=90, batch=200)
SMALL = Recipe(lr=3e-3, weight_decay=0.01, epochs=15, batch=64)


class Surrogate(nn.Module):
    """Pixels ``[b, 3, h, w]`` in [0, 1] to logits ``[b, K]``; frozen, in evaluation mode, normalisation inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, body: nn.Module, head: nn.Linear, about: str) -> None:
        super().__init__()
        self.name, self.about, self.body, self.head = name, about, body, head
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])
        self.eval().requires_grad_(False)

    def features(self, pixels: Tensor) -> Tensor:
        """``[b, F]`` pooled features."""
        return self.body((pixels - self.mean) / self.std)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))

    @property
    def classes(self) -> int:
        return self.head.out_features

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of body, head and normalisation: the attacked network in a bank's key."""
        return tensor_digest(self.state_dict())

    def facts(self) -> dict[str, Any]:
        """The network's name, origin and digest, for a record."""
        return {"network": self.name, "about": self.about, "digest": self.digest}


def load_surrogate(
    settings: SurrogateSettings, train: ImageSet, folder: Path, device: torch.device | str = "cpu", chunk: int = 64
) -> Surrogate:
    """The attacker's network for the classes of ``train``, from ``folder`` or trained now on these images.

    Raises:
        WeightsError: weights that are missing, damaged or of another network. AttackError: no training images.
    """
    if settings.network == "small-cnn":
        return _small(settings, train, folder, device)
    import torchvision  # a second to import

    state = read_resnet(settings.weights)
    network = torchvision.models.resnet50()
    _load(network, state, settings.weights or URL)
    head, network.fc = network.fc, nn.Identity()
    about = f"torchvision ResNet-50, {'weights from a file' if settings.weights else 'IMAGENET1K_V1'}"
    if train.dataset.startswith("ImageNet") and len(train.classnames) == OFFICIAL_CLASSES:
        return Surrogate("resnet50", network, head, f"{about}, its own head").to(device)
    headless = Surrogate("resnet50", network, head, "").to(device)
    key_fields = {"body": tensor_digest(network.state_dict()), **_key_fields("resnet50", train, HEAD)}

    def fit() -> dict[str, Tensor]:
        features, labels = _training_images(train, chunk, lambda pixels: headless.features(pixels.to(device)))
        return fit_linear(features, labels, len(train.classnames), HEAD)

    state = read_or_make(folder, key_fields, fit)
    fitted = nn.Linear(head.in_features, len(train.classnames))
    _load(fitted, state, str(folder))
    about += f", linear head fitted to {len(train)} training images"
    return Surrogate("resnet50", network, fitted, about).to(device)


def read_resnet(path: str = "") -> dict[str, Tensor]:
    """ResNet-50's state dict from a file, or torchvision's (cached where torch.hub keeps its files).

    Raises:
        WeightsError: naming the file, its address and its SHA-256.
    """
    target = Path(path).expanduser() if path else Path(torch.hub.get_dir(), "checkpoints", URL.rsplit("/", 1)[-1])
    if path and not target.is_file():
        raise WeightsError(f"EVAL.SURROGATE_WEIGHTS names {target}, and there is no such file")
    if not path and (not target.is_file() or not file_digest(target).startswith(SHA)):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with network_timeout():
                torch.hub.download_url_to_file(URL, str(target), hash_prefix=SHA, progress=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise WeightsError(
                f"the surrogate ResNet-50 is needed; {target} is missing or damaged, and downloading failed: {error}. "
                f"Fetch {URL} on a machine with a network and put it there (its SHA-256 starts with {SHA}), or name "
                "another file with EVAL.SURROGATE_WEIGHTS"
            ) from error
    return read_state_dict(target, "weights of a ResNet-50")


def small_cnn(classes: int) -> tuple[nn.Module, nn.Linear]:
    """Body and head of the stand-in: four 3 x 3 convolutions with batch norm, three of them halving the resolution."""
    layers: list[nn.Module] = []
    width = 3
    for wider, stride in ((16, 1), (32, 2), (64, 2), (64, 2)):
        layers += [nn.Conv2d(width, wider, 3, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
        width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(width, classes)


def fit_linear(features: Tensor, labels: Tensor, classes: int, recipe: Recipe) -> dict[str, Tensor]:
    """Weight ``[K, F]`` and bias ``[K]`` of a linear layer fitted to ``features [n, F]`` by cross-entropy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        layer = nn.Linear(features.shape[1], classes).to(features.device)
    return _fit(layer, features, labels.to(features.device), recipe)


def _fit(network: nn.Module, inputs: Tensor, labels: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """Train a network by cross-entropy; returns its state dict, on the CPU."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    order = torch.Generator().manual_seed(recipe.seed)
    with torch.enable_grad():
        for _ in range(recipe.epochs):
            for rows in torch.randperm(len(inputs), generator=order).split(recipe.batch):
                loss = F.cross_entropy(network(inputs[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def _small(settings: SurrogateSettings, train: ImageSet, folder: Path, device: torch.device | str) -> Surrogate:
    if settings.weights:
        raise ConfigError("EVAL.SURROGATE_WEIGHTS is for resnet50; small-cnn is trained on the data set's images")
    if max(train.preprocessing.size) > SMALL_SIDE:
        raise ConfigError(f"EVAL.SURROGATE small-cnn is for images of at most {SMALL_SIDE} pixels; use resnet50")
    about = f"a small CNN trained on {len(train)} training images: a stand-in for a ResNet-50"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SMALL.seed)
        network = Surrogate("small-cnn", *small_cnn(len(train.classnames)), about)

    def fit() -> dict[str, Tensor]:
        pixels, labels = _training_images(train, 256, lambda pixels: pixels)
        network.to(device).requires_grad_(True).train()
        return _fit(network, pixels.to(device), labels.to(device), SMALL)

    state = read_or_make(folder, _key_fields("small-cnn", train, SMALL), fit)
    _load(network, state, str(folder))
    return network.to(device).eval().requires_grad_(False)


def _key_fields(network: str, train: ImageSet, recipe: Recipe) -> dict[str, Any]:
    return {
        "version": VERSION,
        "network": network,
        "images": train.list_digest,
        "classnames": list(train.classnames),
        "preprocessing": train.preprocessing,
        "recipe": recipe,
    }


def read_or_make(folder: Path, key_fields: dict[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from ``folder``, or made now and kept there."""
    path = folder / f"{digest(key_fields)}.safetensors"
    if not path.is_file():
        log.info("surrogate %s: training it", key_fields["network"])
        state = make()
        with atomic_path(path) as partial:
            save_file(state, partial)
    try:
        return load_safetensors(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged ({error}); delete it, and it is made again") from error


def _load(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise WeightsError(f"{source} does not hold the weights of {type(network).__name__}: {first}") from error


def _training_images(train: ImageSet, chunk: int, embed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """``embed`` of the pixels of all training images, and their labels ``[n]``."""
    if not len(train):
        raise AttackError(
            f"{train.dataset} has no training images to fit a surrogate to; use a network with its own head"
        )
    embedded, labels = zip(*((embed(batch.pixels), batch.labels) for batch in train.batches(range(len(train)), chunk)))
    return torch.cat(embedded), torch.cat(labels)
