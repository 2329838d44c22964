import cv2
import numpy as np
import pytest

from effdet.config import ClassificationData, SplitConfig, ValidationConfig
from effdet.data.formats import read_table
from effdet.data.formats.classes import follow_classes
from effdet.data.formats.image_files import require_images
from effdet.data.formats.image_list import read_image_list
from effdet.data.formats.split_files import SplitFiles
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

IMAGES = ("a.jpg", "b.jpg", "sub/c.jpg", "d,e.jpg")


def folder_of_images(folder):
    for name in IMAGES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))
    return folder


def read(folder, content, label_map=None):
    folder_of_images(folder)
    path = folder / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = read_image_list(SplitFiles(path, folder))
    require_images(table)
    return follow_classes(table, label_map=label_map)


def test_a_list_becomes_a_table_in_its_order(tmp_path):
    table = read(tmp_path, "image,label\nb.jpg,dog\na.jpg,cat\nsub/c.jpg,dog\n")
    assert table.file_names.tolist() == ["b.jpg", "a.jpg", "sub/c.jpg"]
    assert table.labels.tolist() == [1, 0, 1]
    assert table.labels.dtype == np.int64
    assert table.label_map == LabelMap(("cat", "dog"), (0, 1))
    assert table.source == tmp_path / "list.csv"
    assert table.notes() == []


@pytest.mark.parametrize(
    "header", ["image,label", "file,class", "file_name,category", "filename,name", "path,label", "Image, Label"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_columns_have_their_usual_names(tmp_path, header, end):
    table = read(tmp_path, end.join([header, "a.jpg,cat", "b.jpg, dog "]))
    assert table.label_map.names == ("cat", "dog")
    assert len(table) == 2


def test_columns_stand_in_any_order_among_others(tmp_path):
    table = read(tmp_path, "id,class,width,file\n1,cat,6,a.jpg\n2,dog,6,b.jpg\n")
    assert table.file_names.tolist() == ["a.jpg", "b.jpg"]
    assert table.labels.tolist() == [0, 1]


def test_names_with_commas_stand_in_quotes_and_a_byte_order_mark_is_no_hindrance(tmp_path):
    table = read(tmp_path, b'\xef\xbb\xbfimage,label\n"d,e.jpg","salt, fine"\na.jpg,sel \xc3\xa9pais\n')
    assert table.file_names.tolist() == ["d,e.jpg", "a.jpg"]
    assert table.label_map.names == ("salt, fine", "sel épais")


def test_numbers_are_sorted_as_numbers(tmp_path):
    table = read(tmp_path, "image,label\na.jpg,10\nb.jpg,2\nsub/c.jpg,1\n")
    assert table.label_map.names == ("1", "2", "10")
    assert table.labels.tolist() == [2, 1, 0]


def test_repeated_and_empty_lines_are_counted(tmp_path):
    table = read(tmp_path, "\nimage,label\na.jpg,x\n\nb.jpg,y\na.jpg,x\n , \na.jpg, x\n")
    assert table.file_names.tolist() == ["a.jpg", "b.jpg"]
    assert table.notes() == ["list.csv: empty lines left out: 3", "list.csv: repeated lines left out: 2"]


def test_images_are_found_under_other_spellings(tmp_path):
    table = read(tmp_path, "image,label\nsub\\c.jpg,x\na.JPG,y\n/somewhere/b.jpg,y\n")
    assert table.file_names.tolist() == ["sub/c.jpg", "a.jpg", "b.jpg"]


def test_a_class_of_the_model_may_be_missing_but_none_be_unknown(tmp_path):
    classes = LabelMap(("dog", "cow", "cat"), (0, 1, 2))
    assert read(tmp_path, "image,label\na.jpg,cat\n", classes).labels.tolist() == [2]
    with pytest.raises(
        DataError,
        match=r"the class 'dgo' is not among the 3 classes of .*did you mean 'dog'",
    ):
        read(tmp_path, "image,label\na.jpg,dgo\n", classes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the list has no images; expected a header such as image,label"),
        ("image,label\n", "the list has no images"),
        (
            "a.jpg,cat\nb.jpg,dog\n",
            "the first line is 'a.jpg,cat', in which no column is named filename, file, file_name, image",
        ),
        ("image|label\na.jpg|cat\n", "the first line is 'image|label'"),
        ("image,colour\na.jpg,red\n", "no column is named class, label, category, class_name"),
        ("image,label\na.jpg\n", "line 2 has 1 columns, the header 2"),
        ("image,label\nd,e.jpg,cat\n", "line 2 has 3 columns, the header 2; put names that hold a comma in quotes"),
        ("image,label\na.jpg,\n", "line 2 has no class"),
        ("image,label\n,cat\n", "line 2 has no image"),
        ("image,label\na.jpg,cat\n\nb.jpg,dog\na.jpg,dog\n", "line 5: a.jpg is 'dog' here and 'cat' above"),
        ("image,label\na.jpg,cat\nb.jpg,cat\n", "all images are of the class 'cat'; a classifier needs at least two"),
        (b"image,label\na.jpg,caf\xe9\n", "line 2 is not UTF-8 text; save the list as a UTF-8 CSV file"),
        ("image,label\na.jpg,cat\n".encode("utf-16"), "line 1 is not UTF-8 text"),
        (
            "image,label\n" + "".join(f"{i}.jpg,{i}\n" for i in range(9)),
            "9 of 9 images do not exist in .*: 0.jpg, 1.jpg, 2.jpg, ...;",
        ),
        ("image,label\na.jpg,cat\nsub,dog\n", "1 of 2 images do not exist in .*: sub;"),
        ("image,label\n" + "x" * 200_000 + ",cat\n", "line 2: not a CSV file: field larger than field limit"),
    ],
)
def test_lists_that_cannot_be_used_are_one_sentence(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, content)
    assert str(error.value).startswith(str(tmp_path / "list.csv"))
    assert "\n" not in str(error.value)


def test_the_lists_are_in_the_root_beside_their_images(tmp_path):
    folder_of_images(tmp_path)
    (tmp_path / "train.csv").write_text("image,label\na.jpg,cat\nb.jpg,dog\n")
    (tmp_path / "small.csv").write_text("image,label\nb.jpg,dog\n")
    data = ClassificationData(format="csv", root=tmp_path, val=ValidationConfig(split="small"))
    train = read_table(data, "train")
    val = read_table(data, "val", train.label_map)
    assert train.path(0) == tmp_path / "a.jpg"
    assert val.labels.tolist() == [1]


def test_list_and_images_may_be_given_one_by_one(tmp_path):
    folder_of_images(tmp_path / "photos")
    path = tmp_path / "lists" / "mine.csv"
    path.parent.mkdir()
    path.write_text("image,label\na.jpg,cat\nb.jpg,dog\n")
    for data in (
        ClassificationData(train=SplitConfig(annotations=path, images=tmp_path / "photos"), val=None),
        ClassificationData(
            format="csv", root=tmp_path, train=SplitConfig(annotations="lists/mine.csv", images="photos"), val=None
        ),
    ):
        assert read_table(data, "train").path(1) == tmp_path / "photos" / "b.jpg"


def test_missing_files_are_reported_with_the_setting_of_their_path(tmp_path):
    folder_of_images(tmp_path)
    (tmp_path / "here.csv").write_text("image,label\na.jpg,cat\nb.jpg,dog\n")
    (tmp_path / "there.csv").write_text("image,label\na.jpg,cat\nb.jpg,dog\n")
    for split, root, message in (
        (SplitConfig(), None, r"no data set is given: set data.root=FOLDER, or data.train.annotations="),
        (
            SplitConfig(),
            tmp_path,
            "no split that is for training; the csv data set has here, there; set data.train.spl",
        ),
        (SplitConfig(split="here", images="no"), tmp_path, "no: no such image folder; set data.train.images=FOLDER"),
    ):
        with pytest.raises(DataError, match=message):
            read_table(ClassificationData(format="csv", root=root, train=split, val=None), "train")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_columns_may_be_separated_by_semicolons_and_tabs(tmp_path, mark):
    table = read(tmp_path, f"image{mark}label\nd,e.jpg{mark}cat\na.jpg{mark}dog\n")
    assert table.file_names.tolist() == ["d,e.jpg", "a.jpg"]
    assert table.label_map.names == ("cat", "dog")
