"""Makes int8 ONNX files of float ones: QuantizeLinear and DequantizeLinear around the layers of the network.

ONNX Runtime and OpenVINO compute in int8 between them. Which layers stay in float is chosen in `sensitivity.py`; the
float file is written in `onnx_file.py`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.errors import ConfigError, ExportError
from effdet.exporting.onnx_file import check_installed, without_logs, write_content
from effdet.exporting.sensitivity import Quantization, choose_float_groups, group_of, relative_error

PROBES = 8  # images on which the outputs of the int8 and of the float network are compared
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_QUANTIZED = (
    *_WEIGHTED,
    "Add",
    "Mul",
    "Clip",
    "Relu",
    "MaxPool",
    "Resize",
    "Concat",
    "GlobalAveragePool",
)
_GATES = {"Sigmoid", "HardSigmoid", "Swish"}


def quantize_onnx(path: Path, target: Path, images: Iterable[NDArray[np.uint8]]) -> Quantization:
    """Writes an int8 file with the inputs, outputs and metadata of a float file; the same images give the same file.

    Activations are uint8 with a scale per tensor, from the smallest to the largest value in the images. Weights are
    int8 with a scale per channel. Normalization, decoding and NMS stay in float, and so do groups of layers that int8
    changes too much. x86 processors without VNNI add such products in 16 bits and can lose accuracy.

    Args:
        path: a float file that `write_onnx` wrote.
        target: the file to write; nothing is left on an error.
        images: [H, W, C] at the size of the input; they show the ranges of the activations.

    Raises:
        ConfigError: a package is missing, or there are no images.
        ExportError: an image does not have the size of the input, or the file cannot be written.
    """
    check_installed("onnx", "onnxruntime")
    import onnx

    content = onnx.load(path)
    batches = _batches(content, images)
    layers = _layers(content)
    groups = list(dict.fromkeys(layers.values()))
    probes = [batches[row] for row in sorted({*np.linspace(0, len(batches) - 1, PROBES).round().astype(int).tolist()})]
    names = _network_outputs(content, layers)
    with tempfile.TemporaryDirectory() as folder, without_logs(logging.WARNING):
        ranges = _ranges(path, Path(folder), batches)
        expected = _run(content, names, probes)

        def quantized(chosen: Collection[str]) -> Any:
            return _quantized(path, ranges, [name for name, group in layers.items() if group in chosen])

        def error(chosen: Collection[str]) -> float:
            return relative_error(_run(quantized(chosen), names, probes), expected)

        kept, total = choose_float_groups(groups, error)
        in_float = {group.name for group in kept}
        result = quantized([group for group in groups if group not in in_float])
    del result.metadata_props[:]
    result.metadata_props.extend(content.metadata_props)
    result.producer_name, result.producer_version = content.producer_name, content.producer_version
    write_content(result, target)
    gated = any(node.op_type in _GATES and node.name in layers for node in content.graph.node)
    return Quantization(total, tuple(kept), gated)


def _batches(content: Any, images: Iterable[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Every image as a batch of the size that the graph is fixed to, filled with copies; 1 for any number."""
    sides = [side.dim_value for side in content.graph.input[0].type.tensor_type.shape.dim]
    batches = []
    for image in images:
        if list(image.shape) != sides[1:]:
            raise ExportError(
                f"an image of the calibration has the shape {list(image.shape)}, but the input of the network has "
                f"{sides[1:]} (height, width, channels)"
            )
        batches.append(np.repeat(image[None], max(sides[0], 1), 0))
    if not batches:
        raise ConfigError(
            "int8 needs images to calibrate with, and there are none; give a folder with images like those of the use"
        )
    return batches


def _layers(content: Any) -> dict[str, str]:
    """Group of every operator of the network by its name; normalization and what follows the network are left out.

    Operators of modules without weights, such as activations of the backbone, belong to the group before them.
    """
    nodes = [node for node in content.graph.node if not node.name.startswith("outputs/")]
    groups = [group_of(node.name.partition("/")[0]) for node in nodes]
    weighted = {group for node, group in zip(nodes, groups, strict=True) if node.op_type in _WEIGHTED}
    layers: dict[str, str] = {}
    previous = groups[0]
    for node, group in zip(nodes, groups, strict=True):
        previous = layers[node.name] = group if group in weighted else previous
    return layers


def _network_outputs(content: Any, layers: Mapping[str, str]) -> list[str]:
    """The tensors that the network hands to decoding and NMS, or to the caller."""
    outputs = {output.name for output in content.graph.output}
    nodes = [node for node in content.graph.node if node.name in layers and node.op_type in _QUANTIZED]
    made = [name for node in nodes for name in node.output]
    used = {name for node in content.graph.node if node.name not in layers for name in node.input} | outputs
    return [name for name in made if name in used]


def _ranges(path: Path, folder: Path, batches: Sequence[NDArray[np.uint8]]) -> Any:
    """The smallest and the largest value of every tensor over all images."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    calibrator = create_calibrator(
        path, list(_QUANTIZED), str(folder / "augmented.onnx"), calibrate_method=CalibrationMethod.MinMax
    )
    calibrator.collect_data(_Reader(batches))
    return calibrator.compute_data()


class _Reader:
    """Images as ONNX Runtime's calibration reads them."""

    def __init__(self, batches: Iterable[NDArray[np.uint8]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The inputs of the next call; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _quantized(path: Path, ranges: Any, operators: Sequence[str]) -> Any:
    """The content of the file with the given operators in int8, an `onnx.ModelProto`."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    quantizer = QDQQuantizer(
        load_model_with_shape_infer(path),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=list(operators),
        nodes_to_exclude=[],
        op_types_to_quantize=list(_QUANTIZED),
        extra_options={},
    )
    quantizer.quantize_model()
    _hand_over_pixels(quantizer.model.model)
    return quantizer.model.model


def _hand_over_pixels(content: Any) -> None:
    """Hands the uint8 pixels to the first convolution where normalization is a scale and a zero point.

    That is so if all channels have one mean, a whole number, and one standard deviation, as in the Lite family. Then
    the quantized pixels are the pixels.
    """
    import onnx

    graph = content.graph
    made = {node.output[0]: node for node in graph.node}
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for quantize in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
        chain = [quantize]
        while len(chain) < 4 and chain[-1].input[0] in made:
            chain.append(made[chain[-1].input[0]])
        if [node.op_type for node in chain[1:]] != ["Div", "Sub", "Cast"]:
            continue
        mean, std = values[chain[2].input[1]], values[chain[1].input[1]]
        if np.ptp(mean) or np.ptp(std) or mean.flat[0] not in range(256):
            continue
        zero_point, scale = np.uint8(mean.flat[0]), np.float32(1 / std.flat[0])
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(zero_point), "pixels.zero_point"))
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(scale), "pixels.scale"))
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] == quantize.output[0]:
                node.input[:] = [chain[3].input[0], "pixels.scale", "pixels.zero_point"]
        for node in chain:
            graph.node.remove(node)
        used = {name for node in graph.node for name in node.input}
        for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
            graph.initializer.remove(tensor)


def _run(content: Any, names: Sequence[str], batches: Iterable[NDArray[np.uint8]]) -> list[dict[str, Any]]:
    """The named tensors of a graph for each batch."""
    import onnx
    import onnxruntime

    extended = onnx.ModelProto()
    extended.CopyFrom(content)
    present = {output.name for output in extended.graph.output}
    for name in names:
        if name not in present:
            extended.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(extended.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [dict(zip(names, session.run(list(names), {"images": batch}), strict=True)) for batch in batches]
