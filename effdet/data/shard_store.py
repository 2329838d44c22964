"""Images inside tar files, the shards: the position of each, and its bytes from a folder or from an address.

Labels are in the tables, whose index is read in `formats/shard_index.py`; shards are written in `shard_writer.py`.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from effdet.data.media_files import open_regular
from effdet.errors import DataError
from effdet.files import read_bytes
from effdet.text import reason_of

OPEN_SHARDS = 64  # that a process keeps open; on network file systems opening is the expensive operation
CHECKED_BYTES = 4096  # at the end of an image: enough to distinguish images; all bytes would cost 5% of decoding
PAUSES = (1.0, 4.0, 15.0)  # seconds between attempts to read from an address

Result = TypeVar("Result")


@dataclass(frozen=True)
class ShardStore:
    """Where the images of a table are in its shards.

    Attributes:
        location: folder or address of the shards.
        names: file name of each shard.
        shards: [I] int64, number of the shard that holds the image.
        starts: [I] int64, first byte of the image in its shard.
        lengths: [I] int64, bytes of the image.
        checksums: [I] uint32, see `checksum`.
        members: [I] str, name of the image in its shard.
    """

    location: ShardFolder | ShardAddress
    names: tuple[str, ...]
    shards: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    members: NDArray[np.str_]

    def path(self, index: int) -> Path:
        """Shard and member of image `index`, for messages."""
        return Path(self.names[self.shards[index]], str(self.members[index]))

    def identity(self, index: int) -> Path:
        """Shard, position and checksum of image `index`, which distinguish it from an image that replaces it later."""
        return Path(
            self.names[self.shards[index]], f"{self.starts[index]} {self.lengths[index]} {self.checksums[index]}"
        )

    def read(self, index: int) -> bytes:
        """Bytes of image `index`.

        Raises:
            DataError: they cannot be read, or are not those that the index was written for.
        """
        name, start, length = self.names[self.shards[index]], int(self.starts[index]), int(self.lengths[index])
        data = self.location.read(name, start, length)
        if len(data) != length:
            raise DataError(
                f"{self.location}/{name}: ends before byte {start + length}, where {self.members[index]} ends by the "
                f"index; the shard is cut off, copy it again"
            )
        if checksum(data) != self.checksums[index]:
            raise DataError(
                f"{self.location}/{name}: {self.members[index]} is not the image that the index was written for; the "
                f"shard is damaged or of another data set, copy shards and index again from the same place"
            )
        return data

    def subset(self, indices: NDArray[np.int64]) -> ShardStore:
        """The store of the given images alone, in the given order."""
        columns = ("shards", "starts", "lengths", "checksums", "members")
        return replace(self, **{column: getattr(self, column)[indices] for column in columns})


def checksum(data: bytes) -> int:
    """CRC-32 of the end of an image, which shows whether a shard is the one of the index."""
    return zlib.crc32(data[-CHECKED_BYTES:])


class ShardFolder:
    """Shards in a folder. Works in forked and in spawned processes; each opens the files itself.

    Attributes:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, _Descriptor] = {}  # the most recently used is last

    def __str__(self) -> str:
        return str(self.folder)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_open": {}}

    def content(self, name: str) -> bytes:
        """Content of a whole file.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return read_bytes(self.folder / name)
        except OSError as error:
            raise self._unreadable(name, error) from None

    def read(self, name: str, start: int, length: int) -> bytes:
        """Bytes `start:start + length` of a file; fewer where it ends before.

        Raises:
            DataError: it cannot be read.
        """
        try:
            descriptor = self._open.pop(name, None) or _Descriptor(open_regular(self.folder / name, "shard"))
            self._open[name] = descriptor
            if len(self._open) > OPEN_SHARDS:
                del self._open[next(iter(self._open))]
            return _read_at(descriptor.number, start, length)
        except OSError as error:
            raise self._unreadable(name, error) from None

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of each file.

        Raises:
            DataError: one does not exist.
        """
        missing = [name for name in names if not os.path.isfile(self.folder / name)]
        if missing:
            some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise DataError(
                f"{self}: {len(missing)} of {len(names)} shards do not exist: {some}; copy them beside their index"
            )
        return [(self.folder / name).stat().st_size for name in names]

    def _unreadable(self, name: str, error: OSError) -> DataError:
        return DataError(f"{self}/{name}: cannot be read: {error.strerror or error}")


class ShardAddress:
    """Shards at an address, such as s3://bucket/coco or https://host/coco, read through fsspec.

    Attributes:
        url: the address of the folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # By process. A forked process never uses what it inherits: closing it there would disconnect its parent.
        self._systems: dict[int, tuple[Any, str]] = {}

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_systems": {}}

    def content(self, name: str) -> bytes:
        """Content of a whole file.

        Raises:
            DataError: it cannot be read.
        """
        return self._ask(name, lambda system, root: bytes(system.cat_file(f"{root}/{name}")))

    def read(self, name: str, start: int, length: int) -> bytes:
        """Bytes `start:start + length` of a file; fewer where it ends before.

        Raises:
            DataError: it cannot be read.
        """
        data = self._ask(
            name, lambda system, root: bytes(system.cat_file(f"{root}/{name}", start=start, end=start + length))
        )
        if len(data) > length:
            raise DataError(
                f"{self}/{name}: the server sends {len(data)} bytes instead of {length}; use one that supports HTTP "
                f"range requests"
            )
        return data

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of each file, None if the server does not say.

        Raises:
            DataError: one does not exist.
        """
        return self._ask("", lambda system, root: list(system.sizes([f"{root}/{name}" for name in names])))

    def _ask(self, name: str, question: Callable[[Any, str], Result]) -> Result:
        """The answer of the file system, given the path of the folder in it; asked again if the network fails."""
        where = f"{self}/{name}".rstrip("/")
        system, root = self._file_system()
        for pause in (*PAUSES, None):
            try:
                return question(system, root)
            except FileNotFoundError as error:
                raise DataError(f"{where}: no such file ({error}); check data.url and what lies there") from None
            except PermissionError as error:
                raise DataError(f"{where}: access is refused ({error}); check the credentials") from None
            except Exception as error:  # every kind of file system has its own errors
                if pause is None:
                    attempts = len(PAUSES) + 1
                    raise DataError(
                        f"{where}: cannot be read, in {attempts} attempts: {type(error).__name__}: {error}"
                    ) from None
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _file_system(self) -> tuple[Any, str]:
        """The file system of the address, which keeps its connections, and the path of the folder in it."""
        process = os.getpid()
        if process in self._systems:
            return self._systems[process]
        import fsspec.core  # type: ignore[import-untyped]

        try:
            system, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
        except ImportError as error:  # which names the package
            raise DataError(
                f"{self}: a package is missing to read from there: {error}; `pip install` it, or copy the shards "
                f"into a folder and set data.root to that"
            ) from None
        except OSError as error:
            raise DataError(f"{self}: cannot be connected to: {error}; check data.url and the network") from None
        except Exception as error:  # every kind of file system refuses an address in its own way, or fails on it
            reason = reason_of(error) if isinstance(error, (OSError, ValueError)) else "fsspec cannot use it"
            raise DataError(
                f"{self}: not an address that can be read: {reason}; expected s3://, https://, ..."
            ) from None
        self._systems[process] = system, str(root).rstrip("/")
        return self._systems[process]


def _read_at(descriptor: int, start: int, length: int) -> bytes:
    """Bytes `start:start + length` of an open file; fewer where it ends before."""
    if hasattr(os, "pread"):  # does not move the position, which forked processes share
        return os.pread(descriptor, length, start)
    os.lseek(descriptor, start, os.SEEK_SET)  # on Windows, where no process inherits the file
    return os.read(descriptor, length)


class _Descriptor:
    """An open file, closed when nothing refers to it any more."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.number)
