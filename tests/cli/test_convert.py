import re

import cv2
import numpy as np
import pytest

from effdet.cli import main
from effdet.config import DetectionData, load_config
from effdet.data.data_set import read_data_set
from effdet.data.formats import read_table, read_tables


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8))


def drawn(root, label="ant", first=0, splits=("train", "val")):
    """A CSV data set of 10 images in each split; one box of the first split has its corners in reverse order."""
    for number, split in enumerate(splits):
        lines = []
        for row in range(10):
            draw(root / "images" / f"patient_{row // 2}_{split}{row}.png", first + 100 * number + row)
            box = "30,30,1,1" if number == row == 0 else "1,1,30,30"
            lines.append(f"images/patient_{row // 2}_{split}{row}.png,{box},{label if row % 2 else 'bee'}")
        (root / f"{split}.csv").write_text("\n".join(lines))
    return root


def said(capsys, *arguments):
    """What a verb prints."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 1
    return capsys.readouterr().err.strip()


def test_a_data_set_is_converted_with_a_report(tmp_path, capsys):
    root, out = drawn(tmp_path / "in"), tmp_path / "out"
    lines = said(capsys, "convert", root, out, "--to", "voc").splitlines()
    assert lines == [
        f"read {root}: csv",
        "  train  10 images, 10 objects of 2 classes",
        "  val    10 images, 10 objects of 2 classes",
        "train.csv: boxes with corners in reverse order sorted: 1 (images/patient_0_train0.png)",
        f"written to {out}: voc",
        "  train  10 images, 10 objects of 2 classes",
        "  val    10 images, 10 objects of 2 classes",
        *[line for line in lines if "voc cannot hold: " in line],
        f"train on it with: effdet train data.root={out}",
    ]
    again = read_tables(DetectionData(root=out))
    assert again.format == "voc"
    assert (len(again.train), len(again.val)) == (10, 10)


def test_classes_are_selected_and_renamed_on_the_way(tmp_path, capsys):
    root = drawn(tmp_path / "in")
    output = said(capsys, "convert", root, tmp_path / "out", "--to", "coco", "data.rename={ant: insect}", "--link")
    assert "coco" in output
    table = read_table(DetectionData(root=tmp_path / "out"), "train")
    assert table.label_map.names == ("insect", "bee")
    output = said(capsys, "convert", root, tmp_path / "bees", "data.classes=[bee]", "--to", "coco")
    assert "objects of classes that are not in data.classes left out: 5" in output
    assert "10 images, 5 objects of 1 class" in output


def test_what_a_format_cannot_hold_is_said(tmp_path, capsys, tiny_data):
    output = said(capsys, "convert", tiny_data, tmp_path / "out", "--to", "yolo")
    assert "yolo cannot hold: image ids" in output


def test_shards_are_converted(tiny_recipe, tiny_data, tmp_path, capsys):
    said(capsys, "shards", tiny_recipe, "--out", tmp_path / "shards", "--order", "table")
    output = said(capsys, "convert", tmp_path / "shards", tmp_path / "out", "--to", "coco")
    assert f"read {tmp_path / 'shards'}: shards" in output
    files, again = (read_table(DetectionData(root=root), "train") for root in (tiny_data, tmp_path / "out"))
    assert again.boxes.tolist() == files.boxes.tolist()


def test_class_folders_become_lists(shapes_recipe, shapes_data, tmp_path, capsys):
    output = said(capsys, "convert", shapes_data, tmp_path / "out", "--to", "csv")
    assert "train  18 images of 3 classes" in output
    data = load_config(shapes_recipe, [f"data.root={tmp_path / 'out'}"]).data
    assert read_tables(data).format == "csv"
    assert refused(capsys, "convert", shapes_data, tmp_path / "coco", "--to", "coco").endswith(
        "--to: coco is not a format of classification to write; choose --to folders or csv"
    )


def test_a_data_set_is_split_anew_with_a_table_of_counts(tmp_path, capsys):
    root = drawn(tmp_path / "in")
    arguments = ("--val", 0.2, "--test", 0.1, "--group-by", r"patient_(\d+)")
    output = said(capsys, "split", root, tmp_path / "out", *arguments)
    table = [
        line.split() for line in output.splitlines() if re.match(r"  +(train +val +test|images|ant|bee) ", f"{line} ")
    ]
    assert table == [
        ["train", "val", "test"],
        ["images", "12", "4", "4"],
        ["ant", "6", "2", "2"],
        ["bee", "6", "2", "2"],
    ]
    assert "5 groups" in output
    data_set = read_data_set(DetectionData(root=tmp_path / "out"))
    assert data_set.format == "csv"
    patients = [{name.split("_")[1] for name in names} for names in data_set.names.values()]
    assert sum(map(len, patients)) == 5
    assert said(capsys, "split", root, tmp_path / "same", *arguments).splitlines()[:8] == output.splitlines()[:8]
    same = read_data_set(DetectionData(root=tmp_path / "same"))
    assert same.names == data_set.names


def test_one_split_alone_is_split_to_another_format(tmp_path, capsys):
    root = drawn(tmp_path / "in")
    output = said(capsys, "split", root, tmp_path / "out", "--split", "train", "--val", 0.3, "--to", "coco")
    assert "train  7 images" in output
    assert "val    3 images" in output
    assert "no split 'dev'; the csv data set has train, val" in refused(
        capsys, "split", root, tmp_path / "no", "--split", "dev", "--val", 0.3
    )


@pytest.mark.parametrize("fractions", [("--val", 0), ("--val", 1), ("--val", 0.6, "--test", 0.4), ("--val", "nan")])
def test_fractions_that_leave_nothing_to_train_on_are_refused(tmp_path, capsys, fractions):
    message = refused(capsys, "split", tmp_path, tmp_path.parent / "out", *fractions)
    assert "expected fractions between 0 and 1 that leave some to train on" in message


def test_data_sets_are_merged(tmp_path, capsys):
    first, second = drawn(tmp_path / "one"), drawn(tmp_path / "two", "wasp", 1000)
    output = said(capsys, "merge", first, second, tmp_path / "out")
    assert "20 images got the name of the data set in front of the name" in output
    data_set = read_data_set(DetectionData(root=tmp_path / "out"))
    assert {split: len(table) for split, table in data_set.tables.items()} == {"train": 20, "val": 20}
    assert data_set.tables["train"].label_map.names == ("ant", "bee", "wasp")
    output = said(capsys, "merge", first, first.parent / "one" / "val.csv", tmp_path / "again", "--to", "yolo")
    assert (
        "10 images kept although an earlier data set has them, with other labels or in another split: val_pat" in output
    )


def test_classes_in_another_case_are_refused_until_they_are_renamed(tmp_path, capsys):
    sets = drawn(tmp_path / "one"), drawn(tmp_path / "two", "Ant", 1000)
    message = refused(capsys, "merge", *sets, tmp_path / "out")
    assert "add --rename 'Ant=ant', else rename one to tell them apart" in message
    said(capsys, "merge", *sets, tmp_path / "out", "--rename", "Ant=ant")
    assert read_table(DetectionData(root=tmp_path / "out"), "train").label_map.names == ("ant", "bee")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("convert", "{in}", "{in}/out", "--to", "coco"),
            "in/out is inside of {in}, which is read; write to a folder o",
        ),
        (
            ("convert", "{in}", "{in}/..", "--to", "coco"),
            "the folder is not empty; nothing is overwritten, choose a new",
        ),
        (
            ("convert", "{in}", "{out}", "--to", "folders"),
            "folders is not a format of detection to write; choose --to c",
        ),
        (
            ("convert", "{in}", "{out}", "data.root=x", "--to", "csv"),
            "'data.root=x': all splits of the data set are rea",
        ),
        (
            ("convert", "{in}", "{out}", "train.epochs=3", "--to", "csv"),
            "'train.epochs=3': expected data.key=value, suc",
        ),
        (("convert", "{in}", "{out}", "data.clases=[a]", "--to", "csv"), "unknown key 'data.clases'"),
        (("convert", "{in}/nothing", "{out}", "--to", "csv"), "in/nothing: no such file or folder"),
        (
            ("convert", "{in}/images", "{out}", "--to", "csv"),
            "not a data set of a known format; the folder holds 20 .pn",
        ),
        (("merge", "{in}", "{out}"), "one data set is given; expected two or more, and the new folder behind them"),
        (("merge", "{in}", "{in}", "{out}"), "in is given twice"),
        (("merge", "{in}", "{in}/val.csv", "{out}", "--rename", "x"), "--rename x: expected OLD=NEW, such as auto=car"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(tmp_path, capsys, arguments, message):
    root = drawn(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    places = {"in": root, "out": tmp_path / "out"}
    output = refused(capsys, *(argument.format(**places) for argument in arguments))
    assert message.format(**places) in output
    assert "\n" not in output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", ["convert", "split", "merge"])
def test_help_says_what_a_verb_does(capsys, verb):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    output = capsys.readouterr().out
    assert f"effdet {verb} /data/cells" in output
    assert "--to FORMAT" in output
