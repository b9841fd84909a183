"""The cache of banks: open the one that a run asks for, take rows of a larger one, or build it."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from advpt.attacks.base import Attack
from advpt.attacks.spec import AttackSpec
from advpt.attacks.surrogate import Surrogate
from advpt.backbones.backbone import Backbone
from advpt.backbones.enlarging import EnlargingBackbone
from advpt.backbones.mixture import Visual
from advpt.backbones.precision import in_precision
from advpt.bank.build import Attacker, BankTarget, Fill, Work, build_banks, fill_here, shard_rows
from advpt.bank.defended_input import UNDEFENDED, AdaptiveTarget, DefendedInput, Encode
from advpt.bank.spec import AdversarialSet, BankSpec
from advpt.bank.store import MANIFEST, Bank, open_bank, read_manifest
from advpt.data.images import ImageSet
from advpt.errors import BankError, BankMismatchError, DataError
from advpt.files import file_digest
from advpt.prompts.classifier import Classifier
from advpt.prompts.image_encoder import visual_digest, with_visual_prompts

log = logging.getLogger(__name__)

CHECKED_IMAGES = 64  # image files, evenly spread, that are compared with their hashes when a bank is reused


@dataclass(frozen=True, eq=False)
class AttackRequest:
    """Images and the attack on them: what a bank is asked for.

    Args:
        attack: None for the clean images.
        classifier: the prompts that the attack goes through; only attacks on logits need them.
        seed: of the attack's random draws.
        attack_target: what an adaptive attacker differentiates besides the encoder.
        predicted_labels: the attack leaves what the attacked model predicts for the clean image, not its label.
        source: whose image encoder the attack goes through, in the place of the one that embeds the images.
    """

    images: ImageSet
    attack: AttackSpec | None = None
    classifier: Classifier | None = None
    seed: int = 0
    attack_target: AdaptiveTarget | None = None
    predicted_labels: bool = False
    source: Backbone | None = None

    @functools.cached_property
    def algorithm(self) -> Attack | None:
        """The attack object."""
        return self.attack.build() if self.attack is not None else None

    @property
    def visual(self) -> Visual | None:
        """The prompts in the attacked encoder."""
        return self.classifier.visual if self.classifier is not None else None

    @property
    def by_image(self) -> bool:
        """Whether an attacked image is the same among fewer images."""
        return all(part is None or part.by_image for part in (self.algorithm, self.attack_target))

    def label(self, defended: DefendedInput) -> str:
        """The bank's content in words, for the log."""
        behind = "" if defended.plain else f" through {defended}"
        return f"{self.attack or 'clean'} on {self.images.split}{behind}"


@dataclass
class CacheState:
    """The state that all views of one cache share.

    Args:
        opened: banks that were opened and verified, by key.
        built: keys of the banks that were built here.
        read_from: for banks whose rows came from a larger one, its key by theirs.
        surrogate: the attacker's own network, once it is loaded. backbone: with its image encoder, likewise.
    """

    opened: dict[str, Bank] = field(default_factory=dict, repr=False)
    built: list[str] = field(default_factory=list)
    read_from: dict[str, str] = field(default_factory=dict)
    surrogate: Surrogate | None = None
    backbone: Backbone | None = None


@dataclass(frozen=True)
class BankCache:
    """Banks below ``root`` for one backbone: opened, read from a larger bank, or built.

    Args:
        load: gives a backbone with its image encoder; called only when something must be built.
        chunk: images per forward pass.
        verify: compare checksums when a bank is opened.
        workers: processes that read images.
        precision: of the encoder's arithmetic, for attacks and embeddings: ``fp32``, ``tf32`` or ``amp``.
        load_surrogate: gives the network of attacks that do not go through CLIP; called only for such an attack.
        fill: builds the shards, in this process or on a cluster (:func:`advpt.bank.on_ray.filler`).
        visual: prompts ``[J, n, D_v]`` in the encoder that embeds the images of all banks. The attacked encoder has
            those of the attacked classifier.
    """

    root: Path
    backbone: Backbone
    load: Callable[[], Backbone]
    chunk: int = 64
    verify: bool = True
    workers: int = 0
    precision: str = "fp32"
    load_surrogate: Callable[[], Surrogate] | None = None
    fill: Fill = fill_here
    visual: Visual | None = None
    state: CacheState = field(default_factory=CacheState)

    @property
    def surrogate(self) -> Surrogate:
        """The attacker's own network. Raises BankError where there is none, WeightsError where it cannot be loaded."""
        if self.state.surrogate is None:
            if self.load_surrogate is None:
                raise BankError("this attack goes through a network of the attacker's own, and none was set up")
            self.state.surrogate = self.load_surrogate()
        return self.state.surrogate

    def with_visual_prompts(self, visual: Visual | None) -> BankCache:
        """The same cache for the encoder with these visual prompts ``[J, n, D_v]`` (None: without any)."""
        return self if visual is self.visual else dataclasses.replace(self, visual=visual)

    def with_backbone(self, backbone: Backbone) -> BankCache:
        """The cache of another image encoder; the banks that are open stay with this one."""
        state = dataclasses.replace(self.state, opened={}, backbone=None)
        return dataclasses.replace(self, backbone=backbone, load=lambda: backbone, state=state)

    def at(self, size: tuple[int, int]) -> BankCache:
        """The cache for images of this size, which the model enlarges itself. ``size``: height and width."""
        state = dataclasses.replace(self.state, opened={}, backbone=None)
        backbone, load = EnlargingBackbone(self.backbone, size), self.loaded
        return dataclasses.replace(self, backbone=backbone, load=lambda: EnlargingBackbone(load(), size), state=state)

    def spec(self, request: AttackRequest, defended: DefendedInput = UNDEFENDED) -> BankSpec:
        """The spec of a request's bank. Prompts and the attacked defense count only for attacks that use
        them, and the attacked CLIP not for attacks through a network of the attacker's own."""
        made, attack = AdversarialSet(request.images, self.chunk), request.algorithm
        if attack is not None:
            made = dataclasses.replace(made, attack=attack.parameters())
        if attack is not None and attack.source_model != "files":  # the same whatever the seed and the precision here
            made = dataclasses.replace(made, seed=request.seed, precision=self.precision)
            made = self._attacked(made, request, attack)
        encoder, visual = self.backbone.image_digest, visual_digest(self.visual)
        return BankSpec(made, encoder, defended.parameters(), visual, self.precision)

    def _attacked(self, made: AdversarialSet, request: AttackRequest, attack: Attack) -> AdversarialSet:
        """The set with what the attack goes through."""
        made = dataclasses.replace(made, labels="predicted" if request.predicted_labels else None)
        if attack.source_model == "surrogate":
            return dataclasses.replace(made, attacked_image=self.surrogate.digest)
        classifier, text = request.classifier, None
        if attack.objective.space == "logits":
            if classifier is None:
                raise BankError(f"{request.attack} attacks logits: it needs the prompt to attack through")
            text = classifier.digest
        return dataclasses.replace(
            made,
            attacked_image=(self.source(request) or self.backbone).image_digest,
            attacked_text=text,
            attacked_defense=request.attack_target.parameters() if request.attack_target is not None else None,
            attacked_visual=visual_digest(request.visual),
        )

    def source(self, request: AttackRequest) -> Backbone | None:
        """The source of a request, which enlarges the images as this cache's backbone does; None where it has none."""
        source, own = request.source, self.backbone
        if source is None or not isinstance(own, EnlargingBackbone):
            return source
        return EnlargingBackbone(source, own.card.image.size)

    def folder(self, spec: BankSpec) -> Path:
        """The folder of a bank."""
        return self.dataset_folder(spec.adversarial_set.images.dataset) / spec.key

    def dataset_folder(self, dataset: str) -> Path:
        """The folder of all banks of one data set and backbone."""
        return self.root / dataset / self.backbone.folder

    def get(
        self,
        images: ImageSet,
        attack: AttackSpec | None = None,
        classifier: Classifier | None = None,
        seed: int = 0,
    ) -> Bank:
        """The bank of one request without defenses; see :class:`AttackRequest` and :meth:`get_all`.

        Raises:
            BankError: a bank on disk is damaged (it is never silently replaced), or the build failed.
        """
        return self.get_all(AttackRequest(images, attack, classifier, seed), [UNDEFENDED])[0]

    def get_all(self, request: AttackRequest, inputs: Sequence[DefendedInput]) -> list[Bank]:
        """One bank for each of ``inputs``, with rows in the order of the images. Each is read from disk, taken from a
        bank of more images where a row does not depend on the others, or built now: every image is attacked once for
        all missing banks. A bank has the key that was asked for in every case.

        Raises:
            BankError: as :meth:`get`.
        """
        images, state = request.images, self.state
        specs = [self.spec(request, defended) for defended in inputs]
        missing: dict[str, tuple[BankSpec, DefendedInput]] = {}
        for spec, defended in zip(specs, inputs):
            if spec.key in state.opened or is_complete(self.folder(spec)):
                continue
            larger = self._larger(spec) if request.by_image and defended.by_image else None
            if larger is None:
                missing[spec.key] = (spec, defended)
                continue
            log.info("bank     %s: %d rows of %s", request.label(defended), len(images), larger.key[:12])
            rows = larger.select(images.ids)
            state.opened[spec.key] = dataclasses.replace(rows, key=spec.key, spec=spec.fields())
            state.read_from[spec.key] = larger.key
        if missing:
            self._build(list(missing.values()), request)
            state.built += list(missing)
        for spec, defended in zip(specs, inputs):
            if spec.key not in state.opened:
                state.read_from.pop(spec.key, None)
                verb = "built" if spec.key in missing else "reused"
                state.opened[spec.key] = self._read(spec, request.label(defended), verb)
        return [state.opened[spec.key] for spec in specs]

    def _read(self, spec: BankSpec, label: str, verb: str) -> Bank:
        images, folder = spec.adversarial_set.images, self.folder(spec)
        bank = open_bank(folder, spec.fields(), verify=self.verify)
        log.info("bank     %s: %s %s, %d images", label, verb, spec.key[:12], len(bank))
        if self.verify and verb == "reused":
            check_images(bank, images)
        if list(bank.ids) != images.ids or not torch.equal(bank.labels, images.labels):
            raise BankError(
                f"the rows of {folder} are not the images of its spec; delete the folder and build it again"
            )
        return bank

    def loaded(self) -> Backbone:
        """The backbone with its image encoder, read once."""
        if self.backbone.image is not None:
            return self.backbone
        if self.state.backbone is None:
            self.state.backbone = self.load()
        return self.state.backbone

    def target(self, request: AttackRequest, defended: DefendedInput, backbone: Backbone) -> BankTarget:
        """What fills the bank of a request, with the encoder of this cache."""
        spec = self.spec(request, defended)
        return BankTarget(spec, self.folder(spec), self._encoder(backbone, self.visual), defended)

    def _encoder(self, backbone: Backbone, visual: Visual | None) -> Encode:
        """The image encoder with these visual prompts, in the cache's precision."""
        return in_precision(with_visual_prompts(backbone.require_image(), visual), self.precision)

    def attacker(self, request: AttackRequest, backbone: Backbone) -> Attacker:
        """The attack of a request on this backbone, in the cache's precision."""
        attack = request.algorithm
        encode = self._encoder(self.source(request) or backbone, request.visual)
        surrogate = self.surrogate if attack is not None and attack.source_model == "surrogate" else None
        return Attacker(
            attack,
            encode,
            request.classifier,
            backbone.device,
            surrogate,
            request.attack_target,
            request.predicted_labels,
        )

    def _build(self, wanted: Sequence[tuple[BankSpec, DefendedInput]], request: AttackRequest) -> None:
        spec = wanted[0][0]
        backbone = self.loaded()
        if backbone.image_digest != spec.encoder:
            raise BankError("the weight file changed while the run was going on; start it again")
        backbone.require_preprocessing(request.images.preprocessing)
        attacker = self.attacker(request, backbone)
        encode = attacker.encode  # shared where it is the same, so that no forward pass is repeated
        if request.source is not None or visual_digest(request.visual) != visual_digest(self.visual):
            encode = self._encoder(backbone, self.visual)
        if request.algorithm is not None:
            request.algorithm.examine(request.images, self.workers)
        targets = tuple(BankTarget(each, self.folder(each), encode, defended) for each, defended in wanted)
        shards = tuple(shard_rows(len(request.images), self.chunk))
        work = Work(
            spec.adversarial_set, attacker, targets, shards, self.workers, backbone.packages, backbone.concurrent
        )
        build_banks(work, self.fill)

    def _larger(self, spec: BankSpec) -> Bank | None:
        """A finished bank that differs in its image list alone and has all requested images, with their labels and made
        from the same files."""
        wanted, images = spec.fields(), spec.adversarial_set.images
        for path in sorted(self.dataset_folder(images.dataset).glob(f"*/{MANIFEST}")):
            try:
                if not _same_but_images(read_manifest(path.parent)["spec"], wanted):
                    continue
                bank = open_bank(path.parent, None, verify=self.verify)
                labels = dict(zip(bank.ids, bank.labels.tolist()))
                if any(labels.get(sample.id) != sample.label for sample in images.samples):
                    continue
                if self.verify:
                    check_images(bank.select(images.ids), images)
                return bank
            except BankError as error:
                log.warning("not used: %s", error)
        return None


def is_complete(folder: Path) -> bool:
    """Whether a bank is finished and has all its shards; the manifest of one without all shards is deleted."""
    if not (folder / MANIFEST).is_file():
        return False
    if all((folder / entry["file"]).is_file() for entry in read_manifest(folder)["shards"]):
        return True
    (folder / MANIFEST).unlink()
    return False


def check_images(bank: Bank, images: ImageSet) -> None:
    """Compare up to :data:`CHECKED_IMAGES` image files with the hashes in the bank.

    Raises:
        BankMismatchError: a file is not the one that the bank was made from. DataError: it is missing.
    """
    step = max(1, math.ceil(len(images) / CHECKED_IMAGES))
    for row in range(0, len(images), step):
        path = Path(images.samples[row].path)
        if not path.is_file():
            raise DataError(f"the image {path} is missing; check the data set with: python -m advpt prepare --check")
        expected, actual = bytes(bank.columns["file_hash"][row].tolist()).hex(), file_digest(path)
        if expected != actual:
            raise BankMismatchError(
                f"bank {bank.key[:12]} was made from other image files\n  file_hash of {path}: the bank has "
                f"{expected[:16]}, the file is {actual[:16]}; if the file was changed, restore it, or delete the bank "
                "and build it again. If these are other data, with the same names of files and classes as the "
                "bank's, keep their banks apart: with a name of their own (DATASET.TITLE), or another BANK.DIR"
            )


def _same_but_images(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def without_list(fields: dict[str, Any]) -> dict[str, Any]:
        made = fields["adversarial_set"]
        return fields | {"adversarial_set": made | {"data": made["data"] | {"images": None, "n": None}}}

    return without_list(one) == without_list(other)
