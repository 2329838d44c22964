import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet.errors import ConfigError, ExportError
from effdet.exporting import onnx_file, sensitivity
from effdet.exporting.onnx_file import write_onnx
from effdet.exporting.quantize_onnx import quantize_onnx
from effdet.exporting.quantize_openvino import quantize_openvino
from effdet.exporting.sensitivity import FloatGroup, Quantization, choose_float_groups, group_of, relative_error
from effdet.models import ModelOptions, make_spec
from effdet.runtimes import onnx_file as onnx_runtime
from effdet.runtimes import openvino_file as openvino_runtime
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard
from effdet.weights.exported import ExportCard, read_export_card

onnx = pytest.importorskip("onnx", reason="int8 files are made with onnx")
pytest.importorskip("onnxruntime", reason="int8 files are made with onnxruntime")
pytest.importorskip("onnxscript", reason="torch's exporter of ONNX files needs onnxscript")

CPU = torch.device("cpu")
SIZE = 64


def images(count, seed=0):
    """Smooth images, whose activations are like those of photographs."""
    rng = np.random.default_rng(seed)
    return [np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(count)]


def settle(model):
    """Statistics and weights with which features keep their size and outputs depend on the image, as after training."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.constant_(module.bias, 2.0)  # few values are cut off by ReLU6
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    with torch.no_grad():
        model.train()(torch.from_numpy(np.stack(images(16, seed=9))).permute(0, 3, 1, 2))
    model.eval()


def float_file(folder, name="efficientdet_lite0", face="raw", batch_size=1):
    torch.manual_seed(0)
    spec = make_spec(ModelOptions(name, image_size=(SIZE, SIZE), depth=0.1, drop_path=0.0))
    if face != "logits":
        spec = replace(spec, num_cells=1, num_repeats=1)
    model = spec.build(3).eval()
    settle(model)
    card = ModelCard(model.spec, ("a", "b", "c"), (1, 2, 3))
    options = PostprocessOptions(score_threshold=0.0) if face == "detections" else None
    path = folder / f"{name}-{face}-{batch_size}.onnx"
    write_onnx(model, ExportCard(card, face, "int8", batch_size, options), path)
    return path


@pytest.fixture(autouse=True, scope="module")
def tolerant():
    """Random weights are more sensitive than trained ones; nothing stays in float unless a test lowers the bound."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "LARGEST_ERROR", 1.0)
        yield


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    return float_file(tmp_path_factory.mktemp("lite"))


@pytest.fixture(scope="module")
def quantized(lite):
    """An int8 file with what quantization says about it."""
    target = lite.with_name("int8.onnx")
    return target, quantize_onnx(lite, target, images(8))


def outputs_of(runtime, path, batch):
    return runtime.open_graph(path, CPU)(batch)


def weight_types(path):
    """Whether the weights of each convolution come from a DequantizeLinear, by the path of its layer."""
    graph = onnx.load(path).graph
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {node.name: node.input[1] in dequantized for node in graph.node if node.op_type == "Conv"}


def test_int8_outputs_are_close_to_float(lite, quantized):
    path, quantization = quantized
    batch = images(1, seed=5)[0][None]
    expected = outputs_of(onnx_runtime, lite, batch)
    outputs = outputs_of(onnx_runtime, path, batch)
    assert outputs.keys() == expected.keys()
    assert 0 < relative_error([outputs], [expected]) < 0.2
    assert quantization.error < 0.2


def test_int8_files_of_openvino_are_close_to_float(lite):
    pytest.importorskip("openvino", reason="files of OpenVINO are made with openvino")
    target = lite.with_name("int8.xml")
    quantize_openvino(lite, target, images(8))
    batch = images(1, seed=5)[0][None]
    expected = outputs_of(onnx_runtime, lite, batch)
    outputs = outputs_of(openvino_runtime, target, batch)
    assert {name: values.shape for name, values in outputs.items()} == {
        name: values.shape for name, values in expected.items()
    }
    assert 0 < relative_error([outputs], [expected]) < 0.2
    card = read_export_card(openvino_runtime.read_metadata(target), target)
    assert (card.face, card.precision) == ("raw", "int8")
    assert target.with_suffix(".bin").stat().st_size < 0.4 * lite.stat().st_size
    assert sorted(path.suffix for path in target.parent.glob("int8.*") if path.suffix != ".onnx") == [".bin", ".xml"]


def test_inputs_outputs_and_metadata_stay(lite, quantized):
    before, after = onnx.load(lite), onnx.load(quantized[0])
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.metadata_props == before.metadata_props
    assert quantized[0].stat().st_size < 0.4 * lite.stat().st_size


def test_all_convolutions_are_int8_if_the_error_is_small(quantized):
    path, quantization = quantized
    assert quantization.kept == ()
    assert all(weight_types(path).values())


def test_the_first_convolution_of_the_lite_family_gets_the_pixels(quantized):
    graph = onnx.load(quantized[0]).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (transpose,) = (node for node in graph.node if "images" in node.input)
    (dequantize,) = (node for node in graph.node if transpose.output[0] in node.input)
    assert dequantize.op_type == "DequantizeLinear"
    assert [float(values[name]) for name in dequantize.input[1:]] == [1 / 128, 127]
    (stem,) = (node for node in graph.node if dequantize.output[0] in node.input)
    assert stem.name == "backbone.conv_stem/Conv"


def test_groups_that_stay_in_float_are_float_in_the_file(lite, tmp_path, monkeypatch):
    monkeypatch.setattr(sensitivity, "LARGEST_ERROR", 1e-6)
    monkeypatch.setattr(sensitivity, "MOST_GROUPS", 2)
    quantization = quantize_onnx(lite, tmp_path / "int8.onnx", images(4))
    kept = {group.name for group in quantization.kept}
    assert len(kept) == 2
    for name, is_int8 in weight_types(tmp_path / "int8.onnx").items():
        assert is_int8 == (group_of(name.partition("/")[0]) not in kept)
    text = "\n".join(quantization.lines())
    assert all(f"stays in float: {name}, because" in text for name in kept)
    assert "compare AP" in text


def test_the_same_images_give_the_same_file(lite, quantized, tmp_path):
    quantize_onnx(lite, tmp_path / "again.onnx", iter(images(8)))
    assert (tmp_path / "again.onnx").read_bytes() == quantized[0].read_bytes()


def test_decoding_and_nms_stay_in_float_with_any_batch_size(tmp_path):
    path = float_file(tmp_path, face="detections", batch_size=None)
    quantize_onnx(path, tmp_path / "int8.onnx", images(4))
    graph = onnx.load(tmp_path / "int8.onnx").graph
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    quantizers = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    outer = [node for node in graph.node if node.name.startswith("outputs/")]
    decoding = [node for node in outer if node.op_type in ("Exp", "TopK", "NonMaxSuppression")]
    assert {node.op_type for node in decoding} >= {"Exp", "TopK", "NonMaxSuppression"}
    assert not dequantized & {name for node in decoding for name in node.input}
    assert not quantizers & {name for node in decoding for name in node.output}
    outputs = outputs_of(onnx_runtime, tmp_path / "int8.onnx", np.stack(images(3, seed=7)))
    assert outputs["boxes"].shape == (3, 100, 4)
    assert (outputs["counts"] > 0).all()


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientnet_lite0"])
def test_other_networks_are_quantized_with_a_note_if_they_are_gated(tmp_path, name):
    path = float_file(tmp_path, name, "logits" if "net_" in name else "raw")
    quantization = quantize_onnx(path, tmp_path / "int8.onnx", images(4))
    is_gated = name == "efficientdet_d0"
    assert quantization.gated == is_gated
    assert ("Lite family" in "\n".join(quantization.lines())) == is_gated
    batch = images(1, seed=5)[0][None]
    error = relative_error(
        [outputs_of(onnx_runtime, tmp_path / "int8.onnx", batch)], [outputs_of(onnx_runtime, path, batch)]
    )
    assert error < 1


def test_no_images_is_an_error(lite, tmp_path):
    with pytest.raises(ConfigError, match="int8 needs images to calibrate with, and there are none"):
        quantize_onnx(lite, tmp_path / "int8.onnx", [])
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_size_are_an_error(lite, tmp_path):
    with pytest.raises(
        ExportError, match=r"has the shape \[32, 64, 3\], but the input of the network has \[64, 64, 3\]"
    ):
        quantize_openvino(lite, tmp_path / "int8.xml", [np.zeros((32, 64, 3), np.uint8)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("quantize", "missing", "extra"),
    [
        (quantize_onnx, "onnxruntime", "onnx"),
        (quantize_openvino, "openvino", "openvino"),
    ],
)
def test_a_missing_package_names_its_extra(lite, tmp_path, monkeypatch, quantize, missing, extra):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(
        ConfigError, match=rf"{missing} is not installed; run pip install .efficientdet-torch\[{extra}\]"
    ):
        quantize(lite, tmp_path / "int8", images(1))


@pytest.mark.parametrize(
    ("layer", "group"),
    [
        ("backbone.conv_stem", "backbone.conv_stem"),
        ("backbone.blocks.3.1.conv_dw", "backbone.blocks.3"),
        ("blocks.10.1.conv_dw", "blocks.10"),
        ("neck.coarser.conv", "neck.coarser"),
        ("neck.cells.2.nodes.7.conv.pointwise", "neck.cells.2"),
        ("class_head.pointwise.0.4", "class_head"),
        ("class_head.predict.pointwise", "class_head.predict"),
        ("box_head", "box_head"),
        ("classifier", "classifier"),
    ],
)
def test_layers_are_grouped_by_stage_cell_and_head(layer, group):
    assert group_of(layer) == group


def additive(errors):
    """The error of a network whose groups add independent noise."""
    return lambda groups: math.sqrt(sum(errors[group] ** 2 for group in groups))


@pytest.mark.parametrize(
    ("errors", "kept"),
    [
        ({"a": 0.05, "b": 0.05}, []),
        ({"a": 0.05, "b": 0.2, "c": 0.01}, ["b"]),
        ({"a": 0.3, "b": 0.2, "c": 0.01}, ["a", "b"]),
        ({"a": 0.2, "b": 0.2}, ["a"]),
        (dict.fromkeys("abcdefgh", 0.2), ["a", "b", "c", "d"]),
        ({"a": 0.4}, []),
    ],
)
def test_the_most_sensitive_groups_stay_in_float_until_the_error_is_small(errors, kept, monkeypatch):
    monkeypatch.setattr(sensitivity, "LARGEST_ERROR", 0.1)
    groups, total = choose_float_groups(list(errors), additive(errors))
    assert groups == [FloatGroup(name, errors[name]) for name in kept]
    assert total == pytest.approx(additive(errors)([name for name in errors if name not in kept]))


def test_the_relative_error_is_that_of_the_worst_output():
    expected = [{"a": np.array([0.0, 2.0], np.float32), "b": np.array([10.0, 30.0], np.float32)}]
    outputs = [{"a": np.array([0.1, 2.1], np.float32), "b": np.array([10.0, 30.0], np.float32)}]
    assert relative_error(outputs, expected) == pytest.approx(0.1, rel=1e-5)
    assert relative_error(expected, expected) == 0


def test_an_output_that_hardly_varies_has_no_large_error():
    expected = [{"a": np.full(2, -4.595, np.float32)}]
    assert relative_error([{"a": np.full(2, -4.594, np.float32)}], expected) == pytest.approx(0.1, rel=1e-2)


def test_lines_say_what_int8_did():
    lines = Quantization(0.05, (FloatGroup("class_head", 0.31),)).lines()
    assert lines == [
        "stays in float: class_head, because int8 there alone changes the outputs by 31.0%",
        "int8 changes the outputs of the network by 5.0% (relative RMS error)",
    ]
