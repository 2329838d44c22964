"""Small inputs that imitate real exports, drawn by a script outside the repository: each gives what a user expects."""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet.config import ClassificationData, DetectionData, SplitConfig
from effdet.data.check import check_data
from effdet.data.damage import check_sizes
from effdet.data.formats import read_tables
from effdet.data.formats.table import LISTED_TWICE, REVERSED, check_not_only_crowds
from effdet.data.video import read_video
from effdet.errors import DataError
from effdet.evaluation.coco import CocoEvaluator
from effdet.inference.sources import open_sources
from effdet.structures import Detections

SCRIPT = Path(os.environ.get("EFFDET_TEST_CASES", Path(__file__).parents[2] / "shared" / "cases")) / "make.py"


@pytest.fixture
def case(tmp_path, monkeypatch):
    """Draws a case and gives its folder."""
    if not SCRIPT.is_file():
        pytest.skip(f"no script in {SCRIPT.parent}; EFFDET_TEST_CASES names the folder of the cases")

    def draw(name):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["make.py", str(tmp_path)])
        runpy.run_path(str(SCRIPT))["CASES"][name]()
        return folder

    return draw


def coco(annotations, images, **settings):
    """The training table of a COCO file, without a validation split."""
    section = SplitConfig(annotations=annotations, images=images)
    return read_tables(DetectionData(train=section, val=None, **settings)).train


def test_crowds_are_counted_and_questioned(case):
    folder = case("crowd_masks")
    mixed = coco(folder / "mixed.json", folder / "img")
    (note,) = mixed.notes()
    assert "2 of 4 objects are crowds, which are not trained on; are these masks of single objects?" in note
    assert "data.crowd_as_objects=true" in note
    with pytest.raises(DataError, match="all 4 objects are marked as crowds"):
        check_not_only_crowds(coco(folder / "masks.json", folder / "img"))
    assert not coco(folder / "masks.json", folder / "img", crowd_as_objects=True).crowd.any()


def test_a_recording_of_a_browser_is_as_long_as_it_was(case):
    times = [time for time, _ in read_video(case("browser_recording") / "rec.webm")]
    assert len(times) == 90
    assert times[-1] - times[0] == pytest.approx(3.1, abs=0.1)


def test_images_of_two_cameras_are_not_confused(case):
    folder = case("two_rows_one_file")
    with pytest.raises(DataError, match=r"a\\0000\.jpg' and .*b\\0000\.jpg' would both be the file '0000\.jpg'"):
        coco(folder / "cameras.json", folder / "flat")
    twice = coco(folder / "twice.json", folder / "flat")
    assert (len(twice), len(twice.boxes), twice.repairs[LISTED_TWICE]) == (2, 4, 2)


def test_paths_of_other_machines_are_matched_by_their_ends(case):
    folder = case("foreign_paths")
    exported = read_tables(DetectionData(root=folder / "ls", val=None)).train
    assert sorted(exported.file_names.tolist()) == [f"cb0618f{number}-shot.jpg" for number in range(3)]
    windows = coco(folder / "win.json", folder / "win")
    assert windows.file_names.tolist() == [f"cam/{number}.jpg" for number in range(3)]


def test_ids_may_be_whole_decimal_numbers(case):
    folder = case("float_ids")
    table = coco(folder / "a.json", folder / "img")
    assert np.diff(table.offsets).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("root", ["same", "other"])
def test_images_of_one_stem_in_two_folders_are_two_images(case, root):
    table = read_tables(DetectionData(root=case("voc_subfolders") / root, val=None)).train
    assert (len(table), len(table.boxes), table.repairs) == (2, 2, {})


def test_reversed_corners_are_sorted(case):
    folder = case("reversed_corners")
    section = SplitConfig(annotations=folder / "xml", images=folder / "img")
    table = read_tables(DetectionData(train=section, val=None)).train
    assert table.repairs == {REVERSED: 3}
    assert (table.boxes == [10, 8, 40, 36]).all()


def test_an_unused_group_of_the_name_of_a_class_is_dropped(case):
    folder = case("group_named_like_a_class")
    table = coco(folder / "a.json", folder / "img")
    assert table.label_map.names == ("car", "truck")
    assert table.label_map.category_ids == (1, 2)
    assert len(table.notes()) == 1


def test_images_of_all_suffixes_are_used(case):
    folder = case("other_suffixes")
    for name in ("ppm", "web"):
        tables = read_tables(ClassificationData(root=folder / name))
        assert (len(tables.train), len(tables.val)) == (8, 8)
    sources = open_sources([folder / "mixed"])
    names = {source.path.name for source in sources.files}
    assert names >= {"a.jpg", "b.ppm", "c.gif", "d.jfif"}
    assert "e.heic" in names or "1 .heic" in " ".join(sources.notes())  # with and without the package that reads HEIC


@pytest.mark.parametrize("name", ["empty", "typescript"])
def test_a_bad_video_does_not_stop_the_others(case, name):
    sources = open_sources([case("bad_videos") / name])
    assert len(sources.files) == 4
    described = " ".join([*sources.notes(), *map(str, sources.failures)])
    assert ("clip.mp4" if name == "empty" else "1 .ts") in described


def test_more_objects_than_coco_counts_are_noted(case):
    folder = case("four_hundred_objects")
    table = coco(folder / "a.json", folder / "img")
    evaluator = CocoEvaluator(table)
    for index in range(len(table)):
        boxes = torch.from_numpy(table.boxes[table.rows(index)])
        evaluator.add(index, Detections(boxes, torch.linspace(1, 0.5, len(boxes)), torch.zeros(len(boxes)).long()))
    metrics = evaluator.metrics()
    assert metrics["AP"] == pytest.approx(0.257, abs=0.001)
    assert "without it" in evaluator.notes(metrics)[0]


def test_all_damaged_images_are_named_in_one_pass(case):
    folder = case("damaged_pictures")
    section = SplitConfig(annotations=folder / "a.json", images=folder / "img")
    findings = check_data(DetectionData(train=section, val=None)).findings
    (problem,) = [finding for finding in findings if finding.severity == "problem"]
    assert sorted(place.file for place in problem.places) == ["15.jpg", "21.jpg", "3.jpg", "9.jpg"]
    with pytest.raises(DataError) as error:
        check_sizes([coco(folder / "a.json", folder / "img")], folder)
    assert all(name in str(error.value) for name in ("15.jpg", "21.jpg", "3.jpg", "9.jpg"))
