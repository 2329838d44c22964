"""Shards: their index with damaged columns and bytes, damaged tar files, and addresses of odd kinds.

What must hold for the tables is in `sound_tables.py`. No case opens a connection.
"""

from __future__ import annotations

import functools
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.config import ClassificationData, DetectionData
from effdet.data import shard_store
from effdet.data.formats import read_table
from effdet.data.formats.shard_index import INDEX_SUFFIX
from effdet.data.image_table import ImageTable
from effdet.data.shard_writer import write_shards
from effdet.errors import ConfigError

from .border import Border, damages
from .mutate import mutate_bytes, mutate_text
from .scenes import draw_scene, write_coco, write_images
from .sound_tables import check_boxes, check_files, check_labels

_ADDRESSES = (
    *("://", "a://b", "file://", "file:///etc", "file://{folder}", "local://{folder}", "memory://x", "memory://"),
    *("data://text,abc", "zip://x::file://{folder}/train.index.npz", "tar://x::file://{folder}/train-000000.tar"),
    *(
        "dir://{folder}",
        "reference://",
        "cached://x",
        "blockcache::x://y",
        "://::://",
        "file://{folder}/\0",
        "\ud800://x",
    ),
    *("file://{folder}/../data", "S3://", "file://" + "a" * 5000, "x" * 5000 + "://", "file://%2e%2e", "sftp:// @:x/"),
)
_TEXTS = ("../../x", "/etc/passwd", "", "a\0b", "x" * 5000, "\ud800", "train-000000.tar", ".", "im_0.png")
_NUMBERS = (0, -1, 1, 5, 2**31, 2**62, -(2**63), 1e308, float("nan"), float("inf"), -0.4, 1e-9)


@functools.cache
def _sound(task: str) -> dict[str, bytes]:
    """Name -> content of the shards and the index of a small data set."""
    scene = draw_scene(random.Random(1))
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "data"), Path(folder, "shards")
        if task == "detection":
            write_coco(random.Random(2), scene, root)
            table: ImageTable = read_table(DetectionData(root=root, val=None), "train")
        else:
            for name, part in (("cat", scene[:1]), ("dog", scene[1:])):
                write_images(part, root / name)
            table = read_table(ClassificationData(root=root, val=None), "train")
        write_shards(table, out, "train", 20_000, lambda: None)
        return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def _make_shards(rng: random.Random, folder: Path) -> Path:
    root = folder / "data"
    root.mkdir()
    files = dict(_sound(rng.choice(("detection", "detection", "classification"))))
    number = damages(rng, folder)
    for name, data in files.items():
        (root / name).write_bytes(data)
    for _ in range(number):
        _damage(rng, root)
    return root


def _damage(rng: random.Random, root: Path) -> None:
    index, kind = root / f"train{INDEX_SUFFIX}", rng.random()
    if kind < 0.6:
        _damage_columns(rng, index)
    elif kind < 0.8:
        index.write_bytes(mutate_bytes(rng, index.read_bytes(), [b"\x93NUMPY", b"PK\x03\x04", b"'descr': '|O'"]))
    else:
        tar = rng.choice(sorted(root.glob("*.tar")) or [index])
        tar.write_bytes(mutate_bytes(rng, tar.read_bytes()))


def _damage_columns(rng: random.Random, index: Path) -> None:
    """Changes a column of an index: removed, of another type or length, or with another value."""
    try:
        with np.load(index) as archive:
            columns: dict[str, Any] = {name: archive[name] for name in archive}
    except Exception:  # it is damaged already
        return
    if not columns:
        return
    name = rng.choice(sorted(columns))
    if rng.random() < 0.1:
        del columns[name]
    else:
        columns[name] = _other_column(rng, columns[name], columns)
    np.savez_compressed(index, **columns)


def _other_column(rng: random.Random, column: NDArray[Any], columns: dict[str, Any]) -> Any:
    """Another column in the place of one: of another length, name or type, or with one other value."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice((column.ravel()[:-1], np.concatenate([column.ravel()] * 2), column.T, np.array([[]])))
    if kind == 1:
        return columns[rng.choice(sorted(columns))]
    if kind == 2:
        return _of_type(column, rng.choice(("f8", "f2", "i1", "u8", "U3", "S3", "?", "c16", "M8[s]")))
    changed = column.ravel().astype(object)
    if changed.size:
        texts = column.dtype.kind in "US"
        changed[rng.randrange(changed.size)] = rng.choice(_TEXTS if texts else _NUMBERS)
    return _of_type(changed, column.dtype).reshape(column.shape)


def _of_type(column: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """A column of another type, zeros if its values do not fit."""
    texts = np.dtype(dtype).kind == "U"
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array(column.tolist(), np.str_) if texts else column.astype(dtype)
    except (ValueError, TypeError, OverflowError):
        return np.zeros(column.shape, dtype)


def _read_shards(root: Path) -> None:
    table = _table(root)
    check_files(table, root)
    for row in range(len(table)):
        assert table.read(row), "an image without bytes"


def _table(root: Path) -> ImageTable:
    """The table of the task that the index names; that of detection if it names none."""
    try:
        labels = read_table(ClassificationData(root=root, format="shards", val=None), "train")
    except Exception:
        boxes = read_table(DetectionData(root=root, format="shards", val=None), "train")
        check_boxes(boxes)
        return boxes
    check_labels(labels)
    return labels


# Addresses.


def _make_address(rng: random.Random, folder: Path) -> Path:
    root = folder / "data"
    root.mkdir()
    for name, data in _sound("detection").items():
        (root / name).write_bytes(data)
    number = damages(rng, folder)
    address = rng.choice(_ADDRESSES).replace("{folder}", str(root)) if number else f"file://{root}"
    for _ in range(number - 1):
        address = mutate_text(rng, address, ("::", "://", "simple", "@", "?", "#", "%00", "[", "]", ":99999"))
    path = folder / "address"
    path.write_bytes(address.encode("utf-8", "replace"))
    return path


def _read_address(path: Path) -> None:
    shard_store.PAUSES = ()  # between attempts
    address = path.read_bytes().decode()
    if address.partition("://")[0].lower() in (
        "http",
        "https",
        "ftp",
        "s3",
        "gs",
        "sftp",
        "ssh",
        "smb",
        "github",
        "hf",
    ):
        return
    try:
        data = DetectionData(url=address, format="shards", val=None)
    except ValueError as error:
        raise ConfigError("the recipe refuses the address") from error
    table = read_table(data, "train")
    check_boxes(table)
    for row in range(len(table)):
        table.read(row)


BORDERS = (
    Border("shards", _make_shards, _read_shards),
    Border("shard address", _make_address, _read_address),
)
