"""A drawn data set without faults, which each test breaks in one way."""

import json

import cv2
import numpy as np
import pytest

HEIGHT, WIDTH = 120, 160
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def picture(seed, size=(HEIGHT, WIDTH)):
    """A picture unlike those of other seeds, uint8 BGR."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


class Drawn:
    """A COCO data set with eight images to train on and six to validate on, two objects in each."""

    def __init__(self, root):
        self.root = root
        self.splits = {"train": self._split("train", 8, 0), "val": self._split("val", 6, 100)}

    def _split(self, name, count, seed):
        images, annotations = [], []
        (self.root / name).mkdir(parents=True)
        for row in range(count):
            file = f"{name}_{row}.png"
            cv2.imwrite(str(self.root / name / file), picture(seed + row))
            images.append({"id": row, "file_name": file, "height": HEIGHT, "width": WIDTH})
            for number, box in enumerate(([10 + row, 20, 50, 40], [80, 50 - row, 60, 55])):
                annotations.append(
                    {
                        "id": 2 * row + number,
                        "image_id": row,
                        "category_id": 1 + number,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        return {"images": images, "annotations": annotations, "categories": [dict(row) for row in CATEGORIES]}

    def write(self):
        (self.root / "annotations").mkdir(exist_ok=True)
        for name, content in self.splits.items():
            (self.root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
        return self.root

    def boxes(self, split):
        return [row["bbox"] for row in self.splits[split]["annotations"]]


@pytest.fixture
def drawn(tmp_path):
    return Drawn(tmp_path / "data")
