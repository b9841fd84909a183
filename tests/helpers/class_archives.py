"""Small archives of the data sets in class folders that are not ImageNet's, laid out as the official ones."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np

from advpt.data import catalog, classnames, imagenet
from advpt.data.facts import BinaryFile, DatasetFacts, Part

TOPS = {"CIFAR10": "cifar-10-batches-bin", "CIFAR100": "cifar-100-binary", "STL10": "stl10_binary"}


@dataclass(frozen=True)
class Pictures:
    """Images of one part in their official order. images: ``[n, side, side, 3]``, uint8; labels: from 0, ``[n]``."""

    images: np.ndarray
    labels: np.ndarray


def pictures(name: str, part: str, per_class: int) -> Pictures:
    """Random ones of every class, in a random order."""
    facts, rng = catalog.get(name), np.random.default_rng([len(name), len(part)])
    labels = rng.permutation(np.repeat(np.arange(facts.classes), per_class))
    return Pictures(rng.integers(0, 256, (len(labels), facts.native, facts.native, 3), dtype=np.uint8), labels)


def cifar_bytes(made: Pictures, before: int = 1) -> bytes:
    """CIFAR's records: label bytes (of CIFAR-100 a coarse one that is wrong as a fine one, then the fine one), then the
    red, green and blue planes row by row."""
    records = []
    for image, label in zip(made.images, made.labels):
        coarse = bytes([(label + 1) % 20]) * (before - 1)
        records.append(coarse + bytes([label]) + b"".join(image[:, :, k].tobytes() for k in range(3)))
    return b"".join(records)


def stl_bytes(made: Pictures) -> bytes:
    """STL-10's images: planes column by column."""
    return b"".join(image[:, column, k].tobytes() for image in made.images for k in range(3) for column in range(96))


def binary(name: str, train: Pictures, test: Pictures) -> dict[str, bytes]:
    """The official archive's members, without its top folder."""
    names = "\n".join(classnames.shipped(catalog.get(name)).values()) + "\n"
    if name == "CIFAR10":
        batches = zip(np.array_split(train.images, 5), np.array_split(train.labels, 5))
        files = {f"data_batch_{i}.bin": cifar_bytes(Pictures(*batch)) for i, batch in enumerate(batches, 1)}
        return files | {"test_batch.bin": cifar_bytes(test), "batches.meta.txt": f"{names}\n".encode()}
    if name == "CIFAR100":
        files = {"train.bin": cifar_bytes(train, 2), "test.bin": cifar_bytes(test, 2)}
        return files | {"fine_label_names.txt": names.encode(), "coarse_label_names.txt": b"aquatic_mammals\n"}
    parts = {"train": train, "test": test}
    files = {f"{part}_X.bin": stl_bytes(made) for part, made in parts.items()}
    files |= {f"{part}_y.bin": (made.labels + 1).astype(np.uint8).tobytes() for part, made in parts.items()}
    more = {"unlabeled_X.bin": b"\0" * 5000, "fold_indices.txt": b"1 2 3\n", "class_names.txt": names.encode()}
    return files | more


def per_class(name: str) -> tuple[int, int]:
    """Train and test images of a class in the small copies."""
    return {"CIFAR10": (5, 2), "CIFAR100": (2, 1)}.get(name, (2, 1))


def records(name: str) -> tuple[DatasetFacts, dict[str, bytes]]:
    """The facts of a small copy of CIFAR-10, CIFAR-100 or STL-10, and the members of its archive."""
    facts, (n_train, n_test) = catalog.get(name), per_class(name)
    members = binary(name, pictures(name, "train", n_train), pictures(name, "test", n_test))
    counts = (n_train * facts.classes, 0, n_test * facts.classes)
    parts = tuple(_marked(part, members) for part in facts.parts)
    return dataclasses.replace(facts, counts=counts, parts=parts), {f"{TOPS[name]}/{k}": v for k, v in members.items()}


def _marked(part: Part, members: dict[str, bytes]) -> Part:
    def mark(file: BinaryFile) -> BinaryFile:
        md5 = hashlib.md5(members[file.filename]).hexdigest() if file.md5 else ""
        return dataclasses.replace(file, md5=md5)

    return dataclasses.replace(part, files=tuple(map(mark, part.files)), labels=tuple(map(mark, part.labels)))


def tiny_imagenet(image: bytes) -> tuple[DatasetFacts, dict[str, bytes]]:
    """Four classes of TinyImageNet, three train images and two of val each."""
    facts, top = catalog.get("TinyImageNet"), "tiny-imagenet-200"
    wnids = list(classnames.shipped(facts))[:4]
    members = {f"{top}/train/{wnid}/images/{wnid}_{k}.JPEG": image for wnid in wnids for k in range(3)}
    members |= {f"{top}/train/{wnid}/{wnid}_boxes.txt": b"x\t0\t0\t9\t9\n" for wnid in wnids}
    members |= {f"{top}/val/images/val_{n}.JPEG": image for n in range(8)}
    lines = "".join(f"val_{n}.JPEG\t{wnids[tiny_class(n)]}\t0\t32\t44\t62\n" for n in range(8))
    members |= {f"{top}/val/val_annotations.txt": lines.encode(), f"{top}/words.txt": b"n1\tx\n"}
    members |= {f"{top}/test/images/test_{n}.JPEG": image for n in range(3)}
    digest = imagenet.folders_digest(wnids)
    return dataclasses.replace(facts, classes=4, counts=(12, 0, 8), class_folders=digest), members


def tiny_class(number: int) -> int:
    """The class of a val image, not in the order of the classes."""
    return (3 * number + 1) % 4


def caltech256(image: bytes) -> tuple[DatasetFacts, dict[str, bytes]]:
    """Four classes of Caltech-256 with two images each, and the files that are none of it."""
    facts, top = catalog.get("Caltech256"), "256_ObjectCategories"
    folders = [f for f in classnames.shipped(facts) if f[:3] in ("056", "198", "251", "257")]
    members = {f"{top}/{f}/{f[:3]}_000{k}.jpg": image for f in folders for k in (1, 2)}
    members |= {f"{top}/198.spider/RENAME2": b"#!/bin/sh", f"{top}/056.dog/greg/vision309/a.jpg": image}
    digest = imagenet.folders_digest(folders)
    return dataclasses.replace(facts, classes=4, counts=(0, 0, 8), class_folders=digest), members
