import json
import unicodedata

import cv2
import numpy as np
import pytest
from pycocotools import mask as encoding
from pycocotools.coco import COCO

from effdet.data.formats.classes import follow_classes
from effdet.data.formats.coco import read_coco
from effdet.data.formats.coco_layouts import find_coco
from effdet.data.formats.image_files import require_images
from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import check_not_only_crowds, repair_boxes
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
    table = as_written(folder, content)
    require_images(table)
    return follow_classes(repair_boxes(table), label_map=label_map, own_ids=True)


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
        ("1" * 5000, "a number of thousands of digits"),
        (change(tiny(), "categories", 1, id="two"), "category 'bee' has the id 'two'; expected an integer"),
        (change(tiny(), "images", 1, id=30), "the images '30.png' and '10.png' have the same id 30"),
        (change(tiny(), "images", 1, id=30.0), "the images '30.png' and '10.png' have the same id 30"),
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


# Ids


@pytest.mark.parametrize(
    ("listed", "referred"),
    [(1, 1.0), (1.0, 1), ("1", 1), (1, "1"), (1, "1.0"), (1.0, "1"), (" 1", 1), ("000000001", 1), (1, "01"), (1, True)],
)
def test_numbers_and_texts_of_one_number_are_one_id(tmp_path, listed, referred):
    content = tiny()
    content["images"][0]["id"] = listed
    content["categories"][0]["id"] = listed
    content["annotations"] = [{"image_id": referred, "category_id": referred, "bbox": [1, 2, 3, 4]}]
    table = as_written(tmp_path, content)
    assert (table.offsets.tolist(), table.labels.tolist()) == ([0, 1, 1, 1], [0])
    assert table.label_map.category_ids[0] == 1


def test_ids_that_differ_in_their_spelling_alone_are_kept_apart(tmp_path):
    content = tiny()
    for row, image_id in enumerate(("7", "07", "x")):
        content["images"][row]["id"] = image_id
    content["annotations"] = [{"image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4]} for i in ("07", "x", "07", 7.0)]
    table = as_written(tmp_path, content)
    assert np.diff(table.offsets).tolist() == [0, 2, 1]
    assert table.notes() == ["instances.json: objects of images that the file does not list left out: 1 (image id 7.0)"]


def test_whole_numbers_written_as_decimals_are_integer_ids_of_the_table(tmp_path):
    content = tiny()
    for row, image_id in zip(content["images"], (1.0, 2.0, 3), strict=True):
        row["id"] = image_id
    table = as_written(tmp_path, {**content, "annotations": []})
    assert table.image_ids.tolist() == [1, 2, 3]
    assert table.image_ids.dtype == np.int64


@pytest.mark.parametrize("lost", [99, "x", None, [1], 30.5, float("nan")])
def test_objects_of_unlisted_images_and_categories_are_left_out_and_counted(tmp_path, lost):
    content = change(change(tiny(), "annotations", 0, image_id=lost), "annotations", 1, category_id=lost)
    table = as_written(tmp_path, content)
    assert table.areas.tolist() == [7.25 * 8.75]
    assert table.notes() == [
        f"instances.json: objects of images that the file does not list left out: 1 (image id {lost!r})",
        "instances.json: objects of categories that the file does not list left out: 1 (30.png)",
    ]


def test_an_object_without_image_or_category_is_left_out_too(tmp_path):
    content = tiny()
    del content["annotations"][0]["image_id"], content["annotations"][1]["category_id"]
    assert as_written(tmp_path, content).repairs == {
        "objects of images that the file does not list left out": 1,
        "objects of categories that the file does not list left out": 1,
    }


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "image_id",
            r"none of the 3 annotations is of an entry of 'images': annotations\[0\] has the image_id 'n20', "
            r"the ids in 'images' are 30, 10, 20",
        ),
        (
            "category_id",
            r"none of the 3 annotations is of an entry of 'categories': annotations\[0\] has the category_id "
            r"'n3', the ids in 'categories' are 1, 2, 3",
        ),
    ],
)
def test_a_file_whose_objects_are_all_of_unlisted_entries_is_refused(tmp_path, key, message):
    content = tiny()
    for row in content["annotations"]:
        row[key] = f"n{row[key]}"
    with pytest.raises(DataError, match=message):
        as_written(tmp_path, content)


# Masks


def mask_of(box):
    """A binary mask [40, 60] with ones in a box, and its encodings."""
    mask = np.zeros((40, 60), np.uint8, order="F")
    left, top, right, bottom = box
    mask[top:bottom, left:right] = 1
    compressed = encoding.encode(mask)
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": [40, 60], "counts": counts}, {"size": [40, 60], "counts": compressed["counts"].decode()}


@pytest.mark.parametrize("box", [(10, 8, 41, 37), (0, 0, 60, 40), (59, 39, 60, 40), (0, 0, 1, 1), (5, 0, 9, 40)])
@pytest.mark.parametrize("missing", ["absent", None, [], [0, 0, 0, 0], [None] * 4])
def test_an_object_without_box_gets_that_of_its_mask(tmp_path, box, missing):
    left, top, right, bottom = box
    polygon = [left, top, right, top, right, bottom, left, bottom]
    masks = [[polygon], polygon, [[left, top, left, bottom], [right, top, right, bottom]], *mask_of(box)]
    content = tiny()
    content["annotations"] = [
        {"image_id": 10, "category_id": 1, "segmentation": mask, "bbox": missing} for mask in masks
    ]
    if missing == "absent":
        for row in content["annotations"]:
            del row["bbox"]
    table = as_written(tmp_path, content)
    assert table.boxes.tolist() == [list(box)] * 5
    assert table.notes() == ["instances.json: boxes made from masks, because the objects have none: 5 (10.png)"]


NO_MASKS = [
    *(
        None,
        [],
        [[]],
        {},
        "",
        3,
        [[1]],
        [[1, 2, 3]],
        ["a", "b"],
        [[1, 2], [None, 3]],
        [[float("nan"), 1]],
        [10**400, 1],
    ),
    {"size": [40, 60], "counts": []},
    {"size": [40, 60], "counts": [2400]},
    {"size": [40, 60], "counts": [0, 2401]},
    {"size": [40, 60], "counts": [-1, 5]},
    {"size": [40, 60], "counts": ["a"]},
    {"size": [0, 0], "counts": [0, 9]},
    {"size": [40], "counts": [0, 9]},
    {"size": None, "counts": [0, 9]},
    {"size": [40, 60], "counts": ""},
    {"size": [40, 60], "counts": "PP"},
    {"size": [40, 60], "counts": "\u00e4"},
    {"size": [40, 60], "counts": "zz"},
    {"counts": "04"},
]


@pytest.mark.parametrize("mask", NO_MASKS, ids=str)
def test_an_object_without_box_and_mask_is_left_out_and_counted(tmp_path, mask):
    content = tiny()
    content["annotations"] = [
        {"image_id": 10, "category_id": 1, "segmentation": mask},
        {"image_id": 20, "category_id": 2, "bbox": [1, 2, 3, 4], "segmentation": mask},
    ]
    table = as_written(tmp_path, content)
    assert table.labels.tolist() == [1]
    assert table.notes() == ["instances.json: objects without box and mask left out: 1 (10.png)"]


def test_a_box_is_used_as_written_whatever_its_mask(tmp_path):
    content = change(tiny(), "annotations", 0, segmentation=[[0, 0, 5, 0, 5, 5]])
    assert as_written(tmp_path, content).boxes.tolist()[1] == [1, 2, 11, 22]


def test_boxes_may_be_written_as_texts(tmp_path):
    content = change(tiny(), "annotations", 0, bbox=["1", "2.0", "10", 20])
    assert as_written(tmp_path, content).boxes.tolist()[1] == [1, 2, 11, 22]


@pytest.mark.parametrize("area", [None, "", "large", -1, float("nan"), [], 10**400])
def test_an_area_that_is_none_is_that_of_the_box(tmp_path, area):
    content = change(tiny(), "annotations", 0, area=area)
    assert as_written(tmp_path, content).areas.tolist()[1] == 200


# Crowds


def crowd_masks(number):
    """A data set of four masks as CVAT writes them, `number` of them as crowds with run lengths."""
    runs, polygon = {"counts": [488, 28, 2556], "size": [48, 64]}, [[10, 8, 40, 8, 40, 36, 10, 36]]
    content = {**tiny(), "annotations": []}
    for index in range(4):
        crowd = index < number
        row = {"iscrowd": int(crowd), "segmentation": runs if crowd else polygon}
        content["annotations"].append({"image_id": 10, "category_id": 1, "bbox": [10, 8, 30, 28], **row})
    return content


def test_masks_written_as_crowds_are_questioned_and_can_be_used(tmp_path):
    table = as_written(tmp_path, crowd_masks(2))
    assert table.notes() == [
        "instances.json: 2 of 4 objects are crowds, which are not trained on; are these masks of single objects? Then "
        "set data.crowd_as_objects=true"
    ]
    check_not_only_crowds(table)
    used = repair_boxes(table, crowd_as_objects=True)
    assert not used.crowd.any()
    assert used.notes() == ["instances.json: crowds used as ordinary objects: 2"]


def test_a_data_set_of_crowds_alone_is_not_trained_on(tmp_path):
    table = as_written(tmp_path, crowd_masks(4))
    with pytest.raises(DataError, match=r"all 4 objects are marked as crowds .* set data\.crowd_as_objects=true"):
        check_not_only_crowds(table)
    check_not_only_crowds(repair_boxes(table, crowd_as_objects=True))


# Categories


def grouped(*categories):
    """Three images with objects of the categories 1 and 2, in a file with the categories (id, name, supercategory)."""
    rows = [{"id": i, "name": name, "supercategory": above} for i, name, above in categories]
    annotations = [{"image_id": 10, "category_id": i, "bbox": [1, 2, 3, 4]} for i in (1, 2, 1)]
    return {**tiny(), "annotations": annotations, "categories": rows}


CAR, TRUCK = (1, "car", "car"), (2, "truck", "car")


@pytest.mark.parametrize(
    "group",
    [
        (0, "car", "none"),
        (0, "vehicles", "none"),
        (7, "car", "none"),
        (7, " car", None),
        (7, "truck", "car"),
    ],
)
def test_an_unused_category_named_like_another_or_like_a_group_is_dropped_with_a_note(tmp_path, group):
    above = "vehicles" if group[1] == "vehicles" else "car"
    table = as_written(tmp_path, grouped(group, (1, "car", above), (2, "truck", above)))
    assert table.label_map == LabelMap(("car", "truck"), (1, 2))
    assert table.labels.tolist() == [0, 1, 0]
    assert table.notes() == [
        f"instances.json: categories without objects, named like another or a group, dropped: 1 ('{group[1].strip()}' "
        f"(id {group[0]}))"
    ]


def test_an_unused_category_with_a_name_of_its_own_stays(tmp_path):
    for other in ((0, "bus", "none"), (0, "vehicles", "car"), (7, "bus", None)):
        assert other[1] in as_written(tmp_path, grouped(other, CAR, TRUCK)).label_map.names


def test_a_group_that_has_objects_is_a_class(tmp_path):
    content = grouped((0, "vehicles", "none"), (1, "car", "vehicles"), (2, "truck", "vehicles"))
    content["annotations"][0]["category_id"] = 0
    assert as_written(tmp_path, content).label_map == LabelMap(("vehicles", "car", "truck"), (0, 1, 2))


@pytest.mark.parametrize("name", ["car", " car ", "caf\u00e9"])
def test_two_categories_of_one_name_with_objects_are_refused(tmp_path, name):
    first = unicodedata.normalize("NFD", name)
    with pytest.raises(DataError, match=rf"the categories 1 and 2 are both named '{name.strip()}', and both have obj"):
        as_written(tmp_path, grouped((1, first, None), (2, name, None)))


def test_class_names_are_composed_and_without_blanks_at_their_ends(tmp_path):
    names = as_written(tmp_path, grouped((1, "cafe\u0301 ", None), (2, "\tbar", None))).label_map.names
    assert names == ("caf\u00e9", "bar")


def test_a_category_listed_twice_is_one(tmp_path):
    table = as_written(tmp_path, grouped(CAR, TRUCK, (1.0, "car", None)))
    assert table.label_map == LabelMap(("car", "truck"), (1, 2))
    assert (table.labels.tolist(), table.notes()) == ([0, 1, 0], [])


# Images


def test_an_image_listed_twice_is_one_with_the_objects_of_both(tmp_path):
    content = tiny()
    content["images"].append({**content["images"][0], "id": 40})
    content["annotations"].append({"image_id": 40, "category_id": 1, "bbox": [1, 2, 3, 4]})
    table = as_written(tmp_path, content)
    assert table.image_ids.tolist() == [30, 10, 20]
    assert table.offsets.tolist() == [0, 2, 2, 4]
    assert table.notes()[0] == "instances.json: images listed twice merged: 1 (30.png)"


def test_an_entry_that_is_repeated_whole_is_one_image(tmp_path):
    content = tiny()
    content["images"].append(content["images"][0])
    table = as_written(tmp_path, content)
    assert (len(table), table.repairs) == (3, {"images listed twice merged": 1})


def test_the_address_of_an_image_stands_for_its_name_as_in_lvis(tmp_path):
    content = tiny()
    for row in content["images"]:
        row["coco_url"] = f"http://images.cocodataset.org/train2017/{row.pop('file_name')}"
    assert as_written(tmp_path, content).file_names.tolist() == ["30.png", "10.png", "20.png"]


def test_other_keys_are_ignored(tmp_path):
    content = {**tiny(), "info": {"contributor": None}, "licenses": 5, "videos": [], "type": "instances"}
    for key in ("images", "annotations", "categories"):
        for row in content[key]:
            row |= {"attributes": {"occluded": True}, "score": 0.5, "segmentation": "", "keypoints": None}
    assert len(as_written(tmp_path, content).boxes) == 3
