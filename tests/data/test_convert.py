import json
import os
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from effdet.config import ClassificationData, DetectionData
from effdet.data.convert import write_data_set
from effdet.data.data_set import DataSet, read_data_set, short_names, split_role
from effdet.data.merge import merge
from effdet.data.shard_writer import write_shards
from effdet.data.split_data import resplit
from effdet.errors import DataError

IMITATE = runpy.run_path(str(Path(__file__).resolve().parents[1] / "imitate.py"))
NAMES = ["ant", "bee", "cow"]


def draw(path, seed, size=(50, 70)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([ord(letter) for letter in str(seed)])
    cv2.imwrite(str(path), rng.integers(0, 255, (*size, 3), np.uint8))


def drawn(root, splits=("train", "val", "test"), count=6, names=NAMES, prefix="", seed=""):
    """A data set as CSV files: images of random sizes and boxes; the second of each split has no objects."""
    for split in splits:
        rng = np.random.default_rng(len(split))
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for number in range(count):
            name = f"images/{split}/{prefix}{split}_{number}.png"
            draw(root / name, f"{seed}{split}{number}")
            for _ in range(0 if number == 1 else 3):
                x, y = rng.random(2) * 30
                w, h = rng.random(2) * 20 + 1
                label = names[rng.integers(len(names))]
                lines.append(f"{name},70,50,{label},{x:.3f},{y:.3f},{x + w:.3f},{y + h:.3f}")
            if number == 1:
                lines.append(f"{name},70,50,,,,,")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


def read(root, **more):
    return read_data_set(DetectionData(root=root, **more))


def content(data_set):
    """split -> bytes of the image -> sorted (class, box)."""
    return {
        split: {
            table.read(row): sorted(
                (table.label_map.names[table.labels[i]], table.boxes[i].tolist())
                for i in range(*table.offsets[row : row + 2])
            )
            for row in range(len(table))
        }
        for split, table in data_set.tables.items()
    }


def assert_same(first, second, precision=0.0):
    assert first.keys() == second.keys()
    for split in first:
        assert first[split].keys() == second[split].keys()
        for key, objects in first[split].items():
            assert [name for name, _ in objects] == [name for name, _ in second[split][key]]
            for (_, box), (_, other) in zip(objects, second[split][key], strict=True):
                assert np.abs(np.subtract(box, other)).max() <= precision


def convert(data_set, out, name, **more):
    return write_data_set(out, name, data_set.tables, data_set.names, **more)


def test_coco_csv_and_voc_keep_every_bit_and_yolo_a_thousandth_of_a_pixel(tmp_path):
    data_set = read(drawn(tmp_path / "in"))
    written = content(data_set)
    for name, precision in (("coco", 0.0), ("voc", 0.0), ("csv", 0.0), ("yolo", 1e-3)):
        lost = convert(data_set, tmp_path / name, name).lost
        assert lost.keys() <= {"image ids", "category ids", "image ids that are no numbers from 0 up, numbered anew"}
        again = read(tmp_path / name)
        assert again.format == name
        assert list(again.tables) == ["train", "val", "test"]
        assert_same(content(again), written, precision)
        assert again.tables["train"].label_map.names == tuple(NAMES)
        assert again.names == data_set.names


def chain(source, folder):
    """VOC -> COCO -> YOLO -> CSV -> VOC; gives the last data set."""
    data_set = read(source)
    for name in ("coco", "yolo", "csv", "voc"):
        convert(data_set, folder / name, name, link=True)
        data_set = read(folder / name)
    return data_set


def test_a_chain_of_four_formats_keeps_boxes_images_and_classes(tmp_path):
    source = drawn(tmp_path / "in")
    convert(read(source), tmp_path / "start", "voc")
    last = chain(tmp_path / "start", tmp_path)
    assert_same(content(last), content(read(source)), 0.01)
    assert last.names == read(source).names


def test_bccd_survives_four_formats(tmp_path, bccd):
    first = read(bccd)
    assert first.notes == ("split trainval left out: its images are those of train and val",)
    last = chain(bccd, tmp_path)
    assert sum(len(table.boxes) for table in last.tables.values()) == 4886  # two have no area
    assert_same(content(last), content(first), 0.5)
    assert last.names == first.names


def test_coco128_says_what_other_formats_cannot_hold(tmp_path, coco128):
    data_set = read(coco128)
    lost = {name: convert(data_set, tmp_path / name, name, link=True).lost for name in ("coco", "csv", "voc", "yolo")}
    assert lost["coco"] == {}
    assert lost["yolo"]["crowd regions left out"] == lost["voc"]["crowd regions left out"] == 10
    assert "crowd regions left out" not in lost["csv"]
    for name in ("coco", "csv"):
        again = read(tmp_path / name)
        assert_same(content(again), content(data_set))
        assert again.tables["all"].crowd.sum() == 10
    without = DataSet("coco", {"all": data_set.tables["all"].select(~data_set.tables["all"].crowd)}, data_set.names)
    for name, precision in (("voc", 0.0), ("yolo", 0.002)):
        (again,) = content(read(tmp_path / name)).values()
        assert_same({"all": again}, content(without), precision)


def test_classes_are_those_of_all_splits(tmp_path):
    drawn(tmp_path / "a", ["train"], names=["bee", "cow"])
    drawn(tmp_path / "a", ["test"], names=["ant", "bee"])
    data_set = read(tmp_path / "a")
    assert [table.label_map.names for table in data_set.tables.values()] == [("ant", "bee", "cow")] * 2
    chosen = read(tmp_path / "a", classes=["cow", "insect"], rename={"ant": "insect", "bee": "insect"})
    assert [table.label_map.names for table in chosen.tables.values()] == [("cow", "insect")] * 2
    labels = chosen.tables["test"].labels
    assert len(labels) == len(data_set.tables["test"].labels)
    assert set(labels.tolist()) == {1}


def test_images_of_one_name_in_two_folders_get_numbers(tmp_path):
    lines = ["filename,class,xmin,ymin,xmax,ymax"]
    for number, name in enumerate(["a/0.png", "b/0.png", "b/0.jpg", "B/0.png"]):
        draw(tmp_path / "in" / name, number)
        lines.append(f"{name},ant,{number},1,20,20")
    (tmp_path / "in" / "train.csv").write_text("\n".join(lines))
    data_set = read(tmp_path / "in")
    flat = {"train": [name.rpartition("/")[2] for name in data_set.names["train"]]}
    for name in ("coco", "voc", "yolo", "csv"):
        written = write_data_set(tmp_path / name, name, data_set.tables, flat)
        assert written.renamed == 3
        assert_same(content(read(tmp_path / name)), content(data_set), 1e-3)
    assert convert(data_set, tmp_path / "kept", "yolo").renamed == 2
    assert sorted(read(tmp_path / "kept").names["train"]) == ["B/0_3.png", "a/0.png", "b/0.png", "b/0_2.jpg"]
    assert_same(content(read(tmp_path / "kept")), content(data_set), 1e-3)


def test_folders_that_all_images_have_in_common_are_no_part_of_their_names(tmp_path):
    table = read(drawn(tmp_path / "in")).tables["train"]
    assert table.file_name(0).startswith("images/train/")
    assert short_names(table)[0] == "train_0.png"


def test_nothing_is_overwritten_and_nothing_stays_after_an_error(tmp_path):
    data_set = read(drawn(tmp_path / "in"))
    out = tmp_path / "out"
    out.mkdir()
    convert(data_set, out, "coco")  # an empty folder will do
    before = sorted(out.rglob("*"))
    with pytest.raises(DataError, match="out: the folder is not empty; nothing is overwritten, choose a new folder"):
        convert(data_set, out, "coco")
    assert sorted(out.rglob("*")) == before
    with pytest.raises(DataError, match=r"0\.png: is a file; expected a new folder"):
        convert(data_set, tmp_path / "in" / "images" / "train" / "train_0.png", "coco")
    (tmp_path / "in" / "images" / "val" / "val_3.png").unlink()
    with pytest.raises(DataError, match=r"val_3\.png: no such image; check the path"):
        convert(data_set, tmp_path / "other", "coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_link_out_of_the_data_set_is_copied_only_if_it_leads_to_an_image(tmp_path):
    data_set = read(drawn(tmp_path / "in"))
    image = tmp_path / "in" / "images" / "train" / "train_0.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    convert(data_set, tmp_path / "copied", "coco")
    assert (tmp_path / "copied" / "train" / "train_0.png").read_bytes() == (tmp_path / "elsewhere.png").read_bytes()

    (tmp_path / "elsewhere.png").write_text("a password")
    for link in (False, True):
        with pytest.raises(DataError, match=r"train_0\.png: is no image, and a link leads out of"):
            convert(data_set, tmp_path / "leaked", "coco", link=link)
    with pytest.raises(DataError, match="is no image, and a link leads out of"):
        write_shards(data_set.tables["train"], tmp_path / "shards", "train", 1 << 20, lambda: None)
    image.unlink()
    os.mkfifo(image)
    with pytest.raises(DataError, match=r"train_0\.png: is a pipe; expected an image file"):
        convert(data_set, tmp_path / "waiting", "coco")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "copied", "elsewhere.png", "shards"}
    assert not list((tmp_path / "shards").iterdir())


def test_links_and_copies(tmp_path):
    data_set = read(drawn(tmp_path / "in", ["train"]))
    convert(data_set, tmp_path / "copied", "coco")
    convert(data_set, tmp_path / "linked", "coco", link=True)
    source = tmp_path / "in" / "images" / "train" / "train_0.png"
    assert os.path.samefile(tmp_path / "linked" / "train" / "train_0.png", source)
    assert not os.path.samefile(tmp_path / "copied" / "train" / "train_0.png", source)
    assert (tmp_path / "copied" / "train" / "train_0.png").read_bytes() == source.read_bytes()


def test_shards_are_converted_too(tmp_path):
    data_set = read(drawn(tmp_path / "in", ["train", "val"]))
    for split, table in data_set.tables.items():
        write_shards(table, tmp_path / "shards", split, 10_000, lambda: None)
    shards = read(tmp_path / "shards", format="shards")
    convert(shards, tmp_path / "out", "voc")
    assert_same(content(read(tmp_path / "out")), content(data_set))
    with pytest.raises(DataError, match="the images are in tar files; write them as files first: effdet convert"):
        resplit(shards, {"train": 0.5, "val": 0.5})


def labelled(root):
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            for number in range(count):
                draw(root / split / name / f"{number}.png", f"{split}{name}{number}")
    return root


def classes_of(data_set):
    return {
        split: {table.read(row): table.label_map.names[table.labels[row]] for row in range(len(table))}
        for split, table in data_set.tables.items()
    }


def test_class_folders_become_lists_and_come_back(tmp_path):
    first = read_data_set(ClassificationData(root=labelled(tmp_path / "in")))
    assert convert(first, tmp_path / "csv", "csv").lost == {}
    lists = read_data_set(ClassificationData(root=tmp_path / "csv"))
    assert lists.format == "csv"
    assert classes_of(lists) == classes_of(first)
    assert convert(lists, tmp_path / "folders", "folders").renamed == 0
    folders = read_data_set(ClassificationData(root=tmp_path / "folders"))
    assert classes_of(folders) == classes_of(first)
    assert (tmp_path / "folders" / "train" / "cat" / "3.png").is_file()


def test_data_sets_of_one_class_each_are_merged(tmp_path):
    for number, name in enumerate(("cat", "dog")):
        draw(tmp_path / f"{name}s" / "train" / name / "0.png", number)
    roots = [tmp_path / "cats", tmp_path / "dogs"]
    merged = merge({root: read_data_set(ClassificationData(root=root)) for root in roots})
    assert merged.tables["train"].label_map.names == ("cat", "dog")
    write_data_set(tmp_path / "out", "folders", merged.tables, merged.names)
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert files == ["train/cat/0.png", "train/dog/dogs_0.png"]


def test_a_class_that_cannot_be_a_folder_is_one_sentence(tmp_path):
    draw(tmp_path / "in" / "a.png", 1)
    draw(tmp_path / "in" / "b.png", 2)
    (tmp_path / "in" / "train.csv").write_text("image,label\na.png,cat/dog\nb.png,cow\n")
    data_set = read_data_set(ClassificationData(root=tmp_path / "in"))
    with pytest.raises(DataError, match=r"the class 'cat/dog' cannot be the name of a folder; rename it with data\.re"):
        convert(data_set, tmp_path / "out", "folders")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(
            ("train", "train"),
            ("Training", "train"),
            ("train2017", "train"),
            ("trainval", "train"),
            ("default", "train"),
        ),
        *(("valid", "val"), ("VALIDATION", "val"), ("val_2014", "val"), ("test", "test"), ("testing", "test")),
        *(("all", None), ("testset", "test"), ("testify", None), ("trains", None)),
    ],
)
def test_splits_are_known_by_their_usual_names(name, role):
    assert split_role(name) == role


def test_all_splits_are_split_anew_with_identical_images_and_groups_together(tmp_path):
    root = drawn(tmp_path / "in", count=20)
    for number in range(5):  # in the training and in the test split
        copy = (root / "images" / "test" / f"test_{number}.png").read_bytes()
        (root / "images" / "train" / f"train_{number}.png").write_bytes(copy)
    chosen = resplit(read(root), {"train": 0.6, "val": 0.4}, group_by=r"_(\d)\d?\.")
    assert [len(table) for table in chosen.tables.values()] == pytest.approx([36, 24], abs=33)
    assert chosen.identical == 10
    assert chosen.groups == 10
    assert chosen.alone == 0
    split_of = {name: split for split, names in chosen.names.items() for name in names}
    assert len(split_of) == 60
    for digit in "123456789":
        assert len({split_of[name] for name in split_of if f"_{digit}" in name}) == 1
    counts = dict(chosen.class_counts())
    whole = read(root)
    objects = sum(len(table.boxes) for table in whole.tables.values())
    assert sum(sum(counts[name]) for name in NAMES) == objects
    assert sum(counts["images without objects"]) == 3


def test_fewer_groups_than_splits_are_refused(tmp_path):
    data_set = read(drawn(tmp_path / "in", ["train"]))
    with pytest.raises(DataError, match="6 images in 1 groups cannot be split into 2; choose smaller groups"):
        resplit(data_set, {"train": 0.5, "val": 0.5}, group_by="train")


def test_data_sets_are_merged_by_names_of_classes_and_splits(tmp_path):
    first = drawn(tmp_path / "one", ["train", "val"], names=["bee", "cow"], seed="x")
    second = drawn(tmp_path / "two", ["train", "valid", "test"], names=["ant", "bee"], seed="y")
    merged = merge({first: read(first), second: read(second)})
    assert list(merged.tables) == ["train", "val", "test"]
    assert merged.tables["train"].label_map.names == ("bee", "cow", "ant")
    assert merged.prefixed == 6  # train_0.png to train_5.png of both
    assert (merged.repeated, merged.conflicting) == (0, [])
    assert merged.names["train"][:2] == ["train_0.png", "train_1.png"]
    assert merged.names["train"][6:8] == ["two_train_0.png", "two_train_1.png"]
    write_data_set(tmp_path / "out", "yolo", merged.tables, merged.names)
    again = content(read(tmp_path / "out"))
    one, two = content(read(first)), content(read(second))
    assert_same(
        again, {"train": one["train"] | two["train"], "val": one["val"] | two["valid"], "test": two["test"]}, 1e-3
    )


def test_images_of_an_earlier_data_set_are_left_out_if_their_objects_agree(tmp_path):
    first = drawn(tmp_path / "one", ["train", "val"])
    second = drawn(tmp_path / "two", ["train", "val"])
    text = (second / "val.csv").read_text()
    (second / "val.csv").write_text(text.replace(",cow,", ",bee,", 1))
    merged = merge({first: read(first), second: read(second)})
    assert merged.repeated == 11
    assert len(merged.conflicting) == 1
    assert {split: len(table) for split, table in merged.tables.items()} == {"train": 6, "val": 7}


def test_an_image_with_other_objects_or_in_another_split_is_kept_and_reported(tmp_path):
    for name, box, split in (("one", "1,1,9,9", "train"), ("two", "1,1,9,30", "train"), ("three", "1,1,9,9", "val")):
        draw(tmp_path / name / "a.png", "same")
        draw(tmp_path / name / "b.png", name)
        (tmp_path / name / f"{split}.csv").write_text(f"a.png,{box},ant\nb.png,{box},ant\n")
    sets = {tmp_path / name: read(tmp_path / name) for name in ("one", "two", "three")}
    merged = merge(sets)
    assert merged.repeated == 0
    assert merged.conflicting == ["two_a.png", "three_a.png"]
    assert {split: len(table) for split, table in merged.tables.items()} == {"train": 4, "val": 2}


def test_names_that_differ_in_case_alone_are_refused_until_renamed(tmp_path):
    first = drawn(tmp_path / "one", ["train"], names=["Ant", "bee"], seed="x")
    second = drawn(tmp_path / "two", ["train"], names=["ant", "wasp"], seed="y")
    sets = {first: read(first), second: read(second)}
    with pytest.raises(DataError, match=r"two has the class 'ant', .*one has 'Ant'; .* add --rename 'ant=Ant', else"):
        merge(sets)
    merged = merge(sets, {"ant": "Ant", "wasp": "bee"})
    assert merged.tables["train"].label_map.names == ("Ant", "bee")
    with pytest.raises(DataError, match="--rename: there is no class 'hornet'; the classes are Ant, bee, ant, wasp"):
        merge(sets, {"hornet": "bee"})


def test_a_data_set_without_splits_is_merged_into_the_training_split(tmp_path):
    draw(tmp_path / "one" / "x.png", 1)
    (tmp_path / "one" / "annotations.csv").write_text("x.png,1,1,9,9,ant\n")
    second = drawn(tmp_path / "two", ["train", "val"])
    merged = merge({tmp_path / "one": read(tmp_path / "one"), second: read(second)})
    assert {split: len(table) for split, table in merged.tables.items()} == {"train": 7, "val": 6}
    alone = merge({tmp_path / "one": read(tmp_path / "one")})
    assert list(alone.tables) == ["all"]


def test_lists_of_single_classes_are_no_splits(tmp_path):
    source = read(drawn(tmp_path / "in", ["train", "val"]))
    splits = {split: IMITATE["pictures"](table) for split, table in source.tables.items()}
    IMITATE["datumaro_voc"](tmp_path / "voc", splits, NAMES)
    assert list(read(tmp_path / "voc").tables) == ["train", "val"]


def test_a_coco_file_is_read_alone_with_its_images(tmp_path):
    convert(read(drawn(tmp_path / "in", ["train"])), tmp_path / "coco", "coco")
    (file,) = (tmp_path / "coco" / "annotations").iterdir()
    assert json.loads(file.read_text())["images"]
    moved = tmp_path / "moved.json"
    moved.write_bytes(file.read_bytes())
    data = DetectionData(root=moved, train={"images": tmp_path / "coco" / "train"})
    assert_same({"x": content(read_data_set(data))["all"]}, {"x": content(read(tmp_path / "in"))["train"]})
