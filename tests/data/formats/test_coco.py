import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from effdet.data.formats.classes import follow_classes
from effdet.data.formats.coco import read_coco
from effdet.data.formats.coco_layouts import find_coco
from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import repair_boxes
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

NAMES = ("ant", "bee", "cow")


def write_images(folder, names, size=(40, 60)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((*size, 3), np.uint8))


def tiny(ids=(1, 2, 3)):
    """Three images, the second without objects; boxes out of order."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (30, 10, 20)],
        "categories": [{"id": i, "name": name} for i, name in zip(ids, NAMES, strict=True)],
        "annotations": [
            {"id": 1, "image_id": 20, "category_id": ids[2], "bbox": [1, 2, 10, 20], "area": 150.5, "iscrowd": 0},
            {"id": 2, "image_id": 30, "category_id": ids[0], "bbox": [0, 0, 60, 40], "area": 2400, "iscrowd": 1},
            {"id": 3, "image_id": 20, "category_id": ids[1], "bbox": [5.5, 6.5, 7.25, 8.75]},
        ],
    }


def write_coco(folder, content):
    write_images(folder, ["10.png", "20.png", "30.png"])
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def as_written(folder, content):
    return read_coco(SplitFiles(write_coco(folder, content), folder))


def read(folder, content, label_map=None):
    return follow_classes(repair_boxes(as_written(folder, content)), label_map=label_map, own_ids=True)


def change(content, table, row, **values):
    content[table][row].update(values)
    return content


def test_a_coco_file_becomes_a_table_in_the_order_of_its_images(tmp_path):
    table = read(tmp_path, tiny())
    assert table.image_ids.tolist() == [30, 10, 20]
    assert table.file_names.tolist() == ["30.png", "10.png", "20.png"]
    assert table.sizes.tolist() == [[40, 60]] * 3
    assert table.offsets.tolist() == [0, 1, 1, 3]
    assert table.boxes.tolist() == [[0, 0, 60, 40], [1, 2, 11, 22], [5.5, 6.5, 12.75, 15.25]]
    assert table.labels.tolist() == [0, 2, 1]
    assert table.crowd.tolist() == [True, False, False]
    assert table.areas.tolist() == [2400, 150.5, 7.25 * 8.75]
    assert table.label_map == LabelMap(NAMES, (1, 2, 3))
    assert [table.boxes.dtype, table.labels.dtype, table.areas.dtype] == [np.float32, np.int64, np.float64]
    assert table.notes() == [
        "instances.json: 1 of 3 objects are crowds, which are not trained on; are these masks of single objects? Then "
        "set data.crowd_as_objects=true"
    ]
    assert [table.image_id(row) for row in range(3)] == [30, 10, 20]
    assert [table.file_name(row) for row in range(3)] == ["30.png", "10.png", "20.png"]
    assert table.counts() == {"images": 3, "objects": 3}


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 3), (3, 7, 90), ("3", "7", "90"), (-1, 0, 5)])
def test_labels_do_not_depend_on_the_numbering_of_the_categories(tmp_path, ids):
    table = read(tmp_path, tiny(ids))
    assert table.labels.tolist() == [0, 2, 1]
    assert table.label_map == LabelMap(NAMES, tuple(int(i) for i in ids))


def test_categories_are_sorted_by_id_whatever_their_order_in_the_file(tmp_path):
    content = tiny((7, 90, 3))
    table = read(tmp_path, content)
    assert table.label_map == LabelMap(("cow", "ant", "bee"), (3, 7, 90))
    assert [table.label_map.names[label] for label in table.labels] == ["ant", "cow", "bee"]


def test_image_ids_may_be_text(tmp_path):
    content = tiny()
    for row in content["images"]:
        row["id"] = f"img{row['id']}"
    for row in content["annotations"]:
        row["image_id"] = f"img{row['image_id']}"
    table = read(tmp_path, content)
    assert table.image_ids.tolist() == ["img30", "img10", "img20"]
    assert table.offsets.tolist() == [0, 1, 1, 3]


def test_a_file_without_annotations_is_a_table_without_boxes(tmp_path):
    table = read(tmp_path, {**tiny(), "annotations": []})
    assert table.boxes.shape == (0, 4)
    assert table.offsets.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_byte_order_marks_and_wide_characters_are_read(tmp_path, encoding):
    path = write_coco(tmp_path, "")
    path.write_bytes(json.dumps(tiny()).encode(encoding))
    assert len(read_coco(SplitFiles(path, tmp_path))) == 3
    assert find_coco(tmp_path) == {"all": SplitFiles(path, tmp_path)}


def test_bad_boxes_are_repaired_and_counted(tmp_path):
    content = tiny()
    boxes = {
        "kept": [[1, 1, 5, 5], [-1, -1, 62, 42], [0, 0, 60, 40]],
        "no area": [[5, 5, 0, 3], [5, 5, 3, 0]],
        "reversed": [[8, 9, -3, -4]],
        "no number": [[5, 5, float("nan"), 3], [float("inf"), 5, 3, 3], [None, 1, 1, 1]],
        "outside": [[60, 5, 5, 5], [-10, 0, 9, 9]],
        "cut": [[50, 30, 20, 20]],
    }
    content["annotations"] = [
        {"image_id": 10, "category_id": 1, "bbox": box, "area": 9} for group in boxes.values() for box in group
    ]
    table = read(tmp_path, content)
    assert table.boxes.tolist() == [[1, 1, 6, 6], [-1, -1, 61, 41], [0, 0, 60, 40], [5, 5, 8, 9], [50, 30, 60, 40]]
    assert table.areas.tolist() == [9, 9, 9, 9, 9]
    assert table.notes() == [
        "instances.json: boxes with NaN or infinite coordinates dropped: 3 (10.png)",
        "instances.json: boxes with corners in reverse order sorted: 1 (10.png)",
        "instances.json: boxes without area dropped: 2 (10.png)",
        "instances.json: boxes outside their image dropped: 2 (10.png)",
        "instances.json: boxes extending beyond their image clipped to it: 1 (10.png)",
    ]


@pytest.mark.parametrize("size", [{}, {"height": 0, "width": 0}, {"height": None}, {"height": "tall"}, {"width": "60"}])
def test_sizes_that_the_file_lacks_are_read_from_the_images(tmp_path, size):
    content = tiny()
    for row in content["images"]:
        row |= {"height": "40.0", "width": 60.0}
        del row["width"]
        row |= size
    content["annotations"][0]["bbox"] = [50, 30, 100, 100]
    table = read(tmp_path, content)
    assert table.sizes.tolist() == [[40, 60]] * 3
    assert [50, 30, 60, 40] in table.boxes.tolist()


def without(key):
    content = tiny()
    del content[key]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{\n  broken", r"not valid JSON, line 2 column 3: expecting property name"),
        ("", "not valid JSON, line 1 column 1"),
        ([1], "not a COCO instances file: expected an object with 'images'"),
        (without("categories"), "not a COCO instances file: 'categories' is missing"),
        ({**tiny(), "images": {}}, "'images' is not a list of objects"),
        ({**tiny(), "images": [], "annotations": []}, "has no images"),
        ({**tiny(), "categories": []}, "'categories' is empty"),
        (change(tiny(), "categories", 1, id=1), "category id 1 stands for 'ant' and 'bee'"),
        (
            change(tiny(), "categories", 1, name="ant "),
            "the categories 1 and 2 are both named 'ant', and both",
        ),
        (change(tiny(), "categories", 1, id=1.5), "category 'bee' has the id 1.5; expected an integer"),
        (
            change(tiny(), "categories", 1, id=2**63),
            "category 'bee' has the id 9223372036854775808; exp",
        ),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "numbers too long"),
        (change(tiny(), "categories", 1, id="two"), "category 'bee' has the id 'two'; expected an integer"),
        (change(tiny(), "images", 1, id=30), "the images '30.png' and '10.png' have the same id 30"),
        (
            change(tiny(), "annotations", 2, bbox=[1, 2]),
            r"annotations\[2\] has the bbox \[1, 2\]; exp",
        ),
        (
            change(tiny(), "annotations", 2, bbox=["a", 1, 1, 1]),
            r"annotations\[2\] has the bbox \['a', 1, 1, 1\]; e",
        ),
        (
            change(tiny(), "annotations", 2, iscrowd="perhaps"),
            "object of image 20 has iscrowd 'perhaps'; exp",
        ),
        (
            change(tiny(), "images", 1, file_name="50.png"),
            r"1 of 3 images do not exist in .*: 50\.png; the folder holds 3 \.png, 1 \.json, the nearest name is",
        ),
    ],
)
def test_a_faulty_coco_file_is_refused_in_one_sentence(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, content)
    assert str(error.value).startswith(str(tmp_path / "instances.json"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("table", "key"), [("images", "file_name"), ("images", "id"), ("categories", "name")])
def test_an_entry_that_lacks_a_key_is_named(tmp_path, table, key):
    content = tiny()
    del content[table][1][key]
    with pytest.raises(DataError, match=rf"{table}\[1\] has no '{key}'"):
        read(tmp_path, content)


def test_missing_images_are_counted_and_three_are_named(tmp_path):
    content = tiny()
    content["images"] += [{"id": i, "file_name": f"gone{i}.jpg"} for i in range(5)]
    with pytest.raises(
        DataError, match=r"5 of 8 images do not exist in .*: gone0\.jpg, gone1\.jpg, gone2\.jpg, \.\.\.; the fol"
    ):
        read(tmp_path, content)


def test_file_names_are_stored_as_they_exist(tmp_path):
    content = tiny()
    for row, name in zip(content["images"], ("./30.png", "C:\\data\\10.png", "20.PNG"), strict=True):
        row["file_name"] = name
    table = read(tmp_path, content)
    assert all(table.path(index).is_file() for index in range(3))


TRAINING = LabelMap(NAMES, (1, 2, 3))


@pytest.mark.parametrize("ids", [(1, 2, 3), (0, 1, 2), (3, 1, 2)])
def test_a_given_label_map_is_matched_by_name(tmp_path, ids):
    table = read(tmp_path, tiny(ids), TRAINING)
    assert table.labels.tolist() == [0, 2, 1]
    assert table.label_map == LabelMap(TRAINING.names, ids)  # the file's own ids


def test_a_category_that_the_label_map_lacks_matters_only_where_it_is_annotated(tmp_path):
    content = tiny()
    content["categories"].append({"id": 9, "name": "dog"})
    assert len(read(tmp_path, content, TRAINING).boxes) == 3
    content["annotations"][1]["category_id"] = 9
    with pytest.raises(DataError, match="the class 'dog' is not among the 3 classes of the training split or"):
        read(tmp_path, content, TRAINING)


def test_a_large_file_is_sorted_stably(tmp_path):
    rng = np.random.default_rng(0)
    content = {**tiny(), "annotations": []}
    owners = rng.choice([10, 20, 30], 500)
    for number, owner in enumerate(owners):
        row = {"image_id": int(owner), "category_id": 1, "bbox": [0, 0, 5, 5], "area": number}
        content["annotations"].append(row)
    table = read(tmp_path, content)
    for index, image_id in enumerate(table.image_ids):
        assert table.areas[table.rows(index)].tolist() == np.flatnonzero(owners == image_id).tolist()


def test_the_table_agrees_with_pycocotools(coco128):
    table = read_coco(SplitFiles(coco128 / "instances.json", coco128 / "images"))
    reference = COCO(str(coco128 / "instances.json"))
    assert len(table) == len(reference.imgs) == 128
    assert table.crowd.sum() == 10
    for index, image_id in enumerate(table.image_ids):
        wanted = reference.imgToAnns[image_id]
        rows = table.rows(index)
        boxes = table.boxes[rows].astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        assert np.allclose(boxes, np.array([row["bbox"] for row in wanted]).reshape(-1, 4), atol=1e-3)
        assert [table.label_map.category_ids[label] for label in table.labels[rows]] == [
            row["category_id"] for row in wanted
        ]
        assert np.allclose(table.areas[rows], [row["area"] for row in wanted])


def test_a_subset_has_the_boxes_of_its_images(tmp_path):
    table = read(tmp_path, tiny()).subset(np.array([2, 1]))
    assert table.image_ids.tolist() == [20, 10]
    assert table.offsets.tolist() == [0, 2, 2]
    assert table.labels.tolist() == [2, 1]


def test_a_crowd_may_be_written_as_text(tmp_path):
    content = tiny()
    for values in (("0", "1", None), (False, True, 0.0), ("false", "True", ""), (0, 1.0, "0.0")):
        for row, value in enumerate(values):
            change(content, "annotations", row, iscrowd=value)
        assert sorted(read(tmp_path, content).crowd.tolist()) == [False, False, True]


@pytest.mark.parametrize(("ids", "kept"), [((94, 95, 97), (94, 95, 97)), ((2, 1, 3), (2, 1, 3))])
def test_a_table_keeps_its_own_ids_for_the_classes_of_a_model(tmp_path, ids, kept):
    table = read(tmp_path, tiny(ids), LabelMap(NAMES, (1, 2, 3)))
    assert table.label_map == LabelMap(NAMES, kept)
    assert table.labels.tolist() == [0, 2, 1]


def test_classes_that_a_table_lacks_get_ids_that_stand_for_nothing_else_there():
    wanted = LabelMap(("ant", "cow", "dog", "elk"), (1, 2, 3, 9))
    assert wanted.in_ids_of(LabelMap(("ant", "bee", "cow"), (5, 3, 1))) == LabelMap(wanted.names, (5, 1, 10, 9))


def test_image_ids_may_be_larger_than_a_machine_word(tmp_path):
    content = tiny()
    for row, image_id in enumerate((2**63, -(2**70), 20)):
        change(content, "images", row, id=image_id)
    change(content, "annotations", 1, image_id=2**63)
    table = read(tmp_path, content)
    assert table.image_ids.tolist() == [str(2**63), str(-(2**70)), "20"]
    assert table.offsets.tolist() == [0, 1, 1, 3]
