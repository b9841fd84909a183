"""A frozen model of images and texts: what the rest of the library knows of a CLIP, whatever code and file it is of."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advpt.backbones import extras
from advpt.backbones.card import JSON, Card, ImageCard, digest_of_tower
from advpt.backbones.mixture import Visual, VisualMixture
from advpt.backbones.text_encoder import TextEncoder
from advpt.backbones.tokenizers import Bpe, Tokenizer
from advpt.backbones.towers import ClipWalk, Walk, walk_of
from advpt.data.images import Preprocessing
from advpt.errors import DataError, PromptError, WeightsError

# The prompts [b, n, D_v] of a block, or what makes them of its other tokens [b, T, D_v] behind its first norm.
Layer = Tensor | Callable[[Tensor], Tensor]


class ImageEncoder(nn.Module):
    """Pixels ``[b, 3, h, w]`` float32 in [0, 1] to projected, not normalised embeddings ``[b, L]`` float32.

    The channel normalisation is inside; nothing outside ever sees normalised pixels. A frozen vision transformer leaves
    out what its feature is not read from (:mod:`advpt.backbones.towers`): the same numbers.

    Args:
        visual: the image tower. card: what it is.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, visual: nn.Module, card: ImageCard) -> None:
        super().__init__()
        self.visual, self.card = visual, card
        self.register_buffer("mean", torch.tensor(card.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(card.std)[:, None, None], persistent=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """The channel normalisation; one copy of the pixels."""
        return (pixels - self.mean).div_(self.std)

    def forward(self, pixels: Tensor) -> Tensor:
        walk = None if any(weight.requires_grad for weight in self.visual.parameters()) else self._walk()
        normalised = self.normalise(pixels)
        return self.visual(normalised) if walk is None else _through(walk, walk.embed(normalised, wide=False))

    def features(
        self, pixels: Tensor, visual: Visual | None = None, hidden_states: list[Tensor] | None = None
    ) -> Tensor:
        """Features ``[b, L]`` with prompts among the tokens. Without prompts those of a call, bit by bit.

        The first prompts stand behind the patches, after the positional embedding (they get none) and before the first
        norm; those of deeper layers take the same last positions at the input of their block (Khattak et al., CVPR
        2023; Jia et al., ECCV 2022). They are no part of what the feature is pooled from.

        Args:
            visual: prompts ``[J, n, D_v]`` of blocks 0 .. J - 1, or ``[S, J, n, D_v]`` where b is a multiple of S: the
                first b / S images have the first prompts, and so on. Or what makes them of the block's input.
            hidden_states: a list that gets one tensor ``[b, tokens, D_v]`` for each block, its input after prompts were
                put in.

        Raises:
            PromptError: the image encoder has no tokens, or images cannot be shared out among S prompts.
        """
        if visual is None and hidden_states is None:
            return self(pixels)
        walk = self._walk()
        if walk is None:
            raise PromptError(no_tokens("this model", self.card))
        x = walk.embed(self.normalise(pixels), wide=True)
        return _through(walk, x, _of_each_image(visual, x.shape[0]) if visual is not None else None, hidden_states)

    def tokens(self, pixels: Tensor) -> Tensor:
        """All tokens ``[b, 1 + P, L]`` behind the last norm and the projection, differentiable in pixels and weights:
        the class token, which is the feature of a call (to 1e-6: products of other shapes), and the P patches row by
        row.

        Raises:
            PromptError: the feature of this tower is not that of a class token.
        """
        require_class_token("this model", self.card)
        walk = ClipWalk(self.visual, self.card)
        x = walk.enter(walk.embed(self.normalise(pixels), wide=True))
        for block in walk.blocks:
            x = walk.step(block, x, last=False)
        return walk.project(x)

    def _walk(self) -> Walk | None:
        return walk_of(self.visual, self.card)


def no_tokens(name: str, card: ImageCard) -> str:
    """Why ``name`` has no visual prompts, as a sentence."""
    return (
        f"visual prompts are tokens of a vision transformer; {name}'s image encoder is a {card.family} and has none: "
        "use LAYOUT text or text_deep"
    )


def require_class_token(name: str, card: ImageCard) -> None:
    """Refuse an image tower whose tokens cannot go the way of its feature; ``name`` is the model's.

    Raises:
        PromptError: what the tower is, and what to use.
    """
    if not card.reads_class_token:
        raise PromptError(
            "attention maps are made of tokens that go through the last norm and the projection as the class token "
            f"does; {name}'s image encoder is a {card.family} without such tokens (code: {card.kind}, pooling: "
            f"{card.pool or 'its own'}); use a vision transformer of OpenAI's kind, such as ViT-B/32"
        )


def _through(
    walk: Walk,
    x: Tensor,
    prompts: tuple[Tensor, Sequence[Layer]] | None = None,
    hidden_states: list[Tensor] | None = None,
) -> Tensor:
    """Features of tokens ``x``, with prompts of the input layer and of those behind it."""
    first, deeper = prompts or (x[:, :0], ())
    n, blocks = first.shape[1], list(walk.blocks)
    x = walk.enter(torch.cat([x, first], 1))
    for i, block in enumerate(blocks):
        if 0 < i <= len(deeper):
            x, own = x[:, : x.shape[1] - n], deeper[i - 1]
            x = torch.cat([x, own if isinstance(own, Tensor) else own(walk.norm(block, x))], 1)
        if hidden_states is not None:
            hidden_states.append(x)
        x = walk.step(block, x, last=i + 1 == len(blocks))
    return walk.finish(x, n)


def _of_each_image(visual: Visual, images: int) -> tuple[Tensor, Sequence[Layer]]:
    """The prompts ``[b, n, D_v]`` of the input layer of every image, and those of the layers behind it."""
    if isinstance(visual, VisualMixture):
        deeper = [functools.partial(visual.deeper.prompts, layer) for layer in range(1, visual.deeper.layers + 1)]
        return _repeat(visual.first, 2, images), deeper
    first, *behind = _repeat(visual, 3, images).unbind(1)
    return first, behind


def _repeat(part: Tensor, dims: int, images: int) -> Tensor:
    """``part``, of ``dims`` dimensions or with a leading one of S samples, for each of the images."""
    if part.dim() == dims:
        return part.unsqueeze(0).expand(images, *part.shape)
    if images % len(part):
        raise PromptError(f"{images} images cannot be shared out evenly among the prompts of {len(part)} samples")
    return part.repeat_interleave(images // len(part), 0)


class Backbone:
    """A frozen CLIP: both encoders, the tokenizer, and the hashes of both towers.

    Args:
        card: what the model is. model: its module, of OpenAI's code or open_clip's.
        tokenizer: of its texts; None: OpenAI's.
        source: where the tensors came from, as JSON values for records; None: OpenAI's file, or a file of one's own.
    """

    concurrent: ClassVar[bool] = True  # False: one batch at a time, whatever the device has room for

    def __init__(
        self,
        card: Card,
        model: Any,
        device: torch.device | str = "cpu",
        tokenizer: Tokenizer | None = None,
        source: Mapping[str, JSON] | None = None,
    ) -> None:
        self.card, self.name, self.device, self.source = card, card.name, torch.device(device), source
        self.model = model.float().eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer or Bpe(card.text)
        self.image: ImageEncoder | None = ImageEncoder(model.visual, card.image).to(device).eval()
        self.text = TextEncoder(getattr(model, "text", model), card.text, self.tokenizer).eval()
        self.logit_scale = float(model.logit_scale.exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = None if bias is None else float(bias)  # of SigLIP's probabilities
        # where an image tower that is not the CLIP's own, or the one that it was tuned from, came from, for records
        self.image_file: dict[str, str] | None = None

    @functools.cached_property
    def image_digest(self) -> str:
        """SHA-256 of the image tower: of its tensors, and of how they are read where OpenAI's code reads otherwise."""
        if self.image is None:
            raise WeightsError("the image encoder was released before its hash was taken; load the backbone again")
        return digest_of_tower(self.image.visual.state_dict(), self.card.image)

    @functools.cached_property
    def text_digest(self) -> str:
        """SHA-256 of the text tower (token table, transformer, projection, logit scale), as :attr:`image_digest`."""
        state = self.model.state_dict()
        return digest_of_tower({k: v for k, v in state.items() if not k.startswith("visual.")}, self.card.text)

    @property
    def reads(self) -> dict[str, JSON] | None:
        """How both towers are read, for records; None where it is as OpenAI's code reads them."""
        image, text = self.card.image.read_otherwise(), self.card.text.read_otherwise()
        return {"image": image, "text": text} if image or text else None

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages, of those that come with an extra, whose code the model is of."""
        roots = {type(module).__module__.partition(".")[0] for module in self.model.modules()}
        return tuple(sorted(roots & extras.EXTRA_OF.keys()))

    @property
    def folder(self) -> str:
        """The name as a folder name: ``ViT-B/16`` is ``ViT-B-16``."""
        return re.sub(r"[^A-Za-z0-9_.@-]+", "-", self.name)

    def require_image(self) -> ImageEncoder:
        """The image encoder; a WeightsError when it has been released."""
        if self.image is None:
            raise WeightsError("the image encoder was released; load the backbone again to see images")
        return self.image

    def require_size(self, size: Sequence[int]) -> None:
        """Refuse images of another size than this CLIP's. ``size``: height and width in pixels.

        Raises:
            DataError: naming both sizes.
        """
        if tuple(size) != self.card.image.size:
            h, w = self.card.image.size
            raise DataError(
                f'INPUT.SIZE is {tuple(size)}, but {self.name} reads {h} x {w} pixels; set INPUT.SIZE "({h},{w})"'
            )

    def require_preprocessing(self, preprocessing: Preprocessing) -> None:
        """Refuse pictures of another size, or that are cropped where this model was trained on whole ones. (The
        interpolation may differ on purpose: the profile ``released`` has one of its own.)

        Raises:
            DataError: naming the settings to give.
        """
        self.require_size(preprocessing.size)
        image = self.card.image
        if preprocessing.resize != image.resize:
            raise DataError(
                f"INPUT.RESIZE is {preprocessing.resize}, but {self.name} was trained on other pixels; set INPUT.SIZE "
                f'"({image.size[0]},{image.size[1]})" INPUT.INTERPOLATION {image.interpolation} INPUT.RESIZE '
                f"{image.resize}"
            )

    def release_image_encoder(self) -> None:
        """Free the memory of the image tower; its hash is kept."""
        _ = self.image_digest
        self.image = None
        self.model.visual = None

    def copy(self) -> Backbone:
        """The same model with tensors of its own, frozen as they are now, and hashes of those."""
        made = Backbone(self.card, copy.deepcopy(self.model), self.device, self.tokenizer, self.source)
        made.image_file = self.image_file
        return made
