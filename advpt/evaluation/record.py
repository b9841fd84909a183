"""Result records: one JSON file per evaluation. ``result`` holds what must be equal in equal runs; ``observed`` holds
time, memory, host and versions. The dataclasses here are the schema of both; :mod:`advpt.additions` lists the fields
that came after version 1.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import platform
import re
import resource
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from advpt import additions
from advpt.backbones import extras
from advpt.errors import RecordError, shown
from advpt.evaluation.intervals import Runs, wilson
from advpt.files import digest, read_json, write_json
from advpt.schema import FieldError, Json, JsonObject, from_json, optional, other_names, to_json
from advpt.version import __version__

SCHEMA = 1
FOLDER = "records"
UNTRAINED = ("ZeroshotCLIP",)  # of records that do not say whether their method was trained


def trained_field(trainer: str, trained: bool) -> bool | None:
    """``trained`` as a record has it: None where the trainer's name alone says as much."""
    return None if trained == (trainer not in UNTRAINED) else trained


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy in percent on ``n`` images, with Wilson's interval. ``outcome``: one bit per image, 1 where it was
    classified correctly, packed and in base64; see :meth:`outcomes`."""

    accuracy: float
    correct: int
    n: int
    interval95: tuple[float, float]
    outcome: str | None = optional()

    def __post_init__(self) -> None:
        for name in ("accuracy", "untouched", "deviation", "lost"):
            if not 0 <= (value := getattr(self, name, None) or 0) <= 100:
                raise FieldError(f"{name} is {value}, expected a number from 0 to 100")
        for name in ("n", "correct"):
            if (count := getattr(self, name)) < 0:
                raise FieldError(f"{name} is {count}, expected a whole number from 0")

    @classmethod
    def of(cls, correct: torch.Tensor, **fields: Any) -> Self:
        """From ``correct [n]`` bool, with its outcome; ``fields``: the other fields of a subclass."""
        hits, n = int(correct.sum()), len(correct)
        outcome = base64.b64encode(np.packbits(correct.cpu().numpy().astype(np.uint8)).tobytes()).decode()
        percent = 100 * hits / n if n else 0.0
        return cls(accuracy=percent, correct=hits, n=n, interval95=wilson(hits, n), outcome=outcome, **fields)

    @property
    def has_outcomes(self) -> bool:
        """Whether there is one bit for each image."""
        try:
            bits = len(base64.b64decode(self.outcome or "", validate=True))
        except ValueError:
            return False
        return self.outcome is not None and bits == (self.n + 7) // 8

    def outcomes(self) -> np.ndarray:
        """``[n]`` bool: which images were classified correctly."""
        bits = np.frombuffer(base64.b64decode(self.outcome or ""), dtype=np.uint8)
        return np.unpackbits(bits)[: self.n].astype(bool)


@dataclass(frozen=True, kw_only=True)
class DrawAccuracy:
    """Accuracy in percent behind one draw (``seed``) of a random defense, and the key of its bank."""

    seed: int | None
    accuracy: float
    bank: str | None = None


@dataclass(frozen=True, kw_only=True)
class CleanAccuracy(Accuracy):
    """On clean images. ``bank``: key of their embeddings. Behind a random defense the accuracy is a mean over its
    draws, ``deviation`` their standard deviation in points, and ``outcome`` that of the first draw."""

    bank: str | None = None
    deviation: float | None = optional()
    defense_seeds: tuple[DrawAccuracy, ...] = optional(())


@dataclass(frozen=True, kw_only=True)
class SurrogateFacts:
    """The attacker's own network, and its accuracy in percent on the images before and after the attack."""

    network: str
    about: Json = None
    digest: str
    accuracy: float
    accuracy_attacked: float | None = None


@dataclass(frozen=True, kw_only=True)
class PartAccuracy:
    """One attack of an attacker who tries several and keeps the worst for each image.

    Args:
        name: what it differentiated and from where it started. attack: its short form.
        n: attacked images: all of them, or those that were correct under the parts before (``left``).
        correct, accuracy: of these images after it, as a count and in percent; means over draws of the defense.
        undefended: it went through the model without the defense.
        bank: key of the images' bank. gradient: size of the gradient that it followed at the clean images, as a
            share of the undefended model's.
    """

    name: str
    attack: str
    n: int
    correct: float
    accuracy: float
    left: bool = False
    bank: str | None = None
    undefended: bool = optional(False)
    gradient: float | None = optional()


@dataclass(frozen=True, kw_only=True)
class RobustAccuracy(CleanAccuracy):
    """On attacked images.

    Args:
        untouched: percent of the images that the attack left as they were. on_perturbed: accuracy on the others.
        lost: percent of all images that were correct before the attack and are not now.
        largest_linf: largest change of a pixel, in 1/255. stages: how many images each stage of the attack broke.
        parts: the attacks that this is the worst of, image by image.
    """

    untouched: float = 0.0
    on_perturbed: Accuracy | None = optional()
    lost: float | None = optional()
    largest_linf: float | None = optional()
    stages: Mapping[str, int] | None = optional()
    surrogate: SurrogateFacts | None = optional()
    parts: tuple[PartAccuracy, ...] = optional(())


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """The evaluated images: how many, SHA-256 of their list, ``EVAL.SUBSET``, and whether they are a part that was
    taken because a defense is costly."""

    n: int = 0
    digest: str = ""
    subset: int = 0
    part: bool = False


@dataclass(frozen=True, kw_only=True)
class TowerFacts:
    """A CLIP: its name, and the digests of its image and text tower."""

    name: str
    image: str | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class BackboneFacts(TowerFacts):
    """The CLIP of a run. ``image_file``: where an image tower of its own, or the one that it was tuned from, came
    from; ``reads``: how tensors are read; ``source``: where a model that is not OpenAI's came from."""

    image_file: Mapping[str, str] | None = None
    reads: Mapping[str, Json] | None = None
    source: Mapping[str, Json] | None = None


@dataclass(frozen=True, kw_only=True)
class AttackFacts:
    """An attack. ``spec``: its short form, with what a defense made the attacker add; ``asked``: without that.
    ``parameters``: what only this attack has."""

    spec: str
    asked: str = ""
    name: str = ""
    version: int = 1
    objective: str | None = None
    norm: str = "linf"
    eps: float = 0.0
    seed: int = 0
    attacks: tuple[str, ...] = optional(())  # of a worst case
    parameters: Mapping[str, Json] = other_names()

    @property
    def label(self) -> str:
        """The attack as it was asked for."""
        return self.asked or self.spec


@dataclass(frozen=True, kw_only=True)
class DefenseFacts:
    """A chain of defenses: its short and full form, the parameters of its stages, the seeds of its draws (None: it
    draws nothing), and by stage how an adaptive attacker differentiated it."""

    spec: str = ""
    expanded: str = ""
    stages: tuple[Mapping[str, Json], ...] = ()
    seeds: tuple[int | None, ...] = ()
    gradient: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """What was measured after an epoch of training (counted from 1)."""

    epoch: int
    clean: CleanAccuracy
    robust: RobustAccuracy | None = optional()
    protocol: str | None = None
    attack: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """Where the training input came from. ``together``: seeds that were tuned in one batch with this one; ``loaded``:
    the checkpoint that was evaluated; ``details``: what only this trainer has."""

    bank: str | None = optional()
    attack: str | None = optional()
    images: int | None = optional()
    together: tuple[int, ...] = optional(())
    curve: tuple[CurvePoint, ...] = optional(())
    loaded: Mapping[str, Json] | None = optional()
    frozen: TowerFacts | None = optional()
    c_chosen_on: str | None = None
    details: Mapping[str, Json] = other_names()


@dataclass(frozen=True, kw_only=True)
class NearestWords:
    """Words nearest to context vectors, with their distances: of each vector, and of all of them. ``searched``: number
    of tokens that were compared."""

    per_vector: tuple[tuple[tuple[str, float], ...], ...]
    overall: tuple[tuple[str, float], ...]
    searched: int = 0


@dataclass(frozen=True, kw_only=True)
class WordFacts:
    """Nearest words after tuning and before."""

    trained: NearestWords
    untrained: NearestWords


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is evaluated: the part of a result that all records of a run share.

    Args:
        dataset, trainer, seed, shots: shots -1 for all training images.
        config: settings by dotted name; ``config_digest``: their SHA-256.
        prompt: SHA-256 of the learned prompts' features.
        comparable: whether the split is the official one; None where that is unknown.
        trained: whether the method was trained, where its trainer's name alone would say something else.
        tuning: settings of tuning at test time. words: nearest words of the context vectors.
        warnings: sentences of :mod:`advpt.detectors`.
    """

    dataset: str
    trainer: str
    seed: int
    config: Mapping[str, Json]
    shots: int = -1
    config_digest: str = ""
    prompt: str = ""
    split_digest: str | None = None
    comparable: bool | None = True
    training: TrainingFacts = field(default_factory=TrainingFacts)
    warnings: tuple[str, ...] = ()
    trained: bool | None = optional()
    tuning: Mapping[str, Json] | None = optional()
    words: WordFacts | None = optional()

    @property
    def is_trained(self) -> bool:
        """Whether another seed would give another outcome."""
        return self.trainer not in UNTRAINED if self.trained is None else self.trained


@dataclass(frozen=True, kw_only=True)
class Result(RunFacts):
    """What must be equal in equal runs. ``protocol``, ``attack`` and ``robust`` are None in a record of clean images;
    ``attacker_knows`` and ``note`` are sentences on the attacker and on what was replaced in the attack.

    Args:
        flags: signs that a number says less than it seems (:mod:`advpt.evaluation.flags`).
        cost: passes per image at evaluation, through the image tower and through the text tower for all classes, where
            there are defenses at test time.
    """

    split: str
    backbone: BackboneFacts
    images: ImageFacts = field(default_factory=ImageFacts)
    clean: CleanAccuracy
    hand_prompt: tuple[str, ...] = ()
    defenses: tuple[str, ...] = ()
    defense: DefenseFacts | None = None
    protocol: str | None = None
    attacker_knows: str | None = None
    attack: AttackFacts | None = None
    robust: RobustAccuracy | None = None
    note: str = ""
    flags: tuple[str, ...] = optional(())
    cost: Mapping[str, float] | None = optional()

    def __post_init__(self) -> None:
        if (self.robust is None) != (self.attack is None):
            raise FieldError(f"attack is {self.attack} and robust {self.robust}, expected both or neither")
        if self.attack is not None and self.protocol is None:
            raise FieldError("protocol is None, expected a text beside an attack")
        for name, part in (("clean", self.clean), ("robust", self.robust)):
            if part is not None and not part.has_outcomes:
                outcome = shown(part.outcome)
                raise FieldError(f"{name}.outcome is {outcome}, expected one bit for each of {part.n} images")

    @property
    def defense_name(self) -> str:
        """The chain of defenses, "" for none."""
        return "+".join(self.defenses)

    def to_json(self) -> JsonObject:
        """As it stands in a file."""
        return additions.omit(to_json(self), additions.RESULT_FIELDS)


@dataclass(frozen=True, kw_only=True)
class TrainingTimes:
    """Seconds for the training input (None: not known) and for each epoch."""

    before: float | None = None
    epochs: tuple[float, ...] = ()

    def until(self, epoch: int) -> float | None:
        """Seconds from the start to the end of an epoch (from 1), the training input included; None where they are
        not known."""
        if self.before is None or epoch > len(self.epochs):
            return None
        return self.before + sum(self.epochs[:epoch])


@dataclass(frozen=True)
class Host:
    """The machine, with the number of threads: what, with the versions, the bits depend on. ``processor``: the name of
    the CPU's model, or of the GPU's."""

    machine: str = ""
    cores: int | None = None
    device: str = ""
    threads: int = 0
    processor: str = optional("")


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What may differ between equal runs.

    Args:
        finished: seconds since 1970. seconds: of the evaluation. revision: Git's, of the project.
        memory: peak in MB, of the process (``rss_mb``) and of its GPU (``cuda_mb``).
        files: folder of attacked images that were made elsewhere. read_from: by bank key, the larger bank it is in.
        milliseconds: per image, to classify it. training: times of the run.
        prepared_data: digest and date of the prepared data set's manifest.
        image_files: SHA-256 over the hashes of the files of the evaluated images, in their order.
        rows: of a record of a part of the images, which of the run's evaluated images these are (from 0).
        learned: SHA-256 of the tensors that were tuned, as the checkpoint has them; ``prompt`` is that of what a text
            tower makes of them, whose last digits differ from processor to processor.
    """

    finished: float | None = optional()
    seconds: float | None = optional()
    memory: Mapping[str, float] | None = optional()
    host: Host | None = optional()
    versions: Mapping[str, str] | None = optional()
    revision: str | None = optional()
    files: str | None = optional()
    read_from: Mapping[str, Json] | None = optional()
    training: TrainingTimes | None = optional()
    milliseconds: float | None = optional()
    prepared_data: Mapping[str, Json] | None = optional()
    image_files: str | None = optional()
    rows: tuple[int, ...] = optional(())
    learned: str | None = optional()
    details: Mapping[str, Json] = other_names()


@dataclass(frozen=True)
class Record:
    """One evaluation. ``path``: where it lies, None before it is written; ``stored_id``: as the file has it."""

    result: Result
    observed: Observed = field(default_factory=Observed)
    path: Path | None = None
    stored_id: str = ""

    @classmethod
    def from_json(cls, result: Json, observed: Json, path: Path | None = None, stored_id: str = "") -> Record:
        """A record from the JSON values of its file; FieldError as of :func:`~advpt.schema.from_json`."""
        return cls(from_json(Result, result), from_json(Observed, observed), path, stored_id)

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the result: equal results have one id."""
        return self.stored_id or digest(self.result.to_json())

    @property
    def place(self) -> Path:
        """Where it lies, or would lie in its run's folder."""
        return self.path or Path(FOLDER, f"{self.name}.json")

    @property
    def name(self) -> str:
        """``test_transfer_pgd40-fkl@16-a0.5`` or ``test_clean``: unique within a run's folder."""
        r = self.result
        parts = [r.split, r.protocol or "clean", r.attack.spec if r.attack else "", r.defense_name]
        parts += [f"first{r.images.n}"] if r.images.part else []
        return re.sub(r"[^A-Za-z0-9@.+_-]+", "-", "_".join(p for p in parts if p))


def runs(parts: Mapping[int, Accuracy], trained: bool) -> Runs:
    """Clean or robust parts of the records of one method, by seed, as :mod:`advpt.evaluation.intervals` takes them;
    without outcomes where one lacks them or the runs have unequal numbers of images."""
    sizes = {part.n for part in parts.values()}
    complete = len(sizes) == 1 and all(part.has_outcomes for part in parts.values())
    correct = {seed: part.outcomes() for seed, part in parts.items()} if complete else {}
    return Runs({seed: float(part.accuracy) for seed, part in parts.items()}, correct, min(sizes), trained)


def write(record: Record, run_folder: Path) -> Path:
    """Write a record below its run's folder; an earlier one of the same name is replaced as a whole."""
    path = run_folder / FOLDER / f"{record.name}.json"
    result = record.result.to_json()
    write_json(path, {"schema": SCHEMA, "id": digest(result), "result": result, "observed": to_json(record.observed)})
    return path


def read(path: Path) -> Record:
    """A record from its file; RecordError where that is of another schema, not sound, or was changed."""
    data = read_json(path, RecordError)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        schema = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise RecordError(f"{path} has record schema {schema}; this version reads {SCHEMA}: evaluate the run again")
    try:
        record = Record.from_json(data.get("result"), data.get("observed", {}), path, digest(data.get("result")))
    except FieldError as error:
        raise RecordError(f"{path} is not a sound record: {error}; evaluate the run again") from None
    if data.get("id") != record.id:
        raise RecordError(f"{path} was changed after it was written (its id does not match); evaluate the run again")
    return record


def observe(seconds: float, device: torch.device) -> Observed:
    """Time, peak memory, host and versions now, at the end of an evaluation of ``seconds``."""
    memory = {"rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    if device.type == "cuda":
        memory["cuda_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return Observed(
        finished=round(time.time(), 2),
        seconds=round(seconds, 2),
        memory=memory,
        host=Host(platform.machine(), os.cpu_count(), str(device), torch.get_num_threads(), processor(device)),
        versions={
            "advpt": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            **extras.versions(),
        },
        revision=revision(),
    )


def processor(device: torch.device) -> str:
    """The name of the GPU, or of the CPU's model; "" where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


@functools.cache
def revision() -> str:
    """Git revision of the project's checkout, with ``-dirty`` when files differ; "" outside a checkout. Asked once for
    a process, which goes on with the code that it has loaded."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""
