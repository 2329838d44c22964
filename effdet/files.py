"""Atomic writing of files and folders, and where downloads and caches are stored.

What the files contain is known elsewhere; folders that one process owns are in `folders.py`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effdet.errors import ConfigError, EffdetError

HOME_VARIABLE = "EFFDET_HOME"
SCORE_DECIMALS = 5  # of scores in written results
PARTIAL = re.compile(r"\.effdet-(\d+)-[0-9a-f]{8}\.(partial|old)")  # of such files, with the process that writes it
_FLAGS = ("O_NONBLOCK", "O_NOCTTY", "O_BINARY")  # opening never waits for the other end of a pipe
_OTHER_KINDS = ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISCHR, "device"), (stat.S_ISBLK, "device"))
_BLOCK, _PROBE = bytes(4096), 65536  # bytes that are written to see whether a disk is full


def home_folder() -> Path:
    """The folder for downloaded weights and cached images: $EFFDET_HOME, or ~/.cache/effdet.

    Raises:
        ConfigError: the variable is not set, and the user has no home folder.
    """
    home = os.environ.get(HOME_VARIABLE)
    try:
        return Path(home).expanduser() if home else Path.home() / ".cache" / "effdet"
    except RuntimeError:
        raise ConfigError(
            f"there is no home folder to keep downloads and cached images in; set {HOME_VARIABLE} to a folder"
        ) from None


def full_path(path: str | Path) -> Path:
    """A path with ~ or ~NAME at its start replaced by the home folder.

    Raises:
        ConfigError: there is no such user, or the user has no home folder; or it holds a NUL, which no path can.
    """
    if "\0" in str(path):
        raise ConfigError(f"{str(path)[:100]!r}: a path cannot hold the character NUL; correct it")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no such home folder; write the whole path") from None


def open_regular(path: str | Path) -> int:
    """The descriptor of a regular file opened for reading; a pipe is not waited for, and a device not read.

    Raises:
        OSError: there is no such file; it is a folder (EISDIR), or something else (ENXIO), which `strerror` names.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in _FLAGS))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        mode = os.stat(path).st_mode  # of a socket, which cannot be opened
    else:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return descriptor
        os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = next((name for is_kind, name in _OTHER_KINDS if is_kind(mode)), "special file")
    raise OSError(errno.ENXIO, f"is a {kind}", str(path))


def read_text(path: str | Path, errors: str = "strict") -> str:
    """The text of a regular file in UTF-8.

    Raises:
        OSError: see `open_regular`.
        UnicodeDecodeError: it is no such text.
    """
    with os.fdopen(open_regular(path), encoding="utf-8", errors=errors) as file:
        return file.read()


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: see `open_regular`.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read()


def beside(path: Path, what: str) -> Path:
    """A new name in the folder of a path, with few characters however long the name of the path is."""
    return path.with_name(f".effdet-{os.getpid()}-{secrets.token_hex(4)}.{what}")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """An empty file beside `path` to write to; it replaces `path` in one step on success, and is removed on an error.

    Its name has no suffix of the format, and nobody can guess it, so that no link is followed.

    Raises:
        OSError: the file cannot be written, also where the library that writes to it raises another error.
    """
    if not path.name or path.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(path, "partial")
    try:
        with _disk_errors(partial, path):
            partial.open("xb").close()
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # of a folder that has become read-only
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors(partial: Path, path: Path) -> Iterator[None]:
    """A context whose errors of the operating system name `path`, also those that a library has hidden.

    Libraries raise errors without the system's number where a disk is full. Whether it is shows when a little more is
    written to the file.
    """
    try:
        yield
    except EffdetError:
        raise
    except OSError as error:
        if error.errno is None:
            _write_more(partial, path)
        elif error.filename in (str(partial), None):  # else of a file that is read meanwhile
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    except Exception:
        _write_more(partial, path)
        raise


def _write_more(partial: Path, path: Path) -> None:
    """Appends to a file that is removed afterwards.

    Raises:
        OSError: that is not possible; it names `path`.
    """
    try:
        with partial.open("ab", buffering=0) as file:
            for _ in range(_PROBE // len(_BLOCK)):
                if file.write(_BLOCK) != len(_BLOCK):
                    continue  # the next one says why
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextlib.contextmanager
def atomic_folder(path: Path, replace: bool = True) -> Iterator[Path]:
    """A new folder beside `path` to fill; it becomes `path` in one step on success, and is removed on an error.

    Args:
        path: where the folder is on success.
        replace: whether it replaces one that is not empty.

    Raises:
        FileExistsError: there is one that is not empty, and it must not be replaced.
    """
    partial, old = beside(path, "partial"), beside(path, "old")
    partial.mkdir(parents=True)
    try:
        with _disk_errors(partial / "more", path):
            yield partial
            for file in filter(Path.is_file, partial.iterdir()):
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
        if replace and path.exists():
            os.replace(path, old)
        elif path.exists():
            _remove_empty(path)
        os.rename(partial, path)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        raise FileExistsError(errno.EEXIST, "it is not empty; nothing is overwritten", str(folder)) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")  # file names may be in another encoding


def write_json(path: Path, content: Any) -> None:
    """Write plain containers as JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")
