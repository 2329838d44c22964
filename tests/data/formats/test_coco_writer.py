import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from effdet.data.annotations import Annotations
from effdet.data.formats.coco import read_coco
from effdet.data.formats.coco_layouts import find_coco
from effdet.data.formats.coco_writer import COCO_IMAGES, write_coco
from effdet.data.formats.split_files import SplitFiles
from effdet.data.label_map import LabelMap

COLUMNS = ("file_names", "image_ids", "sizes", "offsets", "boxes", "labels", "crowd", "areas")


def table(folder, boxes, ids=(3, 0, 7), **columns):
    """Three images with all boxes on the second."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("b.png", "a.png", "ö ü.png"):
        cv2.imwrite(str(folder / name), np.zeros((40, 60, 3), np.uint8))
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    values = {
        "source": folder,
        "image_folder": folder,
        "file_names": np.array(["b.png", "a.png", "ö ü.png"]),
        "image_ids": np.array(ids),
        "sizes": np.array([[40, 60]] * 3, np.int32),
        "offsets": np.array([0, 0, len(boxes), len(boxes)]),
        "boxes": boxes,
        "labels": np.arange(len(boxes)) % 2,
        "label_map": LabelMap(("bee", "ånt"), (4, 90)),
        "crowd": np.arange(len(boxes)) % 3 == 0,
        "areas": np.arange(len(boxes)) / 7,
        "difficult": np.zeros(len(boxes), np.bool_),
    }
    return Annotations(**{**values, **columns})


def written(folder, original):
    write_coco(folder, {"train": original})
    return read_coco(SplitFiles(folder / "annotations/instances_train.json", original.image_folder))


def assert_equal(one, other):
    assert one.label_map == other.label_map
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.fingerprint() == other.fingerprint()


def test_a_table_that_is_written_and_read_is_the_same(tmp_path):
    original = table(tmp_path / "train", [[0, 0, 60, 40], [1.5, 2.25, 3, 4.125], [0.1, 0.2, 0.3, 0.7]])
    assert_equal(written(tmp_path, original), original)
    assert find_coco(tmp_path) == {
        "train": SplitFiles(tmp_path / "annotations/instances_train.json", tmp_path / COCO_IMAGES.format(split="train"))
    }


def test_boxes_of_all_magnitudes_are_the_same_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-1, 1, (3000, 4)) * 10.0 ** rng.integers(-3, 5, (3000, 1))
    thirds = np.arange(40).reshape(-1, 4) / 3 + [[0, 0, 1 / 7, 1 / 9]]
    boxes = np.concatenate([corners, thirds, np.nextafter(np.float32(thirds), np.float32(9))]).astype(np.float32)
    original = table(tmp_path, boxes)
    again = written(tmp_path, original)
    assert np.array_equal(again.boxes.view(np.uint32), original.boxes.view(np.uint32))


def test_boxes_are_written_with_few_decimals(tmp_path):
    write_coco(tmp_path, {"train": table(tmp_path, [[0.1, 0.2, 10.3, 20.7], [1, 2, 3, 5]])})
    content = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert [row["bbox"] for row in content["annotations"]] == [[0.1, 0.2, 10.2, 20.5], [1, 2, 2, 3]]


def test_what_the_format_cannot_hold_is_counted(tmp_path):
    boxes = [[0, 0, 9, 9]] * 3
    plain = table(tmp_path, boxes)
    assert write_coco(tmp_path, {"train": plain, "val": plain}) == {}
    marked = replace(plain, image_ids=np.array(["x", "y", "z"]), difficult=np.array([True, False, True]))
    assert write_coco(tmp_path, {"train": marked, "val": plain}) == {
        "image ids that are no numbers from 0 up, numbered anew": 3,
    }
    assert written(tmp_path, marked).image_ids.tolist() == [1, 2, 3]
    assert written(tmp_path, marked).difficult.tolist() == [True, False, True]
    assert written(tmp_path, replace(plain, image_ids=np.array([0, -1, 5]))).image_ids.tolist() == [1, 2, 3]


def test_sizes_that_are_not_known_are_not_written(tmp_path):
    write_coco(tmp_path, {"train": table(tmp_path, [], sizes=np.zeros((3, 2), np.int32))})
    content = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert content["images"][0] == {"id": 3, "file_name": "b.png"}


def test_an_earlier_file_stays_whole_until_the_new_one_is_complete(tmp_path, monkeypatch):
    original = table(tmp_path, [[0, 0, 9, 9]])
    write_coco(tmp_path, {"train": original})
    before = (tmp_path / "annotations/instances_train.json").read_bytes()
    monkeypatch.setattr("effdet.files.os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_coco(tmp_path, {"train": replace(original, image_ids=original.image_ids + 1)})
    assert [path.name for path in (tmp_path / "annotations").iterdir()] == ["instances_train.json"]
    assert (tmp_path / "annotations/instances_train.json").read_bytes() == before


def test_pycocotools_reads_what_is_written(tmp_path):
    original = table(tmp_path, [[0, 0, 60, 40], [1.5, 2.25, 3, 4.125]])
    write_coco(tmp_path, {"val": original})
    reference = COCO(str(tmp_path / "annotations/instances_val.json"))
    assert sorted(reference.imgs) == [0, 3, 7]
    assert [row["bbox"] for row in reference.loadAnns(reference.getAnnIds([0]))] == [
        [0, 0, 60, 40],
        [1.5, 2.25, 1.5, 1.875],
    ]
    assert [row["iscrowd"] for row in reference.anns.values()] == [1, 0]


def test_coco128_is_the_same_once_written_and_read(coco128, tmp_path):
    original = read_coco(SplitFiles(coco128 / "instances.json", coco128 / "images"))
    assert_equal(written(tmp_path, original), original)


def test_the_blood_cells_are_the_same_once_written_and_read(bccd, tmp_path):
    from effdet.data.formats.voc import find_voc, read_voc

    tables = {name: read_voc(files) for name, files in find_voc(bccd).items()}
    lost = write_coco(tmp_path, tables)
    assert list(lost) == ["image ids that are no numbers from 0 up, numbered anew"]
    for name, original in tables.items():
        files = SplitFiles(tmp_path / f"annotations/instances_{name}.json", original.image_folder)
        numbered = replace(original, image_ids=np.arange(1, len(original) + 1))
        assert_equal(read_coco(files), numbered)
