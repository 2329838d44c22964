"""A small trained-looking detector and classifier as checkpoints, and files that compute what they compute."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet.boxes import decode_boxes
from effdet.data.synthetic import CLASS_NAMES
from effdet.models import ModelOptions, make_spec
from effdet.runtimes.exported import ExportedRuntime
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import load_checkpoint, save_checkpoint
from effdet.weights.exported import ExportCard

IDS = tuple(range(1, len(CLASS_NAMES) + 1))


def _detector(path, seed=0, config=None):
    """A detector with random weights whose scores spread over 0..1."""
    torch.manual_seed(seed)
    model = make_spec(ModelOptions("efficientdet_lite0", image_size=(128, 128), depth=0.2)).build(len(IDS)).eval()
    state = model.state_dict()
    bias = next(key for key in state if key.startswith("class_head") and state[key].shape == (9 * len(IDS),))
    with torch.inference_mode():
        logits = model(torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)).class_logits.flatten()
        weight = bias.replace("bias", "weight")
        scale = 1.5 / float(logits.std())
        state[weight] = state[weight] * scale
        state[bias] = -(logits - state[bias].mean()).topk(60).values[-1] * scale + torch.zeros(9 * len(IDS))
    options = {"score_threshold": 0.2, "max_detections": 50}
    card = ModelCard(model.spec, CLASS_NAMES, IDS, postprocess=options, config=config or {})
    save_checkpoint(path, state, card)
    return path


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    return _detector(tmp_path_factory.mktemp("detector") / "best.pt")


@pytest.fixture(scope="session")
def other_detector(tmp_path_factory):
    return _detector(tmp_path_factory.mktemp("other") / "best.pt", seed=1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_data):
    """The same weights as `detector`, with a recipe whose data set is there."""
    data = {"root": str(tiny_data), "workers": 0}
    config = {"task": "detection", "model": {"name": "efficientdet_lite0", "depth": 0.2}, "data": data}
    return _detector(tmp_path_factory.mktemp("trained") / "best.pt", config=config)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    spec = replace(
        make_spec(ModelOptions("efficientnet_lite0", image_size=(64, 96), depth=0.2, norm_momentum=1.0)), crop=0.8
    )
    model = spec.build(7)
    with torch.no_grad():
        model(torch.randint(0, 256, (8, 3, 64, 96), dtype=torch.uint8))  # BatchNorm layers learn their statistics
    path = tmp_path_factory.mktemp("classifier") / "classifier.pt"
    save_checkpoint(path, model.state_dict(), ModelCard(spec, tuple(f"class {k}" for k in range(7)), tuple(range(7))))
    return path


@pytest.fixture
def file_of():
    """Function that gives the runtime of a file which computes in PyTorch what its checkpoint computes.

    `change` gets the outputs by name of each call and may change them.
    """

    def make(weights, face, change=lambda outputs: outputs, batch_size=None, **options):
        checkpoint = load_checkpoint(weights)
        card, model = checkpoint.card, checkpoint.model
        postprocess = PostprocessOptions(**{**card.postprocess, **options}) if face == "detections" else None

        def graph(images):
            with torch.inference_mode():
                outputs = model(torch.from_numpy(images).permute(0, 3, 1, 2))
                if face == "logits":
                    named = {"logits": outputs}
                elif face == "raw":
                    boxes = decode_boxes(outputs.box_deltas, outputs.anchors)
                    named = {"class_logits": outputs.class_logits, "boxes": boxes}
                else:
                    named = _padded(outputs, postprocess)
            named = change({name: values.clone() for name, values in named.items()})
            return {name: np.asarray(values) for name, values in named.items()}

        export = ExportCard(card, face, batch_size=batch_size, postprocess=postprocess, source="best.pt")
        return ExportedRuntime(graph, export, torch.device("cpu"), "model.pt2")

    return make


def _padded(outputs, options):
    from effdet.postprocess import postprocess

    results = postprocess(outputs, options)
    most = options.max_detections
    named = {
        "boxes": torch.zeros(len(results), most, 4),
        "scores": torch.zeros(len(results), most),
        "labels": torch.zeros(len(results), most, dtype=torch.int64),
        "counts": torch.tensor([len(result) for result in results]),
    }
    for index, result in enumerate(results):
        for name in ("boxes", "scores", "labels"):
            named[name][index, : len(result)] = getattr(result, name)
    return named
