import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdet.data.images import IMAGE_SUFFIXES
from effdet.data.label_map import LabelMap
from effdet.data.video import read_video
from effdet.inference.sources import Frame, Source
from effdet.inference.writers import PictureWriter, ResultWriter, merge_results, picture_paths
from effdet.structures import Classification, Detections

LABELS = LabelMap(("red", "white, small", "plätt"), (3, 7, 90))
IMAGE = np.full((48, 64, 3), (200, 100, 0), np.uint8)
TASKS = ("detection", "classification")


def frame(path="photos/000012.jpg", index=None, time=None):
    name = Path(path).name
    return Frame(IMAGE, Path(path), Path(name), name if index is None else f"{name}/{index}", index, time)


def result(task, number=2):
    scores, labels = torch.tensor([0.987654321, 0.01])[:number], torch.tensor([2, 1])[:number]
    if task == "classification":
        return Classification(scores, labels, LABELS.names)
    return Detections(torch.tensor([[1.234567, 2, 11.5, 20.25], [0, 0, 5, 5]])[:number], scores, labels, LABELS.names)


def write(folder, task, *frames, rank=0):
    """Writes (frame, number of objects or classes) pairs as one process."""
    with ResultWriter(folder, LABELS, task, rank) as writer:
        for one, number in frames:
            writer.write(one, result(task, number))


def written(folder):
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    return json.loads((folder / "predictions.json").read_text(encoding="utf-8")), head, lines


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_detections_are_coco_results_and_lines_with_corners(tmp_path):
    write(tmp_path, "detection", (frame(), 2), (frame("photos/no.jpg"), 0), (frame("clip.mp4", 5, 0.20833), 1))
    assert merge_results(tmp_path, "detection") == []
    elements, head, lines = written(tmp_path)
    assert elements[0] == {
        "image_id": "000012.jpg",
        "category_id": 90,
        "bbox": [1.23, 2.0, 10.27, 18.25],
        "score": 0.98765,
        "file_name": "photos/000012.jpg",
    }
    assert [element["category_id"] for element in elements] == [90, 7, 90]
    assert (elements[2]["image_id"], elements[2]["file_name"], elements[2]["frame"]) == ("clip.mp4/5", "clip.mp4", 5)
    assert elements[2]["time"] == 0.208
    assert head == ["file_name", "frame", "time", "label", "category_id", "score", "x1", "y1", "x2", "y2"]
    assert lines == [
        ["photos/000012.jpg", "", "", "plätt", "90", "0.98765", "1.23", "2.0", "11.5", "20.25"],
        ["photos/000012.jpg", "", "", "white, small", "7", "0.01", "0.0", "0.0", "5.0", "5.0"],
        ["clip.mp4", "5", "0.208", "plätt", "90", "0.98765", "1.23", "2.0", "11.5", "20.25"],
    ]


def test_corners_in_the_table_are_those_of_the_detections_to_a_hundredth(tmp_path):
    boxes = torch.rand(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(9000)
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).float()
    with ResultWriter(tmp_path, LABELS, "detection") as writer:
        writer.write(frame(), Detections(boxes, torch.ones(500), torch.zeros(500).long(), LABELS.names))
    merge_results(tmp_path, "detection")
    corners = [[float(value) for value in line[6:]] for line in written(tmp_path)[2]]
    assert corners == boxes.double().numpy().round(2).tolist()


def test_coco_results_are_read_by_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    write(tmp_path, "detection", (frame(), 2))
    merge_results(tmp_path, "detection")
    truth = COCO()
    truth.dataset = {"images": [{"id": "000012.jpg"}], "categories": [{"id": 7}, {"id": 90}], "annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(str(tmp_path / "predictions.json")).anns) == 2


def test_classifications_are_elements_of_images_and_lines_with_ranks(tmp_path):
    write(tmp_path, "classification", (frame(), 2), (frame("clip.mp4", 0, 0.0), 1))
    merge_results(tmp_path, "classification")
    elements, head, lines = written(tmp_path)
    best = {"name": "plätt", "class_id": 90, "score": 0.98765}
    second = {"name": "white, small", "class_id": 7, "score": 0.01}
    assert elements == [
        {"image_id": "000012.jpg", "file_name": "photos/000012.jpg", "classes": [best, second]},
        {"image_id": "clip.mp4/0", "file_name": "clip.mp4", "frame": 0, "time": 0.0, "classes": [best]},
    ]
    assert head == ["file_name", "frame", "time", "rank", "label", "class_id", "score"]
    assert lines == [
        ["photos/000012.jpg", "", "", "1", "plätt", "90", "0.98765"],
        ["photos/000012.jpg", "", "", "2", "white, small", "7", "0.01"],
        ["clip.mp4", "0", "0.0", "1", "plätt", "90", "0.98765"],
    ]


@pytest.mark.parametrize("task", TASKS)
def test_no_results_are_an_empty_list_and_a_header(tmp_path, task):
    write(tmp_path, task)
    merge_results(tmp_path, task)
    elements, _, lines = written(tmp_path)
    assert (elements, lines) == ([], [])


@pytest.mark.parametrize("task", TASKS)
def test_results_of_several_processes_are_merged_by_rank(tmp_path, task):
    for rank in (2, 0, 1):
        write(tmp_path, task, *[(frame(f"{rank}.jpg"), 1)] * rank, rank=rank)
    assert merge_results(tmp_path, task, 3) == []
    elements, _, lines = written(tmp_path)
    assert [element["file_name"] for element in elements] == ["1.jpg", "2.jpg", "2.jpg"]
    assert [line[0] for line in lines] == ["1.jpg", "2.jpg", "2.jpg"]
    assert files_in(tmp_path) == ["predictions.csv", "predictions.json"]


def test_the_merged_files_are_those_of_one_process(tmp_path):
    frames = [(frame(f"{number}.jpg"), number % 3) for number in range(7)]
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    write(folders[0], "detection", *frames)
    write(folders[1], "detection", *frames[:4])
    write(folders[1], "detection", *frames[4:], rank=1)
    for size, folder in enumerate(folders, start=1):
        merge_results(folder, "detection", size)
    for name in ("predictions.json", "predictions.csv"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_process_whose_files_are_elsewhere_is_named(tmp_path):
    for rank in (0, 2):
        write(tmp_path, "detection", (frame(f"{rank}.jpg"), 1), rank=rank)
    assert merge_results(tmp_path, "detection", 3) == [1]
    assert [element["image_id"] for element in written(tmp_path)[0]] == ["0.jpg", "2.jpg"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_was_written_is_there_when_an_error_ends_the_run(tmp_path, task, error):
    def run():
        with ResultWriter(tmp_path, LABELS, task) as results, writer_of(tmp_path, source("clip.mp4")) as pictures:
            for index in range(4):
                results.write(frame("clip.mp4", index, index / 25), result(task))
                pictures.write(frame("clip.mp4", index, index / 25), IMAGE)
            raise error

    with pytest.raises(error):
        run()
    merge_results(tmp_path, task)
    assert files_in(tmp_path) == ["clip.mp4", "predictions.csv", "predictions.json"]
    elements, _, lines = written(tmp_path)
    assert len(elements) == {"detection": 8, "classification": 4}[task]
    assert len(lines) == 8
    assert cv2.VideoCapture(str(tmp_path / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 4


def test_every_image_is_on_disk_before_the_next(tmp_path):
    """A killed process leaves whole lines."""
    with ResultWriter(tmp_path, LABELS, "detection") as writer:
        for number in range(1, 4):
            writer.write(frame(f"{number}.jpg"), result("detection"))
            (lines,) = (path for path in tmp_path.iterdir() if ".json" in path.name)
            assert len([json.loads(line) for line in lines.read_text().splitlines()]) == 2 * number


def test_older_files_stay_until_the_new_ones_are_whole(tmp_path):
    (tmp_path / "predictions.json").write_text("[1]")
    write(tmp_path, "detection", (frame(), 2))
    assert json.loads((tmp_path / "predictions.json").read_text()) == [1]
    merge_results(tmp_path, "detection")
    assert len(written(tmp_path)[0]) == 2


@pytest.mark.parametrize("task", TASKS)
def test_file_names_in_another_encoding_are_written_as_they_are(tmp_path, task):
    write(tmp_path, task, (frame(os.fsdecode(b"gr\xfcn.png")), 2))
    merge_results(tmp_path, task)
    for file in ("predictions.json", "predictions.csv"):
        assert b"gr\xfcn.png" in (tmp_path / file).read_bytes()


def test_file_names_with_line_breaks_and_quotes_survive_the_merging(tmp_path):
    name = 'a "b",\nc.png'
    write(tmp_path, "detection", (frame(name), 1))
    merge_results(tmp_path, "detection")
    elements, _, lines = written(tmp_path)
    assert elements[0]["file_name"] == lines[0][0] == name


# Annotated copies


def source(path, name=None):
    name = Path(name or Path(path).name)
    return Source(Path(path), name, name.as_posix(), is_video=name.suffix in (".mp4", ".avi", ".mov"))


def writer_of(folder, *sources):
    return PictureWriter(picture_paths(folder, sources))


def names_of(folder, *paths):
    """The names of the annotated copies."""
    return [path.relative_to(folder).as_posix() for path in picture_paths(folder, map(source, paths)).values()]


def test_pictures_keep_their_place_below_the_source_folder(tmp_path):
    with writer_of(tmp_path, source("in/sub/a.png", "sub/a.png"), source("in/b.gif")) as writer:
        writer.write(frame("in/sub/a.png"), IMAGE)
        writer.write(frame("in/b.gif"), IMAGE)
    assert files_in(tmp_path) == ["b.png", "sub/a.png"]
    assert (cv2.imread(str(tmp_path / "sub/a.png"))[..., ::-1] == IMAGE).all()


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_kind_of_image_has_an_annotated_copy(tmp_path, suffix):
    path = f"in/a{suffix}"
    with writer_of(tmp_path, source(path)) as writer:
        writer.write(frame(path), IMAGE)
    (copy,) = tmp_path.iterdir()
    assert np.abs(cv2.imread(str(copy))[..., ::-1].astype(int) - IMAGE).max() < 8


def test_copies_have_the_format_of_their_image_or_one_of_its_kind(tmp_path):
    images = ("a.JPG", "b.tif", "c.webp", "d.jfif", "e.heic", "f.gif", "g.ppm", "photo")
    assert names_of(tmp_path, *images) == [
        *("a.JPG", "b.tif", "c.webp", "d.jpg", "e.jpg", "f.png", "g.png", "photo.png")
    ]


def test_sources_of_the_same_name_do_not_overwrite_each_other(tmp_path):
    images, videos = ("x/a.png", "y/a.png", "z/A.PNG"), ("x/a.avi", "x/a.mov")
    with writer_of(tmp_path, *map(source, [*images, *videos])) as writer:
        for path in images:
            writer.write(frame(path), IMAGE)
        for path in videos:
            for index in range(3):
                writer.write(frame(path, index, index / 25), IMAGE)
    assert files_in(tmp_path) == ["A_3.PNG", "a.mp4", "a.png", "a_2.mp4", "a_2.png"]
    assert cv2.VideoCapture(str(tmp_path / "a_2.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_a_copy_with_the_name_of_its_source_has_it_before_others(tmp_path):
    assert names_of(tmp_path, "a.jfif", "a.jpg", "a_2.jpg", "b.gif", "b.ppm", "b.png") == [
        *("a_3.jpg", "a.jpg", "a_2.jpg", "b_2.png", "b_3.png", "b.png")
    ]


def test_a_source_is_never_overwritten(tmp_path):
    for name in ("a.png", "b.mp4"):
        (tmp_path / name).write_bytes(b"source")
    with writer_of(tmp_path, source(tmp_path / "a.png"), source(tmp_path / "b.mp4")) as writer:
        writer.write(frame(tmp_path / "a.png"), IMAGE)
        writer.write(frame(tmp_path / "b.mp4", 0, 0.0), IMAGE)
    assert files_in(tmp_path) == ["a.png", "a_2.png", "b.mp4", "b_2.mp4"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.mp4").read_bytes() == b"source"


def test_an_annotated_video_has_the_time_stamps_of_its_source_and_notes_lost_sound(draw_video, tmp_path):
    times = [0.0, 0.1, 0.15, 1.0, 2.5]
    paths = [
        draw_video(tmp_path / "a.mkv", times, sound="aac"),
        draw_video(tmp_path / "b.mkv", times, sound="pcm_s16le"),
    ]
    out = tmp_path / "out"
    with writer_of(out, *(Source(path, Path(path.name), path.name, True) for path in paths)) as writer:
        for path in paths:
            for index, time in enumerate(times):
                writer.write(frame(path, index, time), IMAGE)
    for name in ("a.mp4", "b.mp4"):
        assert [time for time, _ in read_video(out / name)] == pytest.approx(times, abs=1e-4)
    assert writer.notes == [f"{out / 'b.mp4'}: without sound, because an MP4 cannot hold sound of the codec pcm_s16le"]


def test_thousands_of_sources_of_one_name_get_the_next_numbers_each(tmp_path, monkeypatch):
    looked_up = []
    realpath = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: looked_up.append(path) or realpath(path))
    sources = [source(f"d{index}/{name}.jpg") for index in range(1000) for name in ("frame", "FRAME")]
    copies = [path.name for path in picture_paths(tmp_path, [replace_name(one) for one in sources]).values()]
    assert copies[:6] == ["frame.jpg", "FRAME_2.jpg", "frame_3.jpg", "FRAME_4.jpg", "frame_5.jpg", "FRAME_6.jpg"]
    assert copies[-1] == "FRAME_2000.jpg"
    assert len(looked_up) < 5 * len(sources)  # not quadratic


def replace_name(one):
    """A source whose name is that of its file, as if each folder had been given."""
    return Source(one.path, Path(one.path.name), one.image_id)


@pytest.mark.parametrize("name", ["../x.jpg", "../../a/../x.jpg", "/x.jpg", "a/../../../x.jpg"])
def test_copies_are_always_below_the_folder(tmp_path, name):
    (path,) = picture_paths(tmp_path / "out", [Source(Path("x.jpg"), Path(name), "x")]).values()
    assert ".." not in path.parts
    assert path.is_relative_to(tmp_path / "out")


@pytest.mark.parametrize("letter", ["x", "é"])
def test_names_of_copies_are_never_too_long_for_a_disk(tmp_path, letter):
    stem = letter * (251 // len(letter.encode()))
    names = [f"{folder}/{stem}{suffix}" for folder in "ab" for suffix in (".jpg", ".j2k", ".pfm", "")]
    paths = picture_paths(tmp_path, [Source(Path(name), Path(name).with_name(Path(name).name), name) for name in names])
    assert len(set(paths.values())) == len(names)
    for path in paths.values():
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_a_copy_never_has_the_name_of_a_folder_of_others(tmp_path):
    first = Source(Path("one/a.png"), Path("a.png"), "1")
    second = Source(Path("two/a.png/b.png"), Path("a.png/b.png"), "2")
    paths = picture_paths(tmp_path, [first, second])
    assert [path.relative_to(tmp_path).as_posix() for path in paths.values()] == ["a_2.png", "a.png/b.png"]


def test_no_cell_of_the_table_is_a_formula_and_similar_names_stay_distinct(tmp_path):
    with ResultWriter(tmp_path, LabelMap(("=1+2", "+", "b"), (1, 2, 3)), "classification") as writer:
        for name in ("=cmd.jpg", "0001.jpg", "1.jpg"):
            writer.write(
                frame(name), Classification(torch.tensor([0.5, 0.3]), torch.tensor([0, 1]), ("=1+2", "+", "b"))
            )
    merge_results(tmp_path, "classification")
    elements, _, lines = written(tmp_path)
    assert [line[0] for line in lines[::2]] == ["./=cmd.jpg", "0001.jpg", "1.jpg"]
    assert [line[4] for line in lines[:2]] == ["'=1+2", "+"]
    assert [element["image_id"] for element in elements] == ["=cmd.jpg", "0001.jpg", "1.jpg"]
    assert elements[0]["classes"][0]["name"] == "=1+2"
