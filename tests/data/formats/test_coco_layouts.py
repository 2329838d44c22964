import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from effdet.config import DetectionData, SplitConfig
from effdet.data.formats import read_table
from effdet.data.formats.coco import read_coco
from effdet.data.formats.coco_layouts import find_coco
from effdet.data.formats.split_files import usual_split
from effdet.errors import DataError

CONTENT = {
    "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0}],
    "categories": [{"id": 1, "name": "ant"}],
}


def draw(root, annotations, folder, **changes):
    """Writes an annotation file and its image a.png."""
    path = root / folder / "a.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((40, 60, 3), np.uint8))
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps({**CONTENT, **changes}))


LAYOUTS = {
    "COCO as downloaded": {
        "train2017": ("annotations/instances_train2017.json", "train2017"),
        "val2017": ("annotations/instances_val2017.json", "val2017"),
    },
    "COCO as FiftyOne downloads it": {"train": ("train/labels.json", "train/data")},
    "COCO, with images in a folder": {"train2017": ("annotations/instances_train2017.json", "images/train2017")},
    "Roboflow": {name: (f"{name}/_annotations.coco.json", name) for name in ("train", "valid", "test")},
    "CVAT": {"default": ("annotations/instances_default.json", "images")},
    "CVAT, newer": {"default": ("annotations/instances_default.json", "images/default")},
    "Label Studio": {"all": ("result.json", "images")},
    "datumaro": {
        "train": ("annotations/instances_train.json", "images/train"),
        "val": ("annotations/instances_val.json", "images/val"),
    },
    "FiftyOne": {"all": ("labels.json", "data")},
    "one file beside its images": {"all": ("boxes.json", ".")},
    "one file beside images/": {"all": ("instances.json", "images")},
    "files named after their splits": {"train": ("train.json", "train"), "val": ("val.json", "val")},
    "files named after their splits, images together": {
        "train": ("annotations/train.json", "images"),
        "val": ("annotations/val.json", "images"),
    },
    "splits in the middle of names": {
        "train": ("train_annotations.json", "images/train"),
        "val": ("coco-val.json", "images/val"),
    },
    "other words for a split": {
        "train": ("annotations/instances_train.json", "train2017"),
        "val": ("annotations/instances_val.json", "valid"),
    },
    "a file in the folder of each split": {
        "train": ("train/annotations.json", "train/images"),
        "validation": ("validation/annotations.json", "validation/images"),
    },
    "files with other names": {"left": ("left.json", "images"), "right": ("right.json", "images")},
    "one split with a name": {"mine": ("annotations/instances_mine.json", "mine")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("above", ["", "unzipped/data"])
def test_the_layouts_of_the_usual_tools_are_recognized(tmp_path, layout, above):
    root = tmp_path / above
    for annotations, images in LAYOUTS[layout].values():
        draw(root, annotations, images)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / ".hidden.json").write_text(json.dumps(CONTENT))
    splits = find_coco(tmp_path)
    assert {name: (files.annotations, files.images) for name, files in splits.items()} == {
        name: (root / annotations, root / images) for name, (annotations, images) in LAYOUTS[layout].items()
    }
    assert all(read_coco(files).file_names.tolist() == ["a.png"] for files in splits.values())


def test_the_folder_of_annotation_files_can_be_given_alone(tmp_path):
    draw(tmp_path, "annotations/instances_train2017.json", "train2017")
    files = find_coco(tmp_path / "annotations")["train2017"]
    assert files.images == tmp_path / "train2017"


def test_captions_and_keypoints_of_coco_are_passed_over(tmp_path):
    draw(tmp_path, "annotations/instances_val2017.json", "val2017")
    for name in ("captions_val2017", "person_keypoints_val2017", "stuff_val2017"):
        (tmp_path / f"annotations/{name}.json").write_text(json.dumps(CONTENT))
    assert list(find_coco(tmp_path)) == ["val2017"]


CAPTIONS = {"images": CONTENT["images"], "annotations": [{"image_id": 1, "caption": "an ant"}]}
RESULTS = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]
PANOPTIC = {**CONTENT, "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}]}
LABEL_STUDIO = [{"id": 1, "data": {"image": "a.png"}, "annotations": []}]
LABELME = {"version": "5", "shapes": [], "imagePath": "a.png"}
OTHER_FILES = {
    "a package": {"name": "app", "scripts": {}},
    "captions": CAPTIONS,
    "results": RESULTS,
    "panoptic": PANOPTIC,
    "Label Studio": LABEL_STUDIO,
    "labelme": LABELME,
    "a text": "images annotations categories",
    "an empty list": [],
}


@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
def test_json_files_that_are_no_instances_are_passed_over(tmp_path, content):
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert find_coco(tmp_path) == {}
    draw(tmp_path, "mine.json", ".")
    assert [files.annotations.name for files in find_coco(tmp_path).values()] == ["mine.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CAPTIONS, "its annotations are captions; give the file of the instances"),
        (RESULTS, "it is a list of results .*, which names no images and classes; give the annotation file"),
        (PANOPTIC, "its annotations are panoptic segments"),
        (LABEL_STUDIO, "it is Label Studio's own JSON; export the project as COCO"),
        (LABELME, "it is the annotation of one image by labelme"),
        ({"_via_img_metadata": {}}, "it is a project of the VGG Image Annotator; export it as COCO"),
        ({"name": "app"}, "'images' is missing"),
    ],
)
def test_a_json_file_of_another_kind_that_is_given_is_named(tmp_path, content, message):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    (files,) = find_coco(path).values()
    with pytest.raises(DataError, match=f"not a COCO instances file: {message}"):
        read_coco(files)


@pytest.mark.parametrize("order", [("images", "categories", "annotations"), ("annotations", "images", "categories")])
def test_a_large_file_is_recognized_by_its_start_and_end(tmp_path, order):
    content = {
        **CONTENT,
        "images": [{"id": row, "file_name": f"{row:09d}.png"} for row in range(5000)],
        "annotations": [{"image_id": row, "category_id": 1, "bbox": [1, 2, 3, 4]} for row in range(5000)],
    }
    path = tmp_path / "large.json"
    path.write_text(json.dumps({"info": {}, "licenses": [], **{key: content[key] for key in order}}))
    assert path.stat().st_size > 400_000
    assert [files.annotations for files in find_coco(tmp_path).values()] == [path]


def test_names_that_begin_with_the_folder_choose_the_folder_above(tmp_path):
    image = {**CONTENT["images"][0], "file_name": "train/a.png"}
    draw(tmp_path, "train.json", "train", images=[image])
    (files,) = find_coco(tmp_path).values()
    assert files.images == tmp_path
    assert read_coco(files).file_names.tolist() == ["train/a.png"]


def test_a_folder_with_a_json_file_for_each_image_is_no_coco_data_set(tmp_path):
    for number in range(60):
        (tmp_path / f"{number}.json").write_text(json.dumps(CONTENT))
    assert find_coco(tmp_path) == {}


def test_what_does_not_exist_is_no_data_set(tmp_path):
    assert find_coco(tmp_path / "nowhere") == {}
    assert find_coco(tmp_path) == {}
    (tmp_path / "a.txt").write_text("{}")
    assert find_coco(tmp_path / "a.txt") == {}


def test_the_real_images_of_coco_are_recognized(coco128):
    (files,) = find_coco(coco128).values()
    assert files.images == coco128 / "images"
    assert len(read_coco(files)) == 128


def test_roboflow_has_a_split_to_train_on_and_one_to_validate_on(tmp_path):
    for annotations, images in LAYOUTS["Roboflow"].values():
        draw(tmp_path, annotations, images)
    splits = find_coco(tmp_path)
    assert (usual_split(splits, "train"), usual_split(splits, "val")) == ("train", "valid")
    assert read_table(DetectionData(root=tmp_path), "val").image_folder == tmp_path / "valid"
    other = DetectionData(root=tmp_path, val={"split": "test"})
    assert read_table(other, "val").image_folder == tmp_path / "test"


def test_every_path_can_be_given_by_itself(tmp_path):
    draw(tmp_path, "instances.json", ".")
    path = tmp_path / "instances.json"
    for settings in (
        {"train": SplitConfig(images=tmp_path, annotations=path)},
        {"train": SplitConfig(annotations=path)},
        {"root": tmp_path, "train": SplitConfig(annotations=path)},
        {"root": tmp_path.parent, "train": SplitConfig(images=Path(tmp_path.name), annotations=path)},
        {"root": tmp_path, "train": SplitConfig(annotations=Path("instances.json"))},
    ):
        assert len(read_table(DetectionData(val=None, **settings), "train")) == 1


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    for annotations, images in LAYOUTS["datumaro"].values():
        draw(tmp_path / "coco", annotations, images)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(read_table(DetectionData(root=Path("~/coco")), "train")) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"no data set is given: set data\.root=FOLDER, or data\.train\.annotations=\.\.\. and data\.train\.im"),
        ({"root": "/nowhere"}, r"^/nowhere: no such folder; set data\.root="),
        (
            {"root": "{tmp}", "val": {"split": "exam"}},
            r"no split 'exam'; the coco data set has all; set",
        ),
        (
            {"val": {"annotations": "{tmp}/x.json"}},
            r"x\.json: no such file or folder; in .*, the folder ho",
        ),
        (
            {"val": {"annotations": "{tmp}/a.json", "images": "/no"}},
            r"^/no: no such image folder; set data\.val",
        ),
        ({"format": "voc", "root": "{tmp}"}, r"not a data set of the format voc; the folder holds 1 \.json, 1 \.png"),
    ],
)
def test_a_path_that_is_missing_is_named_with_its_setting(tmp_path, settings, message):
    draw(tmp_path, "a.json", ".")
    data = DetectionData.model_validate(json.loads(json.dumps(settings).replace("{tmp}", str(tmp_path))))
    with pytest.raises(DataError, match=message):
        read_table(data, "val")


def test_a_list_of_images_is_refused_and_not_ignored(tmp_path):
    draw(tmp_path, "result.json", "images")
    (tmp_path / "some.txt").write_text("a.png\n")
    data = DetectionData(root=tmp_path, train=SplitConfig(split="some.txt"), val=None)
    with pytest.raises(
        DataError, match=r"data\.train\.split is 'some\.txt', but lists .* is a coco data set; give each"
    ):
        read_table(data, "train")
