import argparse
import errno
import json
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from effdet.cli import predict
from effdet.data.image_depth import ALPHA_DROPPED
from effdet.data.images import read_image
from effdet.data.label_map import LabelMap
from effdet.distributed import Processes
from effdet.errors import ConfigError, DataError
from effdet.inference.jobs import block_of, predict_files
from effdet.inference.sources import open_sources
from effdet.structures import Detections

RESULTS = ["pictures.csv", "predictions.csv", "predictions.json"]


class BrightnessPredictor:
    """Detects one object in every image, with the brightness as its score; `stop` is raised at the third image."""

    task, label_map, value_range = "detection", LabelMap(("thing",), (7,)), None

    def __init__(self, stop=None):
        self.stop, self.results = stop, weakref.WeakSet()

    def predict_frames(self, frames):
        for number, frame in enumerate(frames):
            if number == 2 and self.stop:
                raise self.stop
            score = torch.tensor([frame.image.mean() / 255])
            result = Detections(torch.tensor([[2.0, 3, 8, 9]]), score, torch.zeros(1).long(), self.label_map.names)
            self.results.add(result)
            assert len(self.results) <= 2  # nothing keeps the results of images that are done
            yield frame, result


@pytest.fixture
def photos(tmp_path):
    """A folder of ten images, the fifth of them damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((20, 30, 3), 20 * number, np.uint8))
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:40])
    return folder


def ids_in(folder):
    return [element["image_id"] for element in json.loads((folder / "predictions.json").read_text())]


def test_files_are_predicted_and_those_that_cannot_be_read_are_listed(photos, tmp_path):
    out = tmp_path / "out"
    summary = predict_files(BrightnessPredictor(), open_sources([photos]), out)
    assert (summary.images, summary.objects, summary.interrupted) == (9, 9, False)
    assert [failure.split(":")[0] for failure in summary.failures] == [str(photos / "4.png")]
    numbers = [number for number in range(10) if number != 4]
    assert ids_in(out) == [f"{number}.png" for number in numbers]
    pictures = [f"{number}.png" for number in numbers]
    assert sorted(path.name for path in out.iterdir()) == [*pictures, *RESULTS]
    assert (read_image(out / "7.png") != 140).any()


def test_what_decoding_changes_is_counted_by_cause_over_all_processes(photos, tmp_path):
    for number in (1, 2, 7):
        cv2.imwrite(str(photos / f"{number}.png"), np.full((20, 30, 4), 99, np.uint8))
    sources = open_sources([photos])
    summary = predict_files(BrightnessPredictor(), sources, tmp_path / "one")
    assert summary.changes == {ALPHA_DROPPED: 3}
    assert (
        run_together(
            3, lambda processes: predict_files(BrightnessPredictor(), sources, tmp_path / "three", processes=processes)
        )
        == [summary] * 3
    )


def test_images_of_more_than_8_bits_are_read_by_the_value_range_of_the_model(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 30), 300, np.uint16))
    predictor = BrightnessPredictor()
    predictor.value_range = (0, 600)
    predict_files(predictor, open_sources([tmp_path]), tmp_path / "out")
    (row,) = json.loads((tmp_path / "out/predictions.json").read_text())
    assert row["score"] == pytest.approx(0.5, abs=0.01)


def test_pictures_are_left_out_on_request(photos, tmp_path):
    predict_files(BrightnessPredictor(), open_sources([photos]), tmp_path / "out", save_images=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions.csv", "predictions.json"]


def test_ctrl_c_keeps_what_is_done(photos, tmp_path):
    summary = predict_files(BrightnessPredictor(KeyboardInterrupt()), open_sources([photos]), tmp_path / "out")
    assert (summary.images, summary.interrupted) == (2, True)
    assert ids_in(tmp_path / "out") == ["0.png", "1.png"]


def test_an_error_keeps_what_is_done_too(photos, tmp_path):
    with pytest.raises(RuntimeError, match="no memory"):
        predict_files(BrightnessPredictor(RuntimeError("no memory")), open_sources([photos]), tmp_path / "out")
    assert ids_in(tmp_path / "out") == ["0.png", "1.png"]


def test_a_folder_that_cannot_be_written_is_named(photos, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match=r"out: is a file, expected a folder; choose another folder"):
        predict_files(BrightnessPredictor(), open_sources([photos]), tmp_path / "out")


def test_two_predictions_never_write_to_one_folder(photos, tmp_path):
    out = tmp_path / "out"
    code = (
        "import pathlib, sys; from effdet.folders import owned_folder\n"
        "with owned_folder(pathlib.Path(sys.argv[1])): print(1, flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    other.stdout.readline()
    with pytest.raises(ConfigError, match=rf"out: process {other.pid} on .* is writing to this folder; wait for it"):
        predict_files(BrightnessPredictor(), open_sources([photos]), out, overwrite=True)
    other.communicate("\n")
    assert len(predict_files(BrightnessPredictor(), open_sources([photos]), out).failures) == 1


def test_what_a_killed_prediction_left_is_removed_and_no_link_is_followed(photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("precious")
    (out / ".predictions.json.process-0.partial").symlink_to(tmp_path / "precious")
    (out / ".predictions.csv.process-7.partial").write_text("of a killed process")
    predict_files(BrightnessPredictor(), open_sources([photos]), out, save_images=False)
    assert (tmp_path / "precious").read_text() == "precious"
    assert sorted(path.name for path in out.iterdir()) == ["predictions.csv", "predictions.json"]


def test_where_the_disk_is_full_the_results_so_far_are_named(photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out/predictions.json"))

    monkeypatch.setattr("effdet.inference.jobs.merge_results", full)
    with pytest.raises(
        DataError, match=r"predictions\.json: cannot be written \(No space .*; the results so far are in "
    ):
        predict_files(BrightnessPredictor(), open_sources([photos]), tmp_path / "out", save_images=False)
    lines = (tmp_path / "out/.predictions.json.process-0.partial").read_text().splitlines()
    assert len(lines) == 9


def run_together(size, job):
    """What `job` returns in each of `size` processes, which are threads here."""
    barrier, box = threading.Barrier(size, timeout=60), {}

    class Together(Processes):
        def gather(self, value):
            box[self.rank] = value
            barrier.wait()
            values = [box[rank] for rank in range(size)] if self.is_main else []
            barrier.wait()
            return values

        def broadcast(self, value):
            if self.is_main:
                box["value"] = value
            barrier.wait()
            value = box["value"]
            barrier.wait()
            return value

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: job(Together(rank, size)), range(size)))


@pytest.mark.parametrize("size", [2, 3, 12])
def test_several_processes_write_what_one_writes(photos, tmp_path, size):
    (photos / "notes.txt").write_text("notes")
    (photos / "empty.mp4").touch()
    sources, one, several = open_sources([photos]), tmp_path / "one", tmp_path / "several"
    expected = predict_files(BrightnessPredictor(), sources, one)
    assert len(expected.failures) == 2
    assert expected.notes == ["passed over: 1 .txt"]
    summaries = run_together(
        size, lambda processes: predict_files(BrightnessPredictor(), sources, several, processes=processes)
    )
    assert summaries == [expected] * size
    assert sorted(path.name for path in several.iterdir()) == sorted(path.name for path in one.iterdir())
    for path in one.iterdir():
        assert (several / path.name).read_bytes() == path.read_bytes()


def test_a_process_that_wrote_to_another_disk_is_reported(photos, tmp_path):
    folders, sources = [tmp_path / "out", tmp_path / "elsewhere"], open_sources([photos])
    summary, _ = run_together(
        2, lambda processes: predict_files(BrightnessPredictor(), sources, folders[processes.rank], processes=processes)
    )
    assert any("the results of process 1 are on another machine" in failure for failure in summary.failures)
    assert ids_in(tmp_path / "out") == ["0.png", "1.png", "2.png", "3.png"]


def test_every_process_refuses_a_folder_with_earlier_results(photos, tmp_path):
    sources = open_sources([photos])
    predict_files(BrightnessPredictor(), sources, tmp_path / "out")

    def refused(processes):
        with pytest.raises(ConfigError, match="would be overwritten"):
            predict_files(BrightnessPredictor(), sources, tmp_path / "out", processes=processes)
        return True

    assert run_together(3, refused) == [True] * 3


@pytest.mark.parametrize(("files", "size"), [(10, 3), (2, 5), (7, 1), (8, 8)])
def test_blocks_are_the_files_in_order(files, size):
    blocks = [block_of(range(files), rank, size) for rank in range(size)]
    assert [number for block in blocks for number in block] == list(range(files))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


# The command


def run_predict(*arguments):
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    return predict.run(parser.parse_args([str(argument) for argument in arguments]))


def save_video(path, frames):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for value in range(frames):
        video.write(np.full((48, 64, 3), value * 20, np.uint8))
    video.release()


def test_the_command_writes_pictures_results_and_table(tiny_run, photos, tmp_path, capsys):
    out = tmp_path / "out"
    save_video(tmp_path / "clip.mp4", 7)
    options = ["--weights", tiny_run / "best.pt", "--out", out, "--conf", "0.001", "--device", "cpu"]
    assert run_predict(photos, tmp_path / "clip.mp4", *options) == 3
    numbers = [number for number in range(10) if number != 4]
    names = [*RESULTS, "clip.mp4", *(f"{number}.png" for number in numbers)]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert cv2.VideoCapture(str(out / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 7
    assert set(ids_in(out)) <= {f"{number}.png" for number in numbers} | {f"clip.mp4/{index}" for index in range(7)}
    text = capsys.readouterr().out
    assert f"{len(ids_in(out))} in 9 images and 7 video frames" in text
    assert "4.png: the image is cut off" in text
    assert "unreadable    1 file\n" in text
    assert str(out / "predictions.json") in text


def test_the_command_says_that_nothing_reaches_the_threshold(tiny_run, photos, tmp_path, capsys):
    options = ["--weights", tiny_run / "best.pt", "--out", tmp_path / "out", "--conf", "1"]
    assert run_predict(photos / "1.png", *options) == 0
    assert "no detection reaches the confidence threshold; lower --conf" in capsys.readouterr().out


def test_after_ctrl_c_the_command_keeps_what_is_done(tiny_run, photos, tmp_path, capsys, monkeypatch):
    draw = Detections.draw

    def interrupt(detections, image, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(detections, image)

    monkeypatch.setattr(Detections, "draw", interrupt)
    out = tmp_path / "out"
    options = ["--weights", tiny_run / "best.pt", "--out", out, "--conf", "0.001", "--device", "cpu"]
    assert run_predict(photos, *options) == 130
    assert set(ids_in(out)) == {"0.png", "1.png", "2.png"}
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png", *RESULTS]
    assert "interrupted; the results up to here are saved" in capsys.readouterr().out


def test_the_command_classifies(shapes_run, tmp_path, capsys):
    save_video(tmp_path / "clip.mp4", 5)
    out = tmp_path / "out"
    assert run_predict(tmp_path / "clip.mp4", "--weights", shapes_run / "best.pt", "--out", out, "--top", 1) == 0
    elements = json.loads((out / "predictions.json").read_text())
    assert [element["frame"] for element in elements] == [0, 1, 2, 3, 4]
    assert all(len(element["classes"]) == 1 for element in elements)
    assert "classified    5 video frames" in capsys.readouterr().out
