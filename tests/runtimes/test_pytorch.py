import pytest
import torch

from effdet.errors import NotFiniteError
from effdet.models import ModelOptions, make_spec
from effdet.postprocess import postprocess
from effdet.runtimes.cuda_graph import KEPT_GRAPHS
from effdet.runtimes.pytorch import TorchRuntime
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard

NAMES = ("a", "b", "c")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def built(name="efficientdet_lite0", size=(64, 96)):
    torch.manual_seed(0)
    return make_spec(ModelOptions(name, image_size=size)).build(len(NAMES)).eval()


def runtime_of(model, device="cpu", dtype=torch.float32):
    return TorchRuntime(model, ModelCard(model.spec, NAMES, (1, 2, 3)), torch.device(device), dtype)


def images(count=2, size=(64, 96), seed=0):
    return torch.randint(0, 256, (count, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.boxes.equal(other.boxes)
        assert one.scores.equal(other.scores)
        assert one.labels.equal(other.labels)


def test_detections_are_those_of_the_network():
    model, options = built(), PostprocessOptions(max_detections=10)
    with torch.no_grad():
        expected = postprocess(model(images()), options)
    for one, other in zip(runtime_of(model).detections(images(), options), expected, strict=True):
        assert len(one) == len(other) == 10
        torch.testing.assert_close(one.scores, other.scores)


def test_logits_are_those_of_the_network():
    model = built("efficientnet_b0")
    with torch.no_grad():
        torch.testing.assert_close(runtime_of(model).logits(images()), model(images()), rtol=1e-4, atol=1e-5)


def test_bfloat16_gives_float32_results():
    detections = runtime_of(built(), dtype=torch.bfloat16).detections(images(), PostprocessOptions())
    assert detections[0].boxes.dtype == detections[0].scores.dtype == torch.float32
    logits = runtime_of(built("efficientnet_b0"), dtype=torch.bfloat16).logits(images())
    assert logits.dtype == torch.float32


def damaged(model):
    with torch.no_grad():
        model.box_head.predict.pointwise.bias.fill_(float("nan"))
    return model


def test_outputs_that_are_nan_are_an_error_that_names_the_precision():
    with pytest.raises(NotFiniteError, match="image 1 of the batch are NaN or Inf; use precision fp32"):
        runtime_of(damaged(built())).detections(images(), PostprocessOptions())


@needs_cuda
def test_detections_of_graphs_may_be_changed_in_place():
    runtime = runtime_of(built(), "cuda")
    for _ in range(3):
        runtime.detections(images(), PostprocessOptions())[0].boxes.add_(1)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_graph_gives_what_the_first_call_gave(dtype):
    runtime = runtime_of(built(), "cuda", dtype)
    for size in ((64, 96), (128, 64)):
        first = runtime.detections(images(2, size), PostprocessOptions())
        runtime.detections(images(2, size, seed=1), PostprocessOptions())
        assert_equal(runtime.detections(images(2, size), PostprocessOptions()), first)
    assert all(graph is not None for graph in runtime._graphs._graphs.values())


@needs_cuda
def test_only_the_graphs_used_last_are_kept():
    runtime = runtime_of(built(), "cuda")
    first = {}
    for count in range(1, KEPT_GRAPHS + 3):
        first[count] = runtime.detections(images(count), PostprocessOptions())
        runtime.detections(images(count), PostprocessOptions())
    assert len(runtime._graphs._graphs) == KEPT_GRAPHS
    for count, expected in first.items():
        assert_equal(runtime.detections(images(count), PostprocessOptions()), expected)


@needs_cuda
def test_a_function_that_cannot_be_captured_runs_without_a_graph():
    runtime = runtime_of(built("efficientnet_b0"), "cuda")
    network = runtime._network
    runtime._graphs._function = lambda pixels, options: network(pixels) * float(pixels.float().mean().item() > 0)
    first = runtime.logits(images())
    for _ in range(3):
        assert runtime.logits(images()).equal(first)


@needs_cuda
def test_nan_in_a_graph_is_an_error():
    runtime = runtime_of(damaged(built()), "cuda")
    for _ in range(3):
        with pytest.raises(NotFiniteError):
            runtime.detections(images(), PostprocessOptions())
