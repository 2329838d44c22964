import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdet.data.label_map import LabelMap
from effdet.inference.sources import Frame
from effdet.inference.writers import (
    ClassificationCsvWriter,
    ClassificationJsonWriter,
    CocoResultsWriter,
    CsvWriter,
    PictureWriter,
    TableWriter,
    VideoWriter,
)
from effdet.structures import Classification, Detections

LABELS = LabelMap(("red", "white, small", "plätt"), (3, 7, 90))
IMAGE = np.full((48, 64, 3), (200, 100, 0), np.uint8)


def frame(path="photos/000012.jpg", index=None, fps=None):
    return Frame(IMAGE, Path(path), Path(Path(path).name), index, fps)


def detections(number=2):
    return Detections(
        torch.tensor([[1.234567, 2, 11.5, 20.25], [0, 0, 5, 5]])[:number],
        torch.tensor([0.987654321, 0.5])[:number],
        torch.tensor([2, 1])[:number],
        LABELS.names,
    )


def classification(number=2):
    return Classification(torch.tensor([0.987654321, 0.01])[:number], torch.tensor([2, 1])[:number], LABELS.names)


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_coco_results_have_ids_of_the_data_set_and_xywh_boxes(tmp_path):
    with CocoResultsWriter(tmp_path / "predictions.json", LABELS) as writer:
        writer.write(frame(), detections())
        writer.write(frame("photos/no.jpg"), detections(0))
        writer.write(frame("clip.mp4", index=5, fps=25.0), detections(1))
    first, second, third = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert first == {
        "image_id": 12,
        "file_name": "photos/000012.jpg",
        "category_id": 90,
        "bbox": [1.23, 2.0, 10.27, 18.25],
        "score": 0.98765,
    }
    assert second["category_id"] == 7
    assert (third["image_id"], third["frame"]) == ("clip", 5)


def test_coco_results_are_read_by_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    with CocoResultsWriter(tmp_path / "predictions.json", LABELS) as writer:
        writer.write(frame(), detections())
    truth = COCO()
    truth.dataset = {"images": [{"id": 12}], "categories": [{"id": 7}, {"id": 90}], "annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(str(tmp_path / "predictions.json")).anns) == 2


def test_no_detections_are_an_empty_list_and_a_header(tmp_path):
    with CocoResultsWriter(tmp_path / "a.json", LABELS), CsvWriter(tmp_path / "a.csv", LABELS):
        pass
    assert json.loads((tmp_path / "a.json").read_text()) == []
    assert (tmp_path / "a.csv").read_text() == "file_name,frame,label,category_id,score,x1,y1,x2,y2\n"


def test_csv_has_a_line_for_each_detection(tmp_path):
    with CsvWriter(tmp_path / "a.csv", LABELS) as writer:
        writer.write(frame(), detections())
        writer.write(frame("clip.mp4", index=5, fps=25.0), detections(1))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["plätt", "white, small", "plätt"]
    assert [row["frame"] for row in rows] == ["", "", "5"]
    assert [float(rows[0][key]) for key in ("score", "x1", "y1", "x2", "y2")] == [0.98765, 1.23, 2.0, 11.5, 20.25]


def test_classes_are_a_list_of_images_with_their_classes(tmp_path):
    with ClassificationJsonWriter(tmp_path / "predictions.json", LABELS) as writer:
        writer.write(frame(), classification())
        writer.write(frame("clip.mp4", index=0, fps=25.0), classification(1))
    best = {"name": "plätt", "class_id": 90, "score": 0.98765}
    assert json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8")) == [
        {"file_name": "photos/000012.jpg", "classes": [best, {"name": "white, small", "class_id": 7, "score": 0.01}]},
        {"file_name": "clip.mp4", "frame": 0, "classes": [best]},
    ]


def test_classes_are_lines_with_their_ranks(tmp_path):
    with ClassificationCsvWriter(tmp_path / "a.csv", LABELS) as writer:
        writer.write(frame(), classification())
        writer.write(frame("clip.mp4", index=5, fps=25.0), classification(1))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["file_name", "frame", "rank", "label", "class_id", "score"]
    assert lines == [
        ["photos/000012.jpg", "", "1", "plätt", "90", "0.98765"],
        ["photos/000012.jpg", "", "2", "white, small", "7", "0.01"],
        ["clip.mp4", "5", "1", "plätt", "90", "0.98765"],
    ]


def test_no_images_are_an_empty_list_and_a_header_of_classes(tmp_path):
    with ClassificationJsonWriter(tmp_path / "a.json", LABELS), ClassificationCsvWriter(tmp_path / "a.csv", LABELS):
        pass
    assert json.loads((tmp_path / "a.json").read_text()) == []
    assert (tmp_path / "a.csv").read_text() == "file_name,frame,rank,label,class_id,score\n"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_classes_that_were_written_are_kept_when_the_run_ends_early(tmp_path, error):
    def run():
        with (
            ClassificationJsonWriter(tmp_path / "a.json", LABELS) as results,
            ClassificationCsvWriter(tmp_path / "a.csv", LABELS) as lines,
        ):
            for index in range(4):
                results.write(frame("clip.mp4", index, 25.0), classification())
                lines.write(frame("clip.mp4", index, 25.0), classification())
            raise error

    with pytest.raises(error):
        run()
    assert files_in(tmp_path) == ["a.csv", "a.json"]
    assert len(json.loads((tmp_path / "a.json").read_text())) == 4
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 9


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_was_written_is_kept_when_the_run_ends_early(tmp_path, error):
    def run():
        with (
            CocoResultsWriter(tmp_path / "a.json", LABELS) as results,
            CsvWriter(tmp_path / "a.csv", LABELS) as lines,
            PictureWriter(tmp_path, []) as pictures,
        ):
            for index in range(4):
                results.write(frame("clip.mp4", index, 25.0), detections())
                lines.write(frame("clip.mp4", index, 25.0), detections())
                pictures.write(frame("clip.mp4", index, 25.0), IMAGE)
            raise error

    with pytest.raises(error):
        run()
    assert files_in(tmp_path) == ["a.csv", "a.json", "clip.mp4"]
    assert len(json.loads((tmp_path / "a.json").read_text())) == 8
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 9
    assert cv2.VideoCapture(str(tmp_path / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 4


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1]")
    with CocoResultsWriter(path, LABELS) as writer:
        writer.write(frame(), detections())
        assert path.read_text() == "[1]"
    assert len(json.loads(path.read_text())) == 2
    assert files_in(tmp_path) == ["a.json"]


def test_a_video_keeps_size_rate_and_colours(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 12.5) as writer:
        for _ in range(7):
            writer.write(IMAGE)
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 7
    image = video.read()[1]
    assert image.shape == IMAGE.shape
    assert image[..., ::-1].mean((0, 1)) == pytest.approx((200, 100, 0), abs=8)


def test_a_video_without_pictures_is_no_file(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 25.0):
        pass
    assert files_in(tmp_path) == []


def test_pictures_keep_their_place_below_the_source_folder(tmp_path):
    with PictureWriter(tmp_path, []) as writer:
        writer.write(Frame(IMAGE, Path("in/sub/a.png"), Path("sub/a.png")), IMAGE)
        writer.write(Frame(IMAGE, Path("in/b.gif"), Path("b.gif")), IMAGE)
    assert files_in(tmp_path) == ["b.png", "sub/a.png"]
    assert (cv2.imread(str(tmp_path / "sub/a.png"))[..., ::-1] == IMAGE).all()


def test_sources_of_the_same_name_do_not_overwrite_each_other(tmp_path):
    with PictureWriter(tmp_path, []) as writer:
        for path in ("x/a.png", "y/a.png", "z/A.PNG"):
            writer.write(frame(path), IMAGE)
        for path in ("x/a.avi", "x/a.mov"):
            for index in range(3):
                writer.write(frame(path, index, 25.0), IMAGE)
    assert files_in(tmp_path) == ["A_3.PNG", "a.mp4", "a.png", "a_2.mp4", "a_2.png"]
    assert cv2.VideoCapture(str(tmp_path / "a_2.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_a_source_is_never_overwritten(tmp_path):
    for name in ("a.png", "b.mp4"):
        (tmp_path / name).write_bytes(b"source")
    with PictureWriter(tmp_path, [tmp_path / "a.png", tmp_path / "b.mp4"]) as writer:
        writer.write(frame(tmp_path / "a.png"), IMAGE)
        writer.write(frame(tmp_path / "b.mp4", 0, 25.0), IMAGE)
    assert files_in(tmp_path) == ["a.png", "a_2.png", "b.mp4", "b_2.mp4"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.mp4").read_bytes() == b"source"


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_file_names_in_another_encoding_are_written_as_they_are(tmp_path, task):
    name = os.fsdecode(b"gr\xfcn.png")
    found = detections() if task == "detection" else classification()
    with TableWriter(tmp_path, LabelMap(("a", "b", "c"), (1, 2, 3)), task) as tables:
        tables.write(frame(name), found)
    for file in ("predictions.json", "predictions.csv"):
        assert b"gr\xfcn.png" in (tmp_path / file).read_bytes()
