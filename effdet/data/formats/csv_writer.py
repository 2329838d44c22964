"""Writer of boxes as CSV files: one per split, one line per box, with names of columns that the usual tools read.

Reading is in `boxes_csv.py`; where images are copied to is decided in `data/convert.py`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from effdet.data.annotations import Annotations
from effdet.data.formats.voc_writer import (
    CATEGORY_IDS,
    IMAGE_IDS,
    MASKS,
    NOT_IN_CSV,
    check_names,
    common_losses,
    is_file_name,
)

CSV_IMAGES = "images/{split}"  # where the images of a split are, below the folder of the CSV files
_COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")
_MARKS = ("difficult", "crowd")


def write_csv(folder: Path, tables: Mapping[str, Annotations]) -> dict[str, int]:
    """Writes SPLIT.csv of each split and classes.csv (name,id) with the classes in the order of their labels.

    Images without objects are lines with empty boxes. Coordinates are written so that float32 comes back exactly. The
    columns difficult and crowd are there if any object is marked.

    Args:
        folder: where to write.
        tables: the splits, whose file names are relative to `CSV_IMAGES` below the folder.

    Returns:
        What the format cannot hold: cause -> count.
    """
    for split, table in tables.items():
        check_names(table, NOT_IN_CSV, "CSV")
        with (folder / f"{split}.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(_lines(split, table))
    label_map = next(iter(tables.values())).label_map
    with (folder / "classes.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((name, label) for label, name in enumerate(label_map.names))
    ids, count = label_map.category_ids, len(label_map)
    lost = Counter({CATEGORY_IDS: 0 if ids in (tuple(range(count)), tuple(range(1, count + 1))) else count})
    for table in tables.values():
        lost[MASKS] += common_losses(table)[MASKS]
        lost[IMAGE_IDS] += sum(not is_file_name(table, row) for row in range(len(table)))
    return {cause: number for cause, number in lost.items() if number}


def _lines(split: str, table: Annotations) -> Iterator[tuple[object, ...]]:
    marks = [mark for mark in _MARKS if getattr(table, mark).any()]
    yield (*_COLUMNS, *marks)
    values = [getattr(table, mark).astype(int).tolist() for mark in marks]
    names, labels = table.label_map.names, table.labels.tolist()
    texts = table.boxes.astype(str)  # of float32: as few digits as needed
    corners = [[text.removesuffix(".0") for text in box] for box in texts.tolist()]
    for row, (height, width) in enumerate(table.sizes.tolist()):
        name = f"{CSV_IMAGES.format(split=split)}/{table.file_name(row)}"
        size = (width, height) if width and height else ("", "")
        rows = table.rows(row)
        for index in range(rows.start, rows.stop):
            yield name, *size, names[labels[index]], *corners[index], *(mark[index] for mark in values)
        if rows.start == rows.stop:
            yield name, *size, *[""] * (5 + len(marks))
