"""Which image of an annotation file each row of a results file is of: by the id of the image, or by its file name.

The results file itself is read in `results_file.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.coco_values import IdLookup
from effdet.errors import DataError
from effdet.plain_data import shortened, shown
from effdet.text import count_of

_MOST = 0.5  # fraction of the detections of unknown images from which on the file is refused


def match_images(
    path: Path, image_ids: Sequence[Any], file_names: Sequence[Any], table: Annotations
) -> tuple[NDArray[np.int64], list[str]]:
    """The row of the image of each detection, -1 where it is unknown, and lines on how they were matched.

    An id that the annotations lack is matched by the name of the file: `file_name` of the detection or the id itself,
    whole, or without folder and suffix if that is the name of one image alone.

    Args:
        path: the results file, for messages.
        image_ids: [D] as written.
        file_names: [D], None where unknown; or empty.
        table: the images.

    Raises:
        DataError: most detections are of unknown images.
    """
    name_of = dict(zip(image_ids, file_names, strict=True)) if file_names else {}
    different = list(dict.fromkeys(image_ids))
    by_id = dict(zip(different, IdLookup(table.image_ids.tolist()).rows_of(different), strict=True))
    rows = np.fromiter(map(by_id.__getitem__, image_ids), np.int64, len(image_ids))
    lines = _contradictions(path, rows, file_names, table)
    missing = [image_id for image_id, row in by_id.items() if row < 0]
    if not missing:
        return rows, lines
    exact, by_stem = _by_name(missing, name_of, table)
    for found, how in ((exact, "file name"), (by_stem, "file name without folder and suffix")):
        named = np.fromiter((found.get(image_id, -1) for image_id in image_ids), np.int64, len(image_ids))
        count = int(np.count_nonzero((rows < 0) & (named >= 0)))
        if count:
            ids = "its" if count == 1 else "their"
            lines.append(
                f"{path.name}: {count_of(count, 'detection')} matched to images by {how}, because the annotations do "
                f"not have {ids} image_id"
            )
        rows = np.where(rows < 0, named, rows)
    count = int(np.count_nonzero(rows < 0))
    if count:
        unknown = [image_id for image_id in missing if image_id not in exact and image_id not in by_stem]
        lines.append(_unknown(path, count, len(rows), unknown, table))
    return rows, lines


def _by_name(
    missing: Sequence[Any], name_of: dict[Any, Any], table: Annotations
) -> tuple[dict[Any, int], dict[Any, int]]:
    """Rows of ids by whole file names, and of others by names without folder and suffix."""
    names: list[str] = table.file_names.tolist()
    row_of_name = {name: row for row, name in enumerate(names)}
    row_of_stem: dict[str, int] = {}
    for row, name in enumerate(names):
        row_of_stem[_stem(name)] = -1 if _stem(name) in row_of_stem else row
    exact, by_stem = {}, {}
    for image_id in missing:
        spellings = [str(name) for name in (name_of.get(image_id), image_id) if name is not None]
        row = next((row_of_name[name] for name in spellings if name in row_of_name), -1)
        if row >= 0:
            exact[image_id] = row
            continue
        # An id such as 7.jpg is a file name, one such as 7 the name of a file without its suffix.
        row = next((row for name in spellings if (row := row_of_stem.get(_stem(name), -1)) >= 0), -1)
        if row >= 0:
            by_stem[image_id] = row
    return exact, by_stem


def _stem(name: str) -> str:
    """The name of a file without folder and suffix."""
    return PurePosixPath(name.replace("\\", "/")).stem


def _contradictions(path: Path, rows: NDArray[np.int64], file_names: Sequence[Any], table: Annotations) -> list[str]:
    """A line if detections have the id of one image and the file name of another."""
    if not file_names:
        return []
    stems = [_stem(name) for name in table.file_names.tolist()]
    pairs = dict.fromkeys(zip(rows.tolist(), file_names, strict=True))
    wrong = {(row, name) for row, name in pairs if row >= 0 and name is not None and _stem(str(name)) != stems[row]}
    if not wrong:
        return []
    count = sum(pair in wrong for pair in zip(rows.tolist(), file_names, strict=True))
    row, name = min(wrong, key=str)
    return [
        f"{path.name}: {count_of(count, 'detection')} with the image_id of one image and the file_name of another, "
        f"such as '{shortened(str(name))}' for '{shortened(table.file_name(row))}'; the image_id is used"
    ]


def _unknown(path: Path, count: int, total: int, unknown: Sequence[Any], table: Annotations) -> str:
    """A line on detections of images that the annotations lack.

    Raises:
        DataError: most of the detections are such.
    """
    seen = (
        f"such as image_id {shown(unknown[0])}; the annotations have image ids such as "
        f"{shown(table.image_ids[0].item())} and file names such as '{shortened(table.file_name(0))}'"
    )
    if count > _MOST * total:
        raise DataError(
            f"{path}: {count} of {total} detections are of images that are not in the annotations, {seen}; give the "
            f"annotation file of the images that were predicted, or write its image ids"
        )
    return f"{path.name}: {count_of(count, 'detection')} of images that are not in the annotations left out, {seen}"
