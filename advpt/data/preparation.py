"""The steps that bring a data set into CoOp's layout: split file, images, comparison with the lists, rename."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from advpt import files
from advpt.data import archives, imagenet, layout, listing, manifest, split, staging, verify, zero_shot
from advpt.data.archives import Budget
from advpt.data.facts import DatasetFacts, Part, Source
from advpt.data.layout import Report
from advpt.data.source_files import Options, SourceFiles
from advpt.errors import DataError

log = logging.getLogger(__name__)

SLACK_BYTES = 10**9  # that an archive may have beyond three times the data set's size


class Preparation:
    """One run of :func:`advpt.data.prepare.prepare`, with the lock held. A subclass may replace :meth:`repair`,
    :meth:`place`, :meth:`unpack_archive` and :meth:`find_part` for a data set that comes in other forms."""

    def __init__(self, facts: DatasetFacts, root: Path, options: Options) -> None:
        self.facts, self.root, self.options = facts, root, options
        self.sources = SourceFiles(facts, root, options)
        self.folder, self.work = self.sources.folder, self.sources.work

    def run(self) -> Report:
        """Complete the data set and write its manifest; nothing is done where it is complete."""
        if layout.examine(self.facts, self.folder).complete:
            log.info("%s is complete in %s; nothing to do", self.facts.name, self.folder)
            return self.finish("found", anew=False)
        return self.finish(self.complete(), anew=True)

    def complete(self) -> str:
        """Bring what is missing; returns the manner in which the images came, for the manifest."""
        self.repair()
        no_split = self.ensure_split()
        if no_split and not (self.options.archives or self.options.origin):
            raise DataError(no_split)
        report = layout.examine(self.facts, self.folder)
        if report.complete:
            return "found"
        wanted = [part for part in self.facts.parts if part.target in report.broken]
        if not wanted and not no_split:
            raise self.incomplete(report)
        staged = self.work / "staged"
        try:
            archives.remove(staged)
            staged.mkdir(parents=True)
            manner = self.stage(wanted, staged)
            if no_split and (again := self.ensure_split(self.work / "unpacked")):
                raise DataError(again)
            self.compare(wanted, staged)
            staging.install(self.facts, wanted, staged, self.folder, self.work)
        finally:
            archives.remove(staged)
            archives.remove(self.work / "unpacked")
        return manner

    def finish(self, manner: str, anew: bool) -> Report:
        """Write class names and the manifest (where there is one, only if ``anew``), and tidy up.

        Raises:
            DataError: if the data set is not complete after all.
        """
        report = layout.examine(self.facts, self.folder)
        if not report.complete:
            raise self.incomplete(report)
        names = self.folder / imagenet.CLASSNAMES
        if imagenet.CLASSNAMES in self.facts.other and not names.exists():
            files.write_text(names, imagenet.SHIPPED.read_text(encoding="utf-8"))
        if anew or not (self.folder / manifest.NAME).is_file():
            manifest.write(report, self.sources.entries, manner)
        if not self.options.keep:
            archives.remove(self.work)
        return report

    def incomplete(self, report: Report, *hints: str) -> DataError:
        """The error for a data set that lacks something: the differences, hints, and the steps by hand."""
        return DataError("\n".join([*report.lines(), *hints, self.sources.by_hand()]))

    def repair(self) -> None:
        """Mend forms of the data set's folder that users often have."""

    # --- the split file ---------------------------------------------------------------------------------------------

    def ensure_split(self, unpacked: Path | None = None) -> str:
        """Put the official split file in place unless it is there; returns why that is not possible, or ""."""
        facts = self.facts.split
        if facts is None or self.split_is_right(self.folder / facts.filename):
            return ""
        reasons = []
        if given := self.given_split(facts.filename, unpacked):
            if self.split_is_right(given):
                self.install_split(given)
                self.sources.note("split", facts.filename, "the user", verify.checksums(given), ())
                return ""
            reasons.append(f"{given} is not the official split; give another one or none")
        splits = [source for source in self.facts.sources if source.what == "split"]
        problem = f"{facts.filename} could not be had"
        try:
            _, path = self.sources.fetch_any(splits, problem, self.split_is_right, reasons)
        except DataError as error:
            return str(error)
        self.install_split(path)
        return ""

    def given_split(self, filename: str, unpacked: Path | None) -> Path | None:
        """The split file that the user gave, or one in the folder of ``--from`` or in an unpacked archive."""
        for place in (self.options.origin, unpacked):
            for path in (place / filename, place / self.facts.folder / filename) if place else ():
                if path.is_file():
                    self.sources.given.setdefault(filename, path)
        return self.sources.given.get(filename)

    def split_is_right(self, path: Path) -> bool:
        """Whether a file is the official split; where no hash is on record, whether its counts are right."""
        if not path.is_file():
            return False
        try:
            content, data = split.read(path)
        except DataError as error:
            log.info("%s", error)
            return False
        if layout.checkable(self.facts):
            return not split.unofficial_warning(self.facts, content, data, path)
        return content.counts() == self.facts.counts

    def install_split(self, source: Path) -> None:
        """Put a split file in place; another one that is there is kept under another name."""
        path = self.folder / (self.facts.split.filename if self.facts.split else source.name)
        if path.exists():
            aside, number = path.with_name(f"{path.stem}.not-official{path.suffix}"), 1
            while aside.exists():
                number += 1
                aside = path.with_name(f"{path.stem}.not-official-{number}{path.suffix}")
            log.info("%s is not the official split; it is kept as %s", path, aside.name)
            path.rename(aside)
        with files.atomic_path(path) as partial:
            shutil.copyfile(source, partial)

    # --- the images -------------------------------------------------------------------------------------------------

    def stage(self, wanted: Sequence[Part], staged: Path) -> str:
        """Bring the wanted parts together in ``staged``; returns the manner, as :meth:`complete`."""
        manner, left = "found", []
        if self.options.origin is not None:
            self.keep_list(self.options.origin)
        for part in wanted:
            path = self.in_origin(part)
            if path is None:
                left.append(part)
                continue
            manner = "linked" if self.options.link else "copied"
            if manner == "copied":
                self.sources.refuse_full_disk(self.facts.gigabytes[1] * 1e9)
            self.place(part, path, staged, "link" if self.options.link else "copy")
        if left:
            manner = "unpacked"
            self.unpack(left, staged)
        return manner

    def in_origin(self, part: Part) -> Path | None:
        """Where the folder that the user named has a part."""
        if self.options.origin is None:
            return None
        path = staging.find_part(self.options.origin, part, self.facts)
        if path is None or path.resolve() == (self.folder / part.target).resolve():
            return None
        return path

    def place(self, part: Part, path: Path, staged: Path, action: str) -> None:
        """Put one part, which lies at ``path``, into ``staged``, as :func:`advpt.data.staging.put`."""
        staging.put(path, staged / part.target, action)

    def unpack(self, parts: Sequence[Part], staged: Path) -> None:
        """Fetch the archives of ``parts`` (or take the user's), unpack them and move the parts into ``staged``."""
        unpacked = self.work / "unpacked"
        archives.remove(unpacked)
        unpacked.mkdir(parents=True)
        chosen = self.sources.archives_for([part.target for part in parts])
        self.sources.refuse_full_disk(self.facts.gigabytes[1] * 1e9)
        for source, path in chosen:
            self.unpack_archive(source, path, unpacked)
        self.keep_list(unpacked)
        for part in parts:
            location = self.find_part(part, unpacked)
            if location is None:
                raise DataError(self.not_in_archive(part, unpacked, [path for _, path in chosen]))
            self.place(part, location, staged, "move")

    def keep_list(self, place: Path) -> None:
        """Keep the data set's own list of test images, which CoOp's split does without and another protocol reads
        (``DATASET.PROTOCOL tecoa``), where it lies in an unpacked archive or in the folder of ``--from``."""
        rule = zero_shot.table().get(self.facts.name)
        if rule is None or not rule.file or (self.folder / rule.file).exists():
            return
        tops = (place, *sorted(path for path in place.iterdir() if path.is_dir()))
        if source := next((top / rule.file for top in tops if (top / rule.file).is_file()), None):
            with files.atomic_path(self.folder / rule.file) as partial:
                shutil.copyfile(source, partial)

    def find_part(self, part: Part, unpacked: Path) -> Path | None:
        """Where a part lies after its archives were unpacked."""
        return staging.find_part(unpacked, part, self.facts)

    def unpack_archive(self, source: Source, path: Path, unpacked: Path) -> None:
        """Unpack an archive and the archives inside it that hold images."""
        archives.extract(path, unpacked, self.budget, source.skip)
        for inner in source.inner:
            if (unpacked / inner).is_file():
                archives.extract(unpacked / inner, unpacked, self.budget)

    @property
    def budget(self) -> Budget:
        """What one archive may unpack to."""
        return Budget(int(3e9 * self.facts.gigabytes[1]) + SLACK_BYTES)

    def not_in_archive(self, part: Part, unpacked: Path, paths: Sequence[Path]) -> str:
        top = sorted(path.name for path in unpacked.iterdir())
        return (
            f"{self.facts.name}: {' and '.join(str(path) for path in paths)} holds no {part.target}; found at its top: "
            f"{listing.some(top)}. Expected {' or '.join((part.target, *part.inside))}."
            f"{''.join(f' But {hint}' for hint in staging.hints(self.facts, unpacked))} Nothing was changed.\n"
            f"{self.sources.by_hand()}"
        )

    def compare(self, wanted: Sequence[Part], staged: Path) -> None:
        """Compare what is in ``staged`` with the lists, before it gets its name.

        Raises:
            DataError: if it is not the whole data set.
        """
        for part in self.facts.parts:
            if part not in wanted and (self.folder / part.target).exists():
                (staged / part.target).parent.mkdir(parents=True, exist_ok=True)
                (staged / part.target).symlink_to((self.folder / part.target).resolve())
        if self.facts.split is not None and (self.folder / self.facts.split.filename).is_file():
            shutil.copyfile(self.folder / self.facts.split.filename, staged / self.facts.split.filename)
        report = layout.examine(self.facts, staged)
        if not report.complete:
            hints = [f"But {hint}" for hint in staging.hints(self.facts, staged)]
            error = self.incomplete(dataclasses.replace(report, folder=self.folder), *hints)
            raise DataError(f"{self.facts.name}: what came is not the whole data set, so nothing was changed.\n{error}")
