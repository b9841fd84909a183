"""Linear-probe CLIP (section 5.6, Table 4): logistic regression on the embeddings of the frozen image encoder.

Robust accuracy is by default under the embedding-KL attack, on the very images of Table 1 (the paper does not say which
PGD its Table 4 means). Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY

from advpt.errors import WeightsError
from advpt.files import write_json
from advpt.prompts import exchange
from advpt.prompts.classifier import Classifier
from advpt.settings import FROM_0, FROM_1, Settings, register, setting
from advpt.tuning.linear_probe import FILE, Data, Probe, fit, load, save, search
from trainers.advpt import CLIPTrainer

HELD_OUT_EVERY = 5  # every 5th image of a class chooses C where there is no validation split
NO_OTHERS = "no validation split apart from the test images"
A_PART = f"every {HELD_OUT_EVERY}th training image of each class, which the probe is not fitted to ({NO_OTHERS})"
FITTED = f"the training images themselves ({NO_OTHERS}, and fewer than {HELD_OUT_EVERY} images of each class)"


@register("TRAINER.LINEARPROBE", in_v1=True)
class LinearProbeSettings(Settings):
    c: float = setting(0.0, "inverse weight of the L2 penalty; 0: chosen on the validation split", allowed=FROM_0)
    max_iter: int = setting(1000, "steps of L-BFGS at most", allowed=FROM_1)


@TRAINER_REGISTRY.register()
class LinearProbe(CLIPTrainer):
    settings, reads_class_names = LinearProbeSettings, False
    options: LinearProbeSettings
    probe: Probe | None = None
    fitted: dict[str, Any] | None = None  # for the record

    def classifier(self) -> Classifier:
        if self.probe is None:
            raise WeightsError("the linear probe is neither trained nor loaded; train it, or name --model-dir")
        return self.probe.classifier(self.device)

    def data(self) -> Data:
        """Embeddings to fit on and to choose C by. A validation split that shares images with the test split
        (ImageNet's does) is not looked at: a fifth of the training images takes its place."""
        train = self.bank_cache.get(self.image_set("train").first(self.bank_settings.limit))
        val, test = self.image_set("val"), self.image_set("test")
        classes = len(self.classnames)
        if len(val) and not set(val.ids) & set(test.ids):
            apart = self.bank_cache.get(val)
            return Data(train.embeddings, train.labels, apart.embeddings, apart.labels, classes)
        out = torch.zeros(len(train), dtype=torch.bool)
        for label in range(classes):
            rows = (train.labels == label).nonzero().squeeze(1)
            out[rows[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]] = True
        if not out.any():
            return Data(train.embeddings, train.labels, train.embeddings, train.labels, classes, FITTED)
        fit_on, choose_on = ((train.embeddings[rows], train.labels[rows]) for rows in (~out, out))
        return Data(*fit_on, *choose_on, classes, A_PART)

    def train(self, *args: Any, **kwargs: Any) -> None:
        self.require_training_images()
        options, data, chosen_on = self.options, self.data(), None
        if options.c > 0:
            self.probe = fit(data.features, data.labels, data.classes, options.c, options.max_iter)
            print(f"C = {self.probe.c:.4g}, as {options.node}.C says")
        else:
            chosen_on = f"{len(data.val_labels)} images: {data.val_are}"
            self.probe, tried = search(data, options.max_iter)
            print(f"C = {self.probe.c:.4g}, the best of {len(tried)}, chosen on {chosen_on}")
        path, probe = Path(self.output_dir, FILE), self.probe
        save(probe, path)
        self.fitted = {
            "images": len(data.labels),
            "c": probe.c,
            "converged": probe.converged,
            "c_chosen_on": chosen_on,
        }
        write_json(path.with_name(exchange.ABOUT), self.about())
        print("Finish training")
        self.test()

    def training_facts(self) -> dict[str, Any]:
        return self.fitted or {}

    def warnings(self) -> list[str]:
        chosen_on = str(self.training_facts().get("c_chosen_on"))
        doubt = [f"C of the linear probe was chosen on {FITTED}"] if chosen_on.endswith(FITTED) else []
        return [*super().warnings(), *doubt]

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        path = Path(directory) / FILE
        if not path.is_file():
            raise WeightsError(f"no linear probe at {path}; {exchange.contents(path.parent)}")
        about = exchange.about(path)
        self.probe = load(path, len(self.classnames), self.backbone.card.embed_dim)
        if classes := exchange.other_classes(about, self.classnames):
            raise WeightsError(f"{path}: {classes}; a probe fits only the class list it was fitted to")
        exchange.require_towers(about, str(path), self.backbone, ("image",))
        self.loaded = {"trainer": "LinearProbe"} | self.tuned_elsewhere(about)
