"""Atomic writing of files and folders, folders that one process owns, and where downloads and caches are stored.

What the files contain is known elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effdet.errors import ConfigError

HOME_VARIABLE = "EFFDET_HOME"
SCORE_DECIMALS = 5  # of scores in written results
_LOCK = ".effdet.lock"  # in a folder that a process writes to
_PARTIAL = re.compile(r"\.effdet-(\d+)-[0-9a-f]{8}\.(partial|old)")  # with the process that writes it
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS}


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
        ConfigError: there is no such user, or the user has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no such home folder; write the whole path") from None


@contextlib.contextmanager
def owned_folder(folder: Path, made: bool = False) -> Iterator[None]:
    """A context in which no other process owns a folder, which is made if missing; if it stays empty it is removed.

    The lock belongs to the process, so it ends when the process is killed. What killed processes left behind of files
    that they were writing is removed.

    Args:
        folder: the folder.
        made: whether the caller has just made it.

    Raises:
        ConfigError: another process owns the folder, or it cannot be made.
    """
    was_there, lock = folder.is_dir() and not made, folder / _LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(lock)
    except FileExistsError:
        raise ConfigError(f"{folder}: is a file, expected a folder; choose another folder") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        remove_leftovers(folder)
        yield
    finally:
        if descriptor is not None:
            if sys.platform != "win32":  # which removes no open file
                lock.unlink(missing_ok=True)
            os.close(descriptor)
        if not was_there:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Removes the incomplete files of processes that no longer run from a folder."""
    for path in folder.iterdir():
        written_by = _PARTIAL.fullmatch(path.name)
        if written_by and not _runs(int(written_by[1])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _lock(path: Path) -> int | None:
    """The open descriptor of a locked file; None where files cannot be locked.

    Raises:
        ConfigError: another process has locked it.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise
        try:
            _lock_descriptor(descriptor)
            own = os.fstat(descriptor)
            if os.stat(path).st_ino == own.st_ino:  # else the owner has removed it meanwhile
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {_host()}".encode())
                return descriptor
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in _NO_LOCKS:
                os.close(descriptor)
                return None
            owner = os.pread(descriptor, 200, 0).decode(errors="replace") if hasattr(os, "pread") else ""
            os.close(descriptor)
            raise ConfigError(
                f"{path.parent}: {owner or 'another process'} is writing to this folder; wait for it, or choose "
                "another folder"
            ) from None
        os.close(descriptor)


def _lock_descriptor(descriptor: int) -> None:
    """Locks a file for this process, but not for the processes that it forks."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _host() -> str:
    import platform

    return platform.node() or "this machine"


def _runs(process: int) -> bool:
    """Whether a process of this machine runs; on Windows, which cannot be asked like this, every one seems to."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _beside(path: Path, what: str) -> Path:
    """A new name in the folder of a path, with few characters however long the name of the path is."""
    return path.with_name(f".effdet-{os.getpid()}-{secrets.token_hex(4)}.{what}")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """An empty file beside `path` to write to; it replaces `path` in one step on success, and is removed on an error.

    Its name has no suffix of the format, and nobody can guess it, so that no link is followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path, "partial")
    try:
        partial.open("xb").close()
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to fill; it replaces `path` on success, and is removed on an error."""
    partial, old = _beside(path, "partial"), _beside(path, "old")
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in filter(Path.is_file, partial.iterdir()):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")  # file names may be in another encoding


def write_json(path: Path, content: Any) -> None:
    """Write plain containers as JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")
