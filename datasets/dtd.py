"""Describable Textures (DTD): 47 textures."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum

from advpt.data import catalog, listing
from advpt.errors import DataError

from .split_file import SplitDataset, notice


@DATASET_REGISTRY.register()
class DescribableTextures(SplitDataset):
    """CoOp's random 50/20/30 cut, not one of DTD's ten splits.

    CoOp's files of sets with one folder per class call a helper of this class, so it is here under the same name.
    """

    info = catalog.get("DescribableTextures")

    @staticmethod
    def read_and_split_data(
        image_dir: str,
        p_trn: float = 0.5,
        p_val: float = 0.2,
        ignored: Collection[str] = (),
        new_cnames: Mapping[str, str] | None = None,
    ) -> tuple[list[Datum], list[Datum], list[Datum]]:
        """Train, val and test of a folder with one folder per class, drawn by Python's global generator.

        Args:
            image_dir: the folder; labels follow its sorted class folders.
            p_trn, p_val: the parts of each class that go to train and val; test has the rest.
            ignored: folders that are no classes.
            new_cnames: class names by folder, where they differ from the folder's.

        Raises:
            DataError: a class is too small to give each part an image.
        """
        folders = [name for name in listing.folders(Path(image_dir)) if name not in ignored]
        notice(f"Splitting into {p_trn:.0%} train, {p_val:.0%} val, and {1 - p_trn - p_val:.0%} test")
        parts: tuple[list[Datum], list[Datum], list[Datum]] = ([], [], [])
        for label, folder in enumerate(folders):
            paths = [f"{image_dir}/{folder}/{name}" for name in listing.images(Path(image_dir, folder))]
            random.shuffle(paths)
            first = round(len(paths) * p_trn)
            second = first + round(len(paths) * p_val)
            name = (new_cnames or {}).get(folder, folder)
            for part, chosen in zip(parts, (paths[:first], paths[first:second], paths[second:])):
                if not chosen:
                    raise DataError(
                        f"{image_dir}/{folder} has {len(paths)} images, too few to give train, val and test their parts"
                    )
                part += [Datum(impath=path, label=label, classname=name) for path in chosen]
        return parts
