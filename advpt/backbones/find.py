"""A model by its name: its card, and where its weights and its tokenizer are. Reads JSON alone, no weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from advpt.backbones import card as cards
from advpt.backbones import configs, extras, hub, names, pieces
from advpt.backbones.card import Card
from advpt.backbones.configs import Read
from advpt.backbones.hub import Folder, Place, Repository
from advpt.backbones.names import Source
from advpt.backbones.pieces import TokenizerFile
from advpt.errors import AdvPTError, WeightsError

CONFIGS, PROCESSOR = ("open_clip_config.json", "config.json"), "preprocessor_config.json"


@dataclass(frozen=True)
class Model:
    """A model that is not OpenAI's, before its weights are read.

    Args:
        source: its name's parts.
        read: its configuration.
        place: where its weights are; None where a file of one's own has them.
        files: names of weight files, in the order in which they are looked for.
        transformers: whether the tensors have transformers' names.
    """

    source: Source
    read: Read
    place: Place | None = None
    files: tuple[str, ...] = ()
    transformers: bool = False

    @property
    def name(self) -> str:
        return str(self.source)

    def card(self, tokenizer: TokenizerFile | None = None) -> Card:
        """The card; without a tokenizer the special tokens of SigLIP's and CLIPA's texts are missing in it."""
        return configs.card_of(self.name, self.read, tokenizer)

    def tokenizer(self) -> TokenizerFile | None:
        """The file that texts are cut into pieces by; None for OpenAI's byte pairs.

        Raises:
            WeightsError: it is not there.
        """
        texts = self.read.texts
        if not texts.clean:
            return None
        place = self.place
        if not isinstance(place, Folder) and texts.tokenizer:
            if not names.is_repository(texts.tokenizer):
                raise WeightsError(
                    f"{self.name}: the tokenizer is {texts.tokenizer!r}; expected a repository of the hub, ORG/REPO"
                )
            place = Repository(texts.tokenizer)
        if place is None:
            raise WeightsError(f"{self.name} names no tokenizer; take it by the name of its repository or folder")
        path = place.fetch([pieces.FILE], beside=(pieces.SETTINGS,))
        return TokenizerFile.read(path, place.cached(pieces.SETTINGS))

    def facts(self, file: str = "", sha256: str = "") -> dict[str, str]:
        """Where weights came from, for records: no path of this machine."""
        facts = {"kind": self.source.kind, "file": file, "sha256": sha256}
        if isinstance(self.place, Repository):
            facts |= {"repository": self.place.name, "revision": self.place.commit}
        if self.read.pixels.defaults:
            facts["by_default"] = ", ".join(self.read.pixels.defaults)
        return facts


def find_model(name: str, activation: str = "") -> Model | None:
    """What a name stands for; None where it is OpenAI's, DemoCLIP's or a label.

    Args:
        name: ``MODEL.BACKBONE.NAME``. activation: ``MODEL.ACTIVATION``.

    Raises:
        ConfigError: it is no name, or no known one. WeightsError: its configuration is not there or cannot be run, or
            has another activation.
    """
    source = names.parse(names.canonical(name))
    if source is None:
        return None
    model = _open_clip(source) if source.kind == names.OPEN_CLIP else configured(source)
    declared = model.read.activation
    if activation and declared and activation != declared:
        raise WeightsError(
            f"MODEL.ACTIVATION is {activation}, but {model.name} has {declared}; leave MODEL.ACTIVATION out"
        )
    if activation:
        return dataclasses.replace(model, read=model.read.with_activation(activation))
    if not declared and source.repository and extras.quick_of_repository(source.repository):
        raise WeightsError(
            f"{model.name}: its configuration does not say quick_gelu, which means gelu, and open_clip's own table "
            "says quickgelu for this repository. Take its name there, open_clip:ARCHITECTURE/TAG, or add "
            "MODEL.ACTIVATION quickgelu"
        )
    return model


def _open_clip(source: Source) -> Model:
    """Of open_clip's built-in architectures and tags. Preprocessing and activation belong to the tag."""
    source = names.known(source)
    read = configs.read_open_clip(extras.architecture(source.architecture), f"open_clip's {source.architecture}")
    read = read.with_activation(read.activation or cards.GELU)
    if not source.tag:
        return Model(source, read)
    entry = extras.tag(source.architecture, source.tag)
    if entry.get("quick_gelu") is not None:
        read = read.with_activation(cards.QUICKGELU if entry["quick_gelu"] else cards.GELU)
    entries = {name: entry[name] for name in ("mean", "std", "interpolation", "resize_mode") if name in entry}
    pixels = configs.read_preprocessing(entries, read.pixels.size, f"open_clip's {source.architecture}/{source.tag}")
    organisation, _, rest = str(entry.get("hf_hub", "")).partition("/")
    repository, _, file = rest.partition("/")
    if not repository:
        raise WeightsError(
            f"{source}: open_clip has no repository for it. Fetch {entry.get('url') or 'its file'}, and add "
            "MODEL.WEIGHTS FILE"
        )
    files = (file,) if file else hub.OPEN_CLIP_WEIGHTS
    read = dataclasses.replace(read, pixels=pixels)
    return Model(source, read, Repository(f"{organisation}/{repository}"), files)


def configured(source: Source, setting: str = names.MODEL) -> Model:
    """The model in a repository or folder, by the configuration in it. ``setting``: that names it, for messages.

    Raises:
        WeightsError: the configuration is not there or cannot be run.
    """
    place = place_of(source, setting)
    path = place.fetch(CONFIGS, beside=(PROCESSOR,))
    config = hub.read_json(path)
    if path.name == CONFIGS[0]:
        read = configs.read_open_clip(config, f"{source}, {path.name}")
        return Model(source, read, place, hub.OPEN_CLIP_WEIGHTS)
    file = place.cached(PROCESSOR)
    pixels: Mapping[str, object] = hub.read_json(file) if file is not None else {}
    read = configs.read_transformers(config, pixels, f"{source}, {path.name}")
    return Model(source, read, place, hub.TRANSFORMERS_WEIGHTS, transformers=True)


def place_of(source: Source, setting: str = names.MODEL) -> Place:
    """The repository or folder of a name; arguments are those of :func:`configured`."""
    if source.repository:
        return Repository(source.repository, source.revision, f"{setting} local-dir:DIR")
    return Folder(Path(source.folder).expanduser())


def beside(path: Path) -> Read | None:
    """The configuration in the folder of a file with a whole model; None where there is none.

    Raises:
        WeightsError: it cannot be run.
    """
    config = next(filter(None, map(Folder(path.parent).cached, CONFIGS)), None)
    if config is None or (config.name == CONFIGS[1] and "model_type" not in hub.read_json(config)):
        return None
    return configured(Source(names.FOLDER, folder=str(path.parent))).read


def missing(name: str) -> str:
    """A sentence where the weights of a model that is not OpenAI's are in no cache or folder yet; else "". Opens no
    connection."""
    try:
        source = names.parse(names.canonical(name))
        if source is None:
            return ""
        if source.kind == names.FOLDER:
            return "" if Path(source.folder).expanduser().is_dir() else f"{name}: there is no such folder"
        files: tuple[str, ...] = (*hub.OPEN_CLIP_WEIGHTS, *hub.TRANSFORMERS_WEIGHTS)
        place = Repository(source.repository, source.revision)
        if source.kind == names.OPEN_CLIP:
            model = _open_clip(source)
            if not isinstance(model.place, Repository):
                return f"{name} is an architecture; its weights are a file of one's own: MODEL.WEIGHTS FILE"
            place, files = model.place, model.files
    except AdvPTError as error:
        return str(error)
    if any(place.has(file) for file in files):
        return ""
    return f"{name}: fetched from the hub, {place.name}, into {hub.cache_root()} when it is first needed"


def is_known_here(name: str) -> bool:
    """Whether :func:`find_model` needs no connection."""
    source = names.parse(name)
    if source is None or source.kind != names.HUB:
        return True
    return any(Repository(source.repository, source.revision).has(file) for file in CONFIGS)
