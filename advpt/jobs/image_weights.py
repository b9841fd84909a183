"""An image tower of a plan by its name, ``MODEL.IMAGE_WEIGHTS``: the name that means the same in every working folder,
and a mark of its content, so that the runs of one tower are not taken for those of another of the same name."""

from __future__ import annotations

from pathlib import Path

from advpt.backbones import find, names
from advpt.backbones.hub import Repository
from advpt.files import digest, file_digest

SUFFIXES = (".safetensors", ".bin", ".json")  # of the files of a folder that a tower is read of


def absolute(name: str) -> str:
    """The name with an absolute path, where it is one of a file or a folder.

    Raises:
        ConfigError: it begins like a name of a repository or folder and is none.
    """
    source = names.parse_tower(name)
    if source is None:
        return str(Path(name).expanduser().absolute()) if name else ""
    if source.kind == names.FOLDER:
        return f"{names.FOLDER}:{Path(source.folder).expanduser().absolute()}"
    return name


def fetch(name: str) -> None:
    """Bring what tells the commit of a tower of the hub, where the cache has none: its file, or the configuration of a
    whole model. Without it the runs of today would be those of no commit, and be made again tomorrow.

    Raises:
        ConfigError: as :func:`absolute`. WeightsError: neither the cache nor the hub has it.
    """
    source = names.parse_tower(name)
    if source is None or source.kind != names.HUB:
        return
    place = Repository(source.repository, source.revision, f"{names.TOWER} DIR/{source.file}")
    if place.commit:
        return
    if source.file:
        place.fetch([source.file])
    else:
        find.configured(source, names.TOWER)


def mark(name: str) -> str:
    """The first 8 digits of what identifies the content: SHA-256 of a file, or of a folder's weights and configuration;
    of the hub the commit that the cache has. "" where nothing is there, and for no name.

    Raises:
        ConfigError: as :func:`absolute`.
    """
    source = names.parse_tower(name)
    if source is None:
        path = Path(name).expanduser()
        return file_digest(path)[:8] if name and path.is_file() else ""
    if source.kind == names.FOLDER:
        folder = Path(source.folder).expanduser()
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        hashes = {path.name: file_digest(path) for path in paths if path.suffix in SUFFIXES and path.is_file()}
        return digest(hashes)[:8] if hashes else ""
    return Repository(source.repository, source.revision).commit[:8]
