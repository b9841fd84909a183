"""Images behind defenses, as a bank's encoder gets them and as an adaptive attacker differentiates them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from advpt.attacks.noise import SampleNoise
from advpt.attacks.spec import AttackSpec
from advpt.defenses.chain import Chain

Encode = Callable[[Tensor], Tensor]


class CachedForward:
    """An encoder that caches its last pass without gradients: attacks begin with the pass that gives ``clean_correct``,
    and end with the one that the bank needs.

    Attributes:
        shared: what one reader computed and others of the same batch can use, by a key of theirs.
    """

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self.shared: dict[str, Any] = {}
        self._last: tuple[Tensor, int, Tensor] | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.encode(pixels)
        if self._last is not None:
            before, version, output = self._last
            if before._version == version and torch.equal(before, pixels):  # not written into since
                return output
            self._last = None
        output = self.encode(pixels)
        self._last = pixels, pixels._version, output
        return output


class Reader(Protocol):
    """Classifies images in the place of an encoder: a defense at test time."""

    @property
    def by_image(self) -> bool:
        """Whether an image's logits depend on that image alone, and not on those before it or in its batch."""

    def __call__(self, pixels: Tensor, ids: Sequence[str], clean: bool, encode: Encode) -> Tensor:
        """Logits ``[b, K]`` of ``pixels [b, 3, h, w]``; ``clean``: the pixels are those of the image files;
        ``encode``: the bank's encoder."""

    def parameters(self) -> dict[str, Any]:
        """Everything that determines the logits, as JSON values."""


class AdaptiveTarget(Protocol):
    """What an adaptive attacker differentiates besides the encoder: a defense, or tuning at test time."""

    @property
    def gives_logits(self) -> bool:
        """Whether the attacked model gives logits, so that no classifier follows."""

    @property
    def by_image(self) -> bool:
        """Whether an image's output depends on that image alone, and not on the others of its batch."""

    @property
    def start(self) -> AttackSpec | None:
        """The attack on the undefended model whose images the attack starts from; None for its own start."""

    def encoder(self, encode: Encode, ids: Sequence[str], seed: int, clean: Tensor) -> Encode:
        """The attacked model, pixels to embeddings or logits; ``clean [b, 3, h, w]``: the images before the attack."""

    def parameters(self) -> dict[str, Any]:
        """The part of a bank's key."""


@dataclass(frozen=True, eq=False)
class DefendedInput:
    """The input of a bank: images behind a chain of defenses.

    Args:
        chain: None for the image as it is.
        seed: of the chain's random draws, None where it draws nothing.
        reader: classifies in the place of the encoder; the bank then holds its logits.
    """

    chain: Chain | None = None
    seed: int | None = None
    reader: Reader | None = None

    def __call__(self, pixels: Tensor, ids: Sequence[str]) -> Tensor:
        """Defended pixels; an image's random draws depend on its id and the seed alone, never on the attack's draws."""
        if self.chain is None:
            return pixels
        return self.chain(pixels, SampleNoise([f"defense {name}" for name in ids], self.seed or 0))

    def parameters(self) -> tuple[Mapping[str, Any], ...]:
        """The part of a bank's key."""
        stages = self.chain.parameters(self.seed) if self.chain is not None else []
        return (*stages, *([self.reader.parameters()] if self.reader is not None else []))

    @property
    def draw_seed(self) -> int | None:
        """The seed of what is drawn here, None where nothing is."""
        return self.seed if self.seed is not None else getattr(self.reader, "seed", None)

    @property
    def by_image(self) -> bool:
        """Whether a row of the bank depends on its image alone."""
        return self.reader is None or self.reader.by_image

    @property
    def plain(self) -> bool:
        """Whether the encoder gets the image as it is."""
        return self.chain is None and self.reader is None

    def __str__(self) -> str:
        if self.reader is not None:
            return str(self.reader.parameters()["name"])
        if self.chain is None:
            return "no defense"
        return self.chain.text + (f" (seed {self.seed})" if self.seed is not None else "")


UNDEFENDED = DefendedInput()


@dataclass(frozen=True, eq=False)
class DefenseAwareForward:
    """A chain of defenses with the gradient that an adaptive attacker follows. Every forward pass has new random draws,
    none of them the evaluation's.

    Args:
        bpda: use the identity's gradient for every stage that is not affine, not only for those without a gradient.
    """

    chain: Chain
    bpda: bool = False
    gives_logits: ClassVar[bool] = False
    by_image: ClassVar[bool] = True
    start: ClassVar[None] = None

    def encoder(self, encode: Encode, ids: Sequence[str], seed: int, clean: Tensor | None = None) -> Encode:
        """Pixels to embeddings of defended images. A part of the batch, which some attacks pass, draws from a generator
        of the whole batch."""
        noise = SampleNoise([f"attacker {name}" for name in ids], seed)
        batch_generator = torch.Generator().manual_seed(noise.batch_seed)

        def forward(pixels: Tensor) -> Tensor:
            generator = noise if len(pixels) == len(noise) else batch_generator
            return encode(self.chain.attackable(pixels, generator, bpda=self.bpda))

        return forward

    def parameters(self) -> dict[str, Any]:
        """The part of a bank's key."""
        return {"stages": self.chain.parameters(), "gradient": self.chain.gradients(self.bpda)}
