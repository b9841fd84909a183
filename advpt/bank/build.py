"""Builds banks: attacks the images once, embeds them for all banks of one pass, writes finished shards.

Work goes in fixed chunks, and the random draws of an image depend on its id, so a build that was killed and started
again, or shared by several processes, ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advpt.attacks.base import Attack
from advpt.attacks.noise import SampleNoise, choose_targets
from advpt.attacks.objectives import is_wrong, margin
from advpt.attacks.spec import AttackSpec
from advpt.attacks.surrogate import Surrogate
from advpt.backbones import extras
from advpt.backbones.precision import tf32
from advpt.bank.concurrent import MAX_CONCURRENT, ConcurrentChunks
from advpt.bank.defended_input import UNDEFENDED, AdaptiveTarget, CachedForward, DefendedInput, Encode
from advpt.bank.spec import AdversarialSet, BankSpec
from advpt.bank.store import MANIFEST, shard_is_sound, shard_name, write_manifest, write_shard
from advpt.data.images import ImageBatch
from advpt.errors import BankError
from advpt.files import FileLock, digest, remove_torn
from advpt.progress import Bar
from advpt.prompts.classifier import Classifier

SHARD_ROWS = 256


@dataclass(frozen=True)
class BankTarget:
    """One bank to fill: its spec, its folder, the function from pixels to embeddings, and the defense before it."""

    spec: BankSpec
    folder: Path
    encode: Encode
    input: DefendedInput = UNDEFENDED

    def embed(self, pixels: Tensor, ids: Sequence[str], encode: Encode | None = None) -> Tensor:
        """Embeddings ``[b, L]``, or logits ``[b, K]`` of a reader, float32 on the CPU.

        Args:
            pixels: ``[b, 3, h, w]``, attacked or clean.
            encode: in place of the target's own encoder.
        """
        defended, encode = self.input(pixels, ids), encode or self.encode
        if self.input.reader is not None:
            return self.input.reader(defended, ids, self.spec.adversarial_set.attack is None, encode).float().cpu()
        return encode(defended).float().cpu()


@dataclass(frozen=True)
class Attacker:
    """An attack on a model.

    Args:
        attack: None for clean images.
        encode: the attacked encoder, pixels to embeddings.
        classifier: the attacked prompts, for objectives on logits.
        surrogate: the attacker's own network, in place of ``encode`` and ``classifier``.
        attack_target: what an adaptive attacker differentiates besides the encoder.
        predicted_labels: leave the attacked model's predictions on the clean images, not their labels.
    """

    attack: Attack | None
    encode: Encode
    classifier: Classifier | None
    device: torch.device
    surrogate: Surrogate | None = None
    attack_target: AdaptiveTarget | None = None
    predicted_labels: bool = False

    def __call__(self, batch: ImageBatch, ids: Sequence[str], seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Attacked pixels ``[b, 3, h, w]`` and the bank columns of the attack."""
        x = batch.pixels.to(self.device, non_blocking=True)
        y = batch.labels.to(self.device, non_blocking=True)
        encode = self.encode if self.attack_target is None else self.attack_target.encoder(self.encode, ids, seed, x)
        n, model = len(x), self.model(encode)
        correct = torch.full((n,), -1, dtype=torch.int8)
        if model is not None:
            with torch.no_grad():
                logits = model(x)
            correct = (~is_wrong(logits, y)).to(torch.int8).cpu()
            y = logits.argmax(1) if self.predicted_labels else y
        facts = {
            "clean_correct": correct,
            "perturbed": torch.zeros(n, dtype=torch.bool),
            "stage": torch.full((n,), -1),
            "loss": torch.zeros(n),
            "linf": torch.zeros(n),
        }
        if self.attack is None:
            return x, facts
        if self.attack.objective.targeted:
            y = choose_targets(y, self.classes, ids, seed)
        attack, start = self.attack, self.attack_target.start if self.attack_target is not None else None
        if start is not None:
            attack = attack.starting_at(self._images_of(start, batch, ids, seed))
        out = attack(encode if model is None else model, x, y, SampleNoise(ids, seed))
        linf = 255 * (out.images - x).abs().flatten(1).amax(1)
        facts |= {"perturbed": out.changed, "stage": out.stage, "loss": out.loss, "linf": linf}
        return out.images, {name: value.cpu() for name, value in facts.items()}

    def gradient_size(self, batch: ImageBatch, ids: Sequence[str], seed: int) -> float:
        """The size of the gradient at the pixels that an attack on logits would follow from these images, of the margin
        (which does not saturate as cross-entropy does); a mean over those where it is finite, 0 without any."""
        x, y = batch.pixels.to(self.device), batch.labels.to(self.device)
        encode = self.encode if self.attack_target is None else self.attack_target.encoder(self.encode, ids, seed, x)
        model = self.model(encode)
        if model is None:
            raise BankError(f"the attack {self.attack!r} does not look at logits")
        with torch.enable_grad():
            x = x.requires_grad_()
            (gradient,) = torch.autograd.grad(margin(model(x), x, y).sum(), x)
        sizes = gradient.flatten(1).norm(dim=1)
        return float(sizes[sizes.isfinite()].mean().nan_to_num())

    def _images_of(self, attack: AttackSpec, batch: ImageBatch, ids: Sequence[str], seed: int) -> Tensor:
        """The images of an attack that knows of no defense."""
        return dataclasses.replace(self, attack=attack.build(), attack_target=None)(batch, ids, seed)[0]

    def model(self, encode: Encode) -> Encode | None:
        """The attacked model, pixels to logits; None for an attack on embeddings."""
        if self.attack is None or self.attack.objective.space != "logits":
            return None
        if self.surrogate is not None:
            return self.surrogate
        if self.attack_target is not None and self.attack_target.gives_logits:
            return encode
        classifier = self.classifier
        if classifier is None:
            raise BankError(f"the attack {self.attack!r} needs a prompt to attack through, and none was given")
        return lambda pixels: classifier.logits(encode(pixels))

    @property
    def classes(self) -> int:
        """The number of classes of the attacked logits."""
        if self.surrogate is not None:
            return self.surrogate.classes
        return 0 if self.classifier is None else len(self.classifier.features)


def shard_rows(n: int, chunk: int) -> list[range]:
    """The image rows of each shard: whole chunks, about :data:`SHARD_ROWS` rows."""
    size = max(1, SHARD_ROWS // chunk) * chunk
    return [range(start, min(start + size, n)) for start in range(0, n, size)] or [range(0)]


def environment(device: torch.device, packages: Sequence[str]) -> dict[str, str | int]:
    """Versions and hardware that the bits of a bank depend on besides its key. ``packages``: those that the model's
    code is of (:attr:`~advpt.backbones.backbone.Backbone.packages`)."""
    return {
        "torch": torch.__version__,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **extras.versions(packages),
    }


@dataclass(frozen=True, eq=False)
class Work:
    """One pass over a set of images.

    Args:
        targets: the banks to fill.
        shards: the image rows of each shard (:func:`shard_rows`).
        workers: processes that read images.
        packages: that the code of the model is of.
        concurrent: whether several chunks may be in work at once on one device.
    """

    adversarial_set: AdversarialSet
    attacker: Attacker
    targets: tuple[BankTarget, ...]
    shards: tuple[range, ...]
    workers: int = 0
    packages: tuple[str, ...] = ()
    concurrent: bool = True

    @functools.cached_property
    def concurrent_chunks(self) -> ConcurrentChunks:
        attack = self.attacker.attack
        several = self.concurrent and (attack is None or attack.thread_safe)
        return ConcurrentChunks(self.attacker.device, MAX_CONCURRENT if several else 1)

    def lock(self, index: int) -> FileLock:
        """The lock of a shard, for the process that works on it."""
        return FileLock(lock_folder(self) / str(index), shard_name(index))

    def built_with(self) -> dict[str, Any]:
        """:func:`environment` of this process, and versions of the attack's packages."""
        attack = self.attacker.attack
        return environment(self.attacker.device, self.packages) | (attack.provenance() if attack else {})

    def fill(self, index: int, progress: Callable[[int], object]) -> None:
        """Make one shard of every bank that lacks it; ``progress(n)`` is called after every n images."""
        lacking = [target for target in self.targets if not shard_is_sound(target.folder, index, target.spec.key)]
        if not lacking:
            progress(len(self.shards[index]))
            return
        with tf32(lacking[0].spec.precision.startswith("tf32")):
            _compute(index, self, lacking, progress)


# Fills all shards of a work, moves the bar, and returns what the shards were built with (:meth:`Work.built_with`).
Fill = Callable[[Work, Bar], Mapping[str, Any]]


def fill_here(work: Work, bar: Bar) -> Mapping[str, Any]:
    """Fill the shards one by one in this process, those that another process works on at the end, when it has them."""
    others = []
    for index in range(len(work.shards)):
        lock = work.lock(index)
        if not lock.acquire(wait=False):
            others.append(index)
            continue
        with lock:
            work.fill(index, bar.update)
    for index in others:
        with work.lock(index):  # waits, and says so
            work.fill(index, bar.update)
    return work.built_with()


def build_banks(work: Work, fill: Fill = fill_here) -> None:
    """Fill the bank of every target, attacking each image once. Sound shards on disk are kept.

    Args:
        fill: fills the shards, in this process or on a cluster (:mod:`advpt.bank.on_ray`).

    Raises:
        BankError, DataError, AttackError: what stopped the build; finished shards stay.
    """
    images, attack = work.adversarial_set.images, work.adversarial_set.attack
    if not len(images):
        raise BankError(f"{images.dataset}, {images.split}: there are no images to make a bank of")
    label = f"{attack['name']} on {images.split}" if attack else f"embedding {images.split}"
    label += "".join(f", {target.input}" for target in work.targets if not target.input.plain)
    with Bar(label, len(images), "image") as bar:
        built_with = fill(work, bar)
    for target in work.targets:
        remove_torn(target.folder)
    locks = lock_folder(work)
    with contextlib.suppress(OSError):  # another process may remove them as well, or still use them
        for path in locks.glob("*"):
            path.unlink(missing_ok=True)
        locks.rmdir()
        locks.parent.rmdir()
    for target in work.targets:  # last: no later build tidies up a bank that has a manifest
        if not (target.folder / MANIFEST).is_file():
            write_manifest(target.folder, target.spec.fields(), [len(rows) for rows in work.shards], built_with)


def lock_folder(work: Work) -> Path:
    """Folder of the lock files of the shards, shared by all banks that are built from these images."""
    return work.targets[0].folder.parent / ".locks" / digest(work.adversarial_set.fields())[:16]


def _compute(index: int, work: Work, targets: Sequence[BankTarget], progress: Callable[[int], object]) -> None:
    images, chunk = work.adversarial_set.images, work.adversarial_set.chunk
    attacker, rows = work.attacker, work.shards[index]
    ids = [images.samples[row].id for row in rows]

    def attack_and_embed(item: tuple[int, ImageBatch]) -> tuple[list[Tensor], dict[str, Tensor]]:
        first, batch = item
        names, encode = ids[first : first + len(batch.labels)], CachedForward(attacker.encode)
        pixels, facts = dataclasses.replace(attacker, encode=encode)(batch, names, work.adversarial_set.seed or 0)
        other = CachedForward(targets[0].encode)  # all targets have one encoder
        with torch.no_grad():
            embedded = [
                target.embed(pixels, names, encode if target.encode is attacker.encode else other) for target in targets
            ]
        row = torch.arange(rows.start + first, rows.start + first + len(names))
        return embedded, facts | {"label": batch.labels, "row": row, "file_hash": batch.file_hash}

    batches = images.batches(rows, chunk, work.workers, pin_memory=attacker.device.type == "cuda")
    chunks = []
    for done in work.concurrent_chunks.run(attack_and_embed, zip(itertools.count(0, chunk), batches)):
        chunks.append(done)
        progress(len(done[1]["label"]))
    columns = {name: torch.cat([facts[name] for _, facts in chunks]) for name in chunks[0][1]}
    for place, target in enumerate(targets):
        whole = torch.cat([embedded[place] for embedded, _ in chunks])
        if not bool(torch.isfinite(whole).all()):
            bad = ids[int((~torch.isfinite(whole).all(1)).nonzero()[0])]
            raise BankError(f"the embedding of {bad} is not finite; check the weights, nothing was written")
        write_shard(target.folder, index, target.spec.key, ids, columns | {"embeddings": whole})
