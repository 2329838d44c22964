"""The demo data set on disk, in the layout of COCO: two folders of images and their annotation files.

The images are drawn in `scenes`; the folder is read like any other by `data/formats`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.synthetic.scenes import check_parameters, draw_scene
from effdet.data.synthetic.shapes import CLASS_NAMES, Pixels
from effdet.errors import DataError
from effdet.files import write_json
from effdet.text import reason_of

DRAWING_VERSION = 3  # raised whenever the same seed gives other images
SPLITS = {"train2017": 0, "val2017": 1}  # folder -> second word of the seed
JPEG_QUALITY = 92


def write_data_set(root: Path, num_train: int, num_val: int, size: tuple[int, int] = (256, 256), seed: int = 0) -> None:
    """Write `num_train` and `num_val` scenes of `size` (H, W) in the layout of COCO.

    The folder holds train2017/, val2017/ and annotations/ afterwards. A finished set of the same parameters is left as
    it is. The annotations are written last, so that an interrupted write leaves no set that looks finished.

    Raises:
        DataError: the size or the seed is too small, a split has no images, `root` holds the annotations of another
            data set, or the disk cannot be written.
    """
    check_parameters(size, seed)
    plans = []
    for split, number in zip(SPLITS, (num_train, num_val), strict=True):
        if number < 1:
            raise DataError(f"{root}: {split} would have {number} scenes; expected at least 1")
        plans.append({"version": DRAWING_VERSION, "seed": seed, "scenes": number, "size": list(size), "split": split})
    try:
        for plan in [plan for plan in plans if not _is_written(root, plan)]:
            _write_split(root, plan)
    except OSError as error:
        raise DataError(f"{root}: the demo data set cannot be written: {reason_of(error)}") from None


def _annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}.json"


def _file_names(plan: dict[str, Any]) -> list[str]:
    return [f"scene_{index:06d}.jpg" for index in range(plan["scenes"])]


def _is_written(root: Path, plan: dict[str, Any]) -> bool:
    """Whether the split of a plan exists already, complete."""
    path = _annotation_file(root, plan["split"])
    if not path.exists():
        return False
    try:
        written = json.loads(path.read_text(encoding="utf-8"))["info"]["demo"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: belongs to another data set; name another folder for the demo data") from None
    return bool(written == plan and all((root / plan["split"] / name).is_file() for name in _file_names(plan)))


def _write_split(root: Path, plan: dict[str, Any]) -> None:
    """Write one split in place of an earlier or incomplete one: images first, annotations last."""
    folder, annotations = root / plan["split"], _annotation_file(root, plan["split"])
    annotations.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("scene_*.jpg"):
        stale.unlink()
    scenes = []
    for index, name in enumerate(_file_names(plan)):
        scene = draw_scene(plan["seed"], index, tuple(plan["size"]), SPLITS[plan["split"]])
        (folder / name).write_bytes(encode_jpeg(scene.image))
        scenes.append((name, scene.boxes, scene.labels))
    write_json(annotations, _coco(plan, scenes))


def _coco(plan: dict[str, Any], scenes: list[tuple[str, NDArray[np.float32], NDArray[np.int64]]]) -> dict[str, Any]:
    """The annotation file of scenes given as (file name, boxes, labels)."""
    height, width = plan["size"]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, boxes, labels) in enumerate(scenes, start=1):
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for (left, top, right, bottom), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            box = [left, top, right - left, bottom - top]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name, "supercategory": "shape"} for k, name in enumerate(CLASS_NAMES, start=1)]
    info = {"description": "Synthetic shapes for trying out object detection", "demo": plan}
    return {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def encode_jpeg(image: Pixels) -> bytes:
    """A scene, uint8 RGB [H, W, 3], as the content of a JPEG file."""
    from effdet.opencv import cv2

    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
