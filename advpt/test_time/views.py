"""Views of images and their embeddings, which all methods over several views share: one pass of the image tower without
a graph serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advpt.bank.defended_input import CachedForward, Encode
from advpt.data import views as crops
from advpt.data.augmix import augmix, eight_bits
from advpt.errors import DefenseError
from advpt.test_time.base import OWN, Cost, DefendedModel, Draws, Variant
from advpt.test_time.selection import log_mean_probability

ATTACKED_VIEWS = 8  # beside the image itself, in every pass of an attacker
AT_ONCE = {"cpu": 64, "cuda": 1024}  # views in one pass; a processor's caches like them small
VERSION = 1
STRAIGHT = "straight through operations on 8-bit pictures"
AUGMIX = ("off", "all")
SOURCES = ("tensor", "file")
EIGHT_BITS = ("off", "floor", "round")


@dataclass(frozen=True)
class ViewSettings:
    """Settings of every method over views.

    Args:
        views: number of views, the image itself among them; the others are crops, half of them flipped.
        augmix: ``off``, or ``all`` for AugMix on every crop.
        source: clean images are cropped from the input ``tensor`` or from the ``file`` at full resolution; attacked
            images are always cropped from the tensor.
        eight_bits: ``off``, or attacked images become pictures of 8 bits before anything else: ``round`` to the
            nearest level, ``floor`` to the one below, as releases that save them do.
    """

    views: int = 64
    augmix: str = "off"
    source: str = "tensor"
    eight_bits: str = "off"


def check(settings: ViewSettings) -> None:
    """Check the values of settings. Raises DefenseError."""
    if settings.views < 1:
        raise DefenseError(f"views is {settings.views}; expected 1 or more, the image itself among them")
    for option, words in (("augmix", AUGMIX), ("source", SOURCES), ("eight_bits", EIGHT_BITS)):
        if (value := getattr(settings, option)) not in words:
            raise DefenseError(f"{option} is {value!r}; expected {' or '.join(words)}")


def view_pixels(
    pixels: Tensor,
    draws: Draws,
    settings: ViewSettings,
    clean: bool = False,
    files: Mapping[str, Path] | None = None,
    first: int = 0,
) -> Tensor:
    """``[b, V - first, 3, h, w]``: the views of ``pixels [b, 3, h, w]`` from number ``first`` on; number 0 is the image
    itself. Differentiable in the pixels, where they are not those of files.

    Fewer views of the same draws are the first ones of more.

    Args:
        clean: the pixels are those of the image files.
        files: paths of the image files by image id, for views from the file.

    Raises:
        DefenseError: the file of an image is not known. DataError: it cannot be read.
    """
    n, size = settings.views - 1, pixels.shape[-2:]
    pixels = _input(pixels, settings, clean)
    generators = draws.generators("views")
    if n == 0:
        drawn = pixels.new_zeros(len(pixels), 0, *pixels.shape[1:])
    elif clean and settings.source == "file":
        paths = _paths(draws.keys, files or {})
        drawn = torch.stack([
            crops.crops_of_file(path, (size[0], size[1]), n, generator, "bilinear", crops.draw_more)
            for path, generator in zip(paths, generators)
        ]).to(pixels)  # fmt: skip
        drawn = drawn[:, max(first - 1, 0) :]
    else:
        boxes = [crops.draw_more(size[0], size[1], n, generator) for generator in generators]
        boxes = [crops.Boxes(each.place[max(first - 1, 0) :], each.flipped[max(first - 1, 0) :]) for each in boxes]
        drawn = crops.crops(pixels, boxes)
    if settings.augmix == "all" and n:
        drawn = augmix(drawn, draws.generators("augmix"), skip=max(first - 1, 0))
    return torch.cat([pixels[:, None], drawn], 1) if first == 0 else drawn


def _input(pixels: Tensor, settings: ViewSettings, clean: bool) -> Tensor:
    """The images that views are made of."""
    if clean or settings.eight_bits == "off":
        return pixels
    return eight_bits(pixels, floor=settings.eight_bits == "floor")


def _paths(keys: Sequence[str], files: Mapping[str, Path]) -> list[Path]:
    if missing := [key for key in keys if key not in files]:
        raise DefenseError(
            f"the file of image {missing[0]!r} is not known, and views come from the file; use source=tensor"
        )
    return [files[key] for key in keys]


@dataclass
class _Computed:
    """Embeddings ``[b, n, L]`` of the first views of images."""

    keys: tuple[str, ...]
    pixels: Tensor
    embeddings: Tensor
    version: int = field(init=False)

    def __post_init__(self) -> None:
        self.version = self.pixels._version

    def of(self, keys: tuple[str, ...], pixels: Tensor) -> bool:
        """Whether they are those of these images, and the pixels were not written into since."""
        if self.keys != keys or self.pixels._version != self.version:
            return False
        return self.pixels is pixels or (self.pixels.dtype == pixels.dtype and torch.equal(self.pixels, pixels))


@torch.no_grad()
def view_features(
    encode: Encode,
    pixels: Tensor,
    draws: Draws,
    settings: ViewSettings,
    clean: bool = False,
    files: Mapping[str, Path] | None = None,
) -> Tensor:
    """Embeddings ``[b, V, L]`` of the views of ``pixels [b, 3, h, w]``, not normalised, without a graph; the image's
    own come first. Arguments and errors are those of :func:`view_pixels`.

    Where ``encode`` is a :class:`~advpt.bank.defended_input.CachedForward`, what another defense computed of the same
    views is used again, and only further ones are computed.
    """
    shared: dict[str, Any] = encode.shared if isinstance(encode, CachedForward) else {}
    source, bits = (settings.source, "off") if clean else ("tensor", settings.eight_bits)
    pixels = _input(pixels, settings, clean)
    key = f"views, seed {draws.seed}, augmix {settings.augmix}, source {source}, eight bits {bits}"
    known = shared.get(key)
    if not isinstance(known, _Computed) or not known.of(draws.keys, pixels):
        known = _Computed(draws.keys, pixels, _own(encode, shared, pixels, bits)[:, None])
    if (have := known.embeddings.shape[1]) < settings.views:
        more = _embed_views(encode, pixels, draws, settings, clean, files, have)
        known = _Computed(draws.keys, pixels, torch.cat([known.embeddings, more], 1))
    shared[key] = known
    return known.embeddings[:, : settings.views]


def _own(encode: Encode, shared: dict[str, Any], pixels: Tensor, bits: str = "off") -> Tensor:
    """Embeddings ``[b, L]`` of the images themselves, whatever their views."""
    known = shared.get(key := f"images, eight bits {bits}")
    if not isinstance(known, _Computed) or not known.of((), pixels):
        known = shared[key] = _Computed((), pixels, _precise(encode(pixels)))
    return known.embeddings


@torch.no_grad()
def image_features(encode: Encode, pixels: Tensor) -> Tensor:
    """Embeddings ``[b, L]`` of ``pixels [b, 3, h, w]`` themselves, not normalised, without a graph; shared as those of
    :func:`view_features`."""
    return _own(encode, encode.shared if isinstance(encode, CachedForward) else {}, pixels)


def _embed_views(
    encode: Encode,
    pixels: Tensor,
    draws: Draws,
    settings: ViewSettings,
    clean: bool,
    files: Mapping[str, Path] | None,
    first: int,
) -> Tensor:
    """Embeddings ``[b, V - first, L]``, of a few images at once."""
    parts, images = [], max(1, AT_ONCE.get(pixels.device.type, 64) // (settings.views - first))
    for start in range(0, len(pixels), images):
        some = Draws(draws.keys[start : start + images], draws.seed)
        made = view_pixels(pixels[start : start + images], some, settings, clean, files, first)
        parts.append(embed(encode, made))
    return torch.cat(parts)


def embed(encode: Encode, views: Tensor) -> Tensor:
    """Embeddings ``[b, n, L]`` of ``views [b, n, 3, h, w]`` in one pass, not normalised; nothing of it is cached."""
    if isinstance(encode, CachedForward):
        encode = encode.encode
    return _precise(encode(views.flatten(0, 1))).unflatten(0, views.shape[:2])


def _precise(embeddings: Tensor) -> Tensor:
    """In float32 or float64."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def through_views(
    model: DefendedModel, name: str, rule: Callable[[Tensor], Tensor], settings: ViewSettings, **values: Any
) -> Variant:
    """The variant that differentiates a rule over the image and fresh views of it.

    Args:
        rule: embeddings ``[b, V, L]`` to logits ``[b, K]``, differentiable; the image's own embedding comes first.
        settings: how the views are made, always of the tensor.
        values: the numbers that the rule depends on, besides the text.
    """

    def logits(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        return rule(embed(encode, view_pixels(pixels, draws, settings)))

    parameters: dict[str, Any] = {
        "name": name,
        "version": VERSION,
        "views": settings.views,
        "augmix": settings.augmix,
        "eight bits": settings.eight_bits,
        "text": model.classifier.digest,
        **values,
    }
    gradient = OWN if settings.augmix == settings.eight_bits == "off" else STRAIGHT
    others, cost = settings.views - 1, Cost(settings.views, settings.views)
    return Variant(name, logits, parameters, gradient, cost, mean_over=max(1, others), draws=others > 0)


def mean_of_views(
    model: DefendedModel, views: int = ATTACKED_VIEWS, augmix: str = "off", eight_bits: str = "off"
) -> Variant:
    """What an attacker of any method over views differentiates: the mean prediction over the image and ``views`` fresh
    views of it. Equal for all methods of the same model, so that they share its attacks.

    Args:
        augmix, eight_bits: of the attacked method's :class:`ViewSettings`.
    """

    def rule(embeddings: Tensor) -> Tensor:
        return log_mean_probability(logits_of_views(model, embeddings))

    settings = ViewSettings(views + 1, augmix, eight_bits=eight_bits)
    return through_views(model, "mean of views", rule, settings)


def logits_of_views(model: DefendedModel, embeddings: Tensor) -> Tensor:
    """Logits ``[b, V, K]`` of embeddings ``[b, V, L]``."""
    return model.classifier.logits(embeddings.flatten(0, 1)).unflatten(0, embeddings.shape[:2])
