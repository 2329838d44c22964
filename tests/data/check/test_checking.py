import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from effdet.config import ClassificationData, DetectionData, SplitConfig
from effdet.data.check import check_data
from effdet.report.check_text import place_text


def findings(root, **options):
    """Severity, kind, split and count of every finding."""
    check = check_data(DetectionData(root=root, **options))
    return [(each.severity, each.kind, each.split, each.count) for each in check.findings]


def places(root, **options):
    check = check_data(DetectionData(root=root, **options))
    return [place_text(place.to_dict()) for finding in check.findings for place in finding.places]


def test_a_clean_data_set_has_no_findings(drawn):
    check = check_data(DetectionData(root=drawn.write()))
    assert check.findings == ()
    assert check.format == "coco"
    assert [split.part for split in check.splits] == ["train", "val"]
    assert check.problems == 0


def missing_image(data):
    (data.root / "train" / "train_3.png").unlink()


def cut_off_image(data):
    path = data.root / "val" / "val_2.png"
    path.write_bytes(path.read_bytes()[:-500])


def empty_file(data):
    (data.root / "val" / "val_2.png").write_bytes(b"")


def duplicate(data):
    shutil.copyfile(data.root / "train" / "train_1.png", data.root / "train" / "train_5.png")


def duplicate_in_another_format(data):
    image = Image.open(data.root / "train" / "train_1.png")
    image.save(data.root / "train" / "copy.bmp")
    data.splits["train"]["images"][5]["file_name"] = "copy.bmp"
    (data.root / "train" / "train_5.png").unlink()


def leak(data):
    shutil.copyfile(data.root / "train" / "train_1.png", data.root / "val" / "val_4.png")


def wrong_size(data):
    data.splits["train"]["images"][2].update(height=240, width=320)


def exchanged_size(data):
    data.splits["train"]["images"][2].update(height=160, width=120)


def rotated_size(data):
    path = data.root / "train" / "train_2.jpg"
    image = Image.open(data.root / "train" / "train_2.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)  # stored 160 high, 120 wide; upright 120 high, 160 wide
    data.splits["train"]["images"][2].update(height=160, width=120, file_name="train_2.jpg")
    (data.root / "train" / "train_2.png").unlink()


def box_without_area(data):
    data.boxes("train")[4][2] = 0


def reversed_box(data):
    data.boxes("train")[4][:] = [60, 60, -30, -20]


def outside_box(data):
    data.boxes("train")[4][:] = [170, 20, 30, 30]


def overhanging_box(data):
    data.boxes("train")[4][:] = [140, 20, 30, 30]


def nan_box(data):
    data.boxes("train")[4][1] = float("nan")


def normalized_boxes(data):
    for box in data.boxes("train"):
        box[:] = np.array(box) / [160, 120, 160, 120]


def corners_as_width_and_height(data):
    for box in data.boxes("val"):
        box[2:] = [box[0] + box[2], box[1] + box[3]]


def repeated_box(data):
    data.splits["train"]["annotations"].append({**data.splits["train"]["annotations"][2], "id": 99})


def unknown_category(data):
    data.splits["train"]["annotations"][2]["category_id"] = 7


def unlisted_image(data):
    data.splits["train"]["annotations"][2]["image_id"] = 77


def class_missing_from_val(data):
    data.splits["val"]["annotations"] = [row for row in data.splits["val"]["annotations"] if row["category_id"] == 1]


def class_not_in_train(data):
    data.splits["val"]["categories"].append({"id": 3, "name": "emu"})
    data.splits["val"]["annotations"][0]["category_id"] = 3


def class_in_another_spelling(data):
    data.splits["train"]["categories"].append({"id": 3, "name": "Dog "})
    data.splits["train"]["annotations"][1]["category_id"] = 3


def crowds(data):
    for row in data.splits["train"]["annotations"]:
        row["iscrowd"] = 1


def entry_without_file_name(data):
    del data.splits["val"]["images"][3]["file_name"]


PROBLEMS = [
    (missing_image, "missing-image", "train", 1),
    (cut_off_image, "damaged-image", "val", 1),
    (empty_file, "damaged-image", "val", 1),
    (duplicate, "duplicate", "train", 1),
    (duplicate_in_another_format, "duplicate", "train", 1),
    (leak, "leak", "val", 1),
    (wrong_size, "wrong-size", "train", 1),
    (exchanged_size, "exchanged-size", "train", 1),
    (rotated_size, "rotated-size", "train", 1),
    (box_without_area, "box-no-area", "train", 1),
    (reversed_box, "box-reversed", "train", 1),
    (outside_box, "box-outside", "train", 1),
    (overhanging_box, "box-overhanging", "train", 1),
    (nan_box, "box-nan", "train", 1),
    (normalized_boxes, "box-normalized", "train", 16),
    (corners_as_width_and_height, "box-xyxy-as-xywh", "val", 12),
    (repeated_box, "box-duplicate", "train", 1),
    (unknown_category, "reader", "train", 1),
    (unlisted_image, "reader", "train", 1),
    (class_missing_from_val, "class-missing", "val", 1),
    (class_not_in_train, "class-not-in-train", "val", 1),
    (class_in_another_spelling, "similar-classes", "", 2),
    (crowds, "crowds", "train", 16),
    (entry_without_file_name, "unreadable-annotations", "val", 1),
]


@pytest.mark.parametrize(("change", "kind", "split", "count"), PROBLEMS, ids=[row[0].__name__ for row in PROBLEMS])
def test_a_defect_is_named_and_nothing_else(drawn, change, kind, split, count):
    change(drawn)
    assert findings(drawn.write()) == [("problem", kind, split, count)]


def unnamed_image(data):
    shutil.copyfile(data.root / "val" / "val_0.png", data.root / "val" / "unnamed.png")


def image_without_objects(data):
    data.splits["train"]["annotations"] = data.splits["train"]["annotations"][2:]


def nearly_the_same_image(data):
    image = cv2.imread(str(data.root / "train" / "train_1.png"))
    cv2.imwrite(str(data.root / "val" / "val_4.png"), np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8))


def tiny_box(data):
    data.boxes("train")[4][2:] = [0.5, 12]


def box_of_the_whole_image(data):
    data.boxes("train")[4][:] = [0, 0, 160, 120]


def unused_class(data):
    data.splits["train"]["categories"].append({"id": 9, "name": "emu"})


def few_crowds(data):
    data.splits["train"]["annotations"][0]["iscrowd"] = 1


def transparency(data):
    image = np.dstack([cv2.imread(str(data.root / "train" / "train_1.png")), np.full((120, 160), 9, np.uint8)])
    cv2.imwrite(str(data.root / "train" / "train_1.png"), image)


NOTES = [
    (unnamed_image, "unnamed-image", "", 1),
    (image_without_objects, "empty-image", "train", 1),
    (nearly_the_same_image, "near-leak", "val", 1),
    (tiny_box, "box-tiny", "train", 1),
    (box_of_the_whole_image, "box-whole-image", "train", 1),
    (unused_class, "unused-class", "train", 1),
    (few_crowds, "crowds", "train", 1),
    (transparency, "decoding", "train", 1),
]


@pytest.mark.parametrize(("change", "kind", "split", "count"), NOTES, ids=[row[0].__name__ for row in NOTES])
def test_what_is_worth_knowing_is_a_note(drawn, change, kind, split, count):
    change(drawn)
    assert findings(drawn.write()) == [("note", kind, split, count)]


def test_places_name_file_box_and_reason(drawn):
    box_without_area(drawn)
    leak(drawn)
    wrong_size(drawn)
    assert places(drawn.write()) == [
        "train_2.png (annotated 320 x 240, the image has 160 x 120)",
        "train_2.png box 1 (0 x 40 px)",
        "val_4.png = train train_1.png",
    ]


def test_all_damaged_images_are_named_in_one_pass(drawn):
    for row in (0, 2, 5):
        (drawn.root / "train" / f"train_{row}.png").write_bytes(b"")
    assert findings(drawn.write()) == [("problem", "damaged-image", "train", 3)]
    assert [place.split(" ")[0] for place in places(drawn.root)] == ["train_0.png", "train_2.png", "train_5.png"]


def test_width_and_height_as_a_corner_are_recognized_in_voc(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    for row in range(12):
        image = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "JPEGImages" / f"{row}.jpg"), image)
        width, height = rng.integers(20, 60, 2)
        x, y = rng.integers(0, 160 - width), rng.integers(0, 120 - height)
        (tmp_path / "Annotations" / f"{row}.xml").write_text(
            f"<annotation><filename>{row}.jpg</filename><size><width>160</width><height>120</height></size><object>"
            f"<name>cat</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{width}</xmax><ymax>{height}</ymax></bndbox>"
            "</object></annotation>"
        )
    assert findings(tmp_path) == [("problem", "box-xywh-as-xyxy", "all", 12)]


def test_images_with_more_objects_than_are_counted_are_a_note(drawn):
    data = DetectionData(root=drawn.write())
    (finding,) = check_data(data, most_objects=1).findings[:1]
    assert (finding.kind, finding.count, finding.severity) == ("many-objects", 8, "note")


def test_crowds_may_be_ordinary_objects(drawn):
    crowds(drawn)
    assert findings(drawn.write(), crowd_as_objects=True) == []


def test_images_in_another_folder_are_read_from_there(drawn, tmp_path):
    drawn.write()
    (drawn.root / "train").rename(tmp_path / "photos")
    assert findings(drawn.root) == [("problem", "missing-image", "train", 8)]
    assert findings(drawn.root, train=SplitConfig(images=tmp_path / "photos")) == []


def test_progress_counts_every_image_once(drawn):
    calls = []
    check_data(DetectionData(root=drawn.write()), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (14, 14)


def test_the_report_is_plain_json(drawn):
    box_without_area(drawn)
    report = json.loads(json.dumps(check_data(DetectionData(root=drawn.write())).to_dict()))
    assert report["problems"] == 1
    assert report["splits"][0] == {
        "name": "train",
        "part": "train",
        "images": 8,
        "objects": 16,
        "classes": 2,
        "images_without_objects": 0,
    }
    assert report["classes"] == {"names": ["cat", "dog"], "counts": {"train": [8, 8], "val": [6, 6]}}
    assert report["findings"][0]["places"] == [
        {"split": "train", "file": "train_2.png", "box": 1, "detail": "0 x 40 px"}
    ]
    assert sum(each["count"] for each in report["box_sizes"][0]["bins"]) == 27


@pytest.fixture
def folders(tmp_path):
    for split, seed in (("train", 0), ("val", 50)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for row in range(4):
                coarse = np.random.default_rng(seed + 10 * label + row).integers(0, 256, (6, 8, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / f"{row}.png"), cv2.resize(coarse, (96, 72), interpolation=cv2.INTER_CUBIC))
    return tmp_path


def label_findings(root):
    check = check_data(ClassificationData(root=root))
    return [(each.severity, each.kind, each.split, each.count) for each in check.findings]


def test_clean_class_folders_have_no_findings(folders):
    assert label_findings(folders) == []


def test_damaged_and_duplicate_images_of_class_folders_are_named(folders):
    (folders / "train" / "cat" / "1.png").write_bytes(b"no image")
    shutil.copyfile(folders / "train" / "dog" / "2.png", folders / "train" / "dog" / "copy.png")
    assert label_findings(folders) == [
        ("problem", "damaged-image", "train", 1),
        ("problem", "duplicate", "train", 1),
    ]


def test_one_image_in_two_classes_is_a_contradiction(folders):
    shutil.copyfile(folders / "train" / "dog" / "2.png", folders / "train" / "cat" / "copy.png")
    assert label_findings(folders) == [("problem", "contradicting-copy", "train", 1)]


def test_bccd_has_two_boxes_without_area(bccd):
    check = check_data(DetectionData(root=bccd))
    problems = [finding for finding in check.findings if finding.severity == "problem"]
    files = [place.file for finding in problems for place in finding.places]
    assert files == ["BloodImage_00343.jpg", "BloodImage_00338.jpg"]
    assert {finding.kind for finding in problems} == {"box-no-area"}
    assert check.repeating == ("trainval",)


def test_coco128_has_no_problems(coco128):
    check = check_data(DetectionData(root=coco128, train=SplitConfig(images="images")))
    assert check.problems == 0
    assert not any(finding.kind.startswith("near") for finding in check.findings)
