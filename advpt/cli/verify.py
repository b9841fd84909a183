"""``python -m advpt verify``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import logging
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from advpt.cli import common, rebuilt
from advpt.errors import AdvPTError, ConfigError, RecordError
from advpt.evaluation import arithmetic
from advpt.evaluation import record as records
from advpt.evaluation.comparison import STATEMENT
from advpt.evaluation.findings import BOUNDARY, Finding, Verdict, conclusion, unchecked
from advpt.evaluation.record import Record
from advpt.evaluation.verify import Options, Verification

SHOWN = 8  # lines below a record, of those that differ


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.usage = "%(prog)s [options] RECORD|FOLDER ..."
    sub.add_argument("paths", type=Path, nargs="+", metavar="RECORD", help="files of records, or folders above them")
    sub.add_argument("--images", default="all", metavar="N", help="of each record, in whole batches (default: all)")
    sub.add_argument("--root", default="", help=common.ROOT_HELP)
    sub.add_argument("--weights", default="", help="CLIP's file, where it is not where the run names it")
    sub.add_argument("--image-weights", default="", metavar="F", help="the same for MODEL.IMAGE_WEIGHTS")
    sub.add_argument("--model-dir", default="", metavar="DIR", help="the same for the run that was evaluated")
    sub.add_argument("--model", default="", metavar="M", help="my.module:make, of a model from outside")
    sub.add_argument("--folder", default="", help="images of its records: FOLDER/CLASS/IMAGE")
    sub.add_argument("--device", default="", help="cpu or cuda (default: the record's)")
    sub.add_argument("--threads", type=int, default=0, help="of the CPU (default: the record's)")
    sub.add_argument("--boundary", type=float, default=BOUNDARY, help="margin in logits up to which others may flip")
    sub.add_argument("--keep", type=Path, metavar="FOLDER", help="write the records that are made anew there")


def run(args: argparse.Namespace) -> int:
    """Make the attacks of records anew, from their settings and their run's folder, and compare every outcome and
    number."""
    if not 0 <= args.boundary < math.inf:
        raise ConfigError(f"--boundary is {args.boundary}; give a margin in logits from 0")
    images, files = _images(args.images), _files(args.paths)
    if args.threads < 0:
        raise ConfigError(f"--threads is {args.threads}; give a whole number from 1, or 0 for as many as the record's")
    verdicts = list[Verdict]()
    for verdict in verify(files, args, images):
        verdicts.append(verdict)
        _show(verdict, args.verbose)
    print(f"\n{STATEMENT}\n{conclusion(verdicts)}")
    return int(any(verdict.status not in ("agrees", "near") for verdict in verdicts))


def verify(files: Sequence[Path], args: argparse.Namespace, images: int = 0) -> Iterator[Verdict]:
    """The verdict on each record, those of one evaluation together."""
    groups, siblings = defaultdict[tuple[Path, str], list[Record]](list), dict[Path, list[Record]]()
    for path in files:
        try:
            record = records.read(path)
        except RecordError as error:
            yield Verdict(path, "differs", findings=(Finding(text=str(error)),))
            continue
        groups[path.absolute().parent.parent, rebuilt.same_settings(record)].append(record)
    for (folder, _), group in groups.items():
        beside = siblings.setdefault(folder, _readable(folder))
        wrong = {record.place: arithmetic.check(record, beside) for record in group}
        for verdict in _anew(folder, group, args, images):
            yield _with(verdict, wrong[verdict.path])


def _anew(folder: Path, group: Sequence[Record], args: argparse.Namespace, images: int) -> list[Verdict]:
    """The verdicts of an evaluation of the records of one run and the same settings."""
    host = group[0].observed.host
    device = common.device(args.device or _device(host.device if host is not None else "")).type
    files = (args.root, args.weights, args.image_weights, args.model_dir)
    places = rebuilt.Places(*files, device, args.model, args.folder)
    keep = (lambda old, new: _keep(old, new, args.keep)) if args.keep else None
    threads = args.threads or (host.threads if host is not None else 0)
    with tempfile.TemporaryDirectory() as scratch, _quiet(args.verbose), _threads(threads), torch.no_grad():
        try:
            made = rebuilt.rebuild(folder, group, places, Path(scratch))
            options = Options(images, args.boundary, keep)
            verdicts = Verification(made.subject, group, options, made.named).run()
        except (AdvPTError, OSError) as error:
            return [unchecked(record.place, str(error)) for record in group]
    return [_with(verdict, made.conflicts) for verdict in verdicts]


def _with(verdict: Verdict, findings: Sequence[Finding]) -> Verdict:
    """The verdict with more that differs."""
    if not findings:
        return verdict
    return dataclasses.replace(verdict, status="differs", findings=(*findings, *verdict.findings))


def _device(recorded: str) -> str:
    """The device of a record, where it is here."""
    return "cuda" if recorded.startswith("cuda") and torch.cuda.is_available() else "cpu"


def _readable(folder: Path) -> list[Record]:
    """The sound records of a run's folder."""
    sound = []
    for path in sorted((folder / records.FOLDER).glob("*.json")):
        with contextlib.suppress(RecordError):
            sound.append(records.read(path))
    return sound


def _images(text: str) -> int:
    if text == "all":
        return 0
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"--images is {text!r}; give all, or a whole number of images from 1")
    return int(text)


def _files(paths: Sequence[Path]) -> list[Path]:
    """The files of records, in order.

    Raises:
        ConfigError: one is not there, or a folder has none.
    """
    files = list[Path]()
    for path in paths:
        if path.is_file():
            files.append(path)
            continue
        if not path.is_dir():
            raise ConfigError(f"{path} does not exist; give a record, or a folder with records below it")
        below = sorted(path.glob(f"**/{records.FOLDER}/*.json"))
        below += sorted(path.glob("*.json")) if path.name == records.FOLDER else []
        if not below:
            raise ConfigError(f"no records below {path}; a run's records are in its folder, in {records.FOLDER}/")
        files += below
    return list(dict.fromkeys(files))


def _keep(record: Record, anew: Record, folder: Path) -> None:
    records.write(anew, folder / record.place.absolute().parent.parent.relative_to("/"))


def _show(verdict: Verdict, everything: bool) -> None:
    print(verdict, flush=True)
    lines = [*map(str, verdict.findings), *map(str, verdict.flips)]
    lines += verdict.notes if verdict.status != "unchecked" else verdict.notes[1:]
    shown = lines if everything else lines[:SHOWN]
    print("".join(f"    {line}\n" for line in shown), end="")
    if len(lines) > len(shown):
        print(f"    and {len(lines) - len(shown)} more lines, with: python -m advpt --verbose verify ...")


@contextlib.contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Within the block what trainers and the library say is not shown."""
    if verbose:
        yield
        return
    level, root = logging.getLogger().level, logging.getLogger()
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """Within the block PyTorch has so many threads; as many as before for 0."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(max(n, 0), os.cpu_count() or n) or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
