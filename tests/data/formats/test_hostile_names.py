"""What file names, pipes and links in data sets of others cannot do."""

import contextlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from effdet.config import ClassificationData, DetectionData
from effdet.data.convert import write_data_set
from effdet.data.data_set import read_data_set
from effdet.data.formats import read_table
from effdet.data.shard_writer import write_shards
from effdet.errors import DataError


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes())


def coco(root, *names, category="cat"):
    """A data set with one box in each image."""
    for name in names:
        draw(root / "images" / name)
    images = [{"id": row, "file_name": name, "height": 20, "width": 30} for row, name in enumerate(names)]
    objects = [{"id": row, "image_id": row, "category_id": 1, "bbox": [1, 2, 10, 11]} for row in range(len(names))]
    tree = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": category}]}
    (root / "instances.json").write_text(json.dumps(tree))
    return root


def convert(root, out, name):
    data_set = read_data_set(DetectionData(root=root))
    return write_data_set(out, name, data_set.tables, data_set.names)


def whole(root):
    return read_table(DetectionData(root=root, val=None), "train")


@pytest.mark.skipif(os.sep == "\\", reason="a backslash is no letter of a name here")
@pytest.mark.parametrize("name", ["voc", "yolo", "coco", "csv"])
def test_backslashes_in_names_lead_nowhere_and_lose_no_labels(tmp_path, name):
    root = coco(tmp_path / "in" / "data", "x\\..\\..\\..\\..\\..\\evil.png", "a\\b.png", ".c.png")
    convert(root, tmp_path / "one" / "two" / "out", name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "one"]
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["two"]
    assert len(whole(tmp_path / "one" / "two" / "out").boxes) == 3


@pytest.mark.parametrize(
    ("target", "message"), [("/dev/zero", "is a device"), ("/etc/hostname", "is no image, and a link")]
)
def test_links_to_what_is_no_image_are_not_copied(tmp_path, target, message):
    root = coco(tmp_path / "in", "a.png", "b.png")
    (root / "images" / "b.png").unlink()
    (root / "images" / "b.png").symlink_to(target)
    with pytest.raises(DataError, match=rf"b\.png: {message}"):
        convert(root, tmp_path / "out", "yolo")
    with pytest.raises(DataError, match=rf"b\.png: {message}"):
        write_shards(whole(root), tmp_path / "shards", "train", 10**6, lambda: None)
    assert not (tmp_path / "out").exists()


def test_links_to_images_outside_are_copied(tmp_path):
    root = coco(tmp_path / "in", "a.png", "b.png")
    (root / "images" / "b.png").rename(tmp_path / "elsewhere.png")
    (root / "images" / "b.png").symlink_to(tmp_path / "elsewhere.png")
    convert(root, tmp_path / "out", "yolo")
    assert len(whole(tmp_path / "out")) == 2


@pytest.mark.parametrize(("name", "letter"), [("voc", "\x1b"), ("voc", "\n"), ("csv", "\r")])
def test_characters_that_a_format_lacks_are_refused_before_anything_is_written(tmp_path, name, letter):
    root = coco(tmp_path / "in", "a.png", f"b{letter}.png")
    with pytest.raises(DataError, match=r"has a character that .* lacks; rename it"):
        convert(root, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_coco_files_that_are_written_say_where_their_images_are(tmp_path):
    convert(coco(tmp_path / "in", "a.png", "b??.png"), tmp_path / "out", "coco")
    assert whole(tmp_path / "out").image_folder == tmp_path / "out" / "all"


@pytest.mark.parametrize("length", [300, 5000])
def test_names_that_are_too_long_for_the_system_are_missing(tmp_path, length):
    root = coco(tmp_path, "a.png")
    for name in ("x" * length, "y" * 4 + "/" + "x" * length + ".png"):
        (root / "instances.json").write_text(
            json.dumps(
                {"images": [{"id": 0, "file_name": name}], "annotations": [], "categories": [{"id": 1, "name": "c"}]}
            )
        )
        with pytest.raises(DataError) as error:
            whole(root)
        assert len(str(error.value)) < 4000
    (root / "instances.json").unlink()
    (root / "data.yaml").write_text(f"train: {'x' * length}\npath: {'y' * length}\nnames: [a]\n")
    with pytest.raises(DataError, match="no such images"):
        whole(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
@pytest.mark.parametrize(
    ("files", "pipe"),
    [
        ({"images/a.png": "", "labels/a.txt": "0 0.5 0.5 0.2 0.2", "classes.txt": "cat"}, "labels/a.txt"),
        ({"images/a.png": "", "labels/a.txt": "0 0.5 0.5 0.2 0.2", "classes.txt": "cat"}, "train.txt"),
        ({"a.png": "", "a.xml": "<annotation/>"}, "a.xml"),
        ({"a.png": "", "b.csv": "filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,1,5,5\n"}, "b.csv"),
        ({"a.png": ""}, "instances_train.json"),
        ({"a.png": ""}, "train.index.npz"),
    ],
)
def test_pipes_in_the_place_of_annotations_are_never_waited_for(tmp_path, files, pipe):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        draw(tmp_path / name) if name.endswith(".png") else (tmp_path / name).write_text(text)
    (tmp_path / pipe).unlink(missing_ok=True)
    os.mkfifo(tmp_path / pipe)
    with contextlib.suppress(DataError):  # a list that is a pipe is none
        assert len(whole(tmp_path)) == 1


def test_links_in_circles_are_no_folders_and_no_images(tmp_path):
    root = coco(tmp_path, "a.png")
    (root / "images" / "loop").symlink_to("loop")
    (root / "images" / "above").symlink_to("..")
    (root / "loop").symlink_to("loop")
    content = json.loads((root / "instances.json").read_text())
    content["images"][0]["file_name"] = "other/a.png"
    (root / "instances.json").write_text(json.dumps(content))
    assert whole(root).file_names.tolist() == ["a.png"]


def test_a_class_folder_whose_name_is_no_text_is_refused(tmp_path):
    draw(tmp_path / "cat" / "a.png")
    draw(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")) / "b.png")
    with pytest.raises(DataError, match="is no text; rename it, or its folder"):
        read_table(ClassificationData(root=tmp_path, val=None), "train")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator may read everything")
@pytest.mark.parametrize("closed", ["images/inner", "labels", "images"])
def test_folders_that_may_not_be_read_are_named_and_not_passed_over(tmp_path, closed):
    for name in ("images/a.png", "images/inner/b.png"):
        draw(tmp_path / name)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    (tmp_path / closed).chmod(0)
    try:
        with pytest.raises(DataError):
            whole(tmp_path)
    finally:
        (tmp_path / closed).chmod(0o755)
