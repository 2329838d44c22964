import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from effdet.config import ClassificationData, SplitConfig, ValidationConfig
from effdet.data.formats import read_table, read_tables
from effdet.data.formats.classes import follow_classes
from effdet.data.formats.folders import find_folders, read_folders
from effdet.data.formats.split_files import SplitFiles
from effdet.data.label_map import LabelMap
from effdet.errors import DataError


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".jpg", ".png"):
            cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))
        else:
            path.write_text("no image")
    return folder


def read(folder):
    return read_folders(SplitFiles(folder, folder))


def pets(folder):
    write(folder / "train", "dog/b.jpg", "dog/a.png", "cat/1.JPG", "cat/more/deep/2.jpg", "ant/x.jpg")
    return write(folder, "val/cat/7.jpg", "val/dog/8.jpg")


def test_every_folder_is_a_class_and_holds_its_images(tmp_path):
    table = read_table(ClassificationData(root=pets(tmp_path)), "train")
    assert table.label_map == LabelMap(("ant", "cat", "dog"), (0, 1, 2))
    assert table.file_names.tolist() == ["ant/x.jpg", "cat/1.JPG", "cat/more/deep/2.jpg", "dog/a.png", "dog/b.jpg"]
    assert table.labels.tolist() == [0, 1, 1, 2, 2]
    assert table.labels.dtype == np.int64
    assert table.source == table.image_folder == tmp_path / "train"
    assert all(table.path(row).is_file() for row in range(len(table)))
    assert table.notes() == []


def test_validation_follows_the_classes_of_the_training_split_and_may_lack_some(tmp_path):
    data = ClassificationData(root=pets(tmp_path))
    classes = read_table(data, "train").label_map
    table = read_table(data, "val", classes)
    assert table.label_map == classes
    assert table.labels.tolist() == [1, 2]


def test_the_order_of_the_model_is_kept_where_it_is_another(tmp_path):
    classes = LabelMap(("dog", "cow", "cat"), (0, 1, 2))
    table = read_table(ClassificationData(root=pets(tmp_path)), "val", classes)
    assert dict(zip(table.file_names.tolist(), table.labels.tolist(), strict=True)) == {"cat/7.jpg": 2, "dog/8.jpg": 0}


def test_a_validation_split_of_one_class_is_no_fault(tmp_path):
    write(tmp_path, "cat/1.jpg")
    assert follow_classes(read(tmp_path), label_map=LabelMap(("cat", "dog"), (0, 1))).labels.tolist() == [0]


def test_numbers_are_sorted_as_numbers(tmp_path):
    write(tmp_path, "10/a.jpg", "2/a.jpg", "1/a.jpg")
    assert read(tmp_path).label_map.names == ("1", "2", "10")
    write(tmp_path, "x/a.jpg")
    assert read(tmp_path).label_map.names == ("1", "10", "2", "x")


def test_hidden_names_and_other_files_are_left_out_and_counted(tmp_path):
    write(
        tmp_path,
        "a/1.jpg",
        "a/.2.jpg",
        "a/Thumbs.db",
        "a/b/notes.txt",
        "b/1.png",
        ".git/x.jpg",
        ".DS_Store",
        "README.md",
    )
    table = read(tmp_path)
    assert table.file_names.tolist() == ["a/1.jpg", "b/1.png"]
    assert table.notes() == [
        f"{tmp_path.name}: files that are no images left out: 3",
        f"{tmp_path.name}: hidden images and folders left out: 2",
    ]


def test_paths_may_be_given_one_by_one(tmp_path):
    pets(tmp_path)
    by_folder = ClassificationData(root=tmp_path, val=None, train=SplitConfig(split="val"))
    assert len(read_table(by_folder, "train")) == 2
    below_root = ClassificationData(root=tmp_path, val=None, train=SplitConfig(images="val"))
    assert len(read_table(below_root, "train")) == 2
    without_root = ClassificationData(val=None, train=SplitConfig(images=tmp_path / "val"))
    assert len(read_table(without_root, "train")) == 2


def test_linked_folders_are_followed(tmp_path):
    pets(tmp_path / "real")
    (tmp_path / "train").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).symlink_to(tmp_path / "real" / "train" / name)
    assert len(read(tmp_path / "train")) == 4


def test_links_to_folders_above_and_to_themselves_are_left_out_and_counted(tmp_path):
    write(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "b" / "again").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "all").symlink_to(tmp_path)
    (tmp_path / "a" / "loop").symlink_to("loop")
    table = read(tmp_path)
    assert table.file_names.tolist() == ["a/1.jpg", "b/1.jpg"]
    assert table.repairs == {"files that are no images left out": 3}


def test_folders_below_each_other_without_end_are_refused(tmp_path):
    write(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "b" / Path(*["d"] * 400)).mkdir(parents=True)
    with pytest.raises(DataError, match="lies more than 100 folders deep"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    write(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(DataError, match="b: the folder cannot be read: Permission denied"):
            read(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o700)


def test_what_is_no_class_with_images_is_left_out_and_counted(tmp_path):
    table = read(write(tmp_path, "a/1.jpg", "b/1.jpg", "stray.png", "empty/notes.txt"))
    assert table.label_map.names == ("a", "b")
    assert table.repairs == {
        "images beside the class folders left out": 1,
        "class folders without images left out": 1,
        "files that are no images left out": 1,
    }
    assert table.notes()[0] == f"{tmp_path.name}: images beside the class folders left out: 1 (stray.png)"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "there are no class folders with images; expected CLASS/IMAGE.jpg"),
        (["list.txt", ".hidden/1.jpg"], "there are no class folders with images"),
        (["1.jpg", "2.jpg"], "2 images lie in no class folder, such as 1.jpg"),
        (["cat/1.jpg"], "all images are of the class 'cat'; a classifier needs at least two classes"),
        (["dog/notes.txt"], "there are no class folders with images"),
    ],
)
def test_folders_that_are_no_data_set_are_reported(tmp_path, names, message):
    write(tmp_path, *names)
    with pytest.raises(DataError, match=message) as error:
        follow_classes(read(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "hint"), [("catt", "did you mean 'cat'?"), ("zebra", "the classes are cat, dog")])
def test_an_unknown_class_is_reported_with_the_nearest_known(tmp_path, name, hint):
    write(tmp_path, f"{name}/1.jpg")
    with pytest.raises(DataError) as error:
        follow_classes(read(tmp_path), label_map=LabelMap(("cat", "dog"), (0, 1)))
    assert f"the class '{name}'" in str(error.value)
    assert hint in str(error.value)


@pytest.mark.parametrize("names", [("train", "val"), ("train", "valid", "test"), ("Training", "Validation")])
def test_splits_are_recognized_by_their_names(tmp_path, names):
    for name in names:
        write(tmp_path / name, "cat/1.jpg", "dog/2.jpg")
    assert find_folders(tmp_path).keys() == set(names)
    tables = read_tables(ClassificationData(root=tmp_path))
    assert [tables.train.source.name, tables.val.source.name] == list(names[:2])
    assert not tables.split_off


def test_class_folders_without_splits_are_split_class_by_class(tmp_path):
    for name in ("cat", "dog"):
        write(tmp_path, *(f"{name}/{number}.jpg" for number in range(10)))
    for number, path in enumerate(tmp_path.glob("*/*.jpg")):
        path.write_bytes(bytes([number]))
    tables = read_tables(ClassificationData(root=tmp_path))
    assert tables.split_off
    assert [len(tables.train), len(tables.val)] == [16, 4]
    assert np.bincount(tables.val.labels).tolist() == [2, 2]


def test_a_folder_of_something_else_is_described(tmp_path):
    write(tmp_path, "notes.txt", "a/readme.md")
    with pytest.raises(DataError, match=r"not a data set of a known format; the folder holds a/, 1 \.txt"):
        read_table(ClassificationData(root=tmp_path), "train")


def test_missing_files_are_reported_with_the_setting_of_their_path(tmp_path):
    pets(tmp_path)
    for data, split, message in (
        (ClassificationData(), "train", "no data set is given: set data.root=FOLDER, or data.train.annotations"),
        (ClassificationData(root=tmp_path / "no"), "train", "no: no such folder; set data.root=.*holds train/, val/"),
        (
            ClassificationData(root=tmp_path, val=ValidationConfig(split="test")),
            "val",
            "no split 'test'; the folders data set has train, val; set data.val.split to one of them",
        ),
        (ClassificationData(root=tmp_path, val=None), "val", "data.val is null"),
        (
            ClassificationData(root=tmp_path, format="folders", train=SplitConfig(images="none")),
            "train",
            "none: no such file or folder",
        ),
    ):
        with pytest.raises(DataError, match=message):
            read_table(data, split)
