"""Corrected copies of the annotations of a split as COCO, with the rows of a review applied.

Of a data set in COCO format the annotations keep their ids and all their fields, such as masks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effdet.data.annotations import Annotations
from effdet.data.formats.coco_json import CocoLists, looks_like_coco, read_lists
from effdet.data.formats.coco_values import as_number
from effdet.data.formats.coco_writer import coco_lists
from effdet.diagnosis.review.rows import Row
from effdet.diagnosis.review.views import overlap_matrix
from effdet.errors import DataError
from effdet.files import write_text

_SAME_BOX = 0.9  # IoU of a box of a table with the annotation that it was read from, which may have been clipped


def write_proposals(path: Path, table: Annotations, rows: Sequence[Row]) -> None:
    """Writes a corrected copy of the annotations of a split.

    Boxes of missed objects are added, misnamed ones renamed and spurious ones removed. A changed annotation has a field
    `review` with the change, the reason and the probability; removed ones are in a list of their own, `removed`.

    Args:
        path: the file.
        table: the split as it is annotated.
        rows: the changes.
    """
    lists = _original_lists(table)
    changed = None if lists is None else _changed_annotations(lists, table, rows)
    if lists is None or changed is None:
        lists = CocoLists(*map(list, coco_lists(table).values()))
        starts = table.offsets.tolist()
        changed = [
            None if row.number is None else lists.annotations[starts[row.image] + row.number - 1] for row in rows
        ]
    category_of = dict(zip(table.label_map.names, table.label_map.category_ids, strict=True))
    ids = [int(number) for number in (as_number(each.get("id")) for each in lists.annotations) if np.isfinite(number)]
    next_id = max(ids, default=0) + 1
    removed: set[int] = set()
    for row, annotation in zip(rows, changed, strict=True):
        if annotation is None:
            added = _added(row, next_id, lists.images[row.image]["id"], category_of[str(row.proposed)])
            lists.annotations.append(added)
            next_id += 1
        elif row.proposed:
            annotation.update(category_id=category_of[row.proposed], review=_note("renamed", row))
        else:
            annotation["review"] = _note("removed", row)
            removed.add(id(annotation))
    content = {
        "images": lists.images,
        "annotations": [each for each in lists.annotations if id(each) not in removed],
        "categories": lists.categories,
        "removed": [each for each in lists.annotations if id(each) in removed],
    }
    write_text(path, json.dumps(content, separators=(",", ":")) + "\n")


def _original_lists(table: Annotations) -> CocoLists | None:
    """The lists of the COCO file of a table, its images in their order; None if it has no such file or classes."""
    if not table.source.is_file() or not looks_like_coco(table.source):
        return None
    try:
        lists = read_lists(table.source)
    except DataError:  # removed since it was read
        return None
    ids = [str(image_id) for image_id in table.image_ids.tolist()]
    image_of = {str(image.get("id")): image for image in lists.images}
    known = {(str(each.get("name")), each.get("id")) for each in lists.categories}
    own = set(zip(table.label_map.names, table.label_map.category_ids, strict=True))
    if not own <= known or not set(ids) <= image_of.keys():
        return None
    in_split = set(ids)
    annotations = [each for each in lists.annotations if str(each.get("image_id")) in in_split]
    return CocoLists([image_of[own_id] for own_id in ids], annotations, lists.categories)


def _changed_annotations(
    lists: CocoLists, table: Annotations, rows: Sequence[Row]
) -> list[dict[str, Any] | None] | None:
    """The annotation of the box of each row, None for a missed object; None in all if one is not known for certain."""
    by_image: dict[str, list[dict[str, Any]]] = {}
    for each in lists.annotations:
        by_image.setdefault(str(each.get("image_id")), []).append(each)
    category_of = dict(zip(table.label_map.names, table.label_map.category_ids, strict=True))
    changed: list[dict[str, Any] | None] = []
    taken: set[int] = set()
    for row in rows:
        if row.given is None:
            changed.append(None)
            continue
        annotation = _annotation_of(
            row, by_image.get(str(table.image_id(row.image)), []), category_of[row.given], taken
        )
        if annotation is None:
            return None
        taken.add(id(annotation))
        changed.append(annotation)
    return changed


def _annotation_of(
    row: Row, annotations: Sequence[dict[str, Any]], category_id: int, taken: set[int]
) -> dict[str, Any] | None:
    """The annotation of an image that has the class and box of a row."""
    candidates = [
        each
        for each in annotations
        if each.get("category_id") == category_id and id(each) not in taken and len(each.get("bbox") or ()) == 4
    ]
    if not candidates:
        return None
    boxes = np.array([[as_number(side) for side in each["bbox"]] for each in candidates])
    boxes[:, 2:] += boxes[:, :2]
    overlaps = overlap_matrix(np.array([row.box]), boxes)[0]
    best = int(np.nanargmax(overlaps)) if np.isfinite(overlaps).any() else 0
    return candidates[best] if overlaps[best] >= _SAME_BOX else None


def _added(row: Row, number: int, image_id: int | str, category_id: int) -> dict[str, Any]:
    left, top, right, bottom = row.box
    width, height = round(right - left, 2), round(bottom - top, 2)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [left, top, width, height],
        "area": round(width * height, 2),
        "iscrowd": 0,
        "review": _note("added", row),
    }


def _note(change: str, row: Row) -> dict[str, Any]:
    note = {"change": change, "reason": row.reason, "probability": row.probability, "confidence": row.confidence}
    return {**note, "from": row.given} if change == "renamed" else note
