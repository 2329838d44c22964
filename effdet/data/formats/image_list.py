"""Reader of image lists: a CSV file with an image and its class in every line.

Images that are not in the list are not in the table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from effdet.data.formats.classes import ordered_names
from effdet.data.formats.csv_columns import CLASS_COLUMNS, IMAGE_COLUMNS, first_column, plain_name
from effdet.data.formats.csv_location import CSV_SUFFIX, csv_box_columns
from effdet.data.formats.csv_text import first_rows, read_rows
from effdet.data.formats.image_files import MISSING, OTHER_NAME, find_images, under_other_names
from effdet.data.formats.split_files import WHOLE, SplitFiles
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.errors import DataError

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}


def find_image_lists(path: Path) -> dict[str, SplitFiles]:
    """The lists of images with classes at a path: each CSV file in a folder, or the file; no lists of boxes."""
    if path.is_file():
        is_list = path.suffix.lower() in (".csv", ".tsv") and csv_box_columns(path) is None
        return {WHOLE: SplitFiles(path, path.parent)} if is_list else {}
    files = [file for file in sorted(path.glob(f"[!.]*{CSV_SUFFIX}")) if csv_box_columns(file) is None]
    named = [file for file in files if None not in _columns(next(iter(first_rows(file, 1)), []))]
    return {file.stem: SplitFiles(file, file.parent) for file in named or files}


def read_image_list(files: SplitFiles) -> ImageLabels:
    """Table of the images of a list.

    The first line names the columns; the image is in the first of `IMAGE_COLUMNS` that the file has, its class in the
    first of `CLASS_COLUMNS`, and all other columns are ignored. Repeated and empty lines are counted in the repairs.
    Classes are the names in the list, sorted.

    Args:
        files: `annotations` is the list, UTF-8 with commas, semicolons or tabs.

    Raises:
        DataError: the file is missing or no such list, or an image has two classes.
    """
    csv_path = files.annotations
    class_of, repairs = _read_classes(csv_path)
    names = ordered_names(class_of.values())
    label_of = {name: label for label, name in enumerate(names)}
    file_names, missing = find_images(csv_path, files.images, list(class_of))
    table = ImageLabels(
        source=csv_path,
        image_folder=files.images,
        file_names=np.array(file_names, np.str_),
        labels=np.array([label_of[name] for name in class_of.values()], np.int64),
        label_map=LabelMap(names, tuple(range(len(names)))),
        repairs=repairs,
    )
    others = under_other_names(files.images, list(class_of), file_names)
    return table.with_repairs(MISSING, len(missing), missing).with_repairs(OTHER_NAME, len(others), others)


def _read_classes(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Class of every image in the order of the list, and what was left out."""
    columns: tuple[int, int] | None = None  # of the image and of its class
    num_columns = 0
    class_of: dict[str, str] = {}
    num_rows = num_empty = 0
    rows, delimiter = read_rows(path)
    for number, row in rows:
        fields = [field.strip() for field in row]
        if not any(fields):
            num_empty += 1
            continue
        if columns is None:
            columns, num_columns = _read_header(path, fields), len(fields)
            continue
        num_rows += 1
        line = f"{path}: line {number}"
        if len(fields) != num_columns:
            raise DataError(
                f"{line} has {len(fields)} columns, the header {num_columns}; put names that hold a "
                f"{_DELIMITERS[delimiter]} in quotes"
            )
        image, name = (fields[column] for column in columns)
        if not image or not name:
            raise DataError(f"{line} has no {'class' if image else 'image'}; every line needs an image and its class")
        if class_of.setdefault(image, name) != name:
            raise DataError(
                f"{line}: {image} is '{name}' here and '{class_of[image]}' above; "
                f"an image has one class, keep one of the lines"
            )
    if not class_of:
        raise DataError(
            f"{path}: the list has no images; expected a header such as image,label and a line for each image"
        )
    repairs = {"empty lines left out": num_empty, "repeated lines left out": num_rows - len(class_of)}
    return class_of, {what: count for what, count in repairs.items() if count}


def _read_header(path: Path, fields: list[str]) -> tuple[int, int]:
    """Columns of the image and of its class."""
    image, name = _columns(fields)
    if image is None or name is None:
        raise DataError(
            f"{path}: the first line is '{','.join(fields)}', in which no column is named "
            f"{_alternatives(IMAGE_COLUMNS if image is None else CLASS_COLUMNS)}; expected a header such as image,label"
        )
    return image, name


def _columns(header: list[str]) -> tuple[int | None, int | None]:
    names = [plain_name(field) for field in header]
    image = first_column(names, IMAGE_COLUMNS)
    return image, first_column(["" if column == image else name for column, name in enumerate(names)], CLASS_COLUMNS)


def _alternatives(names: tuple[str, ...]) -> str:
    """The usual names in a text."""
    return f"{', '.join(names[:5])} or {names[5]}"
