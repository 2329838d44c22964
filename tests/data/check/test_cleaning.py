import shutil

import numpy as np
import pytest
from PIL import Image

from effdet.config import ClassificationData, DetectionData
from effdet.data.check import check_data, write_cleaned
from effdet.data.formats import read_table
from effdet.errors import DataError


def cleaned(root, folder):
    """What was done, and the check of the copy."""
    lines = write_cleaned(check_data(DetectionData(root=root)), folder)
    return lines[:-1], check_data(DetectionData(root=folder))


def test_a_copy_of_a_clean_data_set_is_the_same(drawn, tmp_path):
    lines, check = cleaned(drawn.write(), tmp_path / "copy")
    assert lines == []
    assert check.findings == ()
    for split in ("train", "val"):
        before, after = (read_table(DetectionData(root=root), split) for root in (drawn.root, tmp_path / "copy"))
        np.testing.assert_array_equal(before.boxes, after.boxes)
        assert before.file_names.tolist() == after.file_names.tolist()
        assert before.label_map == after.label_map


def test_faults_are_repaired_or_left_out_and_counted(drawn, tmp_path):
    images, annotations = drawn.splits["train"]["images"], drawn.splits["train"]["annotations"]
    (drawn.root / "train" / "train_0.png").unlink()
    (drawn.root / "val" / "val_2.png").write_bytes(b"")
    shutil.copyfile(drawn.root / "train" / "train_1.png", drawn.root / "val" / "val_4.png")
    shutil.copyfile(drawn.root / "train" / "train_2.png", drawn.root / "train" / "train_3.png")
    images[4].update(height=999, width=777)
    annotations[10]["bbox"] = [60, 60, -30, -20]
    annotations[11]["bbox"] = [60, 60, 0, 20]
    annotations[12]["bbox"] = [140, 20, 30, 30]
    annotations[13]["bbox"] = [500, 20, 30, 30]
    annotations.append({**annotations[14], "id": 99})
    lines, check = cleaned(drawn.write(), tmp_path / "copy")
    assert lines == [
        "images that do not exist left out: 1",
        "images of other splits left out of the training split: 1",
        "copies of images left out: 1",
        "sizes of images corrected: 1",
        "boxes with corners in reverse order sorted: 1",
        "boxes without area dropped: 1",
        "boxes outside their image dropped: 1",
        "boxes extending beyond their image clipped to it: 1",
        "boxes that were there twice dropped: 1",
        "images that cannot be read left out: 1",
    ]
    assert check.problems == 0
    train = read_table(DetectionData(root=tmp_path / "copy"), "train")
    assert train.file_names.tolist() == [f"train_{row}.png" for row in (2, 4, 5, 6, 7)]
    assert train.boxes[train.rows(2)].tolist() == [[30, 40, 60, 60]]
    assert train.boxes[train.rows(3)].tolist() == [[140, 20, 160, 50]]
    val = read_table(DetectionData(root=tmp_path / "copy"), "val")
    assert val.file_names.tolist() == [f"val_{row}.png" for row in (0, 1, 3, 4, 5)]


TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_boxes_of_the_stored_picture_are_rotated_like_the_picture(drawn, tmp_path, orientation):
    stored = np.zeros((160, 120, 3), np.uint8)
    stored[30:60, 20:50] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(drawn.root / "train" / "turned.png", exif=exif)
    drawn.splits["train"]["images"][0].update(file_name="turned.png", height=160, width=120)
    drawn.splits["train"]["annotations"][0]["bbox"] = [20, 30, 30, 30]
    drawn.splits["train"]["annotations"][1]["bbox"] = [20, 30, 30, 20]
    lines, check = cleaned(drawn.write(), tmp_path / "copy")
    assert lines == ["images whose boxes were rotated as EXIF rotates the picture: 1"]
    assert check.problems == 0
    table = read_table(DetectionData(root=tmp_path / "copy"), "train")
    upright = np.asarray(Image.fromarray(stored).transpose(TURNS[orientation]))[..., 0]
    rows, columns = np.flatnonzero(upright.any(axis=1)), np.flatnonzero(upright.any(axis=0))
    assert table.boxes[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert table.sizes[0].tolist() == [120, 160]


def test_images_whose_boxes_do_not_fit_their_true_size_are_left_out(drawn, tmp_path):
    drawn.splits["train"]["images"][4].update(height=999, width=777)
    drawn.splits["train"]["annotations"][8]["bbox"] = [400, 300, 90, 90]
    lines, check = cleaned(drawn.write(), tmp_path / "copy")
    assert lines == ["images whose boxes are for a picture of another size left out: 1"]
    assert check.problems == 0


def test_boxes_in_another_convention_are_not_repaired(drawn, tmp_path):
    for box in drawn.boxes("train"):
        box[:] = np.array(box) / [160, 120, 160, 120]
    with pytest.raises(DataError, match=r"cannot be written: train: boxes within 0\.\.1"):
        cleaned(drawn.write(), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_nothing_is_overwritten(drawn, tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        cleaned(drawn.write(), tmp_path / "copy")


def test_a_copy_in_several_classes_is_left_out_of_class_folders(tmp_path):
    for split, seed in (("train", 0), ("val", 9)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for row in range(3):
                image = np.random.default_rng(seed + 3 * label + row).integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(image).save(tmp_path / "data" / split / name / f"{row}.png")
    shutil.copyfile(tmp_path / "data/train/cat/1.png", tmp_path / "data/train/dog/7.png")
    shutil.copyfile(tmp_path / "data/train/cat/2.png", tmp_path / "data/train/cat/3.png")
    (tmp_path / "data/val/cat/0.png").write_bytes(b"")
    check = check_data(ClassificationData(root=tmp_path / "data"))
    lines = write_cleaned(check, tmp_path / "copy")
    assert lines[:-1] == [
        "copies of an image under several classes left out: 2",
        "copies of images left out: 1",
        "images that cannot be read left out: 1",
    ]
    assert check_data(ClassificationData(root=tmp_path / "copy")).findings == ()


def test_the_copy_of_bccd_is_clean(bccd, tmp_path):
    lines, check = cleaned(bccd, tmp_path / "copy")
    assert lines == ["boxes without area dropped: 2"]
    assert check.problems == 0
    assert check.format == "voc"
    assert [len(split.table) for split in check.splits] == [205, 87, 72]
