"""Facts about writing YOLO data sets: what is written is read back, and what the format cannot hold is counted."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml

from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import repair_boxes
from effdet.data.formats.voc import find_voc, read_voc
from effdet.data.formats.voc_writer import write_voc
from effdet.data.formats.yolo import find_yolo, read_yolo
from effdet.data.formats.yolo_writer import YOLO_IMAGES, write_yolo
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

LINE = "0 0.5 0.5 0.25 0.5"  # in an image of 80 x 40 pixels:
BOX = [30, 10, 50, 30]


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


def only(path):
    """The table of the only split of a data set, with repaired boxes."""
    ((_, files),) = find_yolo(path).items()
    return repair_boxes(read_yolo(files))


def one_file(root, text, names="ant\nbee\n"):
    pair(root / "images/a.jpg", root / "labels/a.txt", text)
    write(root / "classes.txt", names)
    return only(root)


def test_yolo_is_read_back_to_a_thousandth_of_a_pixel(tmp_path):
    rng = np.random.default_rng(0)
    for number, size in enumerate([(4000, 6001), (333, 77), (40, 80)]):
        draw(tmp_path / f"in/images/cam/{number}.jpg", size=size)
        values = np.concatenate([rng.uniform(0.3, 0.7, (9, 2)), rng.uniform(0.01, 0.5, (9, 2))], axis=1).tolist()
        lines = [f"{index % 2} {' '.join(map(str, row))}" for index, row in enumerate(values)]
        write(tmp_path / f"in/labels/cam/{number}.txt", "\n".join(lines[: 9 - 9 * (number == 2)]))
    write(tmp_path / "in/classes.txt", "ant\nbee: 'the' bee\n")
    table = only(tmp_path / "in")
    assert write_yolo(tmp_path / "out", {"train": table, "valid": table}) == {}
    for split in ("train", "valid"):
        for index in range(3):
            name = YOLO_IMAGES.format(split=split) + "/" + table.file_name(index)
            draw(tmp_path / "out" / name, size=table.sizes[index].tolist())
    found = find_yolo(tmp_path / "out")
    assert list(found) == ["train", "val"]
    for files in found.values():
        back = read_yolo(files)
        assert np.abs(back.boxes - table.boxes).max() < 1e-3
        for column in ("image_ids", "file_names", "sizes", "labels", "offsets"):
            assert np.array_equal(getattr(back, column), getattr(table, column)), column
        assert back.label_map == table.label_map
        assert back.notes() == []


def test_what_the_formats_cannot_hold_is_counted(tmp_path):
    table = one_file(tmp_path, f"{LINE}\n0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.1 0.5\n", "ant\nbee\ncow\n")
    table = replace(
        table,
        image_ids=np.array([9]),
        crowd=np.array([False, False, True]),
        areas=np.array([400.0, 700.0, 1.0]),
        difficult=np.array([True, True, True]),
        label_map=LabelMap(("ant", "bee", "cow"), (0, 5, 6)),
    )
    common = {"image ids": 1, "crowd regions left out": 1, "areas of masks, which become those of the boxes": 1}
    assert write_yolo(tmp_path / "y", {"all": table}) == {**common, "marks of difficult objects": 2, "category ids": 2}
    assert write_voc(tmp_path / "v", {"all": table}) == {**common, "classes without objects": 2, "category ids": 1}
    assert (tmp_path / "y/labels/all/a.txt").read_text() == "0 0.5 0.5 0.25 0.5\n0 0.5 0.5 0.5 0.5\n"
    assert yaml.safe_load((tmp_path / "y/data.yaml").read_text())["train"] == "images/all"


def test_an_unknown_size_and_differing_classes_are_refused(tmp_path):
    table = one_file(tmp_path, LINE)
    with pytest.raises(DataError, match=r"a\.jpg: the size of the image is unknown"):
        write_yolo(tmp_path / "y", {"all": replace(table, sizes=np.zeros((1, 2), np.int32))})
    other = replace(table, label_map=LabelMap(("cow", "bee"), (0, 1)))
    with pytest.raises(DataError, match="other classes than in"):
        write_yolo(tmp_path / "y", {"train": table, "val": other})


def test_the_blood_cells_survive_yolo_within_half_a_pixel_and_voc_exactly(bccd, tmp_path):
    tables = {split: repair_boxes(read_voc(files)) for split, files in find_voc(bccd).items() if split != "trainval"}
    assert write_voc(tmp_path / "voc", tables) == {}
    assert write_yolo(tmp_path / "yolo", tables) == {"category ids": 3}
    for split, table in tables.items():
        for index in range(len(table)):
            name = tmp_path / "yolo" / YOLO_IMAGES.format(split=split) / table.file_name(index)
            name.parent.mkdir(parents=True, exist_ok=True)
            name.symlink_to(table.path(index))
    for split, table in tables.items():
        image_list = tmp_path / f"voc/ImageSets/Main/{split}.txt"
        again = read_voc(SplitFiles(tmp_path / "voc/Annotations", bccd / "JPEGImages", image_list))
        assert np.array_equal(again.boxes, table.boxes)
        yolo = repair_boxes(read_yolo(find_yolo(tmp_path / "yolo")[split]))
        assert yolo.label_map.names == table.label_map.names
        assert yolo.notes() == []
        rows = [table.file_names.tolist().index(name) for name in yolo.file_names.tolist()]
        wanted = table.subset(np.array(rows))
        assert np.array_equal(yolo.labels, wanted.labels)
        assert np.abs(yolo.boxes - wanted.boxes).max() < 1e-3
