"""Every image of a data set decoded once: whether it is whole, its size and orientation, and what it looks like.

What follows from it is in `images.py` and `duplicates.py`. Of each image some hundred bytes stay in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from effdet.data.check.findings import Split
from effdet.data.image_header import read_header
from effdet.data.image_table import ImageTable
from effdet.data.images import Image, decode_with_notes, usable_reduction
from effdet.errors import DataError

LOOK_SIDE = 16  # the perceptual hash has LOOK_SIDE^2 bits
_BLOCK = 32  # images of one job of a thread
_MOST_THREADS = 16


class ImageFacts(NamedTuple):
    """What the file of an image says; sizes are zero and hashes are empty if it cannot be read.

    Attributes:
        size: (H, W), upright.
        orientation: 1..8 as in EXIF.
        missing: whether there is no such file.
        error: why it cannot be read; empty if it can.
        notes: rules that acted in decoding, such as "alpha channel dropped".
        file_hash: SHA-256 of the file.
        look: perceptual hash of the pixels, `LOOK_SIDE`^2 bits.
    """

    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    missing: bool = False
    error: str = ""
    notes: tuple[str, ...] = ()
    file_hash: bytes = b""
    look: bytes = b""

    @property
    def readable(self) -> bool:
        """Whether the image could be decoded."""
        return not self.missing and not self.error


def scan_images(
    splits: Sequence[Split],
    value_range: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[ImageFacts]]:
    """The facts of every image of every split, in the order of their tables. An image in two splits is decoded once.

    Args:
        splits: the splits.
        value_range: see `decode_image`.
        progress: called with the numbers of images that are done and of all images.
    """
    first: dict[Path, tuple[ImageTable, int]] = {}
    for split in splits:
        for row in range(len(split.table)):
            first.setdefault(split.table.identity(row), (split.table, row))
    items = list(first.items())
    blocks = [items[start : start + _BLOCK] for start in range(0, len(items), _BLOCK)]
    facts: dict[Path, ImageFacts] = {}

    def scan(block: list[tuple[Path, tuple[ImageTable, int]]]) -> list[tuple[Path, ImageFacts]]:
        return [(key, _facts(table, row, value_range)) for key, (table, row) in block]

    with ThreadPoolExecutor(min(_MOST_THREADS, (os.cpu_count() or 1) + 2)) as pool:
        for results in pool.map(scan, blocks):
            facts.update(results)
            if progress is not None:
                progress(len(facts), len(items))
    return [[facts[split.table.identity(row)] for row in range(len(split.table))] for split in splits]


def pixel_hash(table: ImageTable, row: int, value_range: tuple[float, float] | None = None) -> bytes:
    """SHA-256 of the pixels of an image that can be read."""
    image, _ = decode_with_notes(table.read(row), table.file_name(row), 1, value_range)
    return hashlib.sha256(image.data).digest()


def _facts(table: ImageTable, row: int, value_range: tuple[float, float] | None) -> ImageFacts:
    name = table.file_name(row)
    if table.store is None and not os.path.exists(table.path(row)):
        return ImageFacts(missing=True)
    try:
        data = table.read(row)
        header = read_header(data, name)
        reduction = usable_reduction(min(header.size) / (2 * LOOK_SIDE))
        image, notes = decode_with_notes(data, name, reduction, value_range)
    except DataError as error:
        reason = str(error).removeprefix(f"{table.path(row)}: ").removeprefix(f"{name}: ")
        return ImageFacts(error=reason.partition("; ")[0])
    return ImageFacts(
        size=header.size,
        orientation=header.orientation,
        notes=tuple(notes),
        file_hash=hashlib.sha256(data).digest(),
        look=_look(image),
    )


def _look(image: Image) -> bytes:
    """Perceptual hash (dHash): whether each of 16 x 16 cells is brighter than the one to its left."""
    import imagehash
    from PIL import Image as Pillow

    bits = imagehash.dhash(Pillow.fromarray(image), LOOK_SIDE).hash
    return np.packbits(bits).tobytes()
