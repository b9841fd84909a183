"""DemoCLIP: a small CLIP in the repository, so that the main job runs without any download.

A real OpenAI ``clip.model.CLIP`` (ViT, 32x32 input, patch 4, the 77-token text tower and BPE vocabulary), pre-trained
on rendered characters and words with captions (:mod:`advpt.data.rendered`); it was trained on no handwritten digit.
The weights beside this file were made by

    python -m advpt.backbones.democlip --out democlip.safetensors

and those of its smaller sister DemoCLIP-S (width 64, 2 + 2 layers), so that a table can have two backbones, by

    python -m advpt.backbones.democlip --width 64 --layers 2 --out democlip_small.safetensors

The token table ships only the rows that pre-training used; the other rows follow :func:`untrained_rows`, a fixed
rule with a version number, so they are the same everywhere.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from advpt.backbones.card import CLIP_MEAN, CLIP_STD
from advpt.backbones.shim import import_clip
from advpt.checkpoints import open_safetensors
from advpt.data import rendered
from advpt.errors import ConfigError, WeightsError

log = logging.getLogger(__name__)

NAME, SMALL_NAME = "DemoCLIP", "DemoCLIP-S"
WEIGHTS = Path(__file__).with_name("democlip.safetensors")
FILES = {NAME: WEIGHTS, SMALL_NAME: Path(__file__).with_name("democlip_small.safetensors")}
WIDTH, LAYERS, PATCH, CONTEXT, VOCABULARY = 128, 3, 4, 77, 49408
RULE_VERSION = 1


def untrained_rows(rows: int = VOCABULARY, width: int = WIDTH, version: int = RULE_VERSION) -> Tensor:
    """The token table before training, ``[rows, width]`` float32, standard deviation 0.02.

    Uniform numbers from the raw 64-bit stream of PCG64, of which NumPy guarantees that it never changes; integer
    arithmetic and one exact scaling make the rows equal on every machine.
    """
    raw = np.random.PCG64(version).random_raw(rows * width)
    steps = (raw >> np.uint64(40)).astype(np.float32) - np.float32(2**23 - 0.5)
    half_width = np.float32(0.02 * math.sqrt(3.0))
    return torch.from_numpy((steps * (half_width / np.float32(2**23))).reshape(rows, width))


def build(vocabulary: int = VOCABULARY, width: int = WIDTH, layers: int = LAYERS) -> Any:
    """OpenAI's CLIP class in DemoCLIP's size, with OpenAI's random initialisation."""
    clip_model = import_clip().model
    return clip_model.CLIP(
        width, rendered.SIZE, layers, width, PATCH, CONTEXT, vocabulary, width, max(1, width // 64), layers
    )


def load(path: Path = WEIGHTS) -> nn.Module:
    """DemoCLIP with its trained weights, float32, in evaluation mode.

    Raises:
        WeightsError: when the file is missing or is not a DemoCLIP file of this rule version.
    """
    if not path.is_file():
        raise WeightsError(f"DemoCLIP's weights are missing at {path}; they ship with the project: install it again")
    try:
        with open_safetensors(path) as file:
            about = json.loads((file.metadata() or {}).get("democlip", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"DemoCLIP's weights at {path} are damaged ({error}); install the project again") from error
    if about.get("rule_version") != RULE_VERSION or "token_ids" not in state:
        raise WeightsError(
            f"{path} is not a DemoCLIP file of token rule {RULE_VERSION} (it says {about.get('rule_version')}); "
            "make it again with: python -m advpt.backbones.democlip"
        )
    rows, ids = state.pop("token_rows"), state.pop("token_ids")
    table = untrained_rows(about["vocabulary"], rows.shape[1])
    table[ids] = rows
    model = build(about["vocabulary"], about["width"], about["layers"])
    model.load_state_dict({**state, "token_embedding.weight": table})
    return model.float().eval()


def trained_token_ids(path: Path = WEIGHTS) -> list[int]:
    """Ids of the tokens that occurred in pre-training (nearest words search only these)."""
    with open_safetensors(path) as file:
        return file.get_tensor("token_ids").tolist()


def text_features(model: Any, tokens: Tensor) -> Tensor:
    """CLIP's text features without the padding behind the last end token (it cannot influence them)."""
    length = int(tokens.argmax(-1).max()) + 1
    mask = torch.full((length, length), float("-inf")).triu_(1)
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = x.permute(1, 0, 2)
    for block in model.transformer.resblocks:
        h = block.ln_1(x)
        x = x + block.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        x = x + block.mlp(block.ln_2(x))
    x = model.ln_final(x.permute(1, 0, 2))
    return x[torch.arange(len(tokens)), tokens.argmax(-1)] @ model.text_projection


def contrastive_loss(images: Tensor, texts: Tensor, true: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric loss with several right answers: cross-entropy to the uniform distribution over them.

    Args:
        images: ``[b, d]`` features. texts: ``[u, d]`` features. true: ``[b, u]`` bool, a True in each row and column.
        scale: the logit scale, positive.
    """
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    right = true.float()
    to_text = F.cross_entropy(logits, right / right.sum(1, keepdim=True))
    to_image = F.cross_entropy(logits.T, (right / right.sum(0, keepdim=True)).T)
    return (to_text + to_image) / 2


def pretrain(
    *,
    steps: int = 2400,
    batch: int = 160,
    drawn: int = 30_000,
    seed: int = 0,
    lr: float = 1e-3,
    width: int = WIDTH,
    layers: int = LAYERS,
    save_every: int = 0,
    out: Path | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Pre-train from random weights; shows progress and logs the loss. Returns the tensors to ship, and the metadata of
    their file.

    Args:
        steps: of AdamW, at least 3.
        batch: captioned images per step.
        drawn: masks that the images are drawn from.
        save_every: steps from one saved file ``out`` to the next, 0 for none.
    """
    if steps < 3:
        raise ConfigError(f"steps is {steps}; the learning-rate schedule needs at least 3")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    ids, row_of = _tokens_of_captions()
    model = build(len(ids), width, layers).train()
    with torch.no_grad():
        model.token_embedding.weight.copy_(untrained_rows(VOCABULARY, width)[ids])
    mean, std = torch.tensor(CLIP_MEAN)[:, None, None], torch.tensor(CLIP_STD)[:, None, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=max(0.1, 2 / steps))
    masks = rendered.draw_many(drawn, seed)

    def shipped(step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = {key: value.detach().clone() for key, value in model.state_dict().items()}
        state["token_rows"], state["token_ids"] = state.pop("token_embedding.weight"), ids
        about = {"vocabulary": VOCABULARY, "width": width, "layers": layers, "rule_version": RULE_VERSION}
        made = {"steps": steps, "stopped_at": step, "batch": batch, "drawn": drawn, "seed": seed, "lr": lr}
        return state, about | {"made_with": made}

    started, average = time.monotonic(), float("nan")
    for step in tqdm(range(steps), desc="pre-training", unit="step", disable=None):
        data = rendered.sample_batch(masks, batch, generator)
        texts = text_features(model, torch.stack([row_of[caption] for caption in data.captions]))
        images = model.visual((data.images - mean) / std)
        loss = contrastive_loss(images, texts, data.true, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100.0))
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        if step % 100 == 0 or step == steps - 1:
            log.info("step %d loss %.3f (%.0f s)", step, average, time.monotonic() - started)
        if save_every and out and (step + 1) % save_every == 0:
            save(out, *shipped(step + 1))
    return shipped(steps)


def _tokens_of_captions() -> tuple[Tensor, dict[str, Tensor]]:
    """The ids ``[V]`` that occur in captions, and each caption as rows of a table of these alone. The order of ids is
    kept, so the end token stays the largest."""
    captions = rendered.all_captions()
    tokens = import_clip().tokenize(captions)
    ids = torch.unique(tokens)
    compact = torch.zeros(VOCABULARY, dtype=torch.long)
    compact[ids] = torch.arange(len(ids))
    return ids, dict(zip(captions, compact[tokens]))


def save(path: Path, state: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the weights and the facts about them (safetensors, no pickle)."""
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in state.items()}, partial, metadata={"democlip": json.dumps(about)})
    partial.replace(path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m advpt.backbones.democlip", description="Pre-train DemoCLIP.")
    parser.add_argument("--out", type=Path, default=Path("democlip.safetensors"))
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=WIDTH, help="of both towers and of the embedding")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of each tower")
    parser.add_argument("--save-every", type=int, default=0, help="also save after every so many steps")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    size = {"width": args.width, "layers": args.layers}
    save(args.out, *pretrain(steps=args.steps, seed=args.seed, save_every=args.save_every, out=args.out, **size))
    log.info("wrote %s (%.2f MB)", args.out, args.out.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
