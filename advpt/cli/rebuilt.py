"""A run's trainer again, from its folder and the settings of a record: nothing is trained, no bank of it is used."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advpt import additions
from advpt.attacks.spec import is_files
from advpt.backbones.names import parse, parse_tower
from advpt.bank.store import MANIFEST, open_bank
from advpt.cli import common, rebuilt_outside
from advpt.data import data_root
from advpt.errors import AdvPTError, ConfigError, RecordError
from advpt.evaluation import run_folder
from advpt.evaluation.findings import Finding
from advpt.evaluation.identities import Named
from advpt.evaluation.protocols import recorded, split_protocol
from advpt.evaluation.record import Record
from advpt.evaluation.session import Subject
from advpt.files import read_object
from advpt.outside.evaluate import TRAINER
from advpt.schema import Json, JsonObject
from advpt.settings import UNCOMPARED_LEAVES, UNRECORDED_LEAVES, BankSettings, merge_overrides

ANCESTORS = 8  # folders above a run, below which the other files of a copied result set are looked for
FILES = {"MODEL.WEIGHTS": "--weights", "MODEL.IMAGE_WEIGHTS": "--image-weights"}


@dataclass(frozen=True)
class Places:
    """Where things lie that a run's folder does not hold. ``root``: of the data sets; ``weights``, ``image_weights``:
    files in the place of those that the run names; ``model``: the folder of the run that was evaluated, where it is
    another one; ``device``: cpu or cuda; ``outside``: of records of a model from outside its name, ``my.module:make``,
    and ``folder`` that of their images."""

    root: str = ""
    weights: str = ""
    image_weights: str = ""
    model: str = ""
    device: str = ""
    outside: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Rebuilt:
    """What records of a run are of. ``conflicts``: settings of the records that the run's folder contradicts."""

    subject: Subject
    named: Named
    conflicts: tuple[Finding, ...] = ()


def rebuild(run: Path, records: Sequence[Record], places: Places, scratch: Path) -> Rebuilt:
    """What records of a run's folder with the same settings are of.

    Args:
        scratch: a folder for banks and what else an evaluation leaves.

    Raises:
        AdvPTError: a sentence on what is missing.
    """
    result = records[0].result
    if result.trainer == TRAINER:
        config = with_files(additions.complete(result.config), records)[0]
        return Rebuilt(
            rebuilt_outside.subject(records[0], config, places.outside, places.folder, places.root, scratch), Named()
        )
    train = common.register_plugins()  # brings torchvision, a second to import
    from dassl.config import get_cfg_default
    from dassl.engine import TRAINER_REGISTRY, build_trainer
    from dassl.utils import set_random_seed

    from trainers.advpt import CLIPTrainer

    known = TRAINER_REGISTRY.registered_names()
    if result.trainer not in known or not issubclass(TRAINER_REGISTRY.get(result.trainer), CLIPTrainer):
        raise ConfigError(f"its trainer {result.trainer} is none of those in trainers/")
    saved = read_object(run / run_folder.FILE, RecordError) if (run / run_folder.FILE).is_file() else {}
    if not saved and "TRAINER.NAME" not in result.config:
        raise ConfigError(f"{run} has no {run_folder.FILE}: what was evaluated from Python has no run to evaluate anew")
    workers = min(4, os.cpu_count() or 1) if places.device == "cuda" else 0
    attacks = {**saved, **result.config}.get("EVAL.ATTACKS", [])
    if not isinstance(attacks, list | tuple) or not all(isinstance(text, str) for text in attacks):
        raise ConfigError(f"its EVAL.ATTACKS is {attacks!r}; expected a list of attacks")
    settings, left_out = with_files(settings_of(saved, result.config, run, places), records)
    if settings.get("TRAINER.NAME", result.trainer) != result.trainer:
        raise ConfigError(f"its trainer is {result.trainer}, and its settings name {settings['TRAINER.NAME']}")
    settings |= {"BANK.DIR": str(scratch / "banks"), "OUTPUT_DIR": str(scratch / "run"), "RESUME": "", "VERBOSE": False}
    settings |= {"DATASET.ROOT": data_root(places.root)[0], "USE_CUDA": places.device == "cuda"}
    settings |= {"BANK.ENGINE": "local", "BANK.VERIFY": True, "DATALOADER.NUM_WORKERS": workers}
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    merge_overrides(cfg, [word for pair in settings.items() for word in pair])
    cfg.freeze()
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    folder = model_of(run, places)
    subject, trainer = loaded(lambda: build_trainer(cfg), folder, records[0])
    facts = subject.facts
    if left_out:  # images made elsewhere that are not here; the other records of the run do not need them
        facts = dataclasses.replace(facts, config=result.config, config_digest=result.config_digest)
        subject = dataclasses.replace(subject, facts=facts)
    return Rebuilt(subject, named(run, trainer, result.split), tuple(conflicts(saved, result.config)))


def loaded(build: Any, folder: Path, record: Record) -> tuple[Subject, Any]:
    """The subject of a record: of the checkpoint that is loaded where none is named, or of the epoch that the record
    names where that one is what the record is of."""
    result, epochs = record.result, list[int | None]([None])
    details = result.training.loaded or {}
    if isinstance(epoch := details.get("epoch"), int):
        epochs.append(epoch)
    made: tuple[Subject, Any] | None = None
    for epoch in epochs:
        trainer = build()
        try:
            trainer.load_model(str(folder), epoch=epoch)
        except AdvPTError:
            if made is None:
                raise
            break
        with torch.no_grad():
            subject = trainer.subject(result.split)
        backbone = subject.bank_cache.backbone
        learned = record.observed.learned
        same = subject.learned == learned if learned else subject.facts.prompt == result.prompt
        if same and backbone.image_digest == result.backbone.image:
            return subject, trainer
        made = made or (subject, trainer)
    if made is None:
        raise ConfigError(f"{folder} holds nothing that can be loaded")
    return made


def settings_of(saved: Mapping[str, Json], config: Mapping[str, Json], run: Path, places: Places) -> JsonObject:
    """The whole configuration: what the run's folder keeps, and over it what the record says. Files that are named in
    it are looked for where they were, and near the run.

    Raises:
        ConfigError: one is not there.
    """
    settings = additions.complete({**saved, **config})
    if parse(str(settings.get("MODEL.BACKBONE.NAME", ""))) is None:
        # OpenAI's model code has read the run's weights: that is what a folder that does not name the activation means
        settings["MODEL.ACTIVATION"] = settings.get("MODEL.ACTIVATION") or "quickgelu"
    given = {"MODEL.WEIGHTS": places.weights, "MODEL.IMAGE_WEIGHTS": places.image_weights}
    settings |= {name: file for name, file in given.items() if file}
    for name in sorted(UNRECORDED_LEAVES - UNCOMPARED_LEAVES):
        value = settings.get(name)
        if not isinstance(value, str) or not value or given.get(name):
            continue
        if name == "MODEL.IMAGE_WEIGHTS" and parse_tower(value) is not None:
            continue
        path = near(value, run)
        if path is None and "/" in value:
            option = f"; name its place with {FILES[name]}" if name in FILES else ""
            raise ConfigError(f"its {name} {value} is not there any more{option}")
        settings[name] = str(path or value)
    return settings


def near(text: str, run: Path) -> Path | None:
    """A file or folder that a run names: there, or where it is in a copy of the folder that held both."""
    path = Path(text).expanduser()
    if path.exists():
        return path
    parts, own = [part for part in path.parts if part not in (path.anchor, "..", ".")], run.absolute()
    for i in range(len(parts)):  # as much of the path as possible
        for above in list(own.parents)[:ANCESTORS]:
            candidate = above.joinpath(*parts[i:])
            if candidate.exists() and candidate != own:
                return candidate
    return None


def model_of(run: Path, places: Places) -> Path:
    """The folder of the run that was evaluated: this one, or the one that it says.

    Raises:
        ConfigError: it is not there.
    """
    if places.model:
        return Path(places.model)
    done = run / run_folder.DONE
    model = read_object(done, RecordError).get("model") if done.is_file() else ""
    if not isinstance(model, str) or not model:
        return run
    folder = near(model, run)
    if folder is None:
        raise ConfigError(
            f"it is an evaluation of the run {model}, which is not there any more; name it with --model-dir"
        )
    return folder


def with_files(settings: JsonObject, records: Sequence[Record]) -> tuple[JsonObject, bool]:
    """The settings with the folders of images that were made elsewhere in the place of their digests, without those
    whose folder is not there, and whether there are such."""
    folders = {each.observed.files for each in records if each.observed.files}
    texts, left_out = list[str](), False
    for text in settings.get("EVAL.ATTACKS", ()):
        if not is_files(text):
            texts.append(text)
            continue
        same = [each for each in (_at(text, folder) for folder in folders) if each]
        texts += same[:1]
        left_out |= not same
    return settings | {"EVAL.ATTACKS": texts}, left_out


def _at(text: str, folder: str) -> str:
    """``files:DIGEST@8`` with a folder in the place of the digest; "" where that has other images or is not there."""
    attack, protocol = split_protocol(text)
    head, at, budget = attack.rpartition("@")
    asked = f"files:{folder}{at}{budget}" + (f":{protocol}" if protocol else "")
    with contextlib.suppress(AdvPTError, OSError):
        if head and Path(folder).expanduser().exists() and recorded(asked) == text:
            return asked
    return ""


def conflicts(saved: Mapping[str, Json], config: Mapping[str, Json]) -> Iterator[Finding]:
    """Settings that a record has and its run's folder has with another value."""
    theirs, mine = additions.complete(saved), additions.complete(config)
    for name in sorted(saved):
        if name in UNRECORDED_LEAVES or name not in mine:
            continue
        if theirs[name] != mine[name]:
            yield Finding(f"config.{name}", mine[name], theirs[name], f"{run_folder.FILE} beside it has")


def named(run: Path, trainer: Any, split: str) -> Named:
    """Who can name image files that changed since the run: its folder, and the usual folder of banks."""
    kept = read_object(run / run_folder.DATA, RecordError) if (run / run_folder.DATA).is_file() else {}
    banks = BankSettings.dir

    def bank(key: str) -> Tensor | None:
        with contextlib.suppress(AdvPTError, OSError):
            for manifest in Path(banks).glob(f"*/*/{key}/{MANIFEST}"):
                return open_bank(manifest.parent, None, verify=True).columns["file_hash"]
        return None

    def lists() -> str:
        return str(trainer.lists.difference(kept, (split,))) if kept else ""

    return Named(trainer.lists.hashes(kept, split), bank, lists)


def same_settings(record: Record) -> str:
    """What records that are evaluated together have in common."""
    result = record.result
    host = record.observed.host
    machine = f"{host.device} {host.threads}" if host is not None else ""
    return f"{result.config_digest} {result.split} {plain_loaded(result.training.loaded)} {machine}"


def plain_loaded(details: Mapping[str, Json] | None) -> str:
    """The checkpoint of a record, as far as it says."""
    return str((details or {}).get("epoch", ""))
