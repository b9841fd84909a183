"""TAPT: tune the prompts on each test image, then classify it (Wang et al., CVPR 2025).

For every image: take the prompts as they were, look at seeded views of it, keep the least uncertain ones, make the
entropy of their mean prediction and the distance of their token statistics to two stored ones smaller by a step of
AdamW, and classify the image itself. Several images are tuned in one forward pass, each with prompts of its own (a
leading dimension S); only the chosen views have a graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt import losses
from advpt.backbones.backbone import ImageEncoder
from advpt.backbones.mixture import prompts_per_layer
from advpt.backbones.precision import half_precision
from advpt.backbones.text_encoder import TextEncoder
from advpt.data import views
from advpt.errors import PromptError
from advpt.files import tensor_digest
from advpt.prompts.adamw import BETAS, EPS, Values, descend, unroll, warn_not_finite
from advpt.prompts.adamw import DECAY as DECAY
from advpt.prompts.learner import PromptLearner, PromptState
from advpt.test_time.selection import choose as choose

VERSION = 1
IMAGES_AT_ONCE = {"cpu": 64, "cuda": 1024}  # of the pass without a graph; a processor's caches like them small
Reference = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TuningConfig:
    """Settings of test-time tuning.

    Args:
        resets: start values of the prompts: ``loaded`` the trained ones, ``constructed`` the released code's.
        reset_every: images after which the prompts start anew.
        views: views per image, itself among them.
        rho: share of the views that is kept, in (0, 1].
        steps, lr, decay: of AdamW.
        entropy_weight, alpha, align_weight, form: of the loss, see :func:`advpt.losses.tapt`.
        blocks: blocks whose inputs are aligned, counted from 0.
        variance: over the views, ``unbiased`` or ``biased``.
        crops: of the statistics' images, ``centre`` or ``random``.
        text: prompt of the layout without text prompts, ``plain`` or the ``dataset``'s.
        precision: ``fp32`` or ``amp``.
        source: views of clean images are cropped from the input ``tensor`` or from the ``file``.
        batch: images tuned together.
        seed: of the views.
        frozen: parts of a mixture that stay as they are: ``experts``, ``base``, ``gate``, ``tau``, ``alpha``.
    """

    resets: tuple[str, ...] = ("loaded",)
    reset_every: int = 1
    views: int = 64
    rho: float = 0.1
    steps: int = 1
    lr: float = 5e-4
    entropy_weight: float = 1.0
    alpha: float = 0.5
    align_weight: float = 1.0
    blocks: tuple[int, ...] = (0,)
    form: str = "mean"
    variance: str = "unbiased"
    crops: str = "centre"
    text: str = "plain"
    precision: str = "fp32"
    source: str = "tensor"
    batch: int = 8
    seed: int = 0
    decay: float = DECAY
    frozen: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        """The number of views that are kept."""
        return max(1, int(self.rho * self.views))


def released_reset(layout: str, loaded: Values, constructed: Values) -> Values:
    """The prompts that every image starts from in the released code: V forgets what was loaded, VLI all of it but the
    input text, VLJ nothing."""
    if layout == "visual":
        return constructed
    return constructed | {"ctx": loaded["ctx"]} if layout == "independent" else loaded


@dataclass(frozen=True, eq=False)
class PromptedCLIP:
    """A frozen CLIP with learned prompts.

    Args:
        learner: turns parameter values into prompts.
        fixed: text features ``[K, L]`` of unit length, for a layout without text prompts.
        scale: the logit scale.
    """

    image: ImageEncoder
    text: TextEncoder
    learner: PromptLearner
    fixed: Tensor
    scale: float

    def text_features(self, state: PromptState) -> Tensor:
        """Text features ``[K, L]`` or ``[S, K, L]`` of unit length."""
        return self.fixed if state.text is None else F.normalize(self.text(state.text).float(), dim=-1)

    def classify(self, values: Values, pixels: Tensor, hidden_states: list[Tensor] | None = None) -> Tensor:
        """:meth:`logits` under prompts of parameter values ``[S, ...]``."""
        state = self.learner(values)
        return self.logits(state, self.text_features(state), pixels, hidden_states)

    def logits(
        self, state: PromptState, text: Tensor, pixels: Tensor, hidden_states: list[Tensor] | None = None
    ) -> Tensor:
        """``[S, v, K]`` float32 of ``pixels [S, v, 3, h, w]``; ``hidden_states``: of ``ImageEncoder.features``."""
        features = self.image.features(pixels.flatten(0, 1), state.visual, hidden_states).float()
        features = F.normalize(features, dim=-1).unflatten(0, pixels.shape[:2])
        with torch.autocast(pixels.device.type, enabled=False):  # logits are float32 whatever the encoders computed in
            return self.scale * features @ text.transpose(-1, -2)


@dataclass(eq=False)
class Tuner:
    """Tunes prompts on images and classifies them.

    A pure function: it changes neither the learner nor ``start``, and an image's logits depend on its pixels, its id
    and the seed alone (with ``reset_every`` above 1 also on the images before it).

    Args:
        start: prompt values by parameter name, shared by all images.
        adversarial, clean: mean and variance ``[T, D_v]`` for each of the aligned blocks.
        files: paths by image id, for views of clean images from the file.
        extra_key: further entries of :meth:`parameters`.
        not_finite: ids of images whose gradient was not finite; they are classified with the prompts they had.

    Raises:
        PromptError: statistics of other tokens than the model has.
    """

    model: PromptedCLIP
    start: Mapping[str, Tensor]
    config: TuningConfig
    adversarial: Reference
    clean: Reference
    name: str = "tapt"
    files: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    extra_key: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    not_finite: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = {name: value.detach().clone() for name, value in self.start.items()}
        with torch.no_grad(), half_precision(self.config.precision, self.model.fixed.device):
            self._state = self.model.learner(self.start)
            self._text = self.model.text_features(self._state)
        if self._state.visual is None:
            raise PromptError(
                f"layout {self.model.learner.layout} has no prompts in the image, which {self.name} tunes"
            )
        tokens = (self.model.image.card.tokens or 0) + prompts_per_layer(self._state.visual)
        for bank in (self.adversarial, self.clean):
            if any(len(mean) != tokens for mean, _ in bank):
                raise PromptError(f"statistics of {len(bank[0][0])} tokens; this model has {tokens}")

    def parameters(self) -> dict[str, Any]:
        """Everything that determines an image's logits, as JSON values: part of every bank's key."""
        config = dataclasses.asdict(self.config) | {"betas": BETAS, "eps": EPS}
        for name in ("resets", "crops", *(() if self.config.frozen else ("frozen",))):
            del config[name]
        banks = {
            f"{kind}.{part}": torch.stack([pair[i] for pair in bank])
            for kind, bank in (("adversarial", self.adversarial), ("clean", self.clean))
            for i, part in enumerate(("mean", "variance"))
            if bank
        }
        return {
            "name": self.name,
            "version": VERSION,
            "how": {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()},
            "start": tensor_digest(self.start),
            "text": tensor_digest({"text": self._text, "scale": torch.tensor(self.model.scale)}),
            "statistics": tensor_digest(banks),
            "gives": "logits",
            **self.extra_key,
        }

    @property
    def at_start(self) -> tuple[PromptState, Tensor]:
        """The prompts that images start from, and their text features ``[K, L]`` of unit length."""
        return self._state, self._text

    @property
    def by_image(self) -> bool:
        """Whether the prompts start anew for every image."""
        return self.config.reset_every == 1 or not self.config.steps

    def __call__(
        self, pixels: Tensor, ids: Sequence[str], clean: bool = False, encode: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Logits ``[b, K]`` of ``pixels [b, 3, h, w]`` under prompts tuned on each. Images in the order of ``ids`` form
        chains of ``reset_every``, whose prompts go on from image to image; a batch of chains is tuned together.

        Args:
            clean: the pixels are those of the image files.
            encode: not used: the encoder must take prompts of each image's own.
        """
        if not self.config.steps:
            return self.untuned(pixels)
        n, every, batch = len(ids), self.config.reset_every, self.config.batch
        chains = [range(first, min(first + every, n)) for first in range(0, n, every)]
        logits: dict[int, Tensor] = {}
        for i in range(0, len(chains), batch):
            values: Values | None = None
            for turn in range(every):
                rows = [chain[turn] for chain in chains[i : i + batch] if turn < len(chain)]
                if not rows:
                    break
                if values is not None:  # without the last chain, once it has ended
                    values = {name: value[: len(rows)] for name, value in values.items()}
                elif every == 1:  # batches of one size: an image's bits do not depend on the images beside it
                    rows += rows[-1:] * (batch - len(rows))
                names, own = [ids[row] for row in rows], pixels[rows]
                values = self.tune(self.views(own, names, clean), values, names)
                logits |= zip(rows, self.predict(values, own))
        return torch.stack([logits[row] for row in range(n)])

    def views(self, pixels: Tensor, ids: Sequence[str], clean: bool = False, seed: int | None = None) -> Tensor:
        """The views ``[S, views, 3, h, w]`` of images, themselves first. ``seed``: in place of the setting's."""
        n, seed = self.config.views, self.config.seed if seed is None else seed
        if not clean or self.config.source == "tensor" or n == 1:
            return views.views(pixels, ids, n, seed)
        size, crops = (pixels.shape[-2], pixels.shape[-1]), []
        for name in ids:
            generator = views.generator_of(seed, "views", name)
            crops.append(views.crops_of_file(self.files[name], size, n - 1, generator, "bilinear"))
        return torch.cat([pixels[:, None], torch.stack(crops).to(pixels)], 1)

    @torch.no_grad()
    def untuned(self, pixels: Tensor) -> Tensor:
        """Logits ``[b, K]`` under the prompts at the start."""
        return self.model.logits(self._state, self._text, pixels[None])[0]

    @torch.no_grad()
    def predict(self, values: Values, pixels: Tensor) -> Tensor:
        """Logits ``[S, K]`` of ``pixels [S, 3, h, w]``, each under its own values."""
        with half_precision(self.config.precision, pixels.device):
            return self.attackable(values, pixels)

    def tune(self, views: Tensor, values: Values | None = None, ids: Sequence[str] = ()) -> Values:
        """Values ``[S, ...]`` after all steps on ``views [S, views, 3, h, w]``, from ``values`` or the start."""
        kept = self.kept_views(views, values)
        old = values or self.untouched(len(views))
        config = self.config
        now, broken = descend(
            self.moving(old), lambda at: self.loss(old | at, kept)[0], config.steps, config.lr, config.decay
        )
        self.not_finite.extend(warn_not_finite(broken, ids))
        return old | now

    def moving(self, values: Values) -> Values:
        """The values that are tuned."""
        frozen = tuple(f"{tower}_{part}" for tower in ("ctx", "visual") for part in self.config.frozen)
        return {name: value for name, value in values.items() if not name.startswith(frozen)}

    def loss(self, values: Values, kept: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss ``[S]`` of every sample and its parts, on chosen views ``kept [S, v, 3, h, w]``."""
        config, hidden_states = self.config, list[Tensor]()
        with half_precision(config.precision, kept.device):
            logits = self.model.classify(values, kept, hidden_states)
        tokens = [hidden_states[i].float().unflatten(0, kept.shape[:2]) for i in config.blocks]
        return losses.tapt(
            logits,
            tokens,
            self.adversarial if config.alpha > 0 else _none(tokens),
            self.clean if config.alpha < 1 else _none(tokens),
            alpha=config.alpha,
            align_weight=config.align_weight,
            entropy_weight=config.entropy_weight,
            form=config.form,
            unbiased=config.variance == "unbiased",
        )

    def kept_views(self, views: Tensor, values: Values | None) -> Tensor:
        """The views ``[S, kept, 3, h, w]`` of lowest entropy, chosen once for all steps and both losses."""
        with torch.no_grad(), half_precision(self.config.precision, views.device):
            if values is not None:
                logits = self.model.classify(values, views)
            else:  # all images have the same prompts: one set of text features
                images = max(1, IMAGES_AT_ONCE.get(views.device.type, 64) // views.shape[1])
                parts = [self.model.logits(self._state, self._text, part) for part in views.split(images)]
                logits = torch.cat(parts)
        rows = choose(logits, self.config.kept)
        return views.gather(1, rows[:, :, None, None, None].expand(-1, -1, *views.shape[2:]))

    def untouched(self, n: int) -> Values:
        """The start values, repeated for each of ``n`` images."""
        return {name: value.expand(n, *value.shape) for name, value in self.start.items()}

    def attackable(self, values: Values, pixels: Tensor) -> Tensor:
        """Logits ``[b, K]`` under values ``[b, ...]``, differentiable in the pixels; float32."""
        return self.model.classify(values, pixels[:, None])[:, 0]

    def unrolled(self, pixels: Tensor, ids: Sequence[str], seed: int) -> Tensor:
        """Logits ``[b, K]`` as :meth:`__call__` gives them with views drawn by ``seed``, differentiable in the pixels
        through views, gradients and steps, as :func:`advpt.prompts.adamw.unroll` has it. Every image starts anew.
        """
        if not torch.is_grad_enabled():
            tuned = self.tune(self.views(pixels, ids, seed=seed), ids=ids) if self.config.steps else None
            return self.predict(tuned or self.untouched(len(ids)), pixels)
        kept = self.kept_views(self.views(pixels, ids, seed=seed), None) if self.config.steps else pixels
        start, config = self.untouched(len(ids)), self.config
        now = unroll(
            self.moving(start), lambda at: self.loss(start | at, kept)[0], config.steps, config.lr, config.decay
        )
        return self.attackable(start | now, pixels)


def _none(tokens: Sequence[Tensor]) -> Reference:
    """Placeholder statistics for a term with weight 0."""
    return [(x.new_zeros(x.shape[-2:]), x.new_zeros(x.shape[-2:])) for x in tokens]
