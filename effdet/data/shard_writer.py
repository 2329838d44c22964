"""Writer of shards: the images of a table as tar files of equal size, and their index.

The tar files follow the WebDataset convention, so that other programs read them too: KEY.jpg with the image as it is,
KEY.json with its labels, and for images with one class each KEY.cls with the label. Reading is in `shard_store.py`.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from effdet.data.formats.image_files import check_copied
from effdet.data.formats.shard_index import INDEX_SUFFIX, write_index
from effdet.data.image_table import ImageTable, Table
from effdet.data.shard_store import ShardFolder, ShardStore, checksum
from effdet.errors import DataError
from effdet.files import atomic_write


def write_shards(
    table: ImageTable, folder: Path, name: str, shard_bytes: int, on_image: Callable[[], None]
) -> list[Path]:
    """Writes the images of a table in its order to NAME-000000.tar, ..., and then their index.

    Equal tables give equal bytes. If writing stops early, what was written is removed, so that the folder holds either
    all shards or none.

    Args:
        table: the table; its images are copied as they are.
        folder: where to write.
        name: name of the index and start of the shards' names, such as train.
        shard_bytes: size at which a shard is full.
        on_image: called after each image.

    Returns:
        The paths of the shards.

    Raises:
        DataError: an image cannot be read, the folder holds such shards already or cannot be written.
    """
    check_free(folder, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write_all(table, folder, name, shard_bytes, on_image)
    except OSError as error:
        raise DataError(f"{folder}: the shards cannot be written: {error.strerror or error}") from None


def check_free(folder: Path, name: str) -> None:
    """Does nothing if shards of that name can be written to a folder.

    Raises:
        DataError: there are some already.
    """
    index = folder / f"{name}{INDEX_SUFFIX}"
    there = [path for path in (index, *sorted(folder.glob(f"{name}-*.tar"))) if path.exists()]
    if there:
        raise DataError(
            f"{there[0]}: exists already; shards are never overwritten, remove them or choose another folder"
        )


def _write_all(
    table: ImageTable, folder: Path, name: str, shard_bytes: int, on_image: Callable[[], None]
) -> list[Path]:
    """Writes shards and index, or removes what it wrote."""
    index = folder / f"{name}{INDEX_SUFFIX}"
    paths: list[Path] = []
    shards: list[list[tuple[int, int, int, str]]] = []
    rows = iter(range(len(table)))
    try:
        while sum(map(len, shards)) < len(table):
            paths.append(folder / f"{name}-{len(paths):06d}.tar")
            with atomic_write(paths[-1]) as partial:
                shards.append(_write_shard(partial, table, rows, shard_bytes, on_image))
        write_index(index, _stored(table, folder, paths, shards), [path.stat().st_size for path in paths])
    except BaseException:
        for path in (index, *paths):
            path.unlink(missing_ok=True)
        raise
    return paths


def _write_shard(
    path: Path, table: ImageTable, rows: Iterator[int], shard_bytes: int, on_image: Callable[[], None]
) -> list[tuple[int, int, int, str]]:
    """Writes images until the shard is full; first byte, length, checksum and member name of each."""
    entries = []
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            if table.store is None:
                check_copied(table.image_folder, table.path(row))
            data = table.read(row)
            if not data:
                raise DataError(f"{table.path(row)}: the image file is empty; write it again, or remove it")
            suffix = os.path.splitext(table.file_name(row))[1].lower() or ".img"
            key = f"{row:09d}"
            start = file.tell() + tarfile.BLOCKSIZE  # after the header, which is one block for short names
            _add(tar, f"{key}{suffix}", data)
            record = {"file_name": table.file_name(row), **table.record(row)}
            if "label" in record:
                _add(tar, f"{key}.cls", str(record["label"]).encode())
            _add(tar, f"{key}.json", json.dumps(record).encode())
            entries.append((start, len(data), checksum(data), f"{key}{suffix}"))
            on_image()
            if file.tell() >= shard_bytes:
                break
    return entries


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without user and time, so that equal images give equal shards
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _stored(table: Table, folder: Path, paths: list[Path], shards: list[list[tuple[int, int, int, str]]]) -> Table:
    """The table with its images in the shards."""
    starts, lengths, checksums, members = zip(*(entry for shard in shards for entry in shard), strict=True)
    store = ShardStore(
        location=ShardFolder(folder),
        names=tuple(path.name for path in paths),
        shards=np.repeat(np.arange(len(shards)), [len(shard) for shard in shards]),
        starts=np.array(starts, np.int64),
        lengths=np.array(lengths, np.int64),
        checksums=np.array(checksums, np.uint32),
        members=np.array(members, np.str_),
    )
    return replace(table, store=store)
