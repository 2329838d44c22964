"""Decoded images kept for the next epochs, in memory or on a disk, within a bound.

An entry is the output of `decode_image` at one reduction, so that a sample is the same with and without a cache; an
image used at many sizes may have four entries, a third more bytes than the full one alone. A full cache keeps its
entries and adds none: in a random order of all images, evicting the oldest would evict those that are needed next. The
key of an entry is the path, size and modification time of the image's file; of one in a shard those of the shard, as
far as they are known, and position and checksum in it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import multiprocessing
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from effdet.config import DataConfig
from effdet.data.images import REDUCTIONS, Image
from effdet.errors import DataError
from effdet.files import HOME_VARIABLE, atomic_write, full_path, home_folder

VERSION = 2  # of the entries; raised when decoding changes
LONGEST_WAIT = 300.0  # seconds for other processes to release the lock of the folder
LONGEST_WRITING = 3600.0  # seconds after which a partial file is abandoned
ENTRY = np.dtype([("size", "i8"), ("modified", "i8"), ("start", "i8"), ("height", "i4"), ("width", "i4")])


class MemoryCache:
    """Images in memory shared by the loader processes: each is decoded once, whichever process needs it.

    Forked processes, as on Linux, share one cache; spawned processes, as on Windows and macOS, each have a cache of
    their own with a fraction of the capacity.

    Attributes:
        num_images: rows of the table.
        capacity: bytes, the index of the images included.
        workers: processes among which the capacity is divided if they cannot share it.
    """

    def __init__(self, num_images: int, capacity: int, workers: int) -> None:
        self.num_images = num_images
        self.capacity = capacity
        self.workers = workers
        num_entries = num_images * len(REDUCTIONS)
        # One more entry: its `start` is where the free space begins.
        self._capacity = capacity - (num_entries + 1) * ENTRY.itemsize
        if self._capacity <= 0:
            raise DataError(
                f"{capacity / 1e9:g} GB for the cache are less than the index of {num_images} images; "
                f"raise data.cache_gb"
            )
        try:
            # Anonymous shared memory: zeros, allocated by the system when written to.
            self._pixels = mmap.mmap(-1, self._capacity)
            index = np.frombuffer(mmap.mmap(-1, (num_entries + 1) * ENTRY.itemsize), ENTRY)
        except OSError as error:
            raise DataError(
                f"{capacity / 1e9:g} GB for the cache are more than the system has ({error.strerror}); "
                f"lower data.cache_gb"
            ) from None
        self._entries, self._end = index[:-1].reshape(num_images, len(REDUCTIONS)), index[-1:]
        self._lock = multiprocessing.Lock()

    def __reduce__(self) -> tuple[type[MemoryCache], tuple[int, int, int]]:
        return MemoryCache, (self.num_images, self.capacity // max(self.workers, 1), 1)

    def image(self, index: int, path: Path, reduction: int, decode: Callable[[], Image]) -> Image:
        """The image of row `index` from the cache, else decoded and, if there is space, added; not to be written to.

        Args:
            index: row of the table.
            path: its file, or its shard with a name in it that identifies it.
            reduction: at which it is decoded.
            decode: decodes the image.
        """
        stamp = _stamp(path)
        column = REDUCTIONS.index(reduction)
        with self._lock:
            size, modified, start, height, width = self._entries[index, column].item()
        if height and (size, modified) == stamp:
            return self._view(start, (height, width, 3))
        image = decode()
        with self._lock:
            start = int(self._end["start"][0])
            if start + image.nbytes > self._capacity:
                return image
            self._end["start"] = start + image.nbytes
        self._view(start, image.shape, writeable=True)[...] = image
        with self._lock:
            self._entries[index, column] = (*stamp, start, *image.shape[:2])
        return image

    def _view(self, start: int, shape: tuple[int, ...], writeable: bool = False) -> Image:
        pixels = np.frombuffer(self._pixels, np.uint8, int(np.prod(shape)), start).reshape(shape)
        pixels.flags.writeable = writeable
        return pixels


class DiskCache:
    """Images in a folder, a file each, which later runs use too; processes and runs may share it.

    Attributes:
        folder: holds the files.
        capacity: bytes of all files together.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        self.folder = folder
        self.capacity = capacity
        self._full = False
        with self._disk_errors():
            folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            for partial in folder.glob(".*.partial"):
                with contextlib.suppress(FileNotFoundError):  # another process has just finished it
                    if time.time() - partial.stat().st_mtime > LONGEST_WRITING:  # left by one that was killed
                        partial.unlink()
            self._write_used(self._count_used())

    def image(self, index: int, path: Path, reduction: int, decode: Callable[[], Image]) -> Image:
        """The image of a file from the cache, else decoded and, if there is space, added. See `MemoryCache.image`.

        Raises:
            DataError: the folder cannot be read or written, or the disk is full.
        """
        key = f"{VERSION} {os.path.abspath(path)} {_stamp(path)} {reduction}"
        file = self.folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.npy"
        cached = self._read(file)
        if cached is not None:
            return cached
        image = decode()
        if not self._full:
            self._add(file, image)
        return image

    def _read(self, file: Path) -> Image | None:
        try:
            stream = open(file, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from None
        with self._disk_errors(), stream:
            try:
                image: Image = np.load(stream, allow_pickle=False)
            except (ValueError, EOFError):
                raise DataError(f"{file}: not a whole image of the cache; remove the file and start again") from None
        return image

    def _add(self, file: Path, image: Image) -> None:
        with self._locked():
            used = self._read_used() + image.nbytes + 128  # the header of an array file
            self._full = used > self.capacity
            if self._full or file.exists():
                return
            self._write_used(used)
        # Outside of the lock, so that others continue while the disk writes. A process that is killed here leaves some
        # capacity unused, until the next run counts the files.
        with self._disk_errors(), atomic_write(file) as partial, partial.open("wb") as stream:
            np.save(stream, image)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock

        with self._disk_errors(), FileLock(str(self.folder / "lock"), timeout=LONGEST_WAIT):
            yield

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turns errors of the disk into messages."""
        try:
            yield
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> DataError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DataError(
                f"{self.folder}: the disk is full before the cache of images has reached data.cache_gb; free space, "
                f"lower data.cache_gb, or set data.cache_folder to a folder on another disk"
            )
        return DataError(
            f"{self.folder}: the cache of images cannot be used ({error.strerror or error}); make it readable and "
            f"writable, or set data.cache_folder or {HOME_VARIABLE} to another folder"
        )

    def _read_used(self) -> int:
        text = (self.folder / "used").read_text(encoding="ascii")
        return int(text) if text else self._count_used()  # empty if a process was killed while it wrote

    def _count_used(self) -> int:
        return sum(entry.stat().st_size for entry in os.scandir(self.folder) if entry.name.endswith(".npy"))

    def _write_used(self, used: int) -> None:
        (self.folder / "used").write_text(str(used), encoding="ascii")


Cache = MemoryCache | DiskCache


def make_cache(config: DataConfig, num_images: int, processes: int = 1) -> Cache | None:
    """The cache of a recipe; None for none.

    Args:
        config: the `data` section.
        num_images: rows of the table.
        processes: training processes on this machine, among which the memory is divided.

    Raises:
        DataError: there is not enough memory, or the folder cannot be used.
    """
    capacity = int(config.cache_gb * 1e9)
    if config.cache == "memory":
        return MemoryCache(num_images, capacity // processes, config.workers)
    if config.cache == "disk":
        folder = full_path(config.cache_folder) if config.cache_folder else home_folder() / "images"
        if config.value_range is not None:  # images decoded in another way are other entries
            folder /= "values-{:g}-{:g}".format(*config.value_range)
        return DiskCache(folder, capacity)
    return None


def _stamp(path: Path) -> tuple[int, int]:
    """Size, and modification time in nanoseconds, of an image's file or of its shard; zeros if neither exists."""
    for file in (path, path.parent):
        with contextlib.suppress(OSError):  # a missing image is reported where it is read
            status = os.stat(file)
            if stat.S_ISREG(status.st_mode):
                return status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)  # copying may keep the first of them
    return 0, 0
