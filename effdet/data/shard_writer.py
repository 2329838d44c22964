"""Writer of shards: the images of a table as tar files of about one size, and the index of them.

The tar files follow the WebDataset convention, so that other programs read them too: KEY.jpg with the image as it is,
KEY.json with what is known of it, and for labelled images KEY.cls with the label.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from effdet.data.annotations import Annotations
from effdet.data.formats.shard_index import INDEX_SUFFIX, write_index
from effdet.data.labels import ImageLabels
from effdet.data.shard_store import ShardFolder, ShardStore, checksum
from effdet.errors import DataError
from effdet.files import atomic_write


class _Entry(NamedTuple):
    """Where an image lies in its shard; see `ShardStore`."""

    start: int
    length: int
    checksum: int
    member: str


def write_shards(
    table: Annotations | ImageLabels, folder: Path, part: str, shard_bytes: int, on_image: Callable[[], None]
) -> list[Path]:
    """Writes the images of a table in its order to PART-000000.tar, ..., and then their index.

    Equal tables give equal bytes. What was written is removed if the writing is broken off, so that there is either a
    whole set or none.

    Args:
        table: the table; its images are copied as they are.
        folder: where to write.
        part: first part of the names of the files, such as train.
        shard_bytes: size at which a shard is full.
        on_image: called after each image.

    Returns:
        The paths of the shards.

    Raises:
        DataError: an image cannot be read, the folder holds such shards already or cannot be written.
    """
    check_free(folder, part)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write_all(table, folder, part, shard_bytes, on_image)
    except OSError as error:
        raise DataError(f"{folder}: the shards cannot be written: {error.strerror or error}") from None


def check_free(folder: Path, part: str) -> None:
    """Nothing, if shards of that name can be written to a folder.

    Raises:
        DataError: there are some already.
    """
    index = folder / f"{part}{INDEX_SUFFIX}"
    there = [path for path in (index, *sorted(folder.glob(f"{part}-*.tar"))) if path.exists()]
    if there:
        raise DataError(
            f"{there[0]}: is there already; shards are never written over, remove them or choose another folder"
        )


def _write_all(
    table: Annotations | ImageLabels, folder: Path, part: str, shard_bytes: int, on_image: Callable[[], None]
) -> list[Path]:
    """Writes shards and index, or removes what it wrote."""
    index = folder / f"{part}{INDEX_SUFFIX}"
    paths: list[Path] = []
    entries: list[list[_Entry]] = []
    rows = iter(range(len(table)))
    try:
        while sum(map(len, entries)) < len(table):
            paths.append(folder / f"{part}-{len(paths):06d}.tar")
            with atomic_write(paths[-1]) as partial:
                entries.append(_write_shard(partial, table, rows, shard_bytes, on_image))
        write_index(index, _stored(table, folder, paths, entries), [path.stat().st_size for path in paths])
    except BaseException:
        for path in (index, *paths):
            path.unlink(missing_ok=True)
        raise
    return paths


def _write_shard(
    path: Path, table: Annotations | ImageLabels, rows: Iterator[int], shard_bytes: int, on_image: Callable[[], None]
) -> list[_Entry]:
    """Takes rows until the shard is full."""
    entries = []
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            data = table.read(row)
            if not data:
                raise DataError(f"{table.path(row)}: the image file is empty; write it again, or take it out")
            suffix = os.path.splitext(str(table.file_names[row]))[1].lower() or ".img"
            key = f"{row:09d}"
            start = file.tell() + tarfile.BLOCKSIZE  # after the header, which is one block for short names
            for name, content in {f"{key}{suffix}": data, **_described(table, row, key)}.items():
                _add(tar, name, content)
            entries.append(_Entry(start, len(data), checksum(data), f"{key}{suffix}"))
            on_image()
            if file.tell() >= shard_bytes:
                break
    return entries


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of no user and no time, so that equal images give equal shards
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _described(table: Annotations | ImageLabels, row: int, key: str) -> dict[str, bytes]:
    """The files beside an image: what the table says of it, for other programs."""
    known: dict[str, Any] = {"file_name": str(table.file_names[row])}
    label_map = table.label_map
    if isinstance(table, ImageLabels):
        label = int(table.labels[row])
        known |= {"label": label, "name": label_map.names[label]}
        return {f"{key}.cls": str(label).encode(), f"{key}.json": json.dumps(known).encode()}
    rows = table.rows(row)
    labels = table.labels[rows].tolist()
    known |= {
        "image_id": table.image_ids[row].item(),
        "size": table.sizes[row].tolist(),
        "boxes": table.boxes[rows].tolist(),
        "labels": labels,
        "category_ids": [label_map.category_ids[label] for label in labels],
        "names": [label_map.names[label] for label in labels],
        "crowd": table.crowd[rows].tolist(),
        "areas": table.areas[rows].tolist(),
    }
    return {f"{key}.json": json.dumps(known).encode()}


def _stored(
    table: Annotations | ImageLabels, folder: Path, paths: list[Path], entries: list[list[_Entry]]
) -> Annotations | ImageLabels:
    """The table with its images in the shards."""
    flat = [entry for shard in entries for entry in shard]
    store = ShardStore(
        place=ShardFolder(folder),
        names=tuple(path.name for path in paths),
        shards=np.repeat(np.arange(len(entries)), [len(shard) for shard in entries]),
        starts=np.array([entry.start for entry in flat], np.int64),
        lengths=np.array([entry.length for entry in flat], np.int64),
        checksums=np.array([entry.checksum for entry in flat], np.uint32),
        members=np.array([entry.member for entry in flat], np.str_),
    )
    return replace(table, store=store)
