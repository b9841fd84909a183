"""TAPT (Wang et al., CVPR 2025): defensive prompts that are tuned once more on every test image, without its label.

For evaluation only: ``--eval-only --model-dir RUN``, where RUN is one of AdvVPT (for TAPTV), AdvIVLP (TAPTVLI) or
AdvMaPLe (TAPTVLJ), with the depths it was tuned with, and ``TRAINER.TAPT.CLEAN_RUN`` its twin with ``LOSS clean``. The
statistics of both come from ``BANK.DIR``: ``python -m advpt statistics RUN`` makes them, and runs on the data set that
the prompts were tuned on make what is missing in passing. Results have a row for each of ``RESET_SOURCE`` (attackers
who know the tuning attack the first one) and one for the prompts as they were tuned. Builds on its neighbour
``trainers/advpt.py``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dassl.engine import TRAINER_REGISTRY

from advpt.backbones.clip import OFFICIAL
from advpt.bank import statistics
from advpt.data import catalog
from advpt.errors import BankError, ConfigError
from advpt.evaluation import tuned
from advpt.files import load_checkpoint
from advpt.prompts import exchange
from advpt.prompts.classifier import from_templates
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings, EvalSettings
from advpt.tuning.test_time import PromptedCLIP, Tuner, TuningConfig, released_reset
from trainers.advpt import MODEL_NAME, PromptTrainer, source_of

PLAIN = "a photo of a {}."
ALL = "all"  # in the place of a folder of statistics: those over all training images


class TestTimeTrainer(PromptTrainer):
    __test__ = False  # not one of pytest's
    node, trained_by = "TAPT", ""
    _rows = ()

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        context = ContextSettings.from_cfg(cfg.TRAINER.TAPT, self.layout)
        architecture = OFFICIAL.get(cfg.MODEL.BACKBONE.NAME)
        TuningConfig.from_cfg(cfg.TRAINER.TAPT, context, architecture.vision_layers if architecture else None)
        tuned.check(EvalSettings.from_cfg(cfg))
        if cfg.BANK.CHUNK % cfg.TRAINER.TAPT.RESET_EVERY:
            raise ConfigError(
                f"TRAINER.TAPT.RESET_EVERY is {cfg.TRAINER.TAPT.RESET_EVERY} and BANK.CHUNK {cfg.BANK.CHUNK}; images "
                "are tuned a chunk at a time, so BANK.CHUNK must be a multiple of it (for prompts that are never "
                "reset, both the number of images)"
            )

    def build_prompts(self):
        super().build_prompts()
        cfg, values = self.cfg, dict(self.prompt_learner.named_parameters())
        self.constructed = {name: value.detach().clone() for name, value in values.items()}
        self.tuning = TuningConfig.from_cfg(cfg.TRAINER.TAPT, self.context, self.backbone.architecture.vision_layers)
        plain = from_templates(self.encoder, self.classnames, (PLAIN,), self.backbone.logit_scale)
        self.fixed = (plain if self.tuning.text == "plain" else self.zero_shot).features
        self.banks = {}

    def train(self, *args, **kwargs):
        raise ConfigError(
            f"{self.cfg.TRAINER.NAME} tunes prompts at test time: train them first (--trainer {self.trained_by}), then "
            "add --eval-only --model-dir RUN"
        )

    def classifier(self):
        found = super().classifier()
        return dataclasses.replace(found, features=self.fixed) if not self.prompt_learner.n_ctx else found

    # --- prompts and their statistics ---------------------------------------------------------------------------

    def load_model(self, directory, epoch=None):
        super().load_model(directory, epoch)
        if not directory:
            raise ConfigError("TAPT needs prompts that were tuned before: --model-dir RUN")
        node, cleanly = self.cfg.TRAINER.TAPT, self.prompt_learner
        self.banks = {"adversarial": None, "clean": None}
        if self.tuning.alpha > 0:
            self.banks["adversarial"] = self.bank(self.prompt_learner, node.ADV_STATISTICS, Path(directory))
        if self.tuning.alpha < 1:
            if not node.CLEAN_RUN and not node.CLEAN_STATISTICS:
                raise ConfigError(
                    "TAPT also aligns to the statistics of cleanly tuned prompts: name their run with "
                    f"TRAINER.TAPT.CLEAN_RUN (--trainer {self.trained_by} ... TRAINER.{self.trained_by.upper()}.LOSS "
                    "clean makes one), or leave them out with TRAINER.TAPT.ALPHA 1"
                )
            if node.CLEAN_RUN:
                cleanly = self.learner_of(Path(node.CLEAN_RUN))
            self.banks["clean"] = self.bank(cleanly, node.CLEAN_STATISTICS, Path(node.CLEAN_RUN), bool(node.CLEAN_RUN))

    def learner_of(self, run):
        """The prompts of another run of the same design."""
        path = exchange.checkpoint_file(run / MODEL_NAME)
        self.require_fit(path)
        learner = PromptLearner(self.encoder, self.classnames, self.context, None, self.backbone.architecture)
        learner = learner.to(self.device)
        learner.load_context(load_checkpoint(path)["state_dict"], str(path))
        return learner

    def bank(self, learner, given, run, known=True):
        """Statistics of a run's prompts: the folder that was given, the one bank there is, or made now where the run
        was tuned on this data set. ``given`` :data:`ALL`: the bank over all training images, whatever other there is.
        ``known`` False: of prompts that nobody named, so that only weights are compared."""
        visual = learner().visual.detach()
        if given == ALL:
            return self.bank_of_all(visual, run)
        if given:
            wanted = statistics.looked_through(self.backbone, visual)
            if not known:
                has = statistics.open_statistics(Path(given)).spec["encoder"]
                wanted["encoder"] = wanted["encoder"] | {"visual_prompt": has["visual_prompt"]}
            return statistics.open_statistics(Path(given), wanted)
        root, crops = self.bank_cache.root, self.tuning.crops
        found = statistics.find(root, self.backbone, visual, crops)
        if len(found) == 1:
            return statistics.open_statistics(found[0], statistics.looked_through(self.backbone, visual))
        source = self.source(self.cfg.TRAINER.TAPT.STATISTICS_LIMIT, crops)
        dataset_folder = self.bank_cache.dataset_folder(source.images.dataset)
        own = statistics.folder_of(dataset_folder, statistics.spec(self.backbone, visual, source))
        beside, title = exchange.about(exchange.checkpoint_file(run / MODEL_NAME)), catalog.title(self.cfg.DATASET)
        about = exchange.origin(beside)
        tuned_on = exchange.tuned_in(beside, "data").get("title", title)
        here = about.get("dataset") == self.cfg.DATASET.NAME and tuned_on == title
        if own in found or (not found and here):
            return self.make(visual, source, about)
        if found:
            several = "".join(f"\n  {folder}" for folder in found)
            raise BankError(
                f"several banks hold statistics of the prompts of {run}; name one with TRAINER.TAPT.ADV_STATISTICS or "
                f"CLEAN_STATISTICS:{several}"
            )
        raise BankError(
            f"below {root} are no statistics of the prompts of {run} ({crops} crops), which were tuned on "
            f"{about.get('dataset', 'a data set that is not known')} and not on {self.cfg.DATASET.NAME}; make them: "
            f"python -m advpt statistics {run} --banks {root}"
        )

    def bank_of_all(self, visual, run):
        """Statistics over all training images of the data set that a run was tuned on; made now where it is this one.

        Raises:
            ConfigError: this run's training images are a part. BankError: there is no such bank.
        """
        about, root = source_of(exchange.checkpoint_file(run / MODEL_NAME)), self.bank_cache.root
        tuned_on, cfg = about.get("dataset", ""), self.cfg
        if tuned_on == cfg.DATASET.NAME:
            if cfg.DATASET.NUM_SHOTS > 0 or cfg.TRAINER.TAPT.STATISTICS_LIMIT:
                raise ConfigError(
                    "statistics over all training images are asked for, but DATASET.NUM_SHOTS is "
                    f"{cfg.DATASET.NUM_SHOTS} and TRAINER.TAPT.STATISTICS_LIMIT {cfg.TRAINER.TAPT.STATISTICS_LIMIT}; "
                    "expected -1 and 0"
                )
            return self.make(visual, self.source(0, self.tuning.crops), about)
        whole = catalog.get(tuned_on).counts[0] if tuned_on in catalog.names() else 0
        if not whole:
            raise ConfigError(
                f"the number of training images of {tuned_on or 'the data set'} that {run} was tuned on is not on "
                "record, so statistics over all of them cannot be told from others; name their folder in the place of "
                "all"
            )
        wanted = statistics.looked_through(self.backbone, visual)
        for folder in statistics.find(root, self.backbone, visual, self.tuning.crops):
            bank = statistics.open_statistics(folder, wanted)
            if bank.count == whole:
                return bank
        raise BankError(
            f"below {root} are no statistics of the prompts of {run} over all {whole:,} training images of {tuned_on}; "
            f"make them: python -m advpt statistics {run} --shots -1 --banks {root}"
        )

    def source(self, limit, crops):
        """The training images, for statistics."""
        images = self.image_set("train").first(limit)
        return statistics.Source(images, crops, self.bank_settings.seed, self.bank_settings.chunk)

    def make(self, visual, source, about):
        """The statistics of prompts ``visual [J, n, D_v]``, from disk or made now."""
        dataset_folder, workers = self.bank_cache.dataset_folder(source.images.dataset), self.cfg.DATALOADER.NUM_WORKERS
        return statistics.build(self.backbone, visual, source, dataset_folder, about=about, workers=workers)

    # --- evaluation ---------------------------------------------------------------------------------------------

    def tuner(self, reset, images):
        """What tunes on every image, starting from the prompts of the run or from those of a released reset."""
        learner, config = self.prompt_learner, self.tuning
        start = {name: value.detach() for name, value in learner.named_parameters()}
        if reset == "constructed":
            start = released_reset(self.layout, start, self.constructed)
        model = PromptedCLIP(
            self.backbone.require_image(), self.encoder, learner, self.fixed, self.backbone.logit_scale
        )
        adversarial, clean = (
            bank.of(config.blocks, self.device) if bank is not None else () for bank in self.banks.values()
        )
        files = {sample.id: Path(sample.path) for sample in images.samples}
        # prompts that go from image to image make it matter which images these are
        chain = {"images": images.list_digest} if config.reset_every > 1 else {}
        name = "tapt" if reset == "loaded" else f"tapt:{reset}"
        return Tuner(model, start, config, adversarial, clean, name=name, files=files, extra_key=chain)

    def rows(self, images):
        if not self.banks:
            raise ConfigError("TAPT needs prompts that were tuned before: --eval-only --model-dir RUN")
        if not self._rows or self._rows[0].images is not images:
            self._rows = tuned.rows([self.tuner(reset, images) for reset in self.tuning.resets], images)
        return self._rows

    def clean(self, prompts, images):
        first = self.rows(images)[0]
        bank_cache = self.bank_cache.with_visual_prompts(prompts.learned.visual)
        bank = bank_cache.get_all(images, None, None, 0, [each for row in self.rows(images) for each in row.inputs])[0]
        return first.classifier(prompts.learned), bank

    def observed(self):
        return {"tuning": {row.tuner.name: {"not_finite": len(row.tuner.not_finite)} for row in self._rows}}

    def facts(self):
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
