"""TAPT: tune the prompts on each test image, then classify it (Wang et al., CVPR 2025).

For every image: take the prompts as they were, look at seeded views of it, keep the least uncertain ones, make the
entropy of their mean prediction and the distance of their token statistics to two stored ones smaller by a step of
AdamW, and classify the image itself. Nothing is kept from one image to the next, unless ``reset_every`` says so.

Several images are tuned in one forward pass, each with prompts of its own (a leading dimension S). The pass that
chooses among all views has no graph and, as long as all images have the same prompts, one set of text features; only
the chosen views have a graph.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from advpt import losses
from advpt.backbones.clip import ImageEncoder
from advpt.backbones.precision import half_precision
from advpt.data import views
from advpt.errors import ConfigError, PromptError, unknown_name
from advpt.files import tensor_digest
from advpt.prompts.image_encoder import image_features
from advpt.prompts.learner import PromptLearner, PromptState
from advpt.prompts.text_encoder import TextEncoder
from advpt.settings import ContextSettings

log = logging.getLogger(__name__)

VERSION = 1
RESETS = ("loaded", "constructed")
VARIANCES, TEXTS, SOURCES, PRECISIONS = (
    ("unbiased", "biased"),
    ("plain", "dataset"),
    ("tensor", "file"),
    ("fp32", "amp"),
)
BETAS, EPS, DECAY = (0.9, 0.999), 1e-8, 0.01  # of AdamW, PyTorch's defaults
IMAGES_AT_ONCE = {"cpu": 64, "cuda": 1024}  # of the pass without a graph; a processor's caches like them small
Values = dict[str, Tensor]
Reference = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Profile:
    """What a profile says where a setting is left open. ``align_weight``: ``depth`` is 100 / prompted layers,
    ``blocks`` 1 / aligned blocks."""

    resets: tuple[str, ...]
    blocks: str  # all, prompted, or but-last: the prompted ones without the last (the released code's slip)
    form: str
    align_weight: str
    variance: str
    crops: str
    text: str
    precision: str
    source: str


PROFILES = {
    "sound": Profile(("loaded",), "prompted", "mean", "depth", "unbiased", "centre", "plain", "fp32", "tensor"),
    "paper": Profile(("loaded",), "all", "norm", "blocks", "unbiased", "centre", "dataset", "fp32", "tensor"),
    "released": Profile(("constructed",), "but-last", "mean", "depth", "biased", "random", "plain", "amp", "file"),
}


@dataclass(frozen=True)
class TuningConfig:
    """How an image is tuned on.

    resets: what prompts start from: ``loaded`` the trained ones, ``constructed`` what the released code restores.
    reset_every: images after which they do. views, rho: how many views, the image among them, and which part is kept.
    blocks: whose inputs are aligned, counted from 0. align_weight: of the sum over them. variance: over the views.
    crops: of the statistics. text: of the layout without text prompts. source: what views of clean images are cropped
    from. batch: images in one forward pass. seed: of the views.
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

    @classmethod
    def from_cfg(cls, node: CfgNode, context: ContextSettings, layers: int | None) -> TuningConfig:
        """From ``TRAINER.TAPT``. ``layers``: blocks of the image tower, None where it is not known yet.

        Raises:
            ConfigError: a value, or values together, that make no sense.
        """
        for name, known in (("PROFILE", tuple(PROFILES)), ("ALIGN_FORM", losses.ALIGN_FORMS), ("VARIANCE", VARIANCES),
                            ("TEXT", TEXTS), ("VIEWS_FROM", SOURCES), ("TUNE_PREC", PRECISIONS),
                            ("STATISTICS_CROPS", ("centre", "random"))):  # fmt: skip
            _known(name, node[name], known)
        for reset in node.RESET_SOURCE:
            _known("RESET_SOURCE", reset, RESETS)
        bounds = (
            ("VIEWS", node.VIEWS >= 1), ("RHO", 0 < node.RHO <= 1), ("STEPS", node.STEPS >= 0), ("LR", node.LR > 0),
            ("RESET_EVERY", node.RESET_EVERY >= 1), ("BATCH", node.BATCH >= 1), ("ALPHA", 0 <= node.ALPHA <= 1),
            ("ENTROPY_W", node.ENTROPY_W >= 0),
        )  # fmt: skip
        if wrong := [f"{name} {node[name]}" for name, right in bounds if not right]:
            raise ConfigError(
                f"TRAINER.TAPT: {', '.join(wrong)} makes no sense; VIEWS, BATCH and RESET_EVERY are at least 1, STEPS "
                "at least 0, LR above 0, RHO in (0, 1], ALPHA in [0, 1], ENTROPY_W at least 0"
            )
        profile, depth = PROFILES[node.PROFILE], context.depth_vision
        ranges = {"all": layers or depth, "prompted": depth, "but-last": max(1, depth - 1)}
        blocks = tuple(node.BLOCKS) or tuple(range(ranges[profile.blocks]))
        if any(not isinstance(i, int) or i < 0 or (layers and i >= layers) for i in blocks):
            raise ConfigError(
                f"TRAINER.TAPT.BLOCKS is {blocks}; blocks are counted from 0"
                + (f", and the image tower has {layers}" if layers else "")
            )
        weight = 100 / depth if profile.align_weight == "depth" else 1 / len(blocks)
        return cls(
            resets=tuple(node.RESET_SOURCE) or profile.resets,
            reset_every=node.RESET_EVERY,
            views=node.VIEWS,
            rho=node.RHO,
            steps=node.STEPS,
            lr=node.LR,
            entropy_weight=node.ENTROPY_W,
            alpha=node.ALPHA,
            align_weight=weight if node.ALIGN_W < 0 else node.ALIGN_W,
            blocks=blocks,
            form=node.ALIGN_FORM or profile.form,
            variance=node.VARIANCE or profile.variance,
            crops=node.STATISTICS_CROPS or profile.crops,
            text=node.TEXT or profile.text,
            precision=node.TUNE_PREC or profile.precision,
            source=node.VIEWS_FROM or profile.source,
            batch=node.BATCH,
            seed=node.SEED,
        )

    @property
    def kept(self) -> int:
        """How many views are kept."""
        return max(1, int(self.rho * self.views))


def _known(name: str, value: str, known: Sequence[str]) -> None:
    if value and value not in known:
        raise ConfigError(f"TRAINER.TAPT.{name}: {unknown_name('value', value, known)}")


# What the released code's reset forgets to take from the checkpoint: all of V, all but the input text of VLI, none of
# VLJ. (Its construction-time values come back instead.)
FORGOTTEN: dict[str, Callable[[str], bool]] = {
    "visual": lambda name: True,
    "independent": lambda name: name != "ctx",
    "t2v": lambda name: False,
}


def released_reset(layout: str, loaded: Mapping[str, Tensor], constructed: Mapping[str, Tensor]) -> Values:
    """Prompts that the released code starts every image from."""
    forgets = FORGOTTEN.get(layout, lambda name: False)
    return {name: constructed[name] if forgets(name) else value for name, value in loaded.items()}


def choose(logits: Tensor, kept: int) -> Tensor:
    """``[S, kept]`` views of lowest entropy, of logits ``[S, views, K]``; the earlier one of equals."""
    log_p = logits.float().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return entropy.argsort(dim=-1, stable=True)[:, :kept]


@dataclass(frozen=True, eq=False)
class PromptedCLIP:
    """A frozen CLIP with learned prompts: ``learner`` says how prompts are made of values, ``fixed [K, L]`` are text
    features of unit length for a layout without text prompts."""

    image: ImageEncoder
    text: TextEncoder
    learner: PromptLearner
    fixed: Tensor
    scale: float

    def text_features(self, state: PromptState) -> Tensor:
        """``[K, L]`` or ``[S, K, L]`` of unit length."""
        return self.fixed if state.text is None else F.normalize(self.text(state.text).float(), dim=-1)

    def logits(
        self, state: PromptState, text: Tensor, pixels: Tensor, hidden_states: list[Tensor] | None = None
    ) -> Tensor:
        """``[S, v, K]`` float32 of ``pixels [S, v, 3, h, w]``; ``hidden_states``: as of :func:`image_features`."""
        features = image_features(self.image, pixels.flatten(0, 1), state.visual, hidden_states).float()
        features = F.normalize(features, dim=-1).unflatten(0, pixels.shape[:2])
        with torch.autocast(pixels.device.type, enabled=False):  # logits are float32 whatever the encoders computed in
            return self.scale * features @ text.transpose(-1, -2)


@dataclass(eq=False)
class Tuner:
    """Tunes ``start`` (prompt values by parameter name, shared by all images) on images and classifies them.

    It is a function: it changes neither the learner nor ``start``, and an image's logits depend on its pixels, its id
    and the seed alone. ``adversarial`` and ``clean``: mean and variance ``[T, D_v]`` for each of the aligned blocks.
    ``files``: where images lie, for views of clean images from the file. ``not_finite``: ids of images whose gradient
    was not finite; they are classified with the prompts they had.

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
    extra_key: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # more for the key
    not_finite: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = {name: value.detach().clone() for name, value in self.start.items()}
        with torch.no_grad(), half_precision(self.config.precision, self.model.fixed.device):
            self._state = self.model.learner(self.start)
            self._text = self.model.text_features(self._state)
        if self._state.visual is None:
            raise PromptError(f"layout {self.model.learner.layout} has no prompts in the image, which TAPT tunes")
        tower: Any = self.model.image.visual
        tokens = len(tower.positional_embedding) + self._state.visual.shape[1]
        for bank in (self.adversarial, self.clean):
            if any(len(mean) != tokens for mean, _ in bank):
                raise PromptError(f"statistics of {len(bank[0][0])} tokens; this model has {tokens}")

    def parameters(self) -> dict[str, Any]:
        """Everything that determines what it does to an image, as JSON values: part of every bank's key."""
        config = dataclasses.asdict(self.config) | {"betas": BETAS, "eps": EPS, "decay": DECAY}
        del config["resets"], config["crops"]
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

    # --- the evaluation -----------------------------------------------------------------------------------------

    @property
    def by_image(self) -> bool:
        """Whether no image's prompts go on from another's."""
        return self.config.reset_every == 1 or not self.config.steps

    def __call__(self, pixels: Tensor, ids: Sequence[str], clean: bool = False) -> Tensor:
        """Logits ``[b, K]`` of ``pixels [b, 3, h, w]`` under prompts tuned on each. ``clean``: these are the pixels of
        the files. Images in the order of ``ids`` share prompts within every ``reset_every`` of them."""
        if not self.config.steps:
            return self.untuned(pixels)
        found: list[Tensor | None] = [None] * len(ids)
        for rows, values in self._turns(len(ids)):
            if self.config.reset_every == 1:
                # batches of one size: an image's bits do not depend on the images beside it
                rows = rows + rows[-1:] * (self.config.batch - len(rows))
            names = [ids[i] for i in rows]
            some = pixels[list(rows)]
            tuned = self.tune(self.views(some, names, clean), values.get("now"), names)
            values["now"] = tuned
            for row, logits in zip(rows, self.predict(tuned, some)):
                found[row] = logits
        return torch.stack([logits for logits in found if logits is not None])

    def _turns(self, n: int) -> Iterator[tuple[list[int], dict[str, Values]]]:
        """Rows that are tuned together, and the box that their prompts go on in: chains of ``reset_every`` images, a
        batch of them side by side."""
        every = self.config.reset_every
        chains = [range(first, min(first + every, n)) for first in range(0, n, every)]
        for i in range(0, len(chains), self.config.batch):
            together, box = chains[i : i + self.config.batch], dict[str, Values]()
            for turn in range(len(together[0])):
                rows = [chain[turn] for chain in together if turn < len(chain)]
                if "now" in box and len(rows) < len(together):  # the last chain is shorter
                    box["now"] = {name: value[: len(rows)] for name, value in box["now"].items()}
                yield rows, box

    def views(self, pixels: Tensor, ids: Sequence[str], clean: bool = False, seed: int | None = None) -> Tensor:
        """``[S, views, 3, h, w]``, the images themselves first. ``seed``: in place of the setting's."""
        n, seed = self.config.views, self.config.seed if seed is None else seed
        if not clean or self.config.source == "tensor" or n == 1:
            return views.views(pixels, ids, n, seed)
        size, found = (pixels.shape[-2], pixels.shape[-1]), []
        for name in ids:
            draws = views.generator_of(seed, "views", name)
            found.append(views.crops_of_file(self.files[name], size, n - 1, draws, "bilinear"))
        return torch.cat([pixels[:, None], torch.stack(found).to(pixels)], 1)

    @torch.no_grad()
    def untuned(self, pixels: Tensor) -> Tensor:
        """Logits ``[b, K]`` of the prompts as they are at the start."""
        return self.model.logits(self._state, self._text, pixels[None])[0]

    @torch.no_grad()
    def predict(self, values: Values, pixels: Tensor) -> Tensor:
        """Logits ``[S, K]`` of ``pixels [S, 3, h, w]``, each under its own values."""
        with half_precision(self.config.precision, pixels.device):
            state = self.model.learner(values)
            return self.model.logits(state, self.model.text_features(state), pixels[:, None])[:, 0]

    # --- tuning -------------------------------------------------------------------------------------------------

    def tune(self, seen: Tensor, values: Values | None = None, ids: Sequence[str] = ()) -> Values:
        """Values ``[S, ...]`` after all steps on views ``seen [S, views, 3, h, w]``, from ``values`` or the start."""
        kept = self._kept(seen, values)
        old = values or self.untouched(len(seen))
        now = {name: value.detach().clone().requires_grad_() for name, value in old.items()}
        optimizer = torch.optim.AdamW(now.values(), lr=self.config.lr, betas=BETAS, eps=EPS, weight_decay=DECAY)
        broken = torch.zeros(len(seen), dtype=torch.bool, device=seen.device)
        with torch.enable_grad():
            for _ in range(self.config.steps):
                optimizer.zero_grad()
                self.loss(now, kept)[0].sum().backward()
                broken |= _not_finite(now)
                optimizer.step()
        if bool(broken.any()):
            self._note([name for name, bad in zip(ids, broken.tolist()) if bad])
            now = {name: _instead(broken, old[name], value) for name, value in now.items()}
        return {name: value.detach() for name, value in now.items()}

    def loss(self, values: Values, kept: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss ``[S]`` of every sample and its parts, on chosen views ``kept [S, v, 3, h, w]``."""
        config, hidden_states = self.config, list[Tensor]()
        with half_precision(config.precision, kept.device):
            state = self.model.learner(values)
            logits = self.model.logits(state, self.model.text_features(state), kept, hidden_states)
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

    def _kept(self, seen: Tensor, values: Values | None) -> Tensor:
        """``[S, kept, 3, h, w]`` of the views, chosen once for all steps and both losses."""
        with torch.no_grad():
            rows = choose(self._of_all_views(seen, values), self.config.kept)
        return seen.gather(1, rows[:, :, None, None, None].expand(-1, -1, *seen.shape[2:]))

    def _of_all_views(self, seen: Tensor, values: Values | None) -> Tensor:
        with half_precision(self.config.precision, seen.device):
            if values is not None:
                state = self.model.learner(values)
                return self.model.logits(state, self.model.text_features(state), seen)
            some = max(1, IMAGES_AT_ONCE.get(seen.device.type, 64) // seen.shape[1])
            return torch.cat([self.model.logits(self._state, self._text, part) for part in seen.split(some)])

    def _note(self, ids: Sequence[str]) -> None:
        with _COUNTING:
            self.not_finite.extend(ids)
        log.warning(
            "the gradient of %d image(s) was not finite (%s); they keep the prompts they had", len(ids), ids[:1]
        )

    # --- for attackers who know it ------------------------------------------------------------------------------

    def untouched(self, n: int) -> Values:
        """The start, once for each of ``n`` images."""
        return {name: value.expand(n, *value.shape) for name, value in self.start.items()}

    def attackable(self, values: Values, pixels: Tensor) -> Tensor:
        """Logits ``[b, K]`` under values ``[b, ...]``, differentiable in the pixels; float32."""
        state = self.model.learner(values)
        return self.model.logits(state, self.model.text_features(state), pixels[:, None])[:, 0]

    def unrolled(self, pixels: Tensor, ids: Sequence[str], seed: int) -> Tensor:
        """Logits ``[b, K]`` as :meth:`__call__` gives them with views drawn by ``seed``, differentiable in the pixels
        through views, gradients and steps. AdamW's first step is almost the sign of the gradient, whose derivative is
        zero: backward, the denominator is that of a smooth sign with the tensor's mean size. Every image starts anew.
        """
        if not torch.is_grad_enabled():
            tuned = self.tune(self.views(pixels, ids, seed=seed), ids=ids) if self.config.steps else None
            return self.predict(tuned or self.untouched(len(ids)), pixels)
        now = {name: value.clone().requires_grad_() for name, value in self.untouched(len(ids)).items()}
        first = {name: torch.zeros_like(value) for name, value in now.items()}
        second = dict(first)
        kept = self._kept(self.views(pixels, ids, seed=seed), None) if self.config.steps else pixels
        for step in range(1, self.config.steps + 1):
            loss = self.loss(now, kept)[0].sum()
            gradients = dict(zip(now, torch.autograd.grad(loss, list(now.values()), create_graph=True)))
            for name, g in gradients.items():
                first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * g
                second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * g.detach().square()
                m = first[name] / (1 - BETAS[0] ** step)
                size = (second[name] / (1 - BETAS[1] ** step)).sqrt()
                now[name] = now[name] * (1 - self.config.lr * DECAY) - self.config.lr * _smooth(m, size + EPS)
        return self.attackable(now, pixels)


_COUNTING = threading.Lock()


def _smooth(m: Tensor, size: Tensor) -> Tensor:
    """``m / size``, with the gradient of ``m / (|m| + mean |m|)`` of each sample."""
    around = m.detach().abs().flatten(1).mean(1).view(-1, *[1] * (m.dim() - 1))
    smooth = m / (m.abs() + around + EPS)
    return smooth + (m / size - smooth).detach()


def _none(tokens: Sequence[Tensor]) -> Reference:
    """Statistics that a weight of zero takes out, whatever they are."""
    return [(x.new_zeros(x.shape[-2:]), x.new_zeros(x.shape[-2:])) for x in tokens]


def _not_finite(values: Values) -> Tensor:
    """``[S]`` bool: whose gradient is not finite; it is set to zero there."""
    bad = torch.stack([~v.grad.isfinite().flatten(1).all(1) for v in values.values() if v.grad is not None]).any(0)
    if bool(bad.any()):
        for value in values.values():
            if value.grad is not None:
                value.grad[bad] = 0
    return bad


def _instead(which: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(which.view(-1, *[1] * (other.dim() - 1)), one, other)
