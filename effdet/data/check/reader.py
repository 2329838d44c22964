"""Findings that the reader of a format makes: what it left out, guessed or changed.

Boxes are repaired after reading; their faults are the subject of `boxes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from effdet.data.check.findings import Finding, Place, Severity, Split
from effdet.data.formats import boxes_csv, coco, coco_boxes, voc, voc_xml, yolo, yolo_labels
from effdet.data.formats.image_files import MISSING
from effdet.data.image_table import MAX_PLACES

_NAMED_ELSEWHERE = frozenset({MISSING, voc.NO_XML, yolo.NO_LABELS})  # by findings about images and objects
_LOSSES = frozenset(
    {
        boxes_csv.BAD_LINES,
        coco.UNLISTED_CATEGORY,
        coco.UNLISTED_IMAGE,
        coco_boxes.WITHOUT_BOX,
        voc.NOT_THERE,
        voc.NO_IMAGE,
        voc.OTHERS_IMAGE,
        voc_xml.NO_BOX,
        voc_xml.NO_NAME,
        voc_xml.NO_NUMBER,
        yolo.ABSENT,
        yolo.NO_IMAGE,
        yolo.SHARED,
        yolo_labels.FAULTY,
        yolo_labels.REPEATED,
        yolo_labels.TOO_LARGE,
    }
)


def reader_findings(split: Split) -> Iterator[Finding]:
    """What the reader of a split left out, which is a problem, and what it guessed or changed, which is a note."""
    table = split.table
    row_of = {name: row for row, name in enumerate(table.file_names.tolist())} if table.repairs else {}
    for cause, count in table.repairs.items():
        if cause in _NAMED_ELSEWHERE:
            continue
        severity: Severity = "problem" if cause in _LOSSES else "note"
        names = table.places.get(cause, ())
        advice = "correct the annotations" if severity == "problem" else "training reads them in the same way"
        if count > len(names) == MAX_PLACES:
            advice += f"; the first {MAX_PLACES} are named"
        places = tuple(Place(split.name, name, row_of.get(name)) for name in names)
        yield Finding("reader", severity, split.name, cause, count, advice, places)
