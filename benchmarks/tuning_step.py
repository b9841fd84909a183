"""A prompt-tuning step: CoOp's 77-token forward against the prefix-sharing text encoder, ViT-B/16's text tower.

Also how far steps of 10 to 1000 classes are from the floor: the products over the tokens that must be computed, at the
machine's matrix rate, which is measured in turn with them; and three seeds in one batched step against three steps.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from common import Row, alternate, device, matrix_rate, median, peak_memory
from torch import Tensor

from advpt.backbones import open_clip
from advpt.backbones.clip import OFFICIAL, Backbone, backbone_of, build
from advpt.backbones.load import find_card
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
    """A CLIP with the text tower of ``name`` and one block of the image tower, which is not looked at here."""
    torch.manual_seed(0)
    return backbone_of(name, build(dataclasses.replace(OFFICIAL[name], vision_layers=1)), device())


def coop_forward(model, prompts: PromptLearner, names: list[str]) -> Tensor:
    """What CoOp computes, with the context at the end position: every prompt over all 77 positions."""
    tokens = import_clip().tokenize([" ".join(["X"] * prompts.n_ctx) + f" {name}." for name in names])
    tokens = tokens.to(prompts.ctx.device)
    rows = model.token_embedding(tokens)
    context = prompts.ctx if prompts.csc else prompts.ctx.expand(len(names), -1, -1)
    x = torch.cat([rows[:, :1], context, rows[:, 1 + prompts.n_ctx :]], 1) + model.positional_embedding
    if hasattr(model, "attn_mask"):  # open_clip's classes, whose blocks take prompts before positions
        x = model.transformer(x, attn_mask=model.attn_mask)
    else:
        x = model.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    return model.ln_final(x)[torch.arange(len(names)), tokens.argmax(-1)] @ model.text_projection


class Step:
    """A tuning step with random embeddings: text features, logits, cross-entropy, gradient of the context."""

    def __init__(self, clip: Backbone, classes: int, vectors: int, seed: int = 0, precision: str = "fp32") -> None:
        self.model, self.names, self.precision = clip.model, [f"class name {i}" for i in range(classes)], precision
        self.encoder = clip.text
        generator = torch.Generator().manual_seed(seed)
        settings = ContextSettings(vectors, False, "", "end", precision)
        self.prompts = PromptLearner(self.encoder, self.names, settings, generator).to(device())
        self.features = F.normalize(torch.randn(BATCH, clip.card.embed_dim, generator=generator), dim=-1)
        self.features = self.features.to(device())
        self.labels = torch.randint(classes, (BATCH,), generator=generator).to(device())

    def ours(self) -> tuple[Tensor, Tensor]:
        with half_precision(self.precision, device()):
            text = self.encoder(self.prompts().text)
        return self.backward(text)

    def coop(self) -> tuple[Tensor, Tensor]:
        return self.backward(coop_forward(self.model, self.prompts, self.names))

    def loss(self, text: Tensor) -> Tensor:
        return F.cross_entropy(100 * self.features @ F.normalize(text.float(), dim=-1).T, self.labels)

    def backward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        self.prompts.zero_grad()
        self.loss(text).backward()
        return text.detach(), self.prompts.ctx.grad.clone()

    def tokens(self) -> int:
        """That must be computed: the shared prefix once, and each class up to its end token."""
        batch = self.prompts().text
        return len(batch.prefix) + int((batch.eos + 1).sum())

    def flops(self) -> float:
        """Of forward and backward to the inputs: the products of every block over the tokens that must be computed,
        and attention over what each of them sees."""
        batch, d = self.prompts().text, self.encoder.width
        prefix, own = len(batch.prefix), batch.eos + 1
        seen = prefix * (prefix + 1) / 2 + float((own * prefix + own * (own + 1) / 2).sum())
        forward = len(self.encoder.transformer.resblocks) * (2 * 12 * d * d * self.tokens() + 2 * 2 * d * seen)
        return 2 * forward


def seconds_and_floor(step: Step, repeats: int) -> tuple[float, float]:
    """Seconds of a step and of its floor: medians of both in turn, after one step that is not measured."""
    rates: list[float] = []
    seconds = alternate({"ours": step.ours, "product": lambda: rates.append(matrix_rate())}, repeats)
    return median(seconds["ours"]), step.flops() / median(rates[1:])


def against_floor(model, classes: int, repeats: int) -> Row:
    step = Step(model, classes, 32)
    ours, floor = seconds_and_floor(step, repeats)
    wanted = OF_FLOOR[classes]
    how = (
        f"M = 32, batch {BATCH}, float32, median of {repeats}; {step.tokens()} tokens; the ratio is ours over the floor"
    )
    return Row(f"tuning step, K = {classes}", "the floor", ours, floor, ours / floor, f"at most {wanted:g}x",
               ours <= wanted * floor, how, floor=floor, memory=peak_memory())  # fmt: skip


def three_seeds(model, classes: int, vectors: int, repeats: int) -> Row:
    steps = [Step(model, classes, vectors, seed) for seed in (1, 2, 3)]

    def together() -> None:
        values = {"ctx": torch.stack([step.prompts.ctx for step in steps])}
        text = steps[0].encoder(steps[0].prompts(values).text)
        torch.stack([step.loss(part) for step, part in zip(steps, text)]).sum().backward()

    seconds = alternate({"alone": lambda: [step.ours() for step in steps], "together": together}, repeats)
    alone, one = median(seconds["alone"]), median(seconds["together"])
    how = f"K = {classes}, M = {vectors}, median of {repeats}"
    return Row("three seeds in one step", "three steps", one, alone, alone / one, "", None, how)


def of_open_clip(repeats: int) -> Row:
    """A step on open_clip's ViT-B/16, K = 37, M = 16, against open_clip's own modules over 77 positions."""
    card = find_card(OPEN_CLIP)
    step = Step(Backbone(card, open_clip.build(card), device()), 37, 16)
    (a, grad_a), (b, grad_b) = step.coop(), step.ours()
    seconds = alternate({"open_clip": step.coop, "ours": step.ours}, repeats, warm=False)
    ours, theirs = median(seconds["ours"]), median(seconds["open_clip"])
    apart, relative = (float((x - y).norm() / y.norm()) for x, y in ((b, a), (grad_b, grad_a)))
    how = (
        f"K = 37, M = 16, batch {BATCH}, float32, median of {repeats}; relative to theirs features differ by "
        f"{apart:.1e}, the context gradient by {relative:.1e}; {step.tokens()} tokens of {77 * 37}"
    )
    met = theirs >= 8 * ours and apart <= 1e-5 and relative <= 5e-5
    return Row("tuning step, open_clip", "open_clip's 77-token step", ours, theirs, theirs / ours, "8x", met, how)


def run(quick: bool = False) -> list[Row]:
    model, rate, rows = text_tower(), matrix_rate(), []
    for classes, repeats in ((37, 2 if quick else 5), (101, 1) if quick else (397, 1)):
        step = Step(model, classes, 32)
        (a, grad_a), (b, grad_b) = step.coop(), step.ours()
        seconds = alternate({"coop": step.coop, "ours": step.ours}, repeats, warm=False)
        ours, coop = median(seconds["ours"]), median(seconds["coop"])
        apart, relative = float((a - b).abs().max()), float((grad_a - grad_b).norm() / grad_a.norm())
        how = (
            f"K = {classes}, M = 32, batch {BATCH}, float32, median of {repeats}; features differ by {apart:.1e}, "
            f"context gradient by {relative:.1e} relative; {step.tokens()} tokens of {77 * classes}"
        )
        wanted = WANTED[classes]
        rows.append(
            Row("tuning step", "CoOp's 77-token step", ours, coop, coop / ours, f"{wanted:g}x", coop / ours >= wanted,
                how, floor=step.flops() / rate, memory=peak_memory())
        )  # fmt: skip
    rows += [against_floor(model, classes, 2 if quick else REPEATS[classes]) for classes in OF_FLOOR
             if classes <= 101 or not quick]  # fmt: skip
    rows.append(of_open_clip(2 if quick else 5))
    rows.append(three_seeds(model, 37, 32, 2 if quick else 5))
    rows.append(three_seeds(model, 10, 16, 5 if quick else 10))
    return rows
