"""Writer of YOLO data sets: a label file for each image, and data.yaml.

Copying the images, and reading the result, is done elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from effdet.data.annotations import Annotations
from effdet.data.formats.split_files import SplitFiles, usual_split
from effdet.data.formats.voc_writer import CATEGORY_IDS, DIFFICULT, IMAGE_IDS, common_losses, file_stem, is_file_name
from effdet.errors import DataError

YOLO_IMAGES = "images/{split}"  # folder for the images of a split, as `Annotations.file_name` calls them


def write_yolo(folder: Path, tables: Mapping[str, Annotations]) -> dict[str, int]:
    """Write labels/SPLIT/NAME.txt for each image, and data.yaml with the classes and splits.

    The images belong in the folders `YOLO_IMAGES`. Boxes are read back to a thousandth of a pixel. data.yaml calls the
    splits train and val, whatever the names of their folders are.

    Args:
        folder: of the data set.
        tables: by the names of their splits, all of the same classes; `file_name` is relative.

    Returns:
        What the format cannot hold: cause -> how many.

    Raises:
        DataError: the size of an image is unknown, two images of a split differ in their suffix alone, or the tables
            have different classes.
    """
    losses: Counter[str] = Counter()
    first = next(iter(tables.values()))
    for split, table in tables.items():
        if table.label_map.names != first.label_map.names:
            raise DataError(f"{table.source}: other classes than in {first.source}; a YOLO data set has one list")
        written: dict[str, str] = {}
        for index in range(len(table)):
            path = folder / "labels" / split / f"{file_stem(table.file_name(index), written)}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_lines(table, index), encoding="utf-8")
            losses[IMAGE_IDS] += not is_file_name(table, index)
        losses.update(common_losses(table))
        losses[DIFFICULT] += int((table.difficult & ~table.crowd).sum())
    losses[CATEGORY_IDS] += sum(own != index for index, own in enumerate(first.label_map.category_ids))
    content = {**_folders(tables), "nc": len(first.label_map), "names": dict(enumerate(first.label_map.names))}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return {cause: count for cause, count in losses.items() if count}


def _folders(tables: Mapping[str, Annotations]) -> dict[str, str]:
    """Key in data.yaml -> folder of the images of each split."""
    names = {split: SplitFiles(Path(), Path()) for split in tables}
    key_of = {usual_split(names, "val"): "val", usual_split(names, "train"): "train"}
    return {key_of.get(split, split): YOLO_IMAGES.format(split=split) for split in tables}


def _lines(table: Annotations, index: int) -> str:
    rows = table.rows(index)
    kept = ~table.crowd[rows]
    height, width = table.sizes[index].tolist()
    if kept.any() and not (height and width):
        raise DataError(
            f"{table.path(index)}: the size of the image is unknown, so boxes cannot become fractions of it"
        )
    boxes = table.boxes[rows][kept].astype(np.float64) / np.array([width, height, width, height], np.float64)
    numbers = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    labels = table.labels[rows][kept].tolist()
    return "".join(
        f"{label} {' '.join(f'{number:.10f}'.rstrip('0').rstrip('.') for number in row)}\n"
        for label, row in zip(labels, numbers.tolist(), strict=True)
    )
