"""Which column of a CSV file holds the image, the class and the box, by the names in its header or by its first rows.

Values are read in `boxes_csv.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

IMAGE_COLUMNS = (
    *("filename", "file", "file_name", "image", "image_path", "imagepath", "filepath", "file_path", "path"),
    *("image_name", "image_file", "img_path", "img", "image_uri", "gcs_file_path", "imageid", "image_id"),
)
CLASS_COLUMNS = (
    *("class", "label", "category", "class_name", "classname", "label_name", "labelname", "category_name", "name"),
    *("object", "class_id", "category_id", "label_id"),
)
SPLIT_COLUMNS = ("split", "set", "subset", "ml_use", "usage", "partition")
ML_USES = ("train", "training", "validate", "validation", "test", "unassigned", "")  # AutoML's names of splits
# Names of the numbers of a box; box_ and bbox_ may stand in front.
_LOW_X, _LOW_Y = ("xmin", "x_min", "x1", "left", "xtl", "min_x"), ("ymin", "y_min", "y1", "top", "ytl", "min_y")
_HIGH_X, _HIGH_Y = ("xmax", "x_max", "x2", "right", "xbr", "max_x"), ("ymax", "y_max", "y2", "bottom", "ybr", "max_y")
_CENTER_X, _CENTER_Y = ("x_center", "xcenter", "center_x", "cx"), ("y_center", "ycenter", "center_y", "cy")
_WIDTH, _HEIGHT = ("w", "width"), ("h", "height")
_BOX = ("bounding_box", "bbox", "box", "bounding_boxes", "bboxes", "boxes")
_IMAGE_SIZE = (("image_width", "img_width", "imagewidth", "width"), ("image_height", "img_height", "height"))

BoxForm = Literal["corners", "size", "center", "vertices", "list"]


class Columns(NamedTuple):
    """Which column of a CSV file of boxes holds what; None for what the file lacks.

    Attributes:
        total: number of columns.
        header: whether the first row names the columns.
        image: of the image's name.
        label: of the class.
        form: what `box` are: x1 y1 x2 y2; x y width height; center, width and height; x and y of two or more
            vertices in turn; or one column with lists of [x, y, width, height].
        box: columns of the box.
        fractions: whether the layout is known to have fractions of the image's width and height.
        size: of the image's height and width.
        split: of the name of the split.
        crowd: of the mark of crowd regions.
        difficult: of the mark of difficult objects.
    """

    total: int
    header: bool
    image: int
    label: int | None
    form: BoxForm
    box: tuple[int, ...]
    fractions: bool = False
    size: tuple[int, int] | None = None
    split: int | None = None
    crowd: int | None = None
    difficult: int | None = None


def box_columns(rows: Sequence[Sequence[str]]) -> Columns | None:
    """The columns of a CSV file of boxes, by its first rows that are not empty; None if it is none."""
    if not rows:
        return None
    return _by_header(rows[0]) or _by_values(rows)


def plain_name(name: str) -> str:
    """The name of a column as it is compared: lower case, words joined by underscores."""
    return re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")


def first_column(names: Sequence[str], known: Sequence[str]) -> int | None:
    """The first column whose name is known, best names first."""
    return next((names.index(name) for name in known if name in names), None)


def _by_header(header: Sequence[str]) -> Columns | None:
    names = [plain_name(name) for name in header]
    image = first_column(names, IMAGE_COLUMNS)
    found = _box_of_header(names)
    if image is None or found is None:
        return None
    form, box = found
    label = first_column(names, CLASS_COLUMNS)
    if label is None and form == "list":  # FiftyOne: ground_truth.detections.label
        label = next((column for column, name in enumerate(names) if name.endswith("_label")), None)
    sides = [next((i for i, name in enumerate(names) if name in known and i not in box), None) for known in _IMAGE_SIZE]
    width, height = sides
    split = first_column(names, SPLIT_COLUMNS)
    return Columns(
        total=len(names),
        header=True,
        image=image,
        label=label,
        form=form,
        box=box,
        fractions=names[image] == "imageid" or names[box[0]].endswith("detections_bounding_box") or form == "vertices",
        size=None if width is None or height is None else (height, width),
        split=split if split != label else None,
        crowd=first_column(names, ("crowd", "iscrowd", "is_crowd", "isgroupof")),
        difficult=first_column(names, ("difficult", "is_difficult")),
    )


def _box_of_header(names: Sequence[str]) -> tuple[BoxForm, tuple[int, ...]] | None:
    plain = [re.sub(r"^b?box_", "", name) for name in names]
    if sum(map(str.__ne__, plain, names)) >= 4:  # then width alone is the image's
        plain = [short if short != name else "" for short, name in zip(plain, names, strict=True)]
    if plain.count("x_min") > 1 or plain.count("x1") > 1:  # AutoML with four vertices
        lows = {*_LOW_X, *_HIGH_X, *_LOW_Y, *_HIGH_Y}
        return "vertices", tuple(column for column, name in enumerate(plain) if name in lows)
    forms: list[tuple[BoxForm, tuple[tuple[str, ...], ...]]] = [
        ("corners", (_LOW_X, _LOW_Y, _HIGH_X, _HIGH_Y)),
        ("center", (_CENTER_X, _CENTER_Y, _WIDTH, _HEIGHT)),
        ("size", (("x", *_LOW_X), ("y", *_LOW_Y), _WIDTH, _HEIGHT)),
    ]
    for form, numbers in forms:
        columns = [first_column(plain, known) for known in numbers]
        if None not in columns:
            return form, tuple(column for column in columns if column is not None)
    whole = first_column(plain, _BOX)
    if whole is None:
        whole = next((column for column, name in enumerate(names) if name.endswith("_bounding_box")), None)
    return None if whole is None else ("list", (whole,))


def _by_values(rows: Sequence[Sequence[str]]) -> Columns | None:
    """The columns of a file without a header: those of keras-retinanet, of AutoML and of TensorFlow's tutorials."""
    count = max(map(len, rows))
    if 9 <= count <= 11 and all(row[0].lower() in ML_USES and _are_numbers(row[3:]) for row in rows):
        return Columns(count, False, 1, 2, "vertices", tuple(range(3, 3 + (count - 3) // 2 * 2)), True, split=0)
    if count == 10 and all(_are_numbers(row[2:]) for row in rows):  # AutoML without the column of splits
        return Columns(count, False, 0, 1, "vertices", tuple(range(2, 10)), True)
    if count == 8 and all(_are_numbers([*row[1:3], *row[4:]]) for row in rows):
        return Columns(count, False, 0, 3, "corners", (4, 5, 6, 7), size=(2, 1))
    if count == 6 and all(_are_numbers(row[1:5]) for row in rows):
        return Columns(count, False, 0, 5, "corners", (1, 2, 3, 4))
    return None


def _are_numbers(fields: Sequence[str]) -> bool:
    return all(
        re.fullmatch(r"[-+]?(\d+[.,]?\d*|[.,]\d+)([eE][-+]?\d+)?|nan|", field, re.IGNORECASE) for field in fields
    )
