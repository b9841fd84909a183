"""The catalogue of data sets, from ``catalog.toml``: look-up by registry name or alias, and prompt templates."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

from advpt.data.facts import DEFAULT_TEMPLATE, Checksums, DatasetFacts, Source, SplitFacts
from advpt.errors import ConfigError, unknown_name
from advpt.schema import from_json

# The selected templates of CoOp's ZeroshotCLIP2; :func:`ensemble` adds the data set's template.
ENSEMBLE: tuple[str, ...] = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

# Split files are also in this MIT-licensed repository, at a pinned commit.
MIRROR = (
    "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/"
    "ac9077ee4e422f768c9b9109551468605e33ec9a/splits/"
)
COLLECTION = "https://huggingface.co/datasets/zhengli97/prompt_learning_dataset"  # unofficial; all sets but ImageNet


def read(path: Path) -> dict[str, DatasetFacts]:
    """The data sets of a catalogue file by registry name, in its order; copies of split files are added to sources."""
    entries = {}
    for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        facts = from_json(DatasetFacts, {"name": name, **table}, name)
        copies = _copies(facts.split) if facts.split and facts.split.drive else ()
        entries[name] = dataclasses.replace(facts, sources=facts.sources + copies)
    return entries


def _copies(split: SplitFacts) -> tuple[Source, Source]:
    marks = {field.name: getattr(split, field.name) for field in dataclasses.fields(Checksums)}
    return (
        Source("split", "github", MIRROR + split.filename, split.filename, **marks),
        Source("split", "drive", split.drive, split.filename, **marks),
    )


_ENTRIES = read(Path(__file__).with_suffix(".toml"))
_BY_NAME = {key: facts for facts in _ENTRIES.values() for key in (facts.name, *facts.aliases)}


def names() -> tuple[str, ...]:
    """Registry names of all data sets, in the order of the catalogue."""
    return tuple(_ENTRIES)


def get(name: str) -> DatasetFacts:
    """The facts of a data set, by registry name (``OxfordPets``) or alias (``pets``, ``oxford_pets``).

    Raises:
        ConfigError: for an unknown name; the message has the nearest match and all names.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ConfigError(unknown_name("data set", name, _BY_NAME)) from None


def template(name: str) -> str:
    """CoOp's hand-written prompt for a data set; "a photo of a {}." for one that is not in the catalogue."""
    facts = _BY_NAME.get(name)
    return facts.template if facts else DEFAULT_TEMPLATE


def ensemble(name: str) -> tuple[str, ...]:
    """The zero-shot ensemble for a data set: seven selected templates and its :func:`template` (ImageNet: the seven).

    CoOp leaves that out for exactly "ImageNet"; its variants get it.
    """
    last = template(name)
    return ENSEMBLE if last in ENSEMBLE or canonical(name) == "ImageNet" else (*ENSEMBLE, last)


def canonical(name: str) -> str:
    """Registry name for a registry name or alias; an unknown name is returned as it is."""
    facts = _BY_NAME.get(name)
    return facts.name if facts else name


def own_folder(root: Path, named: str = "") -> Path:
    """The folder of the user's images: ``named`` below the root, or ``image_folder``, or the root."""
    folder = root / (named or _BY_NAME["ImageFolder"].folder)
    return root if not named and not folder.is_dir() and (root / "train").is_dir() else folder


def title(settings: Any) -> str:
    """:func:`title_of` the node ``DATASET`` of a configuration."""
    given, folder = (str(getattr(settings, leaf, "")) for leaf in ("TITLE", "FOLDER"))
    return title_of(str(settings.NAME), settings.ROOT, given, folder) + _mark(settings)


def _mark(settings: Any) -> str:
    """What stands behind the name of a data set under another protocol than CoOp's: its images are others."""
    protocol = str(getattr(settings, "PROTOCOL", "coop"))
    return "" if protocol == "coop" else f"-{protocol}"


def title_of(name: str, root: Path | str, given: str = "", folder: str = "") -> str:
    """The name of a data set in headings, records and folders: ``given``; for ImageFolder in a folder of another name
    that name; else the registry name.

    Args:
        name: of the registry. root: of all data sets. given: ``DATASET.TITLE``. folder: ``DATASET.FOLDER``.

    Raises:
        ConfigError: a title that no folder can have.
    """
    if given and re.sub(r"[^\w .@+-]", "", given).strip(" .") != given:
        raise ConfigError(f"DATASET.TITLE is {given!r}; give a name of letters, digits, spaces and -_.@+ in between")
    if given or canonical(name) != "ImageFolder":
        return given or name
    place = own_folder(Path(root).expanduser().absolute(), folder).name
    folder_title = re.sub(r"[^\w .@+-]", "-", place).strip(" .")
    return folder_title if folder_title and place != _BY_NAME[name].folder else name


def bank_name(settings: Any) -> str:
    """The folder of a data set's banks: its title where the node ``DATASET`` has one, else its registry name."""
    return title(settings) if getattr(settings, "TITLE", "") else str(settings.NAME) + _mark(settings)
