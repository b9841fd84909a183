"""The names of models that are not OpenAI's: the grammar of ``MODEL.BACKBONE.NAME``.

===================================  ===================================================================
``open_clip:ARCHITECTURE/TAG``       published weights by open_clip's names: ``open_clip:ViT-B-32/laion2b_e16``
``open_clip:ARCHITECTURE``           an architecture of open_clip's for the file in ``MODEL.WEIGHTS``
``hf-hub:ORG/REPO[@REVISION]``       a repository of the Hugging Face hub, ``hf-hub:chs20/fare2-clip``
``local-dir:FOLDER``                 a folder with the same files
===================================  ===================================================================

Every other name is OpenAI's, DemoCLIP's, or a label for the file in ``MODEL.WEIGHTS``.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from advpt.backbones import extras
from advpt.errors import ConfigError, unknown_name

OPEN_CLIP, HUB, FOLDER = "open_clip", "hf-hub", "local-dir"
MODEL, TOWER = "MODEL.BACKBONE.NAME", "MODEL.IMAGE_WEIGHTS"  # settings with such names
QUICK = "-quickgelu"  # ends the names of open_clip's architectures with that activation
# OpenAI's models by open_clip's names: the same weights, run by OpenAI's own code.
OPENAI = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B-32": "ViT-B/32",
    "ViT-B-16": "ViT-B/16",
    "ViT-L-14": "ViT-L/14",
    "ViT-L-14-336": "ViT-L/14@336px",
}
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_WEIGHTS = (".pt", ".pth", ".tar", ".bin", ".ckpt", ".safetensors")  # end the names of files of weights
_REPOSITORY = re.compile(rf"(?:{_PART}/)?{_PART}")


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Args:
        kind: :data:`OPEN_CLIP`, :data:`HUB` or :data:`FOLDER`.
        architecture, tag: of open_clip; no tag: of a file of one's own.
        repository, revision: of the hub; no revision: ``main``. file: in the repository, of an image tower alone.
        folder: a path.
    """

    kind: str
    architecture: str = ""
    tag: str = ""
    repository: str = ""
    revision: str = ""
    file: str = ""
    folder: str = ""

    def __str__(self) -> str:
        if self.kind == OPEN_CLIP:
            return f"{self.kind}:{self.architecture}{'/' if self.tag else ''}{self.tag}"
        if self.kind == HUB:
            file = f"/{self.file}" if self.file else ""
            return f"{self.kind}:{self.repository}{file}{'@' if self.revision else ''}{self.revision}"
        return f"{self.kind}:{self.folder}"


def is_repository(name: str) -> bool:
    """Whether a text can be the name of a repository on the hub."""
    return bool(_REPOSITORY.fullmatch(name)) and ".." not in name and "--" not in name and len(name) <= 96


def parse(name: str, setting: str = MODEL) -> Source | None:
    """What a name says; None for OpenAI's names, DemoCLIP's and labels. Nothing is looked up.

    Args:
        name: of this grammar, or another. setting: that has it, for messages.

    Raises:
        ConfigError: it begins like a name of this grammar and is none.
    """
    kind, colon, rest = name.partition(":")
    if not colon or kind not in (OPEN_CLIP, HUB, FOLDER):
        near = {each.replace("-", "").replace("_", ""): each for each in (OPEN_CLIP, HUB, FOLDER)}
        meant = near.get(re.sub("[-_ ]", "", kind.lower()))
        if colon and meant:
            raise ConfigError(f"{setting} is {name!r}; did you mean {meant}:{rest.strip()}?")
        return None
    if kind == OPEN_CLIP:
        architecture, slash, tag = rest.partition("/")
        if re.fullmatch(_PART, architecture) and (re.fullmatch(r"[A-Za-z0-9_.-]+", tag) if slash else not tag):
            return Source(kind, architecture=architecture, tag=tag.lower().replace("-", "_"))
        expected = "open_clip:ARCHITECTURE/TAG with one '/', for instance open_clip:ViT-B-16/laion2b_s34b_b88k"
    elif kind == HUB:
        repository, at, revision = rest.partition("@")
        known = "/" in repository and is_repository(repository)
        if known and (re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", revision) if at else True) and ".." not in revision:
            return Source(kind, repository=repository, revision=revision)
        expected = "hf-hub:ORG/REPO or hf-hub:ORG/REPO@REVISION, for instance hf-hub:chs20/fare2-clip"
    else:
        if rest.strip():
            return Source(kind, folder=rest)
        expected = "local-dir:FOLDER, a folder with the configuration and the weights"
    raise ConfigError(f"{setting} is {name!r}; expected {expected}")


def parse_tower(name: str) -> Source | None:
    """What ``MODEL.IMAGE_WEIGHTS`` says: a repository or folder as in :func:`parse`, or one file of a repository,
    ``hf-hub:ORG/REPO/FILE[@REVISION]``; None for a file of this machine.

    Raises:
        ConfigError: it begins like such a name and is none.
    """
    place, at, revision = name.partition("@")
    if inside := re.fullmatch(rf"({HUB}:{_PART}/{_PART})/({_PART}(?:/{_PART})*)", place):
        source = parse(inside[1] + at + revision, TOWER)
        return source and dataclasses.replace(source, file=inside[2])
    version, slash, file = revision.partition("/")
    if place.startswith(f"{HUB}:") and slash and file.endswith(_WEIGHTS):
        raise ConfigError(f"{TOWER} is {name!r}; put @REVISION last: {place}/{file}@{version}")
    source = parse(name, TOWER)
    if source is not None and source.kind == OPEN_CLIP:
        raise ConfigError(
            f"{TOWER} is {name!r}; expected a file, hf-hub:ORG/REPO, hf-hub:ORG/REPO/FILE or local-dir:FOLDER. A model "
            f"of open_clip is taken whole: {MODEL} {name}"
        )
    return source


def canonical(name: str) -> str:
    """The one spelling of a model's name: open_clip's architectures with the suffix of the tag's activation, OpenAI's
    models by OpenAI's names.

    Raises:
        ConfigError: a name that is none, or an architecture or tag that open_clip does not know.
        WeightsError: open_clip is needed and not installed.
    """
    source = parse(name)
    if source is None or source.kind != OPEN_CLIP:
        return name if source is None else str(source)
    base = source.architecture.removesuffix(QUICK)
    if source.tag == "openai" and base in OPENAI:
        return OPENAI[base]
    return str(known(source))


def known(source: Source) -> Source:
    """The same source of open_clip with the architecture that the tag's weights were trained with.

    Raises:
        ConfigError: open_clip knows no such architecture or tag, or the tag has the other activation.
    """
    name, tag = source.architecture, source.tag
    if name not in extras.architectures():
        dashed = f"{name}-{tag}"
        advice = f" Write - inside an architecture: open_clip:{dashed}." if dashed in extras.architectures() else ""
        raise ConfigError(
            f"MODEL.BACKBONE.NAME {source}:{advice} {unknown_name('architecture of open_clip', name, _near(name))}"
        )
    if not tag:
        return source
    if tag not in extras.tags(name):
        base = name.removesuffix(QUICK)
        if base != name and tag in extras.tags(base):
            raise ConfigError(
                f"MODEL.BACKBONE.NAME {source}: {tag} was trained with gelu, and {name} has quickgelu; the name is "
                f"open_clip:{base}/{tag}"
            )
        raise ConfigError(
            f"MODEL.BACKBONE.NAME {source}: {unknown_name(f'tag of {name}', tag, extras.tags(name))}; for a file of "
            f"one's own: MODEL.BACKBONE.NAME open_clip:{name} MODEL.WEIGHTS FILE"
        )
    quick = bool(extras.tag(name, tag).get("quick_gelu", False))
    if quick and not name.endswith(QUICK) and f"{name}{QUICK}" in extras.architectures():
        return dataclasses.replace(source, architecture=f"{name}{QUICK}")
    return source


def _near(name: str) -> list[str]:
    """Architectures that begin as ``name`` does, else all: there are 150 of them."""
    same = [each for each in extras.architectures() if each.lower().startswith(name.lower()[:5])]
    return same or list(extras.architectures())
