"""Folders and files that one process owns: a lock while it writes, a new name, and what killed processes left behind.

Files that appear whole or not at all are in `files.py`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from effdet.errors import ConfigError
from effdet.files import PARTIAL

_STARTED = time.time()  # of this process
_LOCK = ".effdet.lock"  # in a folder that a process writes to
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS}


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
    was_there = folder.is_dir() and not made
    try:
        with _locked(folder / _LOCK, folder, "folder"):
            remove_leftovers(folder)
            yield
    finally:
        if not was_there:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


@contextlib.contextmanager
def owned_file(path: Path) -> Iterator[None]:
    """A context in which no other process owns a file, such as one with weights in another file beside it.

    Raises:
        ConfigError: another process owns the file, or its folder cannot be made or written.
    """
    short = f"{zlib.crc32(os.fsencode(path.name)):08x}"  # however long the name is
    with _locked(path.with_name(f".effdet-{short}.lock"), path, "file"):
        yield


@contextlib.contextmanager
def new_folder(first: Path) -> Iterator[Path]:
    """A folder that this process has made: the first of FIRST, FIRST-2, FIRST-3 ... whose name is free.

    At the end it is removed if it is empty.

    Raises:
        ConfigError: it cannot be made.
    """
    for number in itertools.count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()  # in one step: of two processes one gets the name
        except FileExistsError:
            if not folder.parent.is_dir():
                raise ConfigError(f"{folder.parent}: is a file, expected a folder; choose another folder") from None
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be made ({error.strerror}); choose another folder with --out"
            ) from None
        else:
            break
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Removes the incomplete files of processes that no longer run from a folder."""
    for path in folder.iterdir():
        written_by = PARTIAL.fullmatch(path.name)
        if written_by and not _is_being_written(path, int(written_by[1])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_being_written(path: Path, process: int) -> bool:
    """Whether the process that made a partial file may still write to it.

    After the restart of a container a process often has the number of the one that was killed.
    """
    if process != os.getpid():
        return _runs(process)
    try:
        return path.lstat().st_mtime >= _STARTED
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(lock: Path, owned: Path, kind: str) -> Iterator[None]:
    """A context in which a lock file is locked; its folder is made.

    Args:
        lock: the lock file.
        owned: what it stands for.
        kind: what that is.

    Raises:
        ConfigError: another process has locked it, or it cannot be made.
    """
    folder = lock.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(lock, owned, kind)
    except FileExistsError:
        raise ConfigError(f"{folder}: is a file, expected a folder; choose another folder") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        yield
    finally:
        if descriptor is not None:
            if sys.platform != "win32":  # which removes no open file
                with contextlib.suppress(OSError):  # the folder may have become read-only
                    lock.unlink(missing_ok=True)
            os.close(descriptor)


def _lock(path: Path, owned: Path, kind: str) -> int | None:
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
                f"{owned}: {owner or 'another process'} is writing to this {kind}; wait for it, or choose another "
                f"{kind}"
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
