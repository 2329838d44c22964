import csv
import json

import cv2
import numpy as np
import pytest

from effdet.config import DetectionData, SplitConfig
from effdet.data.formats import FORMATS, read_table, read_tables
from effdet.data.formats.boxes_csv import read_boxes_csv
from effdet.data.formats.csv_location import find_boxes_csv
from effdet.data.formats.csv_writer import CSV_IMAGES, write_csv
from effdet.data.formats.image_list import find_image_lists
from effdet.errors import DataError

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def draw(folder, *names, size=(40, 60)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((*size, 3), np.uint8))


def read(folder, text, *images, name="boxes.csv", member=None):
    draw(folder, *(images or ("a.png", "b.png")))
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (files,) = [files for files in find_boxes_csv(path).values() if files.member == member]
    return read_boxes_csv(files)


def objects(table):
    """(image, class, box) of every object."""
    names = [table.label_map.names[label] for label in table.labels]
    return [
        (table.file_name(row), name, box)
        for row, name, box in zip(table.image_of_label(), names, table.boxes.tolist(), strict=True)
    ]


TWO = [("a.png", "dog", [1, 2, 11, 22]), ("b.png", "cat", [5.5, 6.25, 30, 40])]


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "a.png,60,40,dog,1,2,11,22\nb.png,60,40,cat,5.5,6.25,30,40\n",
        "image,label,x1,y1,x2,y2\na.png,dog,1,2,11,22\nb.png,cat,5.5,6.25,30,40\n",
        "YMax,XMax,Y_Min,X Min,Name,Image_Path\n22,11,2,1,dog,a.png\n40,30,6.25,5.5,cat,b.png\n",
        "file,category,left,top,right,bottom,score\na.png,dog,1,2,11,22,1\nb.png,cat,5.5,6.25,30,40,1\n",
        "path,class,x,y,w,h\na.png,dog,1,2,10,20\nb.png,cat,5.5,6.25,24.5,33.75\n",
        "path,class,x,y,width,height\na.png,dog,1,2,10,20\nb.png,cat,5.5,6.25,24.5,33.75\n",
        "filename,width,height,class,bbox_x,bbox_y,bbox_width,bbox_height\n"
        "a.png,60,40,dog,1,2,10,20\nb.png,60,40,cat,5.5,6.25,24.5,33.75\n",
        "image,label,x_center,y_center,width,height\na.png,dog,6,12,10,20\nb.png,cat,17.75,23.125,24.5,33.75\n",
        'image_id,width,height,label,bbox\na,60,40,dog,"[1.0, 2.0, 10.0, 20.0]"\n'
        'b,60,40,cat,"[5.5, 6.25, 24.5, 33.75]"\n',
        "a.png,1,2,11,22,dog\nb.png,5.5,6.25,30,40,cat\n",
        "a.png,60,40,dog,1,2,11,22\nb.png,60,40,cat,5.5,6.25,30,40\n",
        "image;label;x1;y1;x2;y2\na.png;dog;1;2;11;22\nb.png;cat;5,5;6,25;30,0;40,0\n",
        "image\tlabel\tx1\ty1\tx2\ty2\na.png\tdog\t1\t2\t11\t22\nb.png\tcat\t5,5\t6.25\t30\t40\n",
        '\ufeff"image","label","x1","y1","x2","y2"\r\n"a.png","dog","1","2","11","22"\r\n\r\n'
        '"b.png", "cat" ,"5.5","6.25","30"," 40 "\r\n',
    ],
)
def test_columns_are_recognized_by_their_names_or_their_values(tmp_path, text):
    table = read(tmp_path, text)
    assert objects(table) == TWO
    assert table.label_map.names == ("cat", "dog")
    assert table.sizes.tolist() == [[40, 60], [40, 60]]
    assert table.repairs == {}


def test_lines_without_a_box_are_images_without_objects(tmp_path):
    for text in (
        "a.png,,,,,\nb.png,5.5,6.25,30,40,cat\n",
        HEADER + "a.png,60,40,,,,,\nb.png,60,40,cat,5.5,6.25,30,40\n",
    ):
        table = read(tmp_path, text)
        assert table.file_names.tolist() == ["a.png", "b.png"]
        assert table.offsets.tolist() == [0, 0, 1]
        assert table.repairs == {}


def test_a_file_of_classes_beside_it_gives_their_order_and_unused_classes(tmp_path):
    (tmp_path / "classes.csv").write_text("dog,0\nnewt,2\ncat,1\n")
    assert read(tmp_path, "a.png,1,2,11,22,dog\nb.png,1,1,2,2,cat\n").label_map.names == ("dog", "cat", "newt")
    (tmp_path / "classes.csv").write_text("dog,0\n")  # of other data
    assert read(tmp_path, "a.png,1,2,11,22,dog\nb.png,1,1,2,2,cat\n").label_map.names == ("cat", "dog")


def test_automl_files_have_fractions_splits_and_addresses(tmp_path):
    text = (
        "TRAIN,gs://bucket/x/a.png,dog,0.25,0.5,,,0.5,0.75,,\n"
        "TRAIN,gs://bucket/x/a.png,cat,0.5,0.75,0.75,0.75,0.75,1.0,0.5,1.0\n"  # four vertices
        "UNASSIGNED,gs://bucket/x/b.png,dog,0.5,0.75,,,0.25,0.5,,\n"  # in reverse order
        "VALIDATE,gs://bucket/x/b.png,,,,,,,,,\n"
    )
    assert list(find_splits(tmp_path, text)) == ["TRAIN", "UNASSIGNED", "validation"]
    table = read(tmp_path, text, member="TRAIN")
    assert objects(table) == [("a.png", "dog", [15, 20, 30, 30]), ("a.png", "cat", [30, 30, 45, 40])]
    assert objects(read(tmp_path, text, member="UNASSIGNED")) == [("b.png", "dog", [15, 20, 30, 30])]
    assert len(read(tmp_path, text, member="VALIDATE").boxes) == 0
    assert table.label_map == read(tmp_path, text, member="UNASSIGNED").label_map
    assert set(table.repairs) <= {"images matched under another name"}


def find_splits(folder, text, name="boxes.csv"):
    draw(folder, "a.png", "b.png")
    (folder / name).write_text(text)
    return find_boxes_csv(folder)


@pytest.mark.parametrize("write", [str, json.dumps])
def test_fiftyone_files_have_a_line_for_each_image(tmp_path, write):
    path = tmp_path / "labels.csv"
    draw(tmp_path / "data", "a.png", "b.png", "c.png")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "ground_truth.detections.label", "ground_truth.detections.bounding_box"])
        writer.writerow(["a.png", write(["dog", "it's"]), write([[0.25, 0.5, 0.25, 0.25], [0, 0, 1, 1]])])
        writer.writerow(["b.png", "", ""])
        writer.writerow(["c.png", write([]), write([])])
    table = read_table(DetectionData(root=tmp_path, val=None), "train")
    assert objects(table) == [("a.png", "dog", [15, 20, 30, 30]), ("a.png", "it's", [0, 0, 60, 40])]
    assert len(table) == 3
    assert table.repairs == {}


def test_open_images_have_codes_for_classes_and_groups_are_crowds(tmp_path):
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/01,Tortoise\n/m/02,Sea turtle\n")
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    table = read(tmp_path, head + "a,x,/m/01,1,0.25,0.5,0.5,0.75,0,0,0\na,x,/m/02,1,0,1,0,1,0,0,1\n")
    assert objects(table) == [("a.png", "Tortoise", [15, 20, 30, 30]), ("a.png", "Sea turtle", [0, 0, 60, 40])]
    assert table.crowd.tolist() == [False, True]


def test_boxes_between_0_and_1_are_fractions_which_is_counted_as_a_guess(tmp_path):
    table = read(tmp_path, HEADER + "a.png,60,40,dog,0.25,0.5,0.5,0.75\nb.png,60,40,dog,0,0,1.001,1\n")
    assert objects(table)[0] == ("a.png", "dog", [15, 20, 30, 30])
    assert table.repairs == {"boxes between 0 and 1 read as fractions of the image": 1}
    pixels = read(tmp_path, "TRAIN,a.png,dog,15,20,,,30,30,,\n", member="TRAIN")
    assert objects(pixels) == [("a.png", "dog", [15, 20, 30, 30])]
    assert list(pixels.repairs) == ["boxes beyond 0 to 1 read as pixels, although the layout has fractions"]


def test_the_guess_is_made_for_the_whole_file_and_not_for_a_split(tmp_path):
    text = "set,image,label,x1,y1,x2,y2\n" + "train,a.png,dog,1,2,11,22\n" * 99 + "val,b.png,dog,0,0,1,1\n"
    assert objects(read(tmp_path, text, member="val")) == [("b.png", "dog", [0, 0, 1, 1])]


def test_without_a_column_of_classes_all_objects_are_of_one_class(tmp_path):
    table = read(tmp_path, "image,x1,y1,x2,y2\na.png,1,2,11,22\n")
    assert objects(table) == [("a.png", "object", [1, 2, 11, 22])]
    assert table.repairs == {"no column of classes: all objects get the class 'object'": 1}


def test_faulty_lines_are_left_out_and_counted_with_their_numbers(tmp_path):
    text = (
        "image,label,x1,y1,x2,y2\n"
        "a.png,dog,1,2,11,22\n"
        "a.png,dog,1,two,11,22\n"
        "a.png,dog,1,,11,22\n"
        "\n"
        "a.png,,1,2,11,22\n"
        ",dog,1,2,11,22\n"
        "a.png,dog,1,2\n"
        "a,b.png,dog,1,2,11,22\n"
    )
    table = read(tmp_path, text)
    assert objects(table) == TWO[:1]
    cause = "lines without an image, a class or a whole box left out"
    assert table.repairs == {cause: 6}
    assert table.places[cause] == ("line 3", "line 4", "line 6", "line 7", "line 8", "line 9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label,x1,y1,x2,y2\n", "line 1: no line has an image; expected lines such as a.jpg,10,20"),
        ("image,label,x1,y1,x2,y2\na.png,dog,1,2,b,4\n", "line 2: a box that is not four numbers"),
        ("image,label,x1,y1,x2,y2\na.png,,1,2,3,4\n", "line 2: no class"),
        ("image,label,x1,y1,x2,y2\na,b,c,dog,1,2,3,4\n", "line 2: 8 columns, the file has 6"),
        ('image,label,bbox\na.png,dog,"[1, 2"\n', r"line 2: '\[1, 2' is not a list of boxes"),
        ('image,label,bbox\na.png,dog,"[1, 2, 3]"\n', "line 2: 1 boxes and 1 classes; expected a class for each"),
        (b"image,label,x1,y1,x2,y2\na.png,caf\xe9,1,2,3,4\n", "line 2 is not UTF-8 text"),
    ],
)
def test_files_that_cannot_be_used_are_one_sentence_with_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "boxes.csv"))
    assert "\n" not in str(error.value)


def test_bad_boxes_stay_for_the_repair(tmp_path):
    table = read(tmp_path, "a.png,11,22,1,2,dog\na.png,5,5,5,9,dog\na.png,nan,5,6,9,dog\n")
    assert np.isnan(table.boxes[2, 0])
    fixed = read_table(DetectionData(root=tmp_path, val=None), "train")
    assert objects(fixed) == [("a.png", "dog", [1, 2, 11, 22])]
    assert list(fixed.repairs.values()) == [1, 1, 1]


def test_a_list_of_images_with_one_class_each_is_not_taken_for_boxes(tmp_path):
    draw(tmp_path, "a.png", "b.png")
    for name, text, is_boxes in (
        ("classes.csv", "dog,0\ncat,1\n", False),
        ("list.csv", "image,label\na.png,dog\nb.png,cat\n", False),
        ("sizes.csv", "image,label,width,height\na.png,dog,60,40\n", False),
        ("boxes.csv", "a.png,1,2,3,4,dog\n", True),
        ("notes.txt", "a.png,1,2,3,4,dog\n", False),
        ("empty.csv", "", False),
    ):
        (tmp_path / name).write_text(text)
        assert bool(find_boxes_csv(tmp_path / name)) == is_boxes, name
    assert [files.annotations.name for files in find_boxes_csv(tmp_path).values()] == ["boxes.csv"]
    assert list(find_image_lists(tmp_path)) == ["list", "sizes"]


@pytest.mark.parametrize(
    ("files", "images", "splits"),
    [
        (["train.csv", "val.csv", "test.csv"], "", {"test", "train", "val"}),
        (["annotations.csv", "val_annotations.csv"], "images", {"all", "val"}),
        (["train_labels.csv", "test_labels.csv"], "images", {"train", "test"}),
        (["labels/train.csv", "labels/val.csv"], "images", {"train", "val"}),
        (["train/_annotations.csv", "valid/_annotations.csv"], "{folder}", {"train", "valid"}),
        (["train/labels.csv", "val/labels.csv"], "{folder}/images", {"train", "val"}),
        (["train.csv", "val.csv"], "images/{stem}", {"train", "val"}),
        (["train.csv", "val.csv"], "{stem}", {"train", "val"}),
        (["_annotations.csv"], "", {"all"}),
    ],
)
def test_files_and_images_are_located_in_the_usual_places(tmp_path, files, images, splits):
    for file in files:
        path = tmp_path / file
        folder = tmp_path / images.format(folder=path.parent.name, stem=path.stem)
        draw(folder, f"{path.stem}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.stem}.png,1,2,11,22,dog\n")
    found = find_boxes_csv(tmp_path)
    assert set(found) == splits
    for split_files in found.values():
        assert read_boxes_csv(split_files).boxes.tolist() == [[1, 2, 11, 22]]


def test_the_training_and_the_validation_split_are_read_from_one_column(tmp_path):
    draw(tmp_path, "a.png", "b.png")
    (tmp_path / "all.csv").write_text("split,image,label,x1,y1,x2,y2\nVal,b.png,cat,1,2,3,4\ntrain,a.png,dog,1,2,3,4\n")
    tables = read_tables(DetectionData(root=tmp_path))
    assert tables.train.file_names.tolist() == ["a.png"]
    assert tables.val.file_names.tolist() == ["b.png"]
    assert tables.train.label_map == tables.val.label_map


def test_a_list_of_images_is_refused_and_not_ignored(tmp_path):
    draw(tmp_path, "a.png")
    (tmp_path / "boxes.csv").write_text("a.png,1,2,3,4,dog\n")
    (tmp_path / "some.txt").write_text("a.png\n")
    data = DetectionData(root=tmp_path, train=SplitConfig(split="some.txt"), val=None)
    with pytest.raises(
        DataError, match=r"data\.train\.split is 'some\.txt', but lists .* is a csv data set; give each"
    ):
        read_table(data, "train")


def test_a_file_may_be_given_with_its_images(tmp_path):
    draw(tmp_path / "photos", "a.png")
    (tmp_path / "mine.csv").write_text("a.png,1,2,3,4,dog\n")
    split = SplitConfig(annotations=tmp_path / "mine.csv", images=tmp_path / "photos")
    assert read_table(DetectionData(train=split, val=None), "train").path(0) == tmp_path / "photos" / "a.png"


def test_what_is_written_is_read_again_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    lines = [HEADER]
    draw(tmp_path / "in", *(f"{i}.png" for i in range(20)))
    for i in range(20):
        for _ in range(i % 4):
            x1, y1, w, h = rng.random(4).astype(np.float32) * 20
            lines.append(f'{i}.png,60,40,"a, ""b"" {i % 3}",{x1},{y1},{x1 + w + 1},{y1 + h + 1}\n')
        lines.append(f"{i}.png,60,40,,,,,\n")
    (tmp_path / "in" / "train.csv").write_text("".join(lines))
    table = read_table(DetectionData(root=tmp_path / "in", val=None), "train")
    table.crowd[0] = table.difficult[1] = True
    out = tmp_path / "out"
    draw(out / CSV_IMAGES.format(split="train"), *table.file_names)
    assert write_csv(out, {"train": table}) == {}
    again = read_table(DetectionData(root=out, val=None), "train")
    assert again.boxes.tobytes() == table.boxes.tobytes()
    assert again.label_map == table.label_map
    for column in ("labels", "offsets", "sizes", "crowd", "difficult"):
        assert getattr(again, column).tolist() == getattr(table, column).tolist()
    assert [name.rpartition("/")[2] for name in again.file_names] == table.file_names.tolist()


def test_csv_is_the_last_format_that_is_tried():
    assert list(FORMATS["detection"])[-1] == "csv"
