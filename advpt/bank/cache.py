"""The shelf of banks: find the one a run asks for, use rows of a larger one, or build it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advpt.attacks.spec import AttackSpec
from advpt.attacks.surrogate import Surrogate
from advpt.backbones.clip import Backbone
from advpt.backbones.precision import in_precision
from advpt.bank.build import Attacker, BankTarget, Fill, build_banks, fill_here
from advpt.bank.defended_input import UNDEFENDED, AdaptiveTarget, DefendedInput
from advpt.bank.spec import AdversarialSet, BankSpec
from advpt.bank.store import MANIFEST, Bank, open_bank, read_manifest
from advpt.data.images import ImageSet
from advpt.errors import BankError, BankMismatchError, DataError
from advpt.files import file_digest
from advpt.prompts.classifier import Classifier
from advpt.prompts.image_encoder import visual_digest, with_visual_prompts

log = logging.getLogger(__name__)

CHECKED_IMAGES = 64  # image files compared with their hashes when a bank is reused; `bank verify --images` does all


@dataclass
class BankCache:
    """Banks below ``root`` for one backbone.

    ``load``: gives a backbone with its image encoder, called only when something must be built; ``verify``: compare
    checksums when opening; ``chunk``: images per forward pass; ``workers``: processes that read images;
    ``load_surrogate``: gives the network of attacks that do not go through CLIP, called only for such an attack;
    ``visual``: prompts through which the encoder sees the images of all banks. An attack goes through those of the
    attacked classifier;
    ``fill``: who does the work of a build, this process or a cluster (:func:`advpt.bank.on_ray.filler`).
    """

    root: Path
    backbone: Backbone
    load: Callable[[], Backbone]
    chunk: int = 64
    verify: bool = True
    workers: int = 0
    precision: str = "fp32"  # of the encoder's arithmetic, for attacks and embeddings: fp32, tf32 or amp
    load_surrogate: Callable[[], Surrogate] | None = None
    fill: Fill = fill_here
    visual: Tensor | None = None
    built: list[str] = field(default_factory=list)  # keys built by this object, for the record
    read_from: dict[str, str] = field(default_factory=dict)  # keys whose rows came from a larger bank, and its key
    _open: dict[str, Bank] = field(default_factory=dict, repr=False)  # opened and verified once
    _surrogate: list[Surrogate] = field(default_factory=list, repr=False)  # at most one

    @property
    def surrogate(self) -> Surrogate:
        """The attacker's own network.

        Raises:
            BankError: there is none. WeightsError: it cannot be loaded.
        """
        if not self._surrogate:
            if self.load_surrogate is None:
                raise BankError("this attack goes through a network of the attacker's own, and none was set up")
            self._surrogate.append(self.load_surrogate())
        return self._surrogate[0]

    def with_visual_prompts(self, visual: Tensor | None) -> BankCache:
        """The same shelf, its banks seen through these visual prompts ``[J, n, D_v]`` (None: through none)."""
        return self if visual is self.visual else dataclasses.replace(self, visual=visual)

    def spec(
        self,
        images: ImageSet,
        attack: AttackSpec | None,
        classifier: Classifier | None,
        seed: int,
        seen: DefendedInput = UNDEFENDED,
        attack_target: AdaptiveTarget | None = None,
    ) -> BankSpec:
        """What the bank of ``images`` under ``attack`` depends on. The prompt, and the defense that the attack goes
        through, count only where it sees them, and CLIP only as the encoder where the attack goes through a network of
        its own."""
        encoder, defenses, visual = self.backbone.image_digest, seen.parameters(), visual_digest(self.visual)
        if attack is None:
            clean = AdversarialSet(images, None, None, None, None, self.chunk)
            return BankSpec(clean, encoder, defenses, visual, self.precision)
        built = attack.build()
        if built.source_model == "surrogate":
            own = self.surrogate.digest
            adversarial_set = AdversarialSet(images, built.parameters(), own, None, seed, self.chunk, self.precision)
            return BankSpec(adversarial_set, encoder, defenses, visual, self.precision)
        if built.source_model == "files":  # whatever the seed and the precision here
            adversarial_set = AdversarialSet(images, built.parameters(), None, None, None, self.chunk)
            return BankSpec(adversarial_set, encoder, defenses, visual, self.precision)
        text = None
        if built.objective.space == "logits":
            if classifier is None:
                raise BankError(f"{attack} attacks logits: it needs the prompt to attack through")
            text = classifier.digest
        known = attack_target.parameters() if attack_target is not None else None
        attacked = visual_digest(classifier.visual) if classifier is not None else None
        adversarial_set = AdversarialSet(
            images, built.parameters(), encoder, text, seed, self.chunk, self.precision, known, attacked
        )
        return BankSpec(adversarial_set, encoder, defenses, visual, self.precision)

    def folder(self, spec: BankSpec) -> Path:
        return self.dataset_folder(spec.adversarial_set.images.dataset) / spec.key

    def dataset_folder(self, dataset: str) -> Path:
        """All banks of one data set and backbone."""
        return self.root / dataset / self.backbone.folder

    def get(
        self,
        images: ImageSet,
        attack: AttackSpec | None = None,
        classifier: Classifier | None = None,
        seed: int = 0,
    ) -> Bank:
        """The bank's rows for ``images``, in their order: from disk, from a bank of more images where an image's row
        does not depend on the others, or built now. It has the key of the bank that was asked for in every case.

        Raises:
            BankError: a bank on disk is damaged (it is never silently replaced), or the build failed.
        """
        return self.get_all(images, attack, classifier, seed, [UNDEFENDED])[0]

    def get_all(
        self,
        images: ImageSet,
        attack: AttackSpec | None,
        classifier: Classifier | None,
        seed: int,
        seen: Sequence[DefendedInput],
        attack_target: AdaptiveTarget | None = None,
    ) -> list[Bank]:
        """The same images through several defenses, one bank each. What is not there is built in one pass, in which
        every image is attacked once; with ``attack_target`` the attack goes through that defense.

        Raises:
            BankError: as :meth:`get`.
        """
        specs = [self.spec(images, attack, classifier, seed, each, attack_target) for each in seen]
        missing: dict[str, tuple[BankSpec, DefendedInput]] = {}
        for spec, each in zip(specs, seen):
            if spec.key in self._open or is_complete(self.folder(spec)):
                continue
            larger = self._larger(spec) if _by_image(attack, each, attack_target) else None
            if larger is None:
                missing[spec.key] = (spec, each)
                continue
            log.info("bank     %s: %d rows of %s", _name(attack, images, each), len(images), larger.key[:12])
            rows = larger.select(images.ids)
            self._open[spec.key] = dataclasses.replace(rows, key=spec.key, spec=spec.fields())
            self.read_from[spec.key] = larger.key
        if missing:
            self._build(list(missing.values()), attack, classifier, attack_target)
            self.built += list(missing)
        for spec, each in zip(specs, seen):
            if spec.key not in self._open:
                self.read_from.pop(spec.key, None)
                verb = "built" if spec.key in missing else "reused"
                self._open[spec.key] = self._read(spec, _name(attack, images, each), verb)
        return [self._open[spec.key] for spec in specs]

    def _read(self, spec: BankSpec, what: str, verb: str) -> Bank:
        images, folder = spec.adversarial_set.images, self.folder(spec)
        bank = open_bank(folder, spec.fields(), verify=self.verify)
        log.info("bank     %s: %s %s, %d images", what, verb, spec.key[:12], len(bank))
        if self.verify and verb == "reused":
            check_images(bank, images, CHECKED_IMAGES)
        if list(bank.ids) != images.ids or not torch.equal(bank.labels, images.labels):
            raise BankError(
                f"the rows of {folder} are not the images of its spec; delete the folder and build it again"
            )
        return bank

    def _build(
        self,
        wanted: Sequence[tuple[BankSpec, DefendedInput]],
        attack: AttackSpec | None,
        classifier: Classifier | None,
        attack_target: AdaptiveTarget | None,
    ) -> None:
        spec = wanted[0][0]
        backbone = self.backbone if self.backbone.image is not None else self.load()
        if backbone.image_digest != spec.encoder:
            raise BankError("the weight file changed while the run was going on; start it again")
        backbone.require_size(spec.adversarial_set.images.preprocessing.size)
        encoder, precision = backbone.require_image(), self.precision
        encode = in_precision(with_visual_prompts(encoder, self.visual), precision)
        attacked, visual = encode, classifier.visual if classifier is not None else None
        if visual_digest(visual) != visual_digest(self.visual):
            attacked = in_precision(with_visual_prompts(encoder, visual), precision)
        built = attack.build() if attack else None
        if built is not None:
            built.examine(spec.adversarial_set.images, self.workers)
        own = self.surrogate if built and built.source_model == "surrogate" else None
        attacker = Attacker(built, attacked, classifier, backbone.device, own, attack_target)
        targets = [BankTarget(each, self.folder(each), encode, seen) for each, seen in wanted]
        build_banks(spec.adversarial_set, attacker, targets, workers=self.workers, fill=self.fill)

    def _larger(self, spec: BankSpec) -> Bank | None:
        """A finished bank that differs in its image list alone and has all the images asked for, with their labels and
        made from the files that are there."""
        wanted = spec.fields()
        dataset_folder = self.dataset_folder(spec.adversarial_set.images.dataset)
        labels = {sample.id: sample.label for sample in spec.adversarial_set.images.samples}
        for path in sorted(dataset_folder.glob(f"*/{MANIFEST}")):
            try:
                manifest = read_manifest(path.parent)
                if not _same_but_images(manifest["spec"], wanted):
                    continue
                bank = open_bank(path.parent, None, verify=self.verify)
                has = dict(zip(bank.ids, bank.labels.tolist()))
                if any(has.get(name) != label for name, label in labels.items()):
                    continue
                if self.verify:
                    images = spec.adversarial_set.images
                    check_images(bank.select(images.ids), images, CHECKED_IMAGES)
                return bank
            except BankError as error:
                log.warning("not used: %s", error)
        return None


def _by_image(attack: AttackSpec | None, seen: DefendedInput, attack_target: AdaptiveTarget | None) -> bool:
    """Whether a row of a bank would be the same in a bank of fewer images."""
    attacked = attack is None or (attack.build().by_image and (attack_target is None or attack_target.by_image))
    return attacked and seen.by_image


def _name(attack: AttackSpec | None, images: ImageSet, seen: DefendedInput) -> str:
    """What a bank is, for people."""
    defended = f" through {seen}" if not seen.plain else ""
    return f"{attack or 'clean'} on {images.split}{defended}"


def is_complete(folder: Path) -> bool:
    """Whether a bank was finished and no shard has been deleted since; without shards its manifest is taken away."""
    if not (folder / MANIFEST).is_file():
        return False
    if all((folder / Path(entry["file"]).name).is_file() for entry in read_manifest(folder)["shards"]):
        return True
    (folder / MANIFEST).unlink()
    return False


def check_images(bank: Bank, images: ImageSet, most: int = 0) -> None:
    """Compare image files with the hashes in the bank: ``most`` of them, evenly spread (0 = all).

    Raises:
        BankMismatchError: a file is not the one that the bank was made from. DataError: it is missing.
    """
    step = max(1, -(-len(images) // most)) if most else 1
    for row in range(0, len(images), step):
        path = Path(images.samples[row].path)
        if not path.is_file():
            raise DataError(f"the image {path} is missing; check the data set with: python -m advpt prepare --check")
        has, found = bytes(bank.columns["file_hash"][row].tolist()).hex(), file_digest(path)
        if has != found:
            raise BankMismatchError(
                f"bank {bank.key[:12]} was made from other image files\n  file_hash of {path}: the bank has {has[:16]},"
                f" the file is {found[:16]}; if the file was changed, restore it, or delete the bank and build it "
                "again. If these are other data, with the same names of files and classes as the bank's, keep their "
                "banks apart: with a name of their own (DATASET.TITLE), or another BANK.DIR"
            )


def _same_but_images(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def without_list(fields: dict[str, Any]) -> dict[str, Any]:
        adversarial_set = dict(fields["adversarial_set"])
        adversarial_set["data"] = {"classnames": adversarial_set["data"]["classnames"]}
        return fields | {"adversarial_set": adversarial_set}

    return without_list(one) == without_list(other)
