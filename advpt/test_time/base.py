"""The contract of every test-time defense: it classifies images without their labels, keeps nothing between calls, and
names what an attacker who knows it can differentiate.

A new one is one file with ``@TEST_TIME.add`` and one import in ``advpt/test_time/__init__.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from advpt.attacks.noise import SampleNoise
from advpt.backbones.card import Card
from advpt.backbones.text_encoder import TextEncoder
from advpt.bank.defended_input import Encode
from advpt.data.views import generator_of
from advpt.errors import DefenseError
from advpt.prompts.classifier import Classifier
from advpt.prompts.learner import PromptLearner
from advpt.registry import Registry
from advpt.schema import JsonObject

_KERNEL_LOCK = threading.Lock()  # the choice of an attention kernel is global
OWN = "own"  # of Variant.gradient: the derivative of what is computed


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by the only kernel that has a second derivative."""
    with _KERNEL_LOCK, sdpa_kernel(SDPBackend.MATH):
        yield


@dataclass(frozen=True, eq=False)
class DefendedModel:
    """What a defense may know of the model behind it. The image encoder comes with every call.

    Args:
        classifier: the prompts that are defended: unit text features, logit scale, visual prompts.
        text: the text tower. classnames: in the order of the logits.
        card: of the whole CLIP, None where only parts of it are known.
        learner: the run's own tuned prompts, None where it has none.
        files: paths of the image files by image id, for views of clean images from the file.
    """

    classifier: Classifier
    text: TextEncoder
    classnames: tuple[str, ...]
    card: Card | None
    learner: PromptLearner | None = None
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """Passes per image: through the image tower, and through the text tower for all classes at once."""

    forward: float = 1
    backward: float = 0
    text_forward: float = 0
    text_backward: float = 0


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch: what an image draws depends on its key, the seed and the purpose alone.

    Args:
        keys: one text per image, its id, or a number that an attacker drew for it.
    """

    keys: tuple[str, ...]
    seed: int = 0

    @classmethod
    def of_attacker(cls, generator: torch.Generator, n: int) -> Draws:
        """New draws for each of ``n`` images, never those of an evaluation."""
        return cls(tuple(f"attacker {key}" for key in torch.randint(2**62, (n,), generator=generator).tolist()))

    def generators(self, purpose: str) -> list[torch.Generator]:
        """A generator on the CPU for each image."""
        return [generator_of(self.seed, purpose, key) for key in self.keys]

    def noise(self, purpose: str) -> SampleNoise:
        """Noise of the shape of the images."""
        return SampleNoise([f"{purpose} {key}" for key in self.keys], self.seed)


@dataclass(frozen=True, eq=False)
class Variant:
    """One way to differentiate a defense. Two variants with equal ``parameters`` make the same attacked images, so that
    several defenses can share them.

    Args:
        name: in records and tables, like ``frozen delta`` or ``mean of views``.
        logits: ``(encode, pixels [b, 3, h, w], draws)`` to logits ``[b, K]``, differentiable in the pixels, for any
            part of a batch. Without enabled gradients it gives the same values.
        parameters: everything that determines these logits, as JSON values: part of every bank's key.
        gradient: :data:`OWN`, or in words what it is instead.
        cost: of one pass.
        second_derivative: the logits differentiate through a gradient.
        mean_over: draws that one pass is a mean over; an attacker who takes means (EOT) takes as many fewer passes.
        draws: whether an attacker's draws change the logits. Without, means over them are of equal values.
        undefended: it goes through the model without the defense.
    """

    name: str
    logits: Callable[[Encode, Tensor, Draws], Tensor]
    parameters: JsonObject
    gradient: str = OWN
    cost: Cost = Cost()
    second_derivative: bool = False
    mean_over: int = 1
    draws: bool = True
    undefended: bool = False

    def __call__(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        """:attr:`logits`, with an attention that has the derivatives it needs."""
        if not (self.second_derivative and torch.is_grad_enabled()):
            return self.logits(encode, pixels, draws)
        with twice_differentiable():
            return self.logits(encode, pixels, draws)


class TestTimeDefense(ABC):
    """Classifies images in the place of the plain classifier. Subclasses write :meth:`classify`, :meth:`variants` and
    :meth:`cost`.

    Args:
        settings: a frozen dataclass of plain values, one of the class's ``profiles`` or like one.
        seed: of what the defense draws.
    """

    __test__ = False  # not one of pytest's
    name: ClassVar[str]
    version: ClassVar[int] = 1  # of the algorithm: part of every bank's key
    summary: ClassVar[str] = ""
    profiles: ClassVar[Mapping[str, Any]]  # settings by name; the first is the default, ``sound``
    uses_gradients: ClassVar[bool] = False  # a call differentiates the image encoder
    tunes_text: ClassVar[bool] = False  # it tunes the words that CLIP reads
    counts_votes: ClassVar[bool] = False  # its logits are counts, which two images may well have in common

    def __init__(self, model: DefendedModel, settings: Any, seed: int = 0) -> None:
        self.model, self.settings, self.seed = model, settings, seed

    @classmethod  # noqa: B027 - nothing to check is fine
    def check(cls, settings: Any) -> None:
        """Check the values of settings. Raises DefenseError."""

    @property
    def draws_noise(self) -> bool:
        """Whether two seeds give different logits."""
        return False

    @property
    def by_image(self) -> bool:
        """Whether an image's logits depend on that image alone, and not on those beside it."""
        return True

    @abstractmethod
    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        """Logits ``[b, K]``; called without enabled gradients. See :meth:`__call__`."""

    @abstractmethod
    def variants(self) -> tuple[Variant, ...]:
        """What an attacker may differentiate, the most direct one first; at least one."""

    @abstractmethod
    def cost(self) -> Cost:
        """Passes per image."""

    def parameters(self) -> dict[str, Any]:
        """Everything that determines an image's logits, as JSON values: part of every bank's key. Profiles count with
        their values, not their names."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self.settings).items()}
        return {
            "name": self.name,
            "version": self.version,
            "settings": values,
            **({"seed": self.seed} if self.draws_noise else {}),
            "text": self.model.classifier.digest,
            "gives": "logits",
        }

    @final
    @torch.no_grad()
    def __call__(self, pixels: Tensor, ids: Sequence[str], clean: bool, encode: Encode) -> Tensor:
        """Logits ``[b, K]`` of ``pixels [b, 3, h, w]`` in [0, 1].

        Args:
            ids: of the images; they seed what is drawn.
            clean: the pixels are those of the image files.
            encode: the image tower, pixels to embeddings ``[b, L]`` that are not normalised.

        Raises:
            DefenseError: a result of another shape, or not finite.
        """
        logits = self.classify(encode, pixels, Draws(tuple(ids), self.seed), clean)
        if logits.shape != (len(pixels), len(self.model.classifier.features)):
            raise DefenseError(f"{self.name} gave logits {list(logits.shape)} for {len(pixels)} images")
        if not bool(logits.isfinite().all()):
            raise DefenseError(f"{self.name} gave logits that are not finite; check its settings and the precision")
        return logits.detach()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings}, seed={self.seed})"


TEST_TIME: Registry[TestTimeDefense] = Registry("test-time defense")
