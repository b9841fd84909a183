"""ImageFolder: the user's images, in class folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog, listing
from advpt.data.split import Row, Split, check
from advpt.errors import DataError

from .split_file import Place, SplitDataset

FORM = "expected train/<class>/<image>, test/<class>/<image> and, if you like, val/<class>/<image>"
LIKE_VAL = ("valid", "validation", "dev")  # names of the folder val elsewhere


@DATASET_REGISTRY.register()
class ImageFolder(SplitDataset):
    """``<root>/image_folder/{train,val,test}/<class>/<image>``, or the same directly under ``<root>``.

    ``DATASET.FOLDER`` names another folder where the configuration has that key. ``val`` may be left out.
    Class names are the folder names, labels follow their order; few-shot sampling and base/new work as
    everywhere. Images in folders inside a class folder are images of that class; files without a suffix are judged by
    their content.
    """

    info = catalog.get("ImageFolder")

    def locate(self, cfg: Any) -> Place:
        root = Path(cfg.DATASET.ROOT).expanduser().absolute()
        folder = catalog.own_folder(root, getattr(cfg.DATASET, "FOLDER", ""))
        for part in ("train", "test"):
            if not (folder / part).is_dir():
                raise DataError(
                    f"ImageFolder: {folder / part} does not exist; {FORM} in {folder}. DATASET.ROOT is "
                    f"{root}; folders found there: {listing.some(listing.folders(root))}"
                )
        return Place(root, folder, folder)

    def origin(self) -> str:
        return "the folders"

    def read(self) -> tuple[Split, bool]:
        names = listing.folders(self.place.folder / "train")
        labels = {name: label for label, name in enumerate(names)}
        train, val, test = (self._rows(part, labels) for part in ("train", "val", "test"))
        split = Split(train, val, test)
        check(split, str(self.place.folder))
        other = [name for name in listing.folders(self.place.folder) if name.lower() in LIKE_VAL]
        if other and not val:
            self.warn_of(
                f"ImageFolder: there is no validation split: it is read from val, and the folder {other[0]} is left out"
            )
        return split, True

    def _rows(self, part: str, labels: dict[str, int]) -> tuple[Row, ...]:
        folder = self.place.folder / part
        classes = listing.folders(folder)
        unknown = [name for name in classes if name not in labels]
        if unknown:
            raise DataError(
                f"ImageFolder: {folder} has classes that train has not: {listing.some(unknown)}. "
                f"Known: {listing.some(list(labels))}"
            )
        scans = {name: listing.scan(folder / name) for name in classes}
        empty = [name for name, each in scans.items() if not each.images]
        if empty:
            raise DataError(f"ImageFolder: no images in these folders of {folder}: {listing.some(empty)}; {FORM}")
        if not classes and part != "val":
            raise DataError(f"ImageFolder: {folder} has no class folders; {FORM}")
        self.warn_of(*(f"ImageFolder: {text}" for text in listing.doubts(part, scans, listing.images(folder))))
        return tuple(
            (f"{part}/{name}/{image}", labels[name], name) for name, each in scans.items() for image in each.images
        )
