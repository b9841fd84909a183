"""The check of a machine: one run of zero-shot CLIP on a few test images, what it takes, and what it came to."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from advpt.attacks.spec import parse as parse_attack
from advpt.backbones import clip, democlip
from advpt.backbones.backbone import Backbone
from advpt.backbones.load import load_backbone
from advpt.data import catalog, demo_sets, split, steps
from advpt.data.facts import DatasetFacts
from advpt.errors import ConfigError, DataError
from advpt.files import digest, file_digest
from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.display import in_words
from advpt.jobs.methods import ZEROSHOT, table_name
from advpt.jobs.places import Places, missing_files, runs
from advpt.jobs.plan import Job, Pairs, Plan
from advpt.jobs.setup import DEMO, PAPER, ReproductionSetup
from advpt.results.check import Check, FileFacts, Published, compare
from advpt.results.exhibit import CLEAN, robust
from advpt.results.expected import KnownModel, KnownNumbers, own_model, own_numbers
from advpt.results.index import RecordIndex
from advpt.results.published import PaperCell, number
from advpt.settings import BackboneSettings

IMAGES = 200
START_SECONDS = 15.0  # of a run: imports, and reading weights and lists
PASS_SECONDS = 0.3  # that one timed pass should take at least
SUBSETS = {"paper1000": 1000}  # images of DATASET.TEST_SUBSET


@dataclass(frozen=True)
class MachineCheck:
    """What is checked.

    Args:
        dataset, backbone: names of yaml files. images: of the test split, the fixed choice of ``EVAL.SUBSET``; 0: all.
        setup: whose attack and settings. numbers: that are known. more: settings of this check alone.
    """

    dataset: str
    backbone: str
    images: int
    setup: ReproductionSetup
    numbers: KnownNumbers
    more: Pairs = ()

    @property
    def facts(self) -> DatasetFacts:
        return catalog.get(self.dataset)

    @property
    def name(self) -> str:
        """CLIP's name of the model."""
        return self.setup.column(self.backbone)

    @property
    def title(self) -> str:
        """The check in words."""
        images = f"{self.images} fixed test images" if self.images else "all test images"
        return (
            f"{self.facts.name}, {self.name}: zero-shot CLIP on {images}, clean and under {self.setup.pgd}, beside "
            f"{self.numbers.source}"
        )


def check_of(
    dataset: str, backbone: str, images: int | None = None, more: Sequence[tuple[str, str]] = ()
) -> MachineCheck:
    """The check of a data set and a model, by names of yaml files; ``images``: None for :data:`IMAGES`.

    Raises:
        ConfigError: no number of zero-shot CLIP is known for them, or none for so many images.
    """
    if images is not None and images < 0:
        raise ConfigError(f"--images is {images}; give a number of test images, or 0 for all")
    wanted = IMAGES if images is None else images
    if own := own_numbers(dataset, backbone, DEMO.pgd):
        if wanted not in own:
            raise ConfigError(
                f"--images {wanted}: numbers of {dataset} and {backbone} are on record for "
                f"{', '.join(map(str, sorted(own)))} images"
            )
        return MachineCheck(dataset, backbone, wanted, DEMO, own[wanted], tuple(more))
    short = catalog.get(dataset).config
    if short not in PAPER.datasets or backbone not in PAPER.backbones:
        raise ConfigError(
            f"--check {dataset} {backbone}: no number of zero-shot CLIP is known; data sets: "
            f"{', '.join(PAPER.datasets)}; models: {', '.join(PAPER.backbones)}; without data: --check digits democlip"
        )
    return MachineCheck(short, backbone, wanted, PAPER, _printed(short, backbone), tuple(more))


def _printed(dataset: str, backbone: str) -> KnownNumbers:
    cells = (
        PaperCell("1", PAPER.column(backbone), PAPER.column(dataset), table_name(ZEROSHOT), "none", attack)
        for attack in ("clean", "pgd40")
    )
    clean, attacked = (float(number(cell) or 0.0) for cell in cells)
    images = SUBSETS.get(_test_subset(dataset)) or catalog.get(dataset).counts[2]
    return KnownNumbers("Table 1 of AdvPT's paper", clean, attacked, images)


def _test_subset(dataset: str) -> str:
    return "paper1000" if dataset == "imagenet" else ""


# --- files of this machine --------------------------------------------------------------------------------------------


def weights_of(check: MachineCheck, places: Places) -> FileFacts:
    """The model's file beside the official one; ``ours`` is "" where there is none."""
    given = places.weights.get(check.backbone)
    if check.name in democlip.FILES:
        official, file, bring = own_model(check.backbone).file, democlip.FILES[check.name], "install the project again"
    else:
        url, official = clip.official_file(check.name)
        file = clip.cache_folder() / url.rsplit("/", 1)[-1]
        bring = f"{shlex.join(['curl', '-L', '--create-dirs', '-o', str(file), url])} (SHA-256 {official})"
    if given:
        file, bring = Path(given).expanduser(), f"leave out --weights; the official file comes with {bring}"
    ours = file_digest(file) if file.is_file() else ""
    return FileFacts(official, ours, ours == official, bring)


def split_of(check: MachineCheck, places: Places) -> FileFacts:
    """The split file beside the official one.

    Raises:
        DataError: it is damaged.
    """
    facts, folder = check.facts, places.root / check.facts.folder
    marks, command = facts.split, steps.command(facts, places.root)
    if marks is None:
        return FileFacts("official lists", "official lists", True, f"{command} --check says what differs")
    path, official = folder / marks.filename, marks.content or marks.git_blob
    if not path.is_file():
        return FileFacts(official, "", False, command)
    content, data = split.read(path)
    if not split.unofficial_warning(facts, content, data, path):
        return FileFacts(official, official, True)
    ours = content.digest() if marks.content else split.git_blob(data)
    return FileFacts(official, ours, False, f"rm {shlex.quote(str(path))} && {command}")


def lacks(check: MachineCheck, places: Places) -> list[str]:
    """What is missing or damaged, each with the next command; empty where the run can start.

    Raises:
        ConfigError: a file of weights that was named and is not there.
    """
    given, weights = places.weights.get(check.backbone), weights_of(check, places)
    if given and not weights.ours:
        raise ConfigError(f"--weights: there is no file {given}")
    sentences = [missing_files(check.dataset, places.root)]
    if not given and not weights.same:
        state = "damaged" if weights.ours else "not there"
        sentences.append(f"{check.name}: its weights are {state}: run {weights.bring}, or name a file with --weights")
    try:
        split_of(check, places)
    except DataError as error:
        sentences.append(f"{check.facts.name}: {error}: run {steps.command(check.facts, places.root)}")
    return list(filter(None, sentences))


# --- the run ----------------------------------------------------------------------------------------------------------


def plan_of(check: MachineCheck, places: Places) -> Plan:
    """The one run. Other weights or another split make another run, in a folder of its own."""
    made = check.facts.name == "Digits" or check.dataset in demo_sets.BY_ALIAS
    files = [weights_of(check, places).ours, "" if made else split_of(check, places).ours]
    builder = Builder(check.setup, places.repository, check.more)
    evaluation = Evaluation((f"{check.setup.pgd}:transfer",), subset=check.images)
    builder.job(ZEROSHOT, check.dataset, check.backbone, 1, f"check-{digest(files)[:8]}", evaluation)
    return builder.plan()


def estimate(check: MachineCheck, job: Job, places: Places) -> str:
    """How long the run takes on this machine, from a few passes through the model: a sentence.

    Raises:
        AdvPTError: the model cannot be loaded.
    """
    begun = time.monotonic()
    values = dict(Builder(check.setup, places.repository).recipes.values(job))
    if weights := places.weights.get(check.backbone):
        values["MODEL.WEIGHTS"] = weights
    use_cuda = torch.cuda.is_available() and values.get("USE_CUDA", True) is not False
    device = torch.device("cuda" if use_cuda else "cpu")
    model = load_backbone(BackboneSettings.from_flat(values), device)
    loaded = time.monotonic() - begun
    n, passes = min(check.images or check.numbers.images, check.numbers.images), parse_attack(check.setup.pgd).steps
    seconds, batch = seconds_per_image(model, device, min(n, 64))
    del model
    if use_cuda:
        torch.cuda.empty_cache()  # it is the run's
    total = START_SECONDS + loaded + n * seconds * (passes + 1)
    return (
        f"about {in_words(total)} on {device.type}: {n:,} images x {passes} passes forward and backward of "
        f"{1000 * seconds:.3g} ms, timed on {batch} at once"
    )


def seconds_per_image(model: Backbone, device: torch.device, most: int) -> tuple[float, int]:
    """Seconds of a pass forward and backward through the image tower, for each image; and how many images went through
    it at once: at most ``most``, and no more than it takes to time them."""
    image, (height, width) = model.require_image(), model.card.image.size
    generator = torch.Generator().manual_seed(0)

    def timed(batch: int) -> float:
        return _timed_pass(image, torch.rand(batch, 3, height, width, generator=generator), device)

    timed(1)  # the first is slow
    seconds, batch = timed(1), 1
    while seconds < PASS_SECONDS and batch < most:
        try:
            seconds, batch = timed(min(most, 4 * batch)), min(most, 4 * batch)
        except torch.OutOfMemoryError:  # the run itself then takes fewer at once
            break
    return seconds / batch, batch


def _timed_pass(image: torch.nn.Module, pixels: torch.Tensor, device: torch.device) -> float:
    pixels = pixels.to(device).requires_grad_()
    begun = time.monotonic()
    image(pixels).square().sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - begun


def result_of(check: MachineCheck, plan: Plan, places: Places) -> tuple[Check | None, list[str]]:
    """What the run came to, and notes on its records; None where it left no sound record."""
    (job,) = plan.jobs
    index = RecordIndex(runs(plan, places), top=places.output)
    metric = robust(check.setup.pgd)
    record, _ = index.first(job.id, lambda each: each.result.robust is not None, f"record of {metric}")
    if record is None:
        record, _ = index.find(job.id, CLEAN)
    notes = [f"{note.kind:10}{note.text}" for note in index.notes]
    if record is None:
        return None, notes
    card = clip.find_card(check.name)
    if card is None:
        raise ConfigError(f"nothing is known of {check.name!r} by its name")
    model = own_model(check.backbone) if check.setup is DEMO else KnownModel()
    published = Published(
        check.numbers, metric.attack, card.image, check.facts.template, _test_subset(check.dataset), model
    )
    weights, lists = weights_of(check, places), split_of(check, places)
    return compare(record, published, weights, lists, dict(check.more)), notes
