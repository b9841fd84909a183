"""Pictures of an attack: clean image, attacked image, the change between them, and what each prompt says of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from advpt.bank.build import Attacker
from advpt.bank.library import Library
from advpt.data.images import ImageSet
from advpt.evaluation.evaluator import Prompts
from advpt.evaluation.protocols import Threat
from advpt.evaluation.record import Record
from advpt.files import atomic_path, write_json
from advpt.prompts.image_encoder import seen_through

FOLDER, FILE = "pictures", "pictures.json"
KINDS = ("clean", "attacked", "change")


def take(
    prompts: Prompts, images: ImageSet, library: Library, threat: Threat, record: Record, n: int, run: Path
) -> Path:
    """Attack ``n`` images as the record's evaluation did and keep them, lossless, below the run's folder.

    The change is shown around grey and magnified such that the budget fills the range. An image is attacked as it was
    for the bank: what it draws depends on its id and the seed alone.
    """
    some = images.first(n)
    backbone = library.backbone if library.backbone.image is not None else library.load()
    encode, attack = backbone.require_image(), threat.attack.build()
    own = library.surrogate if attack.attacks_through == "surrogate" else None
    attacked_prompt = threat.attacked(prompts.learned, prompts.hand)
    attacker = Attacker(attack, seen_through(encode, attacked_prompt.visual), attacked_prompt, backbone.device, own)
    folder, shown = run / FOLDER, []
    seed = record.result["attack"]["seed"]
    for i, batch in enumerate(some.batches(range(len(some)), 1)):
        attacked, _ = attacker(batch, [some.samples[i].id], seed)
        attacked = attacked.cpu()
        change = (0.5 + (attacked - batch.pixels) * 255 / (2 * threat.attack.eps)).clamp(0, 1)
        files = {}
        for kind, pixels in zip(KINDS, (batch.pixels, attacked, change)):
            files[kind] = f"{i:02d}-{kind}.png"
            _save(pixels[0], folder / files[kind])
        said: dict[str, dict[str, str]] = {"hand": {}, "learned": {}}
        with torch.no_grad():
            for name, prompt in (("hand", prompts.hand), ("learned", prompts.learned)):
                for kind, image in (("clean", batch.pixels), ("attacked", attacked)):
                    logits = prompt.logits(seen_through(encode, prompt.visual)(image.to(backbone.device)))
                    said[name][kind] = some.classnames[int(logits.argmax(1))]
        shown.append(
            {"id": some.samples[i].id, "label": some.classnames[some.samples[i].label], "files": files, "said": said}
        )
    about: dict[str, Any] = {
        "record": record.id,
        "attack": threat.attack.label,
        "protocol": threat.protocol,
        "magnified": 255 / (2 * threat.attack.eps),
        "pictures": shown,
    }
    write_json(folder / FILE, about)
    return folder / FILE


def _save(pixels: Tensor, path: Path) -> None:
    """``pixels [3, h, w]`` in [0, 1] as PNG."""
    image = Image.fromarray((pixels.permute(1, 2, 0) * 255).round().byte().numpy())
    with atomic_path(path) as partial:
        image.save(partial, format="PNG")
