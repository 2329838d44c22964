import os

import cv2
import numpy as np
import pytest

from effdet.config import ClassificationData, SplitConfig
from effdet.data.formats import read_table
from effdet.data.formats.folders import read_folders
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
    assert table.label_map is classes
    assert table.labels.tolist() == [1, 2]


def test_the_order_of_the_model_is_kept_where_it_is_another(tmp_path):
    classes = LabelMap(("dog", "cow", "cat"), (0, 1, 2))
    table = read_table(ClassificationData(root=pets(tmp_path)), "val", classes)
    assert dict(zip(table.file_names.tolist(), table.labels.tolist(), strict=True)) == {"cat/7.jpg": 2, "dog/8.jpg": 0}


def test_a_validation_split_of_one_class_is_no_fault(tmp_path):
    write(tmp_path, "cat/1.jpg")
    assert read_folders(tmp_path, LabelMap(("cat", "dog"), (0, 1))).labels.tolist() == [0]


def test_numbers_are_sorted_as_numbers(tmp_path):
    write(tmp_path, "10/a.jpg", "2/a.jpg", "1/a.jpg")
    assert read_folders(tmp_path).label_map.names == ("1", "2", "10")
    write(tmp_path, "x/a.jpg")
    assert read_folders(tmp_path).label_map.names == ("1", "10", "2", "x")


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
    table = read_folders(tmp_path)
    assert table.file_names.tolist() == ["a/1.jpg", "b/1.png"]
    assert table.notes() == [
        f"{tmp_path.name}: files that are no images left out: 3",
        f"{tmp_path.name}: hidden images and folders left out: 2",
    ]


def test_paths_may_be_given_one_by_one(tmp_path):
    pets(tmp_path)
    by_folder = ClassificationData(root=tmp_path, train=SplitConfig(split="val"))
    assert len(read_table(by_folder, "train")) == 2
    below_root = ClassificationData(root=tmp_path, train=SplitConfig(images="val"))
    assert len(read_table(below_root, "train")) == 2
    without_root = ClassificationData(train=SplitConfig(images=tmp_path / "val"))
    assert len(read_table(without_root, "train")) == 2


def test_linked_folders_are_followed(tmp_path):
    pets(tmp_path / "real")
    (tmp_path / "train").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).symlink_to(tmp_path / "real" / "train" / name)
    assert len(read_folders(tmp_path / "train")) == 4


def test_a_folder_that_links_to_itself_is_one_sentence(tmp_path):
    write(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "b" / "again").symlink_to(tmp_path / "b")
    with pytest.raises(DataError, match="cannot be read"):
        read_folders(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    write(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(DataError, match="b: the folder cannot be read: Permission denied"):
            read_folders(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o700)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "there are no class folders; expected a folder of images for each class"),
        (["list.txt", ".hidden/1.jpg"], "there are no class folders"),
        (["1.jpg", "2.jpg"], "2 images lie in no class folder, such as 1.jpg; expected CLASS/1.jpg"),
        (["a/1.jpg", "b/1.jpg", "stray.png"], "1 images lie in no class folder, such as stray.png"),
        (["cat/1.jpg"], "all images are of the class 'cat'; a classifier needs at least two classes"),
        (["cat/1.jpg", "dog/notes.txt"], "dog: the class folder has no images"),
    ],
)
def test_folders_that_are_no_data_set_are_reported(tmp_path, names, message):
    write(tmp_path, *names)
    with pytest.raises(DataError, match=message) as error:
        read_folders(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("catt", "the class 'catt' is not among the 2 classes of the model; did you mean 'cat'?"),
        ("zebra", "the class 'zebra' is not among the 2 classes of the model; known are cat, dog"),
    ],
)
def test_an_unknown_class_is_reported_with_the_nearest_known(tmp_path, name, message):
    write(tmp_path, f"{name}/1.jpg")
    with pytest.raises(DataError) as error:
        read_folders(tmp_path, LabelMap(("cat", "dog"), (0, 1)))
    assert message in str(error.value)


def test_missing_files_are_reported_with_the_setting_of_their_path(tmp_path):
    pets(tmp_path)
    for data, split, message in (
        (ClassificationData(), "train", r"no data set is given: set data.root=FOLDER, or data.train.images=FOLDER$"),
        (ClassificationData(root=tmp_path / "no"), "train", "no: no such folder; set data.root=..."),
        (
            ClassificationData(root=tmp_path, val=SplitConfig(split="test")),
            "val",
            "test: no such folder of class folders; set data.val.images=FOLDER, data.val.split=NAME, or data.root=...",
        ),
        (ClassificationData(root=tmp_path, val=None), "val", "data.val is null"),
        (
            ClassificationData(root=tmp_path, train=SplitConfig(images="none")),
            "train",
            "none: no such folder of class folders",
        ),
    ):
        with pytest.raises(DataError, match=message):
            read_table(data, split)
