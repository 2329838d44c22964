"""Facts about Pascal VOC: layouts of the tools that write it, faults in its files, and writing it."""

import cv2
import numpy as np
import pytest

from effdet.config import DetectionData, SplitConfig
from effdet.data.formats import read_table
from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import repair_boxes
from effdet.data.formats.voc import find_voc, read_voc
from effdet.data.formats.voc_writer import VOC_IMAGES, write_voc
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

BOX = (10, 8, 40, 36)


def draw(*paths, size=(48, 64)):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((*size, 3), np.uint8))


def bndbox(box):
    return "<bndbox>{}</bndbox>".format(
        "".join(f"<{e}>{v}</{e}>" for e, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    )


def an_object(name="car", box=BOX, more=""):
    return f"<object><name>{name}</name>{more}{bndbox(box) if box else ''}</object>"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8") if isinstance(text, str) else path.write_bytes(text)


def xml(path, objects=None, filename="", size=(48, 64), more=""):
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>" if size else ""
    objects = an_object() if objects is None else objects
    write(path, f"<annotation>{more}<filename>{filename}</filename>{sides}{objects}</annotation>")


def devkit(root, names=("a", "b"), lists=None):
    for name in names:
        draw(root / f"JPEGImages/{name}.jpg")
        xml(root / f"Annotations/{name}.xml", filename=f"{name}.jpg")
    for split, text in (lists or {}).items():
        write(root / f"ImageSets/Main/{split}.txt", text)
    return root


def only(path):
    """The table of the only split of a data set, with repaired boxes."""
    ((_, files),) = find_voc(path).items()
    return repair_boxes(read_voc(files))


def splits(path):
    return {split: read_voc(files).image_ids.tolist() for split, files in find_voc(path).items()}


def one_file(tmp_path, objects, **settings):
    draw(tmp_path / "a.jpg")
    xml(tmp_path / "a.xml", objects, "a.jpg", **settings)
    return only(tmp_path)


def test_the_devkit_becomes_a_table_in_the_order_of_its_list(tmp_path):
    devkit(tmp_path, lists={"train": "b\na\n"})
    xml(tmp_path / "Annotations/a.xml", an_object("cow", (1, 2, 11, 22)) + an_object("ant", (0.5, 0, 7.5, 8)), "a.jpg")
    xml(tmp_path / "Annotations/b.xml", "", "b.jpg")
    table = only(tmp_path)
    assert table.image_ids.tolist() == ["b", "a"]
    assert table.file_names.tolist() == ["b.jpg", "a.jpg"]
    assert table.sizes.tolist() == [[48, 64]] * 2
    assert table.offsets.tolist() == [0, 0, 2]
    assert table.boxes.tolist() == [[1, 2, 11, 22], [0.5, 0, 7.5, 8]]
    assert table.areas.tolist() == [200, 56]
    assert table.label_map == LabelMap(("ant", "cow"), (1, 2))
    assert table.labels.tolist() == [1, 0]
    assert not table.crowd.any()
    assert table.notes() == []


# Layouts


def test_two_images_of_one_name_in_different_folders_are_both_read(tmp_path):
    devkit(tmp_path, ("cam_1/0000", "cam_2/0000"), {"default": "cam_1/0000\ncam_2/0000\n"})
    xml(tmp_path / "Annotations/cam_2/0000.xml", an_object("dog"), "cam_2/0000.jpg")
    table = only(tmp_path)
    assert table.file_names.tolist() == ["cam_1/0000.jpg", "cam_2/0000.jpg"]
    assert [table.label_map.names[label] for label in table.labels] == ["car", "dog"]
    assert table.notes() == []


def test_sub_folders_need_no_list(tmp_path):
    assert only(devkit(tmp_path, ("cam_1/0000", "cam_2/0000"))).image_ids.tolist() == ["cam_1/0000", "cam_2/0000"]


def test_names_with_sub_folders_may_be_listed_for_files_without(tmp_path):
    devkit(tmp_path, ("a1", "b1"), {"default": "a/a1\nb/b1\n"})
    assert only(tmp_path).image_ids.tolist() == ["a1", "b1"]


def test_two_listed_names_that_would_be_one_file_are_refused_with_both(tmp_path):
    devkit(tmp_path, ("0000",), {"default": "cam_1/0000\ncam_2/0000\n"})
    with pytest.raises(DataError, match=r"default\.txt: 'cam_1/0000' and 'cam_2/0000' would both be 0000\.xml"):
        only(tmp_path)


def test_a_listed_name_that_may_be_two_files_is_refused_with_both(tmp_path):
    devkit(tmp_path, ("cam_1/0000", "cam_2/0000"), {"train": "0000\n"})
    with pytest.raises(DataError, match=r"'0000' may be cam_1/0000\.xml or cam_2/0000\.xml"):
        only(tmp_path)


def test_roboflow_has_xml_files_beside_the_images_of_each_split(tmp_path):
    for split in ("train", "valid", "test"):
        draw(tmp_path / split / f"{split}_jpg.rf.0123.jpg")
        xml(tmp_path / split / f"{split}_jpg.rf.0123.xml", filename=f"{split}_jpg.rf.0123.jpg")
    write(tmp_path / "README.roboflow.txt", "an export")
    assert splits(tmp_path) == {name: [f"{name}_jpg.rf.0123"] for name in ("test", "train", "valid")}


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("", ""),
        ("images", "annotations"),
        ("images", "Annotations"),
        ("img", "xml"),
        ("data", "labels"),
        ("Images", "Labels"),
    ],
)
def test_xml_files_are_beside_the_images_or_in_a_folder_of_their_own(tmp_path, images, annotations):
    for name in "ab":
        draw(tmp_path / images / f"{name}.jpg")
        xml(tmp_path / annotations / f"{name}.xml", filename=f"{name}.jpg")
    table = only(tmp_path)
    assert [table.file_name(index) for index in range(2)] == ["a.jpg", "b.jpg"]
    assert table.notes() == []


def test_splits_may_be_folders_in_both_folders(tmp_path):
    for split in ("train", "val"):
        draw(tmp_path / f"images/{split}/0.jpg")
        xml(tmp_path / f"annotations/{split}/0.xml")
    assert splits(tmp_path) == {"train": ["0"], "val": ["0"]}


def test_each_split_may_be_a_devkit(tmp_path):
    devkit(tmp_path / "train", "a")
    devkit(tmp_path / "val", "b")
    assert splits(tmp_path) == {"train": ["a"], "val": ["b"]}


@pytest.mark.parametrize("folder", ["VOC2012", "VOCdevkit/VOC2012", "mine"])
def test_the_only_devkit_below_a_folder_is_read(tmp_path, folder):
    devkit(tmp_path / folder, lists={"train": "a\n", "val": "b\n"})
    assert splits(tmp_path) == {"train": ["a"], "val": ["b"]}


def test_several_years_are_refused_with_their_names(tmp_path):
    devkit(tmp_path / "VOCdevkit/VOC2007")
    devkit(tmp_path / "VOCdevkit/VOC2012")
    with pytest.raises(DataError, match=r"several VOC data sets: VOCdevkit/VOC2007, VOCdevkit/VOC2012; set data\.root"):
        find_voc(tmp_path)


def test_lists_of_single_classes_are_no_splits(tmp_path):
    lists = {"train": "a\n", "val": "b\n", "dining_table_train": "a  1\n", "car_val": "b -1\n", "night_train": "a\n"}
    assert list(find_voc(devkit(tmp_path, lists=lists))) == ["night_train", "train", "val"]


def test_lists_may_be_beside_the_folders(tmp_path):
    devkit(tmp_path)
    write(tmp_path / "train.txt", "./JPEGImages/a.jpg ./Annotations/a.xml\n")
    write(tmp_path / "label_list.txt", "car\n")
    assert splits(tmp_path) == {"train": ["a"]}


@pytest.mark.parametrize("content", ["<annotations><image/></annotations>", "<kml></kml>", "", "\0\1"])
def test_other_xml_files_are_not_voc(tmp_path, content):
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "annotations.xml", content)
    assert find_voc(tmp_path) == {}
    assert find_voc(tmp_path / "annotations.xml") == {}


def test_a_folder_of_xml_files_alone_has_its_images_beside_it(tmp_path):
    devkit(tmp_path, lists={"train": "a\n"})
    assert only(tmp_path / "Annotations").file_names.tolist() == ["a.jpg", "b.jpg"]


# Lists


@pytest.mark.parametrize(
    "lines",
    [
        "b  1\na -1\n",
        "b.jpg\r\n\r\n a.jpg \r\n",
        "JPEGImages/b.jpg\nJPEGImages\\a.jpg",
        "/home/me/voc/JPEGImages/b.jpg\nD:\\voc\\a.jpg\n",
        "\"b\" 1\n'a'\n",
        "\ufeffb.xml\na.xml\n",
        "B\nA\n",
    ],
)
def test_lists_may_have_labels_suffixes_folders_and_quotes(tmp_path, lines):
    assert only(devkit(tmp_path, lists={"train": lines})).image_ids.tolist() == ["b", "a"]


def test_names_may_have_blanks_and_end_like_a_label(tmp_path):
    devkit(tmp_path, ("a", "a 1", "my cat"), {"train": 'a 1\n"my cat" 1\n'})
    assert only(tmp_path).image_ids.tolist() == ["a 1", "my cat"]


def test_names_are_compared_in_composed_unicode(tmp_path):
    devkit(tmp_path, ("caf\u0065\u0301",), {"train": "caf\u00e9\n"})
    assert len(only(tmp_path)) == 1


def test_an_image_that_is_listed_twice_is_read_once_and_counted(tmp_path):
    table = only(devkit(tmp_path, lists={"train": "a\nb\na\n"}))
    assert table.image_ids.tolist() == ["a", "b"]
    assert len(table.boxes) == 2
    assert table.repairs == {"images listed twice merged": 1}


def test_listed_images_without_xml_file_and_names_without_either_are_counted(tmp_path):
    devkit(tmp_path, lists={"train": "a\nb\nc\n"})
    (tmp_path / "Annotations/b.xml").unlink()
    table = only(tmp_path)
    assert table.image_ids.tolist() == ["a"]
    assert table.places == {
        "images without an XML file left out": ("b",),
        "listed images that do not exist left out": ("c",),
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("\n \n", r"train\.txt: the list is empty"),
        ("x\ny\n", r"train\.txt: no image of the list has an XML file, such as x; check the folders"),
        (b"\xff\xff", r"train\.txt: not UTF-8 text at byte 0"),
    ],
)
def test_a_faulty_list_is_refused_in_one_sentence(tmp_path, lines, message):
    devkit(tmp_path, lists={"train": lines})
    with pytest.raises(DataError, match=message) as error:
        only(tmp_path)
    assert "\n" not in str(error.value)


# Images


def test_images_without_xml_file_and_xml_files_without_image_are_counted(tmp_path):
    devkit(tmp_path, "abcd")
    (tmp_path / "Annotations/b.xml").unlink()
    (tmp_path / "JPEGImages/c.jpg").unlink()
    table = only(tmp_path)
    assert table.image_ids.tolist() == ["a", "d"]
    assert table.places == {
        "XML files without an image left out": ("c.xml",),
        "images without an XML file left out": ("b.jpg",),
    }


def test_no_image_at_all_is_refused_with_the_folder(tmp_path):
    devkit(tmp_path)
    draw(tmp_path / "JPEGImages/x.jpg")
    for name in "ab":
        (tmp_path / f"JPEGImages/{name}.jpg").unlink()
    with pytest.raises(DataError, match=r"none of 2 XML files has its image in .*JPEGImages; a\.xml is of a\.jpg, set"):
        only(tmp_path)


def test_the_name_in_the_xml_file_counts_where_the_image_has_another(tmp_path):
    devkit(tmp_path, "a")
    draw(tmp_path / "JPEGImages/photo.jpg")
    xml(tmp_path / "Annotations/a.xml", filename="photo.jpg")
    table = only(tmp_path)
    assert table.file_names.tolist() == ["a.jpg"]
    assert table.places["XML files that name another image than their own name does, which is used"] == ("a.xml",)
    (tmp_path / "JPEGImages/a.jpg").unlink()
    table = only(tmp_path)
    assert table.file_names.tolist() == ["photo.jpg"]
    assert table.notes() == []


def test_the_path_in_the_xml_file_says_which_of_two_images_it_is(tmp_path):
    draw(tmp_path / "images/cam_1/0.jpg", tmp_path / "images/cam_2/0.jpg")
    for camera in (1, 2):
        path = f"<path>D:\\data\\cam_{camera}\\0.jpg</path>"
        xml(tmp_path / f"xml/camera{camera}.xml", an_object(f"of {camera}"), "0.jpg", more=path)
    table = only(tmp_path)
    assert table.file_names.tolist() == ["cam_1/0.jpg", "cam_2/0.jpg"]
    assert table.labels.tolist() == [0, 1]


def test_two_xml_files_of_one_image_are_refused_with_both(tmp_path):
    draw(tmp_path / "images/0.jpg")
    for camera in "ab":
        xml(tmp_path / f"xml/{camera}/0.xml", filename="0.jpg", more=f"<folder>{camera}</folder>")
    with pytest.raises(DataError, match=r"a/0\.xml and b/0\.xml are both of the image 0\.jpg"):
        only(tmp_path)


def test_an_xml_file_that_names_the_image_of_another_is_left_out_and_counted(tmp_path):
    devkit(tmp_path, "a")
    xml(tmp_path / "Annotations/copy.xml", filename="a.jpg")
    table = only(tmp_path)
    assert table.image_ids.tolist() == ["a"]
    assert table.places == {"XML files that name the image of another XML file left out": ("copy.xml",)}


def test_a_match_across_folders_is_counted(tmp_path):
    draw(tmp_path / "images/cam_2/0.jpg")
    xml(tmp_path / "xml/cam_1/0.xml", filename="cam_1/0.jpg")
    table = only(tmp_path)
    assert table.places == {"images matched by file name alone, in another folder than named": ("cam_2/0.jpg",)}


def test_of_two_images_that_differ_in_suffix_the_named_one_is_used(tmp_path):
    devkit(tmp_path, "a")
    draw(tmp_path / "JPEGImages/a.png")
    assert only(tmp_path).file_names.tolist() == ["a.jpg"]
    xml(tmp_path / "Annotations/a.xml", filename="a.png")
    assert only(tmp_path).file_names.tolist() == ["a.png"]


def test_a_name_in_another_case_or_url_encoded_is_the_same(tmp_path):
    draw(tmp_path / "images/My Photo.JPG")
    xml(tmp_path / "xml/1.xml", filename="my%20photo.jpg")
    assert only(tmp_path).file_names.tolist() == ["My Photo.JPG"]


# Boxes and objects


def test_reversed_corners_are_sorted_and_counted(tmp_path):
    for k in range(4):
        draw(tmp_path / f"img/{k}.jpg")
        xml(tmp_path / f"xml/{k}.xml", an_object(box=(40, 36, 10, 8) if k < 3 else BOX), f"{k}.jpg")
    table = only(tmp_path)
    assert table.boxes.tolist() == [list(BOX)] * 4
    assert table.repairs == {"boxes with corners in reverse order sorted": 3}


@pytest.mark.parametrize("box", [(40, 8, 10, 36), (10, 36, 40, 8)])
def test_one_reversed_side_is_sorted_too(tmp_path, box):
    table = one_file(tmp_path, an_object(box=box))
    assert table.boxes.tolist() == [list(BOX)]
    assert table.repairs == {"boxes with corners in reverse order sorted": 1}


def test_reversed_boxes_without_area_or_outside_are_dropped(tmp_path):
    boxes = ((40, 36, 40, 8), (140, 136, 110, 108), (70, 60, 10, 8))
    table = one_file(tmp_path, "".join(an_object(box=box) for box in boxes))
    assert table.boxes.tolist() == [[10, 8, 64, 48]]
    assert table.repairs == {
        "boxes with corners in reverse order sorted": 2,
        "boxes without area dropped": 1,
        "boxes outside their image dropped": 1,
        "boxes extending beyond their image clipped to it": 1,
    }


@pytest.mark.parametrize(
    "shape",
    [
        "<polygon><x1>10</x1><y1>36</y1><x2>40</x2><y2>20</y2><x3>25</x3><y3>8</y3></polygon>",
        "<polygon><pt><x>10</x><y>36</y></pt><pt><x>40</x><y>8</y></pt><pt><x>25</x><y>9</y></pt></polygon>",
        "<points>10,36;40,8;25,9</points>",
        "<bndbox><xmin></xmin></bndbox><polygon><x1>10</x1><y1>36</y1><x2>40</x2><y2>8</y2></polygon>",
        "<robndbox><cx>25</cx><cy>22</cy><w>28</w><h>30</h><angle>1.5707963267948966</angle></robndbox>",
    ],
)
def test_polygons_without_a_box_become_boxes_and_are_counted(tmp_path, shape):
    table = one_file(tmp_path, an_object(box=None, more=shape) + an_object())
    assert np.allclose(table.boxes, [BOX, BOX])
    assert table.notes() == [f"{tmp_path.name}: polygons and rotated boxes made into boxes: 1 (a.xml)"]


def test_the_box_counts_where_there_is_a_polygon_too(tmp_path):
    table = one_file(tmp_path, an_object(more="<polygon><x1>0</x1><y1>0</y1><x2>9</x2><y2>9</y2></polygon>"))
    assert table.boxes.tolist() == [list(BOX)]
    assert table.notes() == []


def test_objects_without_name_or_box_are_left_out_and_counted(tmp_path):
    faulty = "<object/>", "<object><name>car</name></object>", f"<object>{bndbox(BOX)}</object>"
    faulty += f"<object><name> </name>{bndbox(BOX)}</object>", an_object(box=(1, 2, 3, "x"))
    table = one_file(tmp_path, an_object() + "".join(faulty))
    assert table.boxes.tolist() == [list(BOX)]
    assert table.repairs == {
        "objects without a box left out": 2,
        "objects without a name left out": 2,
        "objects whose box is not made of numbers left out": 1,
    }
    assert set(table.places.values()) == {("a.xml",)}


def test_objects_that_are_all_faulty_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no object has a name and a box: 2 objects without a box left out"):
        one_file(tmp_path, "<object/>" * 2)


def test_the_boxes_of_body_parts_are_not_that_of_the_object(tmp_path):
    part = f"<part><name>head</name>{bndbox((1, 2, 3, 4))}</part>"
    table = one_file(tmp_path, an_object("person", more=part))
    assert table.boxes.tolist() == [list(BOX)]
    assert table.label_map.names == ("person",)


@pytest.mark.parametrize(
    "box", [("10.0", "8.", "4e1", " 36\n"), ("10,0", "8,00", "40", "36"), ("+10", "008", "40.00", "36")]
)
def test_numbers_may_have_fractions_exponents_blanks_and_decimal_commas(tmp_path, box):
    assert one_file(tmp_path, an_object(box=box)).boxes.tolist() == [list(BOX)]


@pytest.mark.parametrize("text", ["1", " 1 ", "true"])
def test_difficult_objects_are_kept_and_marked(tmp_path, text):
    more = f"<difficult>{text}</difficult>"
    table = one_file(tmp_path, an_object(more=more) + an_object(more="<difficult>0</difficult>") + an_object())
    assert table.difficult.tolist() == [True, False, False]


@pytest.mark.parametrize("size", [None, (0, 0), (0, 64), ("", ""), ("?", 64), (10**11, 60), (-48, 64)])
def test_a_missing_or_absurd_size_is_read_from_the_image(tmp_path, size):
    table = one_file(tmp_path, an_object(box=(10, 8, 100, 36)), size=size)
    assert table.sizes.tolist() == [[48, 64]]
    assert table.boxes.tolist() == [[10, 8, 64, 36]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "gb2312", "shift_jis"])
def test_xml_files_may_have_any_declared_encoding(tmp_path, encoding):
    name = {"gb2312": "猫", "shift_jis": "ねこ"}.get(encoding, "chât")
    draw(tmp_path / "a.jpg")
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    text = f'<?xml version="1.0" encoding="{declared}"?><annotation>{an_object(name)}</annotation>'
    write(tmp_path / "a.xml", text.encode(encoding))
    assert only(tmp_path).label_map.names == (name,)


def test_a_namespace_blank_lines_at_the_start_and_entities_are_no_hindrance(tmp_path):
    draw(tmp_path / "a.jpg")
    text = f'\n\n<?xml version="1.0"?><annotation xmlns="http://x.org">{an_object("a &amp; b")}</annotation>'
    write(tmp_path / "a.xml", text)
    assert only(tmp_path).label_map.names == ("a & b",)


def test_entities_that_expand_without_limit_are_refused(tmp_path):
    draw(tmp_path / "a.jpg")
    levels = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 10))
    write(tmp_path / "a.xml", f'<!DOCTYPE annotation [<!ENTITY l0 "lol">{levels}]><annotation>&l9;</annotation>')
    with pytest.raises(DataError, match=r"a\.xml: the XML file declares entities"):
        only(tmp_path)


def test_all_broken_xml_files_are_named_in_one_error(tmp_path):
    devkit(tmp_path, "abcd")
    write(tmp_path / "Annotations/b.xml", "<annotation>\n<object>")
    write(tmp_path / "Annotations/c.xml", "")
    with pytest.raises(
        DataError, match=r"b\.xml: not valid XML, line 2 column 9; .* \(1 more cannot be read: c\.xml\)"
    ):
        only(tmp_path)


def test_hidden_files_are_not_read(tmp_path):
    devkit(tmp_path)
    write(tmp_path / "Annotations/._a.xml", b"\0\5\26\7")  # as macOS puts into archives
    assert len(only(tmp_path)) == 2


# Classes, through the recipe


def test_chosen_classes_follow_their_order_and_others_are_counted(tmp_path):
    devkit(tmp_path, lists={"train": "a\nb\n"})
    xml(tmp_path / "Annotations/a.xml", an_object("cow") + an_object("ant") + an_object("elk"), "a.jpg")
    data = DetectionData(root=tmp_path, classes=("cow", "car", "ant"), val=None)
    table = read_table(data, "train")
    assert table.label_map.names == ("cow", "car", "ant")
    assert table.labels.tolist() == [0, 2, 1]
    assert list(table.repairs.values()) == [1]


def test_a_list_may_be_given_by_its_path(tmp_path):
    write(devkit(tmp_path) / "mine/list.txt", "a\n")
    for split in ("mine/list.txt", str(tmp_path / "mine/list.txt")):
        data = DetectionData(root=tmp_path, val=None, train=SplitConfig(split=split))
        assert read_table(data, "train").image_ids.tolist() == ["a"]


def test_folders_may_be_given_one_by_one(tmp_path):
    devkit(tmp_path / "x")
    split = SplitConfig(images=tmp_path / "x/JPEGImages", annotations=tmp_path / "x/Annotations")
    assert len(read_table(DetectionData(format="voc", train=split, val=None), "train")) == 2


# Writing


def test_voc_is_read_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 9, (9, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (9, 2))], axis=1).tolist()
    objects = "".join(an_object("a&lt;b &amp; c", box, "<difficult>1</difficult>") for box in [*boxes, BOX])
    draw(tmp_path / "in/cam_1/ä b.jpg")
    xml(tmp_path / "in/cam_1/ä b.xml", objects, "ä b.jpg")
    table = only(tmp_path / "in")
    assert write_voc(tmp_path / "out", {"train": table}) == {}
    draw(tmp_path / "out" / VOC_IMAGES / table.file_name(0))
    back = only(tmp_path / "out")
    for column in ("image_ids", "file_names", "sizes", "boxes", "labels", "difficult"):
        assert np.array_equal(getattr(back, column), getattr(table, column)), column
    assert back.label_map == table.label_map
    assert "<xmin>10</xmin>" in (tmp_path / "out/Annotations/cam_1/ä b.xml").read_text(encoding="utf-8")


def test_images_of_one_name_and_two_suffixes_are_not_written(tmp_path):
    draw(tmp_path / "JPEGImages/a.jpg", tmp_path / "JPEGImages/a.png")
    for name in ("a.jpg", "a.png"):
        xml(tmp_path / f"Annotations/{name}.xml", filename=name)
    files = SplitFiles(tmp_path / "Annotations", tmp_path / "JPEGImages")
    table = read_voc(files)
    with pytest.raises(DataError, match=r"a\.jpg and a\.png differ in their suffix alone"):
        write_voc(tmp_path / "out", {"all": table})


def test_the_blood_cells_are_read_and_their_two_flat_boxes_counted(bccd):
    splits = {split: repair_boxes(read_voc(files)) for split, files in find_voc(bccd).items()}
    assert {split: len(table) for split, table in splits.items()} == {
        "test": 72,
        "train": 205,
        "trainval": 292,
        "val": 87,
    }
    whole = repair_boxes(read_voc(SplitFiles(bccd / "Annotations", bccd / "JPEGImages")))
    assert len(whole) == 364
    assert len(whole.boxes) == 4888 - 2
    assert whole.label_map == LabelMap(("Platelets", "RBC", "WBC"), (1, 2, 3))
    assert whole.places == {"boxes without area dropped": ("BloodImage_00338.jpg", "BloodImage_00343.jpg")}
