"""Pictures of an attack: clean image, attacked image, the change between them, and what each prompt says of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from advpt.bank.build import Attacker
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet, Sample
from advpt.evaluation.evaluator import Prompts
from advpt.evaluation.protocols import Threat
from advpt.evaluation.record import Record
from advpt.files import atomic_path, write_json
from advpt.prompts.image_encoder import with_visual_prompts

FOLDER, FILE = "pictures", "pictures.json"
KINDS = ("clean", "attacked", "change")


def take(
    prompts: Prompts, images: ImageSet, bank_cache: BankCache, threat: Threat, record: Record, n: int, run: Path
) -> Path:
    """Attack ``n`` images as the record's evaluation did and keep them, lossless, below the run's folder.

    The change is shown around grey and magnified such that the budget fills the range. An image is attacked as it was
    for the bank: by itself where what becomes of it depends on its id and the seed alone, else in its whole batch.
    """
    chosen = set(images.first(n).ids)
    backbone = bank_cache.backbone if bank_cache.backbone.image is not None else bank_cache.load()
    encode, attack = backbone.require_image(), threat.attack.build()
    own = bank_cache.surrogate if attack.source_model == "surrogate" else None
    attacked_prompt = threat.attacked(prompts.learned, prompts.zero_shot)
    attacker = Attacker(
        attack, with_visual_prompts(encode, attacked_prompt.visual), attacked_prompt, backbone.device, own
    )
    folder = run / FOLDER
    shown: list[dict[str, Any]] = []
    seed = record.result["attack"]["seed"]
    for sample, clean, attacked in _attacked(
        attacker, images, chosen, 1 if attack.by_image else bank_cache.chunk, seed
    ):
        change = (0.5 + (attacked - clean) * 255 / (2 * threat.attack.eps)).clamp(0, 1)
        files = {}
        for kind, pixels in zip(KINDS, (clean, attacked, change)):
            files[kind] = f"{len(shown):02d}-{kind}.png"
            _save(pixels[0], folder / files[kind])
        said: dict[str, dict[str, str]] = {"hand": {}, "learned": {}}
        with torch.no_grad():
            for name, prompt in (("hand", prompts.zero_shot), ("learned", prompts.learned)):
                for kind, image in (("clean", clean), ("attacked", attacked)):
                    logits = prompt.logits(with_visual_prompts(encode, prompt.visual)(image.to(backbone.device)))
                    said[name][kind] = images.classnames[int(logits.argmax(1))]
        shown.append({"id": sample.id, "label": images.classnames[sample.label], "files": files, "said": said})
    about: dict[str, Any] = {
        "record": record.id,
        "attack": threat.attack.label,
        "protocol": threat.protocol,
        "magnified": 255 / (2 * threat.attack.eps),
        "pictures": shown,
    }
    write_json(folder / FILE, about)
    return folder / FILE


def _attacked(
    attacker: Attacker, images: ImageSet, chosen: set[str], chunk: int, seed: int
) -> Iterator[tuple[Sample, Tensor, Tensor]]:
    """The chosen images, clean and attacked ``[1, 3, h, w]``, attacked in the batches of ``chunk`` that a bank has."""
    rows = [row for row, sample in enumerate(images.samples) if sample.id in chosen]
    for start in sorted({row // chunk * chunk for row in rows}):
        batch_rows = range(start, min(start + chunk, len(images)))
        (batch,) = images.batches(batch_rows, chunk)
        attacked, _ = attacker(batch, [images.samples[row].id for row in batch_rows], seed)
        for row in rows:
            if row in batch_rows:
                place = slice(row - start, row - start + 1)
                yield images.samples[row], batch.pixels[place], attacked[place].cpu()


def _save(pixels: Tensor, path: Path) -> None:
    """``pixels [3, h, w]`` in [0, 1] as PNG."""
    image = Image.fromarray((pixels.permute(1, 2, 0) * 255).round().byte().numpy())
    with atomic_path(path) as partial:
        image.save(partial, format="PNG")
