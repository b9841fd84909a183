"""The files a data set is prepared from: those that the user gives, and those that are fetched."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from advpt.data import download, listing, staging, steps, verify
from advpt.data.download import DownloadError, Fetched, Network
from advpt.data.facts import Checksums, DatasetFacts, Source
from advpt.data.verify import WrongFile
from advpt.errors import DataError
from advpt.schema import JsonObject

log = logging.getLogger(__name__)

WORK = ".prepare"


@dataclass(frozen=True)
class Options:
    """How a data set is prepared.

    archives:   files of the user: archives, split files, ImageNet's devkit or Kaggle's solution file.
    origin:     a folder with the data set in this or another layout, or with its archives.
    link:       link to the images in ``origin`` instead of copying them.
    offline:    fetch nothing.
    unverified: accept a file whose hash differs from the one on record; the counts decide.
    keep:       leave downloaded archives in ``<data set>/.prepare``.
    sort_val:   move ImageNet's loose val images into class folders, in place.
    """

    archives: tuple[Path, ...] = ()
    origin: Path | None = None
    link: bool = False
    offline: bool = False
    unverified: bool = False
    keep: bool = False
    sort_val: bool = False
    network: Network = dataclasses.field(default_factory=Network)


class SourceFiles:
    """Finds, verifies and fetches the files of one data set.

    Attributes:
        given: files of the user by name: those named on the command line, and files of the catalogue's names in the
            folder of ``--from`` or that of the data set.
        named: those of ``--archive`` and ``--from``; a wrong one among them is an error, another is passed over.
        entries: for the manifest, one for each file that was used.
    """

    def __init__(self, facts: DatasetFacts, root: Path, options: Options) -> None:
        self.facts, self.root, self.options = facts, root, options
        self.folder = root / facts.folder
        self.work = self.folder / WORK
        self.entries: list[JsonObject] = []
        origin = [options.origin] if options.origin else []
        split_path = self.folder / facts.split.filename if facts.split else None
        self.given: dict[str, Path] = {}
        for source in facts.sources:
            for place in (*origin, self.folder, self.folder / facts.image_dir):
                path = place / source.filename
                if path.is_file() and path != split_path:
                    self.given.setdefault(source.filename, path)
        self.given |= {path.name: path for path in options.archives}
        self.named = {*options.archives, *(path for path in self.given.values() if path.parent in origin)}
        self.by_name: dict[str, Source] = {}  # the source with a hash, where several have one name
        for source in facts.sources:
            if source.filename not in self.by_name or source.md5 or source.sha256:
                self.by_name[source.filename] = source

    def archives_for(self, targets: Collection[str]) -> list[tuple[Source, Path]]:
        """Archives that together hold the parts ``targets``: the user's, else fetched ones.

        Raises:
            DataError: one cannot be had; the message ends with the steps by hand.
        """
        chosen: list[tuple[Source, Path]] = []
        missing = list(targets)
        for source, path in self._given_archives():
            if any(map(source.brings, missing)) and self._accepted(path, source):
                chosen.append((source, path))
                missing = [target for target in missing if not source.brings(target)]
        if missing and self.options.origin is not None:
            raise DataError(self._not_in_origin(missing))
        self._refuse_full_disk_before_download(missing)
        while missing:
            source, path = self.fetch_any(self.sources_of(missing[0]), "its images could not be fetched")
            chosen.append((source, path))
            missing = [target for target in missing if not source.brings(target)]
        return chosen

    def _given_archives(self) -> Iterator[tuple[Source, Path]]:
        """The user's files that may be archives of images: all but those of another kind by their name."""
        for name, path in self.given.items():
            source = self.by_name.get(name, Source("images", "manual", "", name))
            if source.what == "images" and path.suffix not in (".json", ".csv"):
                yield source, path

    def _accepted(self, path: Path, source: Source) -> bool:
        """Whether a file of the user is right."""
        try:
            self.verify_given(path, source)
        except WrongFile as error:
            if path in self.named:
                raise
            log.info("%s; it is left alone", error)
            return False
        return True

    def verify_given(self, path: Path, source: Source) -> None:
        """Verify a file of the user, where its name is in the catalogue, and note it for the manifest.

        Raises:
            WrongFile: it is another file, and ``unverified`` is not set.
        """
        checked: tuple[str, ...] = ()
        if source.filename not in self.by_name:
            log.info("%s: no hash is on record for this name; the counts decide", path)
            actual = verify.checksums(path)
        else:
            try:
                actual, checked = verify.check(path, source)
            except WrongFile as error:
                if not self.options.unverified:
                    raise WrongFile(
                        f"{error}. Fetch it again; if it is a copy that was packed anew, add --unverified: then the "
                        "counts alone decide"
                    ) from None
                log.warning("%s; it is used all the same (--unverified)", error)
                actual = verify.checksums(path)
        self.note(source.what, path.name, "the user", actual, checked)

    def note(self, what: str, filename: str, came_from: str, checksums: Checksums, checked: Collection[str]) -> None:
        """Note a file that was used for the manifest. ``checked``: checksums of the catalogue that agree."""
        self.entries.append(
            {
                "what": what,
                "file": filename,
                "from": came_from,
                "size": checksums.size,
                "sha256": checksums.sha256,
                "md5": checksums.md5,
                "checked": sorted(checked),
            }
        )

    def fetch_any(
        self,
        sources: Iterable[Source],
        problem: str,
        accept: Callable[[Path], bool] | None = None,
        reasons: Iterable[str] = (),
    ) -> tuple[Source, Path]:
        """Fetch the first of several sources that works, and note it for the manifest.

        Args:
            problem, reasons: what the message says where none works, and why other ways failed before.
            accept: as of :meth:`fetch`; it must also accept what was fetched.

        Raises:
            DataError: none does.
        """
        reasons = list(reasons)
        for source in sources:
            if source.where == "manual":
                reasons.append(f"{source.filename} cannot be fetched by a program ({source.address}). {source.note}")
                continue
            try:
                fetched = self.fetch(source, accept)
            except DataError as error:
                reasons.append(str(error))
                continue
            if accept is None or accept(fetched.path):
                self.note(source.what, source.filename, source.address, fetched.checksums, fetched.checked)
                return source, fetched.path
            reasons.append(f"{source.filename} from {source.where} is not the official split")
        lines = "".join(f"\n  - {reason}" for reason in reasons)
        raise DataError(f"{self.facts.name}: {problem}:{lines}\n{self.by_hand()}")

    def sources_of(self, target: str) -> list[Source]:
        """The sources whose archive has a part."""
        return [s for s in self.facts.sources if s.what == "images" and s.brings(target)]

    def fetch(self, source: Source, accept: Callable[[Path], bool] | None = None) -> Fetched:
        """As :func:`advpt.data.download.fetch`.

        Raises:
            DownloadError: also where nothing may be fetched.
        """
        if self.options.offline:
            raise DownloadError(f"{source.filename} is not here and --offline was given")
        return download.fetch(source, self.work, self.options.network, accept)

    def _refuse_full_disk_before_download(self, missing: Collection[str]) -> None:
        fetchable = any(source.where != "manual" for target in missing for source in self.sources_of(target))
        if fetchable and not self.options.offline:
            packed = sum(path.stat().st_size for path in self.work.glob("*") if path.is_file())
            self.refuse_full_disk(max(0.0, sum(self.facts.gigabytes) * 1e9 - packed))

    def refuse_full_disk(self, needed: float) -> None:
        """Raises DownloadError where the disk has less than ``needed`` bytes free."""
        download.refuse_full_disk(self.folder, needed, self.options.network.free, self.facts.name)

    def _not_in_origin(self, targets: Collection[str]) -> str:
        origin = self.options.origin or self.folder
        wanted = [name for part in self.facts.parts if part.target in targets for name in (part.target, *part.inside)]
        there = sorted(path.name for path in origin.iterdir())
        return (
            f"{self.facts.name}: {origin} holds no {' and no '.join(targets)}; found there: {listing.some(there)}. "
            f"Expected {' or '.join(wanted)} in it, or the archives; to fetch them leave --from out."
            f"{''.join(f' But {hint}' for hint in staging.hints(self.facts, origin))}\n{self.by_hand()}"
        )

    def by_hand(self) -> str:
        """The steps to prepare the data set by hand."""
        return steps.manual(self.facts, self.root)
