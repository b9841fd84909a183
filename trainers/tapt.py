"""TAPT (Wang et al., CVPR 2025): defensive prompts that are tuned once more on every test image, without its label.

For evaluation only: ``--eval-only --model-dir RUN``, where RUN is one of AdvVPT (for TAPTV), AdvIVLP (TAPTVLI) or
AdvMaPLe (TAPTVLJ), with the depths it was tuned with, and ``TRAINER.TAPT.CLEAN_RUN`` its twin with ``LOSS clean``.
``python -m advpt statistics RUN`` makes the statistics of both in ``BANK.DIR``; runs on the data set that the prompts
were tuned on make what is missing in passing. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt import losses
from advpt.backbones.load import find_card
from advpt.backbones.mixture import Visual
from advpt.bank import statistics
from advpt.bank.cache import AttackRequest
from advpt.bank.statistics import Statistics
from advpt.bank.store import Bank
from advpt.checkpoints import load_checkpoint
from advpt.data import catalog
from advpt.data.images import ImageSet
from advpt.errors import BankError, ConfigError
from advpt.evaluation import tuned
from advpt.evaluation.measure import Prompts
from advpt.evaluation.record import RunFacts
from advpt.evaluation.tuned import Tuned
from advpt.prompts import exchange
from advpt.prompts.classifier import Classifier, from_templates
from advpt.prompts.learner import PromptLearner
from advpt.settings import FROM_0, FROM_1, SHARE, ContextSettings, DeepContext, Range, register, setting
from advpt.tuning.tapt import TAPT
from advpt.tuning.test_time import PromptedCLIP, Tuner, TuningConfig, Values, released_reset
from trainers.advpt import PromptTrainer

PLAIN = "a photo of a {}."
ALL = "all"  # in the place of a folder of statistics: those over all training images


@dataclass(frozen=True)
class Profile:
    """Values of settings that are left open, named as in :class:`TuningConfig`; the defaults are ``sound``."""

    resets: tuple[str, ...] = ("loaded",)
    blocks: str = "prompted"  # or all, first-six, or but-last: the prompted ones without the last (the code's slip)
    form: str = "mean"
    align_weight: str = "depth"  # 100 / prompted layers; blocks: align_total / aligned blocks
    align_total: float = 1.0
    variance: str = "unbiased"
    crops: str = "centre"
    text: str = "plain"
    precision: str = "fp32"
    source: str = "tensor"


PROFILES = {
    "sound": Profile(),
    "paper": Profile(blocks="all", form="norm", align_weight="blocks", text="dataset"),
    "released": Profile(
        resets=("constructed",), blocks="but-last", variance="biased", crops="random", precision="amp", source="file"
    ),
}


@register("TRAINER.TAPT", in_v1=True)
class TAPTSettings(DeepContext):
    """Settings of all three designs; "", () and -1 leave a value to the profile."""

    profiles: ClassVar[Mapping[str, Profile]] = PROFILES

    profile: str = setting("sound", "values of what is left open: sound, or as the paper or its code has them",
                           allowed=tuple(PROFILES))  # fmt: skip
    reset_source: tuple[str, ...] = setting(
        (), "prompts that tuning starts from, one row of results each: loaded (the trained ones), constructed (what "
        "the released code restores)", allowed=("loaded", "constructed"),
    )  # fmt: skip
    reset_every: int = setting(1, "images that share their prompts, one after the other", allowed=FROM_1)
    views: int = setting(64, "views of an image, the image among them", allowed=FROM_1)
    rho: float = setting(0.1, "part of the views that is kept", allowed=Range(0, 1, above=True))
    steps: int = setting(1, "steps of tuning on an image", allowed=FROM_0)
    lr: float = setting(5e-4, "learning rate of the tuning", allowed=Range(0, above=True))
    entropy_w: float = setting(1.0, "weight of the entropy", allowed=FROM_0)
    alpha: float = setting(0.5, "weight of the adversarial statistics; the rest is that of the clean ones",
                           allowed=SHARE)  # fmt: skip
    align_w: float = setting(-1.0, "weight of the sum of distances over blocks; below 0: the profile's")
    align_form: str = setting("", "distance of statistics", allowed=("", *losses.ALIGN_FORMS))
    blocks: tuple[int, ...] = setting((), "blocks that are aligned, counted from 0")
    variance: str = setting("", "variance over the kept views", allowed=("", "unbiased", "biased"))
    text: str = setting("", 'text of the design without text prompts: plain ("a photo of a {}.") or dataset',
                        allowed=("", "plain", "dataset"))  # fmt: skip
    views_from: str = setting("", "what views of clean images are cropped from: tensor (the model's input) or file",
                              allowed=("", "tensor", "file"))  # fmt: skip
    tune_prec: str = setting("", "arithmetic of the tuning; attacks and statistics are always float32",
                             allowed=("", "fp32", "amp"))  # fmt: skip
    statistics_crops: str = setting("", "crops of the images of the statistics", allowed=("", "centre", "random"))
    statistics_limit: int = setting(0, "images of statistics that are made in passing; 0: the training split")
    clean_run: str = setting("", "folder of the run that was tuned on clean images", recorded=False)
    adv_statistics: str = setting(
        "", 'folder of the adversarial statistics where several are of the same prompts, or "all" images',
        recorded=False,
    )  # fmt: skip
    clean_statistics: str = setting("", "the same of the clean statistics", recorded=False)
    batch: int = setting(8, "images tuned in one forward pass", allowed=FROM_1)
    seed: int = setting(0, "seed of the views")

    def tuning(self, context: ContextSettings, layers: int | None) -> TuningConfig:
        """How an image is tuned on.

        Args:
            context: the prompts. layers: blocks of the image tower, None where it is not known yet.

        Raises:
            ConfigError: blocks that are not there.
        """
        profile, depth = self.profiles[self.profile], context.depth_vision
        ranges = {"all": layers or depth, "prompted": depth, "but-last": max(1, depth - 1)}
        ranges["first-six"] = min(6, layers or 6)
        blocks = self.blocks or tuple(range(ranges[profile.blocks]))
        if any(not isinstance(i, int) or i < 0 or (layers and i >= layers) for i in blocks):
            raise ConfigError(
                f"{self.node}.BLOCKS is {blocks}; blocks are counted from 0"
                + (f", and the image tower has {layers}" if layers else "")
            )
        weight = 100 / depth if profile.align_weight == "depth" else profile.align_total / len(blocks)
        return TuningConfig(
            resets=self.reset_source or profile.resets,
            reset_every=self.reset_every,
            views=self.views,
            rho=self.rho,
            steps=self.steps,
            lr=self.lr,
            entropy_weight=self.entropy_w,
            alpha=self.alpha,
            align_weight=weight if self.align_w < 0 else self.align_w,
            blocks=blocks,
            form=self.align_form or profile.form,
            variance=self.variance or profile.variance,
            crops=self.statistics_crops or profile.crops,
            text=self.text or profile.text,
            precision=self.tune_prec or profile.precision,
            source=self.views_from or profile.source,
            batch=self.batch,
            seed=self.seed,
        )


class TestTimeTrainer(PromptTrainer):
    """Tunes prompts of another trainer's run on every test image."""

    __test__ = False  # not one of pytest's
    settings: ClassVar[type[TAPTSettings]] = TAPTSettings
    shares_test_banks, tunes_at_test_time = False, True
    trained_by: ClassVar[str]  # the trainer of the prompts
    defense: ClassVar[type[TAPT]] = TAPT

    options: TAPTSettings
    tuning: TuningConfig
    constructed: Values  # the prompts as they are before anything is loaded
    fixed: Tensor  # text features of the design without text prompts
    banks: dict[str, Statistics | None]
    _rows: Sequence[Tuned] = ()

    def check_cfg(self, cfg: Any) -> None:
        super().check_cfg(cfg)
        options, card = self.options, find_card(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.ACTIVATION)
        options.tuning(self.context, card.image.blocks if card else None)
        tuned.check(self.eval_settings)
        if cfg.BANK.CHUNK % options.reset_every:
            raise ConfigError(
                f"{options.node}.RESET_EVERY is {options.reset_every} and BANK.CHUNK {cfg.BANK.CHUNK}; images "
                "are tuned a chunk at a time, so BANK.CHUNK must be a multiple of it (for prompts that are never "
                "reset, both the number of images)"
            )

    @property
    def title(self) -> str:
        """The method's name in messages."""
        return self.defense.name.upper()

    def build_prompts(self) -> None:
        super().build_prompts()
        values = dict(self.prompt_learner.named_parameters())
        self.constructed = {name: value.detach().clone() for name, value in values.items()}
        self.tuning = self.options.tuning(self.context, self.backbone.card.image.blocks)
        plain = from_templates(self.encoder, self.classnames, (PLAIN,), self.backbone.logit_scale)
        self.fixed = (plain if self.tuning.text == "plain" else self.zero_shot).features
        self.banks = {}

    def train(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError(
            f"{self.cfg.TRAINER.NAME} tunes prompts at test time: train them first (--trainer {self.trained_by}), then "
            "add --eval-only --model-dir RUN"
        )

    def classifier(self) -> Classifier:
        return self.prompt_learner.classifier(self.encoder, self.backbone.logit_scale, self.fixed)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        super().load_model(directory, epoch)
        if not directory:
            raise ConfigError(f"{self.title} needs prompts that were tuned before: --model-dir RUN")
        options, cleanly = self.options, self.prompt_learner
        self.banks = {"adversarial": None, "clean": None}
        if self.tuning.alpha > 0:
            self.banks["adversarial"] = self.bank(self.prompt_learner, options.adv_statistics, Path(directory))
        if self.tuning.alpha < 1:
            if not options.clean_run and not options.clean_statistics:
                raise ConfigError(
                    f"{self.title} also aligns to the statistics of cleanly tuned prompts: name their run with "
                    f"{options.node}.CLEAN_RUN (--trainer {self.trained_by} ... TRAINER.{self.trained_by.upper()}.LOSS "
                    f"clean makes one), or leave them out with {options.node}.ALPHA 1"
                )
            run = Path(options.clean_run)
            if options.clean_run:
                cleanly = self.learner_of(run)
            self.banks["clean"] = self.bank(cleanly, options.clean_statistics, run, bool(options.clean_run))

    def learner_of(self, run: Path) -> PromptLearner:
        """The prompts of another run of the same design."""
        path = exchange.checkpoint_file(run / exchange.FOLDER)
        self.require_fit(path)
        learner = PromptLearner(self.encoder, self.classnames, self.context, None, self.backbone.card)
        learner.load_context(load_checkpoint(path)["state_dict"], str(path))
        return learner.to(self.device)

    def bank(self, learner: PromptLearner, given: str, run: Path, named: bool = True) -> Statistics:
        """Statistics of a run's prompts: the folder that was given, the one bank there is, or made now where the run
        was tuned on this data set. ``given`` :data:`ALL`: the bank over all training images, whatever other there is.
        ``named`` False: no run was named, so that only weights are compared."""
        visual = learner().visual.detach()
        wanted = statistics.encoder_fields(self.backbone, visual)
        if given == ALL:
            return self.bank_of_all(visual, run)
        if given:
            if not named:
                has = statistics.open_statistics(Path(given)).spec["encoder"]
                wanted["encoder"] = wanted["encoder"] | {"visual_prompt": has["visual_prompt"]}
            return statistics.open_statistics(Path(given), wanted)
        root, crops = self.bank_cache.root, self.tuning.crops
        folders = statistics.find(root, self.backbone, visual, crops)
        if len(folders) == 1:
            return statistics.open_statistics(folders[0], wanted)
        source = self.source(self.options.statistics_limit)
        dataset_folder = self.bank_cache.dataset_folder(source.images.dataset)
        here = statistics.folder_of(dataset_folder, statistics.spec(self.backbone, visual, source))
        beside, title = exchange.about(exchange.checkpoint_file(run / exchange.FOLDER)), catalog.title(self.cfg.DATASET)
        about = exchange.origin(beside)
        tuned_on = exchange.tuned_in(beside, "data").get("title", title)
        same_data = about.get("dataset") == self.cfg.DATASET.NAME and tuned_on == title
        if here in folders or (not folders and same_data):
            return self.make(visual, source, about)
        if folders:
            several = "".join(f"\n  {folder}" for folder in folders)
            raise BankError(
                f"several banks hold statistics of the prompts of {run}; name one with "
                f"{self.options.node}.ADV_STATISTICS or CLEAN_STATISTICS:{several}"
            )
        raise BankError(
            f"below {root} are no statistics of the prompts of {run} ({crops} crops), which were tuned on "
            f"{about.get('dataset', 'a data set that is not known')} and not on {self.cfg.DATASET.NAME}; make them: "
            f"python -m advpt statistics {run} --banks {root}"
        )

    def bank_of_all(self, visual: Visual, run: Path) -> Statistics:
        """Statistics over all training images of the data set that a run was tuned on; made now where it is this one.

        Raises:
            ConfigError: this run's training images are a part. BankError: there is no such bank.
        """
        about = exchange.origin(exchange.about(exchange.checkpoint_file(run / exchange.FOLDER)))
        tuned_on, cfg, root = about.get("dataset", ""), self.cfg, self.bank_cache.root
        if tuned_on == cfg.DATASET.NAME:
            if cfg.DATASET.NUM_SHOTS > 0 or self.options.statistics_limit:
                raise ConfigError(
                    "statistics over all training images are asked for, but DATASET.NUM_SHOTS is "
                    f"{cfg.DATASET.NUM_SHOTS} and {self.options.node}.STATISTICS_LIMIT "
                    f"{self.options.statistics_limit}; expected -1 and 0"
                )
            return self.make(visual, self.source(0), about)
        whole = catalog.get(tuned_on).counts[0] if tuned_on in catalog.names() else 0
        if not whole:
            raise ConfigError(
                f"the number of training images of {tuned_on or 'the data set'} that {run} was tuned on is not on "
                "record, so statistics over all of them cannot be told from others; name their folder in the place of "
                "all"
            )
        wanted = statistics.encoder_fields(self.backbone, visual)
        for folder in statistics.find(root, self.backbone, visual, self.tuning.crops):
            bank = statistics.open_statistics(folder, wanted)
            if bank.count == whole:
                return bank
        raise BankError(
            f"below {root} are no statistics of the prompts of {run} over all {whole:,} training images of {tuned_on}; "
            f"make them: python -m advpt statistics {run} --shots -1 --banks {root}"
        )

    def source(self, limit: int) -> statistics.Source:
        """The training images, for statistics."""
        images = self.image_set("train").first(limit)
        return statistics.Source(images, self.tuning.crops, self.bank_settings.seed, self.bank_settings.chunk)

    def make(self, visual: Visual, source: statistics.Source, about: Mapping[str, Any]) -> Statistics:
        """The statistics of prompts ``visual [J, n, D_v]``, from disk or made now."""
        dataset_folder, workers = self.bank_cache.dataset_folder(source.images.dataset), self.cfg.DATALOADER.NUM_WORKERS
        return statistics.build(self.backbone, visual, source, dataset_folder, about=about, workers=workers)

    def tuner(self, reset: str, images: ImageSet) -> Tuner:
        """What tunes on every image, starting from the prompts of the run or from those of a released reset."""
        learner, tuning = self.prompt_learner, self.tuning
        start = {name: value.detach() for name, value in learner.named_parameters()}
        if reset == "constructed":
            start = released_reset(self.layout, start, self.constructed)
        model = PromptedCLIP(
            self.backbone.require_image(), self.encoder, learner, self.fixed, self.backbone.logit_scale
        )
        adversarial, clean = (
            bank.of(tuning.blocks, self.device) if bank is not None else () for bank in self.banks.values()
        )
        files = {sample.id: Path(sample.path) for sample in images.samples}
        # prompts that go from image to image make it matter which images these are
        chain = {"images": images.list_digest} if tuning.reset_every > 1 else {}
        name = self.defense.name if reset == "loaded" else f"{self.defense.name}:{reset}"
        return Tuner(model, start, tuning, adversarial, clean, name=name, files=files, extra_key=chain)

    def rows(self, images: ImageSet) -> Sequence[Tuned]:
        """A row for each of RESET_SOURCE; attackers who know the tuning attack the first one."""
        if not self.banks:
            raise ConfigError(f"{self.title} needs prompts that were tuned before: --eval-only --model-dir RUN")
        if not self._rows or self._rows[0].images is not images:
            tuners = [self.tuner(reset, images) for reset in self.tuning.resets]
            self._rows = tuned.rows(tuners, images, self.options.node, self.defense)
        return self._rows

    def clean_bank(self, prompts: Prompts, images: ImageSet) -> Bank:
        bank_cache = self.bank_cache.with_visual_prompts(prompts.learned.visual)
        inputs = [each for row in self.rows(images) for each in row.inputs]
        return bank_cache.get_all(AttackRequest(images), inputs)[0]

    def observed(self) -> dict[str, Any]:
        tuners = [row.tuner for row in self._rows]
        return super().observed() | {"tuning": {each.name: {"not_finite": len(each.not_finite)} for each in tuners}}

    def facts(self) -> RunFacts:
        banks = {kind: bank.key if bank is not None else None for kind, bank in self.banks.items()}
        return dataclasses.replace(super().facts(), tuning=dataclasses.asdict(self.tuning) | {"statistics": banks})


@TRAINER_REGISTRY.register()
class TAPTV(TestTimeTrainer):
    layout, trained_by = "visual", "AdvVPT"


@TRAINER_REGISTRY.register()
class TAPTVLI(TestTimeTrainer):
    layout, trained_by = "independent", "AdvIVLP"


@TRAINER_REGISTRY.register()
class TAPTVLJ(TestTimeTrainer):
    layout, trained_by = "t2v", "AdvMaPLe"
