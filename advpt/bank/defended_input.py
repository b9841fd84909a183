"""How images are seen: through which chain of defenses and draws, by the encoder and by an attacker who knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from advpt.attacks.noise import SampleNoise
from advpt.defenses.chain import Chain

Encode = Callable[[Tensor], Tensor]


class Reader(Protocol):
    """What classifies images one by one, each in its own way, in the place of an encoder: test-time tuning."""

    @property
    def by_image(self) -> bool:
        """Whether an image's logits depend on that image alone, and not on those before and beside it."""

    def __call__(self, pixels: Tensor, ids: Sequence[str], clean: bool) -> Tensor:
        """Logits ``[b, K]`` of ``pixels [b, 3, h, w]``; ``clean``: they are those of the image files."""

    def parameters(self) -> dict[str, Any]:
        """Everything that determines the logits, as JSON values."""


class AdaptiveTarget(Protocol):
    """What an adaptive attacker differentiates before or in the place of the encoder."""

    @property
    def by_image(self) -> bool:
        """Whether what it makes of an image depends on that image alone, and not on the others of its batch."""

    def encoder(self, encode: Encode, ids: Sequence[str], seed: int, clean: Tensor) -> Encode:
        """Pixels to what the attacked prompt reads; ``clean [b, 3, h, w]``: these images as they are."""

    def parameters(self) -> dict[str, Any]:
        """For the bank's key."""


@dataclass(frozen=True, eq=False)
class DefendedInput:
    """A chain of defenses, None for the plain image, and the ``seed`` of its draws (None where it draws nothing).
    ``reader``: who looks in the place of the encoder; the bank then holds its logits."""

    chain: Chain | None = None
    seed: int | None = None
    reader: Reader | None = None

    def __call__(self, pixels: Tensor, ids: Sequence[str]) -> Tensor:
        """Defended pixels; what an image draws depends on its id and the seed alone, never on the attack's draws."""
        if self.chain is None:
            return pixels
        return self.chain(pixels, SampleNoise([f"defense {name}" for name in ids], self.seed or 0))

    def parameters(self) -> tuple[Mapping[str, Any], ...]:
        """For the bank's key."""
        own = (self.reader.parameters(),) if self.reader is not None else ()
        return (*(self.chain.parameters(self.seed) if self.chain is not None else ()), *own)

    @property
    def by_image(self) -> bool:
        """Whether what is seen of an image depends on that image alone."""
        return self.reader is None or self.reader.by_image

    @property
    def plain(self) -> bool:
        """Whether it is the encoder that looks, and at the image as it is."""
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
    """What an adaptive attacker differentiates: the chain, straight through its stages where they have no gradient or
    ``bpda`` asks for it. Every forward pass draws anew, and none of it is what the evaluation draws."""

    chain: Chain
    bpda: bool = False

    @property
    def by_image(self) -> bool:
        return True

    def encoder(self, encode: Encode, ids: Sequence[str], seed: int, clean: Tensor | None = None) -> Encode:
        """Pixels to embeddings of defended images. A part of the batch, as some attacks pass it on, draws from a
        generator of the whole batch."""
        noise = SampleNoise([f"attacker {name}" for name in ids], seed)
        rest = torch.Generator().manual_seed(noise.batch_seed)

        def forward(pixels: Tensor) -> Tensor:
            draws = noise if len(pixels) == len(noise) else rest
            return encode(self.chain.attackable(pixels, draws, bpda=self.bpda))

        return forward

    def parameters(self) -> dict[str, Any]:
        """For the bank's key."""
        return {"stages": self.chain.parameters(), "gradient": self.chain.gradients(self.bpda)}
