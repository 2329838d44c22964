"""Lower precision of a converted network by ai-edge-quantizer: float16 weights, int8 weights, or int8 throughout.

Operators that are added afterwards, such as decoding and NMS, stay in float: see `litert_faces.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.errors import ConfigError
from effdet.exporting.litert_flatbuffer import LiteRTGraph, not_installed, quiet
from effdet.types import StoredPrecision

SIGNATURE, INPUT = "serving_default", "images"
_LEAST_WEIGHT = 1e-4  # of a channel, as a fraction of its bias; see `_lift_dead_channels`
_FLOAT16 = {
    "regex": ".*",
    "operation": "*",
    "algorithm_key": "float_casting",
    "op_config": {
        "weight_tensor_config": {"num_bits": 16, "dtype": "FLOAT", "symmetric": True, "granularity": "TENSORWISE"},
        "compute_precision": "FLOAT",
        "explicit_dequantize": True,
        "skip_checks": False,
    },
}


def quantize(
    content: bytes,
    precision: StoredPrecision,
    calibration: Iterable[NDArray[np.uint8]] = (),
    mean: float = 0.0,
    std: float = 1.0,
) -> bytes:
    """The content of a converted network with lower precision.

    - float16: weights are stored as float16; interpreters compute in float32.
    - dynamic-int8: weights of convolutions are int8 with a scale per channel, activations are quantized while the
      network runs. Depthwise convolutions stay float, because interpreters have no fast kernel for them.
    - int8: weights and activations of all operators are int8. Outputs are converted to float at the end.

    Args:
        content: of a .tflite file with the input `images` and float outputs.
        precision: of the result.
        calibration: for int8, images [H, W, 3] uint8 RGB at the size of the input that show the range of activations.
        mean: for int8, of the normalization before the network's float input.
        std: the same.

    Raises:
        ConfigError: ai-edge-quantizer is not installed, or there are no images for int8.
    """
    if precision == "float32":
        return content
    try:
        from ai_edge_quantizer import quantizer
        from ai_edge_quantizer.qtyping import TFLOperationName as Operation
    except ImportError:
        raise not_installed("ai-edge-quantizer") from None
    statistics: dict[str, Any] | None = None
    if precision == "int8":
        graph = LiteRTGraph(content)
        _lift_dead_channels(graph)
        content = graph.content()
    with quiet():
        task = quantizer.Quantizer(content)
        if precision == "float16":
            task.load_quantization_recipe([_FLOAT16])
        elif precision == "dynamic-int8":
            for operation in (Operation.CONV_2D, Operation.FULLY_CONNECTED):
                task.add_dynamic_config(".*", operation, 8)
        else:
            task.add_static_config(".*", Operation.ALL_SUPPORTED, 8, 8)
            task.update_quantization_recipe(".*", Operation.OUTPUT, algorithm_key="no_quantize")
            samples = _Samples(list(calibration), mean, std)
            statistics = task.calibrate({SIGNATURE: samples}, num_threads=2)
            lowest, highest = (np.full((1, 1, 1, 1), (value - mean) / std, np.float32) for value in (0, 255))
            statistics[INPUT] = {"min": lowest, "max": highest}  # so that the scale is exactly 1 / std
        result = task.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


class _Samples:
    """Normalised images of the network's float input, computed each time they are iterated over."""

    def __init__(self, images: list[NDArray[np.uint8]], mean: float, std: float) -> None:
        if not images:
            raise ConfigError("int8 needs images for calibration, got none; give a data set")
        self.images, self.mean, self.std = images, mean, std

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        for image in self.images:
            yield {INPUT: ((image[None].astype(np.float32) - self.mean) / self.std).astype(np.float32)}


def _lift_dead_channels(graph: LiteRTGraph) -> None:
    """Give channels whose weights are almost 0 one weight that is not, so that their int32 biases do not overflow.

    A bias is quantized in steps of the scale of its channel's weights. BatchNorm layers leave channels with weights of
    1e-10 and biases of 1. Beside such a bias the added weight is below the rounding of int8.
    """
    for operator in graph.subgraph.operators:
        kind = graph.kind(operator)
        if kind not in ("CONV_2D", "DEPTHWISE_CONV_2D") or len(operator.inputs) < 3:
            continue
        weight, bias = graph.constant(operator.inputs[1]), graph.constant(operator.inputs[2])
        if weight is None or bias is None:
            continue
        channel_axis = 0 if kind == "CONV_2D" else 3
        by_channel = np.moveaxis(weight, channel_axis, 0).reshape(len(bias), -1).copy()
        least = _LEAST_WEIGHT * np.abs(bias)
        dead = np.abs(by_channel).max(1) < least
        if dead.any():
            by_channel[dead, 0] = least[dead]
            others = [side for axis, side in enumerate(weight.shape) if axis != channel_axis]
            lifted = np.moveaxis(by_channel.reshape(len(bias), *others), 0, channel_axis)
            graph.set_constant(operator.inputs[1], np.ascontiguousarray(lifted))


def finish_int8(graph: LiteRTGraph) -> None:
    """Let an int8 network read uint8 images, as cameras and Coral give them, and leave int8 at its very end.

    Coral's compiler maps the operators to the Edge TPU up to the first one that it cannot map.
    """
    operators = graph.subgraph.operators
    at_end = [graph.kind(operator) == "DEQUANTIZE" for operator in operators]
    graph.subgraph.operators = [
        operator for last in (False, True) for operator, moved in zip(operators, at_end, strict=True) if moved == last
    ]
    inner = int(graph.subgraph.inputs[0])
    described = graph.subgraph.tensors[inner]
    scale, zero_point = float(described.quantization.scale[0]), int(described.quantization.zeroPoint[0])
    described.name = f"{INPUT}_int8"
    outer = graph.add_tensor(INPUT, tuple(described.shape), "uint8", (scale, zero_point + 128))
    graph.add_operator("QUANTIZE", [outer], [inner], options=graph.schema.QuantizeOptionsT(), first=True)
    graph.subgraph.inputs = [outer]
