"""Test-time tuning: batched, with a graph for the chosen views alone, against one image at a time as it is usually
written (a graph for all views, all 77 positions of every text)."""

from __future__ import annotations

import dataclasses
import functools

import torch
import torch.nn.functional as F
from common import Row, alternate, device, median
from sklearn.datasets import load_digits
from torch import Tensor

from advpt.backbones.clip import OFFICIAL, Backbone, backbone_of, build
from advpt.backbones.load import load_backbone
from advpt.backbones.shim import import_clip
from advpt.prompts.classifier import from_templates
from advpt.prompts.learner import PromptLearner
from advpt.settings import BackboneSettings, ContextSettings
from advpt.tuning.test_time import BETAS, DECAY, EPS, PromptedCLIP, Tuner, TuningConfig

DESIGNS = {"V": "visual", "VLI": "independent", "VLJ": "t2v"}
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WANTED = 3.0


def make(backbone: Backbone, design: str, classes: int, depth: int, batch: int) -> Tuner:
    settings = dataclasses.replace(
        ContextSettings(2, False, "a photo of a", "end", "fp32"),
        layout=DESIGNS[design],
        depth_text=depth,
        depth_vision=depth,
    )
    names = DIGITS if classes == len(DIGITS) else [f"class name {i}" for i in range(classes)]
    start = torch.Generator().manual_seed(0)
    encoder = backbone.text
    learner = PromptLearner(encoder, names, settings, start, backbone.card).to(device())
    fixed = from_templates(encoder, names, ["a photo of a {}."], backbone.logit_scale).features
    tower = backbone.image.visual
    shape = (len(tower.positional_embedding) + 2, tower.positional_embedding.shape[1])
    banks = [[(torch.randn(shape, generator=start).to(device()), torch.rand(shape, generator=start).to(device()))
              for _ in range(depth)] for _ in range(2)]  # fmt: skip
    model = PromptedCLIP(backbone.image, encoder, learner, fixed, backbone.logit_scale)
    how = TuningConfig(blocks=tuple(range(depth)), align_weight=100 / depth, batch=batch)
    return Tuner(model, dict(learner.named_parameters()), how, *banks)


def text_over_all_positions(clip, learner: PromptLearner) -> Tensor:
    """Text features as CoOp-style code computes them: 77 positions of every class."""
    tokens = import_clip().tokenize([f"X X of a {name}." for name in learner.classnames]).to(device())
    x = clip.token_embedding(tokens)
    x = torch.cat([x[:, :1], learner.ctx.expand(len(x), -1, -1), x[:, 3:]], 1) + clip.positional_embedding
    x = x.permute(1, 0, 2)
    for i, block in enumerate(clip.transformer.resblocks):
        if 0 < i <= len(learner.ctx_deep):
            x = torch.cat([x[:1], learner.ctx_deep[i - 1][:, None].expand(-1, x.shape[1], -1), x[3:]])
        x = block(x)
    x = clip.ln_final(x.permute(1, 0, 2))
    return F.normalize(x[torch.arange(len(x)), tokens.argmax(-1)] @ clip.text_projection, dim=-1)


def image_over_all_tokens(encoder, pixels: Tensor, visual: Tensor, hidden_states: list[Tensor]) -> Tensor:
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
    tower, config = tuner.model.image.visual, tuner.config
    tokens, width = len(tower.positional_embedding) + 2, tower.positional_embedding.shape[1]
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    blocks = len(tower.transformer.resblocks)
    plain = (2 * config.views + 1) * blocks * block
    return plain / ((config.views + 2 * config.kept + 1) * ((blocks - 1) * block + 6 * tokens * width**2))


def one_by_one(tuner: Tuner, clip, pixels: Tensor, ids: list[str]) -> Tensor:
    """Logits ``[b, K]``: the learner's own parameters, restored for every image."""
    model, how = tuner.model, tuner.config
    learner, saved = model.learner, {name: value.clone() for name, value in tuner.start.items()}

    def logits(images: Tensor, hidden_states: list[Tensor]) -> Tensor:
        text = text_over_all_positions(clip, learner) if learner.n_ctx else model.fixed
        features = image_over_all_tokens(model.image, images, learner().visual, hidden_states)
        return model.scale * F.normalize(features, dim=-1) @ text.T

    found = []
    for i, name in enumerate(ids):
        learner.load_state_dict(saved)
        optimizer = torch.optim.AdamW(learner.parameters(), lr=how.lr, betas=BETAS, eps=EPS, weight_decay=DECAY)
        hidden_states: list[Tensor] = []
        out = logits(tuner.views(pixels[i : i + 1], [name])[0], hidden_states)
        log_p = out.log_softmax(-1)
        rows = (-(log_p.exp() * log_p).sum(-1)).argsort(stable=True)[: how.kept]
        mean = log_p[rows].exp().mean(0)
        loss = -(mean * mean.log()).sum()
        for block in how.blocks:
            tokens = hidden_states[block][rows]
            for bank in (tuner.adversarial, tuner.clean):
                gap = (tokens.mean(0) - bank[block][0]).abs().mean() + (tokens.var(0) - bank[block][1]).abs().mean()
                loss = loss + how.align_weight * 0.25 * gap
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            found.append(logits(pixels[i : i + 1], [])[0])
    learner.load_state_dict(saved)
    return torch.stack(found)


def digits(n: int) -> Tensor:
    found = torch.from_numpy(load_digits().images[:n]).float()[:, None] / 16
    return F.interpolate(found, 32, mode="bilinear").expand(-1, 3, -1, -1).contiguous().to(device())


def agreement(tuner: Tuner, clip, pixels: Tensor, ids: list[str]) -> str:
    """Predictions against the plain loop, and losses of a batch against those of each image alone."""
    with torch.no_grad():
        kept = tuner.kept_views(tuner.views(pixels, ids), None)
        together = tuner.loss(tuner.untouched(len(ids)), kept)[0]
        alone = torch.cat([tuner.loss(tuner.untouched(1), kept[i : i + 1])[0] for i in range(len(ids))])
    single = dataclasses.replace(tuner, config=dataclasses.replace(tuner.config, batch=1))
    found = tuner(pixels, ids).argmax(1)
    same, plain = (
        100 * float((found == other.argmax(1)).float().mean())
        for other in (single(pixels, ids), one_by_one(tuner, clip, pixels, ids))
    )
    gap = ((together - alone).abs() / alone.abs().clamp_min(1)).max()
    return (
        f"of {len(ids)} predictions {same:.1f} % equal those of batches of one and {plain:.1f} % those of the plain "
        f"loop; losses of a batch within {float(gap):.1e} of one by one"
    )


def compare(backbone: Backbone, design: str, classes: int, depth: int, images: Tensor, repeats: int, more: str) -> Row:
    ids = [f"image {i}" for i in range(len(images))]
    tuner = make(backbone, design, classes, depth, batch=min(8, len(images)))
    ways = {
        "ours": functools.partial(tuner, images, ids),
        "plain": functools.partial(one_by_one, tuner, backbone.model, images, ids),
    }
    seconds = alternate(ways, repeats, warm=repeats > 1)
    ours, plain = (median(seconds[name]) / len(images) for name in ways)
    how = f"seconds per image, 64 views, K = {classes}, batch {tuner.config.batch}; {more}"
    if design == "V":
        how += f"; the plain loop has {arithmetic(tuner):.2f} times our floating-point operations"
    met = plain / ours >= WANTED or (False if torch.cuda.is_available() else None)  # two cores need not show it
    return Row(f"test-time tuning, TAPT-{design}, {backbone.name}", "one image at a time", ours, plain, plain / ours,
               f"{WANTED:g}x", met, how + ("" if met else f"; {WANTED:g}x is not reached here"))  # fmt: skip


def run(quick: bool = False) -> list[Row]:
    rows = []
    demo = load_backbone(BackboneSettings("DemoCLIP", "", False), device())
    images = digits(8)
    for design in DESIGNS:
        tuner = make(demo, design, 10, 3, 8)
        some = digits(16)
        said = agreement(tuner, demo.model, some, [f"digit {i}" for i in range(len(some))])
        rows.append(compare(demo, design, 10, 3, images, 2 if quick else 3, said))
    if torch.cuda.is_available():
        torch.manual_seed(0)
        large = backbone_of("ViT-B/32", build(OFFICIAL["ViT-B/32"]), device())
        pixels = torch.rand(32, 3, 224, 224, device=device())
        for design in DESIGNS:
            rows.append(compare(large, design, 37, 9, pixels, 3, "random weights"))
    return rows
