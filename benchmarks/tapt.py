"""Test-time tuning: batched, with a graph for the chosen views alone, against one image at a time as it is usually
written (a graph for all views, all 77 positions of every text)."""

import dataclasses
import functools
from typing import Any

import torch
import torch.nn.functional as F
from bank import SMALL, backbone
from common import alternate, device
from measurements import Report
from sklearn.datasets import load_digits
from torch import Tensor
from tuning_step import coop_forward

from advpt.backbones.clip import Backbone
from advpt.prompts.classifier import from_templates
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings
from advpt.tuning.test_time import BETAS, DECAY, EPS, PromptedCLIP, Tuner, TuningConfig

DESIGNS = {"V": "visual", "VLI": "independent", "VLJ": "t2v"}
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WANTED = 3.0


def make_tuner(clip: Backbone, design: str, names: list[str], depth: int, batch: int) -> Tuner:
    """A tuner with random statistics."""
    context = ContextSettings(2, False, "a photo of a", "end", "fp32")
    settings = dataclasses.replace(context, layout=DESIGNS[design], depth_text=depth, depth_vision=depth)
    start = torch.Generator().manual_seed(0)
    encoder, image = clip.text, clip.require_image()
    learner = PromptLearner(encoder, names, settings, start, clip.card).to(device())
    fixed = from_templates(encoder, names, ["a photo of a {}."], clip.logit_scale).features
    tower: Any = image.visual
    shape = (len(tower.positional_embedding) + 2, tower.positional_embedding.shape[1])
    adversarial, clean = (
        [(torch.randn(shape, generator=start).to(device()), torch.rand(shape, generator=start).to(device()))
         for _ in range(depth)] for _ in range(2)
    )  # fmt: skip
    model = PromptedCLIP(image, encoder, learner, fixed, clip.logit_scale)
    config = TuningConfig(blocks=tuple(range(depth)), align_weight=100 / depth, batch=batch)
    return Tuner(model, dict(learner.named_parameters()), config, adversarial, clean)


def image_over_all_tokens(encoder: Any, pixels: Tensor, visual: Tensor, hidden_states: list[Tensor]) -> Tensor:
    """Image features as MaPLe-style code computes them: CLIP's own blocks, all tokens in each."""
    tower, n = encoder.visual, visual.shape[1]
    x = tower.conv1((pixels - encoder.mean) / encoder.std).flatten(2).permute(0, 2, 1)
    x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], 1) + tower.positional_embedding
    x = tower.ln_pre(torch.cat([x, visual[0].expand(len(x), -1, -1)], 1)).permute(1, 0, 2)
    for i, block in enumerate(tower.transformer.resblocks):
        if 0 < i < len(visual):
            x = torch.cat([x[:-n], visual[i][:, None].expand(-1, x.shape[1], -1)])
        hidden_states.append(x.permute(1, 0, 2))
        x = block(x)
    return tower.ln_post(x.permute(1, 0, 2)[:, 0]) @ tower.proj


def arithmetic(tuner: Tuner) -> float:
    """Floating-point operations of the plain loop over ours where no text is tuned. The plain loop: forward and
    backward of all views, forward of the image. Ours: forward of all views, forward and backward of the kept ones,
    forward of the image, and of the last block little more than queries, keys and values."""
    tower: Any = tuner.model.image.visual
    config, (tokens, width) = tuner.config, tower.positional_embedding.shape
    tokens += 2  # the prompts
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    blocks = len(tower.transformer.resblocks)
    plain = (2 * config.views + 1) * blocks * block
    return plain / ((config.views + 2 * config.kept + 1) * ((blocks - 1) * block + 6 * tokens * width**2))


def one_by_one(tuner: Tuner, clip: Any, pixels: Tensor, ids: list[str]) -> Tensor:
    """Logits ``[b, K]``: the learner's own parameters, restored for every image."""
    model, config = tuner.model, tuner.config
    learner, saved = model.learner, {name: value.clone() for name, value in tuner.start.items()}
    texts = [f"X X of a {name}." for name in learner.classnames]

    def logits(images: Tensor, hidden_states: list[Tensor]) -> Tensor:
        text = F.normalize(coop_forward(clip, learner, texts), dim=-1) if learner.n_ctx else model.fixed
        features = image_over_all_tokens(model.image, images, learner().visual, hidden_states)
        return model.scale * F.normalize(features, dim=-1) @ text.T

    predicted = []
    for i, name in enumerate(ids):
        learner.load_state_dict(saved)
        optimizer = torch.optim.AdamW(learner.parameters(), lr=config.lr, betas=BETAS, eps=EPS, weight_decay=DECAY)
        hidden_states: list[Tensor] = []
        out = logits(tuner.views(pixels[i : i + 1], [name])[0], hidden_states)
        log_p = out.log_softmax(-1)
        rows = (-(log_p.exp() * log_p).sum(-1)).argsort(stable=True)[: config.kept]
        mean = log_p[rows].exp().mean(0)
        loss = -(mean * mean.log()).sum()
        for block in config.blocks:
            tokens = hidden_states[block][rows]
            for bank in (tuner.adversarial, tuner.clean):
                gap = (tokens.mean(0) - bank[block][0]).abs().mean() + (tokens.var(0) - bank[block][1]).abs().mean()
                loss = loss + config.align_weight * 0.25 * gap
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            predicted.append(logits(pixels[i : i + 1], [])[0])
    learner.load_state_dict(saved)
    return torch.stack(predicted)


def digits(n: int) -> Tensor:
    images = torch.from_numpy(load_digits().images[:n]).float()[:, None] / 16
    return F.interpolate(images, 32, mode="bilinear").expand(-1, 3, -1, -1).contiguous().to(device())


def agreement(tuner: Tuner, clip: Any, pixels: Tensor) -> str:
    """Predictions against the plain loop, and losses of a batch against those of each image alone."""
    ids = [f"digit {i}" for i in range(len(pixels))]
    with torch.no_grad():
        kept = tuner.kept_views(tuner.views(pixels, ids), None)
        together = tuner.loss(tuner.untouched(len(ids)), kept)[0]
        alone = torch.cat([tuner.loss(tuner.untouched(1), kept[i : i + 1])[0] for i in range(len(ids))])
    single = dataclasses.replace(tuner, config=dataclasses.replace(tuner.config, batch=1))
    ours = tuner(pixels, ids).argmax(1)
    same, plain = (
        100 * float((ours == other.argmax(1)).float().mean())
        for other in (single(pixels, ids), one_by_one(tuner, clip, pixels, ids))
    )
    gap = ((together - alone).abs() / alone.abs().clamp_min(1)).max()
    return (
        f"of {len(ids)} predictions {same:.1f} % equal those of batches of one and {plain:.1f} % those of the plain "
        f"loop; losses of a batch within {float(gap):.1e} of one by one"
    )


def compare(report: Report, clip: Backbone, tuner: Tuner, design: str, images: Tensor, repeats: int, more: str) -> None:
    """Seconds per image of both ways; ``more`` is the end of the note."""
    ids = [f"image {i}" for i in range(len(images))]
    ways = {
        "ours": functools.partial(tuner, images, ids),
        "plain": functools.partial(one_by_one, tuner, clip.model, images, ids),
    }
    seconds = alternate(ways, repeats)
    note = f"seconds per image, 64 views, K = {len(tuner.model.learner.classnames)}, batch {tuner.config.batch}; {more}"
    if design == "V":
        note += f"; the plain loop has {arithmetic(tuner):.2f} times our floating-point operations"
    ours, plain = seconds["ours"] / len(images), seconds["plain"] / len(images)
    wanted: float | None = WANTED
    if not torch.cuda.is_available() and plain / ours < WANTED:  # two cores need not show it
        wanted, note = None, f"{note}; {WANTED:g}x is not reached here"
    label = f"test-time tuning, TAPT-{design}, {clip.name}, against one image at a time"
    report.compare(label, ours, plain, wanted=wanted, note=note)


def run(report: Report) -> None:
    demo = backbone(SMALL)
    for design in DESIGNS:
        tuner = make_tuner(demo, design, DIGITS, 3, 8)
        compare(report, demo, tuner, design, digits(8), 2 if report.small else 3,
                agreement(tuner, demo.model, digits(16)))  # fmt: skip
    if torch.cuda.is_available():
        large, pixels = backbone("ViT-B/32"), torch.rand(32, 3, 224, 224, device=device())
        for design in DESIGNS:
            tuner = make_tuner(large, design, [f"class name {i}" for i in range(37)], 9, 8)
            compare(report, large, tuner, design, pixels, 3, "random weights")
