import zipfile

import pytest
import torch

from effdet.errors import ConfigError, WeightsError
from effdet.exporting.program_file import store_card, suppress, write_program
from effdet.postprocess import Candidates, hard_nms
from effdet.runtimes.opening import open_model
from effdet.types import PostprocessOptions
from effdet.weights.checkpoint import load_checkpoint
from effdet.weights.exported import ExportCard

CPU = torch.device("cpu")


@pytest.mark.parametrize("nms", ["class", "agnostic"])
@pytest.mark.parametrize("most", [3, 100])
def test_nms_of_a_batch_is_that_of_each_image(nms, most):
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(4, 60, 2, generator=rng) * 80
    boxes = torch.cat([corners, corners + 10 + 40 * torch.rand(4, 60, 2, generator=rng)], 2)
    scores = torch.rand(4, 60, generator=rng).sort(1, descending=True).values
    scores[1, 20:], scores[2] = 0, 0  # candidates below the threshold
    labels = torch.randint(0, 3, (4, 60), generator=rng)
    options = PostprocessOptions(nms=nms, max_detections=most)
    result = suppress(boxes, scores, labels, options)
    for image in range(4):
        valid = scores[image] > 0
        candidates = Candidates(boxes[image][valid], scores[image][valid], labels[image][valid])
        expected = hard_nms(candidates, 0.5, most, within_class=nms == "class")
        count = int(result[3][image])
        assert count == len(expected)
        for values, wanted in zip(result[:3], (expected.boxes, expected.scores, expected.labels), strict=True):
            assert values.shape[:2] == (4, most)
            assert values[image, :count].equal(wanted)
            assert not values[image, count:].any()


@pytest.fixture(scope="module")
def dynamic(detector, tmp_path_factory):
    """A program with detections for any number of images."""
    checkpoint, path = load_checkpoint(detector), tmp_path_factory.mktemp("program") / "best.pt2"
    options = PostprocessOptions(score_threshold=0.2, max_detections=50)
    write_program(checkpoint.model, ExportCard(checkpoint.card, "detections", "float32", None, options), path)
    return path


def test_a_program_for_any_batch_gives_the_detections_of_pytorch(detector, dynamic):
    program, pytorch = (open_model(path).start(CPU, "auto") for path in (dynamic, detector))
    options = PostprocessOptions(score_threshold=0.2, max_detections=50)
    for batch in (1, 2, 3):
        images = torch.randint(0, 256, (batch, 3, 128, 128), dtype=torch.uint8)
        for actual, expected in zip(
            program.detections(images, options), pytorch.detections(images, options), strict=True
        ):
            assert len(actual) > 10
            assert actual.labels.equal(expected.labels)
            torch.testing.assert_close(actual.boxes, expected.boxes, atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(actual.scores, expected.scores, atol=1e-5, rtol=1e-4)


def test_its_card_is_replaced_and_the_program_stays(dynamic, tmp_path):
    path = tmp_path / "copy.pt2"
    path.write_bytes(dynamic.read_bytes())
    before = open_model(path).start(CPU, "auto")
    store_card(path, before.export.with_certificate({"date": "today"}))
    after = open_model(path).start(CPU, "auto")
    assert after.export.certificate == {"date": "today"}
    images = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    assert all(values.equal(after.outputs(images)[name]) for name, values in before.outputs(images).items())


def test_features_of_a_backbone_are_a_program(detector, tmp_path):
    checkpoint = load_checkpoint(detector)
    write_program(checkpoint.model, ExportCard(checkpoint.card, "features"), tmp_path / "backbone.pt2")
    runtime = open_model(tmp_path / "backbone.pt2").start(CPU, "auto")
    images = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    with torch.inference_mode():
        expected = checkpoint.model.backbone.features(images)
    for name, values in zip(("c3", "c4", "c5"), expected, strict=True):
        torch.testing.assert_close(runtime.outputs(images)[name], values, atol=1e-4, rtol=1e-3)
    with pytest.raises(ConfigError, match="face 'features', whose outputs are features"):
        runtime.detections(images, PostprocessOptions())


def test_soft_nms_is_refused(detector, tmp_path):
    checkpoint = load_checkpoint(detector)
    export = ExportCard(checkpoint.card, "detections", postprocess=PostprocessOptions(nms="soft"))
    with pytest.raises(ConfigError, match="soft-NMS cannot be inside"):
        write_program(checkpoint.model, export, tmp_path / "best.pt2")


def test_a_damaged_program_is_refused(dynamic, tmp_path):
    (tmp_path / "a.pt2").write_bytes(dynamic.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"a\.pt2: not a program of torch.export, or damaged"):
        open_model(tmp_path / "a.pt2")
    with zipfile.ZipFile(dynamic) as old, zipfile.ZipFile(tmp_path / "b.pt2", "w") as new:
        for name in old.namelist():
            if not name.endswith("models/model.json"):
                new.writestr(name, old.read(name))
    with pytest.raises(WeightsError, match=r"b\.pt2: refused, because it has no models/model.json"):
        open_model(tmp_path / "b.pt2").start(CPU, "auto")
