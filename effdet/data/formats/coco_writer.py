"""Writer of COCO data sets: annotations/instances_SPLIT.json for each split, beside a folder of images for each.

Copying the images is the caller's; the reader is `coco.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.voc_writer import NOT_IN_JSON, check_names
from effdet.files import write_text

COCO_IMAGES = "{split}"  # folder of the images of a split

TEXT_IDS = "image ids that are no numbers from 0 up, numbered anew"


def write_coco(folder: Path, tables: Mapping[str, Annotations]) -> dict[str, int]:
    """Write the annotations of a data set as COCO, one file for each split.

    Read again, boxes are the same to the last bit. The names of the images are those of the tables.

    Args:
        folder: of the data set.
        tables: split -> its images and boxes.

    Returns:
        What the format cannot hold, cause -> how often.
    """
    lost = 0
    for split, table in tables.items():
        check_names(table, NOT_IN_JSON, "JSON")
        lost += len(table) if coco_image_ids(table) != table.image_ids.tolist() else 0
        write_coco_file(folder / "annotations" / f"instances_{split}.json", table)
    return {TEXT_IDS: lost} if lost else {}


def write_coco_file(path: Path, table: Annotations) -> None:
    """Write the annotations of one split as a COCO file, its images with the ids of `coco_image_ids`."""
    texts = (f'"{name}": [\n{_lines(rows)}\n]' for name, rows in coco_lists(table).items())
    write_text(path, "{" + ",\n".join(texts) + "}\n")


def coco_lists(table: Annotations) -> dict[str, Iterable[dict[str, Any]]]:
    """The lists of a COCO file, in the order of the table; its images have the ids of `coco_image_ids`."""
    ids = coco_image_ids(table)
    return {
        "images": _images(table, ids),
        "annotations": _annotations(table, ids),
        "categories": [
            {"id": category_id, "name": name}
            for name, category_id in zip(table.label_map.names, table.label_map.category_ids, strict=True)
        ],
    }


def coco_image_ids(table: Annotations) -> list[int]:
    """The table's own ids if all are numbers from 0 up, else 1..I."""
    own: list[int] = table.image_ids.tolist()
    whole = table.image_ids.dtype.kind in "iu" and min(own) >= 0
    return own if whole else list(range(1, len(table) + 1))


def _images(table: Annotations, ids: list[int]) -> Iterable[dict[str, Any]]:
    for image_id, name, (height, width) in zip(ids, table.file_names.tolist(), table.sizes.tolist(), strict=True):
        size = {"width": width, "height": height} if height > 0 and width > 0 else {}
        yield {"id": image_id, "file_name": name, **size}


def _annotations(table: Annotations, ids: list[int]) -> Iterable[dict[str, Any]]:
    category_ids = [table.label_map.category_ids[label] for label in table.labels.tolist()]
    columns = (
        table.image_of_label().tolist(),
        category_ids,
        _xywh(table.boxes).tolist(),
        table.areas.tolist(),
        table.crowd.tolist(),
        table.difficult.tolist(),
    )
    for number, (row, category_id, box, area, crowd, difficult) in enumerate(zip(*columns, strict=True), start=1):
        yield {
            "id": number,
            "image_id": ids[row],
            "category_id": category_id,
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
            **({"difficult": 1} if difficult else {}),
        }


def _xywh(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Boxes [N, 4] as corner, width and height, with as few decimals as give the same float32 corners again."""
    corners = boxes.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        start = _shortest(corners[:, :2], np.zeros((len(boxes), 2)), boxes[:, :2])
        extent = _shortest(corners[:, 2:] - start, start, boxes[:, 2:])
    boxes_xywh: NDArray[np.float64] = np.concatenate([start, extent], axis=1)
    return boxes_xywh


def _shortest(
    values: NDArray[np.float64], offset: NDArray[np.float64], wanted: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The values with as few decimals as possible, so that `offset` + value is `wanted` in float32."""
    shortest: NDArray[np.float64] = values
    for decimals in range(9, -1, -1):
        rounded = np.round(values, decimals)
        same = (offset + rounded).astype(np.float32) == wanted
        shortest = np.where(same, rounded, shortest)
    return shortest


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    """One row in a line, as compact as JSON is."""
    return ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
