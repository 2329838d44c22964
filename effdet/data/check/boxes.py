"""Findings about boxes: faulty ones, those in another convention than the format's, and those of unusual sizes.

The faults that every reader's table may have, and their repair, are in `effdet/data/formats/table.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import MANY_CROWDS, Annotations
from effdet.data.check.findings import Finding, Place, Severity, Split, box_places, image_places
from effdet.data.check.images import wrong_sizes
from effdet.data.check.scan import ImageFacts
from effdet.data.formats.table import NO_AREA, NOT_FINITE, OUTSIDE, OVERHANGING, REVERSED, UNKNOWN_SIZE, box_faults
from effdet.text import count_of
from effdet.types import Letterbox

MIN_OBJECT_SIDE = 4  # input pixels; smaller objects are hardly detected: the finest feature level has a stride of 8
MANY = 0.5  # fraction of the boxes from which on a fault is one of the whole data set
_LONGEST_ASPECT = 50  # longer side over shorter side
_WHOLE = 0.99  # of the image's height and width
_FITTING, _CONTRADICTING = 0.95, 0.25  # fractions of boxes that make another convention likely
_FEWEST = 4  # boxes from which a convention can be judged

# cause in `box_faults` -> kind, cause and advice of its finding
_FAULTS = {
    NOT_FINITE: ("box-nan", "boxes with NaN or infinite coordinates", "draw them again or remove them"),
    REVERSED: ("box-reversed", "boxes with corners in reverse order", "training sorts them; --fix writes them sorted"),
    NO_AREA: ("box-no-area", "boxes without area", "draw them again or remove them; training leaves them out"),
    OUTSIDE: ("box-outside", "boxes outside their image", "draw them again or remove them; training leaves them out"),
    OVERHANGING: (
        "box-overhanging",
        "boxes extending beyond their image",
        "training clips them to it; --fix writes them clipped",
    ),
}
CONVENTIONS = ("box-normalized", "box-xyxy-as-xywh", "box-xywh-as-xyxy")  # kinds that no repair of boxes can correct


def box_findings(
    split: Split, facts: Sequence[ImageFacts], image_size: tuple[int, int], mode: Letterbox
) -> list[Finding]:
    """What is wrong with the boxes of a split, and what to know about them; each box is counted once.

    Boxes are not compared with the size of their image where that is annotated wrongly, which is a finding itself.

    Args:
        split: a split with boxes.
        facts: those of its images.
        image_size: (H, W) of the model input in pixels.
        mode: how images fit it, see `letterbox`.
    """
    table = split.table
    assert isinstance(table, Annotations)
    if not len(table.boxes):
        return []
    judged = table.sizes.copy()
    for rows in wrong_sizes(table, facts).values():
        judged[rows] = 0
    table = replace(table, sizes=judged)
    other = _other_convention(split, table)
    if other is not None:
        return [other]
    masks = _fault_masks(table, facts)
    seen = np.zeros(len(table.boxes), np.bool_)
    for mask in masks.values():
        seen |= mask
    masks["box-duplicate"] = repeated_boxes(table) & ~seen
    for kind, mask in _size_masks(table, image_size, mode).items():
        masks[kind] = mask & ~seen & ~masks["box-duplicate"]
        seen |= masks[kind]
    return [_finding(split, table, kind, mask, image_size) for kind, mask in masks.items() if mask.any()]


def object_findings(split: Split, most_objects: int, crowd_as_objects: bool) -> Iterator[Finding]:
    """Images without objects, with more than are counted, and crowds.

    Args:
        split: a split with boxes.
        most_objects: detections per image that a model gives and the evaluation counts.
        crowd_as_objects: whether crowds are ordinary objects.
    """
    table = split.table
    assert isinstance(table, Annotations)
    counts = np.diff(table.offsets)
    if not len(table.boxes):
        advice = "a model learns background only; check that the annotations belong to the images"
        yield Finding("no-objects", "problem", split.name, "no image has objects", len(table), advice)
        return
    empty = np.flatnonzero(counts == 0).tolist()
    if empty:
        advice = "they are used as background; correct if there is nothing in them"
        yield Finding(
            "empty-image", "note", split.name, "images without objects", len(empty), advice, image_places(split, empty)
        )
    crowded = np.flatnonzero(counts > most_objects).tolist()
    if crowded:
        details = [count_of(int(counts[row]), "object") for row in crowded]
        cause = f"images with more than {most_objects} objects"
        advice = (
            f"{most_objects} detections per image are counted; set postprocess.max_detections, or cut them into tiles"
        )
        places = image_places(split, crowded, details)
        yield Finding("many-objects", "note", split.name, cause, len(crowded), advice, places)
    crowds = int(table.crowd.sum())
    if crowds and not crowd_as_objects:
        many = crowds > MANY_CROWDS * len(table.boxes)
        advice = (
            "they are not trained on; if they are masks of single objects, set data.crowd_as_objects=true"
            if many
            else "they are not trained on, as COCO defines"
        )
        severity: Severity = "problem" if many else "note"
        cause = f"crowds among {count_of(len(table.boxes), 'object')}"
        places = box_places(split, table.offsets, table.crowd)
        yield Finding("crowds", severity, split.name, cause, crowds, advice, places)


def is_normalized(boxes: NDArray[np.float32], sizes: NDArray[np.int32]) -> bool:
    """Whether boxes [N, 4], read as pixels of images of `sizes` [N, 2], look normalized by the image size."""
    return bool(len(boxes) and boxes.min() >= 0 and boxes.max() <= 1 and sizes.max() > 1)


def input_sides(
    boxes: NDArray[np.float32], sizes: NDArray[np.int32], image_size: tuple[int, int], mode: Letterbox
) -> NDArray[np.float64]:
    """Width and height of boxes [N, 4] in pixels of the model input, [N, 2]; NaN where `sizes` [N, 2] is unknown."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.array(image_size) / np.where(sizes > 0, sizes, np.nan)  # vertical, horizontal
    if mode == "pad":
        scales = scales.min(axis=1, keepdims=True)
    sides: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]) * scales[:, ::-1]
    return sides


def too_small(sides: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which objects, by their sides [N, 2] in the model input, are too small to be detected."""
    with np.errstate(invalid="ignore"):
        small: NDArray[np.bool_] = sides.prod(axis=1) < MIN_OBJECT_SIDE**2
    return small


def repeated_boxes(table: Annotations) -> NDArray[np.bool_]:
    """Which boxes, [N], are there before with the same image, class, corners and crowd mark."""
    keys = np.column_stack([table.image_of_label(), table.labels, table.crowd, table.boxes])
    order = np.lexsort((np.arange(len(keys)), *keys.T[::-1]))
    repeated = np.zeros(len(keys), np.bool_)
    repeated[order[1:]] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    return repeated


def _fault_masks(table: Annotations, facts: Sequence[ImageFacts]) -> dict[str, NDArray[np.bool_]]:
    """Which boxes, [N], have each fault, by kind."""
    faults, _, _ = box_faults(table)
    unknown = faults.pop(UNKNOWN_SIZE, None)
    if unknown is not None:  # normalized boxes of an unreadable image, which is a finding itself; others are NaN
        readable = np.array([fact.readable for fact in facts], np.bool_)[table.image_of_label()]
        faults[NOT_FINITE] = faults.get(NOT_FINITE, np.zeros_like(unknown)) | (unknown & readable)
    return {_FAULTS[cause][0]: mask for cause, mask in faults.items()}


def _size_masks(table: Annotations, image_size: tuple[int, int], mode: Letterbox) -> dict[str, NDArray[np.bool_]]:
    """Which boxes, [N], have unusual sizes, by kind; crowds have none."""
    sizes = table.sizes[table.image_of_label()]
    objects = ~table.crowd
    with np.errstate(invalid="ignore", divide="ignore"):
        sides = (table.boxes[:, 2:] - table.boxes[:, :2]).astype(np.float64)
        longest = sides.max(axis=1) / sides.min(axis=1)
        return {
            "box-tiny": objects & (sides.min(axis=1) < 1),
            "box-small": objects & too_small(input_sides(table.boxes, sizes, image_size, mode)),
            "box-aspect": objects & (longest > _LONGEST_ASPECT),
            "box-whole-image": objects & (sizes > 0).all(axis=1) & (sides >= _WHOLE * sizes[:, ::-1]).all(axis=1),
        }


def _finding(
    split: Split, table: Annotations, kind: str, mask: NDArray[np.bool_], image_size: tuple[int, int]
) -> Finding:
    height, width = image_size
    notes = {
        "box-tiny": ("boxes less than a pixel wide or high", "they can hardly be learned; remove them"),
        "box-small": (
            f"objects below {MIN_OBJECT_SIDE} x {MIN_OBJECT_SIDE} pixels in an input of {width} x {height}",
            "too small to be detected; raise model.image_size, or cut the images into tiles",
        ),
        "box-aspect": (
            f"boxes more than {_LONGEST_ASPECT} times as long as wide",
            "no anchor has this shape; check that they are drawn right",
        ),
        "box-whole-image": ("boxes that cover their whole image", "right for close-ups, wrong for labels of the image"),
    }
    texts = {known: (cause, advice) for known, cause, advice in _FAULTS.values()}
    texts["box-duplicate"] = ("boxes that are there twice", "keep one of each; --fix does")
    cause, advice = notes.get(kind) or texts[kind]
    if kind in ("box-outside", "box-overhanging") and mask.sum() > MANY * len(mask):
        advice = "most boxes: they may be for images of another size; compare the sizes in the annotations"
    sides = table.boxes[mask, 2:] - table.boxes[mask, :2]
    places = tuple(
        replace(place, detail=f"{width:.4g} x {height:.4g} px")
        for place, (width, height) in zip(box_places(split, table.offsets, mask), sides.tolist(), strict=True)
    )
    return Finding(kind, "note" if kind in notes else "problem", split.name, cause, int(mask.sum()), advice, places)


def _other_convention(split: Split, table: Annotations) -> Finding | None:
    """A finding if the boxes look as if they were written in another convention than the format's."""
    sizes = table.sizes[table.image_of_label()]
    usable = np.asarray(np.isfinite(table.boxes).all(axis=1) & (sizes > 0).all(axis=1))
    boxes, sizes = table.boxes[usable], sizes[usable]
    if not len(boxes):
        return None
    width, height = sizes[:, 1], sizes[:, 0]
    x1, y1, x2, y2 = boxes.T
    if is_normalized(boxes, sizes):
        kind, cause = "box-normalized", "boxes within 0..1, read as pixels"
        advice = "they look normalized by the image size; write them in pixels, or as YOLO labels"
    elif len(boxes) >= _FEWEST and _likely(
        (x2 > width + 1) | (y2 > height + 1), _is_inside(x1, y1, x2 - x1, y2 - y1, width, height)
    ):
        kind, cause = "box-xyxy-as-xywh", "boxes whose width and height look like a corner"
        advice = "many extend beyond their image, but fit as x1, y1, x2, y2; write them as x, y, width, height"
    elif len(boxes) >= _FEWEST and _likely((x2 < x1) ^ (y2 < y1), _is_inside(x1, y1, x1 + x2, y1 + y2, width, height)):
        kind, cause = "box-xywh-as-xyxy", "boxes whose second corner looks like width and height"
        advice = "many are in reverse order, but fit as x, y, width, height; write them as x1, y1, x2, y2"
    else:
        return None
    places: tuple[Place, ...] = box_places(split, table.offsets, usable)
    return Finding(kind, "problem", split.name, cause, len(boxes), advice, places)


def _likely(contradicting: NDArray[np.bool_], fitting: NDArray[np.bool_]) -> bool:
    return bool(contradicting.mean() >= _CONTRADICTING and fitting.mean() >= _FITTING)


def _is_inside(
    x1: NDArray[np.float32],
    y1: NDArray[np.float32],
    x2: NDArray[np.float32],
    y2: NDArray[np.float32],
    width: NDArray[np.int32],
    height: NDArray[np.int32],
) -> NDArray[np.bool_]:
    """Which corners, [N] each, are of boxes within their images, to a pixel."""
    inside: NDArray[np.bool_] = (x1 < x2) & (y1 < y2) & (x2 <= width + 1) & (y2 <= height + 1)
    return inside
