import numpy as np
import pytest
import torch

from effdet.errors import ConfigError, WeightsError
from effdet.runtimes.exported import ExportedRuntime
from effdet.types import PostprocessOptions
from effdet.weights.checkpoint import load_checkpoint
from effdet.weights.exported import ExportCard

OPTIONS = PostprocessOptions(max_detections=3)


@pytest.fixture
def runtime_of(checkpoint):
    """Function that gives a runtime of a graph."""

    def make(graph, face="detections", batch_size=1):
        options = OPTIONS if face in ("detections", "coral") else None
        export = ExportCard(load_checkpoint(checkpoint).card, face, batch_size=batch_size, postprocess=options)
        return ExportedRuntime(graph, export, torch.device("cpu"), "model.onnx")

    return make


def images(batch, size=(64, 96)):
    return torch.arange(batch, dtype=torch.uint8)[:, None, None, None].expand(batch, 3, *size)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 8])
def test_any_number_of_images_goes_through_a_fixed_batch(runtime_of, batch_size):
    sizes = []

    def graph(pixels):
        sizes.append(len(pixels))
        assert pixels.shape[1:] == (64, 96, 3)
        return {"logits": pixels[:, 0, 0].astype(np.float32)}

    logits = runtime_of(graph, "logits", batch_size).logits(images(5))
    assert logits.tolist() == [[float(k)] * 3 for k in range(5)]
    assert sizes == {None: [5], 1: [1] * 5, 2: [2] * 3, 8: [8]}[batch_size]


def test_detections_below_the_threshold_or_above_the_number_are_cut(runtime_of, two_boxes):
    runtime = runtime_of(two_boxes)
    for options, number in (
        (OPTIONS, 2),
        (PostprocessOptions(score_threshold=0.5, max_detections=3), 1),
        (PostprocessOptions(max_detections=1), 1),
    ):
        assert [len(result) for result in runtime.detections(images(2), options)] == [number] * 2


@pytest.mark.parametrize("face", ["coral", "detections"])
def test_options_that_the_file_cannot_give_are_named(runtime_of, two_boxes, face):
    runtime = runtime_of(two_boxes, face)
    for options, message in (
        (PostprocessOptions(max_detections=100), "gives at most 3 detections of at least 0.001"),
        (PostprocessOptions(iou_threshold=0.3, max_detections=3), "iou_threshold is fixed to 0.5, got 0.3"),
    ):
        with pytest.raises(ConfigError, match=message):
            runtime.detections(images(1), options)


def changed(graph, **outputs):
    """A graph with other outputs; None leaves one out."""
    return lambda pixels: {name: values for name, values in {**graph(pixels), **outputs}.items() if values is not None}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"labels": np.int64([[3, 0, 0]])}, "labels that are none of its 3 classes"),
        ({"labels": np.int64([[-1, 0, 0]])}, "labels that are none of its 3 classes"),
        ({"boxes": np.full((1, 3, 4), np.nan, np.float32)}, "boxes of NaN or Inf"),
        ({"scores": None}, "do not fit the face 'detections'"),
        ({"boxes": np.zeros((1, 3, 5), np.float32)}, "do not fit the face 'detections'"),
        ({"counts": np.float32([2])}, "no integers"),
        ({"labels": np.int64([[1]])}, "do not fit the face 'detections'"),
        ({"counts": np.int64([[2]])}, "do not fit the face 'detections'"),
        ({"counts": np.int64([2, 2])}, "another number of images"),
        ({"counts": np.int64(2)}, "another number of images"),
    ],
)
def test_outputs_that_do_not_fit_the_metadata_are_refused(runtime_of, two_boxes, outputs, message):
    with pytest.raises(WeightsError, match=message):
        runtime_of(changed(two_boxes, **outputs)).detections(images(1), OPTIONS)


@pytest.mark.parametrize("classes", [2, 4])
def test_logits_of_another_number_of_classes_are_refused(runtime_of, classes):
    with pytest.raises(WeightsError, match="do not fit the face 'logits' of a model with 3 classes"):
        runtime_of(lambda pixels: {"logits": np.zeros((1, classes), np.float32)}, "logits").logits(images(1))


def test_a_negative_count_is_no_detection(runtime_of, two_boxes):
    (result,) = runtime_of(changed(two_boxes, counts=np.int64([-1]))).detections(images(1), OPTIONS)
    assert len(result) == 0


def test_an_error_of_a_graph_names_the_file(runtime_of):
    def graph(pixels):
        raise TypeError("no such kernel")

    with pytest.raises(WeightsError, match=r"model\.onnx: cannot run on images .*: no such kernel"):
        runtime_of(graph).detections(images(1), OPTIONS)


def test_images_of_another_size_are_refused(runtime_of, two_boxes):
    with pytest.raises(ConfigError, match=r"model\.onnx: is fixed to images of 64 x 96 pixels, got 32 x 32"):
        runtime_of(two_boxes).detections(images(1, (32, 32)), OPTIONS)


def test_features_are_not_predictions(runtime_of):
    runtime = runtime_of(lambda pixels: {}, "features")
    with pytest.raises(ConfigError, match=r"has the face 'features', .* --face detections or raw"):
        runtime.detections(images(1), OPTIONS)
    with pytest.raises(ConfigError, match=r"has the face 'features', .* --face logits"):
        runtime.logits(images(1))
