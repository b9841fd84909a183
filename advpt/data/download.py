"""Fetching one file: resumable, with a progress bar, verified before it gets its name.

A download grows as ``<name>.partial``; the next try asks the server for the rest (HTTP Range). Only a file whose
checksums agree with those on record is renamed to ``<name>``.
"""

from __future__ import annotations

import http.client
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from advpt.data import verify
from advpt.data.facts import Checksums, Source
from advpt.data.verify import WrongFile
from advpt.errors import DataError
from advpt.version import __version__

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 18
FREE_BYTES = 64 << 20  # stay free on the disk


class DownloadError(DataError):
    """A file that could not be fetched; what has arrived is kept for the next try."""


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder that need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def drive_file(source: Source, target: Path) -> None:
    """A file of Google Drive by gdown, continued where an earlier try stopped.

    Raises:
        DownloadError: if gdown is missing or Drive refuses the file.
    """
    try:
        import gdown
    except ImportError:
        raise DownloadError("gdown is not installed; run `pip install gdown`") from None
    try:
        gdown.download(id=source.address, output=str(target), quiet=False, resume=True)
    except gdown.exceptions.FileURLRetrievalError as error:
        raise DownloadError(
            f"Google Drive refused {source.url} ({_one_line(error)}): most likely its download "
            "quota is exceeded. Try again in a day, or open the link in a browser that is signed in, save the file "
            f"and pass it with --archive {target.name}"
        ) from error
    except Exception as error:  # noqa: BLE001 - gdown lets requests' and plain OS errors through as well
        raise DownloadError(f"{source.url} could not be fetched: {_one_line(error)}") from error


@dataclass(frozen=True)
class Network:
    """Settings of downloads; tests put a local server and a disk of their choice in.

    pause: seconds before the second of ``attempts``; it doubles with each.
    free:  free bytes on the disk of a folder.
    """

    attempts: int = 4
    timeout: float = 60.0
    pause: float = 1.0
    drive: Callable[[Source, Path], None] = drive_file
    free: Callable[[Path], int] = free_bytes


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is here. ``checked``: the checksums that are on record and agree."""

    path: Path
    checksums: Checksums
    checked: tuple[str, ...]


def fetch(source: Source, folder: Path, network: Network, accept: Callable[[Path], bool] | None = None) -> Fetched:
    """Download a source into ``folder`` and verify it; a verified file that is there already is used.

    Args:
        accept: asked about a file whose marks differ, where something else than its bytes decides.

    Raises:
        DownloadError: if it cannot be fetched.
        WrongFile: if what came is not the file; it is deleted.
    """
    target = folder / source.filename
    folder.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        try:
            return Fetched(target, *verify.check(target, source))
        except WrongFile as error:
            log.info("%s; fetching it again", error)
            target.unlink()
    arriving = target.with_name(f"{target.name}.partial")
    for last in (False, True):
        resumed = arriving.is_file() and arriving.stat().st_size > 0
        try:
            if source.where == "drive":
                network.drive(source, target)
                if target.is_file():
                    target.replace(arriving)
            else:
                download(source, arriving, network)
            actual, checked = verify.check(arriving, source)
            break
        except WrongFile as error:
            if accept is not None and arriving.is_file() and accept(arriving):
                actual, checked = verify.checksums(arriving), ("content",)
                break
            _drop(arriving)
            if last or not resumed or source.where == "drive":
                raise WrongFile(f"{error}. It came from {source.url} and was deleted") from None
            log.info("%s. It was continued from an earlier try; fetching it from the beginning", error)
    arriving.replace(target)
    _validator(arriving).unlink(missing_ok=True)
    return Fetched(target, actual, checked)


def _drop(arriving: Path) -> None:
    arriving.unlink(missing_ok=True)
    _validator(arriving).unlink(missing_ok=True)


def download(source: Source, arriving: Path, network: Network) -> None:
    """Bring ``arriving`` to the whole length of what the server has, in several attempts if need be.

    Raises:
        DownloadError: if that fails; what has arrived stays.
        WrongFile: if the server sends a web page or a file of another size.
    """
    url = source.address
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url} is no http or https address")
    reason = ""
    for attempt in range(network.attempts):
        if attempt:
            time.sleep(network.pause * 2 ** (attempt - 1))
            log.info("%s: %s; continuing (try %d of %d)", source.filename, reason, attempt + 1, network.attempts)
        try:
            reason = _one_try(source, arriving, network)
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code == 416:
                _drop(arriving)
            elif error.code < 500 and error.code not in (408, 429):
                break
        except urllib.error.URLError as error:
            reason = f"no connection ({error.reason})"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.filename:  # the disk, not the network
                raise DownloadError(f"{arriving} cannot be written ({error})") from error
            reason = f"the connection broke ({_one_line(error)})"
        if not reason:
            return
    size = arriving.stat().st_size if arriving.is_file() else 0
    kept = f". {size:,} bytes are kept in {arriving}; the same command continues there" if size else ""
    raise DownloadError(f"{url} could not be fetched: {reason}{kept}")


def _one_try(source: Source, arriving: Path, network: Network) -> str:
    """One request for what is missing; returns "" when the file is whole, else what happened."""
    have = arriving.stat().st_size if arriving.is_file() else 0
    headers = {"User-Agent": f"advpt/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        version = _validator(arriving)
        if version.is_file() and (text := version.read_text().strip()):
            headers["If-Range"] = text
    try:
        answer = urllib.request.urlopen(  # noqa: S310 - the caller let http and https pass only
            urllib.request.Request(source.address, headers=headers), timeout=network.timeout
        )
    except urllib.error.HTTPError as error:
        total = _number(r"bytes \*/(\d+)$", error.headers.get("Content-Range", ""))
        if error.code == 416 and have and total == have:
            return ""
        raise
    with answer:
        start = _number(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if answer.status != 206 or start != have:
            if have and answer.status != 206:
                log.info("%s: the server cannot continue this file; starting from the beginning", source.filename)
            elif have:
                _drop(arriving)
                return "the server continued at another place"
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else 0
        if source.size and total and total != source.size:
            head = answer.read(4096)
            if verify.is_page(head):
                raise WrongFile(verify.page_message(source.address, head, source))
            raise WrongFile(f"{source.address} has {total:,} bytes, expected {source.size:,}: it is another file")
        refuse_full_disk(arriving.parent, (total or source.size) - have, network.free, source.filename)
        got = _receive(answer, arriving, source, have, total)
    return f"the connection ended at {got:,} of {total:,} bytes" if total and got < total else ""


def _receive(answer: Any, arriving: Path, source: Source, have: int, total: int) -> int:
    """Append (or, from 0, write) the body; returns the length of the file."""
    if not have:
        tag = answer.headers.get("ETag") or ""
        strong = tag if not tag.startswith("W/") else ""
        _validator(arriving).write_text(strong or answer.headers.get("Last-Modified") or "")
    with (
        arriving.open("ab" if have else "wb") as file,
        tqdm(
            total=total or None, initial=have, unit="B", unit_scale=True, desc=source.filename, disable=None
        ) as progress,
    ):
        while chunk := answer.read(CHUNK_BYTES):
            if not have and verify.is_page(chunk[:64]):
                raise WrongFile(verify.page_message(source.address, chunk[:4096], source))
            file.write(chunk)
            have += len(chunk)
            progress.update(len(chunk))
    return have


def refuse_full_disk(folder: Path, needed: float, free: Callable[[Path], int], what: str) -> None:
    """Raises DownloadError if the disk of ``folder`` has less than ``needed`` bytes (and a margin) free."""
    there = free(folder)
    if needed + FREE_BYTES > there:
        raise DownloadError(
            f"{what} needs about {gigabytes(needed)} on the disk of {folder}, which has {gigabytes(there)} free. "
            "Free some space, or give a --root on another disk"
        )


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _validator(arriving: Path) -> Path:
    """Where the version of the file on the server is kept, so that two versions are never glued together."""
    return arriving.with_name(f"{arriving.name}.version")


def _number(pattern: str, content_range: str) -> int:
    """The number in a header Content-Range; -1 where it has another form."""
    match = re.match(pattern, content_range)
    return int(match[1]) if match else -1


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
