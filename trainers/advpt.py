"""AdvPT: tune the context words on a bank of adversarial image embeddings (Zhang et al., ECCV 2024).

Needs ``advpt`` and ``dassl`` only, so it can be copied into the ``trainers/`` of another CoOp-style checkout; README.md
says what its ``train.py`` then needs.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from dassl.data import DataManager, DatasetWrapper
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import Tensor

from advpt import losses
from advpt.attacks import parse
from advpt.attacks.pgd import PROFILES
from advpt.attacks.spec import parse_training
from advpt.attacks.surrogate import load_surrogate
from advpt.backbones import democlip
from advpt.backbones.clip import OFFICIAL, load_backbone
from advpt.backbones.precision import half_precision
from advpt.bank.cache import BankCache
from advpt.bank.cost import timed
from advpt.bank.on_ray import filler
from advpt.bank.store import Bank
from advpt.data import catalog, listing
from advpt.data.images import ImageSet, Preprocessing, read_rgb
from advpt.data.lists import DataLists
from advpt.data.manifest import manifest
from advpt.detectors import LossWatch, bank_rows, same_prompts
from advpt.errors import ConfigError, PromptError
from advpt.evaluation import defended, evaluator, pictures, record
from advpt.evaluation.evaluator import Prompts, evaluate
from advpt.evaluation.protocols import recorded, threats
from advpt.evaluation.run_folder import UNCOMPARED_LEAVES
from advpt.files import digest, load_checkpoint, write_json
from advpt.prompts import exchange, words
from advpt.prompts.classifier import Classifier, from_templates
from advpt.prompts.cuda_graph import TextFeatures
from advpt.prompts.image_encoder import with_visual_prompts
from advpt.prompts.learner import PromptLearner, check_layout
from advpt.prompts.text_encoder import TextEncoder, class_tokens
from advpt.schema import from_json, to_json
from advpt.settings import (
    BackboneSettings,
    BankSettings,
    ContextSettings,
    EvalSettings,
    SurrogateSettings,
    extend_cfg,
    plain,
    require_ranges,
)
from advpt.tuning.loader import BankLoader
from advpt.tuning.progress import FILE as PROGRESS
from advpt.tuning.progress import Progress
from advpt.tuning.rolling import FILE as ROLLING
from advpt.tuning.rolling import Rolling, require_finite

__all__ = ["AdvPT", "PromptTrainer", "extend_cfg"]
log = logging.getLogger(__name__)
MODEL_NAME = exchange.FOLDER  # the checkpoint folder, as CoOp has it
ZERO_SHOT_NODE = "ZEROSHOTCLIP"  # the node of the hand-written prompt, which every method needs


class HostImages(DatasetWrapper):
    """The host's items, their images read as the library reads all others: Dassl cuts 16-bit grey off at 255."""

    def __getitem__(self, idx):
        item = self.data_source[idx]
        fields = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        image = read_rgb(Path(item.impath))
        several = self.transform if isinstance(self.transform, list | tuple) else [self.transform]
        for number, transform in enumerate(several, 1):
            view = self._transform_image(transform, image) if transform is not None else image
            fields["img" if number == 1 else f"img{number}"] = view
        return fields | ({"img0": self.to_tensor(image)} if self.return_img0 else {})


class PromptTrainer(TrainerX):
    """What tuning text prompts of a frozen CLIP has in common; methods say where their training input comes from."""

    node = "ADVPT"  # of cfg.TRAINER with N_CTX, CSC, ...
    own = ""  # the node of a method that tunes no prompts, in the place of ``node``
    trained = True  # another seed gives another outcome; False for a method that trains nothing
    layout = ""  # of its prompts, where the method says and not its node
    learner: type[PromptLearner] = PromptLearner
    prompt_features: TextFeatures | None = None  # of the prompts, where the method tunes some
    progress: Progress | None = None  # while training, and until the evaluation that follows
    input_seconds: float | None = 0.0  # what the training input cost, None where that is not known
    loaded: dict | None = None  # where an evaluated prompt came from
    doubts: tuple[str, ...] = ()  # about what was loaded, for the record
    batched_seeds: tuple[int, ...] = ()  # the seeds that were tuned in one batch with this one
    ignored: tuple[str, ...] = ()  # sentences about settings that nothing reads

    # --- set-up -------------------------------------------------------------------------------------------------

    def build_data_loader(self):
        """The host's loaders, their images read by the library's one reader. Where ``center_crop`` and nothing random
        is among INPUT.TRANSFORMS, training images are as banks have them: the shorter side resized, the middle cut
        out. (Dassl squeezes an image that it does not crop into a square.)"""
        chosen = self.cfg.INPUT.TRANSFORMS
        whole = "center_crop" in chosen and not any(name.startswith("random") for name in chosen)
        train = build_transform(self.cfg, is_train=False) if whole else None
        self.dm = dm = DataManager(self.cfg, custom_tfm_train=train, dataset_wrapper=HostImages)
        self.train_loader_x, self.train_loader_u = dm.train_loader_x, dm.train_loader_u
        self.val_loader, self.test_loader = dm.val_loader, dm.test_loader
        self.num_classes, self.num_source_domains = dm.num_classes, dm.num_source_domains
        self.lab2cname = dm.lab2cname

    @classmethod
    def nodes(cls) -> tuple[str, ...]:
        """The nodes of cfg.TRAINER that the method reads, its own first; no other one changes anything."""
        return tuple(dict.fromkeys((cls.own or cls.node, ZERO_SHOT_NODE)))

    def check_cfg(self, cfg):
        """Every setting is read before anything is loaded; mistakes raise ConfigError."""
        for node, where in ((self.nodes()[0], cfg.TRAINER), ("BANK", cfg), ("EVAL", cfg)):
            if node not in where:
                raise ConfigError(
                    f"{type(self).__name__} has no settings: the configuration lacks {node}. In train.py, call "
                    "trainers.advpt.extend_cfg(cfg) at the end of extend_cfg; a trainer with a node of its own adds it "
                    "there as well"
                )
        require_ranges(cfg)
        name = cfg.MODEL.BACKBONE.NAME
        if not self.own:
            context = ContextSettings.from_cfg(cfg.TRAINER[self.node], self.layout)
            if name in OFFICIAL:
                check_layout(context, OFFICIAL[name], name)
        parse_training(BankSettings.from_cfg(cfg).attack, "BANK.ATTACK", cfg.BANK.PROFILE)
        BackboneSettings.from_cfg(cfg)
        SurrogateSettings.from_cfg(cfg)
        settings = EvalSettings.from_cfg(cfg)
        threats(settings.attacks, settings.protocols)
        defended.check(settings)

    def build_model(self):
        cfg = self.cfg
        self.context = None if self.own else ContextSettings.from_cfg(cfg.TRAINER[self.node], self.layout)
        self.bank_settings, self.eval_settings = BankSettings.from_cfg(cfg), EvalSettings.from_cfg(cfg)
        self.classnames = list(self.dm.dataset.classnames)
        listing.require_unicode(self.classnames, f"the classes of {cfg.DATASET.NAME}")
        self.backbone = load_backbone(BackboneSettings.from_cfg(cfg), self.device)
        self.backbone.require_size(cfg.INPUT.SIZE)
        self.encoder = TextEncoder(self.backbone.model)
        self.bank_cache = BankCache(
            root=self.bank_settings.dir,
            backbone=self.backbone,
            load=lambda: load_backbone(BackboneSettings.from_cfg(cfg), self.device),
            chunk=self.bank_settings.chunk,
            verify=self.bank_settings.verify,
            workers=cfg.DATALOADER.NUM_WORKERS,
            precision=self.bank_settings.precision,
            load_surrogate=self.load_surrogate,
            fill=filler(self.bank_settings.engine),
        )
        self.templates = handcrafted_templates(cfg)
        self.zero_shot = from_templates(self.encoder, self.classnames, self.templates, self.backbone.logit_scale)
        if cfg.MODEL.COMPILE:
            self.encoder.compile()
        self.build_prompts()

    def load_surrogate(self):
        """The attacker's own network for attacks that do not go through CLIP, fitted to the training images."""
        folder = self.bank_settings.dir / catalog.bank_name(self.cfg.DATASET) / "surrogates"
        settings, train = SurrogateSettings.from_cfg(self.cfg), self.image_set("train")
        return load_surrogate(settings, train, folder, self.device, self.bank_settings.chunk)

    def build_prompts(self):
        """The learnable part: the prompt learner is all that Dassl registers, saves and switches to training."""
        cfg = self.cfg
        self.seed = cfg.SEED if cfg.SEED >= 0 else torch.seed() % 2**31
        start = torch.Generator().manual_seed(self.seed)
        architecture = self.backbone.architecture
        learner = self.learner(self.encoder, self.classnames, self.context, start, architecture)
        self.prompt_learner = learner.to(self.device)
        self.untrained = learner.ctx.detach().clone() if learner.n_ctx else None
        self.optim, self.sched = build_optim(self.prompt_learner, cfg.OPTIM)
        self.register_model(MODEL_NAME, self.prompt_learner, self.optim, self.sched)
        self.prompt_features = TextFeatures(self.prompt_learner, self.encoder, cfg.MODEL.CUDA_GRAPHS)

    def image_set(self, split, interpolation=None):
        """The images of ``train``, ``val`` or ``test`` under the run's test transform, without normalisation."""
        cfg, data = self.cfg, self.dm.dataset
        datums = {"train": data.train_x, "val": data.val, "test": data.test}[split]
        pixels = Preprocessing(tuple(cfg.INPUT.SIZE), interpolation or cfg.INPUT.INTERPOLATION)
        name = catalog.bank_name(cfg.DATASET)
        return ImageSet.from_datums(name, split, datums or [], self.classnames, cfg.DATASET.ROOT, pixels)

    @functools.cached_property
    def lists(self) -> DataLists:
        """Which images are in train, val and test, and the names of the classes."""
        return DataLists.of(self.dm.dataset)

    def bank_images(self):
        """The training images as a training bank has them: at most BANK.LIMIT, resized as BANK.PROFILE says."""
        settings = self.bank_settings
        interpolation = self.cfg.INPUT.INTERPOLATION
        if settings.profile != "sound":
            interpolation = PROFILES[settings.profile].bank_interpolation
        return self.image_set("train", interpolation).first(settings.limit)

    # --- tuning -------------------------------------------------------------------------------------------------

    def prepare_training(self):
        """Get the training input, before the first epoch and never for an evaluation alone."""

    def before_train(self):
        self.require_validation()
        if self.cfg.RESUME:
            self.require_same_tuning(Path(self.cfg.RESUME))
        self.prepare_training()
        super().before_train()
        watch = LossWatch(len(self.classnames))
        self.rolling = Rolling(Path(self.output_dir, ROLLING), watch)
        self.start_epoch = self.rolling.restore(self)
        self.progress = Progress(Path(self.output_dir, PROGRESS), self.start_epoch, self.input_seconds, watch)

    def require_validation(self):
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

    def run_epoch(self):
        with self.rolling.epoch(self):
            super().run_epoch()
        self.progress.add(self.rolling.seconds)

    def model_backward(self, loss):
        super().model_backward(loss)
        require_finite(self, gradients=True)

    def after_epoch(self):
        """Measure where a curve over wall-clock is asked for, before the checkpoint: a killed run loses neither."""
        done, every = self.epoch + 1, self.cfg.TRAIN.CURVE_FREQ
        if every and (done % every == 0 or done == self.max_epoch):
            self.progress.note(done, self.point())
        self.progress.save()
        super().after_epoch()
        if done == self.max_epoch:
            self.rolling.clear()

    @torch.no_grad()
    def point(self):
        """Clean and robust accuracy as they are now, under the first attack of the first protocol."""
        self.set_model_mode("eval")
        asked = self.eval_settings
        settings = dataclasses.replace(asked, attacks=asked.attacks[:1], protocols=asked.protocols[:1], defenses=())
        split = "test" if self.cfg.TEST.SPLIT == "val" and not self.dm.dataset.val else self.cfg.TEST.SPLIT
        facts = record.RunFacts(dataset=self.cfg.DATASET.NAME, trainer=self.cfg.TRAINER.NAME, seed=self.seed, config={})
        r = evaluate(self.prompts(), self.image_set(split), self.bank_cache, settings, facts)[0].result
        point = {"protocol": r.protocol, "attack": r.attack.spec if r.attack else None}
        for name, part in (("clean", r.clean), ("robust", r.robust)):
            if part is not None:
                point[name] = to_json(dataclasses.replace(part, outcome=None))
        return point

    def after_train(self):
        if self.prompt_features is not None:
            self.prompt_features.clear()
        super().after_train()

    def before_epoch(self):
        if isinstance(self.train_loader_x, BankLoader):
            self.train_loader_x.epoch = self.epoch

    def embed_batch(self, batch) -> tuple[Tensor, Tensor]:
        """Embeddings ``[b, L]`` and labels ``[b]`` of a training batch."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def embed_images(self, batch) -> tuple[Tensor, Tensor]:
        """The same for a batch of images as the host's loaders give them; no gradient reaches the image encoder."""
        images, labels = self.parse_batch_test(batch)
        with torch.no_grad():
            return self.backbone.require_image()(to_pixels(images, self.cfg)), labels

    def forward_backward(self, batch):
        with half_precision(self.context.precision, self.device):
            text = self.prompt_features()
        loss = self.loss(batch, text)
        self.model_backward_and_update(loss)
        self.end_batch()
        return {"loss": loss.item()}

    def loss(self, batch, text: Tensor) -> Tensor:
        """Of a training batch, with the text features ``[K, L]`` of the prompts as they are now."""
        features, labels = self.embed_batch(batch)
        return losses.advpt(features.float(), text.float(), self.backbone.logit_scale, labels)

    def end_batch(self):
        """The schedule's step, after the last batch of an epoch."""
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()

    def batch_seed(self) -> int:
        """For what is drawn in this batch of this epoch alone, whatever was drawn before."""
        return ((self.seed * 1_000_003 + self.epoch) * 1_000_003 + self.batch_idx) % 2**63

    # --- evaluation ---------------------------------------------------------------------------------------------

    def classifier(self) -> Classifier:
        """The learned prompts as they are now."""
        with torch.no_grad():
            state = self.prompt_learner()
            text = F.normalize(self.encoder(state.text), dim=-1) if state.text else self.zero_shot.features
        return Classifier(text, self.backbone.logit_scale, visual=state.visual)

    def prompts(self):
        """Who classifies, and through whom transfer attacks go."""
        return Prompts(self.classifier(), self.zero_shot, self.templates)

    @torch.no_grad()
    def test(self, split=None):
        """Clean accuracy as Dassl prints it, then the robust numbers, one record each. Returns the clean accuracy.

        Asked for a split by name (as during training), only the clean accuracy is measured.
        """
        self.set_model_mode("eval")
        chosen = split or self.cfg.TEST.SPLIT
        if chosen == "val" and not self.dm.dataset.val:
            chosen = "test"
        images = self.image_set(chosen).first(self.eval_settings.subset)
        prompts = self.prompts()
        print(f"Evaluate on the *{chosen}* set")
        reader, bank = self.clean(prompts, images)
        self.evaluator.reset()
        for part, labels in zip(bank.embeddings.split(1024), bank.labels.split(1024)):
            self.evaluator.process(reader.logits(part.to(self.device)), labels.to(self.device))
        results = self.evaluator.evaluate()
        for name, value in results.items():
            if not isinstance(value, list | tuple):
                self.write_scalar(f"{chosen}/{name}", value, self.epoch)
        if split is None:
            self._robust(prompts, images)
        return next(iter(results.values()))

    def clean(self, prompts, images) -> tuple[Classifier, Bank]:
        """Who classifies clean images, and the bank that holds what it reads."""
        return prompts.learned, evaluator.evaluate_clean(prompts, images, self.bank_cache)[0]

    def rows(self, images):
        """Rows of results before those that the settings ask for: what a method does at test time."""
        return ()

    def observed(self):
        """What a record says besides of how the evaluation went."""
        return {}

    def _robust(self, prompts, images):
        started, rows = time.monotonic(), self.rows(images)
        records = evaluate(prompts, images, self.bank_cache, self.eval_settings, self.facts(), rows)
        observed = self.observed()
        if self.progress is not None and self.progress.measured:
            observed["training"] = self.progress.times()
        if prepared := manifest(Path(str(getattr(self.dm.dataset, "dataset_dir", "")))):
            observed["prepared_data"] = {"manifest": digest(prepared), "date": prepared.get("date")}
        for found in records:
            found = dataclasses.replace(found, observed=found.observed.with_details(observed))
            record.write(found, Path(self.output_dir))
        for found in reversed(records):  # the first one last: result parsers take the last match
            print_robust(found.result, primary=found is records[0])
        if self.eval_settings.pictures and self.eval_settings.attacks:
            first = threats(self.eval_settings.attacks, self.eval_settings.protocols)[0]
            n = self.eval_settings.pictures
            pictures.take(prompts, images, self.bank_cache, first, records[0], n, Path(self.output_dir))
        # printed: a host that logs nothing still shows them
        print(f"\n{evaluator.summary(records)}")
        print(f"{len(records)} record(s) in {Path(self.output_dir, 'records')} ({time.monotonic() - started:.1f} s)")

    def facts(self):
        """What a record says of the run itself."""
        cfg, data = self.cfg, self.dm.dataset
        comparable = getattr(data, "comparable", None)  # other projects' data sets do not say
        settings = {name: value for name, value in plain(cfg).items() if name not in UNRECORDED_LEAVES}
        settings["EVAL.ATTACKS"] = [recorded(text) for text in settings["EVAL.ATTACKS"]]
        training = self.training_facts() | self.curve_facts() | ({"loaded": self.loaded} if self.loaded else {})
        usual = cfg.TRAINER.NAME not in record.UNTRAINED
        return record.RunFacts(
            dataset=catalog.title(cfg.DATASET),
            trainer=cfg.TRAINER.NAME,
            seed=cfg.SEED,
            shots=cfg.DATASET.NUM_SHOTS,
            config=settings,
            config_digest=digest(settings),
            prompt=self.classifier().digest,
            split_digest=getattr(data, "split_digest", None) or self.lists.split.digest(),
            comparable=None if comparable is None else bool(comparable),
            training=from_json(record.TrainingFacts, training),
            warnings=tuple(self.warnings()),
            trained=None if self.trained == usual else self.trained,
            words=self.word_facts(),
        )

    def training_facts(self):
        """Where the training input came from, for the record."""
        loader = self.train_loader_x
        found = {"bank": loader.bank.key, "images": len(loader.bank)} if isinstance(loader, BankLoader) else {}
        return found | ({"together": list(self.batched_seeds)} if self.batched_seeds else {})

    def set_up_warnings(self) -> list[str]:
        """What is odd about settings and data before anything is trained, for the log and the records."""
        return [*self.ignored, *getattr(self.dm.dataset, "warnings", ()), *self.same_prompts()]

    def same_prompts(self) -> list[str]:
        """Classes that the text cannot tell apart; context of each class's own (CSC) learns to."""
        learner = getattr(self, "prompt_learner", None)
        if learner is not None and learner.csc:
            return []
        return same_prompts(self.classnames, [tuple(class_tokens(name)) for name in self.classnames])

    def warnings(self):
        """Signs that something is wrong without an error (:mod:`advpt.detectors`), for the record."""
        loader = self.train_loader_x
        rows = bank_rows(loader.bank.embeddings, loader.bank.ids) if isinstance(loader, BankLoader) else []
        losses = self.progress.watch.warnings() if self.progress is not None else []
        banks = [f"training bank {loader.bank.key[:12]}: {line}" for line in rows]
        return [*self.set_up_warnings(), *banks, *losses, *self.doubts]

    def curve_facts(self):
        """What was measured while training."""
        return {"curve": self.progress.curve()} if self.progress is not None and self.progress.measured else {}

    def word_facts(self):
        """The nearest words of each context vector, before and after tuning, where the settings ask for them."""
        k, learner = self.eval_settings.words, getattr(self, "prompt_learner", None)
        if not k or learner is None or learner.csc or not learner.n_ctx:
            return None
        own = democlip.FILES.get(self.backbone.name)  # the other rows of its table were never trained
        only = democlip.trained_token_ids(own) if own and not self.cfg.MODEL.WEIGHTS else None
        table = self.encoder.token_embedding.weight.detach()
        found = {"trained": learner.ctx.detach(), "untrained": self.untrained}
        return from_json(record.WordFacts, {name: words.describe(ctx, table, k, only) for name, ctx in found.items()})

    def model_inference(self, images):
        """Logits ``[b, K]`` of images as the host's loaders give them."""
        if self.backbone.image is None:
            self.backbone = self.bank_cache.backbone = self.bank_cache.load()
            self.encoder = TextEncoder(self.backbone.model)
        found = self.classifier()
        return found.logits(
            with_visual_prompts(self.backbone.require_image(), found.visual)(to_pixels(images, self.cfg))
        )

    # --- checkpoints --------------------------------------------------------------------------------------------

    def about(self):
        """What stands beside a checkpoint, as JSON values: what it was tuned with and on."""
        return {
            "trainer": self.cfg.TRAINER.NAME,
            "dataset": self.cfg.DATASET.NAME,
            "data": {"title": catalog.title(self.cfg.DATASET), **self.lists.tuned_on},
            "classnames": self.classnames,
            "templates": list(self.templates),
            "backbone": self.clip_facts(),
            "training": self.training_facts(),
            "seed": self.cfg.SEED,
        }

    def clip_facts(self):
        """The CLIP that a checkpoint is for."""
        image, text = self.backbone.image_digest, self.backbone.text_digest
        return {"name": self.backbone.name, "image": image, "text": text}

    def save_model(self, epoch, directory, *args, **kwargs):
        """Dassl's checkpoint of the context, and beside it what it was tuned with, as JSON."""
        super().save_model(epoch, directory, *args, **kwargs)
        layout = {
            "n_ctx": self.prompt_learner.n_ctx,
            "csc": self.context.csc,
            "class_token_position": self.context.position,
            "prompt": dataclasses.asdict(self.context),
        }
        write_json(Path(directory, MODEL_NAME, exchange.ABOUT), self.about() | layout)

    def load_model(self, directory, epoch=None):
        """Take the context from a finished run's folder: the given epoch, the best, or the last one written."""
        if not directory:
            self.stay_untrained()
            return
        path = exchange.checkpoint_file(Path(directory, MODEL_NAME), epoch)
        saved = load_checkpoint(path)
        about = self.require_fit(path)
        self.prompt_learner.load_context(saved["state_dict"], str(path))
        self.loaded = {"epoch": saved.get("epoch")} | exchange.origin(about) | self.tuned_elsewhere(about)
        if not exchange.tuned_in(about, "prompt"):
            self.loaded["assumed"] = {"class_token_position": self.context.position, "backbone": self.backbone.name}
            order = ", on these classes in this order" if self.context.csc else ""
            log.warning(
                "%s: nothing beside it says how it was tuned; it is taken to be tuned on %s with the class name at the "
                "%s (TRAINER.%s.CLASS_TOKEN_POSITION)%s",
                path, self.backbone.name, self.context.position, self.node, order,
            )  # fmt: skip
        print(f'Loading weights to {MODEL_NAME} from "{path}" (epoch = {saved.get("epoch")})')

    def stay_untrained(self):
        """Say, as Dassl does, that no run was named to load; and that its numbers are those of the start."""
        print("Note that load_model() is skipped as no pretrained model is given")
        self.doubt(f"no --model-dir: {self.cfg.TRAINER.NAME} is evaluated as it starts, untrained")

    def require_fit(self, path):
        """What stands beside a checkpoint of prompts, once it agrees with this run in layout, classes and CLIP.

        Raises:
            PromptError: another layout, or class-specific context of other classes. WeightsError: another CLIP.
        """
        about = exchange.about(path)
        if self.context.csc and (classes := exchange.other_classes(about, self.classnames)):
            raise PromptError(
                f"{path} holds class-specific context (CSC): {classes}; it fits only the class list it was tuned on"
            )
        exchange.require_layout(about, str(path), self.context, self.node, self.cfg.TRAINER[self.node])
        exchange.require_towers(about, str(path), self.backbone, self.towers())
        if other := exchange.other_towers(about, self.backbone):  # of images, for prompts in the text alone
            self.doubt(f"the loaded prompt {other}")
        if self.context.layout == "visual":
            self.compare_templates(about)
        return about

    def towers(self):
        """The towers of CLIP that the prompts are in, or are made from."""
        return exchange.towers_of(self.context)

    def doubt(self, line):
        """Log a warning about what was loaded, and keep it for the record."""
        log.warning("%s", line)
        self.doubts = (*self.doubts, line)

    def compare_templates(self, about):
        """A warning where what was tuned beside a hand-written prompt of this data set is evaluated with another."""
        templates = about.get("templates", list(self.templates))
        if templates != list(self.templates) and about.get("dataset") == self.cfg.DATASET.NAME:
            self.doubt(f"tuned with the hand-written prompt {templates}, evaluated with {list(self.templates)}")

    def tuned_elsewhere(self, about):
        """For the record: on which data a checkpoint was tuned, where they are not this run's."""
        data = exchange.other_data(about, self.lists.tuned_on)
        return {"tuned_on": dict(data)} if data else {}

    def require_same_tuning(self, run):
        """Refuse to go on with a run (``--resume``) of another layout, CLIP or data.

        Raises:
            PromptError: another layout or other data. WeightsError: another CLIP.
        """
        about = self.require_fit(run / self.get_model_names()[0] / exchange.ABOUT)
        exchange.require_data(about, run, self.lists.tuned_on)


@TRAINER_REGISTRY.register()
class AdvPT(PromptTrainer):
    """The training input is a bank of adversarial embeddings; no pixel is touched while tuning."""

    def prepare_training(self):
        settings = self.bank_settings
        attack, images = parse(settings.attack, settings.profile), self.bank_images()
        folder = self.bank_cache.folder(self.bank_cache.spec(images, attack, self.zero_shot, settings.seed))
        bank, self.input_seconds = timed(
            self.bank_cache, folder, lambda: self.bank_cache.get(images, attack, self.zero_shot, settings.seed)
        )
        self.train_loader_x = bank_loader(bank, self.cfg, self.seed)
        self.backbone.release_image_encoder()


# --- small parts that the trainers share ----------------------------------------------------------------------------

# Leaves that may differ between equal runs: where things lie and how many processes read them.
UNRECORDED_LEAVES = (
    *UNCOMPARED_LEAVES, "MODEL.WEIGHTS", "MODEL.IMAGE_WEIGHTS", "EVAL.SURROGATE_WEIGHTS", "TRAINER.TAPT.CLEAN_RUN",
    "TRAINER.TAPT.ADV_STATISTICS", "TRAINER.TAPT.CLEAN_STATISTICS",
)  # fmt: skip


def handcrafted_templates(cfg) -> tuple[str, ...]:
    """The hand-written prompt(s) of the data set; the transfer attacker's, and zero-shot CLIP's."""
    node, name = cfg.TRAINER[ZERO_SHOT_NODE], cfg.DATASET.NAME
    own = node.TEMPLATE or catalog.template(name)
    return tuple(dict.fromkeys((own, *catalog.ensemble(name)))) if node.ENSEMBLE else (own,)


def source_of(checkpoint: Path) -> dict:
    """Which run a checkpoint is from, as far as the file beside it says: trainer, data set, seed."""
    return exchange.origin(exchange.about(checkpoint))


def bank_loader(bank: Bank, cfg, seed: int) -> BankLoader:
    """Batches of a bank in the way Dassl's training loaders make them."""
    return BankLoader(bank, batch_size=cfg.DATALOADER.TRAIN_X.BATCH_SIZE, seed=seed)


def to_pixels(images: Tensor, cfg) -> Tensor:
    """Images of the host's loaders as pixels in [0, 1]: its normalisation is undone if its transforms include one.

    A CoOp checkout lists ``normalize`` in INPUT.TRANSFORMS; APT's and TAPT's leave it out. Never undone twice.
    """
    if "normalize" not in cfg.INPUT.TRANSFORMS or cfg.INPUT.NO_TRANSFORM:
        return images
    mean, std = (
        torch.tensor(v, device=images.device)[:, None, None] for v in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    )
    return (images * std + mean).clamp(0, 1)


def build_optim(model, settings):
    """Dassl's optimizer for the parameters of ``model``, and its schedule.

    Raises:
        ConfigError: values of OPTIM that do not go together.
    """
    try:
        optimizer = build_optimizer(model, settings)
        return optimizer, build_schedule(optimizer, settings)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(f"the settings of OPTIM cannot be used: {error}") from error


def build_schedule(optimizer, settings):
    """Dassl's schedule; where the host's warm-up does not run on this torch, the same numbers from torch's own."""
    try:
        return build_lr_scheduler(optimizer, settings)
    except TypeError:
        log.info("the host's learning-rate warm-up does not run on torch %s; using our own", torch.__version__)
        from advpt.tuning.schedule import warmup_schedule

        return warmup_schedule(optimizer, settings)


def print_robust(result, primary: bool) -> None:
    """Dassl-style result lines. ``* robust_accuracy:`` is the first attack of the first protocol; others have names."""
    if result.robust is None:
        return
    robust, (low, high) = result.robust, result.robust.interval95
    what = ", ".join([result.protocol, result.attack.spec, *([result.defense_name] if result.defenses else [])])
    label = "robust_accuracy" if primary else f"robust_accuracy ({what})"
    print(f"=> robust result: {what}\n* robust_total: {robust.n:,}")
    print(f"* {label}: {robust.accuracy:.1f}%  (95% interval {low:.1f} to {high:.1f})")
