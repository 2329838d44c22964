"""Reader of COCO instance files: images, objects and categories become a table.

Which files and folders are COCO's is in `coco_layouts.py`, boxes of objects in `coco_boxes.py`; categories here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.classes import clean_name
from effdet.data.formats.coco_boxes import read_boxes
from effdet.data.formats.coco_json import Rows, read_lists
from effdet.data.formats.coco_values import IdLookup, as_integer, as_number, id_array
from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import build_table
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

UNLISTED_IMAGE = "objects of images that the file does not list left out"
UNLISTED_CATEGORY = "objects of categories that the file does not list left out"
GROUP_DROPPED = "categories without objects, named like another or a group, dropped"
_MARKS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


def read_coco(files: SplitFiles) -> Annotations:
    """Table of a COCO file.

    Category ids may start anywhere and have gaps; labels follow their ascending order. Image ids may be integers or
    texts. Images without annotations are kept. An object without `bbox` gets the box of its mask; one without both is
    left out, as are objects of images or categories that the file does not list. All of them are counted.

    Args:
        files: `annotations` is the file, `images` the folder that its `file_name` entries are relative to.

    Raises:
        DataError: the file is missing, no COCO file, or contradicts itself.
    """
    path = files.annotations
    images, annotations, categories = read_lists(path)
    repairs: dict[str, list[str]] = {}
    names = [_file_name(path, row, image) for row, image in enumerate(images)]
    image_ids = _column(path, "images", images, "id")
    image_of_id = IdLookup(image_ids)
    own_ids = id_array(image_ids)
    _check_ids(path, own_ids.tolist(), names)
    id_of_category = IdLookup(category.get("id") for category in categories)
    label_map, label_of = _classes(path, categories, annotations, id_of_category, repairs)
    kept, image_rows, labels = _owners(path, annotations, names, image_of_id, id_of_category, label_of, repairs)
    boxes, boxed = read_boxes(path, kept, [names[row] for row in image_rows], repairs)
    objects = [row for row, has_box in zip(kept.values(), boxed.tolist(), strict=True) if has_box]
    return build_table(
        source=path,
        image_folder=files.images,
        file_names=names,
        image_ids=own_ids,
        sizes=_sizes(images),
        image_of_box=np.array(image_rows, np.int64)[boxed],
        boxes=boxes[boxed],
        labels=np.array(labels, np.int64)[boxed],
        label_map=label_map,
        crowd=np.array([_is_crowd(path, row) for row in objects], np.bool_),
        areas=_areas(objects),
        difficult=np.array([is_difficult(row) for row in objects], np.bool_),
        repairs=repairs,
    )


def _column(path: Path, table: str, rows: Rows, key: str) -> list[Any]:
    """The value of `key` in every row."""
    try:
        return [row[key] for row in rows]
    except KeyError:
        number = next(number for number, row in enumerate(rows) if key not in row)
        raise DataError(f"{path}: {table}[{number}] has no '{key}'; every entry needs one") from None


def _file_name(path: Path, number: int, image: Mapping[str, Any]) -> str:
    """The name of an image; LVIS gives an address in its place."""
    name = image.get("file_name") or image.get("coco_url")
    if not name:
        raise DataError(f"{path}: images[{number}] has no 'file_name'; every entry needs one")
    return str(name)


def _check_ids(path: Path, ids: Sequence[Any], names: Sequence[str]) -> None:
    """Checks that no id stands for two images; an image may be listed twice."""
    name_of: dict[str, str] = {}
    for image_id, name in zip(ids, names, strict=True):
        if name_of.setdefault(str(image_id), name) != name:
            raise DataError(
                f"{path}: the images '{name_of[str(image_id)]}' and '{name}' have the same id {image_id!r}; every "
                f"image needs an id of its own"
            )


def _classes(
    path: Path, categories: Rows, annotations: Rows, lookup: IdLookup, repairs: dict[str, list[str]]
) -> tuple[LabelMap, list[int]]:
    """The classes in ascending order of their ids; and the label of every row of `categories`, -1 if it is dropped."""
    if not categories:
        raise DataError(f"{path}: 'categories' is empty; expected at least one class")
    names = [clean_name(name) for name in _column(path, "categories", categories, "name")]
    values = _column(path, "categories", categories, "id")
    ids = [_category_id(path, name, value) for name, value in zip(names, values, strict=True)]
    name_of: dict[int, str] = {}
    for category_id, name in zip(ids, names, strict=True):
        if name_of.setdefault(category_id, name) != name:
            raise DataError(
                f"{path}: category id {category_id} stands for '{name_of[category_id]}' and '{name}'; keep one"
            )
    annotated = {str(row.get("category_id")): row.get("category_id") for row in annotations}
    used = {ids[row] for row in lookup.rows_of(annotated.values()) if row >= 0}
    dropped = _dropped(path, name_of, _groups(categories, ids), used)
    if dropped:
        repairs[GROUP_DROPPED] = [f"'{name_of[category_id]}' (id {category_id})" for category_id in sorted(dropped)]
    kept = {category_id: name_of[category_id] for category_id in sorted(name_of) if category_id not in dropped}
    label_of = {category_id: label for label, category_id in enumerate(kept)}
    return LabelMap(tuple(kept.values()), tuple(kept)), [label_of.get(category_id, -1) for category_id in ids]


def _category_id(path: Path, name: str, value: Any) -> int:
    category_id = as_integer(value)
    if category_id is None or abs(category_id) >= 2**63:
        raise DataError(f"{path}: category '{name}' has the id {value!r}; expected an integer")
    return category_id


def _groups(categories: Rows, ids: Sequence[int]) -> set[int]:
    """Ids of categories that only group others: Roboflow's number 0."""
    above = {clean_name(row["supercategory"]) for row in categories if row.get("supercategory")}
    return {
        category_id
        for category_id, row in zip(ids, categories, strict=True)
        if category_id == 0 and row.get("supercategory") == "none" and clean_name(row["name"]) in above
    }


def _dropped(path: Path, name_of: Mapping[int, str], groups: set[int], used: set[int]) -> set[int]:
    """Ids of unused categories that group others or have the name of another."""
    dropped = {category_id for category_id in groups - used if len(name_of) > 1}
    ids_of: dict[str, list[int]] = {}
    for category_id, name in name_of.items():
        if category_id not in dropped:
            ids_of.setdefault(name, []).append(category_id)
    for name, ids in ids_of.items():
        annotated = [category_id for category_id in ids if category_id in used]
        if len(annotated) > 1:
            raise DataError(
                f"{path}: the categories {annotated[0]} and {annotated[1]} are both named '{name}', and both have "
                f"objects; give one of them another name in the file, data.rename can then merge them"
            )
        keep = annotated[0] if annotated else min(ids)
        dropped |= set(ids) - {keep}
    return dropped


def _owners(
    path: Path,
    annotations: Rows,
    names: Sequence[str],
    image_of_id: IdLookup,
    category_of_id: IdLookup,
    label_of: Sequence[int],
    repairs: dict[str, list[str]],
) -> tuple[dict[int, dict[str, Any]], list[int], list[int]]:
    """The annotations of listed images and categories by their number; the row of the image and the label of each."""
    rows = image_of_id.rows_of(row.get("image_id") for row in annotations)
    categories = category_of_id.rows_of(row.get("category_id") for row in annotations)
    _check_some_listed(path, "image", annotations, rows, image_of_id)
    _check_some_listed(path, "category", annotations, categories, category_of_id)
    dangling = [repr(row.get("image_id")) for row, image in zip(annotations, rows, strict=True) if image < 0]
    if dangling:
        repairs[UNLISTED_IMAGE] = [f"image id {image_id}" for image_id in dangling]
    unlisted = [names[image] for image, category in zip(rows, categories, strict=True) if image >= 0 > category]
    if unlisted:
        repairs[UNLISTED_CATEGORY] = unlisted
    kept = [number for number, row in enumerate(rows) if row >= 0 <= categories[number]]
    return (
        {number: annotations[number] for number in kept},
        [rows[number] for number in kept],
        [label_of[categories[number]] for number in kept],
    )


def _check_some_listed(path: Path, what: str, annotations: Rows, rows: Sequence[int], lookup: IdLookup) -> None:
    """Checks that some annotations are of listed images, or categories; that none is is a fault of the whole file."""
    if rows and max(rows) < 0:
        plural = {"image": "images", "category": "categories"}[what]
        raise DataError(
            f"{path}: none of the {len(rows)} annotations is of an entry of '{plural}': annotations[0] has the "
            f"{what}_id {annotations[0].get(f'{what}_id')!r}, the ids in '{plural}' are {_listed(lookup.ids)}"
        )


def _sizes(images: Rows) -> NDArray[np.int32]:
    """Sizes [I, 2] (H, W); 0 if the file does not say, or says no number."""
    values = [as_number(row.get(key)) for row in images for key in ("height", "width")]
    sizes = np.array(values, np.float64).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(sizes) & (sizes > 0) & (sizes < 2**31), sizes, 0).astype(np.int32)


def _is_crowd(path: Path, row: Mapping[str, Any]) -> bool:
    """Whether an object is marked as crowd; without a mark it is none."""
    value = row.get("iscrowd")
    if value is None or value == 0 or value == "":
        return False
    mark = _MARKS.get(value.strip().lower(), as_number(value)) if isinstance(value, str) else as_number(value)
    if mark != mark:
        raise DataError(f"{path}: an object of image {row.get('image_id')!r} has iscrowd {value!r}; expected 0 or 1")
    return mark != 0


def is_difficult(row: Mapping[str, Any]) -> bool:
    """Whether an object has VOC's mark of difficult objects, which files that were made from VOC's may have."""
    mark = as_number(row.get("difficult", 0))
    return mark == mark and mark != 0


def _areas(objects: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Areas [N] in square pixels, NaN where the file says none."""
    areas = np.array([as_number(row.get("area")) for row in objects], np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(areas) & (areas >= 0), areas, np.nan)


def _listed(items: Iterable[object]) -> str:
    """At most twenty items, for a message."""
    texts = [repr(item) for item in items]
    return ", ".join(texts[:20]) + (", ..." if len(texts) > 20 else "")
