"""Filling banks: attack the images once, embed them for everybody who asked, write finished shards.

Work goes in fixed chunks, and what an image gets depends on its id, so a build that was killed and started again, or
shared by several processes, ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from advpt.attacks.base import Attack
from advpt.attacks.noise import SampleNoise, choose_targets
from advpt.attacks.objectives import is_wrong
from advpt.attacks.surrogate import Surrogate
from advpt.backbones.precision import tf32
from advpt.bank.concurrent import MAX_CONCURRENT, ConcurrentChunks, ReadAhead
from advpt.bank.defended_input import UNDEFENDED, AdaptiveTarget, DefendedInput, Encode
from advpt.bank.spec import AdversarialSet, BankSpec
from advpt.bank.store import MANIFEST, shard_is_sound, shard_name, write_manifest, write_shard
from advpt.data.images import ImageBatch
from advpt.errors import BankError
from advpt.files import FileLock, digest, remove_torn
from advpt.prompts.classifier import Classifier

log = logging.getLogger(__name__)

SHARD_ROWS = 256


@dataclass(frozen=True)
class BankTarget:
    """One bank to fill: its spec, its folder, the function from pixels to embeddings, and the defense before it."""

    spec: BankSpec
    folder: Path
    encode: Encode
    input: DefendedInput = UNDEFENDED

    def embed(self, pixels: Tensor, ids: Sequence[str], encode: Encode | None = None) -> Tensor:
        """``[b, L]`` float32 on the CPU, of (attacked) pixels ``[b, 3, h, w]``; ``encode``: in place of its own."""
        seen = self.input(pixels, ids)
        if self.input.reader is not None:
            return self.input.reader(seen, ids, self.spec.adversarial_set.attack is None).float().cpu()
        return (encode or self.encode)(seen).float().cpu()


class CachedForward:
    """An encoder that does not repeat its last pass without gradients: attacks end with the pass that the bank needs,
    and begin with one that tells who was right."""

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self._last: tuple[Tensor, int, Tensor] | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.encode(pixels)
        if self._last is not None:
            before, version, output = self._last
            if before._version == version and torch.equal(before, pixels):  # nobody has written into them since
                return output
            self._last = None
        output = self.encode(pixels)
        self._last = pixels, pixels._version, output
        return output


@dataclass(frozen=True)
class Attacker:
    """Who makes the images: the attack, the encoder it goes through, the prompt if its objective needs one, and the
    attacker's own network if it goes through that instead (``encode`` and ``classifier`` are not looked at then).
    ``attack_target`` is the defense before the encoder, if the attacker knows it."""

    attack: Attack | None
    encode: Encode
    classifier: Classifier | None
    device: torch.device
    surrogate: Surrogate | None = None
    attack_target: AdaptiveTarget | None = None

    def __call__(self, batch: ImageBatch, ids: Sequence[str], seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Attacked pixels ``[b, 3, h, w]`` and the columns that describe them."""
        if self.attack_target is not None:
            encode = self.attack_target.encoder(self.encode, ids, seed, batch.pixels.to(self.device))
            return dataclasses.replace(self, encode=encode, attack_target=None)(batch, ids, seed)
        x = batch.pixels.to(self.device, non_blocking=True)
        y = batch.labels.to(self.device, non_blocking=True)
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
        if self.attack.objective.targeted:
            y = choose_targets(y, self.classes, ids, seed)
        out = self.attack(forward, x, y, SampleNoise(ids, seed))
        linf = 255 * (out.images - x).abs().flatten(1).amax(1)
        facts |= {"perturbed": out.changed, "stage": out.stage, "loss": out.loss, "linf": linf}
        return out.images, {name: value.cpu() for name, value in facts.items()}

    def logits(self) -> Encode | None:
        """Pixels to the logits of whoever is attacked; None where the attack looks at no logits."""
        if self.attack is None or self.attack.objective.space != "logits":
            return None
        if self.attack.source_model == "surrogate":
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


@dataclass(frozen=True, eq=False)
class Work:
    """One pass over a set of images: who attacks them, the banks that see them, the image rows of each shard, and how
    many processes read images."""

    adversarial_set: AdversarialSet
    attacker: Attacker
    targets: tuple[BankTarget, ...]
    shards: tuple[range, ...]
    workers: int = 0

    @functools.cached_property
    def concurrent_chunks(self) -> ConcurrentChunks:
        attack = self.attacker.attack
        return ConcurrentChunks(self.attacker.device, MAX_CONCURRENT if attack is None or attack.thread_safe else 1)

    def lock(self, index: int) -> FileLock:
        """Held by whoever works on a shard."""
        return FileLock(lock_folder(self.adversarial_set, self.targets) / str(index))

    def built_with(self) -> dict[str, Any]:
        """What the bits depend on besides the keys, where this process fills shards."""
        attack = self.attacker.attack
        return environment(self.attacker.device) | (attack.provenance() if attack else {})

    def read(self, index: int) -> Iterator[ImageBatch]:
        """The images of a shard, a chunk at a time."""
        images, chunk = self.adversarial_set.images, self.adversarial_set.chunk
        cuda = self.attacker.device.type == "cuda"
        return images.batches(self.shards[index], chunk, self.workers, pin_memory=cuda)

    def lacking(self, index: int) -> list[BankTarget]:
        """The banks that have no sound shard of this number."""
        return [target for target in self.targets if not shard_is_sound(target.folder, index, target.spec.key)]

    def fill(
        self, index: int, tell: Callable[[int], object], read: Callable[[int], Iterable[ImageBatch]] | None = None
    ) -> None:
        """Make one shard of every bank that lacks it.

        Args:
            index: of the shard.
            tell: called with numbers of images that are done.
            read: gives the images of a shard, in the place of :meth:`read`.
        """
        rows, lacking = self.shards[index], self.lacking(index)
        if not lacking:
            tell(len(rows))
            return
        with tf32(lacking[0].spec.precision.startswith("tf32")):
            _compute(index, (read or self.read)(index), self, lacking, tell)


# Fills all shards of a work, moves the bar, and says what the shards were made with.
Fill = Callable[[Work, tqdm], Mapping[str, Any]]


def fill_here(work: Work, bar: tqdm) -> Mapping[str, Any]:
    """Fill the shards one by one in this process. Those that another process is working on are left to it and waited
    for at the end."""

    def fill(index: int, wait: bool) -> bool:
        lock = work.lock(index)
        if not lock.acquire(wait):
            return False
        try:
            work.fill(index, bar.update, read)
        finally:
            lock.release()
        return True

    def following(index: int) -> int | None:
        return index + 1 if index + 1 < len(work.shards) and work.lacking(index + 1) else None

    with contextlib.ExitStack() as stack:
        read: Callable[[int], Iterable[ImageBatch]] = work.read
        if work.attacker.device.type == "cuda":
            read = stack.enter_context(ReadAhead(work.read, following))
        for index in [index for index in range(len(work.shards)) if not fill(index, wait=False)]:
            log.info("waiting for another process that works on %s", shard_name(index))
            fill(index, wait=True)
    return work.built_with()


def build_banks(
    adversarial_set: AdversarialSet,
    attacker: Attacker,
    targets: Sequence[BankTarget],
    *,
    workers: int = 0,
    fill: Fill = fill_here,
) -> None:
    """Fill every view's bank, attacking each image once. Sound shards that are there already are kept. ``fill``: who
    does the work, this process or a cluster (:mod:`advpt.bank.on_ray`).

    Raises:
        BankError, DataError, AttackError: what stopped the build; finished shards stay.
    """
    images = adversarial_set.images
    if not len(images):
        raise BankError(f"{images.dataset}, {images.split}: there are no images to make a bank of")
    work = Work(
        adversarial_set, attacker, tuple(targets), tuple(shard_rows(len(images), adversarial_set.chunk)), workers
    )
    what = (
        f"{adversarial_set.attack['name']} on {images.split}" if adversarial_set.attack else f"embedding {images.split}"
    )
    what += "".join(f", {target.input}" for target in targets if not target.input.plain)
    with tqdm(total=len(images), desc=what, unit="image", disable=None) as bar:
        built_with = fill(work, bar)
    for target in targets:
        if not (target.folder / MANIFEST).is_file():
            write_manifest(target.folder, target.spec, [len(rows) for rows in work.shards], built_with)
        remove_torn(target.folder)
    locks = lock_folder(adversarial_set, targets)
    with contextlib.suppress(OSError):  # another process may be tidying up as well, or still be at work
        for path in locks.glob("*"):
            path.unlink(missing_ok=True)
        locks.rmdir()
        locks.parent.rmdir()


def lock_folder(adversarial_set: AdversarialSet, targets: Sequence[BankTarget]) -> Path:
    """Where who works on a shard is marked: in one place for all banks of these images, whoever fills which of them."""
    return targets[0].folder.parent / ".locks" / digest(adversarial_set.fields())[:16]


def _compute(
    index: int,
    batches: Iterable[ImageBatch],
    work: Work,
    targets: Sequence[BankTarget],
    tell: Callable[[int], object],
) -> None:
    adversarial_set, attacker, rows = work.adversarial_set, work.attacker, work.shards[index]
    ids = [adversarial_set.images.samples[row].id for row in rows]
    embeddings: list[list[Tensor]] = [[] for _ in targets]
    columns: list[dict[str, Tensor]] = []

    def attack_and_embed(item: tuple[int, ImageBatch]) -> tuple[list[Tensor], dict[str, Tensor]]:
        first, batch = item
        names, encode = ids[first : first + len(batch.labels)], CachedForward(attacker.encode)
        pixels, facts = dataclasses.replace(attacker, encode=encode)(batch, names, adversarial_set.seed or 0)
        with torch.no_grad():
            seen = [
                target.embed(pixels, names, encode if target.encode is attacker.encode else target.encode)
                for target in targets
            ]
        row = torch.arange(rows.start + first, rows.start + first + len(names))
        return seen, facts | {"label": batch.labels, "row": row, "file_hash": batch.file_hash}

    for seen, facts in work.concurrent_chunks.run(
        attack_and_embed, zip(itertools.count(0, adversarial_set.chunk), batches)
    ):
        for parts, part in zip(embeddings, seen):
            parts.append(part)
        columns.append(facts)
        tell(len(facts["label"]))
    together = {name: torch.cat([part[name] for part in columns]) for name in columns[0]}
    for target, parts in zip(targets, embeddings):
        whole = torch.cat(parts)
        if not bool(torch.isfinite(whole).all()):
            bad = ids[int((~torch.isfinite(whole).all(1)).nonzero()[0])]
            raise BankError(f"the embedding of {bad} is not finite; check the weights, nothing was written")
        write_shard(target.folder, index, target.spec.key, ids, together | {"embeddings": whole})
