import argparse
import csv
import json
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdet.cli import predict
from effdet.data.images import letterbox, read_image, undo_letterbox
from effdet.data.resize import classification_view
from effdet.errors import ConfigError, DataError, WeightsError
from effdet.inference.predictor import Predictor
from effdet.inference.sources import Frame
from effdet.models import ModelOptions, make_spec
from effdet.postprocess import postprocess
from effdet.structures import Classification
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import load_checkpoint, save_checkpoint

NAMES, IDS = ("red", "white", "platelet"), (3, 7, 90)
SIZES = ((60, 90), (200, 80), (128, 128), (33, 301), (90, 60))
THRESHOLD = 0.4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small detector with random weights that finds a few objects at a score of `THRESHOLD`."""
    torch.manual_seed(0)
    model = make_spec(ModelOptions("efficientdet_lite0", image_size=(128, 128))).build(3).eval()
    state = model.state_dict()
    with torch.inference_mode():
        logits = model(torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)).class_logits
    bias = next(key for key in state if key.startswith("class_head") and state[key].shape == (27,))
    state[bias] = state[bias] - logits.flatten().topk(200).values[-1]
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    save_checkpoint(path, state, ModelCard(model.spec, NAMES, IDS))
    return path


def random_images(sizes=SIZES):
    rng = np.random.default_rng(0)
    return [
        cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
        for size in sizes
    ]


def save_images(folder, images):
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return [folder / f"{number}.png" for number in range(len(images))]


def assert_same(first, second):
    assert torch.equal(first.labels, second.labels)
    torch.testing.assert_close(first.boxes, second.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(first.scores, second.scores, atol=1e-5, rtol=1e-4)


def run_tool(*arguments):
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    return predict.run(parser.parse_args([str(argument) for argument in arguments]))


def test_detections_are_those_of_the_parts_put_together_by_hand(weights):
    predictor, model = Predictor(weights, "cpu", score_threshold=THRESHOLD), load_checkpoint(weights).model
    for image, found in zip(random_images(), predictor(random_images()), strict=True):
        pixels, scale = letterbox(image, (128, 128), model.spec.fill_color)
        with torch.inference_mode():
            outputs = model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        (expected,) = postprocess(outputs, score_threshold=THRESHOLD)
        expected = replace(expected, boxes=undo_letterbox(expected.boxes, scale, image.shape[:2]))
        assert len(found) > 0
        assert_same(found, expected)


def test_paths_and_arrays_of_mixed_sizes_give_the_same_in_any_batch(weights, tmp_path):
    images = random_images()
    alone = list(Predictor(weights, "cpu", score_threshold=THRESHOLD, batch_size=1)(images))
    together = list(
        Predictor(weights, "cpu", score_threshold=THRESHOLD)([*save_images(tmp_path, images[:3]), *images[3:]])
    )
    assert len(alone) == len(together) == len(images)
    for first, second in zip(alone, together, strict=True):
        assert_same(first, second)


def test_boxes_are_in_the_image_and_names_are_known(weights):
    for image, found in zip(
        random_images(), Predictor(weights, score_threshold=THRESHOLD)(random_images()), strict=True
    ):
        height, width = image.shape[:2]
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([width, height, width, height])).all()
        assert found.names == [NAMES[label] for label in found.labels.tolist()]
        assert (found.scores >= THRESHOLD).all()


def test_detections_may_be_changed_in_place(weights):
    (found,) = Predictor(weights, score_threshold=THRESHOLD)(random_images()[:1])
    found.boxes[:, 2:] -= found.boxes[:, :2]
    found.scores.mul_(100)


def test_a_single_path_or_array_is_one_image(weights, tmp_path):
    (image,) = random_images()[:1]
    (path,) = save_images(tmp_path, [image])
    predictor = Predictor(weights, score_threshold=THRESHOLD)
    for single in (path, str(path), image):
        assert len(list(predictor(single))) == 1
    assert list(predictor([])) == []


def test_an_unreadable_image_raises_after_those_before_it(weights, tmp_path):
    paths = [*save_images(tmp_path, random_images()[:2]), tmp_path / "missing.png"]
    results = Predictor(weights)(paths)
    next(results)
    next(results)
    with pytest.raises(DataError, match=r"missing\.png"):
        next(results)


def test_an_array_of_another_type_is_refused(weights):
    for array in (np.zeros((4, 4)), np.zeros((1, 4, 4, 3), np.float32), [np.zeros((4, 4, 3))]):
        with pytest.raises(DataError, match="expected uint8 RGB"):
            list(Predictor(weights)(array))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_long_video_is_taken_two_batches_at_a_time(weights, batch_size):
    """Frames taken from the stream never run more than the present and the next batch ahead of those given back."""
    taken = 0

    def stream():
        nonlocal taken
        for index in range(40):
            taken += 1
            yield Frame(np.zeros((16, 16, 3), np.uint8), Path("clip.mp4"), Path("clip.mp4"), index, 25.0)

    given = 0
    for frame, _ in Predictor(weights, batch_size=batch_size).predict_frames(stream()):
        assert frame.index == given
        assert taken - given <= 2 * batch_size
        given += 1
    assert given == 40


def test_leaving_early_ends_the_reading_thread(weights):
    frames = (Frame(np.zeros((16, 16, 3), np.uint8), Path("a"), Path("a"), i, 25.0) for i in range(1000))
    results = Predictor(weights).predict_frames(frames)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("frames")]
    assert next(frames).index <= 9


def test_overrides_come_before_what_the_checkpoint_says(weights):
    (image,) = random_images()[:1]
    (all_found,) = Predictor(weights, score_threshold=THRESHOLD, iou_threshold=1.0)(image)
    (few,) = Predictor(weights, score_threshold=THRESHOLD, iou_threshold=1.0, max_detections=2)(image)
    (agnostic,) = Predictor(weights, score_threshold=THRESHOLD, nms="agnostic", iou_threshold=0.1)(image)
    (soft,) = Predictor(weights, score_threshold=THRESHOLD, nms="soft")(image)
    assert len(few) == 2
    assert len(agnostic) < len(all_found)
    assert soft.scores.sum() < all_found.scores.sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score_threshold": 1.5}, "'postprocess.score_threshold' is 1.5"),
        ({"nms": "hard"}, "'postprocess.nms' is 'hard'"),
        ({"max_detections": 0}, "'postprocess.max_detections' is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    ],
)
def test_an_argument_out_of_range_is_named(weights, arguments, message):
    with pytest.raises(ConfigError, match=message):
        Predictor(weights, **arguments)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "best.pt").write_text("hello")
    with pytest.raises(WeightsError, match=r"best\.pt"):
        Predictor(tmp_path / "best.pt")


def test_the_tool_writes_pictures_results_and_table(weights, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    images = random_images()
    save_images(photos, images)
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for value in range(7):
        video.write(np.full((48, 64, 3), value * 20, np.uint8))
    video.release()
    assert run_tool(photos, tmp_path / "clip.mp4", "--weights", weights, "--out", out, "--conf", THRESHOLD) == 0

    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["predictions.json", "predictions.csv", "clip.mp4", *(f"{number}.png" for number in range(len(images)))]
    )
    assert read_image(out / "1.png").shape == images[1].shape
    assert cv2.VideoCapture(str(out / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 7
    rows = json.loads((out / "predictions.json").read_text())
    assert {row["category_id"] for row in rows} <= set(IDS)
    found = list(Predictor(weights, score_threshold=THRESHOLD)(images))
    for number, detections in enumerate(found):
        assert sum(row["image_id"] == number for row in rows) == len(detections)
    with (out / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    text = capsys.readouterr().out
    assert f"{len(rows)} in {len(images) + 7} images" in text
    assert str(out / "predictions.json") in text


def test_the_tool_reports_unreadable_files_and_goes_on(weights, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    save_images(photos, random_images()[:3])
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:50])
    assert run_tool(photos, "--weights", weights, "--out", out, "--no-images") == 1
    assert sorted(path.name for path in out.iterdir()) == ["predictions.csv", "predictions.json"]
    text = capsys.readouterr().out
    assert "1.png: the image is cut off" in text
    assert "in 2 images" in text


def test_the_tool_needs_a_folder_that_can_be_written(weights, tmp_path):
    (tmp_path / "out").write_text("a file")
    (path,) = save_images(tmp_path, random_images()[:1])
    with pytest.raises(DataError, match=r"out: cannot be written"):
        run_tool(path, "--weights", weights, "--out", tmp_path / "out")


def test_after_ctrl_c_the_tool_keeps_what_is_done(weights, tmp_path, capsys, monkeypatch):
    def interrupt(image, detections, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return image

    monkeypatch.setattr("effdet.inference.drawing.draw_detections", interrupt)
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    save_images(photos, random_images())
    assert run_tool(photos, "--weights", weights, "--out", out, "--conf", THRESHOLD) == 130
    assert {row["image_id"] for row in json.loads((out / "predictions.json").read_text())} == {0, 1, 2}
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png", "predictions.csv", "predictions.json"]
    assert "interrupted" in capsys.readouterr().out


# Classifiers


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A small classifier of seven classes with random weights whose answers differ from image to image."""
    torch.manual_seed(0)
    spec = replace(make_spec(ModelOptions("efficientnet_lite0", image_size=(64, 96), norm_momentum=1.0)), crop=0.8)
    model = spec.build(7)
    with torch.no_grad():
        model(torch.randint(0, 256, (8, 3, 64, 96), dtype=torch.uint8))  # norms know their features
    path = tmp_path_factory.mktemp("weights") / "classifier.pt"
    names = tuple(f"class {label}" for label in range(7))
    save_checkpoint(path, model.state_dict(), ModelCard(spec, names, tuple(range(10, 17))))
    return path


def test_classes_are_those_of_the_parts_put_together_by_hand(classifier):
    predictor, model = Predictor(classifier, "cpu"), load_checkpoint(classifier).model
    assert (predictor.task, predictor.image_size) == ("classification", (64, 96))
    found = list(predictor(random_images()))
    assert len({tuple(told.labels.tolist()) for told in found}) > 1
    for image, told in zip(random_images(), found, strict=True):
        pixels = classification_view(image, (64, 96), 0.8, "bicubic")
        with torch.inference_mode():
            probabilities = model(torch.from_numpy(pixels).permute(2, 0, 1)[None]).double().softmax(1)[0].tolist()
        best = sorted(range(7), key=lambda label: -probabilities[label])[:5]
        assert isinstance(told, Classification)
        assert told.labels.tolist() == best
        assert told.names == [f"class {label}" for label in best]
        assert told.scores.tolist() == pytest.approx([probabilities[label] for label in best], abs=1e-4)


def test_classes_are_the_same_in_any_batch(classifier, tmp_path):
    images = random_images()
    alone = list(Predictor(classifier, "cpu", batch_size=1)(images))
    together = list(Predictor(classifier, "cpu")([*save_images(tmp_path, images[:3]), *images[3:]]))
    for first, second in zip(alone, together, strict=True):
        assert first.labels.equal(second.labels)
        torch.testing.assert_close(first.scores, second.scores, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("top", "told"), [(1, 1), (3, 3), (7, 7), (100, 7)])
def test_as_many_classes_are_told_as_asked_for(classifier, top, told):
    (found,) = Predictor(classifier, "cpu", top=top)(random_images()[0])
    assert len(found) == told
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_settings_of_the_other_task_are_refused(weights, classifier):
    with pytest.raises(ConfigError, match=r"^top is for classifiers, but .*best\.pt is a detector; leave it out"):
        Predictor(weights, top=3)
    with pytest.raises(
        ConfigError,
        match=r"^settings of detections \(score_threshold, iou_threshold\) are for detectors, but .*r\.pt is a",
    ):
        Predictor(classifier, score_threshold=0.5, iou_threshold=0.5)
    with pytest.raises(ConfigError, match=r"top is 0; expected at least 1"):
        Predictor(classifier, top=0)


def test_an_unknown_name_of_weights_is_refused():
    with pytest.raises(
        WeightsError, match=r"no public weights are called 'efficientdet_d9'; did you mean efficientdet_d"
    ):
        Predictor("efficientdet_d9")


def test_a_folder_in_the_place_of_weights_is_refused_with_its_file(weights):
    with pytest.raises(WeightsError, match=rf"{weights.parent} is a folder; .* such as {weights}"):
        Predictor(weights.parent)


def test_classes_of_a_video_are_told_frame_by_frame(classifier, tmp_path, capsys):
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for value in range(5):
        video.write(np.full((48, 64, 3), value * 50, np.uint8))
    video.release()
    assert run_tool(tmp_path / "clip.mp4", "--weights", classifier, "--out", tmp_path / "out", "--top", 1) == 0
    rows = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [row["frame"] for row in rows] == [0, 1, 2, 3, 4]
    assert all(10 <= row["classes"][0]["class_id"] < 17 for row in rows)
    assert cv2.VideoCapture(str(tmp_path / "out/clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert "classified    5 images and video frames" in capsys.readouterr().out


class Picture:
    """Some other kind of image."""


@pytest.mark.parametrize("given", [Picture(), [Picture()], None, 3, b"\xff\xd8"])
def test_what_is_neither_a_path_nor_an_array_is_told(weights, given):
    with pytest.raises(DataError, match=r"an image is a .*; give its path, or an array such as numpy.asarray"):
        list(Predictor(weights, "cpu")(given))
