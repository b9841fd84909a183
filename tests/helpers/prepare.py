"""A local server with tricks, archives with hostile members, and a small copy of every data set's archives."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import re
import stat
import tarfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dassl.data.datasets import DATASET_REGISTRY
from PIL import Image
from scipy.io import savemat
from yacs.config import CfgNode

import datasets  # noqa: F401
from advpt.data import catalog, imagenet, layout, manifest, split, steps
from advpt.data.download import Network
from advpt.data.facts import DatasetFacts, Source, SplitFacts
from advpt.data.prepare import Options, prepare, prepare_or_check
from advpt.errors import DataError
from tests.helpers import class_archives

QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>Sorry</body></html>"


# --- a server ---------------------------------------------------------------------------------------------------


@dataclass
class Page:
    """One file on the server. ``cuts``: lengths after which the next answers break off; ``etag`` its version."""

    data: bytes
    ranges: bool = True
    status: int = 200
    cuts: list[int] = field(default_factory=list)
    etag: str = '"1"'
    delay: float = 0.0


class Server:
    """Files on 127.0.0.1; every request is noted as (path, Range header)."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, str]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def put(self, name: str, data: bytes, **options: Any) -> str:
        """Serve ``data``; returns its address."""
        self.pages[f"/{name}"] = Page(data, **options)
        return f"http://127.0.0.1:{self.http.server_address[1]}/{name}"

    def asked(self, name: str) -> list[str]:
        """The Range headers of the requests for a file, in order; "" where there was none."""
        return [wanted for path, wanted in self.requests if path == f"/{name}"]

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        page = self.pages.get(handler.path)
        wanted = handler.headers.get("Range") or ""
        self.requests.append((handler.path, wanted))
        if page is None or page.status != 200:
            handler.send_error(page.status if page else 404)
            return
        time.sleep(page.delay)
        start, same = 0, handler.headers.get("If-Range") in (None, page.etag)
        if wanted and page.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            if start >= len(page.data):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(page.data)}")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(page.data) - 1}/{len(page.data)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(page.data) - start))
        handler.send_header("ETag", page.etag)
        handler.end_headers()
        body = page.data[start:]
        handler.wfile.write(body[: page.cuts.pop(0)] if page.cuts else body)


def network(**changes: Any) -> Network:
    """No pauses, few attempts, and a Drive that must not be asked unless the test says how."""

    def no_drive(source: Source, target: Path) -> None:
        raise AssertionError(f"Drive was asked for {source.address}")

    given: dict[str, Any] = {"attempts": 2, "timeout": 5.0, "pause": 0.0, "drive": no_drive} | changes
    return Network(**given)


def options(**changes: Any) -> Options:
    return Options(**({"network": network()} | changes))


# --- archives ---------------------------------------------------------------------------------------------------


def picture(seed: int = 0, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (seed * 37 % 256, seed * 11 % 256, 90)).save(file, kind)
    return file.getvalue()


def tarred(members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in dict(members).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def tar_of(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def member(
    name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data if kind == tarfile.REGTYPE else b""


def zipped(members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
        for name, where in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(info, where)
    return file.getvalue()


def everything(folder: Path) -> dict[str, bytes]:
    """Every file and link below a folder and its content."""
    return {
        str(path.relative_to(folder)): (str(path.readlink()).encode() if path.is_symlink() else path.read_bytes())
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# --- small copies of the data sets --------------------------------------------------------------------------------


@dataclass
class Small:
    """A data set with the real names and layout and few images: its facts, and what the server or the user has."""

    facts: DatasetFacts
    archives: dict[str, bytes]
    split: bytes = b""

    @property
    def by_hand(self) -> bool:
        """Whether the user has to bring the archives."""
        return all(source.where == "manual" for source in self.facts.sources if source.what == "images")


LISTED: dict[str, tuple[list[tuple[str, str]], str]] = {
    "OxfordPets": ([("Abyssinian_{}.jpg", "abyssinian"), ("pug_{}.jpg", "pug")], "images/"),
    "OxfordFlowers": ([("image_0{}.jpg", "pink primrose"), ("image_1{}.jpg", "canterbury bells")], "jpg/"),
    "Food101": ([("apple_pie/{}.jpg", "apple_pie"), ("ramen/{}.jpg", "ramen")], "food-101/images/"),
    "SUN397": ([("a/abbey/s_{}.jpg", "abbey"), ("b/bakery/shop/s_{}.jpg", "shop bakery")], "SUN397/"),
    "DescribableTextures": ([("banded/b_{}.jpg", "banded"), ("dotted/d_{}.jpg", "dotted")], "dtd/images/"),
    "EuroSAT": ([("AnnualCrop/A_{}.jpg", "Annual Crop Land"), ("Forest/F_{}.jpg", "Forest")], "2750/"),
    "UCF101": (
        [
            ("Yo_Yo/v_YoYo_g01_c0{}.jpg", "Yo_Yo"),
            ("Handstand_Pushups/v_HandStandPushups_c0{}.jpg", "Handstand_Pushups"),
        ],
        "UCF-101-midframes/",
    ),
    "Caltech101": (
        [("airplanes/image_000{}.jpg", "airplane"), ("Faces/image_000{}.jpg", "face")],
        "101_ObjectCategories/",
    ),
    "StanfordCars": ([("cars_train/0000{}.jpg", "2000 AM"), ("cars_test/0000{}.jpg", "2012 Acura")], ""),
}
MADE_UP = [("first kind/{}.jpg", "first kind"), ("second kind/{}.jpg", "second kind")]
EVERY = tuple(name for name in catalog.names() if catalog.get(name).sources)
WNIDS = list(imagenet.shipped_names())[2:6]


def rows(classes: list[tuple[str, str]]) -> dict[str, list[list[Any]]]:
    """Three train, one val and two test images per class."""
    cuts = {"train": range(3), "val": range(3, 4), "test": range(4, 6)}
    return {
        part: [[path.format(i), label, name] for label, (path, name) in enumerate(classes) for i in numbers]
        for part, numbers in cuts.items()
    }


def small(name: str, server: Server | None = None) -> Small:
    """The small copy of a data set; its archives and split are put on ``server``, its sources point there."""
    special = {"FGVCAircraft": _aircraft, "ImageNet": _imagenet, "TinyImageNet": _tiny, "Caltech256": _caltech256}
    special |= {each: functools.partial(_records, each) for each in class_archives.TOPS}
    if name in special:
        made = special[name]()
    else:
        made = _listed(name) if catalog.get(name).split else _folders(name)
    files = dict(made.archives)
    if made.facts.split:
        files[made.facts.split.filename] = made.split
    sources = tuple(_here(source, files, server) for source in made.facts.sources if source.filename in files)
    return dataclasses.replace(made, facts=dataclasses.replace(made.facts, sources=sources, gigabytes=(0.0, 0.001)))


def _here(source: Source, files: Mapping[str, bytes], server: Server | None) -> Source:
    data = files[source.filename]
    marks = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} if source.size or source.sha256 else {}
    if source.md5:
        marks["md5"] = hashlib.md5(data).hexdigest()
    if source.git_blob:
        marks["git_blob"] = split.git_blob(data)
    blank: dict[str, Any] = {"size": 0, "sha256": "", "md5": "", "git_blob": ""}
    address = source.address
    if server is not None and source.where in ("url", "github"):
        address = server.put(f"{source.where}/{source.filename}", data)
    return dataclasses.replace(source, **(blank | marks), address=address)


def listed(name: str) -> tuple[list[tuple[str, str]], str]:
    """(path of an image with one {}, class name) of two classes, and the folder of the images in the archive."""
    part = catalog.get(name).parts[0]
    return LISTED.get(name, (MADE_UP, f"{(*part.inside, part.target)[0]}/"))


def _listed(name: str) -> Small:
    classes, prefix = listed(name)
    content = rows(classes)
    paths = [row[0] for part in content.values() for row in part]
    images = {f"{prefix}{path}": picture(i) for i, path in enumerate(paths)}
    data = json.dumps(content, indent=4).encode()
    facts = catalog.get(name)
    official = facts.split or SplitFacts("")
    marks = dataclasses.replace(
        official,
        git_blob=split.git_blob(data) if official.git_blob else "",
        content=split.parse(content, "x").digest() if official.content else "",
    )
    counts = tuple(len(part) for part in content.values())
    facts = dataclasses.replace(facts, classes=2, counts=counts, split=marks, spare=min(facts.spare, 0))
    return Small(facts, _archives(name, images), data)


def _archives(name: str, images: dict[str, bytes]) -> dict[str, bytes]:
    if name == "OxfordPets":
        return {"images.tar.gz": tarred(images | {"images/._pug_0.jpg": b"litter", "images/Abyssinian_1.mat": b"m"})}
    if name == "OxfordFlowers":
        return {"102flowers.tgz": tarred(images)}
    if name == "Food101":
        return {"food-101.tar.gz": tarred(images | {"food-101/meta/test.txt": b"ramen/4\napple_pie/5\n"})}
    if name == "SUN397":
        return {"SUN397.tar.gz": tarred(images | {"SUN397/ClassName.txt": b"/a/abbey"})}
    if name == "DescribableTextures":
        return {
            "dtd-r1.0.1.tar.gz": tarred(
                images | {"dtd/labels/test1.txt": b"dotted/d_4.jpg\n", "dtd/imdb/imdb.mat": b"x"}
            )
        }
    if name == "EuroSAT":
        return {"EuroSAT.zip": zipped(images)}
    if name == "UCF101":
        return {"UCF-101-midframes.zip": zipped(images | {"__MACOSX/UCF-101-midframes/._x.jpg": b"litter"})}
    if name == "Caltech101":
        inner = tarred(images | {"101_ObjectCategories/BACKGROUND_Google/image_0001.jpg": picture(99)})
        return {"caltech-101.zip": zipped({"caltech-101/101_ObjectCategories.tar.gz": inner, "caltech-101/x.m": b"m"})}
    if name == "StanfordCars":
        parts = ("cars_train", "cars_test")
        cars = {key: {path: data for path, data in images.items() if path.startswith(key)} for key in parts}
        return {f"{key}.tgz": tarred(members) for key, members in cars.items()}
    archive = next(source.filename for source in catalog.get(name).sources if source.what == "images")
    return {archive: zipped(images) if archive.endswith(".zip") else tarred(images)}


def _folders(name: str) -> Small:
    facts = catalog.get(name)
    folders = [str(i) for i in range(4)] if name == "ImageNetV2" else WNIDS
    top = {"ImageNetSketch": "sketch"}.get(name, facts.parts[0].target)
    images = {f"{top}/{folder}/{k}.jpeg": picture(k) for folder in folders for k in range(2)}
    digest = imagenet.folders_digest(folders) if facts.class_folders else ""
    facts = dataclasses.replace(facts, classes=4, counts=(0, 0, 8), class_folders=digest)
    source = facts.sources[0].filename
    if source.endswith(".zip"):
        return Small(facts, {source: zipped(images)})
    return Small(facts, {source: tarred(images | {f"{top}/README.txt": b"read me"}, mode="w")})  # V2's too: a plain tar


def _aircraft() -> Small:
    variants = ["707-320", "A300B4", "Boeing 717"]
    content = rows([(f"10{i}{{}}", variant) for i, variant in enumerate(variants)])
    top = "fgvc-aircraft-2013b/data/"
    members = {f"{top}images/{row[0]}.jpg": picture(i) for part in content.values() for i, row in enumerate(part)}
    members[f"{top}variants.txt"] = ("\n".join(variants) + "\n").encode()
    for part, lines in content.items():
        members[f"{top}images_variant_{part}.txt"] = "".join(f"{row[0]} {row[2]}\n" for row in lines).encode()
    facts = dataclasses.replace(catalog.get("FGVCAircraft"), classes=3, counts=(9, 3, 6))
    return Small(facts, {"fgvc-aircraft-2013b.tar.gz": tarred(members)})


def _records(name: str) -> Small:
    facts, members = class_archives.records(name)
    return Small(facts, {facts.sources[0].filename: tarred(members)})


def _tiny() -> Small:
    facts, members = class_archives.tiny_imagenet(picture(1))
    return Small(facts, {"tiny-imagenet-200.zip": zipped(members)})


def _caltech256() -> Small:
    facts, members = class_archives.caltech256(picture(2))
    return Small(facts, {"256_ObjectCategories.tar": tarred(members, "w")})


def _imagenet() -> Small:
    facts = catalog.get("ImageNet")
    train = {f"{wnid}.tar": tarred({f"{wnid}_{k}.JPEG": picture(k) for k in range(3)}, mode="w") for wnid in WNIDS}
    val = {f"ILSVRC2012_val_{n:08d}.JPEG": picture(n) for n in range(8, 0, -1)}
    facts = dataclasses.replace(facts, classes=4, counts=(12, 0, 8), class_folders=imagenet.folders_digest(WNIDS))
    made = {
        "ILSVRC2012_img_train.tar": tarred(train, mode="w"),
        "ILSVRC2012_img_val.tar": tarred(val, mode="w"),
        "ILSVRC2012_devkit_t12.tar.gz": devkit(),
    }
    return Small(facts, made)


TRUTH = [4, 1, 2, 3, 3, 2, 1, 4]
"""ILSVRC2012_ID of val images 1 to 8; ids 1 to 4 are the wnids in reverse."""


def wnid_of(number: int) -> str:
    return WNIDS[::-1][TRUTH[number - 1] - 1]


def devkit() -> bytes:
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = np.zeros((5, 1), dtype=fields)
    for i, wnid in enumerate([*WNIDS[::-1], "n00001740"]):
        synsets[i, 0] = (i + 1, wnid, "words, more", "gloss", 0 if i < 4 else 4)
    mat = io.BytesIO()
    savemat(mat, {"synsets": synsets})
    top = "ILSVRC2012_devkit_t12/data/"
    lines = "".join(f"{i}\n" for i in TRUTH).encode()
    return tarred({f"{top}meta.mat": mat.getvalue(), f"{top}ILSVRC2012_validation_ground_truth.txt": lines})


def solution() -> str:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["ImageId", "PredictionString"])
    for number in range(1, 9):
        table.writerow([f"ILSVRC2012_val_{number:08d}", f"{wnid_of(number)} 1 2 3 4"])
    return text.getvalue()


def user_files(made: Small, folder: Path, names: Iterable[str] | None = None) -> tuple[Path, ...]:
    """Write archives (and the split) where a user would have them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    every = dict(made.archives) | ({made.facts.split.filename: made.split} if made.facts.split else {})
    for name in names if names is not None else every:
        (folder / name).write_bytes(every[name])
        paths.append(folder / name)
    return tuple(paths)


def drive(made: Small) -> Callable[[Source, Path], None]:
    """A Google Drive that has this data set's files."""

    def get(source: Source, target: Path) -> None:
        assert source in made.facts.sources and source.where == "drive"
        every = dict(made.archives) | ({made.facts.split.filename: made.split} if made.facts.split else {})
        target.write_bytes(every[source.filename])

    return get


def message(made: Small, root: Path, kind: type[Exception] = DataError, **changes: Any) -> str:
    with pytest.raises(kind) as caught:
        prepare(made.facts, root, options(**changes))
    assert_not_taken_for_complete(made, root)
    return str(caught.value)


def assert_not_taken_for_complete(made: Small, root: Path) -> None:
    """Neither ``--check`` nor the registered class takes what is there for the data set."""
    folder = root / made.facts.folder
    assert manifest.manifest(folder) is None
    assert not layout.examine(made.facts, folder).complete
    cfg = CfgNode({"SEED": 1, "DATASET": {"NAME": made.facts.name, "ROOT": str(root), "NUM_SHOTS": -1}})
    with pytest.raises(DataError):
        DATASET_REGISTRY.get(made.facts.name)(cfg)


def by_hand(made: Small, root: Path) -> str:
    return steps.manual(made.facts, root)


def image_bytes(made: Small) -> dict[str, bytes]:
    parts = json.loads(made.split).values()
    return {row[0]: picture(i) for i, row in enumerate(row for part in parts for row in part)}


def load(made: Small, root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The data set through its registered class; no warning may come."""
    cls = DATASET_REGISTRY.get(made.facts.name)
    monkeypatch.setattr(cls, "info", made.facts)
    cfg = CfgNode({"SEED": 1, "DATASET": {"NAME": made.facts.name, "ROOT": str(root), "NUM_SHOTS": -1}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return cls(cfg)


def asked_for(made: Small, folder: Path) -> Options:
    """Fetch what can be fetched; bring by hand what cannot."""
    given = user_files(made, folder, made.archives) if made.by_hand else ()
    return options(archives=given, network=network(drive=drive(made)))


Prepared = tuple[DatasetFacts, Path]


def check(found: Prepared, with_decode: bool = False) -> list[str]:
    """What a check of the data set says; [] if all is well."""
    facts, folder = found
    return prepare_or_check(facts, folder.parent, options(network=network()), True, with_decode)[1]
