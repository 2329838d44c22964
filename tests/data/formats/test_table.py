from pathlib import Path

import cv2
import numpy as np
import pytest

from effdet.data.formats.image_files import require_images
from effdet.data.formats.table import build_table, check_not_only_crowds, repair_boxes
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

INF, NAN = float("inf"), float("nan")


def build(folder, names, boxes=(), owners=(), **columns):
    """A table of images of 40 x 60 pixels, which are drawn, with boxes of the class ant."""
    for name in names:
        cv2.imwrite(str(folder / name.rpartition("\\")[2]), np.zeros((40, 60, 3), np.uint8))
    values = {
        "source": Path("boxes.json"),
        "image_folder": folder,
        "file_names": names,
        "image_ids": np.arange(len(names)),
        "sizes": np.array([[40, 60]] * len(names), np.int32).reshape(-1, 2),
        "image_of_box": np.array(owners, np.int64),
        "boxes": np.array(boxes, np.float64).reshape(-1, 4),
        "labels": np.zeros(len(boxes), np.int64),
        "label_map": LabelMap(("ant",), (1,)),
    }
    return build_table(**{**values, **columns})


def test_boxes_are_sorted_by_image_and_keep_their_order(tmp_path):
    boxes = [[index, 0, index + 1, 1] for index in range(6)]
    table = build(tmp_path, ["b.png", "a.png", "c.png"], boxes, [2, 0, 2, 0, 0, 2], labels=np.arange(6))
    assert table.offsets.tolist() == [0, 3, 3, 6]
    assert table.boxes[:, 0].tolist() == table.labels.tolist() == [1, 3, 4, 0, 2, 5]
    assert (table.file_names.tolist(), table.repairs) == (["b.png", "a.png", "c.png"], {})


def test_boxes_stay_as_written_until_they_are_repaired(tmp_path):
    boxes = [[9, 8, 1, 2], [5, 5, 5, 9], [NAN, 1, 2, 3], [-50, 0, -9, 9], [50, 30, 90, 90]]
    table = build(tmp_path, ["a.png"], boxes, [0] * 5)
    np.testing.assert_array_equal(table.boxes, np.array(boxes, np.float32))
    assert table.repairs == {}
    assert repair_boxes(table).boxes.tolist() == [[1, 2, 9, 8], [50, 30, 60, 40]]


@pytest.mark.parametrize(
    ("box", "repaired", "cause"),
    [
        ([1, 2, 9, 8], [1, 2, 9, 8], None),
        ([-1, -1, 61, 41], [-1, -1, 61, 41], None),
        ([0, 0, 62, 40], [0, 0, 60, 40], "boxes extending beyond their image clipped to it"),
        ([9, 2, 1, 8], [1, 2, 9, 8], "boxes with corners in reverse order sorted"),
        ([1, 8, 9, 2], [1, 2, 9, 8], "boxes with corners in reverse order sorted"),
        ([5, 2, 5, 8], None, "boxes without area dropped"),
        ([0, 2, 1e-9, 8], None, "boxes without area dropped"),
        ([0, 1e-5, 9, 0], None, "boxes without area dropped"),
        ([5, 2, 5.01, 8], [5, 2, np.float32(5.01), 8], None),
        ([60, 2, 70, 8], None, "boxes outside their image dropped"),
        ([1, INF, 2, 3], None, "boxes with NaN or infinite coordinates dropped"),
    ],
)
def test_each_fault_of_a_box_has_its_own_cause(tmp_path, box, repaired, cause):
    table = repair_boxes(build(tmp_path, ["a.png"], [box], [0]))
    assert table.boxes.tolist() == ([] if repaired is None else [repaired])
    assert (table.repairs, table.places) == (({}, {}) if cause is None else ({cause: 1}, {cause: ("a.png",)}))


def test_sizes_that_are_not_known_are_read_from_the_images(tmp_path):
    sizes = np.array([[0, 0], [40, 60], [0, 60]], np.int32)
    table = build(tmp_path, ["a.png", "b.png", "c.png"], sizes=sizes)
    assert table.sizes.tolist() == [[40, 60]] * 3
    assert sizes.tolist() == [[0, 0], [40, 60], [0, 60]]


def test_boxes_made_for_larger_pictures_are_reported_though_no_size_is_written(tmp_path):
    boxes = [[500, 300, 700, 400], [800, 600, 900, 700]]
    table = repair_boxes(build(tmp_path, ["a.png"], boxes, [0, 0], sizes=np.zeros((1, 2), np.int32)))
    assert table.repairs == {"boxes outside their image dropped": 2}


def test_normalized_boxes_are_in_pixels_of_the_image(tmp_path):
    table = build(tmp_path, ["a.png"], [[0.5, 0.25, 1, 1]], [0], normalized=True, sizes=np.zeros((1, 2), np.int32))
    assert (table.boxes.tolist(), table.areas.tolist()) == ([[30, 10, 60, 40]], [900])


def test_normalized_boxes_of_an_image_without_a_size_are_dropped_and_counted(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    table = build(tmp_path, ["b.png"], [[0, 0, 1, 1]], [0], file_names=["a.jpg"], normalized=True,
                  sizes=np.zeros((1, 2), np.int32))  # fmt: skip
    assert repair_boxes(table).repairs == {"boxes of images whose size cannot be read dropped": 1}


def test_rows_of_one_file_become_one_image_and_are_counted(tmp_path):
    boxes = [[index, 0, 9, 9] for index in range(4)]
    table = build(tmp_path, ["a.png", "b.png", "a.png", ".\\a.png"], boxes, [3, 2, 1, 0])
    assert table.file_names.tolist() == ["a.png", "b.png"]
    assert table.image_ids.tolist() == [0, 1]
    assert table.boxes[:, 0].tolist() == [0, 1, 3, 2]
    assert table.notes() == ["boxes.json: images listed twice merged: 2 (a.png)"]


def test_two_cameras_in_one_folder_are_refused_with_both_names(tmp_path):
    names = [f"D:\\data\\{camera}\\{number}.png" for camera in "ab" for number in range(2)]
    with pytest.raises(DataError) as error:
        build(tmp_path, names)
    assert f"boxes.json: '{names[0]}' and '{names[2]}' would both be the file '0.png'" in str(error.value)


def test_images_under_another_name_are_counted_with_both_names(tmp_path):
    table = build(tmp_path, ["a.png", "b.png"], file_names=["a.jpg", "D:\\x\\b.png"])
    assert table.notes() == [
        "boxes.json: images matched under another name: 2 ('a.jpg' as 'a.png', 'D:\\x\\b.png' as 'b.png')"
    ]


def test_missing_images_are_counted_and_refused_where_the_table_is_used(tmp_path):
    table = build(tmp_path, ["cat_01.png", "b.png"], file_names=["b.png", "cat_1.png", "gone.png"],
                  image_ids=np.arange(3), sizes=np.full((3, 2), 9, np.int32))  # fmt: skip
    assert table.file_names.tolist() == ["b.png", "cat_1.png", "gone.png"]
    assert (table.repairs, table.places) == (
        {"images that do not exist": 2},
        {"images that do not exist": ("cat_1.png", "gone.png")},
    )
    with pytest.raises(DataError) as error:
        require_images(table)
    assert str(error.value) == (
        f"boxes.json: 2 of 3 images do not exist in {tmp_path}: cat_1.png, gone.png; the folder holds 2 .png, the "
        "nearest name is cat_01.png. Correct the image folder with data.train.images=FOLDER (or data.val.images), or "
        "let `effdet check DATA --fix OUT` write a copy without these images"
    )
    require_images(build(tmp_path, ["b.png"]))


def test_what_a_reader_left_out_is_counted_with_its_files(tmp_path):
    table = build(tmp_path, ["a.png"], repairs={"polygons became boxes": ["a.png", "a.png"], "nothing": []})
    assert table.repairs == {"polygons became boxes": 2}
    assert table.notes() == ["boxes.json: polygons became boxes: 2 (a.png)"]


def test_areas_that_are_not_written_are_those_of_the_boxes(tmp_path):
    boxes = [[1, 2, 4, 6], [4, 6, 1, 2], [0, 0, 2, 2]]
    table = build(tmp_path, ["a.png"], boxes, [0] * 3, areas=np.array([NAN, NAN, 3.5]))
    assert table.areas.tolist() == [12, 12, 3.5]
    assert build(tmp_path, ["a.png"], boxes, [0] * 3).areas.tolist() == [12, 12, 4]


def test_a_table_needs_an_image_but_no_box(tmp_path):
    assert build(tmp_path, ["a.png"]).boxes.shape == (0, 4)
    with pytest.raises(DataError, match=r"boxes\.json: the data set has no images"):
        build(tmp_path, [])


@pytest.mark.parametrize(("crowd", "refused"), [([], False), ([True, False], False), ([True, True], True)])
def test_only_crowds_are_refused_for_training(tmp_path, crowd, refused):
    table = build(tmp_path, ["a.png"], [[0, 0, 9, 9]] * len(crowd), [0] * len(crowd), crowd=np.array(crowd, np.bool_))
    if refused:
        with pytest.raises(DataError, match="all 2 objects are marked as crowds"):
            check_not_only_crowds(table)
    else:
        check_not_only_crowds(table)
