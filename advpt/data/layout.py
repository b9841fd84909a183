"""What lies in a data set's folder: the images its lists name, and a report on what is missing, extra or damaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advpt.data import classnames, imagenet, listing, split
from advpt.data.facts import DatasetFacts, Part
from advpt.data.split import triple
from advpt.errors import DataError

Counts = tuple[int, int, int]
Folders = dict[str, tuple[int, int]]  # folder relative to the data set's -> number of images in it, their bytes


@dataclass(frozen=True, slots=True)
class Report:
    """The state of a data set on disk. Paths are relative to its folder.

    counts:   images in train, val and test that are there (of those the lists name, where there are lists).
    missing:  listed images, class folders (with a slash at the end) and other files that are not there.
    extra:    images and class folders that no list names.
    empty:    images of zero bytes.
    problems: other differences, as sentences.
    notes:    what is worth knowing but no difference.
    broken:   parts of the layout (``Part.target``) that lack something.
    folders:  number and bytes of the images in every folder.
    known_extra: extra images that came with a verified archive.
    """

    facts: DatasetFacts
    folder: Path
    counts: Counts
    classes: int
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    broken: frozenset[str] = frozenset()
    folders: Folders = field(default_factory=dict)
    known_extra: int = 0

    @property
    def complete(self) -> bool:
        """Nothing is missing or damaged; there may be more than expected."""
        return not (self.missing or self.empty or self.problems)

    @property
    def ok(self) -> bool:
        """Complete, and no more images beside the listed ones than the catalogue says."""
        return self.complete and not self.odd_extra

    @property
    def odd_extra(self) -> bool:
        return self.facts.spare >= 0 and len(self.extra) > max(self.facts.spare, self.known_extra)

    def lines(self) -> list[str]:
        """The differences, one sentence each; [] if there is none."""
        where = f"{self.facts.name} in {self.folder}"
        lines = [f"{where}: {problem}" for problem in self.problems]
        for what, paths in (("missing", self.missing), ("empty (0 bytes)", self.empty)):
            if paths:
                lines.append(f"{where}: {len(paths):,} {what}: {listing.some(paths)}")
        if self.odd_extra:
            spare = f" ({self.facts.spare:,} are known to be spare)" if self.facts.spare else ""
            lines.append(f"{where}: {len(self.extra):,} extra, in no list{spare}: {listing.some(self.extra)}")
        return lines


def examine(facts: DatasetFacts, folder: Path) -> Report:
    """Compare a data set's folder with its lists and the catalogue; nothing is changed."""
    return _examine_listed(facts, folder) if has_lists(facts) else _examine_folders(facts, folder)


def listed(facts: DatasetFacts, folder: Path) -> split.Split:
    """The split of a data set that has lists.

    Raises:
        DataError: if a list is missing or damaged.
    """
    if facts.split is not None:
        return split.read(folder / facts.split.filename)[0]
    return split.read_lists(folder)


def has_lists(facts: DatasetFacts) -> bool:
    """Whether lists say which images the data set has: a split file, or the lists that it comes with."""
    return facts.split is not None or any(part.target == "variants.txt" for part in facts.parts)


def listed_paths(facts: DatasetFacts, lists: split.Split) -> dict[str, list[str]]:
    """The images of each part by their paths in the data set's folder."""
    prefix = f"{facts.image_dir}/" if facts.image_dir else ""
    return {part: [f"{prefix}{row[0]}" for row in rows] for part, rows in lists.parts().items()}


def _examine_listed(facts: DatasetFacts, folder: Path) -> Report:
    absent = [part.target for part in facts.parts if not (folder / part.target).exists()]
    try:
        lists = listed(facts, folder)
    except DataError as error:
        missing = [f"{target}{'' if '.' in target else '/'}" for target in absent]
        return Report(facts, folder, (0, 0, 0), 0, tuple(missing), problems=(str(error),), broken=frozenset(absent))
    problems, notes = _check_lists(facts, folder, lists)
    paths = listed_paths(facts, lists)
    lacking = {part: listing.missing(folder, paths[part]) for part in paths}
    train, val, test = (len(paths[part]) - len(lacking[part]) for part in paths)
    missing = sorted(path for part in lacking.values() for path in part)
    names = {path for part in paths.values() for path in part}
    sizes = dict(walk_parts(facts, folder))
    empty = sorted(path for path in names if sizes.get(path) == 0)
    return Report(
        facts,
        folder,
        (train, val, test),
        len({row[1] for rows in lists.parts().values() for row in rows}),
        tuple(missing),
        tuple(sorted(sizes.keys() - names)),
        tuple(empty),
        tuple(problems),
        tuple(notes),
        frozenset(absent) | _owners(facts, [*missing, *empty]),
        _folders(sizes),
    )


def _owners(facts: DatasetFacts, paths: Sequence[str]) -> frozenset[str]:
    """The parts that paths belong to."""
    return frozenset(part.target for part in facts.parts if any(path.startswith(f"{part.target}/") for path in paths))


def _check_lists(facts: DatasetFacts, folder: Path, lists: split.Split) -> tuple[list[str], list[str]]:
    """Problems and notes about the lists themselves."""
    notes = []
    if facts.split is not None:
        path = folder / facts.split.filename
        warning = split.unofficial_warning(facts, lists, path.read_bytes(), path)
        if warning and checkable(facts):
            return [warning], []
        notes += [warning] if warning else []
    if lists.counts() == facts.counts:
        return [], notes
    expected = triple(facts.counts)
    return [f"the lists name {triple(lists.counts())} images in train / val / test, expected {expected}"], notes


def checkable(facts: DatasetFacts) -> bool:
    """Whether a mark of the official split is on record."""
    return facts.split is not None and bool(facts.split.git_blob or facts.split.content)


def walk_parts(facts: DatasetFacts, folder: Path) -> Iterator[tuple[str, int]]:
    """Relative path and size of every image in the parts of the layout; hidden files and folders are left out."""
    for part in facts.parts:
        yield from walk(folder, part.target)


def walk(top: Path, folder: str) -> Iterator[tuple[str, int]]:
    """Path relative to ``top`` and size of the images below ``top / folder``; a link to nothing has the size 0."""
    for path, entry in listing.files(top / folder, f"{folder}/"):
        if listing.is_image(entry):
            try:
                yield path, entry.stat().st_size
            except OSError:
                yield path, 0


def _folders(sizes: Mapping[str, int]) -> Folders:
    folders: Folders = {}
    for path, size in sizes.items():
        parent = path.rpartition("/")[0]
        count, total = folders.get(parent, (0, 0))
        folders[parent] = count + 1, total + size
    return dict(sorted(folders.items()))


# --- data sets in class folders -----------------------------------------------------------------------------------


def _examine_folders(facts: DatasetFacts, folder: Path) -> Report:
    sizes: dict[str, int] = {}
    missing: list[str] = []
    extra: list[str] = []
    problems: list[str] = []
    broken: set[str] = set()
    counts: list[int] = []
    classes = 0
    expected = class_folder_names(facts)
    for part in facts.parts:
        where = folder / part.target
        there = listing.folders(where)
        known = expected or (classnames.shipped(facts) if facts.classnames else ())
        present = [name for name in there if (name in known if known else imagenet.is_wnid(name))]
        extra += [f"{part.target}/{name}/" for name in there if name not in present]
        images = {path: size for name in present for path, size in walk(folder, f"{part.target}/{name}")}
        sizes |= images
        counts.append(len(images))
        classes = max(classes, len(present))
        wrong = _state(facts, part, where, present, expected, images)
        gone = [f"{part.target}/{name}/" for name in expected if name not in present] if present else []
        if not where.is_dir():
            gone = [f"{part.target}/"]
        problems += wrong
        missing += gone
        if wrong or gone:
            broken.add(part.target)
    empty = sorted(path for path, size in sizes.items() if size == 0)
    train, test = counts if len(counts) == 2 else (0, *counts)
    return Report(
        facts,
        folder,
        (train, 0, test),
        classes,
        tuple(missing),
        tuple(extra),
        tuple(empty),
        tuple(problems),
        broken=frozenset(broken) | _owners(facts, empty),
        folders=_folders(sizes),
    )


def images_of(facts: DatasetFacts, part: Part) -> int:
    """How many images a part of a data set in class folders has: train's or test's."""
    return facts.counts[0 if part.target.rpartition("/")[2] == "train" else 2]


def class_folder_names(facts: DatasetFacts) -> list[str]:
    """The class folders, where they are on record: for A and R only a digest is."""
    if not facts.class_folders:
        return [str(number) for number in range(facts.classes)]
    names = list(classnames.shipped(facts))
    return names if imagenet.folders_digest(names) == facts.class_folders else []


def _state(
    facts: DatasetFacts,
    part: Part,
    where: Path,
    present: Sequence[str],
    class_names: Sequence[str],
    images: Mapping[str, int],
) -> list[str]:
    """What is wrong with one part, as sentences; a part that is not there at all is listed as missing instead."""
    target = part.target
    if not where.is_dir():
        return []
    if not present:
        return [f"{target} {imagenet.without_classes(where)}"]
    problems = []
    if not class_names and imagenet.folders_digest(present) != facts.class_folders:
        problems.append(f"{target} has {len(present):,} class folders that are not the official {facts.classes:,}")
    expected = images_of(facts, part)
    if len(images) != expected:
        problems.append(f"{target} has {len(images):,} images, expected {expected:,}")
    per_class = {name: count for name, (count, _) in _folders(images).items()}
    bare = [name for name in present if f"{target}/{name}" not in per_class]
    if bare:
        problems.append(f"{target}: {len(bare):,} class folders without an image: {listing.some(bare, 5)}")
    if part.even:
        due = expected // facts.classes
        odd = [f"{name.rpartition('/')[2]} ({count})" for name, count in per_class.items() if count != due]
        if odd:
            problems.append(f"{target}: {len(odd):,} classes have not {due} images: {listing.some(odd, 5)}")
    return problems


def advice(facts: DatasetFacts, root: Path) -> str:
    """Advice on other layouts that lie under ``root``; "" or sentences that begin with a space."""
    hints = ((path, hint.advice) for hint in facts.lookalikes for path in hint.paths)
    return "".join(f" Found {path}: {text}" for path, text in hints if any(root.glob(path)))
