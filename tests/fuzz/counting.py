"""How many objects annotation files hold, counted without the readers: what is read and what is dropped must add up.

The tables that are counted are checked in `sound_tables.py`.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

from effdet.data.formats import Tables
from effdet.data.formats.boxes_csv import BAD_LINES
from effdet.data.formats.coco import UNLISTED_CATEGORY, UNLISTED_IMAGE
from effdet.data.formats.coco_boxes import WITHOUT_BOX
from effdet.data.formats.table import LISTED_TWICE, NO_AREA, NOT_FINITE, OUTSIDE, UNKNOWN_SIZE
from effdet.data.formats.voc import NO_IMAGE, OTHERS_IMAGE
from effdet.data.formats.voc_xml import NO_BOX, NO_NAME, NO_NUMBER
from effdet.data.formats.yolo_labels import FAULTY, REPEATED, TOO_LARGE
from effdet.data.formats.yolo_layout import is_label_file

from .sound_tables import dropped, objects_of, tables_of

_BY_TABLE = (UNKNOWN_SIZE, NOT_FINITE, NO_AREA, OUTSIDE)


def check_coco_count(tables: Tables, root: Path) -> None:
    """Asserts that no image and no object of a COCO file is lost."""
    path = root / "instances.json"
    content = json.loads(path.read_bytes())
    causes = (*_BY_TABLE, UNLISTED_IMAGE, UNLISTED_CATEGORY, WITHOUT_BOX)
    _check_sum(objects_of(tables), dropped(tables, causes), len(content["annotations"]), "objects")
    _check_sum(sum(map(len, tables_of(tables))), dropped(tables, (LISTED_TWICE,)), len(content["images"]), "images")


def check_voc_count(tables: Tables, root: Path) -> None:
    """Asserts that no XML file and no object in those of the images is lost."""
    names = {str(name) for table in tables_of(tables) for name in table.image_ids.tolist()}
    folder = root / "Annotations" if (root / "Annotations").is_dir() else root
    held = 0
    for name in names:
        content = ElementTree.fromstring((folder / f"{name}.xml").read_bytes().lstrip())
        held += sum(str(child.tag).rpartition("}")[2].lower() == "object" for child in content)
    causes = (*_BY_TABLE, NO_NAME, NO_BOX, NO_NUMBER)
    _check_sum(objects_of(tables), dropped(tables, causes), held, "objects")
    if not (root / "ImageSets").is_dir():
        files = len(list(folder.rglob("*.xml")))
        _check_sum(len(names), dropped(tables, (NO_IMAGE, OTHERS_IMAGE)), files, "XML files")


def check_yolo_count(tables: Tables, root: Path) -> None:
    """Asserts that no line of a label file is lost."""
    folder = root / "labels" / "train"
    held = 0
    for table in tables_of(tables):
        for name in table.file_names.tolist():
            path = folder / f"{Path(name).stem}.txt"
            data = path.read_bytes() if path.is_file() and is_label_file(path.name) else b""
            wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
            held += sum(bool(line.split()) for line in data.decode("utf-16" if wide else "utf-8-sig").splitlines())
    causes = (*_BY_TABLE, FAULTY, REPEATED, TOO_LARGE)
    _check_sum(objects_of(tables), dropped(tables, causes), held, "label lines")


def check_csv_count(tables: Tables, root: Path) -> None:
    """Asserts that no line of a CSV file with the usual header is lost."""
    rows = _csv_rows(root / "labels.csv")
    if [field.strip() for field in rows[0]] != ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]:
        return
    without_box = sum(bool(row[0].strip()) and not any(map(str.strip, row[4:])) for row in rows[1:])
    held = len(rows) - 1 - without_box
    _check_sum(objects_of(tables), dropped(tables, (*_BY_TABLE, BAD_LINES)), held, "lines")


def check_list_count(tables: Tables, root: Path) -> None:
    """Asserts that no line of a list of images is lost."""
    images = sum(map(len, tables_of(tables)))
    _check_sum(images, dropped(tables, ("repeated lines left out",)), len(_csv_rows(root / "labels.csv")) - 1, "lines")


def _csv_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file that are not empty."""
    text = path.read_bytes().decode("utf-8-sig")
    first = next(filter(str.strip, text.splitlines()), "")
    delimiter = max(",;\t", key=first.count)
    return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(map(str.strip, row))]


def _check_sum(read: int, left_out: int, held: int, what: str) -> None:
    assert read + left_out == held, f"{held} {what} in the file, {read} read, {left_out} counted as left out"
