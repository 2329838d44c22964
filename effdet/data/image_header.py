"""Sizes of image files from their headers, without decoding the pixels.

Decoding is in `images.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from effdet.data.images import read_image
from effdet.errors import DataError


def image_sizes(paths: Sequence[Path]) -> list[tuple[int, int] | DataError]:
    """Upright size (H, W) of each image, or why it cannot be read."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_size, paths))


def _size(path: Path) -> tuple[int, int] | DataError:
    try:
        height, width = read_image(path).shape[:2]
    except DataError as error:
        return error
    return height, width
