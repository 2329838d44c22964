import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from effdet.errors import ConfigError, DataError, ExportError, WeightsError
from effdet.exporting import pipeline
from effdet.exporting.api import export
from effdet.exporting.calibration import calibration_images
from effdet.exporting.disk import disk_errors_named, folder_beside
from effdet.exporting.formats import FORMATS
from effdet.exporting.pipeline import content_hash, describe, output_path, resized
from effdet.inference.predictor import Predictor
from effdet.runtimes.opening import open_model
from effdet.types import PostprocessOptions
from effdet.weights.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The result of an export to a program."""
    return export(trained, "torch", output=tmp_path_factory.mktemp("exported"))


def described(weights, format_name="torch", face=None, batch_size=1, precision="float32", **options):
    return describe(load_checkpoint(weights), weights, format_name, face, batch_size, precision, options)


def test_the_file_says_where_it_is_from_and_holds_its_certificate(exported, trained):
    assert exported.path.name == "best.pt2"
    runtime = open_model(exported.path).start(torch.device("cpu"), "auto")
    assert runtime.export == exported.export
    assert runtime.export.source == "best.pt"
    assert runtime.export.source_sha256 == content_hash(load_checkpoint(trained).model)
    assert runtime.export.certificate == json.loads(json.dumps(exported.certificate.to_dict()))
    assert exported.certificate.agrees
    assert exported.certificate.comparison.images == 4 + 3
    assert {"effdet", "torch", "torchvision"} <= runtime.export.versions.keys()


def test_thresholds_are_those_of_the_evaluation_unless_others_are_given(detector):
    assert described(detector).postprocess == PostprocessOptions(score_threshold=0.2, max_detections=50)
    assert described(detector, score_threshold=0.4).postprocess.score_threshold == 0.4
    assert described(detector, face="raw").postprocess is None


def test_thresholds_in_the_file_are_those_that_predictions_and_evaluations_start_from(trained):
    card = described(trained, score_threshold=0.4, iou_threshold=0.3).model
    assert card.postprocess["score_threshold"] == card.config["postprocess"]["score_threshold"] == 0.4
    assert card.postprocess["iou_threshold"] == card.config["postprocess"]["iou_threshold"] == 0.3


def test_predictions_of_the_file_are_those_of_the_checkpoint(exported, trained):
    image = torch.randint(0, 256, (3, 90, 60), dtype=torch.uint8)
    expected, actual = Predictor(trained, "cpu")(image), Predictor(exported.path, "cpu")(image)
    assert len(expected) > 0
    assert actual.labels.equal(expected.labels)
    torch.testing.assert_close(actual.boxes, expected.boxes, atol=1e-3, rtol=1e-4)


def test_precision_and_other_options_than_those_in_the_file_are_refused(exported):
    with pytest.raises(ConfigError, match=r"precision is fp16, but .* has its own, float32; leave it out"):
        Predictor(exported.path, "cpu", precision="fp16")
    for setting in ({"iou_threshold": 0.3}, {"nms": "agnostic"}, {"score_threshold": 0.1}, {"max_detections": 90}):
        with pytest.raises(ConfigError, match="--face raw"):
            Predictor(exported.path, "cpu", **setting)


def test_an_export_that_disagrees_leaves_nothing_behind(detector, tmp_path, monkeypatch):
    original = FORMATS["torch"]

    def write(model, card, path, calibration, show):
        wrong = resized(load_checkpoint(detector), (128, 128)).model
        with torch.no_grad():
            wrong.class_head.predict.pointwise.bias.mul_(1.01)
        return original.write(wrong, card, path, calibration, show)

    monkeypatch.setitem(FORMATS, "torch", original._replace(write=write))
    with pytest.raises(ExportError, match=r"(?s)best-raw\.pt2 is not written, because .*class_logits.*DIFFERS"):
        export(detector, "torch", face="raw", output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_leaves_an_older_file_as_it_is(detector, tmp_path, monkeypatch, capsys):
    (tmp_path / "best.pt2").write_text("older")

    def write(model, card, path, calibration, show):
        path.write_text("half")
        raise ExportError("no such operator")

    monkeypatch.setitem(FORMATS, "torch", FORMATS["torch"]._replace(write=write))
    with pytest.raises(ExportError, match="no such operator"):
        export(detector, "torch", output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt2"]
    assert (tmp_path / "best.pt2").read_text() == "older"
    assert f"writing {tmp_path / 'best.pt2'}, which replaces the file of that name" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "best.pt2"),
        ({"face": "raw"}, "best-raw.pt2"),
        ({"precision": "int8"}, "best-int8.pt2"),
        ({"face": "raw", "precision": "float16"}, "best-raw-float16.pt2"),
    ],
)
def test_face_and_precision_are_in_the_name_of_the_file(detector, changes, name):
    card = replace(described(detector), **changes)
    assert output_path(detector, card, FORMATS["torch"], "detections", None) == detector.parent / name
    assert str(output_path("efficientdet_d0", card, FORMATS["torch"], "detections", None)) == name.replace(
        "best", "efficientdet_d0"
    )


def test_a_name_of_another_format_is_refused(detector, tmp_path):
    with pytest.raises(ConfigError, match=r"best\.onnx: files of this format end in \.pt2"):
        output_path(detector, described(detector), FORMATS["torch"], "detections", tmp_path / "best.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"face": "logits"}, "face is 'logits', but a detector in the format torch has detections or raw or features"),
        ({"precision": "int8"}, "precision is 'int8', but the format torch has float32"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"score_threshold": 2.0}, "'postprocess.score_threshold' is 2.0"),
        ({"face": "raw", "iou_threshold": 0.3}, "iou_threshold: the face 'raw' has no NMS inside"),
    ],
)
def test_what_a_format_cannot_hold_is_named(detector, arguments, message):
    with pytest.raises(ConfigError, match=message):
        described(detector, **arguments)


def test_calibration_that_a_precision_does_not_use_is_refused(detector, tmp_path):
    with pytest.raises(ConfigError, match="but float32 has no calibration"):
        export(detector, "onnx", calibration=tmp_path)
    with pytest.raises(ConfigError, match="calibration_count is 0; expected at least 1"):
        export(detector, "onnx", precision="int8", calibration_count=0)


def test_an_older_file_is_never_left_beside_new_weights(detector, tmp_path, monkeypatch):
    for name in ("best.xml", "best.bin"):
        (tmp_path / name).write_text("older")
    replaced = os.replace

    def replace_weights_only(source, target):
        if Path(target) == tmp_path / "best.xml":
            raise OSError("the disk is gone")
        replaced(source, target)

    monkeypatch.setattr(pipeline.os, "replace", replace_weights_only)
    (tmp_path / "new").mkdir()
    for name in ("best.xml", "best.bin"):
        (tmp_path / "new" / name).write_text("newer")
    with pytest.raises(OSError, match="the disk is gone"):
        pipeline._move(tmp_path / "new" / "best.xml", tmp_path / "best.xml", FORMATS["openvino"])
    assert (tmp_path / "best.bin").read_text() == "newer"
    assert not (tmp_path / "best.xml").exists()


def test_two_exports_to_one_file_are_refused(detector, tmp_path, monkeypatch):
    """Else the weights of one could stay beside the graph of the other."""
    path, refused = tmp_path / "best.pt2", []

    def export_meanwhile(*given):
        command = [sys.executable, "-m", "effdet", "export", "--weights", str(detector), "--format", "torch"]
        other = subprocess.run([*command, "--out", str(path)], capture_output=True, text=True)
        refused.append((other.returncode, other.stderr))
        raise ExportError("ends here")

    monkeypatch.setattr(pipeline, "make_certificate", export_meanwhile)
    with pytest.raises(ExportError, match="ends here"):
        export(detector, "torch", output=path)
    ((status, message),) = refused
    assert status == 1
    assert re.fullmatch(rf"error: {path}: process {os.getpid()} on .* is writing to this file; wait .*\n", message)
    assert not list(tmp_path.iterdir())


def test_another_image_size_keeps_the_weights_and_moves_the_anchors(detector):
    checkpoint = load_checkpoint(detector)
    larger = resized(checkpoint, (128, 192))
    assert larger.card.spec.image_size == larger.model.image_size == (128, 192)
    assert content_hash(larger.model) == content_hash(checkpoint.model)
    images = torch.randint(0, 256, (1, 3, 128, 192), dtype=torch.uint8)
    with torch.inference_mode():
        assert larger.model(images).class_logits.equal(checkpoint.model(images).class_logits)
    with pytest.raises(ConfigError, match="image_size is 0 x 5"):
        resized(checkpoint, (0, 5))


def test_the_hash_is_that_of_the_weights_alone(detector, other_detector, trained):
    hashes = [content_hash(load_checkpoint(path).model) for path in (detector, other_detector, trained)]
    assert hashes[0] == hashes[2] != hashes[1]


def test_images_for_calibration_are_the_same_ones_in_every_call(trained, detector):
    card = load_checkpoint(trained).card
    first, again = (list(calibration_images(card, None, 5)) for _ in range(2))
    assert len(first) == 5
    assert all(image.shape == (128, 128, 3) for image in first)
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    assert len(list(calibration_images(card))) == 12  # all images to train on
    with pytest.raises(DataError, match=r"no recipe .*--calibration FOLDER"):
        calibration_images(load_checkpoint(detector).card)


def test_an_exported_file_is_not_exported_again(exported):
    with pytest.raises(WeightsError, match=r"best\.pt2: is an exported file; give the checkpoint"):
        export(exported.path, "torch")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"threads": 0}, ConfigError, "threads is 0"),
        ({"calibration": "."}, ConfigError, "calibration"),
        ({"max_ap_loss": 3.0}, ConfigError, "max_ap_loss needs AP, which is not measured"),
        ({"images": "missing"}, DataError, "missing: no such folder"),
        ({"data": "missing"}, DataError, "missing: no such folder"),
    ],
)
def test_arguments_are_checked_before_a_file_is_written(detector, tmp_path, capsys, arguments, error, message):
    with pytest.raises(error, match=message):
        export(detector, "torch", output=tmp_path, **arguments)
    assert "writing" not in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named(detector, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ExportError, match=r"best\.pt2: cannot be written \(.*\); free some space or choose another folder"
    ):
        export(detector, "torch", output=tmp_path / "file" / "best.pt2")


def test_a_data_set_that_is_gone_is_named_with_the_folder_to_give(tmp_path, other_detector):
    checkpoint = load_checkpoint(other_detector)
    config = {
        "task": "detection",
        "model": {"name": "efficientdet_lite0", "depth": 0.2},
        "data": {"root": "/gone/cells"},
    }
    card = replace(checkpoint.card, config=config)
    with pytest.raises(DataError, match=r"recipe, /gone/cells, is not there; give a folder with --calibration FOLDER"):
        calibration_images(card)
    save_checkpoint(tmp_path / "best.pt", checkpoint.model.state_dict(), card)
    with pytest.raises(DataError, match=r"recipe, /gone/cells, is not there; give a data set with --data FOLDER"):
        export(tmp_path / "best.pt", "torch", ap=True)


def test_an_error_of_the_disk_names_the_file_and_not_its_temporary_copy(tmp_path):
    with (
        pytest.raises(ExportError, match=rf"^{re.escape(str(tmp_path / 'a.onnx'))}: cannot be written \(No space"),
        folder_beside(tmp_path / "a.onnx") as folder,
        disk_errors_named(folder / "a.onnx"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []
