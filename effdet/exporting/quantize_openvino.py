"""Makes int8 files of OpenVINO from float ONNX files of the same model.

The layers are quantized in `quantize_onnx.py`: OpenVINO computes between the same QuantizeLinear and DequantizeLinear
in int8.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.exporting.disk import folder_beside
from effdet.exporting.onnx_file import check_installed
from effdet.exporting.openvino_file import convert_onnx
from effdet.exporting.quantize_onnx import quantize_onnx
from effdet.exporting.sensitivity import Quantization


def quantize_openvino(path: Path, target: Path, images: Iterable[NDArray[np.uint8]]) -> Quantization:
    """Writes an int8 file of OpenVINO with the inputs, outputs and metadata of a float ONNX file.

    Args:
        path: a float ONNX file that `write_onnx` wrote.
        target: the .xml file; the weights are written to the .bin file beside it.
        images: [H, W, C] at the size of the input, see `quantize_onnx`.

    Raises:
        ConfigError: a package is missing, or there are no images.
        ExportError: an image does not have the size of the input, or the files cannot be written.
    """
    check_installed("onnx", "onnxruntime")
    check_installed("openvino", extra="openvino")
    import onnx

    with folder_beside(target) as folder:
        quantization = quantize_onnx(path, folder / "model.onnx", images)
        properties = onnx.load(folder / "model.onnx").metadata_props
        convert_onnx(folder / "model.onnx", {entry.key: entry.value for entry in properties}, target)
    return quantization
