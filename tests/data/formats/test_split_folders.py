"""Which folders of a data set are splits, as people and zip files leave them, and what is said of other folders."""

import json
import shutil

import cv2
import numpy as np
import pytest

from effdet.cli import main
from effdet.config import make_config
from effdet.data.formats import IN_BOTH, NOT_LISTED, UNANNOTATED, read_tables, task_of_data
from effdet.errors import DataError

BOX = (10, 20, 40, 50)  # in an image of 80 x 60


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng([*path.name.encode()]).integers(0, 255, (60, 80, 3), np.uint8))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def coco(path, names):
    left, top, right, bottom = BOX
    box = [left, top, right - left, bottom - top]
    content = {
        "images": [{"id": row, "file_name": name, "width": 80, "height": 60} for row, name in enumerate(names)],
        "annotations": [
            {"id": row, "image_id": row, "category_id": 1, "bbox": box, "area": 900, "iscrowd": 0}
            for row in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write(path, json.dumps(content))


def coco_split(folder, names):
    for name in names:
        image(folder / name)
    coco(folder / "_annotations.coco.json", names)


def voc_split(folder, names):
    left, top, right, bottom = BOX
    corners = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    for name in names:
        image(folder / name)
        xml = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
        write((folder / name).with_suffix(".xml"), f"<annotation><filename>{name}</filename>{xml}</annotation>")


def yolo_split(folder, names):
    for name in names:
        image(folder / "images" / name)
        write((folder / "labels" / name).with_suffix(".txt"), "0 0.3125 0.58333333 0.375 0.5\n")


def csv_split(folder, names):
    rows = [f"{name},80,60,cat,{','.join(map(str, BOX))}" for name in names]
    for name in names:
        image(folder / name)
    write(folder / "_annotations.csv", "\n".join(["filename,width,height,class,xmin,ymin,xmax,ymax", *rows]))


def class_folders(folder, names):
    for name in names:
        for own in ("cat", "dog"):
            image(folder / own / name)


DETECTION = {"coco": coco_split, "voc": voc_split, "yolo": yolo_split, "csv": csv_split}
FIRST, SECOND = ["a.jpg", "b.jpg", "c.jpg"], ["d.jpg", "e.jpg"]


def tables_of(root, *overrides, task="detection"):
    return read_tables(make_config({"task": task}, [f"data.root={root}", *overrides]).data)


def task_of(root):
    return task_of_data(
        [make_config({"task": task}, [f"data.root={root}"]).data for task in ("detection", "classification")]
    )


# Folders around a data set


@pytest.mark.parametrize("form", [*DETECTION, "folders"])
def test_folders_that_unzipping_makes_are_entered_and_keep_the_splits(tmp_path, form):
    inner = tmp_path / "downloads" / "export of today" / "cats"
    for split, names in {"train": FIRST, "valid": SECOND}.items():
        (DETECTION | {"folders": class_folders})[form](inner / split, names)
    write(tmp_path / "downloads" / "__MACOSX" / "._cats", "")
    write(tmp_path / "downloads" / "export of today.zip", "")
    tables = tables_of(tmp_path / "downloads", task="classification" if form == "folders" else "detection")
    assert tables.format == form
    assert not tables.split_off
    copies = 2 if form == "folders" else 1
    assert (len(tables.train), len(tables.val)) == (copies * len(FIRST), copies * len(SECOND))
    if form != "folders":
        np.testing.assert_allclose(tables.train.boxes, [BOX] * len(FIRST), atol=1e-3)


def test_one_folder_of_a_split_is_not_entered(tmp_path):
    coco_split(tmp_path / "test", FIRST)
    with pytest.raises(DataError, match=r"no split that is for training; the coco data set has test"):
        tables_of(tmp_path)


# Splits of classifiers


def test_training_set_and_test_set_are_splits_and_no_classes(tmp_path):
    class_folders(tmp_path / "training_set", FIRST)
    class_folders(tmp_path / "test_set", SECOND)
    tables = tables_of(tmp_path, task="classification")
    assert tables.train.label_map.names == ("cat", "dog")
    assert tables.unused == ("test_set",)
    assert len(tables.train) + len(tables.val) == 2 * len(FIRST)


def test_class_folders_for_validation_and_test_alone_are_no_training_set(tmp_path):
    class_folders(tmp_path / "val", FIRST)
    class_folders(tmp_path / "test", SECOND)
    with pytest.raises(DataError, match=r"no split that is for training; the folders data set has test, val"):
        tables_of(tmp_path, task="classification")


def test_boxes_without_a_training_split_are_not_read_as_class_folders(tmp_path):
    coco_split(tmp_path / "valid", FIRST)
    coco_split(tmp_path / "test", SECOND)
    with pytest.raises(DataError, match=r"no split that is for training; the coco data set has test, valid"):
        task_of(tmp_path)
    for year in ("VOC2007", "VOC2012"):
        voc_split(tmp_path / "devkit" / year / "JPEGImages", FIRST)
        write(tmp_path / "devkit" / year / "Annotations" / "a.xml", "<annotation><object/></annotation>")
    with pytest.raises(DataError, match="several VOC data sets"):
        task_of(tmp_path / "devkit")


# What is beside the splits


def test_a_second_coco_file_beside_that_of_a_split_does_not_hide_the_split(tmp_path):
    coco_split(tmp_path / "train", FIRST)
    coco_split(tmp_path / "valid", SECOND)
    shutil.copy(tmp_path / "valid" / "_annotations.coco.json", tmp_path / "valid" / "backup.json")
    tables = tables_of(tmp_path)
    assert (len(tables.val), tables.split_off) == (len(SECOND), False)
    (tmp_path / "valid" / "_annotations.coco.json").rename(tmp_path / "valid" / "old.json")
    with pytest.raises(DataError, match=r"valid: backup\.json and old\.json are both COCO files"):
        tables_of(tmp_path)


def test_coco_files_named_after_a_split_count_beside_those_of_instances(tmp_path):
    for name in [*FIRST, *SECOND]:
        image(tmp_path / "images" / name)
    coco(tmp_path / "Annotations" / "instances_train.json", FIRST)
    coco(tmp_path / "Annotations" / "val.json", SECOND)
    tables = tables_of(tmp_path)
    assert (len(tables.train), len(tables.val), tables.split_off) == (len(FIRST), len(SECOND), False)


@pytest.mark.parametrize("form", [form for form in DETECTION if form != "csv"])
def test_images_to_validate_on_without_annotations_are_counted(tmp_path, form):
    DETECTION[form](tmp_path / "train", FIRST)
    for name in SECOND:
        image(tmp_path / "Valid" / name)
    tables = tables_of(tmp_path)
    assert tables.split_off
    assert tables.val.repairs[UNANNOTATED] == len(SECOND)
    assert tables.val.places[UNANNOTATED] == ("Valid/d.jpg", "Valid/e.jpg")


def test_annotated_images_in_a_folder_for_validation_are_not_counted(tmp_path):
    for name in [*FIRST, *SECOND]:
        image(tmp_path / "val" / name)
    coco(tmp_path / "all.json", [f"val/{name}" for name in [*FIRST, *SECOND]])
    tables = tables_of(tmp_path)
    assert len(tables.train) + len(tables.val) == 5
    assert UNANNOTATED not in tables.val.repairs


def test_yolo_folders_beside_the_splits_are_named_as_unused(tmp_path):
    for split, names in {"train": FIRST, "val": SECOND, "extra": ["x.jpg"]}.items():
        yolo_split(tmp_path / split, names)
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / split / kind).rename(tmp_path / kind / split)
        (tmp_path / split).rmdir()
    assert tables_of(tmp_path).unused == ("extra",)


# Images in two splits


def test_images_to_validate_on_that_are_trained_on_are_counted(tmp_path):
    for name in FIRST:
        image(tmp_path / "images" / name)
    coco(tmp_path / "train.json", FIRST)
    coco(tmp_path / "val.json", FIRST[1:])
    tables = tables_of(tmp_path)
    assert tables.val.repairs[IN_BOTH] == 2
    assert IN_BOTH not in tables.train.repairs


def test_names_in_a_list_of_validation_images_that_do_not_exist_are_counted(tmp_path):
    coco_split(tmp_path / "train", FIRST)
    write(tmp_path / "val.txt", "b.jpg\nb2.jpg\n")
    tables = tables_of(tmp_path, f"data.val.file_list={tmp_path / 'val.txt'}")
    assert tables.val.file_names.tolist() == ["b.jpg"]
    assert tables.val.places[NOT_LISTED] == ("b2.jpg",)


def test_a_yolo_path_that_does_not_exist_never_gets_the_images_of_another_split(tmp_path):
    yolo_split(tmp_path, FIRST)
    for first, second in (("images", "../other/images"), ("../other/images", "images")):
        write(tmp_path / "data.yaml", f"train: {first}\nval: {second}\nnames: [cat]\n")
        with pytest.raises(DataError, match="would both be"):
            tables_of(tmp_path)


# Suffixes and paths


def test_a_csv_file_may_have_its_suffix_in_upper_case(tmp_path):
    csv_split(tmp_path, FIRST)
    (tmp_path / "_annotations.csv").rename(tmp_path / "ANNOTATIONS.CSV")
    tables = tables_of(tmp_path)
    assert (tables.format, len(tables.train) + len(tables.val)) == ("csv", len(FIRST))


def test_a_path_with_an_equals_sign_and_a_test_split_alone_can_be_checked(tmp_path, capsys, monkeypatch):
    coco_split(tmp_path / "a=b" / "test", FIRST)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "a=b", "data.workers=0"]) == 0
    assert capsys.readouterr().out.startswith("COCO data set: split test\n")
