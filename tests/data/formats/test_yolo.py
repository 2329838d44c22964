"""Facts about YOLO data sets: layouts of the tools that write them and faults in their files."""

import json

import cv2
import numpy as np
import pytest
import yaml

from effdet.config import DetectionData, SplitConfig
from effdet.data.formats import read_table, read_tables
from effdet.data.formats.table import repair_boxes
from effdet.data.formats.yolo import find_yolo, read_yolo
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

LINE = "0 0.5 0.5 0.25 0.5"  # in an image of 80 x 40 pixels:
BOX = [30, 10, 50, 30]
MADE_UP = "class names made up, because no data.yaml or classes.txt gives them"


def draw(*paths, size=(40, 80)):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((*size, 3), np.uint8))


def write(path, text=LINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8") if isinstance(text, str) else path.write_bytes(text)


def pair(image, labels, text=LINE):
    draw(image)
    write(labels, text)


def roboflow(root, splits=("train", "valid", "test"), more=""):
    """A Roboflow export: folders SPLIT/images and SPLIT/labels, and paths beside that of data.yaml."""
    for split in splits:
        name = f"{split}_jpg.rf.0123"
        pair(root / f"{split}/images/{name}.jpg", root / f"{split}/labels/{name}.txt", "1 0.5 0.5 0.25 0.5\n")
    write(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['ant', 'bee']\n" + more,
    )
    return root


def splits(path):
    return {split: read_yolo(files).file_names.tolist() for split, files in find_yolo(path).items()}


def only(path):
    """The table of the only split of a data set, with repaired boxes."""
    ((_, files),) = find_yolo(path).items()
    return repair_boxes(read_yolo(files))


def one_file(root, text, names="ant\nbee\n"):
    pair(root / "images/a.jpg", root / "labels/a.txt", text)
    write(root / "classes.txt", names)
    return only(root)


def test_a_label_file_becomes_boxes_in_pixels(tmp_path):
    table = one_file(tmp_path, f"1 0 0 0.5 1\n{LINE}\n")
    assert table.image_ids.tolist() == table.file_names.tolist() == ["a.jpg"]
    assert table.sizes.tolist() == [[40, 80]]
    assert table.boxes.tolist() == [[0, 0, 20, 20], BOX]
    assert table.labels.tolist() == [1, 0]
    assert table.areas.tolist() == [1600, 400]  # as written
    assert table.label_map == LabelMap(("ant", "bee"), (0, 1))
    assert table.repairs == {"boxes extending beyond their image clipped to it": 1}


# Layouts


def test_roboflow_has_a_folder_for_each_split_and_paths_beside_its_own_folder(tmp_path):
    roboflow(tmp_path)
    assert splits(tmp_path) == {
        "train": ["train_jpg.rf.0123.jpg"],
        "val": ["valid_jpg.rf.0123.jpg"],
        "test": ["test_jpg.rf.0123.jpg"],
    }
    tables = read_tables(DetectionData(root=tmp_path))
    assert not tables.split_off
    assert tables.train.boxes.tolist() == tables.val.boxes.tolist() == [BOX]
    assert tables.train.label_map == LabelMap(("ant", "bee"), (0, 1))
    assert tables.train.labels.tolist() == [1]


def test_a_declared_split_that_does_not_exist_is_counted(tmp_path):
    table = read_yolo(find_yolo(roboflow(tmp_path, ("train",)))["train"])
    assert table.places == {
        "splits whose images do not exist left out": ("val: ../valid/images", "test: ../test/images")
    }
    assert list(find_yolo(tmp_path)) == ["train"]


def test_a_training_split_that_does_not_exist_is_refused_with_the_folders(tmp_path):
    roboflow(tmp_path, ("valid",))
    with pytest.raises(
        DataError, match=r"data\.yaml: train: \.\./train/images, .*: no such images; .* has valid/, corr"
    ):
        find_yolo(tmp_path)


def test_a_path_beside_the_folder_that_exists_twice_is_refused_with_both(tmp_path):
    roboflow(tmp_path / "mine")
    draw(tmp_path / "train/images/other.jpg")
    with pytest.raises(DataError, match=r"'\.\./train/images' may be .*/train/images or .*/mine/train/images"):
        find_yolo(tmp_path / "mine")


@pytest.mark.parametrize(
    "paths",
    [
        {"path": ".", "train": "images/train", "val": "images/val"},
        {"path": "/home/other/datasets/mine", "train": "images/train", "val": "images/val"},
        {"path": "../datasets/mine", "train": "images/train", "val": "images/val"},
        {"train": "/home/other/mine/images/train/", "val": "/home/other/mine/images/val/"},
        {"train": "D:\\data\\mine\\images\\train", "val": "D:\\data\\mine\\images\\val"},
        {"train": ["images/train"], "val": ["images/val"], "test": None},
        {"train": "train.txt", "val": "val.txt", "test": ""},
    ],
)
@pytest.mark.parametrize("names", [["ant", "bee"], {0: "ant", 1: "bee"}, {"1": "bee", "0": "ant"}])
def test_data_yaml_may_write_paths_and_names_in_several_ways(tmp_path, paths, names):
    for split in ("train", "val"):
        pair(tmp_path / f"images/{split}/{split}.jpg", tmp_path / f"labels/{split}/{split}.txt")
        write(tmp_path / f"{split}.txt", f"data/images/{split}/{split}.jpg\n")
    write(tmp_path / "dataset.yml", yaml.safe_dump({**paths, "names": names}))
    found = find_yolo(tmp_path)
    assert list(found) == ["train", "val"]
    for split, files in found.items():
        table = read_yolo(files)
        assert [table.path(0).name, table.boxes.tolist()] == [f"{split}.jpg", [BOX]]
        assert table.label_map == LabelMap(("ant", "bee"), (0, 1))


def test_two_splits_that_would_be_one_folder_are_refused_with_both(tmp_path):
    pair(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt")
    write(tmp_path / "data.yaml", "train: /x/train/images\nval: /x/val/images\nnames: [ant]\n")
    with pytest.raises(DataError, match=r"'/x/train/images' and '/x/val/images' would both be .*images"):
        find_yolo(tmp_path)
    write(tmp_path / "data.yaml", "train: images\nval: images\nnames: [ant]\n")
    assert list(find_yolo(tmp_path)) == ["train", "val"]


def test_several_folders_make_one_split(tmp_path):
    for camera in ("a", "b"):
        pair(
            tmp_path / f"{camera}/images/0.jpg",
            tmp_path / f"{camera}/labels/0.txt",
            f"{'ab'.index(camera)} .5 .5 .5 .5",
        )
    write(tmp_path / "data.yaml", "train: [a/images, b/images]\nnames: [ant, bee]\n")
    table = only(tmp_path)
    assert table.file_names.tolist() == ["a/images/0.jpg", "b/images/0.jpg"]
    assert table.labels.tolist() == [0, 1]


def test_class_names_are_texts_whatever_yaml_makes_of_them(tmp_path):
    pair(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt")
    write(tmp_path / "data.yaml", "train: images\nnames: [no, 007, 1.50, null, on]\n")
    assert only(tmp_path).label_map.names == ("no", "007", "1.50", "null", "on")


def darknet(root, entry="data/obj_train_data/{}.jpg"):
    """CVAT's export "YOLO 1.1"."""
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "obj.names", "ant\nbee\n")
    write(root / "train.txt", "".join(f"{entry.format(name)}\n" for name in ("0", "cam/1")))
    for name in ("0", "cam/1"):
        pair(root / f"obj_train_data/{name}.jpg", root / f"obj_train_data/{name}.txt", "1 0.5 0.5 0.25 0.5\n")
    return root


@pytest.mark.parametrize(
    "entry", ["data/obj_train_data/{}.jpg", "obj_train_data/{}.jpg", "D:\\x\\obj_train_data\\{}.jpg"]
)
@pytest.mark.parametrize("has_data_file", [True, False])
def test_cvat_and_darknet_have_lists_and_labels_beside_the_images(tmp_path, entry, has_data_file):
    darknet(tmp_path, entry)
    if not has_data_file:
        (tmp_path / "obj.data").unlink()
    table = read_yolo(find_yolo(tmp_path)["train"])
    assert [table.path(row).relative_to(tmp_path / "obj_train_data").as_posix() for row in (0, 1)] == [
        "0.jpg",
        "cam/1.jpg",
    ]
    assert table.boxes.tolist() == [BOX, BOX]
    assert table.label_map == LabelMap(("ant", "bee"), (0, 1))


def test_label_studio_has_notes_json(tmp_path):
    pair(tmp_path / "images/0f-a.jpg", tmp_path / "labels/0f-a.txt")
    write(tmp_path / "notes.json", json.dumps({"categories": [{"id": 0, "name": "ant"}], "info": {"version": "1.0"}}))
    assert only(tmp_path).label_map == LabelMap(("ant",), (0,))
    write(tmp_path / "classes.txt", "bee\n")
    assert only(tmp_path).label_map == LabelMap(("bee",), (0,))


def test_labelimg_has_labels_and_class_names_beside_the_images(tmp_path):
    pair(tmp_path / "a.jpg", tmp_path / "a.txt")
    draw(tmp_path / "b.jpg")
    write(tmp_path / "classes.txt", "ant\nbee\n")
    table = only(tmp_path)
    assert table.file_names.tolist() == ["a.jpg", "b.jpg"]
    assert table.label_map.names == ("ant", "bee")
    assert table.notes() == [f"{tmp_path.name}: images without a label file used as background: 1 (b.jpg)"]


@pytest.mark.parametrize("pattern", ["{kind}/{split}", "{split}/{kind}", "{split}"])
@pytest.mark.parametrize("where", [".", "train", None])
def test_splits_are_known_by_their_folders_without_data_yaml(tmp_path, pattern, where):
    for split in ("train", "val2017"):
        image, labels = (tmp_path / pattern.format(kind=kind, split=split) for kind in ("images", "labels"))
        pair(image / "0.jpg", labels / "0.txt", "1 0.5 0.5 0.25 0.5")
    if where:
        folder = tmp_path / (pattern.format(kind="labels", split=where) if where != "." else where)
        write(folder / "classes.txt", "ant\nbee\n")
    assert splits(tmp_path) == {"train": ["0.jpg"], "val2017": ["0.jpg"]}
    table = read_yolo(find_yolo(tmp_path)["train"])
    assert table.label_map.names == (("ant", "bee") if where else ("0", "1"))
    assert table.places == ({} if where else {MADE_UP: ("0", "1")})


def test_lists_beside_two_folders_are_splits(tmp_path):
    for name in "ab":
        pair(tmp_path / f"images/{name}.jpg", tmp_path / f"labels/{name}.txt")
    write(tmp_path / "train.txt", "./images/a.jpg\n")
    write(tmp_path / "val.txt", "./images/b.jpg\n")
    assert splits(tmp_path) == {"train": ["a.jpg"], "val": ["b.jpg"]}


@pytest.mark.parametrize("path", ["labels", "labels/train", "data.yaml"])
def test_data_yaml_or_a_folder_of_labels_alone_is_enough(tmp_path, path):
    pair(tmp_path / "images/train/0.jpg", tmp_path / "labels/train/0.txt")
    write(tmp_path / "data.yaml", "train: images/train\nnames: [ant]\n")
    table = only(tmp_path / path)
    assert table.path(0) == tmp_path / "images/train/0.jpg"
    assert table.label_map.names == ("ant",)


def test_images_and_labels_may_be_given_one_by_one(tmp_path):
    pair(tmp_path / "photos/0.jpg", tmp_path / "marks/0.txt")
    split = SplitConfig(images=tmp_path / "photos", annotations=tmp_path / "marks")
    assert read_table(DetectionData(train=split, val=None), "train").boxes.tolist() == [BOX]
    write(tmp_path / "elsewhere/data.yaml", "train: ../train/images\nnames: [ant]\n")
    draw(tmp_path / "train/images/1.jpg")
    pair(tmp_path / "b/images/0.jpg", tmp_path / "b/labels/0.txt")
    split = SplitConfig(images=tmp_path / "b/images", annotations=tmp_path / "elsewhere/data.yaml")
    table = read_table(DetectionData(train=split, val=None), "train")
    assert [table.file_names.tolist(), table.label_map.names] == [["0.jpg"], ("ant",)]


@pytest.mark.parametrize(
    "first", ["", "a picture of a cat", "car 0.00 0 1.5 587 173 614 200 1.6 1.6 3.6 -0.6 1.7 46 1.5"]
)
def test_other_text_files_are_not_yolo(tmp_path, first):
    draw(tmp_path / "a.jpg", tmp_path / "images/b.jpg")
    for path in ("a.txt", "labels/b.txt"):
        write(tmp_path / path, first)
    write(tmp_path / "recipe.yaml", "model: {name: lite0}\ntrain: {epochs: 3}\n")
    assert find_yolo(tmp_path) == {}
    assert find_yolo(tmp_path / "a.jpg") == {}


# Images and label files


def test_labels_of_two_cameras_stay_with_their_images(tmp_path):
    for number, camera in enumerate(("cam_1", "cam_2")):
        pair(tmp_path / f"images/{camera}/0.jpg", tmp_path / f"labels/{camera}/0.txt", f"{number} .5 .5 .5 .5")
    table = only(tmp_path)
    assert table.file_names.tolist() == ["cam_1/0.jpg", "cam_2/0.jpg"]
    assert table.labels.tolist() == [0, 1]


def test_labels_that_may_be_of_two_images_are_refused_with_both(tmp_path):
    draw(tmp_path / "images/cam_1/0.jpg", tmp_path / "images/cam_2/0.jpg")
    write(tmp_path / "labels/0.txt")
    with pytest.raises(DataError, match=r"labels/0\.txt: the labels may be of .*cam_1/0\.jpg or .*cam_2/0\.jpg"):
        only(tmp_path)


def test_listed_cameras_that_would_be_one_folder_are_refused_with_both(tmp_path):
    pair(tmp_path / "flat/images/0.jpg", tmp_path / "flat/labels/0.txt")
    write(tmp_path / "flat/train.txt", "D:\\a\\0.jpg\nD:\\b\\0.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt: 'D:/a/0\.jpg' and 'D:/b/0\.jpg' would both be"):
        only(tmp_path / "flat")


def test_an_empty_label_file_is_background_and_a_missing_one_is_counted(tmp_path):
    one_file(tmp_path, LINE)
    pair(tmp_path / "images/b.jpg", tmp_path / "labels/b.txt", "\n")
    draw(tmp_path / "images/c.jpg")
    table = only(tmp_path)
    assert np.diff(table.offsets).tolist() == [1, 0, 0]
    assert table.places == {"images without a label file used as background": ("c.jpg",)}


def test_no_label_file_at_all_is_refused_with_the_folder(tmp_path):
    roboflow(tmp_path, ("train",))
    (tmp_path / "train/labels").rename(tmp_path / "train/Marks")
    with pytest.raises(
        DataError, match=r"data\.yaml: none of 1 images has a label file; looked in .*train/images, expec"
    ):
        read_yolo(find_yolo(tmp_path)["train"])


def test_label_files_without_image_are_counted(tmp_path):
    one_file(tmp_path, LINE)
    for name in ("b.txt", "deep/c.txt", "classes.txt", "README.txt"):
        write(tmp_path / "labels" / name)
    assert only(tmp_path).places == {"label files without an image left out": ("b.txt", "c.txt")}


def test_listed_images_that_do_not_exist_are_refused_and_repeated_ones_counted(tmp_path):
    pair(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt")
    write(tmp_path / "train.txt", "images/a.jpg\n./images/a.jpg\n")
    table = only(tmp_path)
    assert len(table.boxes) == 1
    assert table.repairs[("images listed twice merged")] == 1
    write(tmp_path / "train.txt", "images/a.jpg\nimages/b.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt: 1 of 2 images do not exist in .*: images/b\.jpg; correct"):
        only(tmp_path)


def test_suffix_and_case_of_listed_images_do_not_matter(tmp_path):
    pair(tmp_path / "Images/a.PNG", tmp_path / "Labels/a.txt")
    write(tmp_path / "train.txt", "Images/a.png\n")
    assert only(tmp_path).file_names.tolist() == ["a.PNG"]


# Lines


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{LINE}\r\n\r\n".encode(),
        LINE.encode("utf-16"),
        b"0\t0.5\t0.5  0.25 0.5\r",
        b"0,0.5,0.5,0.25,0.5",
        b"0, 0.5, 0.5, 0.25, 0.5",
        b"0 0,5 0,5 0,25 0,5",
        b"0.0 5e-1 .5 0.250000 +0.5",
    ],
)
def test_numbers_may_be_written_in_several_ways(tmp_path, text):
    assert one_file(tmp_path, text).boxes.tolist() == [BOX]


@pytest.mark.parametrize(
    "points",
    ["0.375 0.25 0.625 0.75 0.5 0.5", "0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75", "0.5 .25 .625 .5 .5 .75 .375 .5"],
)
def test_polygons_and_oriented_boxes_become_boxes_and_are_counted(tmp_path, points):
    table = one_file(tmp_path, f"1 {points}\n{LINE}\n")
    assert table.boxes.tolist() == [BOX, BOX]
    assert table.labels.tolist() == [1, 0]
    assert table.places == {"polygons made into boxes": ("a.txt:1",)}


def test_a_confidence_is_ignored_and_counted(tmp_path):
    table = one_file(tmp_path, f"{LINE} 0.93\n")
    assert table.boxes.tolist() == [BOX]
    assert table.places == {"confidences after a box ignored": ("a.txt:1",)}


def test_keypoints_are_ignored_where_data_yaml_says_that_there_are_some(tmp_path):
    write(tmp_path / "data.yaml", "train: images\nkpt_shape: [2, 3]\nnames: [ant]\n")
    pair(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt", f"{LINE} 0.1 0.2 2 0.3 0.9 1\n")
    table = only(tmp_path)
    assert table.boxes.tolist() == [BOX]
    assert table.notes() == []


def test_equal_lines_are_read_once_and_counted(tmp_path):
    table = one_file(tmp_path, f"{LINE}\n1 0.5 0.5 0.25 0.5\n{LINE}\n")
    assert table.labels.tolist() == [0, 1]
    assert table.places == {"repeated label lines left out": ("a.txt:3",)}


def test_lines_that_are_no_labels_are_left_out_and_named(tmp_path):
    faulty = (
        "ant 0.5 0.5 0.25 0.5",
        "0 0.5 0.5 0.25",
        "0.5 0.5 0.5 0.25 0.5",
        "0 0.5 0.5 0.25 x",
        "0 .1 .2 .3 .4 .5 .6 .7",
    )
    table = one_file(tmp_path, "\n".join([LINE, *faulty]))
    assert table.boxes.tolist() == [BOX]
    assert table.places == {
        "label lines that are neither box nor polygon left out": tuple(f"a.txt:{line}" for line in range(2, 7))
    }


def test_a_data_set_of_faulty_lines_is_refused_with_an_example(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt:1: no line of 1 label files is a label; expected 'class x_center"):
        one_file(tmp_path, "ant 0.5 0.5 0.25 0.5\nbee 0.5 0.5 0.25 0.5\n")


def test_boxes_in_pixels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"labels/a\.txt: the boxes are in pixels; expected .* fractions of the image"):
        one_file(tmp_path, "0 40 20 20 20\n1 10 10 4 4\n")


def test_a_single_line_far_above_one_is_left_out_and_values_slightly_above_are_clipped(tmp_path):
    table = one_file(tmp_path, f"{LINE}\n0 40 20 20 20\n0 1.001 0.5 0.1 0.5\n")
    assert np.allclose(table.boxes, [BOX, [76.08, 10, 80, 30]])
    assert table.repairs == {
        "label lines with values far above 1 left out": 1,
        "boxes extending beyond their image clipped to it": 1,
    }


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("0 0.5 0.5 0 0.5", "boxes without area dropped"),
        ("0 nan 0.5 0.1 0.5", "boxes with NaN or infinite coordinates dropped"),
        ("0 inf 0.5 0.1 0.5", "boxes with NaN or infinite coordinates dropped"),
        ("0 1.5 0.5 0.1 0.5", "boxes outside their image dropped"),
        ("0 -0.5 0.5 0.1 0.5", "boxes outside their image dropped"),
    ],
)
def test_degenerate_boxes_are_dropped_and_counted(tmp_path, line, cause):
    table = one_file(tmp_path, f"{LINE}\n{line}")
    assert table.boxes.tolist() == [BOX]
    assert table.repairs == {cause: 1}


def test_a_negative_side_is_sorted_and_counted(tmp_path):
    table = one_file(tmp_path, "0 0.5 0.5 -0.25 0.5")
    assert table.boxes.tolist() == [BOX]
    assert table.repairs == {"boxes with corners in reverse order sorted": 1}


# Class names


@pytest.mark.parametrize("index", [2, -1])
def test_a_class_index_without_name_is_refused_with_file_and_line(tmp_path, index):
    message = (
        rf"labels/a\.txt: line 2 has the class index {index}, but there are 2 class names, with the indices 0 to 1"
    )
    with pytest.raises(DataError, match=message):
        one_file(tmp_path, f"{LINE}\n{index} 0.5 0.5 0.25 0.5\n")


def test_class_indices_may_have_gaps(tmp_path):
    pair(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt", f"{LINE}\n7 0.5 0.5 0.25 0.5")
    write(tmp_path / "data.yaml", "train: images\nnc: 2\nnames: {7: cow, 0: ant}\n")
    table = only(tmp_path)
    assert table.label_map == LabelMap(("ant", "cow"), (0, 7))
    assert table.labels.tolist() == [0, 1]
    assert table.notes() == []


def test_metadata_that_contradicts_itself_is_counted(tmp_path):
    pair(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt")
    write(tmp_path / "data.yaml", "train: images\nnc: 80\nnames: [ant, 'ant ', bee]\n")
    assert only(tmp_path).places == {
        "nc differs from the number of names, which is used": ("80 and 3",),
        "class names that several class indices have, which become one class": ("ant",),
    }
    data = DetectionData(root=tmp_path, val=None)
    assert read_table(data, "train").label_map == LabelMap(("ant", "bee"), (0, 2))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classes.txt", "ant\n\nbee\n", r"classes\.txt: line 2 is empty; expected a class name in each line"),
        ("classes.txt", b"\xe9\n", r"classes\.txt: not UTF-8 text at byte 0"),
        ("notes.json", "[]", r"notes\.json: expected 'categories'"),
        ("data.yaml", "names: [ant\ntrain: images", r"data\.yaml: not valid YAML: line 2 column 6"),
        ("data.yaml", "train: images\nnames: {a: b}", r"data\.yaml: names has the key 'a'; expected class indices"),
        ("data.yaml", "train: images\nnames: coco.names", r"data\.yaml: names is 'coco\.names'; expected a list"),
    ],
)
def test_a_damaged_description_is_refused_in_one_sentence(tmp_path, file, content, message):
    pair(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt")
    write(tmp_path / file, content)
    with pytest.raises(DataError, match=message) as error:
        only(tmp_path)
    assert "\n" not in str(error.value)


def test_several_descriptions_are_refused_with_their_names(tmp_path):
    for name in ("a.yaml", "b.yaml"):
        write(tmp_path / name, "train: images\nnames: [ant]\n")
    with pytest.raises(DataError, match=r"several YOLO data sets: a\.yaml, b\.yaml; set data\.train\.annotations"):
        find_yolo(tmp_path)


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("P1.JPG", "P1.TXT"),
        ("Shot.jpg", "shot.txt"),
        ("caf\u00e9.jpg", "cafe\u0301.txt"),  # composed and decomposed
        ("a b.jpg", "a%20b.txt"),
    ],
)
def test_label_files_may_be_named_in_another_case_or_form_of_unicode(tmp_path, image, labels):
    pair(tmp_path / "images" / image, tmp_path / "labels" / labels)
    pair(tmp_path / "images/other.jpg", tmp_path / "labels/other.txt")
    write(tmp_path / "classes.txt", "ant\n")
    table = only(tmp_path)
    assert table.boxes.tolist() == [BOX, BOX]
    assert table.repairs == {}


def test_a_label_file_of_the_exact_name_wins(tmp_path):
    pair(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt")
    write(tmp_path / "labels/A.txt", "0 0 0 0.5 1\n")
    write(tmp_path / "classes.txt", "ant\n")
    table = only(tmp_path)
    assert table.boxes.tolist() == [BOX]
    assert list(table.repairs.values()) == [1]  # the other file has no image


def test_a_list_names_no_files_elsewhere_and_nothing_but_images(tmp_path):
    draw(tmp_path / "set/images/a.jpg", tmp_path / "elsewhere/b.jpg")
    write(tmp_path / "set/labels/a.txt")
    (tmp_path / "secret").write_text("x")
    for line in (str(tmp_path / "elsewhere/b.jpg"), "../elsewhere/b.jpg", str(tmp_path / "secret"), "../../../secret"):
        write(tmp_path / "set/train.txt", f"./images/a.jpg\n{line}\n")
        with pytest.raises(DataError, match=r"train\.txt: .*(is no image in|do not exist in)"):
            read_yolo(find_yolo(tmp_path / "set")["train"])
    write(tmp_path / "set/train.txt", f"{tmp_path / 'set/images/a.jpg'}\n")
    assert read_yolo(find_yolo(tmp_path / "set")["train"]).file_names.tolist() == ["a.jpg"]


def test_a_file_of_class_names_elsewhere_is_refused(tmp_path):
    draw(tmp_path / "set/images/a.jpg")
    write(tmp_path / "set/labels/a.txt")
    write(tmp_path / "secret.txt", "password\n")
    write(tmp_path / "set/obj.data", f"classes = 1\ntrain = images\nnames = {tmp_path / 'secret.txt'}\n")
    with pytest.raises(DataError, match="a file below"):
        find_yolo(tmp_path / "set")
