"""Runs ONNX files in ONNX Runtime, and reads their metadata without it.

Writing them is in `effdet/exporting/onnx_file.py`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from effdet.errors import ConfigError, WeightsError
from effdet.plain_data import shortened
from effdet.runtimes.exported import Graph
from effdet.weights.exported import KEY

_IR_VERSION, _GRAPH, _OPERATOR_SETS, _METADATA = 1, 7, 8, 14  # fields of ONNX's ModelProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields of protocol buffers
_LONGEST = 600  # characters of a message of ONNX Runtime


def read_metadata(path: Path) -> str | None:
    """The JSON text of this package in an ONNX file; None if it has none. ONNX Runtime is not needed.

    Raises:
        WeightsError: the file is damaged or not an ONNX file.
    """
    seen, text = set(), None
    try:
        with path.open("rb") as file:
            for number, content in _fields(file, path.stat().st_size):
                seen.add(number)
                if number == _METADATA:
                    entry = dict(_fields_of(content))
                    if entry.get(1) == KEY.encode():
                        text = entry[2].decode("utf-8")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError):
        raise WeightsError(f"{path}: damaged or not an ONNX file; export it again") from None
    if not {_IR_VERSION, _GRAPH, _OPERATOR_SETS} <= seen:
        raise WeightsError(f"{path}: damaged or not an ONNX file; export it again")
    return text


def device_of(device: torch.device) -> torch.device:
    """A CUDA device if the installed ONNX Runtime has CUDA, otherwise the CPU.

    Raises:
        ConfigError: ONNX Runtime is not installed.
    """
    has_cuda = "CUDAExecutionProvider" in _onnxruntime().get_available_providers()
    return device if device.type == "cuda" and has_cuda else torch.device("cpu")


def open_graph(path: Path, device: torch.device, threads: int | None = None) -> Graph:
    """The graph of an ONNX file, ready to run.

    Args:
        path: the file.
        device: where it should run, see `device_of`.
        threads: threads of one call on the CPU; None for the runtime's own choice.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        WeightsError: ONNX Runtime cannot run the file.
    """
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors alone
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=_providers(device_of(device)))
    except Exception as error:  # the classes of its errors have no common base class
        reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
        reason = shortened((reason.splitlines() or ["unknown"])[0], _LONGEST)
        raise WeightsError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot run it: {reason}; update onnxruntime or export the "
            "file again"
        ) from None
    image_input = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]

    def run(images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        return dict(zip(names, session.run(names, {image_input: images}), strict=True))

    return run


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError('onnxruntime is not installed; run pip install "efficientdet-torch[onnx]"') from None
    return onnxruntime


def _providers(device: torch.device) -> list[Any]:
    """The execution providers for a device, the best first."""
    cpu = ["CPUExecutionProvider"]
    return cpu if device.type == "cpu" else [("CUDAExecutionProvider", {"device_id": device.index or 0}), *cpu]


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each field of a message in protocol buffers up to `end`; the bytes of the graph are skipped.

    Raises:
        ValueError: it is no such message.
    """
    while file.tell() < end:
        number, kind = divmod(_varint(file), 8)
        if kind == _VARINT:
            _varint(file)
            size = 0
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size = _varint(file)
        else:
            raise ValueError(f"kind {kind}")
        if number == 0 or file.tell() + size > end:
            raise ValueError(f"field {number} of {size} bytes")
        if number == _GRAPH:
            file.seek(size, 1)
            yield number, b""
        else:
            yield number, file.read(size)


def _fields_of(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message inside another."""
    return _fields(io.BytesIO(content), len(content))


def _varint(file: BinaryIO) -> int:
    """An integer of seven bits per byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("the end of the file")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("an integer of more than 10 bytes")
