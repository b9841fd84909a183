"""One image with its label, and lists of them."""

import random
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from dassl.utils import check_isfile


class Datum:
    """One image file and what is known about it. Read-only.

    Pickled lists of these are exchanged with upstream, so the module path and the field names are fixed.

    Raises:
        AssertionError: if the path is no string, or there is no such file.
    """

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        if not isinstance(impath, str):
            raise AssertionError(f"the image path must be a str, got {type(impath).__name__}: {impath!r}")
        if not check_isfile(impath):
            raise AssertionError(
                f'no image file "{impath}" (class {classname!r}). '
                "Is DATASET.ROOT (--root) the folder that holds the datasets, and is this one unpacked in it?"
            )
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self) -> str:
        return self._impath

    @property
    def label(self) -> int:
        return self._label

    @property
    def domain(self) -> int:
        return self._domain

    @property
    def classname(self) -> str:
        return self._classname

    def __repr__(self) -> str:
        return f"Datum({self._impath!r}, {self._label}, {self._domain}, {self._classname!r})"


class DatasetBase:
    """The splits of a dataset, each a list of :class:`Datum`.

    Args:
        train_x: labelled training items; needed, because the classes are read from them.
        train_u: unlabelled training items.
        val: validation items.
        test: test items.
    """

    dataset_dir = ""  # folder under DATASET.ROOT
    domains: Sequence[str] = []

    def __init__(
        self,
        train_x: list[Datum] | None = None,
        train_u: list[Datum] | None = None,
        val: list[Datum] | None = None,
        test: list[Datum] | None = None,
    ) -> None:
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x or [])

    train_x: Any = property(attrgetter("_train_x"))
    train_u: Any = property(attrgetter("_train_u"))
    val: Any = property(attrgetter("_val"))
    test: Any = property(attrgetter("_test"))

    @property
    def lab2cname(self) -> dict[int, str]:
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        return self._classnames

    @property
    def num_classes(self) -> int:
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source: Any) -> int:
        """Largest label + 1.

        Raises:
            TypeError: for None.
            ValueError: for an empty list.
        """
        if data_source is None:
            raise TypeError("train_x is None; a test-only dataset passes its test list as train_x too")
        if not data_source:
            raise ValueError("train_x is empty: no image was found for training")
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Iterable[Datum]) -> tuple[dict[int, str], list[str]]:
        """Label to class name, and the class names by rising label. The first name of a label wins."""
        names: dict[int, str] = {}
        for item in data_source:
            names.setdefault(item.label, item.classname)
        mapping = {label: names[label] for label in sorted(names)}
        return mapping, list(mapping.values())

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """Check both lists with :meth:`is_input_domain_valid`."""
        self.is_input_domain_valid(source_domains)
        self.is_input_domain_valid(target_domains)

    def is_input_domain_valid(self, input_domains: Sequence[str]) -> None:
        """Raise ValueError for a name that is none of ``domains``."""
        for domain in input_domains:
            if domain not in self.domains:
                raise ValueError(f"Input domain must belong to {list(self.domains)}, but got [{domain}]")

    def download_data(self, url: str, dst: str | Path, from_gdrive: bool = True) -> None:
        """Download an archive from Google Drive and unpack it beside itself.

        Raises:
            NotImplementedError: if ``from_gdrive`` is false, or for an unknown kind of archive.
            ImportError: if ``gdown`` is not installed.
        """
        if not from_gdrive:
            raise NotImplementedError("only Google Drive downloads are offered")
        try:
            import gdown
        except ImportError as error:
            raise ImportError("downloading from Google Drive needs `pip install gdown`") from error
        path = Path(dst)
        path.parent.mkdir(parents=True, exist_ok=True)
        gdown.download(url, str(path), quiet=False)
        print("Extracting file ...")
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(path.parent)
        elif path.name.endswith((".tar", ".tar.gz", ".tgz")):
            with tarfile.open(path) as archive:
                archive.extractall(path.parent, filter="data")
        else:
            raise NotImplementedError(f"{path.name}: only .zip, .tar and .tar.gz archives are unpacked")
        print(f"File extracted to {path.parent}")

    def generate_fewshot_dataset(self, *data_sources: list[Datum], num_shots: int = -1, repeat: bool = False) -> Any:
        """Keep ``num_shots`` items per class, drawn from Python's own random generator.

        The draws are part of the interface: published few-shot lists depend on their order.

        Args:
            data_sources: one or more lists, sampled one after the other.
            num_shots: items per class; below 1 everything is kept.
            repeat: fill small classes by drawing with replacement; otherwise they are taken whole.

        Returns:
            One list, or with several sources a list of lists (below 1 shot: what was passed).
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        print(f"Creating a {num_shots}-shot dataset")
        output = []
        for source in data_sources:
            chosen: list[Datum] = []
            for items in self.split_dataset_by_label(source).values():
                if len(items) >= num_shots:
                    chosen += random.sample(items, num_shots)
                elif repeat:
                    chosen += random.choices(items, k=num_shots)
                else:
                    chosen += items
            output.append(chosen)
        return output[0] if len(output) == 1 else output

    def split_dataset_by_label(self, data_source: Iterable[Datum]) -> defaultdict[int, list[Datum]]:
        """Items by label, labels in order of first appearance."""
        return _group(data_source, "label")

    def split_dataset_by_domain(self, data_source: Iterable[Datum]) -> defaultdict[int, list[Datum]]:
        """Items by domain, domains in order of first appearance."""
        return _group(data_source, "domain")


def _group(data_source: Iterable[Datum], field: str) -> defaultdict[int, list[Datum]]:
    groups: defaultdict[int, list[Datum]] = defaultdict(list)
    for item in data_source:
        groups[getattr(item, field)].append(item)
    return groups
