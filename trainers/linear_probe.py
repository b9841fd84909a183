"""Linear-probe CLIP (section 5.6, Table 4): logistic regression on the embeddings of the frozen image encoder.

On the whole training split, or on ``DATASET.NUM_SHOTS`` images of each class. Robust accuracy is by default under the
embedding-KL attack, on the very images of Table 1 (the paper does not say which PGD its Table 4 means); ``adaptive``
attackers go through the head with cross-entropy. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from dassl.engine import TRAINER_REGISTRY
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from advpt.errors import WeightsError
from advpt.files import atomic_path, write_json
from advpt.prompts import exchange
from advpt.prompts.linear import LinearClassifier
from advpt.tuning.linear_probe import Data, Probe, fit, search
from trainers.advpt import PromptTrainer

FILE = Path("linear_probe", "probe.safetensors")
HELD_OUT = 5  # every so manieth image of a class chooses C where there is no validation split
NO_OTHERS = "no validation split apart from the test images"
A_PART = f"every {HELD_OUT}th training image of each class, which the probe is not fitted to ({NO_OTHERS})"
FITTED = f"the training images themselves ({NO_OTHERS}, and fewer than {HELD_OUT} images of each class)"


@TRAINER_REGISTRY.register()
class LinearProbe(PromptTrainer):
    own = "LINEARPROBE"
    probe: Probe | None = None
    chosen_on_fitted = False  # C was chosen on the very images that the probe was fitted to

    def build_prompts(self):
        self.seed = self.cfg.SEED

    def classifier(self):
        if self.probe is None:
            raise WeightsError("the linear probe is neither trained nor loaded; train it, or name --model-dir")
        return LinearClassifier(self.probe.weight.to(self.device), 1.0, self.probe.bias.to(self.device))

    def data(self) -> Data:
        """Embeddings to fit on and to choose C by. A validation split that shares images with the test split
        (ImageNet's does) is not looked at: a fifth of the training images takes its place."""
        train = self.bank_cache.get(self.image_set("train").first(self.bank_settings.limit))
        val, test = self.image_set("val"), self.image_set("test")
        classes = len(self.classnames)
        if len(val) and not set(val.ids) & set(test.ids):
            held = self.bank_cache.get(val)
            return Data(train.embeddings, train.labels, held.embeddings, held.labels, classes)
        place = torch.zeros(len(train), dtype=torch.int64)  # of each image within its class
        for label in range(classes):
            rows = (train.labels == label).nonzero().squeeze(1)
            place[rows] = torch.arange(len(rows))
        out = place % HELD_OUT == HELD_OUT - 1
        if not out.any():
            return Data(train.embeddings, train.labels, train.embeddings, train.labels, classes, FITTED)
        rest, held = train.embeddings[~out], train.embeddings[out]
        return Data(rest, train.labels[~out], held, train.labels[out], classes, A_PART)

    def train(self):
        node, data = self.cfg.TRAINER[self.own], self.data()
        if node.C > 0:
            chosen_on = None
            self.probe = fit(data.features, data.labels, data.classes, node.C, node.MAX_ITER)
            print(f"C = {self.probe.c:.4g}, as TRAINER.{self.own}.C says")
        else:
            chosen_on = f"{len(data.val_labels)} images: {data.val_are}"
            self.chosen_on_fitted = data.val_are == FITTED
            self.probe, tried = search(data, node.MAX_ITER)
            print(f"C = {self.probe.c:.4g}, the best of {len(tried)}, chosen on {chosen_on}")
        tensors = {"weight": self.probe.weight, "bias": self.probe.bias, "c": torch.tensor(self.probe.c).double()}
        with atomic_path(Path(self.output_dir) / FILE) as partial:
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
        self.fitted = {
            "images": len(data.labels),
            "c": self.probe.c,
            "converged": self.probe.converged,
            "c_chosen_on": chosen_on,
        }
        write_json((Path(self.output_dir) / FILE).with_name(exchange.ABOUT), self.about())
        print("Finish training")
        self.test()

    def training_facts(self):
        return getattr(self, "fitted", {})

    def same_prompts(self):
        return []  # it tells classes apart without their names

    def warnings(self):
        if not self.chosen_on_fitted:
            return super().warnings()
        return [*super().warnings(), f"C of the linear probe was chosen on {FITTED}"]

    def load_model(self, directory, epoch=None):
        path = Path(directory) / FILE
        if not path.is_file():
            raise WeightsError(f"no linear probe at {path}; {exchange.contents(path.parent)}")
        about = exchange.about(path)
        try:
            saved = load_file(path)
            self.probe = Probe(saved["weight"], saved["bias"], float(saved["c"]), True)
        except (SafetensorError, OSError, KeyError, RuntimeError, ValueError) as error:
            raise WeightsError(f"{path} is not a linear probe, or damaged ({error}); train it again") from error
        want = (len(self.classnames), self.backbone.architecture.embed_dim)
        if saved["weight"].shape != want or saved["bias"].shape != want[:1]:
            raise WeightsError(
                f"{path} holds a probe of shape {list(saved['weight'].shape)}, this run needs {list(want)}"
            )
        if classes := exchange.other_classes(about, self.classnames):
            raise WeightsError(f"{path}: {classes}; a probe fits only the class list it was fitted to")
        exchange.require_towers(about, str(path), self.backbone, ("image",))
        self.loaded = {"trainer": "LinearProbe"} | self.tuned_elsewhere(about)
