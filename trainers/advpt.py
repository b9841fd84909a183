"""AdvPT: tune the context words on a bank of adversarial image embeddings (Zhang et al., ECCV 2024).

The bases of all trainers are here as well: so this one file, which needs ``advpt`` and ``dassl`` only, can be copied
into the ``trainers/`` of another CoOp-style checkout; docs/checkouts.md says what its ``train.py`` then needs.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from dassl.data import DataManager, DatasetWrapper
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import AverageMeter, MetricMeter
from torch import Tensor, nn

from advpt import losses
from advpt.attacks.pgd import PROFILES
from advpt.attacks.spec import AttackSpec, parse_training
from advpt.attacks.surrogate import Surrogate, load_surrogate
from advpt.backbones.backbone import Backbone
from advpt.backbones.card import JSON
from advpt.backbones.load import find_card, load_backbone, settle
from advpt.backbones.precision import half_precision
from advpt.backbones.text_encoder import TextEncoder
from advpt.bank.cache import AttackRequest, BankCache
from advpt.bank.cost import timed
from advpt.bank.on_ray import filler
from advpt.bank.store import Bank
from advpt.checkpoints import load_checkpoint
from advpt.data import catalog, listing, zero_shot
from advpt.data.images import ImageSet, Preprocessing, native_size, read_rgb
from advpt.data.lists import DataLists
from advpt.data.manifest import manifest
from advpt.detectors import LossWatch, bank_rows, same_prompts
from advpt.errors import ConfigError, PromptError
from advpt.evaluation import evaluator, measure, session
from advpt.evaluation.defended import EvaluationRow
from advpt.evaluation.measure import Prompts
from advpt.evaluation.record import CurvePoint, RunFacts, TrainingFacts, trained_field
from advpt.evaluation.session import Session, Subject
from advpt.files import digest, tensor_digest, write_json
from advpt.prompts import exchange
from advpt.prompts.classifier import Classifier, from_templates
from advpt.prompts.cuda_graph import TextFeatures
from advpt.prompts.image_encoder import with_visual_prompts
from advpt.prompts.learner import PromptLearner, check_layout, prompt_tensors
from advpt.schema import from_json, to_json
from advpt.settings import (
    BackboneSettings,
    BankSettings,
    ContextSettings,
    EvalSettings,
    Settings,
    SharedContext,
    SurrogateSettings,
    TextContext,
    extend_cfg,
    plain,
    register,
    require_ranges,
    setting,
)
from advpt.test_time.base import DefendedModel
from advpt.tuning.loader import BankLoader, batch_seed
from advpt.tuning.progress import FILE as PROGRESS
from advpt.tuning.progress import Progress
from advpt.tuning.rolling import FILE as ROLLING
from advpt.tuning.rolling import RollingCheckpoint, require_finite
from advpt.tuning.schedule import warmup_schedule

__all__ = ["AdvPT", "CLIPTrainer", "GradientTrainer", "PromptTrainer", "extend_cfg"]
log = logging.getLogger(__name__)


@register("TRAINER.ZEROSHOTCLIP", in_v1=True)
class ZeroShotSettings(Settings):
    """The hand-written prompt: zero-shot CLIP's, and that of transfer attackers whatever the trainer."""

    template: str = setting("", "hand-written prompt with {} for the class name; empty: the data set's")
    ensemble: bool = setting(False, "add CoOp's seven general templates")
    template_set: str = setting(
        "", "hand-written prompts of a family of papers, FARE's with its class names; empty: of DATASET.PROTOCOL",
        leaf="TEMPLATES", allowed=zero_shot.TEMPLATE_SETS, added=True,
    )  # fmt: skip

    def check(self) -> None:
        if self.template_set and (self.template or self.ensemble):
            raise ConfigError(
                f"TRAINER.ZEROSHOTCLIP.TEMPLATES is {self.template_set}, which says what the hand-written prompts are: "
                "leave TEMPLATE empty and ENSEMBLE False"
            )

    def templates(self, dataset: str, protocol: str = zero_shot.COOP) -> tuple[str, ...]:
        """The prompts of a data set, by its registry name, under ``DATASET.PROTOCOL``."""
        of_protocol = zero_shot.templates("", dataset, protocol)
        if self.template_set:
            return zero_shot.templates(self.template_set, dataset)
        own = (self.template,) if self.template else of_protocol
        return tuple(dict.fromkeys((*own, *catalog.ensemble(dataset)))) if self.ensemble else own


@register("TRAINER.ADVPT", in_v1=True)
class AdvPTSettings(TextContext):
    """AdvPT's prompts; its attack is ``BANK.ATTACK``."""

    n_ctx: int = 32


class HostImages(DatasetWrapper):
    """The host's items, their images read as the library reads all others: Dassl cuts 16-bit grey off at 255."""

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        fields = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        image = read_rgb(Path(item.impath))
        several = self.transform if isinstance(self.transform, list | tuple) else [self.transform]
        for number, transform in enumerate(several, 1):
            view = self._transform_image(transform, image) if transform is not None else image
            fields["img" if number == 1 else f"img{number}"] = view
        return fields | ({"img0": self.to_tensor(image)} if self.return_img0 else {})


class CLIPTrainer(TrainerX):
    """A method on a frozen CLIP in Dassl's eyes: settings, data, model, clean results; the records are
    :class:`~advpt.evaluation.session.Session`'s. Methods say what classifies, and how that is trained."""

    settings: ClassVar[type[Settings]] = ZeroShotSettings  # the node of the method's own
    trained: ClassVar[bool] = True  # another seed gives another outcome; False for a method that trains nothing
    shares_test_banks: ClassVar[bool] = True  # its test banks serve other trainers, but those of attacks on its prompts
    trains_encoder: ClassVar[bool] = False  # the image encoder is trained: checkpoints of its size, banks of its own
    tunes_at_test_time: ClassVar[bool] = False  # prompts are tuned on every test image
    reads_class_names: bool = True  # classes of the same name cannot be told apart
    options: Settings  # the values of ``settings``
    bank_settings: BankSettings
    eval_settings: EvalSettings
    bank_attack: AttackSpec  # of the training bank
    classnames: list[str]
    templates: tuple[str, ...]
    backbone: Backbone
    encoder: TextEncoder
    bank_cache: BankCache
    evaluation_cache: BankCache  # of the images that are evaluated
    zero_shot: Classifier  # the hand-written prompt
    seed: int
    progress: Progress  # of training by steps
    loaded: dict[str, Any] | None = None  # where an evaluated model came from
    loading_warnings: tuple[str, ...] = ()
    unread_settings: tuple[str, ...] = ()  # a sentence for each setting that nothing reads

    # --- set-up -------------------------------------------------------------------------------------------------

    def build_data_loader(self) -> None:
        """The host's loaders, their images read by the library's one reader. Where ``center_crop`` and nothing random
        is among INPUT.TRANSFORMS, training images are as banks have them: the shorter side resized, the middle cut
        out. (Dassl squeezes an image that it does not crop into a square.)"""
        transforms = self.cfg.INPUT.TRANSFORMS
        whole = "center_crop" in transforms and not any(name.startswith("random") for name in transforms)
        train = build_transform(self.cfg, is_train=False) if whole else None
        self.dm = dm = DataManager(self.cfg, custom_tfm_train=train, dataset_wrapper=HostImages)
        self.train_loader_x: Any = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader, self.test_loader = dm.val_loader, dm.test_loader
        self.num_classes, self.num_source_domains = dm.num_classes, dm.num_source_domains
        self.lab2cname = dm.lab2cname

    @classmethod
    def nodes(cls) -> tuple[str, ...]:
        """The nodes of cfg.TRAINER that the method reads, its own first; no other one changes anything."""
        names = (kind.node.rpartition(".")[2] for kind in (cls.settings, ZeroShotSettings))
        return tuple(dict.fromkeys(names))

    def check_cfg(self, cfg: Any) -> None:
        """Every setting is read before anything is loaded; mistakes raise ConfigError."""
        require_nodes(type(self).__name__, cfg, self.nodes())
        settle(cfg)
        require_ranges(cfg, self.nodes())
        self.options = self.settings.from_cfg(cfg)
        self.bank_settings, self.eval_settings = BankSettings.from_cfg(cfg), EvalSettings.from_cfg(cfg)
        for settings in (ZeroShotSettings, BackboneSettings, SurrogateSettings):
            settings.from_cfg(cfg)
        self.bank_attack = parse_training(self.bank_settings.attack, "BANK.ATTACK", self.bank_settings.profile)
        evaluator.check(self.eval_settings)
        if self.eval_settings.attack_at == "native" and self.tunes_at_test_time:
            raise ConfigError(
                f"EVAL.ATTACK_AT is native, and {cfg.TRAINER.NAME} tunes its prompts on views of the model's size; "
                "give EVAL.ATTACK_AT model"
            )

    def build_model(self) -> None:
        cfg, backbone = self.cfg, BackboneSettings.from_cfg(self.cfg)
        self.seed = cfg.SEED if cfg.SEED >= 0 else torch.seed() % 2**31
        self.progress = Progress(Path(self.output_dir, PROGRESS))
        self.require_protocol()
        hand_prompt = ZeroShotSettings.from_cfg(cfg)
        self.templates = hand_prompt.templates(cfg.DATASET.NAME, cfg.DATASET.PROTOCOL)
        self.classnames = self.names_of_classes(hand_prompt.template_set)
        listing.require_unicode(self.classnames, f"the classes of {cfg.DATASET.NAME}")
        self.backbone = load_backbone(backbone, self.device)
        self.backbone.require_size(cfg.INPUT.SIZE)
        self.encoder = self.backbone.text
        self.bank_cache = BankCache(
            root=self.bank_settings.dir,
            backbone=self.backbone,
            load=lambda: load_backbone(backbone, self.device),
            chunk=self.bank_settings.chunk,
            verify=self.bank_settings.verify,
            workers=cfg.DATALOADER.NUM_WORKERS,
            precision=self.bank_settings.precision + ("+compiled" if backbone.compile else ""),
            load_surrogate=self.load_surrogate,
            fill=filler(self.bank_settings.engine),
        )
        self.evaluation_cache = self.bank_cache
        self.zero_shot = from_templates(self.encoder, self.classnames, self.templates, self.backbone.logit_scale)
        if backbone.compile:
            self.encoder.compile()

    def require_protocol(self) -> None:
        """Refuse (ConfigError) a protocol that the data set's file does not know, as another repository's."""
        asked, given = self.cfg.DATASET.PROTOCOL, getattr(self.dm.dataset, "protocol", zero_shot.COOP)
        if asked != given:
            raise ConfigError(
                f"DATASET.PROTOCOL is {asked}, and the file of {self.cfg.DATASET.NAME} in datasets/ gives the images "
                f"of {given}: it does not read that setting. Use this project's file, or DATASET.PROTOCOL {given}"
            )

    def names_of_classes(self, template_set: str) -> list[str]:
        """The class names that go into prompts, by label."""
        data, folders = self.dm.dataset, dict[int, str]()
        if template_set != zero_shot.FARE:
            return list(data.classnames)
        for item in (*data.test, *data.train_x):
            if item.label not in folders:
                folders[item.label] = Path(item.impath).parent.name
        return zero_shot.class_names(
            template_set, self.cfg.DATASET.NAME, data.classnames, [folders[label] for label in sorted(folders)]
        )

    def load_surrogate(self) -> Surrogate:
        """The attacker's own network for attacks that do not go through CLIP, fitted to the training images."""
        folder = self.bank_settings.dir / catalog.bank_name(self.cfg.DATASET) / "surrogates"
        settings, train = SurrogateSettings.from_cfg(self.cfg), self.image_set("train")
        return load_surrogate(settings, train, folder, self.device, self.bank_settings.chunk)

    def image_set(self, split: str, interpolation: str | None = None) -> ImageSet:
        """The images of ``train``, ``val`` or ``test`` under the run's test transform, without normalisation."""
        cfg, data = self.cfg, self.dm.dataset
        if split == "train":
            self.require_training_images()
        items = {"train": data.train_x, "val": data.val, "test": data.test}[split]
        resize = cfg.INPUT.RESIZE or "shortest"
        pixels = Preprocessing(tuple(cfg.INPUT.SIZE), interpolation or cfg.INPUT.INTERPOLATION, resize)
        name, root, protocol = catalog.bank_name(cfg.DATASET), cfg.DATASET.ROOT, cfg.DATASET.PROTOCOL
        return ImageSet.from_datums(name, split, items or [], self.classnames, root, pixels, protocol)

    def require_training_images(self) -> None:
        """Refuse to train on a data set that has no images for it."""
        if why := getattr(self.dm.dataset, "no_training", ""):
            raise ConfigError(
                f"{self.cfg.DATASET.NAME} cannot be trained on: {why}. Evaluate there what was tuned on another: "
                "--eval-only --model-dir RUN"
            )

    def evaluated(self, split: str) -> ImageSet:
        """The images of an evaluation, at most EVAL.SUBSET, as attacks change them: at the model's size, or at their
        own (EVAL.ATTACK_AT), for which :attr:`evaluation_cache` then is."""
        images, self.evaluation_cache = self.image_set(split).first(self.eval_settings.subset), self.bank_cache
        if self.eval_settings.attack_at == "native":
            size = native_size(images)
            self.evaluation_cache = self.bank_cache.at(size)
            images = dataclasses.replace(images, preprocessing=dataclasses.replace(images.preprocessing, size=size))
        return images

    @functools.cached_property
    def lists(self) -> DataLists:
        """Which images are in train, val and test, and the names of the classes."""
        return DataLists.of(self.dm.dataset)

    # --- evaluation ---------------------------------------------------------------------------------------------

    def classifier(self) -> Classifier:
        """What is evaluated, as it is now."""
        return self.zero_shot

    def prompts(self) -> Prompts:
        """What classifies, and the prompt that transfer attacks go through."""
        learned, learner = self.classifier(), getattr(self, "prompt_learner", None)
        model = DefendedModel(learned, self.encoder, tuple(self.classnames), self.backbone.card, learner)
        return Prompts(learned, self.zero_shot, self.templates, model)

    def session(self) -> Session:
        return Session(self.evaluation_cache, self.eval_settings, Path(self.output_dir), print)

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Clean accuracy as Dassl prints it, then the robust numbers, one record each. Returns the clean accuracy.

        Asked for a split by name (as during training), only the clean accuracy is measured.
        """
        self.set_model_mode("eval")
        name = split or self.cfg.TEST.SPLIT
        if name == "val" and not self.dm.dataset.val:
            name = "test"
        images = self.evaluated(name)
        prompts = self.prompts()
        print(f"Evaluate on the *{name}* set")
        bank = self.clean_bank(prompts, images)
        self.evaluator.reset()
        for logits, labels in zip(measure.logits_of(prompts.learned, bank, 1024), bank.labels.split(1024)):
            self.evaluator.process(logits, labels.to(self.device))
        results = self.evaluator.evaluate()
        for metric, value in results.items():
            if not isinstance(value, list | tuple):
                self.write_scalar(f"{name}/{metric}", value, self.epoch)
        if split is None:
            self.session().run(prompts, images, self.facts(), self.rows(images), self.observed)
        return float(next(iter(results.values())))

    def subject(self, split: str) -> Subject:
        """What an evaluation of ``test`` or ``val`` is of."""
        self.set_model_mode("eval")
        images = self.evaluated(split)
        facts, rows = self.facts(), self.rows(images)
        return Subject(
            self.prompts(), images, self.evaluation_cache, self.eval_settings, facts, rows, self.learned_digest()
        )

    def learned_digest(self) -> str | None:
        """SHA-256 of the prompts' tensors that were tuned; None where there are none."""
        return None

    def clean_bank(self, prompts: Prompts, images: ImageSet) -> Bank:
        """The bank of clean images."""
        return self.evaluation_cache.with_visual_prompts(prompts.learned.visual).get(images)

    def rows(self, images: ImageSet) -> Sequence[EvaluationRow]:
        """Rows of results before those that the settings ask for: what a method does at test time."""
        return ()

    def observed(self) -> dict[str, Any]:
        """What a record says besides of how training and evaluation went."""
        prepared = manifest(Path(str(getattr(self.dm.dataset, "dataset_dir", ""))))
        about = {"prepared_data": {"manifest": digest(prepared), "date": prepared.get("date")}} if prepared else {}
        learned = {"learned": each} if (each := self.learned_digest()) else {}
        return ({"training": self.progress.times()} if self.progress.seconds else {}) | about | learned

    def facts(self) -> RunFacts:
        """What a record says of the run itself."""
        cfg, data = self.cfg, self.dm.dataset
        comparable = getattr(data, "comparable", None)  # other projects' data sets do not say
        config = session.recorded_settings(plain(cfg))
        curve = {"curve": self.progress.curve()} if self.progress.measured else {}
        training = self.training_facts() | curve | ({"loaded": self.loaded} if self.loaded else {})
        return RunFacts(
            dataset=catalog.title(cfg.DATASET),
            trainer=cfg.TRAINER.NAME,
            seed=cfg.SEED,
            shots=cfg.DATASET.NUM_SHOTS,
            config=config,
            config_digest=digest(config),
            prompt=self.classifier().digest,
            split_digest=getattr(data, "split_digest", None) or self.lists.split.digest(),
            comparable=None if comparable is None else bool(comparable),
            training=from_json(TrainingFacts, training),
            warnings=tuple(self.warnings()),
            trained=trained_field(cfg.TRAINER.NAME, self.trained),
        )

    def training_facts(self) -> dict[str, Any]:
        """Where the training input came from, for the record."""
        return {}

    def set_up_warnings(self) -> list[str]:
        """What is odd about settings and data before anything is trained, for the log and the records."""
        names = self.classnames if self.reads_class_names else []
        pieces = self.backbone.tokenizer.class_pieces
        alike = same_prompts(names, [tuple(pieces(name)) for name in names])
        return [*self.unread_settings, *getattr(self.dm.dataset, "warnings", ()), *alike]

    def warnings(self) -> list[str]:
        """Signs that something is wrong without an error (:mod:`advpt.detectors`), for the record."""
        lines = self.progress.watch.warnings()
        if isinstance(self.train_loader_x, BankLoader):
            bank = self.train_loader_x.bank
            odd = bank_rows(bank.embeddings, bank.ids)
            lines = [*(f"training bank {bank.key[:12]}: {line}" for line in odd), *lines]
        return [*self.set_up_warnings(), *lines, *self.loading_warnings]

    def model_inference(self, images: Tensor) -> Tensor:
        """Logits ``[b, K]`` of images as the host's loaders give them."""
        if self.backbone.image is None:
            self.backbone = self.bank_cache.load()
            self.bank_cache = dataclasses.replace(self.bank_cache, backbone=self.backbone)
            self.encoder = self.backbone.text
        warn_of_crops(self.backbone)
        classifier = self.classifier()
        encode = with_visual_prompts(self.backbone.require_image(), classifier.visual)
        return classifier.logits(encode(to_pixels(images, self.cfg)))

    # --- what stands beside a trained model ---------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """What stands beside a checkpoint, as JSON values: what it was tuned with and on."""
        return {
            "trainer": self.cfg.TRAINER.NAME,
            "dataset": self.cfg.DATASET.NAME,
            "data": {"title": catalog.title(self.cfg.DATASET), **self.lists.tuned_on},
            "classnames": self.classnames,
            "templates": list(self.templates),
            "backbone": self.backbone_facts(),
            "training": self.training_facts(),
            "seed": self.cfg.SEED,
        }

    def backbone_facts(self) -> dict[str, JSON]:
        """The CLIP that a checkpoint is for; where its name alone does not say what it is, with its card."""
        image, text = self.backbone.image_digest, self.backbone.text_digest
        facts: dict[str, JSON] = {"name": self.backbone.name, "image": image, "text": text}
        return facts | ({"card": self.backbone.card.fields()} if self.backbone.card.config else {})

    def warn_of_loaded(self, line: str) -> None:
        """Log a warning about what was loaded, and keep it for the record."""
        log.warning("%s", line)
        self.loading_warnings = (*self.loading_warnings, line)

    def compare_templates(self, about: Mapping[str, Any]) -> None:
        """A warning where what was tuned beside a hand-written prompt of this data set is evaluated with another."""
        templates = about.get("templates", list(self.templates))
        if templates != list(self.templates) and about.get("dataset") == self.cfg.DATASET.NAME:
            self.warn_of_loaded(
                f"tuned with the hand-written prompt {templates}, evaluated with {list(self.templates)}"
            )

    def tuned_elsewhere(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """For the record: on which data a checkpoint was tuned, where they are not this run's."""
        data = exchange.other_data(about, self.lists.tuned_on)
        return {"tuned_on": dict(data)} if data else {}


class GradientTrainer(CLIPTrainer):
    """A method that is trained by steps of gradient descent; a run that was stopped or killed continues exactly."""

    optim: Any
    sched: Any
    rolling: RollingCheckpoint
    input_seconds: float | None = 0.0  # what the training input cost, None where that is not known

    def register_trained(self, name: str, model: nn.Module) -> None:
        """Let Dassl train and save a model, with its own optimizer and schedule; where the host's warm-up does not run
        on this torch, with the same numbers from torch's own.

        Raises:
            ConfigError: values of OPTIM that do not go together.
        """
        settings = self.cfg.OPTIM
        try:
            self.optim = self.without_decay(build_optimizer(model, settings), model)
            self.sched = self.build_schedule(self.optim)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise ConfigError(f"the settings of OPTIM cannot be used: {error}") from error
        self.register_model(name, model, self.optim, self.sched)

    def without_decay(self, optimizer: Any, model: nn.Module) -> Any:
        """The optimizer, once the parameters of ``model`` that weight decay is not for have a group of their own."""
        return optimizer

    def build_schedule(self, optimizer: Any) -> Any:
        """The schedule of the learning rate, stepped by :meth:`end_batch`."""
        try:
            return build_lr_scheduler(optimizer, self.cfg.OPTIM)
        except TypeError:
            log.info("the host's learning-rate warm-up does not run on torch %s; using our own", torch.__version__)
            return warmup_schedule(optimizer, self.cfg.OPTIM)

    def prepare_training(self) -> None:
        """Get the training input, before the first epoch and never for an evaluation alone."""

    def before_train(self) -> None:
        self.require_training_images()
        self.require_validation()
        if self.cfg.RESUME:
            run = Path(self.cfg.RESUME)
            about = self.require_fit(run / self.get_model_names()[0] / exchange.ABOUT)
            exchange.require_data(about, run, self.lists.tuned_on)
        self.prepare_training()
        super().before_train()
        watch = LossWatch(len(self.classnames))
        self.rolling = RollingCheckpoint(Path(self.output_dir, ROLLING), watch)
        self.start_epoch = self.rolling.restore(self)
        self.progress = Progress(Path(self.output_dir, PROGRESS), self.start_epoch, self.input_seconds, watch)

    def require_validation(self) -> None:
        """Refuse to choose the best checkpoint on test images, which Dassl does where there are no others."""
        if self.cfg.TEST.FINAL_MODEL != "best_val" or self.cfg.TEST.NO_TEST:
            return
        name, (val, test) = self.cfg.DATASET.NAME, (self.image_set(split) for split in ("val", "test"))
        shared = len(set(val.ids) & set(test.ids))
        if not len(val) or shared:
            why = f"{shared} of its {len(val)} images are test images" if shared else "there is none"
            raise ConfigError(
                f"TEST.FINAL_MODEL is best_val, which chooses a checkpoint on the validation split of {name}, and "
                f"{why}: it would choose on the test set. Use TEST.FINAL_MODEL last_step"
            )

    def run_epoch(self) -> None:
        """One pass over the training batches, logged as Dassl logs it; those that are done are passed over."""
        self.set_model_mode("train")
        self.num_batches = len(self.train_loader_x)
        meters, data_time, batch_time = MetricMeter(), AverageMeter(), AverageMeter()
        end = time.monotonic()
        with self.rolling.epoch(self) as batches:
            for number, batch in enumerate(self.train_loader_x):
                self.batch_idx = number
                if batches.start(number):
                    data_time.update(time.monotonic() - end)
                    losses = self.forward_backward(batch)
                    batches.finish(number, losses)
                    batch_time.update(time.monotonic() - end)
                    meters.update(losses)
                    self.log_batch(meters, data_time, batch_time)
                    end = time.monotonic()
        self.progress.add(self.rolling.seconds)

    def log_batch(self, losses: MetricMeter, data_time: AverageMeter, batch_time: AverageMeter) -> None:
        """The line of a batch, every PRINT_FREQ of them, and its points on tensorboard's curves."""
        done, total, every = self.batch_idx + 1, self.num_batches, self.cfg.TRAIN.PRINT_FREQ
        rate = self.get_current_lr()
        if done % every == 0 or total < every:
            left = total - done + (self.max_epoch - self.epoch - 1) * total
            print(
                f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{done}/{total}] "
                f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) "
                f"data {data_time.val:.3f} ({data_time.avg:.3f}) {losses} lr {rate:.4e} "
                f"eta {datetime.timedelta(seconds=int(batch_time.avg * left))}"
            )
        step = self.epoch * total + self.batch_idx
        for name, meter in losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, step)
        self.write_scalar("train/lr", rate, step)

    def gradient_step(self, loss: Tensor, **parts: Tensor) -> dict[str, float]:
        """A step down the gradient of ``loss``, and of the schedule. Returns the loss and its ``parts`` for the log."""
        self.model_backward_and_update(loss)
        self.end_batch()
        return {"loss": loss.item(), **{name: float(value) for name, value in parts.items()}}

    def model_backward(self, loss: Tensor) -> None:
        super().model_backward(loss)
        require_finite(self, gradients=True)

    def end_batch(self) -> None:
        """The schedule's step, after the last batch of an epoch."""
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()

    def batch_seed(self) -> int:
        """For what is drawn in this batch of this epoch alone, whatever was drawn before."""
        return batch_seed(self.seed, self.epoch, self.batch_idx)

    def before_epoch(self) -> None:
        if isinstance(self.train_loader_x, BankLoader):
            self.train_loader_x.epoch = self.epoch

    def after_epoch(self) -> None:
        """Measure where a curve over wall-clock is asked for, before the checkpoint: a killed run loses neither."""
        done, every = self.epoch + 1, self.cfg.TRAIN.CURVE_FREQ
        if every and (done % every == 0 or done == self.max_epoch):
            self.progress.measured[done] = to_json(self.point())
        self.progress.save()
        super().after_epoch()
        if done == self.max_epoch:
            self.rolling.clear()

    @torch.no_grad()
    def point(self) -> CurvePoint:
        """Clean and robust accuracy as they are now, under the first attack of the first protocol."""
        self.set_model_mode("eval")
        split = "test" if self.cfg.TEST.SPLIT == "val" and not self.dm.dataset.val else self.cfg.TEST.SPLIT
        images = self.evaluated(split)
        return self.session().point(self.prompts(), images, self.epoch + 1)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save_model(self, epoch: int, directory: str, *args: Any, **kwargs: Any) -> None:
        """Dassl's checkpoint, and beside it what it was tuned with, as JSON."""
        super().save_model(epoch, directory, *args, **kwargs)
        write_json(Path(directory, self.get_model_names()[0], exchange.ABOUT), self.about())

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Take what was tuned from a finished run's folder: of the given epoch, the best, or the last one written."""
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            self.warn_of_loaded(f"no --model-dir: {self.cfg.TRAINER.NAME} is evaluated as it starts, untrained")
            return
        name = self.get_model_names()[0]
        path = exchange.checkpoint_file(Path(directory, name), epoch)
        about = self.require_fit(path)
        self.loaded = self.load_weights(path, about) | self.tuned_elsewhere(about)
        print(f'Loading weights to {name} from "{path}" (epoch = {self.loaded["epoch"]})')

    def require_fit(self, path: Path) -> dict[str, Any]:
        """What stands beside a checkpoint, once it agrees with this run; PromptError or WeightsError say why not."""
        raise NotImplementedError

    def load_weights(self, path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        """Load a checkpoint that fits. Returns what the record says of it: its epoch, and where it comes from."""
        raise NotImplementedError


class PromptTrainer(GradientTrainer):
    """Tunes prompts of a frozen CLIP; methods say where their training input comes from, or which loss they have."""

    settings: ClassVar[type[SharedContext]] = AdvPTSettings
    layout: ClassVar[str] = ""  # of its prompts, where the method says and not its settings
    learner: ClassVar[type[PromptLearner]] = PromptLearner

    options: SharedContext
    context: ContextSettings
    prompt_learner: PromptLearner
    prompt_features: TextFeatures  # of the prompts, for a tuning step
    untrained: Tensor | None  # the context before tuning
    batched_seeds: tuple[int, ...] = ()  # that were tuned in one batch with this one

    def check_cfg(self, cfg: Any) -> None:
        super().check_cfg(cfg)
        self.context, name = self.options.context(self.layout), cfg.MODEL.BACKBONE.NAME
        if card := find_card(name, cfg.MODEL.ACTIVATION):
            check_layout(self.context, card, name)

    def build_model(self) -> None:
        super().build_model()
        self.build_prompts()

    def build_prompts(self) -> None:
        """The learnable part: the prompt learner is all that Dassl registers, saves and switches to training."""
        start = torch.Generator().manual_seed(self.seed)
        learner = self.learner(self.encoder, self.classnames, self.context, start, self.backbone.card)
        self.prompt_learner = learner.to(self.device)
        self.untrained = learner.ctx.detach().clone() if learner.n_ctx else None
        self.reads_class_names = not learner.csc  # a context of each class's own learns to tell them apart
        self.register_trained(exchange.FOLDER, self.prompt_learner)
        self.prompt_features = TextFeatures(self.prompt_learner, self.encoder, self.cfg.MODEL.CUDA_GRAPHS)

    # --- tuning -------------------------------------------------------------------------------------------------

    def bank_images(self) -> ImageSet:
        """The training images as a training bank has them: at most BANK.LIMIT, resized as BANK.PROFILE says."""
        settings = self.bank_settings
        interpolation = self.cfg.INPUT.INTERPOLATION
        if settings.profile != "sound":
            interpolation = PROFILES[settings.profile].bank_interpolation
        return self.image_set("train", interpolation).first(settings.limit)

    def tune_on(self, request: AttackRequest) -> None:
        """Let the training batches be those of a bank; the image encoder is not needed from here on."""
        bank, self.input_seconds = timed(self.bank_cache, request)
        self.train_loader_x = bank_loader(bank, self.cfg, self.seed)
        self.backbone.release_image_encoder()

    def embed_batch(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings ``[b, L]`` and labels ``[b]`` of a training batch."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def embed_images(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The same for a batch of images as the host's loaders give them; no gradient reaches the image encoder."""
        images, labels = self.parse_batch_test(batch)
        with torch.no_grad():
            return self.backbone.require_image()(to_pixels(images, self.cfg)), labels

    def after_train(self) -> None:
        self.prompt_features.clear()
        super().after_train()

    def forward_backward(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        with half_precision(self.context.precision, self.device):
            text = self.prompt_features()
        return self.gradient_step(self.loss(batch, text))

    def loss(self, batch: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """Of a training batch, with the text features ``[K, L]`` of the prompts as they are now."""
        features, labels = self.embed_batch(batch)
        return losses.advpt(features.float(), text.float(), self.backbone.logit_scale, labels)

    # --- evaluation ---------------------------------------------------------------------------------------------

    def classifier(self) -> Classifier:
        """The learned prompts as they are now."""
        return self.prompt_learner.classifier(self.encoder, self.backbone.logit_scale, self.zero_shot.features)

    def learned_digest(self) -> str | None:
        return tensor_digest(prompt_tensors(self.prompt_learner.state_dict(), self.cfg.TRAINER.NAME))

    def facts(self) -> RunFacts:
        k, own_weights = self.eval_settings.words, bool(self.cfg.MODEL.WEIGHTS)
        if not k or self.untrained is None or self.prompt_learner.csc:
            return super().facts()
        contexts = {"trained": self.prompt_learner.ctx.detach(), "untrained": self.untrained}
        words = session.nearest_words(contexts, k, self.backbone, self.encoder, own_weights=own_weights)
        return dataclasses.replace(super().facts(), words=words)

    def training_facts(self) -> dict[str, Any]:
        loader = self.train_loader_x
        facts = {"bank": loader.bank.key, "images": len(loader.bank)} if isinstance(loader, BankLoader) else {}
        return facts | ({"together": list(self.batched_seeds)} if self.batched_seeds else {})

    # --- checkpoints --------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        return super().about() | {
            "n_ctx": self.prompt_learner.n_ctx,
            "csc": self.context.csc,
            "class_token_position": self.context.position,
            "prompt": self.context.fields(),
        }

    def load_weights(self, path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        saved = load_checkpoint(path)
        self.prompt_learner.load_context(saved["state_dict"], str(path))
        loaded = {"epoch": saved.get("epoch")} | exchange.origin(about)
        if exchange.tuned_in(about, "prompt"):
            return loaded
        order = ", on these classes in this order" if self.context.csc else ""
        log.warning(
            "%s: nothing beside it says how it was tuned; it is taken to be tuned on %s with the class name at the %s "
            "(%s.CLASS_TOKEN_POSITION)%s",
            path, self.backbone.name, self.context.position, self.settings.node, order,
        )  # fmt: skip
        return loaded | {"assumed": {"class_token_position": self.context.position, "backbone": self.backbone.name}}

    def require_fit(self, path: Path) -> dict[str, Any]:
        """What stands beside a checkpoint of prompts, once it agrees with this run in layout, classes and CLIP.

        Raises:
            PromptError: another layout, or class-specific context of other classes. WeightsError: another CLIP.
        """
        about = exchange.about(path)
        if self.context.csc and (classes := exchange.other_classes(about, self.classnames)):
            raise PromptError(
                f"{path} holds class-specific context (CSC): {classes}; it fits only the class list it was tuned on"
            )
        node = self.nodes()[0]
        exchange.require_layout(about, str(path), self.context, node, self.cfg.TRAINER[node])
        exchange.require_towers(about, str(path), self.backbone, self.towers())
        if other := exchange.other_towers(about, self.backbone):  # of images, for prompts in the text alone
            self.warn_of_loaded(f"the loaded prompt {other}")
        if self.context.layout == "visual":
            self.compare_templates(about)
        return about

    def towers(self) -> tuple[str, ...]:
        """The towers of CLIP that the prompts are in, or are made from."""
        return exchange.towers_of(self.context)


@TRAINER_REGISTRY.register()
class AdvPT(PromptTrainer):
    """The training input is a bank of adversarial embeddings; no pixel is touched while tuning."""

    def prepare_training(self) -> None:
        self.tune_on(AttackRequest(self.bank_images(), self.bank_attack, self.zero_shot, self.bank_settings.seed))


# --- small parts that the trainers share ----------------------------------------------------------------------------


def bank_loader(bank: Bank, cfg: Any, seed: int) -> BankLoader:
    """Batches of a bank in the way Dassl's training loaders make them."""
    return BankLoader(bank, batch_size=cfg.DATALOADER.TRAIN_X.BATCH_SIZE, seed=seed)


def require_nodes(trainer: str, cfg: Any, nodes: Sequence[str]) -> None:
    """Refuse a configuration without the nodes of a trainer's settings; the ConfigError says how they get there."""
    for node, where in (*((node, cfg.TRAINER) for node in nodes), ("BANK", cfg), ("EVAL", cfg)):
        if node not in where:
            raise ConfigError(
                f"{trainer} has no settings: the configuration lacks {node}. In train.py, call "
                "trainers.advpt.extend_cfg(cfg) at the end of extend_cfg, where all trainers are imported"
            )


def warn_of_crops(backbone: Backbone) -> None:
    """A warning where the host's loaders, which crop, feed a model that was trained on whole images."""
    if backbone.card.image.resize == "squash":
        warnings.warn(
            f"the host's loaders crop images, and {backbone.name} was trained on whole ones: their test loop measures "
            "less than the results here, which do not use those loaders",
            stacklevel=3,
        )


def to_pixels(images: Tensor, cfg: Any) -> Tensor:
    """Images of the host's loaders as pixels in [0, 1]: its normalisation is undone if its transforms include one.

    A CoOp checkout lists ``normalize`` in INPUT.TRANSFORMS; APT's and TAPT's leave it out. Never undone twice.
    """
    if "normalize" not in cfg.INPUT.TRANSFORMS or cfg.INPUT.NO_TRANSFORM:
        return images
    mean, std = (
        torch.tensor(v, device=images.device)[:, None, None] for v in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    )
    return (images * std + mean).clamp(0, 1)
