"""The zero-shot robustness protocol of TeCoA's family (``DATASET.PROTOCOL tecoa``): whole data sets or their official
test parts where CoOp has cut its own, class names and hand-written prompts; the table of it is ``zero_shot.toml``.

Template sets of papers are here as well (``TRAINER.ZEROSHOTCLIP.TEMPLATES``): ``tecoa``, one prompt for each data set,
and ``fare``, the ensembles that FARE's evaluation takes from CLIP_benchmark.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from advpt.data import catalog, imagenet, layout, listing
from advpt.data.facts import DatasetFacts
from advpt.data.split import Row, Split
from advpt.errors import ConfigError, DataError, unknown_name
from advpt.files import digest, file_digest, read_text
from advpt.schema import from_json

COOP, TECOA, FARE = "coop", "tecoa", "fare"
PROTOCOLS, TEMPLATE_SETS = (COOP, TECOA), ("", TECOA, FARE)
HERE = Path(__file__).parent
# Caltech101's folders that not every protocol uses; FARE's names are those of all 102, sorted in lower case.
UNUSED_FOLDERS = {"background_google", "faces_easy"}


@dataclass(frozen=True, kw_only=True)
class ZeroShotFacts:
    """How TeCoA's family tests a data set.

    Args:
        images: that are tested. classes: their number, 0 for that of the catalogue. template: with {} for the name.
        lists: what says which images: ``split`` (the test part that CoOp has too), ``folders`` (all images in class
            folders but those of ``left_out``), ``file`` (a path below the images on each line of ``file``, less
            ``suffix``), ``setid`` (Oxford Flowers' ``tstid``).
        file: in the data set's folder, with its ``md5`` where it is on record. source: the command that brings it.
        names: what is done to class names, a key of :data:`NAMES`. by_folder: class names by their folder.
        native: its images have one size, at which some papers attack them (``EVAL.ATTACK_AT native``).
        fare: the key of its ensemble in ``fare_templates.json``, "" where FARE has none.
    """

    images: int
    template: str
    classes: int = 0
    lists: Literal["split", "folders", "file", "setid"] = "split"
    file: str = ""
    source: str = ""
    md5: str = ""
    suffix: str = ""
    left_out: tuple[str, ...] = ()
    names: str = ""
    by_folder: Mapping[str, str] = field(default_factory=dict)
    native: bool = False
    fare: str = ""


@functools.cache
def table() -> dict[str, ZeroShotFacts]:
    """The sets of the protocol by registry name."""
    text = (HERE / "zero_shot.toml").read_text(encoding="utf-8")
    return {name: from_json(ZeroShotFacts, values, name) for name, values in tomllib.loads(text).items()}


def facts_of(dataset: str, protocol: str) -> ZeroShotFacts | None:
    """How a protocol tests a data set; None for ``coop``, which is what the catalogue has.

    Raises:
        ConfigError: no such protocol, or a data set that is not in it.
    """
    if protocol == COOP:
        return None
    if protocol not in PROTOCOLS:
        raise ConfigError(f"DATASET.PROTOCOL: {unknown_name('protocol', protocol, PROTOCOLS)}")
    name = catalog.canonical(dataset)
    if name not in table():
        raise ConfigError(
            f"DATASET.PROTOCOL is {protocol}, and {name} is not among its data sets: {', '.join(table())}. Leave it at "
            f"{COOP} for this one"
        )
    return table()[name]


# --- which images ---------------------------------------------------------------------------------------------------


def lists_of(
    facts: DatasetFacts, rule: ZeroShotFacts, folder: Path, read: Callable[[], Split]
) -> tuple[Split, list[str]]:
    """The lists of a data set under the protocol, and what differs from the table, as sentences.

    Args:
        facts: of the catalogue. folder: of the data set. read: gives CoOp's split, for rules that need it.

    Raises:
        DataError: a list is missing or names what is not there; the message has the command that brings it.
    """
    train: tuple[Row, ...] = ()
    if rule.lists == "folders":
        test = _all_in_folders(rule, folder / facts.image_dir)
    elif rule.lists == "file":
        test = _listed(facts, rule, folder)
    elif rule.lists == "setid":
        test = _official_flowers(facts, rule, folder, read())
    else:
        split = read()
        test = split.test
        train = () if layout.has_lists(facts) else split.train  # which CoOp, or the data set's makers, cut for it
    split = Split(*(tuple(_renamed(rule, row) for row in rows) for rows in (train, (), test)))
    return split, differences(facts, rule, split.test)


def differences(facts: DatasetFacts, rule: ZeroShotFacts, test: Sequence[Row]) -> list[str]:
    """What the tested images differ in from the table."""
    classes, expected = len({label for _, label, _ in test}), rule.classes or facts.classes
    if (len(test), classes) == (rule.images, expected):
        return []
    return [
        f"{facts.name}: {len(test):,} images of {classes:,} classes are tested, the protocol has {rule.images:,} of "
        f"{expected:,}. Results are marked as not comparable with published ones"
    ]


def split_digest(protocol: str, split: Split) -> str:
    """SHA-256 of a split under a protocol: another one than that of the same lists under CoOp's."""
    return split.digest() if protocol == COOP else digest({"protocol": protocol, **split.parts()})


def _all_in_folders(rule: ZeroShotFacts, images: Path) -> tuple[Row, ...]:
    """Every image below the class folders, which may lie in folders; labels follow the sorted folders."""
    folders: dict[str, list[str]] = {}
    for path in listing.scan(images).images:
        folder = path.rpartition("/")[0]
        if folder and folder not in rule.left_out:
            folders.setdefault(folder, []).append(path)
    names = {folder: rule.by_folder.get(folder, folder) for folder in sorted(folders)}
    return tuple((path, label, name) for label, (folder, name) in enumerate(names.items()) for path in folders[folder])


def _listed(facts: DatasetFacts, rule: ZeroShotFacts, folder: Path) -> tuple[Row, ...]:
    """The images that the data set's own list names; labels follow the sorted class folders of the list."""
    path = _required(facts, rule, folder)
    lines = [line.strip() for line in read_text(path, DataError).splitlines() if line.strip()]
    if bad := [line for line in lines if line.count("/") != 1]:
        raise DataError(f"{path} has the line {bad[0]!r}; expected a class, a slash and an image on each")
    names = sorted({line.partition("/")[0] for line in lines})
    labels = {name: label for label, name in enumerate(names)}
    pairs = ((line, line.partition("/")[0]) for line in lines)
    return tuple((f"{line}{rule.suffix}", labels[name], name) for line, name in pairs)


def _official_flowers(facts: DatasetFacts, rule: ZeroShotFacts, folder: Path, split: Split) -> tuple[Row, ...]:
    """The official test images; labels and names are those of CoOp's split, which lists all images."""
    from scipy.io import loadmat

    path = _required(facts, rule, folder)
    try:
        numbers = [int(number) for number in loadmat(path, squeeze_me=True)["tstid"]]
    except (ValueError, KeyError, TypeError, OSError, NotImplementedError) as error:
        raise DataError(f"{path} is not Oxford Flowers' {rule.file} ({error}); delete it and fetch it again") from None
    known = {row[0]: row for rows in split.parts().values() for row in rows}
    wanted = [f"image_{number:05d}.jpg" for number in numbers]
    if absent := [name for name in wanted if name not in known]:
        raise DataError(f"{path} names {len(absent)} images that the split file does not: {listing.some(absent, 3)}")
    return tuple(known[name] for name in wanted)


def _required(facts: DatasetFacts, rule: ZeroShotFacts, folder: Path) -> Path:
    """The data set's own list.

    Raises:
        DataError: it is missing, or it is another file than the official one.
    """
    path = folder / rule.file
    if not path.is_file():
        raise DataError(
            f"{facts.name}: {path} is missing, which says what the protocol {TECOA} tests. It comes with the data set; "
            f"run: {bring(facts, rule, folder)}"
        )
    if rule.md5 and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != rule.md5:
        raise DataError(
            f"{path} is not the official file (SHA-256 {file_digest(path)[:16]}); delete it and run: "
            f"{bring(facts, rule, folder)}"
        )
    return path


def bring(facts: DatasetFacts, rule: ZeroShotFacts, folder: Path) -> str:
    """The command that brings a data set's own list."""
    address = next((each.url for each in facts.sources if each.what == "images" and each.where == "url"), "")
    return rule.source.format(folder=shlex.quote(str(folder)), file=rule.file, address=address)


# --- class names ----------------------------------------------------------------------------------------------------


@functools.cache
def first_synonyms() -> dict[str, str]:
    """ImageNet's names in TeCoA's code by wnid: the first synonym in lower case, words between blanks. Three pairs of
    classes have one name."""
    lines = (HERE / "imagenet_first_synonyms.txt").read_text(encoding="utf-8").splitlines()
    return {wnid: _spaced(name).lower() for wnid, _, name in (line.split() for line in lines)}


def _spaced(name: str) -> str:
    return re.sub(r"[_/-]", " ", name)


# What is done to a class name, of the path of an image and the name.
NAMES: dict[str, Callable[[str, str], str]] = {
    "": lambda path, name: name,
    "spaced": lambda path, name: name.replace("_", " "),
    "without_letter": lambda path, name: re.sub(r"[_/]", " ", name.partition("/")[2]),  # a/abbey
    "without_year": lambda path, name: re.sub(r"^\d{4} ", "", name),  # CoOp has the year in front, TeCoA has none
    "boeing": lambda path, name: (f"Boeing {name}" if name.startswith("7") else name).lower(),
    "first_synonyms": lambda path, name: first_synonyms().get(path.split("/")[-2], name),
}


def _renamed(rule: ZeroShotFacts, row: Row) -> Row:
    path, label, name = row
    return path, label, NAMES[rule.names](path, name)


# --- hand-written prompts -------------------------------------------------------------------------------------------


def templates(template_set: str, dataset: str, protocol: str = COOP) -> tuple[str, ...]:
    """The hand-written prompts of a data set in a template set; several are an ensemble.

    Args:
        template_set: ``tecoa``, ``fare``, or "" for that of the protocol. dataset: its registry name or an alias.

    Raises:
        ConfigError: the set has none for this data set.
    """
    if template_set in ("", COOP):
        rule = facts_of(dataset, protocol)
        return (rule.template if rule is not None else catalog.template(dataset),)
    rule = table().get(catalog.canonical(dataset))
    if template_set == TECOA and rule is not None:
        return (rule.template,)
    if template_set == FARE and rule is not None and rule.fare:
        return tuple(text.replace("{c}", "{}") for text in _json("fare_templates.json")[rule.fare])
    having = [name for name, each in table().items() if template_set == TECOA or each.fare]
    raise ConfigError(
        f"TRAINER.ZEROSHOTCLIP.TEMPLATES is {template_set}, which has no template for {dataset}; it has some for "
        f"{', '.join(having)}. Leave it empty, or give a TEMPLATE"
    )


def class_names(template_set: str, dataset: str, names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """The class names that go into the prompts of a template set: those of the data set, but for those that FARE's
    evaluation has of its own (EuroSAT, Flowers, Pets, Caltech101, ImageNet).

    Args:
        names: of the data set, by label. folders: by label, the folder of an image of the class.

    Raises:
        ConfigError: FARE has names of other classes than these.
    """
    rule = table().get(catalog.canonical(dataset))
    if template_set != FARE or rule is None or not rule.fare:
        return list(names)
    if rule.fare == "imagenet1k":
        by_wnid = imagenet.shipped_names()
        return [by_wnid.get(folder, name) for folder, name in zip(folders, names, strict=True)]
    theirs: list[str] = _json("fare_names.json").get(rule.fare, list(names))
    if rule.fare == "caltech101":
        every = sorted({folder.lower() for folder in folders} | UNUSED_FOLDERS)
        by_folder = dict(zip(every, _json("fare_names.json")["caltech101_vtab"]))
        theirs = [by_folder[folder.lower()] for folder in folders] if len(every) == len(by_folder) == 102 else []
    if len(theirs) != len(names):
        raise ConfigError(
            f"TRAINER.ZEROSHOTCLIP.TEMPLATES is fare, which names {len(theirs)} classes of {dataset}, and there are "
            f"{len(names)}; evaluate all of them (DATASET.SUBSAMPLE_CLASSES all)"
        )
    return theirs


@functools.cache
def _json(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((HERE / name).read_text(encoding="utf-8"))
    return content
