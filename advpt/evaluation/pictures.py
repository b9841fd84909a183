"""Pictures of an attack: clean image, attacked image, the change between them, and what each prompt says of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from advpt.bank.build import Attacker
from advpt.bank.cache import AttackRequest, BankCache
from advpt.data.images import ImageSet, Sample
from advpt.errors import RecordError
from advpt.evaluation.measure import Prompts
from advpt.evaluation.protocols import Threat
from advpt.evaluation.record import Record
from advpt.files import atomic_path, read_json, write_json
from advpt.prompts.classifier import Classifier
from advpt.prompts.image_encoder import with_visual_prompts
from advpt.schema import FieldError, from_json, to_json

FOLDER, FILE = "pictures", "pictures.json"
KINDS = ("clean", "attacked", "change")


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """The class that a prompt gives to the clean image and to the attacked one."""

    clean: str
    attacked: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An attacked image: its id, true class and files by kind, and what each prompt makes of it."""

    id: str
    label: str
    files: Mapping[str, str]
    said: Mapping[str, Predicted]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of a run: id of the record of their attack, and by how much the change is magnified."""

    record: str
    attack: str
    protocol: str
    magnified: float
    pictures: tuple[Picture, ...]


def read(run: Path) -> Pictures | None:
    """The pictures below a run's folder, None where it has none; RecordError where the file about them is damaged."""
    path = run / FOLDER / FILE
    if not path.is_file():
        return None
    try:
        return from_json(Pictures, read_json(path, RecordError))
    except FieldError as error:
        raise RecordError(f"{path} is not what a run leaves: {error}; make the pictures again") from None


def take(
    prompts: Prompts, images: ImageSet, bank_cache: BankCache, threat: Threat, record: Record, n: int, run: Path
) -> None:
    """Attack ``n`` images as the record's evaluation did and keep them, lossless, below the run's folder.

    The change is shown around grey and magnified such that the budget fills the range. An image is attacked as it was
    for the bank: by itself where what becomes of it depends on its id and the seed alone, else in its whole batch.
    """
    if record.result.attack is None:
        raise RecordError(f"record {record.id[:12]} has no attack; pictures need one")
    backbone = bank_cache.loaded()
    seed = record.result.attack.seed
    prompt = threat.attacked(prompts.learned, prompts.zero_shot)
    source = prompts.untuned if threat.before_tuning else None
    request = AttackRequest(images, threat.attack, prompt, seed, None, threat.predicts_labels, source)
    attacker, chunk = bank_cache.attacker(request, backbone), 1 if request.by_image else bank_cache.chunk

    @torch.no_grad()
    def predicted(prompt: Classifier, pixels: Tensor) -> str:
        encode = with_visual_prompts(backbone.require_image(), prompt.visual)
        return images.classnames[int(prompt.logits(encode(pixels.to(backbone.device))).argmax(1))]

    pictures: list[Picture] = []
    for sample, clean, attacked in attacked_images(attacker, images, set(images.first(n).ids), chunk, seed):
        change = (0.5 + (attacked - clean) * 255 / (2 * threat.attack.eps)).clamp(0, 1)
        files = {kind: f"{len(pictures):02d}-{kind}.png" for kind in KINDS}
        for kind, pixels in zip(KINDS, (clean, attacked, change)):
            _save(pixels[0], run / FOLDER / files[kind])
        said = {
            name: Predicted(clean=predicted(prompt, clean), attacked=predicted(prompt, attacked))
            for name, prompt in (("hand", prompts.zero_shot), ("learned", prompts.learned))
        }
        pictures.append(Picture(id=sample.id, label=images.classnames[sample.label], files=files, said=said))
    about = Pictures(
        record=record.id,
        attack=threat.attack.label,
        protocol=threat.protocol,
        magnified=255 / (2 * threat.attack.eps),
        pictures=tuple(pictures),
    )
    write_json(run / FOLDER / FILE, to_json(about))


def attacked_images(
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
