import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdet.cli import main
from effdet.data.video import read_video
from effdet.models import ModelOptions, make_spec
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small detector with random weights."""
    torch.manual_seed(0)
    model = make_spec(ModelOptions("efficientdet_lite0", image_size=(64, 64))).build(2)
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    save_checkpoint(path, model.state_dict(), ModelCard(model.spec, ("red", "blue"), (1, 2)))
    return path


@pytest.fixture
def predict(weights, capsys):
    """A function that runs the command; gives its exit status and what it printed."""

    def run(*arguments):
        options = ["--weights", str(weights), "--device", "cpu", "--conf", "0.001", "--max-det", "2"]
        status = main(["predict", *map(str, arguments), *options])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def save_image(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((40, 60, 3), value, np.uint8))
    return path


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder with four images; the working directory is its parent."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        save_image(tmp_path / f"photos/{number}.jpg", 50 * number)
    return Path("photos")


def pictures_in(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.suffix in (".jpg", ".png", ".mp4"))


def files_with_objects(folder):
    return {row["file_name"] for row in json.loads((Path(folder) / "predictions.json").read_text())}


def test_an_empty_video_in_a_folder_is_reported_and_the_photos_are_predicted(photos, predict):
    (photos / "clip.mp4").touch()
    status, text = predict(photos)
    assert status == 3
    assert "predict 4 images into runs/predict\n" in text
    assert "photos/clip.mp4: the file is empty; expected a video" in text
    assert "in 4 images\n" in text
    assert "unreadable    1 file\n" in text
    assert pictures_in("runs/predict") == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_typescript_among_photos_is_passed_over_and_counted(photos, predict):
    (photos / "index.ts").write_text("export const a = 1;\n")
    (photos / "notes.txt").write_text("notes")
    status, text = predict(photos)
    assert status == 0
    assert "passed over: 1 .ts, 1 .txt\n" in text
    assert "in 4 images\n" in text


def test_the_output_does_not_become_input(photos, predict):
    for run in range(3):
        status, text = predict(photos, "--out", photos / "out", *["--overwrite"] * (run > 0))
        assert status == 0
        assert "in 4 images\n" in text
        assert pictures_in(photos / "out") == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
        assert ("left out: 4 files in photos/out, an output folder\n" in text) == (run > 0)
        assert len(files_with_objects(photos / "out")) == 4


def test_without_out_every_prediction_has_a_folder_of_its_own(photos, predict):
    for number, folder in enumerate(["runs/predict", "runs/predict-2", "runs/predict-3"]):
        status, text = predict(".")
        assert status == 0
        assert f"predict 4 images into {folder}\n" in text
        assert text.count("left out: 4 files in runs/predict") == number
        assert pictures_in(f"{folder}/photos") == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_earlier_results_are_not_overwritten_without_a_word(photos, predict):
    predict(photos / "0.jpg", "--out", "out")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    status, text = predict(photos / "1.jpg", "--out", "out")
    assert status == 1
    assert "error: out: holds 3 files that would be overwritten, such as predictions.json; " in text
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert predict(photos / "1.jpg", "--out", "out", "--overwrite")[0] == 0
    assert pictures_in("out") == ["1.jpg"]
    assert files_with_objects("out") == {"photos/1.jpg"}


def test_every_picture_is_listed_with_its_source(photos, predict):
    save_image(photos / "0.gif")
    save_image(photos / "0.png")
    predict("photos/0.*", "--out", "out")
    with Path("out/pictures.csv").open(newline="") as file:
        rows = [(row["file_name"], row["picture"]) for row in csv.DictReader(file)]
    assert dict(rows)["photos/0.png"] == "0.png"
    assert sorted(picture for _, picture in rows) == pictures_in("out")
    predict("photos/0.*", "--out", "other", "--no-images")
    assert sorted(path.name for path in Path("other").iterdir()) == ["predictions.csv", "predictions.json"]


def test_a_recording_of_a_browser_keeps_its_length_and_sound(draw_video, photos, predict):
    times = [0.0, 0.03, 0.07, 0.5, 1.2, 3.1]
    draw_video("rec.webm", times, codec="libvpx", sound="libopus", container_options={"live": "1"})
    status, text = predict("rec.webm", photos, "--out", "out")
    assert status == 0
    assert "predict 4 images and 1 video into out\n" in text
    assert "in 4 images and 6 video frames\n" in text
    written = [time for time, _ in read_video(Path("out/rec.mp4"))]
    assert [time - written[0] for time in written] == pytest.approx(times, abs=2e-3)
    with Path("out/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted({float(row["time"]) for row in rows if row["frame"]}) == pytest.approx(written, abs=2e-3)
    assert {row["time"] for row in rows if not row["frame"]} == {""}


def test_sound_that_is_left_out_is_noted(draw_video, photos, predict):
    draw_video("clip.mkv", [0.0, 0.1], sound="pcm_s16le")
    status, text = predict("clip.mkv", "--out", "out")
    assert status == 0
    assert "out/clip.mp4: without sound, because an MP4 cannot hold sound of the codec pcm_s16le\n" in text
