"""Writer of Pascal VOC annotations: an XML file for each image and a list for each split.

Copying the images, and reading the result, is done elsewhere.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

import numpy as np

from effdet.data.annotations import Annotations
from effdet.data.formats.classes import ordered_names
from effdet.data.image_table import ImageTable
from effdet.errors import DataError
from effdet.text import HALF, HALVES

NOT_IN_JSON = HALF  # bytes of a name that is no text
NOT_IN_CSV = re.compile(f"[\0\r{HALVES}]")  # a lone \r ends a line
# Neither in XML nor in a list with a name in each line.
_NOT_IN_XML = re.compile(f"[\x00-\x1f\x7f\x85\u2028\u2029\ufffe\uffff{HALVES}]")
VOC_IMAGES = "JPEGImages"  # folder for the images, as `Annotations.file_name` calls them
CROWDS = "crowd regions left out"
MASKS = "areas of masks, which become those of the boxes"
DIFFICULT = "marks of difficult objects"
IMAGE_IDS = "image ids"
CATEGORY_IDS = "category ids"
UNUSED = "classes without objects"
_ALLOWED_AREA = 0.01  # relative difference to the area of the box


def write_voc(folder: Path, tables: Mapping[str, Annotations]) -> dict[str, int]:
    """Write Annotations/NAME.xml for each image, and ImageSets/Main/SPLIT.txt for each split.

    The images belong in the folder `VOC_IMAGES`. Boxes are read back exactly.

    Args:
        folder: of the data set.
        tables: by the names of their splits; `file_name` is relative, and one name is one image in all tables.

    Returns:
        What the format cannot hold: cause -> how many.

    Raises:
        DataError: two images differ in their suffix alone, so that their XML files would have one name; or a name has
            characters that XML or a list cannot hold.
    """
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    losses: Counter[str] = Counter()
    for split, table in tables.items():
        check_names(table, _NOT_IN_XML, "VOC")
        stems = []
        for index in range(len(table)):
            stem = file_stem(table.file_name(index), written)
            path = folder / "Annotations" / f"{stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_xml(table, index), encoding="utf-8", errors="surrogateescape")
            losses[IMAGE_IDS] += not is_file_name(table, index)
            stems.append(stem)
        text = "".join(f"{stem}\n" for stem in stems)
        (lists / f"{split}.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
        losses.update(common_losses(table))
    losses.update(_class_losses(tables))
    return {cause: count for cause, count in losses.items() if count}


def file_stem(file_name: str, written: dict[str, str]) -> str:
    """Name of an image without suffix; `written` has those before, by their names without suffix.

    Raises:
        DataError: the name is that of another image, with another suffix.
    """
    name = _with_slashes(file_name)
    stem = str(PurePosixPath(name).with_suffix(""))
    if written.setdefault(stem, name) != name:
        raise DataError(f"{written[stem]} and {name} differ in their suffix alone; rename one, labels have no suffix")
    return stem


def is_file_name(table: Annotations, index: int) -> bool:
    """Whether the id of an image is its file name, with or without suffix, and so is kept by all formats."""
    name = PurePosixPath(_with_slashes(table.file_name(index)))
    return str(table.image_id(index)) in (str(name), str(name.with_suffix("")))


def _with_slashes(file_name: str) -> str:
    """A file name with slashes; a backslash is a letter of the name but on Windows."""
    return file_name.replace(os.sep, "/")


def common_losses(table: Annotations) -> dict[str, int]:
    """What formats of boxes alone cannot hold: crowd regions, and areas of masks."""
    sides = np.abs(table.boxes[:, 2:].astype(np.float64) - table.boxes[:, :2])
    areas = sides.prod(axis=1)
    masks = ~table.crowd & (np.abs(table.areas - areas) > _ALLOWED_AREA * areas)
    return {CROWDS: int(table.crowd.sum()), MASKS: int(masks.sum())}


def _class_losses(tables: Mapping[str, Annotations]) -> dict[str, int]:
    """VOC has the names of annotated classes alone; they are numbered from 1 in the order of their names."""
    kept: set[str] = set()
    ids: dict[str, int] = {}
    for table in tables.values():
        names = table.label_map.names
        kept |= {names[label] for label in np.unique(table.labels[~table.crowd]).tolist()}
        ids.update(zip(names, table.label_map.category_ids, strict=True))
    new_id = {name: number for number, name in enumerate(ordered_names(kept), 1)}
    changed = sum(ids[name] != number for name, number in new_id.items())
    return {UNUSED: len(ids) - len(kept), CATEGORY_IDS: changed}


def check_names(table: ImageTable, lacking: re.Pattern[str], format_name: str) -> None:
    """Does nothing if a format can hold the names of images and classes.

    Raises:
        DataError: a name has a character that the format lacks.
    """
    for name in (*table.label_map.names, *table.file_names.tolist()):
        if lacking.search(name):
            raise DataError(f"{table.source}: the name {name!r} has a character that {format_name} lacks; rename it")


def _xml(table: Annotations, index: int) -> str:
    name = _with_slashes(table.file_name(index))
    height, width = table.sizes[index].tolist()
    lines = [
        "<annotation>",
        f"  <folder>{VOC_IMAGES}</folder>",
        f"  <filename>{escape(name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    rows = table.rows(index)
    columns = (table.boxes[rows], table.labels[rows], table.difficult[rows], table.crowd[rows])
    for box, label, difficult, crowd in zip(*columns, strict=True):
        if crowd:
            continue
        edges = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        lines += [
            "  <object>",
            f"    <name>{escape(table.label_map.names[label])}</name>",
            f"    <difficult>{int(difficult)}</difficult>",
            f"    <bndbox>{''.join(f'<{edge}>{_number(value)}</{edge}>' for edge, value in edges)}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _number(value: np.float32) -> str:
    """The shortest decimal number that is read as the same float32."""
    return np.format_float_positional(value, trim="-")
