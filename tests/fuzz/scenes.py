"""Small data sets that are drawn from a seed: images with boxes, and their annotations before they are damaged.

How they are written in each format is in `borders_annotations.py`; what must hold for what is read, in
`sound_tables.py`.
"""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NAMES = ("cat", "dog", "red blood cell", "7", "Größe", "no", "x")
TRUTH = "truth.json"  # beside a data set that nobody has damaged: what must be read


class Object(NamedTuple):
    """A class and a box xyxy in whole pixels."""

    name: str
    box: tuple[int, int, int, int]


class Picture(NamedTuple):
    """An image file: its name, (H, W) and objects."""

    name: str
    size: tuple[int, int]
    objects: list[Object]


def draw_scene(rng: random.Random) -> list[Picture]:
    """Two to five images, of which the first has an object."""
    names = rng.sample(NAMES, rng.randint(1, 3))
    return [_draw_picture(rng, number, names) for number in range(rng.randint(2, 5))]


def _draw_picture(rng: random.Random, number: int, names: list[str]) -> Picture:
    height, width = rng.randint(6, 40), rng.randint(6, 40)
    objects = []
    for _ in range(rng.randint(0 if number else 1, 3)):
        left, top = rng.randint(0, width - 3), rng.randint(0, height - 3)
        box = left, top, rng.randint(left + 2, width), rng.randint(top + 2, height)
        objects.append(Object(rng.choice(names), box))
    return Picture(f"image {number}.png" if number == 1 else f"im_{number}.png", (height, width), objects)


def write_images(scene: list[Picture], folder: Path) -> None:
    """Writes the images of a scene into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(scene):
        (folder / picture.name).write_bytes(encoded(picture.size, number))


@functools.cache
def encoded(size: tuple[int, int], seed: int = 0) -> bytes:
    """A PNG of a size (H, W)."""
    from effdet.opencv import cv2

    image = np.random.default_rng((*size, seed)).integers(0, 256, (*size, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", image)[1])


def write_coco(rng: random.Random, scene: list[Picture], root: Path) -> None:
    """Writes a scene as a COCO data set: images/ and instances.json."""
    write_images(scene, root / "images")
    names = sorted({item.name for picture in scene for item in picture.objects})
    first, step = rng.choice(((1, 1), (0, 1), (3, 7)))
    id_of = {name: first + step * number for number, name in enumerate(names)}
    images, annotations = [], []
    for number, picture in enumerate(scene):
        height, width = picture.size
        images.append({"id": number, "file_name": picture.name, "height": height, "width": width})
        for item in picture.objects:
            left, top, right, bottom = item.box
            box = [left, top, right - left, bottom - top]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": id_of[item.name],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    if rng.random() < 0.3:
        _to_masks(rng, annotations, scene)
    categories = [{"id": id_of[name], "name": name, "supercategory": "none"} for name in names]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(tree))


def _to_masks(rng: random.Random, annotations: list[dict[str, Any]], scene: list[Picture]) -> None:
    """Gives some objects a mask in the place of a box: a polygon or a run-length encoding."""
    for annotation in annotations:
        left, top, width, height = annotation["bbox"]
        rows, columns = scene[annotation["image_id"]].size
        kind = rng.randrange(3)
        if kind:
            del annotation["bbox"]
        if kind == 1:
            annotation["segmentation"] = [
                [left, top, left + width, top, left + width, top + height, left, top + height]
            ]
        elif kind == 2:
            runs = [left * rows + top, *[height, rows - height] * width]
            annotation["segmentation"] = {"size": [rows, columns], "counts": [*runs[:-1], 0]}


def write_truth(scene: list[Picture], folder: Path) -> None:
    """Writes beside a data set what must be read from it."""
    boxes: dict[str, list[Any]] = {}
    for picture in scene:
        for item in picture.objects:
            boxes.setdefault(f"{picture.name}/{item.name}", []).append(item.box)
    truth = {"images": len(scene), "boxes": {key: sorted(values) for key, values in boxes.items()}}
    (folder.parent / TRUTH).write_text(json.dumps(truth))


def read_truth(folder: Path) -> dict[str, Any] | None:
    """What must be read from a data set; None if it was damaged."""
    path = folder.parent / TRUTH
    truth: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return truth
