import json

import numpy as np
import pytest
import torch

from effdet.errors import ConfigError, EffdetError, WeightsError
from effdet.inference.predictor import Predictor
from effdet.runtimes.opening import open_model
from effdet.types import PostprocessOptions
from effdet.weights.checkpoint import load_checkpoint
from effdet.weights.exported import ExportCard

CPU = torch.device("cpu")
IMAGE = np.zeros((64, 96, 3), np.uint8)


@pytest.fixture
def card(checkpoint):
    return ExportCard(load_checkpoint(checkpoint).card, "detections", postprocess=PostprocessOptions(max_detections=3))


def test_a_file_runs_when_it_is_started_and_not_before(made_up, card, two_boxes):
    path, calls = made_up(card.to_json(), two_boxes)
    model = open_model(path, threads=3)
    assert (model.card, model.exported, calls) == (card.model, True, [])
    runtime = model.start(CPU, "auto")
    assert calls == [("model.onnx", "cpu", 3)]
    assert runtime.export == card
    (detections,) = runtime.detections(
        torch.zeros(1, 3, 64, 96, dtype=torch.uint8), PostprocessOptions(max_detections=3)
    )
    assert detections.labels.tolist() == [2, 0]


def test_a_warning_says_that_a_file_does_not_run_on_the_device_that_was_asked_for(made_up, card, two_boxes, caplog):
    path, _ = made_up(card.to_json(), two_boxes)
    assert open_model(path).start(CPU, "auto").device == CPU
    assert caplog.messages == []
    assert open_model(path).start(torch.device("cuda", 0), "auto").device == CPU
    assert caplog.messages == [f"{path}: runs on the cpu, because its runtime does not use cuda:0 here"]


def test_the_predictor_gives_its_detections_in_pixels_of_the_image(made_up, card, two_boxes):
    path, _ = made_up(card.to_json(), two_boxes)
    result = Predictor(path, "cpu", max_detections=3)(np.zeros((128, 192, 3), np.uint8))
    assert result.names == ["c", "a"]
    assert result.boxes.tolist() == [[0, 0, 64, 64], [64, 64, 128, 128]]


def test_without_metadata_a_sentence_says_what_describes_the_file(made_up):
    path, _ = made_up(None)
    with pytest.raises(
        WeightsError, match=r"model\.onnx: has no metadata .* --metadata best\.pt .*--metadata FILE\.json"
    ):
        open_model(path)


@pytest.mark.parametrize("kind", ["checkpoint", "json"])
def test_a_checkpoint_or_a_json_file_describes_it(made_up, card, two_boxes, checkpoint, tmp_path, kind):
    path, _ = made_up(None, two_boxes)
    described = checkpoint if kind == "checkpoint" else tmp_path / "card.json"
    if kind == "json":
        described.write_text(card.to_json())
    result = Predictor(path, "cpu", metadata=described, max_detections=3)(IMAGE)
    assert result.names == ["c", "a"]


def test_the_face_is_seen_in_the_outputs(made_up, checkpoint):
    for face, outputs in {
        "raw": {"class_logits": np.zeros((1, 8, 3)), "boxes": np.zeros((1, 8, 4))},
        "features": {"c3": np.zeros(1), "c4": np.zeros(1), "c5": np.zeros(1)},
    }.items():
        path, _ = made_up(None, lambda images, outputs=outputs: outputs)
        assert open_model(path, metadata=checkpoint).start(CPU, "auto").export.face == face
    path, _ = made_up(None, lambda images: {"output0": np.zeros(1)})
    with pytest.raises(WeightsError, match=r"model\.onnx: its outputs are output0; expected "):
        open_model(path, metadata=checkpoint).start(CPU, "auto")


def test_a_graph_of_another_input_is_not_that_of_the_checkpoint(made_up, checkpoint):
    def graph(images):
        raise RuntimeError("expected 512")

    path, _ = made_up(None, graph)
    with pytest.raises(WeightsError, match=r"cannot run on images \[1, 64, 96, 3\] uint8, .*: expected 512"):
        open_model(path, metadata=checkpoint).start(CPU, "auto")


def test_metadata_of_a_newer_version_or_damaged_is_refused(made_up, card):
    plain = json.loads(card.to_json())
    path, _ = made_up(json.dumps({**plain, "format": 99}))
    with pytest.raises(WeightsError, match="newer version"):
        open_model(path)
    path, _ = made_up(json.dumps({**plain, "face": "other"}))
    with pytest.raises(WeightsError, match="the metadata is damaged: 'face'"):
        open_model(path)
    path, _ = made_up("{")
    with pytest.raises(WeightsError, match="the metadata is damaged"):
        open_model(path)


def test_files_that_cannot_be_opened_are_named(tmp_path, checkpoint):
    with pytest.raises(WeightsError, match=r"none\.onnx: no such file; write it with: effdet export"):
        open_model(tmp_path / "none.onnx")
    (tmp_path / "best.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"none\.onnx: no such file; .* has best\.onnx"):
        open_model(tmp_path / "none.onnx")
    (tmp_path / "model.engine").write_bytes(b"engine")
    with pytest.raises(
        WeightsError, match=r"model\.engine: .*\.onnx, \.xml \(OpenVINO\), \.tflite \(LiteRT\) and \.pt2"
    ):
        open_model(tmp_path / "model.engine")
    (tmp_path / "best.xml").write_bytes(b"")
    (tmp_path / "best.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"best\.bin: holds the weights of .*best\.xml; give that file"):
        open_model(tmp_path / "best.bin")
    with pytest.raises(ConfigError, match="metadata is for exported files"):
        open_model(checkpoint, metadata=checkpoint)
    with pytest.raises(ConfigError, match="threads is 0"):
        open_model(checkpoint, threads=0)
    with pytest.raises(ConfigError, match=r"card\.json: cannot be read"):
        open_model(tmp_path / "best.onnx", metadata=tmp_path / "card.json")


def test_metadata_in_a_wrong_file_names_it_and_the_files_that_can_be_given(made_up, card, tmp_path):
    path, _ = made_up(card.to_json())
    remedy = "; give --metadata the checkpoint that was exported, such as best.pt, or a JSON file with the metadata$"
    for name, content in {
        "best.onnx": b"",
        "best.XML": b"",
        "picture.jpg": b"\xff\xd8\xff",
        "notes": b"text",
        "other.json": b'{"a": 1}',
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EffdetError, match=f"{name}: .*{remedy}"):
            open_model(path, metadata=tmp_path / name)
    with pytest.raises(ConfigError, match=f"gone.onnx: is an exported file{remedy}"):
        open_model(path, metadata="gone.onnx")
    with pytest.raises(WeightsError, match=r"gone\.pt: no such weights file"):
        open_model(path, metadata=tmp_path / "gone.pt")
