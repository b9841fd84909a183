"""Bringing a data set into CoOp's layout: fetch, verify, unpack beside the target, compare with the lists, rename.

Nothing gets its final name before it is complete, so a folder that is there is a whole one. Work in progress is kept
in ``<data set>/.prepare``; the next run continues there. A lock makes a second process wait.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advpt import files
from advpt.data import archives, digits, download, imagenet, layout, listing, manifest, split, staging, steps, verify
from advpt.data import imagenet_archives as ilsvrc
from advpt.data.archives import Budget
from advpt.data.download import DownloadError, Network
from advpt.data.facts import DatasetFacts, Part, Source
from advpt.data.layout import Report
from advpt.data.verify import Marks, WrongFile
from advpt.errors import ConfigError, DataError

log = logging.getLogger(__name__)

WORK = ".prepare"
LOCK = ".advpt_prepare.lock"
_SLACK = 1e9
"""Bytes an archive may have beyond three times the data set's size."""


@dataclass(frozen=True)
class Options:
    """How a data set is prepared.

    archives:   files the user has: archives, split files, ImageNet's devkit or Kaggle's solution file.
    origin:     a folder with the data set in this or another layout, or with its archives.
    link:       link to the images in ``origin`` instead of copying them.
    offline:    fetch nothing.
    unverified: accept a file of a known name whose hash differs; the counts decide.
    keep:       leave downloaded archives in ``<data set>/.prepare``.
    sort_val:   move ImageNet's loose val images into class folders, in place.
    limit:      bytes an archive may unpack to; 0 for three times the data set's size.
    """

    archives: tuple[Path, ...] = ()
    origin: Path | None = None
    link: bool = False
    offline: bool = False
    unverified: bool = False
    keep: bool = False
    sort_val: bool = False
    limit: int = 0
    network: Network = dataclasses.field(default_factory=Network)


def prepare(facts: DatasetFacts, root: Path, options: Options | None = None) -> Report:
    """Bring one data set into ``root / facts.folder``; does nothing if it is complete.

    Raises:
        ConfigError: for options that do not fit the data set.
        DataError: if it cannot be completed; the message ends with what to do by hand. What was complete before
            is as it was.
    """
    options = options or Options()
    _check_options(facts, options)
    root = root.expanduser().absolute()
    folder = root / facts.folder
    log.info("%s", steps.terms(facts))
    try:
        if facts.name == digits.DIGITS.name:
            digits.prepare(root)
            return _Job(facts, root, options).finish("made", anew=False)
        with files.FileLock(folder / LOCK, f"{facts.name} in {folder}"):
            return _Job(facts, root, options).run()
    except OSError as error:
        raise DataError(
            f"{facts.name}: {error.filename or folder} cannot be read or written ({error.strerror or error}). "
            "Check the disk and the permissions, then run the same command again: it continues."
        ) from error


def _check_options(facts: DatasetFacts, options: Options) -> None:
    if not facts.parts:
        raise ConfigError(
            f"{facts.name} is your own data; nothing has to be prepared. See DATASETS.md, 'Your own data'."
        )
    if options.sort_val and facts.name != "ImageNet":
        raise ConfigError(f"--sort-val is for imagenet; {facts.name} has no val images to sort.")
    if options.link and options.origin is None:
        raise ConfigError("--link needs --from DIR, the folder that has the images.")
    for path in (*options.archives, *([options.origin] if options.origin else [])):
        if not path.exists():
            raise ConfigError(f"{path} does not exist; give the path of a file (--archive) or a folder (--from).")
    if options.origin is not None and not options.origin.is_dir():
        raise ConfigError(f"{options.origin} is no folder; give archives with --archive.")


class _Job:
    """One run of :func:`prepare`, with the lock held."""

    def __init__(self, facts: DatasetFacts, root: Path, options: Options) -> None:
        self.facts, self.root, self.options = facts, root, options
        self.folder = root / facts.folder
        self.work = self.folder / WORK
        self.sources: list[dict[str, Any]] = []
        origin = [options.origin] if options.origin else []
        places = [*origin, self.folder, layout.image_folder(facts, self.folder)]
        self.given: dict[str, Path] = {}
        for source in facts.sources:
            for place in places:
                if (place / source.filename).is_file() and place / source.filename != self.split_path:
                    self.given.setdefault(source.filename, place / source.filename)
        self.given |= {path.name: path for path in options.archives}
        self.named = {*options.archives, *(path for path in self.given.values() if path.parent in origin)}
        self.known: dict[str, Source] = {}
        for source in facts.sources:
            if source.filename not in self.known or source.md5 or source.sha256:
                self.known[source.filename] = source

    @property
    def split_path(self) -> Path | None:
        return self.folder / self.facts.split.filename if self.facts.split else None

    def run(self) -> Report:
        if layout.examine(self.facts, self.folder).complete:
            log.info("%s is complete in %s; nothing to do.", self.facts.name, self.folder)
            return self.finish("found", anew=False)
        return self.finish(self.complete(), anew=True)

    def complete(self) -> str:
        """Bring what is missing; returns how the images came."""
        if self.facts.name == "ImageNet":
            self.repair_imagenet()
        no_split = self.ensure_split()
        if no_split and not (self.options.archives or self.options.origin):
            raise DataError(no_split)
        report = layout.examine(self.facts, self.folder)
        if report.complete:
            return "found"
        wanted = [part for part in self.facts.parts if part.target in report.broken]
        if not wanted and not no_split:
            raise DataError("\n".join([*report.lines(), self.by_hand()]))
        staged = self.work / "staged"
        try:
            archives.remove(staged)
            staged.mkdir(parents=True)
            how = self.stage(wanted, staged)
            if no_split and (again := self.ensure_split(self.work / "unpacked")):
                raise DataError(again)
            self.judge(wanted, staged)
            staging.install(self.facts, wanted, staged, self.folder, self.work)
        finally:
            archives.remove(staged)
            archives.remove(self.work / "unpacked")
        return how

    def finish(self, how: str, anew: bool) -> Report:
        """Write class names and the manifest (where there is one, only if ``anew``), and tidy up.

        Raises:
            DataError: if the data set is not complete after all.
        """
        report = layout.examine(self.facts, self.folder)
        if not report.complete:
            raise DataError("\n".join([*report.lines(), self.by_hand()]))
        names = self.folder / imagenet.CLASSNAMES
        if imagenet.CLASSNAMES in self.facts.other and not names.exists():
            text = "".join(f"{wnid} {name}\n" for wnid, name in imagenet.shipped_names().items())
            files.write_text(names, text)
        if anew or not (self.folder / manifest.NAME).is_file():
            manifest.write(report, self.sources, how)
        if not self.options.keep:
            archives.remove(self.work)
        return report

    # --- the split file ---------------------------------------------------------------------------------------------

    def ensure_split(self, unpacked: Path | None = None) -> str:
        """Put the official split file in place unless it is there; returns why that is not possible, or ""."""
        path = self.split_path
        if path is None or self.split_is_right(path):
            return ""
        reasons: list[str] = []
        origin = [self.options.origin] if self.options.origin else []
        for place in [*origin, *([unpacked] if unpacked else [])]:
            for candidate in (place / path.name, place / self.facts.folder / path.name):
                if candidate.is_file():
                    self.given.setdefault(path.name, candidate)
        if path.name in self.given:
            mine = self.given[path.name]
            if self.split_is_right(mine):
                self.install_split(mine, path, "the user", verify.marks(mine), ())
                return ""
            reasons.append(f"{mine} is not the official split; give another one or none.")
        for source in self.facts.sources:
            if source.what != "split":
                continue
            try:
                got = self.fetch(source, accept=self.split_is_right)
                if not self.split_is_right(got.path):
                    reasons.append(f"{source.filename} from {source.where} is not the official split.")
                    continue
                self.install_split(got.path, path, source.address, got.marks, got.checked)
                return ""
            except DataError as error:
                reasons.append(str(error))
        why = "".join(f"\n  - {reason}" for reason in reasons)
        return f"{self.facts.name}: {path.name} could not be had:{why}\n{self.by_hand()}"

    def split_is_right(self, path: Path) -> bool:
        """Whether a file is the official split; where no hash is on record, whether its counts are right."""
        if not path.is_file():
            return False
        try:
            found, data = split.read(path)
        except DataError as error:
            log.info("%s", error)
            return False
        if layout.checkable(self.facts):
            return split.judge(self.facts, found, data, path).official
        return found.counts() == self.facts.counts

    def install_split(self, source: Path, path: Path, came_from: str, marks: Marks, checked: Sequence[str]) -> None:
        if path.exists():
            aside = path.with_name(f"{path.stem}.not-official{path.suffix}")
            number = 1
            while aside.exists():
                number += 1
                aside = path.with_name(f"{path.stem}.not-official-{number}{path.suffix}")
            log.info("%s is not the official split; it is kept as %s.", path, aside.name)
            path.rename(aside)
        with files.atomic_path(path) as partial:
            shutil.copyfile(source, partial)
        self.sources.append(manifest.source_entry("split", path.name, came_from, marks, checked))

    # --- the images -------------------------------------------------------------------------------------------------

    def stage(self, wanted: Sequence[Part], staged: Path) -> str:
        """Bring the wanted parts together in ``staged``; returns how they came."""
        how = "found"
        rest = []
        for part in wanted:
            found = self.in_origin(part)
            if found is None:
                rest.append(part)
                continue
            how = "linked" if self.options.link else "copied"
            if how == "copied":
                self.refuse_full_disk(self.facts.gigabytes[1] * 1e9)
            self.place(part, found, staged, "link" if self.options.link else "copy")
        if rest:
            how = "unpacked"
            self.unpack(rest, staged)
        return how

    def in_origin(self, part: Part) -> Path | None:
        """Where the folder that the user named has a part."""
        if self.options.origin is None:
            return None
        found = staging.find_part(self.options.origin, part, self.facts)
        if found is None or found.resolve() == (self.folder / part.target).resolve():
            return None
        return found

    def place(self, part: Part, found: Path, staged: Path, how: str) -> None:
        """Put one part into ``staged``: "move", "copy" or "link"."""
        target = staged / part.target
        target.parent.mkdir(parents=True, exist_ok=True)
        if part.target == "images/val" and not listing.folders(found) and listing.images(found):
            ilsvrc.sort_val(found, target, self.truth(), how)
        elif part.target == "images/train" and ilsvrc.inner_tars(found):
            for tar in ilsvrc.inner_tars(found):
                archives.extract(tar, target / tar.stem, self.budget)
        elif how == "move":
            found.rename(target)
        elif how == "link":
            target.symlink_to(found.resolve())
        elif found.is_dir():
            log.info("copying %s", found)
            shutil.copytree(found, target, ignore=shutil.ignore_patterns(".*"))
        else:
            shutil.copyfile(found, target)

    def unpack(self, parts: Sequence[Part], staged: Path) -> None:
        """Fetch the archives of ``parts`` (or take the user's), unpack them and move the parts into ``staged``."""
        unpacked = self.work / "unpacked"
        archives.remove(unpacked)
        unpacked.mkdir(parents=True)
        found = self.archives_for(parts)
        self.refuse_full_disk(self.facts.gigabytes[1] * 1e9)
        train = self.work / "train"  # not removed on failure: classes that are complete are kept
        for source, path in found.items():
            if source is not None and source.filename == "ILSVRC2012_img_train.tar":
                ilsvrc.unpack_train(path, train, self.budget)
            elif source is not None and source.filename == "ILSVRC2012_img_val.tar":
                archives.extract(path, unpacked / "images" / "val", self.budget)
            else:
                archives.extract(path, unpacked, self.budget)
                for inner in source.inner if source else ():
                    if (unpacked / inner).is_file():
                        archives.extract(unpacked / inner, unpacked, self.budget)
        if train.is_dir():
            (unpacked / "images").mkdir(exist_ok=True)
            train.rename(unpacked / "images" / "train")
        for part in parts:
            place = staging.find_part(unpacked, part, self.facts)
            if place is None:
                raise DataError(self.not_in_archive(part, unpacked, list(found.values())))
            self.place(part, place, staged, "move")

    def not_in_archive(self, part: Part, unpacked: Path, paths: Sequence[Path]) -> str:
        top = sorted(path.name for path in unpacked.iterdir())
        return (
            f"{self.facts.name}: {' and '.join(str(path) for path in paths)} holds no {part.target}; found at its top: "
            f"{listing.some(top)}. Expected {' or '.join((part.target, *part.inside))}."
            f"{''.join(f' But {hint}' for hint in staging.hints(self.facts, unpacked))} Nothing was changed.\n"
            f"{self.by_hand()}"
        )

    def not_there(self, targets: Sequence[str]) -> str:
        origin = self.options.origin or self.folder
        wanted = [name for part in self.facts.parts if part.target in targets for name in (part.target, *part.inside)]
        there = sorted(path.name for path in origin.iterdir())
        return (
            f"{self.facts.name}: {origin} holds no {' and no '.join(targets)}; found there: {listing.some(there)}. "
            f"Expected {' or '.join(wanted)} in it, or the archives; to fetch them leave --from out.\n{self.by_hand()}"
        )

    @property
    def budget(self) -> Budget:
        return Budget(self.options.limit or int(3e9 * self.facts.gigabytes[1] + _SLACK))

    def archives_for(self, parts: Sequence[Part]) -> Mapping[Source | None, Path]:
        """Archives that together hold ``parts``: the user's, else fetched ones.

        Raises:
            DataError: if one cannot be had; the message ends with the steps by hand.
        """
        found: dict[Any, Path] = {}
        left = {part.target for part in parts}
        for name, path in self.given.items():
            source = self.known.get(name)
            if name == ilsvrc.SOLUTION or (source is not None and source.what != "images"):
                continue
            if source is None and path.suffix == ".json":
                continue
            if source is not None and source.gives and not left & set(source.gives):
                continue
            try:
                self.accept_given(path, source)
            except WrongFile as error:
                if path in self.named:
                    raise
                log.info("%s It is left alone.", error)
                continue
            found[source] = path
            left -= set(source.gives) if source is not None and source.gives else left
        if left and self.options.origin is not None:
            raise DataError(self.not_there(sorted(left)))
        some = any(source.where != "manual" for target in left for source in self.sources_of(target))
        if some and not self.options.offline:
            packed = sum(path.stat().st_size for path in self.work.glob("*") if path.is_file())
            self.refuse_full_disk(max(0.0, sum(self.facts.gigabytes) * 1e9 - packed))
        while left:
            target = min(left, key=[part.target for part in parts].index)
            source, path = self.fetch_part(target)
            found[source] = path
            left -= set(source.gives) if source.gives else left
        return found

    def accept_given(self, path: Path, source: Source | None) -> None:
        """Verify a file of the user, where its name is known."""
        checked: tuple[str, ...] = ()
        if source is None:
            log.info("%s: no hash is on record for this name; the counts decide.", path)
            found = verify.marks(path)
        else:
            try:
                found, checked = verify.check(path, source)
            except WrongFile as error:
                if not self.options.unverified:
                    raise WrongFile(
                        f"{error} Fetch it again; if it is a copy that somebody packed anew, add --unverified: then "
                        "the counts alone decide."
                    ) from None
                log.warning("%s It is used all the same (--unverified).", error)
                found = verify.marks(path)
        self.sources.append(
            manifest.source_entry(source.what if source else "images", path.name, "the user", found, checked)
        )

    def fetch_part(self, target: str) -> tuple[Source, Path]:
        """Fetch the archive of one part from the first of its sources that works."""
        reasons = []
        for source in self.sources_of(target):
            if source.where == "manual":
                reasons.append(f"{source.filename} cannot be fetched by a program ({source.address}). {source.note}")
                continue
            try:
                got = self.fetch(source)
            except DataError as error:
                reasons.append(str(error))
                continue
            self.sources.append(
                manifest.source_entry("images", source.filename, source.address, got.marks, got.checked)
            )
            return source, got.path
        why = "".join(f"\n  - {reason}" for reason in reasons)
        raise DataError(f"{self.facts.name}: its images could not be fetched:{why}\n{self.by_hand()}")

    def sources_of(self, target: str) -> list[Source]:
        """The sources whose archive has a part, in the order in which they are tried."""
        return [s for s in self.facts.sources if s.what == "images" and (not s.gives or target in s.gives)]

    def fetch(self, source: Source, accept: Any = None) -> download.Fetched:
        if self.options.offline:
            raise DownloadError(f"{source.filename} is not here and --offline was given.")
        return download.fetch(source, self.work, self.options.network, accept)

    def refuse_full_disk(self, needed: float) -> None:
        download.refuse_full_disk(self.folder, needed, self.options.network.free, self.facts.name)

    def judge(self, wanted: Sequence[Part], staged: Path) -> None:
        """Compare what is in ``staged`` with the lists, before it gets its name.

        Raises:
            DataError: if it is not the whole data set.
        """
        for part in self.facts.parts:
            if part not in wanted and (self.folder / part.target).exists():
                (staged / part.target).parent.mkdir(parents=True, exist_ok=True)
                (staged / part.target).symlink_to((self.folder / part.target).resolve())
        if self.split_path is not None and self.split_path.is_file():
            shutil.copyfile(self.split_path, staged / self.split_path.name)
        report = layout.examine(self.facts, staged)
        if not report.complete:
            shown = dataclasses.replace(report, folder=self.folder)
            raise DataError(
                "\n".join(
                    [
                        f"{self.facts.name}: what came is not the whole data set, so nothing was changed.",
                        *shown.lines(),
                        *(f"But {hint}" for hint in staging.hints(self.facts, staged)),
                        self.by_hand(),
                    ]
                )
            )

    # --- ImageNet ---------------------------------------------------------------------------------------------------

    def repair_imagenet(self) -> None:
        """Unpack class tars that lie in images/train, and sort loose val images if that was asked for.

        Raises:
            DataError: if there are loose val images and it was not asked for, or their classes are not known.
        """
        train, val = self.folder / "images" / "train", self.folder / "images" / "val"
        if ilsvrc.inner_tars(train):
            self.refuse_full_disk(sum(path.stat().st_size for path in ilsvrc.inner_tars(train)))
            done = ilsvrc.unpack_inner_tars(train, self.budget)
            log.info("%s: %d class tars unpacked; the .tar files may be deleted.", train, done)
        loose = listing.images(val)
        if not loose:
            return
        if not self.options.sort_val:
            raise DataError(
                f"ImageNet: {val} has {len(loose):,} files {'beside' if listing.folders(val) else 'and no'} class "
                f"folders. Run `{steps.command(self.facts, self.root, '--sort-val', '--archive', ilsvrc.DEVKIT)}`: it "
                f"moves them into one folder per class. Kaggle's {ilsvrc.SOLUTION} does as well as the devkit."
            )
        done = ilsvrc.sort_val(val, val, self.truth())
        log.info("%s: %d images sorted into class folders.", val, done)

    def truth(self) -> Mapping[int, str]:
        """Which class each val image belongs to, from a file the user has."""
        for name in (ilsvrc.DEVKIT, ilsvrc.SOLUTION):
            places = [self.options.origin / name] if self.options.origin else []
            path = self.given.get(name) or next((place for place in places if place.is_file()), None)
            if path is None:
                continue
            source = self.known.get(name)
            if source is not None:
                self.accept_given(path, source)
            return ilsvrc.truth(path)
        raise DataError(
            f"ImageNet: the val images are not sorted, and nothing here says which class each belongs to. Add "
            f"--archive {ilsvrc.DEVKIT} (from image-net.org) or --archive {ilsvrc.SOLUTION} (Kaggle's copy).\n"
            f"{self.by_hand()}"
        )

    def by_hand(self) -> str:
        return steps.manual(self.facts, self.root)
