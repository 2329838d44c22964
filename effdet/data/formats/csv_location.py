"""Where the CSV files of boxes of a data set are, which splits they hold and in which folder their images are.

The files are read in `boxes_csv.py`.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from effdet.data.formats.csv_columns import Columns, box_columns
from effdet.data.formats.csv_rows import box_rows
from effdet.data.formats.csv_text import first_rows, read_rows
from effdet.data.formats.image_files import find_image
from effdet.data.formats.split_files import WHOLE, SplitFiles

CSV_SUFFIX = ".[cCtT][sS][vV]"  # in patterns of file names
FIRST_ROWS = 5  # by which the columns are recognized
FIRST_IMAGES = 8  # by which the folder of the images is chosen
UNASSIGNED = "unassigned"  # name of the split of lines without one
_COMMON = ("annotations", "annotation", "labels", "csv", "data", "images")  # names of folders that are no splits
# Words in names of files besides the name of the split, as in train_labels.csv or train-annotations-bbox.csv.
_NOISE = {"annotations", "annotation", "labels", "label", "bbox", "bboxes", "boxes", "box", "csv", "data", "detections"}
_IMAGE_FOLDERS = ("", "images", "data", "JPEGImages", "{split}", "images/{split}", "{split}/images", "data/{split}")


def find_boxes_csv(path: Path) -> dict[str, SplitFiles]:
    """The splits of CSV files of boxes at a path: a file with all splits or one for each, also in folders of theirs.

    Beside a file there may be other files: lists of classes, lists of images with a class each.
    """
    if path.is_file():
        columns = csv_box_columns(path)
        return {} if columns is None else _splits_of_file(path, columns, WHOLE)
    for files in (sorted(path.glob(f"[!.]*{CSV_SUFFIX}")), sorted(path.glob(f"[!.]*/*{CSV_SUFFIX}"))):
        with_columns = [(file, columns) for file in files if (columns := csv_box_columns(file)) is not None]
        if len(with_columns) == 1 and with_columns[0][0].parent == path:
            file, columns = with_columns[0]
            return _splits_of_file(file, columns, _split_name(file, path))
        if with_columns:
            return _one_split_each(with_columns, path)
    return {}


def csv_box_columns(path: Path) -> Columns | None:
    """The columns of a CSV file of boxes; None if it is something else."""
    return box_columns(first_rows(path, FIRST_ROWS)) if path.suffix.lower() in (".csv", ".tsv") else None


def _splits_of_file(path: Path, columns: Columns, whole: str) -> dict[str, SplitFiles]:
    """The splits that a column of a file names; the split `whole` without such a column."""
    files = SplitFiles(path, _image_folder(path, columns, whole))
    if columns.split is None:
        return {whole: files}
    members: dict[str, str] = {}
    for _, fields in box_rows(read_rows(path)[0], columns, [])[0]:
        member = fields[columns.split].strip()
        members.setdefault(member.lower(), member)
    names = {"validate": "validation", "": UNASSIGNED}  # AutoML's
    return {names.get(key, member): files._replace(member=member) for key, member in members.items()}


def _one_split_each(files: list[tuple[Path, Columns]], root: Path) -> dict[str, SplitFiles]:
    splits: dict[str, SplitFiles] = {}
    for file, columns in files:
        name = _split_name(file, root)
        name = name if name not in splits else file.stem
        splits[name] = SplitFiles(file, _image_folder(file, columns, name, root))
    return splits


def _split_name(file: Path, root: Path) -> str:
    """The name of the split of a file: its folder's name, or its own without words such as labels."""
    words = [word for word in re.split(r"[-_. ]+", file.stem) if word and word.lower() not in _NOISE]
    own = "_".join(words)
    if file.parent != root and file.parent.name.lower() not in _COMMON:
        return file.parent.name
    return own or WHOLE


def _image_folder(file: Path, columns: Columns, split: str, root: Path | None = None) -> Path:
    """The folder in which the first images of a file are, by the usual places; the file's own if they are nowhere."""
    rows = itertools.islice(box_rows(iter(enumerate(first_rows(file, 200))), columns, [])[0], 200)
    names = list(dict.fromkeys(fields[columns.image].strip() for _, fields in rows))[:FIRST_IMAGES]
    bases = [file.parent, *([root] if root not in (None, file.parent) else []), file.parent.parent]
    best, most = file.parent, 0
    for base, below in itertools.product(bases, _IMAGE_FOLDERS):
        folder = base / below.format(split=split)
        if folder.is_dir():
            count = sum(find_image(folder, name) is not None for name in names)
            if count > most:
                best, most = folder, count
        if most == len(names):
            break
    return best
