# ruff: noqa: PTH110, PTH111, PTH118, PTH123, UP015
"""Data set files in the style of public CoOp-style code, as users drop them into ``datasets/``."""

import os
import pickle

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import listdir_nohidden, mkdir_if_missing

from .dtd import DescribableTextures as DTD
from .imagenet import ImageNet
from .oxford_pets import OxfordPets

IGNORED = ["BACKGROUND"]
NEW_CNAMES = {"highway": "Highway or Road"}


@DATASET_REGISTRY.register()
class CoOpStyleFolders(DatasetBase):
    """One folder per class; the split is made where there is none."""

    dataset_dir = "style_folders"

    def __init__(self, cfg):
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        self.split_path = os.path.join(self.dataset_dir, "split_style_folders.json")
        self.split_fewshot_dir = os.path.join(self.dataset_dir, "split_fewshot")
        mkdir_if_missing(self.split_fewshot_dir)

        if os.path.exists(self.split_path):
            train, val, test = OxfordPets.read_split(self.split_path, self.image_dir)
        else:
            train, val, test = DTD.read_and_split_data(self.image_dir, ignored=IGNORED, new_cnames=NEW_CNAMES)
            OxfordPets.save_split(train, val, test, self.split_path, self.image_dir)

        num_shots = cfg.DATASET.NUM_SHOTS
        if num_shots >= 1:
            preprocessed = os.path.join(self.split_fewshot_dir, f"shot_{num_shots}-seed_{cfg.SEED}.pkl")
            if os.path.exists(preprocessed):
                with open(preprocessed, "rb") as file:
                    data = pickle.load(file)
                    train, val = data["train"], data["val"]
            else:
                train = self.generate_fewshot_dataset(train, num_shots=num_shots)
                val = self.generate_fewshot_dataset(val, num_shots=min(num_shots, 4))
                with open(preprocessed, "wb") as file:
                    pickle.dump({"train": train, "val": val}, file, protocol=pickle.HIGHEST_PROTOCOL)

        subsample = cfg.DATASET.SUBSAMPLE_CLASSES
        train, val, test = OxfordPets.subsample_classes(train, val, test, subsample=subsample)
        super().__init__(train_x=train, val=val, test=test)


@DATASET_REGISTRY.register()
class CoOpStyleLists(DatasetBase):
    """A text file for trainval and one for test; val is cut from trainval."""

    dataset_dir = "style_lists"

    def __init__(self, cfg):
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        self.split_path = os.path.join(self.dataset_dir, "split_style_lists.json")

        if os.path.exists(self.split_path):
            train, val, test = OxfordPets.read_split(self.split_path, self.image_dir)
        else:
            trainval = self.read_data("trainval.txt")
            test = self.read_data("test.txt")
            train, val = OxfordPets.split_trainval(trainval)
            OxfordPets.save_split(train, val, test, self.split_path, self.image_dir)

        subsample = cfg.DATASET.SUBSAMPLE_CLASSES
        train, val, test = OxfordPets.subsample_classes(train, val, test, subsample=subsample)
        super().__init__(train_x=train, val=val, test=test)

    def read_data(self, split_file):
        items = []
        with open(os.path.join(self.dataset_dir, split_file), "r") as file:
            for line in file.readlines():
                name, label = line.strip().split(" ")
                impath = os.path.join(self.image_dir, name)
                items.append(Datum(impath=impath, label=int(label), classname=name.split("_")[0]))
        return items


@DATASET_REGISTRY.register()
class CoOpStyleVariant(DatasetBase):
    """A test-only variant of ImageNet."""

    dataset_dir = "style_variant"

    def __init__(self, cfg):
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        text_file = os.path.join(self.dataset_dir, "classnames.txt")
        classnames = ImageNet.read_classnames(text_file)
        data = self.read_data(classnames)
        super().__init__(train_x=data, test=data)

    def read_data(self, classnames):
        folders = listdir_nohidden(self.image_dir, sort=True)
        items = []
        for label, folder in enumerate(folders):
            imnames = listdir_nohidden(os.path.join(self.image_dir, folder))
            classname = classnames[folder]
            for imname in imnames:
                impath = os.path.join(self.image_dir, folder, imname)
                items.append(Datum(impath=impath, label=label, classname=classname))
        return items
