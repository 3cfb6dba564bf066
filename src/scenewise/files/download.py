"""Fetching published files: asked for by name, verified by checksum, cached."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from scenewise.errors import DownloadError, StorageError, UsageError
from scenewise.files.atomic import atomic_path
from scenewise.version import VERSION

PYTORCH_FILES = "https://download.pytorch.org/models/"
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20  # bytes


def cache_folder() -> Path:
    """Where downloads are kept: ``$SCENEWISE_CACHE``, else ``~/.cache/scenewise``."""
    return Path(os.environ.get("SCENEWISE_CACHE") or Path.home() / ".cache" / "scenewise")


def download(filename: str, sha256: str, *, instead: str, base: str = PYTORCH_FILES) -> Path:
    """The cached copy of ``base`` + ``filename``, fetched if it is not there yet.

    ``$SCENEWISE_WEIGHTS_URL`` replaces ``base``: a mirror, or a folder as ``file:///...``.

    Args:
        filename: its name below ``base`` and in the cache.
        sha256: the file's SHA-256 in hexadecimal, or the first digits of it.
        instead: what the user can do if it can't be had; ends the message of every error.
        base: the folder that the file lies in; ends in a slash.

    Raises:
        DownloadError: the file can't be fetched, is cut short or has another checksum, or the cache can't be written.
            Nothing is left in the cache then.
    """
    path = cache_folder() / filename
    if path.is_file():
        return path
    url = (os.environ.get("SCENEWISE_WEIGHTS_URL") or base).rstrip("/") + "/" + filename
    try:
        with atomic_path(path) as temporary:
            try:
                found = _fetch(url, temporary)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _Failed(_reason(error)) from None
            if not found.startswith(sha256):
                raise _Failed(f"its SHA-256 begins with {found[: len(sha256)]}; expected {sha256}")
    except (UsageError, StorageError) as error:  # from atomic_path
        raise DownloadError(f"{error}; set SCENEWISE_CACHE to a folder that can be written, or {instead}") from None
    except _Failed as error:
        raise DownloadError(f"{url}: {error}; {instead}") from None
    return path


class _Failed(Exception):
    """What arrived is not the file."""


def _fetch(url: str, path: Path) -> str:
    """Write what ``url`` gives to ``path``; its SHA-256."""
    request = urllib.request.Request(url, headers={"User-Agent": f"scenewise/{VERSION}"})
    digest = hashlib.sha256()
    received = 0
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response, path.open("wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        with _progress(url.rsplit("/", 1)[-1], total) as advance:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                advance(len(chunk))
    if total is not None and received < total:  # read() does not tell a closed connection from the end
        raise _Failed(f"the connection ended after {received:,} of {total:,} bytes")
    return digest.hexdigest()


@contextlib.contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda amount: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("[progress.description]{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total)
        yield lambda amount: progress.advance(task, amount)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"could not be fetched (HTTP {error.code} {error.reason})"
    if isinstance(error, urllib.error.URLError):
        return f"could not be fetched ({error.reason})"
    if isinstance(error, _Failed):  # the connection ended
        return str(error)
    return f"could not be fetched ({type(error).__name__}: {error})"
