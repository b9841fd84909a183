"""A prompt-tuning step: CoOp's 77-token forward against the prefix-sharing text encoder, ViT-B/16's text tower.

Also how far steps of 10 to 1000 classes are from the floor: the products over the tokens that must be computed, at the
machine's matrix rate, which is measured in turn with them; and three seeds in one batched step against three steps.
"""

import dataclasses
import functools
import statistics
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from bank import SMALL, backbone
from common import alternate, device, matrix_rate, peak_memory
from measurements import Measurement, Report
from torch import Tensor

from advpt.backbones import load, open_clip
from advpt.backbones.card import Card
from advpt.backbones.clip import OFFICIAL, Backbone, backbone_of, build
from advpt.backbones.precision import half_precision
from advpt.backbones.shim import import_clip
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings

OPEN_CLIP = "open_clip:ViT-B-16/laion2b_s34b_b88k"
WANTED = {37: 8.0, 101: 8.0, 397: 15.0}
OF_FLOOR = {10: 1.7, 37: 1.5, 101: 1.7, 397: 1.5, 1000: 1.7}  # at most
REPEATS = {10: 15, 37: 9, 101: 7, 397: 5, 1000: 3}
BATCH = 32


def text_tower(name: str = "ViT-B/16") -> Backbone:
    """DemoCLIP, or a CLIP with the text tower of ``name`` and one block of the image tower, which is not looked at."""
    if name == SMALL:
        return backbone(name)
    torch.manual_seed(0)
    return backbone_of(name, build(dataclasses.replace(OFFICIAL[name], vision_layers=1)), device())


def coop_forward(model: Any, prompts: Any, texts: list[str]) -> Tensor:
    """What CoOp computes, and MaPLe with deep prompts: every text over all 77 positions.

    Args:
        model: OpenAI's CLIP, or one of open_clip's classes without deep prompts.
        prompts: a ``PromptLearner`` with a shared context.
        texts: one for each class; their first words, as many as the context has vectors, give way to it.
    """
    n, tokens = prompts.n_ctx, import_clip().tokenize(texts).to(prompts.ctx.device)
    rows = model.token_embedding(tokens)
    x = torch.cat([rows[:, :1], prompts.ctx.expand(len(texts), -1, -1), rows[:, 1 + n :]], 1)
    x = x + model.positional_embedding
    if hasattr(model, "attn_mask"):  # open_clip's, whose blocks take prompts before positions
        x = model.transformer(x, attn_mask=model.attn_mask)
    else:
        x, deep = x.permute(1, 0, 2), getattr(prompts, "ctx_deep", ())
        for i, block in enumerate(model.transformer.resblocks):
            if 0 < i <= len(deep):
                x = torch.cat([x[:1], deep[i - 1][:, None].expand(-1, len(texts), -1), x[1 + n :]])
            x = block(x)
        x = x.permute(1, 0, 2)
    x = model.ln_final(x)
    return x[torch.arange(len(texts)), tokens.argmax(-1)] @ model.text_projection


class Step:
    """A tuning step with random embeddings: text features, logits, cross-entropy, gradient of the context."""

    def __init__(self, clip: Backbone, classes: int, vectors: int, seed: int = 0, precision: str = "fp32") -> None:
        names = [f"class name {i}" for i in range(classes)]
        self.model, self.precision = clip.model, precision
        self.texts = ["X " * vectors + f"{name}." for name in names]
        self.encoder = clip.text
        generator = torch.Generator().manual_seed(seed)
        settings = ContextSettings(vectors, False, "", "end", precision)
        self.prompts = PromptLearner(self.encoder, names, settings, generator).to(device())
        self.features = F.normalize(torch.randn(BATCH, clip.card.embed_dim, generator=generator), dim=-1)
        self.features = self.features.to(device())
        self.labels = torch.randint(classes, (BATCH,), generator=generator).to(device())

    def ours(self) -> tuple[Tensor, Tensor]:
        with half_precision(self.precision, device()):
            text = self.encoder(self.prompts().text)
        return self.backward(text)

    def coop(self) -> tuple[Tensor, Tensor]:
        with half_precision(self.precision, device()):
            text = coop_forward(self.model, self.prompts, self.texts)
        return self.backward(text)

    def loss(self, text: Tensor) -> Tensor:
        return F.cross_entropy(100 * self.features @ F.normalize(text.float(), dim=-1).T, self.labels)

    def backward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        self.prompts.zero_grad()
        self.loss(text).backward()
        return text.detach(), cast(Tensor, self.prompts.ctx.grad).clone()

    def tokens(self) -> int:
        """That must be computed: the shared prefix once, and each class up to its end token."""
        batch = self.prompts().text
        return len(batch.prefix) + int((batch.eos + 1).sum())

    def flops(self) -> float:
        """Of forward and backward to the inputs: the products of every block over the tokens that must be computed,
        and attention over what each of them sees."""
        batch, d = self.prompts().text, self.encoder.width
        prefix, own = len(batch.prefix), batch.eos + 1
        pairs = prefix * (prefix + 1) / 2 + float((own * prefix + own * (own + 1) / 2).sum())
        forward = len(self.encoder.transformer.resblocks) * (2 * 12 * d * d * self.tokens() + 2 * 2 * d * pairs)
        return 2 * forward


def batched_step(steps: Sequence[Step]) -> None:
    """The steps of several seeds: one forward over the prompts of all."""
    values = {"ctx": torch.stack([step.prompts.ctx for step in steps])}
    with half_precision(steps[0].precision, device()):
        text = steps[0].encoder(steps[0].prompts(values).text)
    torch.stack([step.loss(part) for step, part in zip(steps, text)]).sum().backward()


def seconds_and_floor(step: Step, repeats: int) -> tuple[float, float]:
    """Seconds of a step and of its floor: medians of both in turn, after one step that is not measured."""
    rates: list[float] = []
    seconds = alternate({"ours": step.ours, "product": lambda: rates.append(matrix_rate())}, repeats)
    return seconds["ours"], step.flops() / statistics.median(rates[1:])


def against_coop(report: Report, clip: Backbone, classes: int, repeats: int) -> None:
    step = Step(clip, classes, 32)
    (a, grad_a), (b, grad_b) = step.coop(), step.ours()
    seconds = alternate({"coop": step.coop, "ours": step.ours}, repeats, warm=False)
    apart, relative = float((a - b).abs().max()), float((grad_a - grad_b).norm() / grad_a.norm())
    of_floor = seconds["ours"] * matrix_rate() / step.flops()
    note = (
        f"M = 32, batch {BATCH}, float32, median of {repeats}; features differ by {apart:.1e}, context gradient by "
        f"{relative:.1e} relative; {step.tokens()} tokens of {77 * classes}; {of_floor:.2f}x of the floor; peak "
        f"{peak_memory():.0f} MiB"
    )
    label = f"tuning step, K = {classes}, against CoOp's 77-token step"
    report.compare(label, seconds["ours"], seconds["coop"], wanted=WANTED[classes], note=note)


def against_floor(report: Report, clip: Backbone, classes: int, repeats: int) -> None:
    step, wanted = Step(clip, classes, 32), OF_FLOOR[classes]
    ours, floor = seconds_and_floor(step, repeats)
    note = f"M = 32, batch {BATCH}, float32, median of {repeats}; {step.tokens()} tokens; ratio: ours over the floor"
    report.add(Measurement(f"tuning step, K = {classes}, against the floor", ours, "s", floor, ours / floor,
                           f"at most {wanted:g}x", ours <= wanted * floor, note))  # fmt: skip


def three_seeds(report: Report, clip: Backbone, classes: int, vectors: int, repeats: int) -> None:
    steps = [Step(clip, classes, vectors, seed) for seed in (1, 2, 3)]

    def alone() -> None:
        for step in steps:
            step.ours()

    seconds = alternate({"alone": alone, "together": functools.partial(batched_step, steps)}, repeats)
    label = f"three seeds in one step, K = {classes}, M = {vectors}, against three steps"
    report.compare(label, seconds["together"], seconds["alone"], note=f"median of {repeats}")


def on_open_clip(report: Report, repeats: int) -> None:
    """A step on open_clip's ViT-B/16, K = 37, M = 16, against open_clip's own modules over 77 positions."""
    card = cast(Card, load.find_card(OPEN_CLIP))
    step = Step(Backbone(card, open_clip.build(card), device()), 37, 16)
    (a, grad_a), (b, grad_b) = step.coop(), step.ours()
    seconds = alternate({"open_clip": step.coop, "ours": step.ours}, repeats, warm=False)
    apart, relative = (float((x - y).norm() / y.norm()) for x, y in ((b, a), (grad_b, grad_a)))
    note = (
        f"M = 16, batch {BATCH}, float32, median of {repeats}; relative to theirs features differ by {apart:.1e}, the "
        f"context gradient by {relative:.1e}; {step.tokens()} tokens of {77 * 37}"
    )
    ours, theirs = seconds["ours"], seconds["open_clip"]
    met = theirs >= 8 * ours and apart <= 1e-5 and relative <= 5e-5
    label = "tuning step, open_clip's ViT-B/16, K = 37, against its own 77-token step"
    report.add(Measurement(label, ours, "s", theirs, theirs / ours, "8x", met, note))


def run(report: Report) -> None:
    clip, quick = text_tower(), report.small
    for classes, repeats in ((37, 2), (101, 1)) if quick else ((37, 5), (397, 1)):
        against_coop(report, clip, classes, repeats)
    for classes in OF_FLOOR:
        if classes <= 101 or not quick:
            against_floor(report, clip, classes, 2 if quick else REPEATS[classes])
    three_seeds(report, clip, 37, 32, 2 if quick else 5)
    three_seeds(report, clip, 10, 16, 5 if quick else 10)
    on_open_clip(report, 2 if quick else 5)
