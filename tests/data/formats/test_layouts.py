import hashlib
import runpy
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from effdet.config import DetectionData
from effdet.data.formats import read_tables

IMITATE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "imitate.py"))
SPLIT_LAYOUTS, WHOLE_LAYOUTS, Picture = IMITATE["SPLIT_LAYOUTS"], IMITATE["WHOLE_LAYOUTS"], IMITATE["Picture"]
NAMES = ["ant", "blue bee", "cow"]
BOXES_ONLY = IMITATE["WITHOUT_EMPTY_IMAGES"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """8 images to train on and 4 to validate on, of 3 classes; the third of each split has no objects."""
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in (("train", 8), ("val", 4)):
        splits[split] = []
        for number in range(count):
            height, width = rng.integers(40, 90, 2).tolist()
            path = folder / f"{split} {number}.png"
            cv2.imwrite(str(path), rng.integers(0, 255, (height, width, 3), np.uint8))
            objects = []
            for _ in range(0 if number == 2 else int(rng.integers(1, 5))):
                x, y = rng.integers(0, width - 12), rng.integers(0, height - 12)
                w, h = rng.integers(4, 12, 2)
                objects.append((NAMES[rng.integers(3)], float(x), float(y), float(x + w), float(y + h)))
            splits[split].append(Picture(path, width, height, objects))
    return splits


def of_pictures(pictures, keep_empty):
    """Objects by the content of the image."""
    wanted = [picture for picture in pictures if picture.objects or keep_empty]
    return {hashlib.sha256(picture.path.read_bytes()).hexdigest(): picture.objects for picture in wanted}


def of_table(table):
    return of_pictures(IMITATE["pictures"](table), keep_empty=True)


def assert_same(read, written, precision):
    assert read.keys() == written.keys()
    for key, objects in written.items():
        assert Counter(name for name, *_ in read[key]) == Counter(name for name, *_ in objects)
        left = list(read[key])
        for name, *box in objects:
            near = [
                other for other in left if other[0] == name and np.abs(np.subtract(other[1:], box)).max() <= precision
            ]
            assert near, (name, box, left)
            left.remove(min(near, key=lambda other: np.abs(np.subtract(other[1:], box)).max()))


def check(layout, folder, splits, classes):
    """Writes a layout and reads it again, with nothing but its folder known."""
    precision = IMITATE["PRECISION"].get(layout, 1e-4)
    if layout in SPLIT_LAYOUTS:
        SPLIT_LAYOUTS[layout](folder, splits, classes)
        tables = read_tables(DetectionData(root=folder))
        assert not tables.split_off
        read = {"train": of_table(tables.train), "val": of_table(tables.val)}
        for split, pictures in splits.items():
            assert_same(read[split], of_pictures(pictures, layout not in BOXES_ONLY), precision)
    else:
        pictures = [picture for of_split in splits.values() for picture in of_split]
        WHOLE_LAYOUTS[layout](folder, {"all": pictures}, classes)
        tables = read_tables(DetectionData(root=folder))
        assert tables.split_off
        assert_same(of_table(tables.train) | of_table(tables.val), of_pictures(pictures, True), precision)
    assert set(tables.train.label_map.names) == set(classes)
    assert tables.train.label_map == tables.val.label_map


@pytest.mark.parametrize("layout", [*SPLIT_LAYOUTS, *WHOLE_LAYOUTS])
def test_what_other_tools_write_is_read_with_nothing_but_the_folder_known(tmp_path, drawn, layout):
    check(layout, tmp_path / "data", drawn, NAMES)


@pytest.mark.parametrize("name", ["bccd", "cards", "coco128"])
@pytest.mark.parametrize(
    "layout", ["downloaded_coco", "roboflow_coco", "ultralytics_yolo", "labelimg_voc", "retinanet_csv"]
)
def test_real_data_sets_are_read_in_five_layouts(tmp_path, shared_data, name, layout):
    tables = read_tables(DetectionData(root=shared_data(name)))
    splits = {
        split: IMITATE["pictures"](table.select(~table.crowd))
        for split, table in (("train", tables.train), ("val", tables.val))
    }
    classes = list(tables.train.label_map.names)
    if layout == "labelimg_voc":  # files of single images, without a list of the classes
        seen = {name for pictures in splits.values() for picture in pictures for name, *_ in picture.objects}
        classes = [name for name in classes if name in seen]
    check(layout, tmp_path / "data", splits, classes)
