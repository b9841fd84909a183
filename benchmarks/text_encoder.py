"""CoOp's 77-token forward against the prefix-sharing text encoder, on the text tower of ViT-B/16 (random weights).

    python benchmarks/text_encoder.py --classes 37 397 --json out.json

Both run in one process, alternating; features, context gradients, seconds, ratio.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.clip import OFFICIAL, Backbone, build
from advpt.prompts.learner import PromptLearner
from advpt.prompts.text_encoder import TextEncoder, tokenize
from advpt.settings import ContextSettings


def coop_forward(model, prompts: PromptLearner, names: list[str]) -> Tensor:
    """What CoOp computes, with the context at the end position: every prompt over all 77 positions."""
    tokens = tokenize([" ".join(["X"] * prompts.n_ctx) + f" {name}." for name in names])
    rows = model.token_embedding(tokens)
    context = prompts.ctx if prompts.csc else prompts.ctx.expand(len(names), -1, -1)
    x = torch.cat([rows[:, :1], context, rows[:, 1 + prompts.n_ctx :]], 1) + model.positional_embedding
    x = model.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    return model.ln_final(x)[torch.arange(len(names)), tokens.argmax(-1)] @ model.text_projection


def measure(model, classes: int, vectors: int, csc: bool, repeats: int) -> dict[str, float]:
    names = [f"class name {i}" for i in range(classes)]
    settings = ContextSettings(vectors, csc, "", "end", "fp32")
    encoder = TextEncoder(model)
    prompts = PromptLearner(encoder, names, settings, torch.Generator().manual_seed(0))
    features = F.normalize(torch.randn(32, model.text_projection.shape[1]), dim=-1)
    labels = torch.randint(classes, (32,))

    def step(forward) -> tuple[Tensor, Tensor, float]:
        prompts.zero_grad()
        started = time.perf_counter()
        text = F.normalize(forward(), dim=-1)
        F.cross_entropy(100 * features @ text.T, labels).backward()
        return text.detach(), prompts.ctx.grad.clone(), time.perf_counter() - started

    ways = {"coop": lambda: coop_forward(model, prompts, names), "shared": lambda: encoder(prompts().text)}
    (a, grad_a, _), (b, grad_b, _) = step(ways["coop"]), step(ways["shared"])
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, forward in ways.items():
            seconds[name].append(step(forward)[2])
    coop, shared = (statistics.median(seconds[name]) for name in ways)
    return {
        "classes": classes,
        "vectors": vectors,
        "csc": csc,
        "feature_max_abs": float((a - b).abs().max()),
        "gradient_rel_l2": float((grad_a - grad_b).norm() / grad_a.norm()),
        "coop_seconds": coop,
        "shared_seconds": shared,
        "ratio": coop / shared,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[37])
    parser.add_argument("--vectors", type=int, default=32)
    parser.add_argument("--csc", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    tower = dataclasses.replace(OFFICIAL["ViT-B/16"], vision_layers=1)  # the text tower is what is measured
    model = Backbone("ViT-B/16", build(tower)).model
    rows = [measure(model, k, args.vectors, args.csc, args.repeats) for k in args.classes]
    for row in rows:
        cells = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        sys.stdout.write("  ".join(cells) + "\n")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
