"""Makes int8 files of OpenVINO from float ONNX files of the same model.

The layers are quantized in `quantize_onnx.py`: OpenVINO computes between the same QuantizeLinear and DequantizeLinear
in int8.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.errors import ExportError
from effdet.exporting.onnx_file import check_installed
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
    import openvino

    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        onnx_path, xml_path = Path(folder, "model.onnx"), Path(folder, "model.xml")
        quantization = quantize_onnx(path, onnx_path, images)
        try:
            graph = openvino.Core().read_model(onnx_path)
            for entry in onnx.load(onnx_path).metadata_props:
                graph.set_rt_info(entry.value, entry.key)
            openvino.save_model(graph, xml_path, compress_to_fp16=False)
            del graph  # it may still read the weights
            os.replace(xml_path.with_suffix(".bin"), target.with_suffix(".bin"))
            os.replace(xml_path, target)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-300:]
            raise ExportError(f"OpenVINO {openvino.__version__} cannot convert the model: {reason}") from error
        except OSError as error:
            raise ExportError(
                f"{target}: cannot be written ({error.strerror}); make room or choose another folder"
            ) from None
    return quantization
