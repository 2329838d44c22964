"""Writers of the two formats of images with one class each: class folders and lists.

Their readers are in `folders.py` and `image_list.py`; images are copied by `data/convert.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from effdet.data.formats.csv_writer import CSV_IMAGES
from effdet.data.formats.voc_writer import NOT_IN_CSV, check_names
from effdet.data.labels import ImageLabels

CLASS_FOLDERS = "{split}/{name}"


def write_folders(folder: Path, tables: Mapping[str, ImageLabels]) -> dict[str, int]:
    """Writes nothing: the folders of the images say it all. Gives nothing that is lost."""
    return {}


def write_image_lists(folder: Path, tables: Mapping[str, ImageLabels]) -> dict[str, int]:
    """Writes SPLIT.csv of each split, with a line image,label for each image. Gives nothing that is lost."""
    for split, table in tables.items():
        check_names(table, NOT_IN_CSV, "CSV")
        with (folder / f"{split}.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("image", "label"))
            for row in range(len(table)):
                name = f"{CSV_IMAGES.format(split=split)}/{table.file_name(row)}"
                writer.writerow((name, table.label_map.names[table.labels[row]]))
    return {}
