"""Datasets, transforms and loaders of a run."""

from collections.abc import Mapping
from typing import Any

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info
from torchvision.transforms import Compose, Normalize, Resize, ToTensor
from yacs.config import CfgNode

from dassl.data.datasets import build_dataset
from dassl.data.samplers import build_sampler
from dassl.data.transforms import INTERPOLATION_MODES, build_transform
from dassl.utils import SettingError, read_image


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Any = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Any = None,
    is_train: bool = True,
    dataset_wrapper: Any = None,
    split: str = "",
) -> DataLoader:
    """Make one loader. The last, incomplete batch is dropped in training, unless it is the only one.

    Args:
        data_source: list of items.
        split: its name, for messages.

    Raises:
        SettingError: if there would be no batch.
    """
    count = 0 if data_source is None else len(data_source)
    what = f"the {split} split" if split else f"a {'training' if is_train else 'test'} loader"
    if count == 0:
        raise SettingError(f"{what} has 0 items (batch size {batch_size}), so it has no batches")
    sampler = build_sampler(
        sampler_type, cfg=cfg, data_source=data_source, batch_size=batch_size, n_domain=n_domain, n_ins=n_ins
    )
    wrapper = DatasetWrapper if dataset_wrapper is None else dataset_wrapper
    loader = DataLoader(
        wrapper(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=collate,
        drop_last=is_train and count >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )
    if len(loader) == 0:
        raise SettingError(f"{what} has {count} items, but no batch of {batch_size} with {sampler_type}")
    return loader


def collate(items: list[Any]) -> Any:
    """torch's default batch. In a worker process every tensor is put into shared memory here: where there is too
    little, the error reaches the training loop. The thread that sends batches would print it and go on, and the loop
    would wait for ever."""
    batch = default_collate(items)
    if get_worker_info() is not None:
        _share(batch)
    return batch


def _share(value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value.share_memory_()
    elif isinstance(value, Mapping):
        for part in value.values():
            _share(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _share(part)


class DataManager:
    """Builds the dataset, the transforms and the four loaders that ``cfg`` describes.

    Args:
        custom_tfm_train: used in place of the training transform.
        custom_tfm_test: used in place of the test transform.
        dataset_wrapper: used in place of :class:`DatasetWrapper`.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Any = None,
        custom_tfm_test: Any = None,
        dataset_wrapper: Any = None,
    ) -> None:
        dataset = build_dataset(cfg)
        tfm_train = build_transform(cfg, is_train=True) if custom_tfm_train is None else custom_tfm_train
        tfm_test = build_transform(cfg, is_train=False) if custom_tfm_test is None else custom_tfm_test

        def loader(split: str, node: CfgNode, is_train: bool) -> DataLoader:
            return build_data_loader(
                cfg,
                sampler_type=node.SAMPLER,
                data_source=getattr(dataset, split),
                batch_size=node.BATCH_SIZE,
                n_domain=node.get("N_DOMAIN", 0),
                n_ins=node.get("N_INS", 2),
                tfm=tfm_train if is_train else tfm_test,
                is_train=is_train,
                dataset_wrapper=dataset_wrapper,
                split=split,
            )

        nodes = cfg.DATALOADER
        unlabelled = nodes.TRAIN_X if nodes.TRAIN_U.SAME_AS_X else nodes.TRAIN_U
        self.train_loader_x = loader("train_x", nodes.TRAIN_X, is_train=True)
        self.train_loader_u = loader("train_u", unlabelled, is_train=True) if dataset.train_u else None
        self.val_loader = loader("val", nodes.TEST, is_train=False) if dataset.val else None
        self.test_loader = loader("test", nodes.TEST, is_train=False)
        self.dataset = dataset
        self._num_classes = dataset.num_classes
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        self._lab2cname = dataset.lab2cname
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @property
    def num_classes(self) -> int:
        return self._num_classes

    @property
    def num_source_domains(self) -> int:
        return self._num_source_domains

    @property
    def lab2cname(self) -> dict[int, str]:
        return self._lab2cname

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Print a table of the sizes."""
        rows: list[tuple[str, Any]] = [("Dataset", cfg.DATASET.NAME)]
        if cfg.DATASET.SOURCE_DOMAINS:
            rows.append(("Source", cfg.DATASET.SOURCE_DOMAINS))
        if cfg.DATASET.TARGET_DOMAINS:
            rows.append(("Target", cfg.DATASET.TARGET_DOMAINS))
        rows.append(("# classes", f"{self.num_classes:,}"))
        for split in ("train_x", "train_u", "val", "test"):
            items = getattr(self.dataset, split)
            if items or split in ("train_x", "test"):
                rows.append((f"# {split}", f"{len(items):,}"))
        print(tabulate(rows, disable_numparse=True))


class DatasetWrapper(Dataset):
    """Reads and transforms items.

    An item is a dict with ``label``, ``domain``, ``impath``, ``index`` and ``img``: the ``(3, H, W)`` tensor;
    the PIL image without a transform; a list with ``K_TRANSFORMS`` > 1. With a list of transforms there is one
    image for each: ``img``, ``img2``, ``img3`` and so on. ``RETURN_IMG0`` adds ``img0``, merely resized.

    Raises:
        ValueError: if several views are asked for without a transform.
    """

    def __init__(self, cfg: CfgNode, data_source: Any, transform: Any = None, is_train: bool = False) -> None:
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"DATALOADER.K_TRANSFORMS={self.k_tfm} needs a transform, there is none")
        mode = INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]
        plain = [Resize(list(cfg.INPUT.SIZE), interpolation=mode), ToTensor()]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            plain.append(Normalize(mean=cfg.INPUT.PIXEL_MEAN, std=cfg.INPUT.PIXEL_STD))
        self.to_tensor = Compose(plain)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        image = read_image(item.impath)
        if self.transform is None:
            output["img"] = image
        else:
            transforms = self.transform if isinstance(self.transform, (list, tuple)) else [self.transform]
            for number, transform in enumerate(transforms, 1):
                output["img" if number == 1 else f"img{number}"] = self._transform_image(transform, image)
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output

    def _transform_image(self, tfm: Any, img0: Any) -> Any:
        """``tfm`` of the PIL image ``img0``: one tensor, or a list of ``k_tfm`` where that is more than 1."""
        views = [tfm(img0) for _ in range(self.k_tfm)]
        return views if len(views) > 1 else views[0]
