"""Filling banks: attack the images once, embed them for everybody who asked, write finished shards.

Work goes in fixed chunks, and what an image gets depends on its id, so a build that was killed and started again, or
shared by several processes, ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from advpt.attacks.base import Attack
from advpt.attacks.noise import SampleNoise, choose_targets
from advpt.attacks.objectives import is_wrong
from advpt.attacks.surrogate import Surrogate
from advpt.bank.seen import UNDEFENDED, Encode, Seen, Through
from advpt.bank.spec import AdversarialSet, BankSpec
from advpt.bank.store import MANIFEST, shard_is_sound, shard_name, write_manifest, write_shard
from advpt.data.images import ImageBatch
from advpt.errors import BankError
from advpt.files import FileLock, digest
from advpt.prompts.classifier import Classifier

log = logging.getLogger(__name__)

SHARD_ROWS = 256


@dataclass(frozen=True)
class View:
    """One bank to fill: its spec, its folder, the function from pixels to embeddings, and the defense before it."""

    spec: BankSpec
    folder: Path
    encode: Encode
    seen: Seen = UNDEFENDED

    def embed(self, pixels: Tensor, ids: Sequence[str]) -> Tensor:
        """``[b, L]`` float32 on the CPU, of (attacked) pixels ``[b, 3, h, w]``."""
        return self.encode(self.seen(pixels, ids)).float().cpu()


@dataclass(frozen=True)
class Attacker:
    """Who makes the images: the attack, the encoder it goes through, the prompt if its objective needs one, and the
    attacker's own network if it goes through that instead (``encode`` and ``classifier`` are not looked at then).
    ``through`` is the defense before the encoder, if the attacker knows it."""

    attack: Attack | None
    encode: Encode
    classifier: Classifier | None
    device: torch.device
    surrogate: Surrogate | None = None
    through: Through | None = None

    def __call__(self, batch: ImageBatch, ids: Sequence[str], seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Attacked pixels ``[b, 3, h, w]`` and the columns that describe them."""
        if self.through is not None:
            encode = self.through.encoder(self.encode, ids, seed)
            return dataclasses.replace(self, encode=encode, through=None)(batch, ids, seed)
        x, y = batch.pixels.to(self.device), batch.labels.to(self.device)
        n, model = len(x), self.logits()
        correct = torch.full((n,), -1, dtype=torch.int8)
        if model is not None:
            with torch.no_grad():
                correct = (~is_wrong(model(x), y)).to(torch.int8).cpu()
        facts = {
            "clean_correct": correct,
            "perturbed": torch.zeros(n, dtype=torch.bool),
            "stage": torch.full((n,), -1),
            "loss": torch.zeros(n),
            "linf": torch.zeros(n),
        }
        if self.attack is None:
            return x, facts
        forward: Encode = self.encode
        if self.attack.objective.space == "logits":
            if model is None:
                raise BankError(f"the attack {self.attack!r} needs a prompt to attack through, and none was given")
            forward = model
        if self.attack.objective.aims:
            y = choose_targets(y, self.classes, ids, seed)
        out = self.attack(forward, x, y, SampleNoise(ids, seed))
        linf = 255 * (out.images - x).abs().flatten(1).amax(1)
        facts |= {"perturbed": out.changed, "stage": out.stage, "loss": out.loss, "linf": linf}
        return out.images, {name: value.cpu() for name, value in facts.items()}

    def logits(self) -> Encode | None:
        """Pixels to the logits of whoever is attacked; None where the attack looks at no logits."""
        if self.attack is None or self.attack.objective.space != "logits":
            return None
        if self.attack.attacks_through == "surrogate":
            if self.surrogate is None:
                raise BankError(f"the attack {self.attack!r} goes through a network of its own, and none was given")
            return self.surrogate
        classifier = self.classifier
        return None if classifier is None else lambda pixels: classifier.logits(self.encode(pixels))

    @property
    def classes(self) -> int:
        """How many classes the attacked logits have."""
        if self.surrogate is not None:
            return self.surrogate.classes
        return len(self.classifier.features) if self.classifier is not None else 0


def shard_rows(n: int, chunk: int) -> list[range]:
    """The image rows of each shard: whole chunks, about :data:`SHARD_ROWS` rows."""
    size = max(1, SHARD_ROWS // chunk) * chunk
    return [range(start, min(start + size, n)) for start in range(0, n, size)] or [range(0)]


def environment(device: torch.device) -> dict[str, str | int]:
    """What the bits of a bank depend on besides its key."""
    return {
        "torch": torch.__version__,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def build_banks(made_of: AdversarialSet, attacker: Attacker, views: Sequence[View], *, workers: int = 0) -> None:
    """Fill every view's bank, attacking each image once. Sound shards that are there already are kept; shards that
    another process is working on are left to it and waited for at the end.

    Raises:
        BankError, DataError, AttackError: what stopped the build; finished shards stay.
    """
    built_with = environment(attacker.device) | (attacker.attack.made_with() if attacker.attack else {})
    images, shards = made_of.images, shard_rows(len(made_of.images), made_of.chunk)
    if not len(images):
        raise BankError(f"{images.dataset}, {images.split}: there are no images to make a bank of")
    waiting: list[int] = []
    what = f"{made_of.attack['name']} on {images.split}" if made_of.attack else f"embedding {images.split}"
    what += "".join(f", {view.seen}" for view in views if view.seen.chain is not None)
    with tqdm(total=len(images), desc=what, unit="image", disable=None) as bar:
        for index in range(len(shards)):
            if not _fill(index, shards[index], made_of, attacker, views, workers, bar, wait=False):
                waiting.append(index)
        for index in waiting:
            log.info("waiting for another process that works on %s", shard_name(index))
            _fill(index, shards[index], made_of, attacker, views, workers, bar, wait=True)
    for view in views:
        if not (view.folder / MANIFEST).is_file():
            write_manifest(view.folder, view.spec, [len(rows) for rows in shards], built_with)
        for pattern in (".part-*.partial", ".tmp*"):  # left by processes that were killed, the latter by safetensors
            for torn in view.folder.glob(pattern):
                torn.unlink(missing_ok=True)
    locks = lock_folder(made_of, views)
    for lock in locks.glob("*"):
        lock.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else may still be looking
        locks.rmdir()
        locks.parent.rmdir()


def lock_folder(made_of: AdversarialSet, views: Sequence[View]) -> Path:
    """Where who works on a shard is marked: in one place for all banks of these images, whoever fills which of them."""
    return views[0].folder.parent / ".locks" / digest(made_of.fields())[:16]


def _fill(
    index: int,
    rows: range,
    made_of: AdversarialSet,
    attacker: Attacker,
    views: Sequence[View],
    workers: int,
    bar: tqdm,
    *,
    wait: bool,
) -> bool:
    """Make one shard of every view that lacks it. False when another process holds it and ``wait`` is False."""
    lock = FileLock(lock_folder(made_of, views) / str(index))
    if not lock.acquire(wait):
        return False
    try:
        lacking = [view for view in views if not shard_is_sound(view.folder, index, view.spec.key)]
        if lacking:
            _compute(index, rows, made_of, attacker, lacking, workers, bar)
        else:
            bar.update(len(rows))
    finally:
        lock.release()
    return True


def _compute(
    index: int,
    rows: range,
    made_of: AdversarialSet,
    attacker: Attacker,
    views: Sequence[View],
    workers: int,
    bar: tqdm,
) -> None:
    ids = [made_of.images.samples[row].id for row in rows]
    embeddings: list[list[Tensor]] = [[] for _ in views]
    columns: list[dict[str, Tensor]] = []
    done = 0
    for batch in made_of.images.batches(rows, made_of.chunk, workers):
        names = ids[done : done + len(batch.labels)]
        pixels, facts = attacker(batch, names, made_of.seed or 0)
        with torch.no_grad():
            for view, parts in zip(views, embeddings):
                parts.append(view.embed(pixels, names))
        row = torch.arange(rows.start + done, rows.start + done + len(names))
        columns.append(facts | {"label": batch.labels, "row": row, "file_hash": batch.file_hash})
        done += len(names)
        bar.update(len(names))
    together = {name: torch.cat([part[name] for part in columns]) for name in columns[0]}
    for view, parts in zip(views, embeddings):
        seen = torch.cat(parts)
        if not bool(torch.isfinite(seen).all()):
            bad = ids[int((~torch.isfinite(seen).all(1)).nonzero()[0])]
            raise BankError(f"the embedding of {bad} is not finite; check the weights, nothing was written")
        write_shard(view.folder, index, view.spec.key, ids, together | {"embeddings": seen})
