import json
from dataclasses import replace

import numpy as np
import pytest

from effdet.data.formats.coco import read_coco
from effdet.data.formats.split_files import SplitFiles
from effdet.diagnosis.review.proposals import write_proposals

from .labelled_scenes import row


def proposals(table, rows, tmp_path):
    path = tmp_path / "proposals.json"
    write_proposals(path, table, rows)
    return path, json.loads(path.read_text())


def test_the_proposals_are_the_corrected_annotations(table, rows, tmp_path):
    for name in table.file_names:
        (tmp_path / name).write_bytes(b"")
    path, _ = proposals(table, rows, tmp_path)
    read = read_coco(SplitFiles(path, tmp_path))
    assert read.file_names.tolist() == table.file_names.tolist()
    assert read.label_map == table.label_map
    counts = np.diff(read.offsets).tolist()
    assert counts == [5, 4, 3]
    assert read.boxes[4].tolist() == [1, 2, 31, 42]
    assert read.label_map.names[read.labels[4]] == "owl"
    assert read.label_map.names[read.labels[5 + 2]] == rows[1].proposed
    np.testing.assert_array_equal(read.boxes[5:9], table.boxes[4:8])
    np.testing.assert_array_equal(read.boxes[9:], table.boxes[9:])


def test_each_change_says_why_and_others_say_nothing(table, rows, tmp_path):
    _, content = proposals(table, rows, tmp_path)
    notes = [annotation["review"] for annotation in content["annotations"] if "review" in annotation]
    assert [note["change"] for note in notes] == ["renamed", "added"]
    assert notes[0]["from"] == rows[1].given
    assert {note["reason"] for note in notes} == {"because"}
    (removed,) = content["removed"]
    assert removed["review"]["change"] == "removed"
    assert removed["id"] not in {annotation["id"] for annotation in content["annotations"]}


def test_ids_of_annotations_are_unique(table, rows, tmp_path):
    _, content = proposals(table, [*rows, row("missed", table, 0, proposed="cat")], tmp_path)
    ids = [annotation["id"] for annotation in (*content["annotations"], *content["removed"])]
    assert len(ids) == len(set(ids)) == 14


def test_text_ids_become_numbers_that_agree(table, rows, tmp_path):
    _, content = proposals(replace(table, image_ids=np.array(["3", "1", "2"])), rows, tmp_path)
    assert [image["id"] for image in content["images"]] == [1, 2, 3]
    assert {annotation["image_id"] for annotation in content["annotations"]} == {1, 2, 3}
    assert content["annotations"][-1]["image_id"] == 1  # the missed object of the first image


def test_without_rows_the_proposals_are_the_annotations(table, tmp_path):
    _, content = proposals(table, [], tmp_path)
    assert len(content["annotations"]) == len(table.labels)
    assert content["removed"] == []


@pytest.fixture
def original(table, tmp_path):
    """The table as it is read from a COCO file with masks and ids of its own, and the file."""
    for name in table.file_names:
        (tmp_path / name).write_bytes(b"")
    path, content = proposals(table, [], tmp_path)
    for annotation in content["annotations"]:
        annotation.update(id=annotation["id"] * 10, segmentation=[[1, 2, 3, 4, 5, 6]])
    path.write_text(json.dumps(content))
    return read_coco(SplitFiles(path, tmp_path)), path


def test_annotations_of_a_coco_file_keep_ids_and_masks(original, rows, tmp_path):
    table, path = original
    before = path.read_bytes()
    write_proposals(tmp_path / "out.json", table, rows)
    assert path.read_bytes() == before
    content = json.loads((tmp_path / "out.json").read_text())
    old = [annotation for annotation in content["annotations"] if annotation.get("review", {}).get("change") != "added"]
    assert [annotation["id"] for annotation in [*old, *content["removed"]]] == [
        *range(10, 90, 10),
        *range(100, 130, 10),
        90,
    ]
    assert all("segmentation" in annotation for annotation in old)
    (added,) = [annotation for annotation in content["annotations"] if annotation not in old]
    assert added["id"] == 121
    (renamed,) = [annotation for annotation in old if "review" in annotation]
    assert renamed["id"] == 70  # the third of the second image


def test_images_of_other_splits_of_the_file_are_left_out(original, tmp_path):
    table, _ = original
    write_proposals(
        tmp_path / "out.json", table.subset(np.array([2, 0])), [row("spurious", table.subset(np.array([2, 0])), 0, 1)]
    )
    content = json.loads((tmp_path / "out.json").read_text())
    assert sorted(image["id"] for image in content["images"]) == [10, 12]
    assert [annotation["id"] for annotation in content["removed"]] == [90]


def test_renamed_classes_are_written_from_the_table(original, tmp_path):
    table, _ = original
    label_map = replace(table.label_map, names=("a", "b", "c"))
    write_proposals(tmp_path / "out.json", replace(table, label_map=label_map), [])
    content = json.loads((tmp_path / "out.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["a", "b", "c"]
    assert len(content["annotations"]) == 12
