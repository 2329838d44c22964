import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdet.boxes import clip_boxes
from effdet.data.letterbox import letterbox, undo_letterbox
from effdet.data.resize import classification_view, resize
from effdet.errors import ConfigError, DataError, WeightsError
from effdet.inference.predictor import Predictor
from effdet.inference.sources import Frame, open_sources, read_frames
from effdet.models import ModelOptions, make_spec
from effdet.postprocess import postprocess
from effdet.runtimes.opening import ModelFile
from effdet.structures import Classification, Detections
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import load_checkpoint, save_checkpoint

NAMES, IDS = ("red", "white", "platelet"), (3, 7, 90)
SIZES = ((60, 90), (200, 80), (128, 128), (33, 301), (90, 60))
THRESHOLD = 0.4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small detector with random weights that detects a few objects at a confidence threshold of `THRESHOLD`."""
    torch.manual_seed(0)
    model = make_spec(ModelOptions("efficientdet_lite0", image_size=(128, 128), depth=0.2)).build(3).eval()
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


def test_detections_are_those_of_letterbox_model_and_postprocessing_called_by_hand(weights):
    predictor, model = Predictor(weights, "cpu", score_threshold=THRESHOLD), load_checkpoint(weights).model
    for image, result in zip(random_images(), predictor(random_images()), strict=True):
        pixels, scale = letterbox(image, (128, 128), model.spec.fill_color, model.spec.antialias, "pad")
        with torch.inference_mode():
            outputs = model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        (expected,) = postprocess(outputs, PostprocessOptions(score_threshold=THRESHOLD))
        expected = replace(expected, boxes=undo_letterbox(expected.boxes, scale, image.shape[:2]))
        assert len(result) > 0
        assert_same(result, expected)


def test_a_stretching_detector_sees_stretched_images_and_gives_boxes_of_the_originals(weights, tmp_path):
    model, card = load_checkpoint(weights).model, load_checkpoint(weights).card
    file = tmp_path / "stretch.pt"
    save_checkpoint(file, model.state_dict(), replace(card, spec=replace(card.spec, letterbox="stretch")))
    predictor = Predictor(file, "cpu", score_threshold=THRESHOLD)
    for image, result in zip(random_images(), predictor(random_images()), strict=True):
        pixels = resize(image, (128, 128), "bilinear", card.spec.antialias)
        with torch.inference_mode():
            outputs = model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        (expected,) = postprocess(outputs, PostprocessOptions(score_threshold=THRESHOLD))
        height, width = image.shape[:2]
        boxes = expected.boxes * torch.tensor([width, height, width, height]) / 128
        assert_same(result, replace(expected, boxes=clip_boxes(boxes, (height, width))))


def test_paths_and_arrays_of_mixed_sizes_give_the_same_in_any_batch(weights, tmp_path):
    images = random_images()
    alone = Predictor(weights, "cpu", score_threshold=THRESHOLD, batch_size=1)(images)
    together = Predictor(weights, "cpu", score_threshold=THRESHOLD)([*save_images(tmp_path, images[:3]), *images[3:]])
    assert len(alone) == len(together) == len(images)
    for first, second in zip(alone, together, strict=True):
        assert_same(first, second)


def test_boxes_are_in_the_image_and_names_are_known(weights):
    for image, result in zip(
        random_images(), Predictor(weights, score_threshold=THRESHOLD)(random_images()), strict=True
    ):
        height, width = image.shape[:2]
        assert (result.boxes >= 0).all()
        assert (result.boxes <= torch.tensor([width, height, width, height])).all()
        assert result.names == [NAMES[label] for label in result.labels.tolist()]
        assert (result.scores >= THRESHOLD).all()


def test_detections_may_be_changed_in_place(weights):
    result = Predictor(weights, score_threshold=THRESHOLD)(random_images()[0])
    result.boxes[:, 2:] -= result.boxes[:, :2]
    result.scores.mul_(100)


def test_one_image_gives_one_result_and_a_list_gives_a_list(weights, tmp_path):
    (image,) = random_images()[:1]
    (path,) = save_images(tmp_path, [image])
    predictor = Predictor(weights, score_threshold=THRESHOLD)
    expected = predictor(image)
    assert isinstance(expected, Detections)
    for single in (path, str(path), path.read_bytes()):
        assert_same(predictor(single), expected)
    for several in ([path], (path,), iter([path]), image[None]):
        results = predictor(several)
        assert isinstance(results, list)
        assert_same(*results, expected)
    assert predictor([]) == []


def test_a_stream_is_computed_when_asked_for(weights):
    predictor, read = Predictor(weights, score_threshold=THRESHOLD, batch_size=1), []

    def images():
        for number, image in enumerate(random_images() * 3):
            read.append(number)
            yield image

    stream = predictor.stream(images())
    assert read == []
    next(stream)
    assert len(read) <= 2
    assert 1 + len(list(stream)) == len(read) == 15


def test_results_of_a_call_draw_on_their_images_and_those_of_a_stream_do_not(weights, tmp_path):
    (image,) = random_images()[:1]
    (path,) = save_images(tmp_path, [image])
    predictor = Predictor(weights, score_threshold=THRESHOLD)
    expected = predictor(path).draw()
    assert (expected != image).any()
    for given in (image, torch.from_numpy(image), path.read_bytes()):
        assert (predictor(given).draw() == expected).all()
    (streamed,) = predictor.stream([path])
    with pytest.raises(DataError, match=r"no image to draw on: .* pass it, as in result.draw\(image\)"):
        streamed.draw()
    assert (streamed.draw(image) == expected).all()


def test_results_hold_no_decoded_pixels(weights, tmp_path):
    paths = save_images(tmp_path, random_images())
    for path, result in zip(paths, Predictor(weights)(paths), strict=True):
        assert result.load_image.args == (path, None)


def test_an_unreadable_image_raises_after_those_before_it(weights, tmp_path):
    paths = [*save_images(tmp_path, random_images()[:2]), tmp_path / "missing.png"]
    results = Predictor(weights).stream(paths)
    next(results)
    next(results)
    with pytest.raises(DataError, match=r"missing\.png"):
        next(results)
    with pytest.raises(DataError, match=r"missing\.png"):
        Predictor(weights)(paths)


def test_an_array_of_another_type_is_refused(weights):
    for array in (np.zeros((4, 4, 7)), np.full((4, 4, 3), 200.0), np.zeros((4, 4, 3), complex)):
        with pytest.raises(DataError, match="image in memory"):
            Predictor(weights)(array)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_at_most_two_batches_of_a_long_video_are_in_memory(weights, batch_size):
    """Frames read from the stream are at most the current and the next batch ahead of the results."""
    read = 0

    def stream():
        nonlocal read
        for index in range(12):
            read += 1
            yield Frame(
                np.zeros((16, 16, 3), np.uint8), Path("clip.mp4"), Path("clip.mp4"), f"clip.mp4/{index}", index, 25.0
            )

    given = 0
    for frame, _ in Predictor(weights, batch_size=batch_size).predict_frames(stream()):
        assert frame.index == given
        assert read - given <= 2 * batch_size
        given += 1
    assert given == 12


def test_leaving_early_ends_the_reading_thread(weights):
    frames = (Frame(np.zeros((16, 16, 3), np.uint8), Path("a"), Path("a"), "a", i, 25.0) for i in range(1000))
    results = Predictor(weights).predict_frames(frames)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("frames")]
    assert next(frames).index <= 9


def test_arguments_override_the_settings_in_the_checkpoint(weights):
    (image,) = random_images()[:1]
    everything = Predictor(weights, score_threshold=THRESHOLD, iou_threshold=1.0)(image)
    few = Predictor(weights, score_threshold=THRESHOLD, iou_threshold=1.0, max_detections=2)(image)
    agnostic = Predictor(weights, score_threshold=THRESHOLD, nms="agnostic", iou_threshold=0.1)(image)
    soft = Predictor(weights, score_threshold=THRESHOLD, nms="soft")(image)
    assert len(few) == 2
    assert len(agnostic) < len(everything)
    assert soft.scores.sum() < everything.scores.sum()


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


def test_settings_in_the_checkpoint_are_used_but_for_the_confidence_threshold(weights, tmp_path):
    checkpoint = load_checkpoint(weights)
    card = replace(checkpoint.card, postprocess={"score_threshold": 0.0, "iou_threshold": 1.0, "max_detections": 7})
    save_checkpoint(tmp_path / "a.pt", checkpoint.model.state_dict(), card)
    (image,) = random_images()[:1]
    expected = Predictor(weights, score_threshold=0.3, iou_threshold=1.0, max_detections=7)(image)
    assert_same(Predictor(tmp_path / "a.pt")(image), expected)


# Classifiers


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A small classifier of seven classes with random weights whose answers differ from image to image."""
    torch.manual_seed(0)
    spec = replace(make_spec(ModelOptions("efficientnet_lite0", image_size=(64, 96), norm_momentum=1.0)), crop=0.8)
    model = spec.build(7)
    with torch.no_grad():
        model(
            torch.randint(0, 256, (8, 3, 64, 96), dtype=torch.uint8)
        )  # BatchNorm layers learn the statistics of their features
    path = tmp_path_factory.mktemp("weights") / "classifier.pt"
    names = tuple(f"class {label}" for label in range(7))
    save_checkpoint(path, model.state_dict(), ModelCard(spec, names, tuple(range(10, 17))))
    return path


def test_classes_are_those_of_resizing_model_and_softmax_called_by_hand(classifier):
    predictor, model = Predictor(classifier, "cpu"), load_checkpoint(classifier).model
    assert (predictor.task, predictor.image_size) == ("classification", (64, 96))
    results = predictor(random_images())
    assert len({tuple(result.labels.tolist()) for result in results}) > 1
    for image, result in zip(random_images(), results, strict=True):
        pixels = classification_view(image, (64, 96), 0.8, "bicubic")
        with torch.inference_mode():
            probabilities = model(torch.from_numpy(pixels).permute(2, 0, 1)[None]).double().softmax(1)[0].tolist()
        best = sorted(range(7), key=lambda label: -probabilities[label])[:5]
        assert isinstance(result, Classification)
        assert result.labels.tolist() == best
        assert result.names == [f"class {label}" for label in best]
        assert result.scores.tolist() == pytest.approx([probabilities[label] for label in best], abs=1e-4)


def test_classes_are_the_same_in_any_batch(classifier, tmp_path):
    images = random_images()
    alone = Predictor(classifier, "cpu", batch_size=1)(images)
    together = Predictor(classifier, "cpu")([*save_images(tmp_path, images[:3]), *images[3:]])
    for first, second in zip(alone, together, strict=True):
        assert first.labels.equal(second.labels)
        torch.testing.assert_close(first.scores, second.scores, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("top", "number"), [(1, 1), (3, 3), (7, 7), (100, 7)])
def test_there_are_at_most_top_classes(classifier, top, number):
    result = Predictor(classifier, "cpu", top=top)(random_images()[0])
    assert len(result) == number
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)


def test_settings_of_the_other_task_are_refused(weights, classifier):
    with pytest.raises(ConfigError, match=r"^top is for classifiers, but .*best\.pt is a detector; leave it out"):
        Predictor(weights, top=3)
    with pytest.raises(
        ConfigError,
        match=r"^score_threshold, iou_threshold are for detectors, but .*r\.pt is a classifier; leave them out",
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


def test_classes_of_a_video_are_given_frame_by_frame(classifier, tmp_path):
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for value in range(5):
        video.write(np.full((48, 64, 3), value * 50, np.uint8))
    video.release()
    frames = read_frames(open_sources([tmp_path / "clip.mp4"]))
    results = list(Predictor(classifier, "cpu", top=1).predict_frames(frames))
    assert [frame.index for frame, _ in results] == [0, 1, 2, 3, 4]
    assert all(len(result) == 1 for _, result in results)


class Picture:
    """Some other kind of image."""


@pytest.mark.parametrize("given", [Picture(), [Picture()], None, 3])
def test_what_is_no_image_is_refused(weights, given):
    with pytest.raises(DataError, match=r"an image is a .*; expected a path, bytes, a PIL image, an RGB array"):
        Predictor(weights, "cpu")(given)


class FixedRuntime:
    """A runtime of somebody else: always the same two boxes."""

    device, image_size = torch.device("cpu"), (128, 128)

    def detections(self, images, options):
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 128, 128)
        boxes = torch.tensor([[0.0, 0, 64, 64], [64, 64, 128, 128]])
        return [Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 2])) for _ in images]


def test_another_runtime_needs_nothing_but_images_to_detections(weights, monkeypatch):
    card = load_checkpoint(weights).card
    model = ModelFile(card, lambda device, precision: FixedRuntime())
    monkeypatch.setattr("effdet.inference.predictor.open_model", lambda weights, threads, metadata: model)
    result = Predictor("model.other")(np.zeros((256, 256, 3), np.uint8))
    assert result.names == ["red", "platelet"]
    assert result.boxes.tolist() == [[0, 0, 128, 128], [128, 128, 256, 256]]
