"""JSON files of COCO annotations: which files are some, and their three lists of objects.

What the objects mean is read in `coco.py`; in which folders the files are is in `coco_layouts.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from effdet.data.formats.annotation_files import open_file, read_file
from effdet.errors import DataError
from effdet.plain_data import parse_json

KEYS = ("images", "annotations", "categories")
_PEEKED = 65536  # bytes at the start and at the end of a file that are looked at
_NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')

Rows = list[dict[str, Any]]


class CocoLists(NamedTuple):
    """The lists of a COCO file that are read, with the objects as they stand there."""

    images: Rows
    annotations: Rows
    categories: Rows


def looks_like_coco(path: Path) -> bool:
    """Whether a file seems to hold COCO instances, by the keys at its start and end; it is not read whole."""
    text = _peek(path)
    if not text.lstrip("\ufeff\ufffd \t\r\n").startswith("{"):  # after a byte order mark
        return False
    if '"segments_info"' in text or ('"caption"' in text and '"bbox"' not in text):
        return False
    keys = [key for key in KEYS if re.search(rf'"{key}"\s*:\s*\[', text)]
    # Between a long list of images and the last annotations, the other keys may be out of sight.
    return len(keys) >= 2 or ("images" in keys and '"category_id"' in text)


def first_file_name(path: Path) -> str | None:
    """The name of the first image of a COCO file; None if it does not stand near the start or the end."""
    match = _NAME.search(_peek(path))
    if match is None:
        return None
    try:
        return str(parse_json(match[1]))
    except ValueError:
        return None


def read_lists(path: Path) -> CocoLists:
    """The lists of a COCO file in UTF-8, UTF-16 or UTF-32.

    Raises:
        DataError: the file is missing, no JSON, or holds something else than COCO instances.
    """
    try:
        content = parse_json(read_file(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not valid JSON, line {error.lineno} column {error.colno}: {error.msg.lower()}; "
            f"write the file again"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a JSON text: {error.reason} at byte {error.start}; expected UTF-8 or UTF-16"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as annotations: {error}; write the file again") from None
    other = _other_content(content)
    if other:
        raise DataError(f"{path}: not a COCO instances file: {other}")
    lists = []
    for key in KEYS:
        rows = content.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            fault = "is not a list of objects" if key in content else "is missing"
            raise DataError(f"{path}: not a COCO instances file: '{key}' {fault}")
        lists.append(rows)
    return CocoLists(*lists)


def _peek(path: Path) -> str:
    """Text at the start and at the end of a file; empty if it cannot be read."""
    try:
        with open_file(path) as file:
            data = file.read(_PEEKED)
            length = file.seek(0, 2)
            file.seek(max(_PEEKED, length - _PEEKED))
            data += b"\n" + file.read()
    except (DataError, OSError):
        return ""
    return data.replace(b"\0", b"").decode("utf-8", errors="replace")  # without the zeros, UTF-16 is readable too


def _other_content(content: Any) -> str | None:
    """What a JSON file holds, with advice, where it is known to be something else than COCO instances."""
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict):
        if {"image_id", "category_id"} <= first.keys():
            return (
                "it is a list of results (image_id, category_id, bbox, score), which names no images and classes; give "
                "the annotation file that the results are for"
            )
        if "annotations" in first and ("data" in first or "file_upload" in first):
            return "it is Label Studio's own JSON; export the project as COCO or YOLO instead"
    if not isinstance(content, dict):
        return "expected an object with 'images', 'annotations' and 'categories'"
    rows = content.get("annotations")
    row = rows[0] if isinstance(rows, list) and rows else None
    if isinstance(row, dict) and "bbox" not in row:
        if "caption" in row:
            return "its annotations are captions; give the file of the instances, such as instances_train2017.json"
        if "segments_info" in row:
            return "its annotations are panoptic segments; give the file of the instances"
    if "shapes" in content and "imagePath" in content:
        return "it is the annotation of one image by labelme; convert the folder to COCO"
    if "_via_img_metadata" in content:
        return "it is a project of the VGG Image Annotator; export it as COCO"
    return None
