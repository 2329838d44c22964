"""Reader of COCO instance files: one JSON with images, annotations and categories.

Segmentations are not read. Boxes are [x, y, width, height] in the file and xyxy in the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.split_files import WHOLE, SplitFiles
from effdet.data.formats.table import build_table
from effdet.data.label_map import LabelMap
from effdet.errors import DataError


def find_coco(path: Path) -> dict[str, SplitFiles]:
    """The splits of a COCO data set at a path: annotations/instances_SPLIT.json and images in SPLIT/, or one file."""
    if path.is_file():
        return {WHOLE: SplitFiles(path, path.parent)} if path.suffix.lower() == ".json" else {}
    splits = {}
    for file in sorted(path.glob("annotations/instances_*.json")):
        name = file.stem.removeprefix("instances_")
        folder = path / name
        splits[name] = SplitFiles(file, folder if folder.is_dir() else path)
    if not splits:
        files = sorted(path.glob("[!.]*.json"))
        splits = {WHOLE if len(files) == 1 else file.stem: SplitFiles(file, path) for file in files}
    return splits


def read_coco(files: SplitFiles) -> Annotations:
    """Table of a COCO file.

    Category ids may start anywhere and have gaps; labels follow their ascending order. Image ids may be integers or
    strings. Images without annotations are kept.

    Args:
        files: `annotations` is the file, `images` the folder that its `file_name` entries are relative to.

    Raises:
        DataError: the file is missing, no COCO file, contradicts itself, or names images that do not exist.
    """
    json_path = files.annotations
    images, annotations, categories = _read_lists(json_path)
    names = _categories(json_path, categories)
    label_map = LabelMap(tuple(names.values()), tuple(names))
    image_ids, row_of_image = _image_ids(json_path, images)
    return build_table(
        source=json_path,
        image_folder=files.images,
        file_names=[str(name) for name in _column(json_path, "images", images, "file_name")],
        image_ids=image_ids,
        sizes=_sizes(json_path, images),
        image_of_box=_image_rows(json_path, annotations, row_of_image),
        boxes=_boxes(json_path, annotations),
        labels=_labels(json_path, annotations, label_map.label_of()),
        label_map=label_map,
        crowd=_crowd(json_path, annotations),
        areas=_numbers(json_path, "annotations", "area", [row.get("area") for row in annotations]),
    )


def _read_lists(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file; check the path") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not valid JSON, line {error.lineno} column {error.colno}: {error.msg.lower()}; "
            f"write the file again"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a JSON text: {error.reason} at byte {error.start}; expected UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: the annotation file cannot be read: {error.strerror or error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a COCO file; expected an object with 'images', 'annotations' and 'categories'")
    lists = []
    for key in ("images", "annotations", "categories"):
        rows = content.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            fault = "is not a list of objects" if key in content else "is missing"
            raise DataError(f"{path}: not a COCO instances file: '{key}' {fault}")
        lists.append(rows)
    return lists[0], lists[1], lists[2]


def _column(path: Path, table: str, rows: list[dict[str, Any]], key: str) -> list[Any]:
    """The value of `key` in every row."""
    try:
        return [row[key] for row in rows]
    except KeyError:
        number = next(number for number, row in enumerate(rows) if key not in row)
        raise DataError(f"{path}: {table}[{number}] has no '{key}'; every entry needs one") from None


def _categories(path: Path, categories: list[dict[str, Any]]) -> dict[int, str]:
    """Name of every category id, in ascending order of the ids."""
    names: dict[int, str] = {}
    for value, name in zip(
        _column(path, "categories", categories, "id"), _column(path, "categories", categories, "name"), strict=True
    ):
        category_id = _integer(value)
        if category_id is None:
            raise DataError(f"{path}: category '{name}' has the id {value!r}; expected an integer")
        if category_id in names:
            raise DataError(
                f"{path}: category id {category_id} stands for '{names[category_id]}' and '{name}'; keep one"
            )
        if str(name) in names.values():
            raise DataError(f"{path}: two categories are named '{name}'; rename or merge them")
        names[category_id] = str(name)
    if not names:
        raise DataError(f"{path}: 'categories' is empty; expected at least one class")
    return dict(sorted(names.items()))


def _integer(value: Any) -> int | None:
    """The integer that a number or a text stands for, None if it is something else."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if isinstance(value, float) and value != number else number


def _image_ids(path: Path, images: list[dict[str, Any]]) -> tuple[NDArray[Any], dict[str, int]]:
    """Ids [I], integers or strings as in the file; and the row of every id, written as text."""
    ids = _column(path, "images", images, "id")
    row_of_image = {str(image_id): row for row, image_id in enumerate(ids)}
    if len(row_of_image) < len(ids):
        double = next(image_id for row, image_id in enumerate(ids) if row_of_image[str(image_id)] != row)
        raise DataError(f"{path}: two images have the id {double!r}; every image needs an id of its own")
    if all(isinstance(image_id, int) for image_id in ids):
        limits = np.iinfo(np.int64)
        if all(limits.min <= image_id <= limits.max for image_id in ids):
            return np.array(ids, np.int64), row_of_image
    return np.array([str(image_id) for image_id in ids], np.str_), row_of_image


def _sizes(path: Path, images: list[dict[str, Any]]) -> NDArray[np.int32]:
    """Sizes [I, 2] (H, W); 0 if the file does not say."""
    values = [row.get(key) for row in images for key in ("height", "width")]
    sizes = _numbers(path, "images", "height or width", values).reshape(-1, 2)
    return np.where(np.isfinite(sizes) & (sizes < 2**31), sizes, 0).astype(np.int32)


def _image_rows(path: Path, annotations: list[dict[str, Any]], row_of_image: dict[str, int]) -> NDArray[np.int64]:
    """Row of the image of every annotation, [N]."""
    ids = _column(path, "annotations", annotations, "image_id")
    rows = [row_of_image.get(str(image_id), -1) for image_id in ids]
    if -1 in rows:
        number = rows.index(-1)
        raise DataError(
            f"{path}: annotations[{number}] is of image {ids[number]!r}, which 'images' does not list; "
            f"add the image or remove the {rows.count(-1)} annotations without one"
        )
    return np.array(rows, np.int64)


def _boxes(path: Path, annotations: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Boxes [N, 4] xyxy."""
    values = _column(path, "annotations", annotations, "bbox")
    for number, box in enumerate(values):
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{path}: annotations[{number}] has the bbox {box!r}; expected [x, y, width, height]")
    boxes = _numbers(path, "annotations", "bbox", values).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        boxes[:, 2:] += boxes[:, :2]
    return boxes


def _crowd(path: Path, annotations: list[dict[str, Any]]) -> NDArray[np.bool_]:
    """Whether every annotation, [N], is a crowd; without `iscrowd` it is none."""
    given = _numbers(path, "annotations", "iscrowd", [row.get("iscrowd") or 0 for row in annotations])
    crowd: NDArray[np.bool_] = given != 0
    return crowd


def _labels(path: Path, annotations: list[dict[str, Any]], label_of: dict[int, int]) -> NDArray[np.int64]:
    """Label of every annotation, [N]."""
    values = _column(path, "annotations", annotations, "category_id")
    category_of = {str(value): _integer(value) for value in values}
    labels = {text: label_of.get(number) for text, number in category_of.items() if number is not None}
    faulty = next((row for row, value in enumerate(values) if labels.get(str(value)) is None), None)
    if faulty is not None:
        raise DataError(
            f"{path}: annotations[{faulty}] has the category id {values[faulty]!r}, which 'categories' does not list; "
            f"expected one of {_listed(label_of)}"
        )
    return np.array([labels[str(value)] for value in values], np.int64)


def _numbers(path: Path, table: str, key: str, values: Sequence[Any]) -> NDArray[np.float64]:
    """The values as numbers, NaN for null."""
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {table} have a {key} that is no number: {error}") from None


def _listed(items: Iterable[object]) -> str:
    """At most twenty items, for a message."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:20]) + (", ..." if len(texts) > 20 else "")
