"""What a plan takes on a cluster: time by playing through who runs what when, disk by counting.

A run's seconds are its start, the banks it is the first to need, attacks of its own, and its tuning. The rates behind
them are measured on this machine, on the networks of the plan; for a device of another kind they come from its data
sheet, and the result says so.
"""

from __future__ import annotations

import contextlib
import heapq
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from advpt import losses
from advpt.attacks import parse
from advpt.attacks.noise import SampleNoise
from advpt.backbones import clip, democlip
from advpt.errors import ConfigError, unknown_name
from advpt.jobs import effort
from advpt.jobs.needs import NAMES
from advpt.jobs.plan import BankNeed, Job, Plan
from advpt.prompts.learner import PromptLearner
from advpt.prompts.text_encoder import TextEncoder
from advpt.settings import ContextSettings

# Dense float32, TF32 and bfloat16 TFLOP/s of NVIDIA's data sheets.
SHEETS = {
    "H200": (67.0, 494.0, 989.0),
    "H100": (67.0, 494.0, 989.0),
    "A100": (19.5, 156.0, 312.0),
    "L40S": (91.6, 183.0, 366.0),
    "V100": (15.7, 15.7, 15.7),
}
PRECISIONS = ("fp32", "tf32", "amp")
STEP = 0.02  # seconds of a tuning step on a GPU that is not measured: launching its kernels
CHUNK, FEW = 64, 16  # images at a time; fewer where large ones meet a processor
REPEATS = 3
TUNED_CLASSES = (10, 100)  # two sizes of a tuning step that are measured


@dataclass(frozen=True)
class Rates:
    """What one worker does in a second.

    image: GFLOP/s through the image encoder, by backbone. text: GFLOP/s of tuning. step: seconds that a tuning step
    takes besides. start: seconds until a run begins its work. note: where the numbers are from.
    """

    image: Mapping[str, float]
    text: Mapping[str, float]
    step: Mapping[str, float]
    start: float
    note: str

    def seconds(self, job: Job, banks: Iterable[str]) -> float:
        """Of a run that builds these of its banks (labels)."""
        built = set(banks)
        gflop = job.gflop + sum(need.images * need.gflop for need in _distinct(job) if need.label in built)
        tuning = job.tuning.steps * (self.step[job.backbone] + job.tuning.gflop / self.text[job.backbone])
        return self.start + gflop / self.image[job.backbone] + tuning


def _distinct(job: Job) -> list[BankNeed]:
    return list({need.label: need for need in job.banks}.values())


@dataclass(frozen=True)
class Played:
    """A plan played through. ``seconds``: to its end; ``busy``: of all workers together; ``by_kind``: worker seconds
    and bytes by (data set, backbone); ``longest``: the bank that takes longest, and its seconds on one worker."""

    workers: int
    seconds: float
    busy: float
    bytes: int
    by_kind: Mapping[tuple[str, str], tuple[float, int]]
    longest: tuple[str, float] = ("", 0.0)
    runs: Mapping[str, float] = field(default_factory=dict)  # seconds by job


def play(plan: Plan, rates: Rates, workers: int, done: Iterable[str] = ()) -> Played:
    """Who runs what when, as the executor does it: in the plan's order, each run as soon as a worker is free and what
    it waits for has ended. ``done``: runs that are finished, their banks built."""
    finished = set(done)
    built = {need.label for i in finished for need in plan.by_id[i].banks}
    runs: dict[str, float] = {}
    kinds: dict[tuple[str, str], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    longest = ("", 0.0)
    for job in plan.jobs:
        if job.id in finished:
            continue
        own = [need for need in _distinct(job) if need.label not in built]
        built |= {need.label for need in own}
        runs[job.id] = rates.seconds(job, [need.label for need in own])
        for need in own:
            alone = need.images * need.gflop / rates.image[job.backbone]
            longest = max(longest, (need.label, alone), key=lambda bank: bank[1])
        seconds, size = kinds[job.dataset, job.backbone]
        size += job.size + sum(need.images * need.size for need in own)
        kinds[job.dataset, job.backbone] = (seconds + runs[job.id], size)
    waiting, at_work, now = [job for job in plan.jobs if job.id in runs], list[tuple[float, str]](), 0.0
    while waiting or at_work:
        open_ends = {job.id for job in waiting} | {i for _, i in at_work}
        for job in list(waiting):
            if len(at_work) < workers and not open_ends & {*plan.waits_for[job.id], job.model}:
                waiting.remove(job)
                heapq.heappush(at_work, (now + runs[job.id], job.id))
        now, _ = heapq.heappop(at_work)
    size = sum(size for _, size in kinds.values())
    return Played(workers, now, sum(runs.values()), size, dict(kinds), longest, runs)


# --- rates ----------------------------------------------------------------------------------------------------------


def cluster(text: str) -> tuple[int, str]:
    """``8xH200`` as workers and device; ``here`` is a device like this machine's.

    Raises:
        ConfigError: another form, or a device that nobody knows.
    """
    found = re.fullmatch(r"(\d+)x(\w+)", text.strip())
    known = [*SHEETS, "here"]
    device = next((name for name in known if found and name.lower() == found[2].lower()), "")
    if not found or not device or int(found[1]) < 1:
        raise ConfigError(f"--cluster {text!r} is not of the form 8xH200; known devices: {', '.join(known)}")
    return int(found[1]), device


def rates_for(device: str, plan: Plan, repository: Path, precision: str = "fp32") -> Rates:
    """The rates of a device of this kind, measured if this machine has it."""
    if precision not in PRECISIONS:
        raise ConfigError(f"BANK.PREC: {unknown_name('value', precision, PRECISIONS)}")
    here = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    backbones = list(dict.fromkeys(job.backbone for job in plan.jobs))
    if device == "here" or device in here:
        return measure(backbones, repository, here or "this processor")
    rate = 1000 * SHEETS[device][PRECISIONS.index(precision)] * effort.EFFICIENCY
    note = (
        f"not measured: {SHEETS[device][PRECISIONS.index(precision)]:g} TFLOP/s ({precision}, data sheet of {device}), "
        f"of which networks of this kind are taken to reach {100 * effort.EFFICIENCY:.0f} %, {1000 * STEP:.0f} ms for "
        f"a tuning step at least, {effort.START:.0f} s to start a run; on such a machine the rates are measured"
    )
    every = dict.fromkeys(backbones, rate)
    return Rates(every, every, dict.fromkeys(backbones, STEP), effort.START, note)


def measure(backbones: Iterable[str], repository: Path, device: str) -> Rates:
    """Rates of this machine: an attack on random pixels, tuning steps of two sizes, and the start of a run."""
    image, text, step = {}, {}, {}
    for name in backbones:
        model = _network(name)
        image[name] = _image_rate(model, name)
        step[name], text[name] = _step_rates(model, name)
    said = "; ".join(f"{n} {image[n]:,.0f} GFLOP/s, {1000 * step[n]:.0f} ms a step and more" for n in image)
    started = start_seconds(repository)
    note = f"measured on {device} with {torch.get_num_threads()} threads: {said}; {started:.1f} s to start a run"
    return Rates(image, text, step, started, note)


def _network(name: str) -> clip.Backbone:
    """Of the right size; of CLIP's own the weights do not matter here."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    known = NAMES.get(name, name)
    if known in democlip.FILES:
        return clip.Backbone(known, democlip.load(democlip.FILES[known]), device)
    if known not in clip.OFFICIAL:
        raise ConfigError(f"{name} is no network whose size is known ({', '.join(NAMES)}); leave it out of the plan")
    return clip.Backbone(known, clip.build(clip.OFFICIAL[known]), device)


def _best(work: Callable[[], object]) -> float:
    """Seconds of a repetition, the shortest of several: others may be at work here."""
    found = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found[1:])


def _image_rate(model: clip.Backbone, name: str) -> float:
    side = model.architecture.resolution
    n = FEW if side > 64 and model.device.type == "cpu" else CHUNK
    x = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)).to(model.device)
    spec = parse("pgd2-fkl@8")
    attack, noise = spec.build(), SampleNoise([str(i) for i in range(n)], 0)
    labels = torch.zeros(n, dtype=torch.int64, device=model.device)
    seconds = _best(lambda: attack(model.require_image(), x, labels, noise))
    return n * (effort.attack_cost("pgd2-fkl@8", name) - effort.network(name).image) / seconds  # it embeds no result


def _step_rates(model: clip.Backbone, name: str) -> tuple[float, float]:
    """Seconds of a step without its arithmetic, and GFLOP/s of that."""
    encoder = TextEncoder(model.model)
    found = []
    for classes in TUNED_CLASSES:
        settings = ContextSettings(16, False, "", "end", "fp32")
        learner = PromptLearner(encoder, [f"thing {i}" for i in range(classes)], settings).to(model.device)
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.0, momentum=0.9)
        features = torch.randn(32, model.architecture.embed_dim, device=model.device)
        labels = torch.zeros(32, dtype=torch.int64, device=model.device)

        def step(
            learner: PromptLearner = learner,
            optimizer: torch.optim.Optimizer = optimizer,
            features: torch.Tensor = features,
            labels: torch.Tensor = labels,
        ) -> None:
            optimizer.zero_grad()
            losses.advpt(features, encoder(learner().text), model.logit_scale, labels).backward()
            optimizer.step()

        tokens = 1 + settings.n_ctx + classes * effort.WORDS
        found.append((_best(step), tokens * effort.network(name).token * 3))
    (small, less), (large, more) = found
    rate = (more - less) / max(large - small, 1e-9)
    return max(0.0, small - less / rate), rate


def start_seconds(repository: Path) -> float:
    """Of a run until its work begins: libraries, data set, network, hand-written prompts."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):
        words = [sys.executable, str(repository / "train.py"), "--no-train", "--trainer", "AdvPT"]
        words += ["--output-dir", folder, "--root", str(Path(folder, "data")), "VERBOSE", "False"]
        found = []
        for _ in range(2):  # the first one writes the data set
            started = time.perf_counter()
            ended = subprocess.run(words, capture_output=True, cwd=repository, check=False)  # noqa: S603 - our words
            found.append(time.perf_counter() - started)
        if ended.returncode == 0:
            return found[-1]
    return effort.START


# --- for people -----------------------------------------------------------------------------------------------------

HEADS = ("data set", "backbone", "worker hours", "GB")


def rows(played: Played) -> list[list[str]]:
    """Hours and disk by data set and backbone."""
    found = [[*kind, f"{s / 3600:.2f}", f"{b / 1e9:.2f}"] for kind, (s, b) in sorted(played.by_kind.items())]
    return [*found, ["all", "", f"{played.busy / 3600:.2f}", f"{played.bytes / 1e9:.2f}"]]


def sentences(played: Played, rates: Rates, words: Callable[[float], str]) -> list[str]:
    """What it comes to, and what would make it shorter."""
    label, alone = played.longest
    share = played.busy / played.seconds / played.workers if played.seconds else 1.0
    found = [
        f"{len(played.runs)} runs on {played.workers} workers: {words(played.seconds)} ({words(played.busy)} of one "
        f"worker; workers are busy {100 * share:.0f} % of the time), {played.bytes / 1e9:.1f} GB on disk",
        f"rates: {rates.note}",
    ]
    if alone > 0.2 * played.seconds and played.workers > 1:
        found.append(
            f"the longest bank ({label}) takes {words(alone)} on one worker and {words(alone / played.workers)} on all "
            "of them: build it first with train.py --engine ray, which spreads its shards"
        )
    return found
