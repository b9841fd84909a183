# ruff: noqa: PTH110, PTH111, PTH118, PTH123
"""A dataset file in CoOp's style: split file, few-shot sampling with a cache, class subsets."""

import os
import pickle

import numpy as np
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import mkdir_if_missing, read_json, write_json
from PIL import Image

CLASSES = ["red square", "green square", "blue square"]


def paint(root, per_class=(8, 8, 8)):
    """Tiny pictures whose dominant colour tells the class, and the split file beside them."""
    folder = os.path.join(root, "lite_squares")
    images = os.path.join(folder, "images")
    mkdir_if_missing(images)
    noise = np.random.default_rng(0)
    split = {"train": [], "val": [], "test": []}
    for label, (name, count) in enumerate(zip(CLASSES, per_class, strict=True)):
        for number in range(count):
            pixels = noise.integers(0, 120, (10, 12, 3), dtype=np.uint8)
            pixels[..., label] += 100
            file_name = f"{name.split()[0]}_{number}.png"
            Image.fromarray(pixels).save(os.path.join(images, file_name))
            part = ("train", "train", "val", "test")[number % 4]
            split[part].append((file_name, label, name))
    write_json(split, os.path.join(folder, "split.json"))


@DATASET_REGISTRY.register()
class LiteSquares(DatasetBase):
    dataset_dir = "lite_squares"

    def __init__(self, cfg):
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        split = read_json(os.path.join(self.dataset_dir, "split.json"))
        train, val, test = (self._convert(split[part]) for part in ("train", "val", "test"))

        num_shots = cfg.DATASET.NUM_SHOTS
        if num_shots >= 1:
            cache_dir = os.path.join(self.dataset_dir, "split_fewshot")
            mkdir_if_missing(cache_dir)
            cache = os.path.join(cache_dir, f"shot_{num_shots}-seed_{cfg.SEED}.pkl")
            if os.path.exists(cache):
                with open(cache, "rb") as file:
                    data = pickle.load(file)
                train, val = data["train"], data["val"]
            else:
                train = self.generate_fewshot_dataset(train, num_shots=num_shots)
                val = self.generate_fewshot_dataset(val, num_shots=min(num_shots, 4))
                with open(cache, "wb") as file:
                    pickle.dump({"train": train, "val": val}, file, protocol=pickle.HIGHEST_PROTOCOL)
        assert cfg.DATASET.SUBSAMPLE_CLASSES == "all"
        super().__init__(train_x=train, val=val, test=test)

    def _convert(self, rows):
        return [
            Datum(impath=os.path.join(self.image_dir, name), label=int(label), classname=classname)
            for name, label, classname in rows
        ]
