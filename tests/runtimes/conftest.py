"""Files of a made-up runtime, whose graph is a function of the test."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from effdet.models import ModelOptions, make_spec
from effdet.runtimes import opening
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    model = make_spec(ModelOptions("efficientdet_lite0", image_size=(64, 96))).build(3).eval()
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    save_checkpoint(path, model.state_dict(), ModelCard(model.spec, ("a", "b", "c"), (1, 2, 3)))
    return path


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Function that gives a file with a metadata text and a graph; what its runtime is opened with is in `calls`."""

    def make(text, graph=lambda images: {}):
        calls = []

        def open_graph(path, device, threads):
            calls.append((path.name, device.type, threads))
            return graph

        module = SimpleNamespace(
            read_metadata=lambda path: text, open_graph=open_graph, device_of=lambda device: torch.device("cpu")
        )
        monkeypatch.setattr(opening, "runtime_module", lambda path: module)
        path = tmp_path / "model.onnx"
        path.write_bytes(b"graph")
        return path, calls

    return make


@pytest.fixture
def two_boxes():
    """A graph of the face "detections" with room for three: two boxes of classes 2 and 0."""

    def graph(images):
        batch = len(images)
        boxes = np.zeros((batch, 3, 4), np.float32)
        boxes[:, :2] = [[0, 0, 32, 32], [32, 32, 64, 64]]
        return {
            "boxes": boxes,
            "scores": np.tile(np.float32([0.9, 0.35, 0]), (batch, 1)),
            "labels": np.tile(np.int64([2, 0, 0]), (batch, 1)),
            "counts": np.full(batch, 2),
        }

    return graph
