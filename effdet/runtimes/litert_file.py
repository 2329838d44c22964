"""Runs .tflite files in LiteRT's interpreter on the CPU, and reads their metadata without it.

Writing them is in `effdet/exporting/litert_file.py`.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet.boxes import decode_boxes
from effdet.errors import ConfigError, WeightsError
from effdet.files import read_bytes
from effdet.models import EfficientDetSpec
from effdet.models.anchors import anchor_boxes
from effdet.models.efficientdet import MIN_LEVEL
from effdet.runtimes.exported import Graph
from effdet.text import reason_of
from effdet.types import Face
from effdet.weights.exported import KEY, ExportCard, read_export_card

IDENTIFIER = b"TFL3"  # of the file format, in bytes 4 to 8
_BUFFERS, _METADATA = 4, 6  # fields of the table `Model` of the format
Reader = Callable[[list[NDArray[Any]]], dict[str, NDArray[np.generic]]]  # outputs in order to outputs by our names


def read_metadata(path: Path) -> str | None:
    """The JSON text of this package in a .tflite file; None if it has none. LiteRT is not needed.

    Raises:
        WeightsError: the file is damaged or not a .tflite file.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        if content[4:8] != IDENTIFIER:
            raise ValueError("another identifier")
        model = _pointed(content, 0)
        buffers = _vector(content, _field(content, model, _BUFFERS))
        for entry in _vector(content, _field(content, model, _METADATA)):
            if _bytes(content, _field(content, entry, 0)) == KEY.encode():
                number = _field(content, entry, 1)
                index = 0 if number is None else struct.unpack_from("<I", content, number)[0]
                return _bytes(content, _field(content, buffers[index], 0)).decode("utf-8")
    except (struct.error, ValueError, IndexError):
        raise WeightsError(f"{path}: damaged or not a .tflite file; export it again") from None
    return None


def device_of(device: torch.device) -> torch.device:
    """The CPU: LiteRT computes there."""
    return torch.device("cpu")


def open_graph(path: Path, device: torch.device, threads: int | None = None) -> Graph:
    """The graph of a .tflite file, ready to run on the CPU.

    The outputs of the face "coral" are given as those of "detections", and of "mediapipe" as those of "raw".

    Args:
        path: the file.
        device: not used: LiteRT computes on the CPU.
        threads: of one call; None for as many as PyTorch uses.

    Raises:
        ConfigError: ai-edge-litert is not installed.
        WeightsError: LiteRT cannot run the file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise ConfigError(
            f'{path}: ai-edge-litert is not installed; run pip install "efficientdet-torch[litert]"'
        ) from None
    text = read_metadata(path)
    reader = None if text is None else _reader(read_export_card(text, path))
    try:
        with quiet_libraries():
            interpreter: Any = Interpreter(os.fspath(path), num_threads=threads or torch.get_num_threads())
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: LiteRT cannot run it: {reason_of(error)}") from None
    image_input = interpreter.get_input_details()[0]["index"]
    outputs = interpreter.get_output_details()

    def run(images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        interpreter.set_tensor(image_input, images)
        interpreter.invoke()
        values = [interpreter.get_tensor(output["index"]) for output in outputs]
        if reader is not None:
            return reader(values)
        return {output["name"]: value for output, value in zip(outputs, values, strict=True)}

    return run


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within it, what C++ libraries write to the standard error is not shown; LiteRT cannot be asked to log less.

    Errors of LiteRT are raised besides.
    """
    with _standard_error:
        try:
            saved = os.dup(2)
        except OSError:  # a service without standard error
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


_standard_error = threading.RLock()  # redirections of two threads must not overlap


def _reader(export: ExportCard) -> Reader:
    """How the outputs of a face are read."""
    if export.face == "coral":
        return _coral_reader(export.image_size)
    if export.face == "mediapipe":
        return _mediapipe_reader(export)
    names = _OUTPUTS[export.face]
    return lambda outputs: dict(zip(names, outputs, strict=True))


_OUTPUTS: dict[Face, tuple[str, ...]] = {
    "raw": ("class_logits", "boxes"),
    "logits": ("logits",),
    "features": ("c3", "c4", "c5"),
}


def _coral_reader(image_size: tuple[int, int]) -> Reader:
    height, width = image_size
    sides = np.array([width, height, width, height], np.float32)

    def read(outputs: list[NDArray[Any]]) -> dict[str, NDArray[np.generic]]:
        boxes, classes, scores, count = outputs
        return {
            "boxes": boxes[..., [1, 0, 3, 2]] * sides,
            "scores": scores,
            "labels": classes.astype(np.int64),
            "counts": count.astype(np.int64),
        }

    return read


def _mediapipe_reader(export: ExportCard) -> Reader:
    anchors = _anchors(export)

    def read(outputs: list[NDArray[Any]]) -> dict[str, NDArray[np.generic]]:
        location, score = outputs
        deltas = torch.from_numpy(location[..., [1, 0, 3, 2]])
        return {"class_logits": score, "boxes": decode_boxes(deltas, anchors).numpy()}

    return read


def _anchors(export: ExportCard) -> Tensor:
    spec = export.model.spec
    assert isinstance(spec, EfficientDetSpec)
    return anchor_boxes(spec.image_size, MIN_LEVEL, spec.max_level, spec.anchor_scale, spec.anchor_aspects)


# The layout of flatbuffers: a table starts with the signed distance to its list of fields, which has 16-bit numbers:
# its size, the size of the table, and for each field its distance from the table's start, 0 for a field without value.


def _pointed(content: bytes, position: int) -> int:
    """The position that an offset at a position points to."""
    return position + int(struct.unpack_from("<I", content, position)[0])


def _field(content: bytes, table: int, number: int) -> int | None:
    """Position of a field of a table, None if it has no value."""
    fields = table - int(struct.unpack_from("<i", content, table)[0])
    if fields < 0 or 4 + 2 * number >= struct.unpack_from("<H", content, fields)[0]:
        return None
    distance = int(struct.unpack_from("<H", content, fields + 4 + 2 * number)[0])
    return table + distance if distance else None


def _vector(content: bytes, field: int | None) -> list[int]:
    """Positions of the tables of a vector."""
    if field is None:
        return []
    start = _pointed(content, field)
    (count,) = struct.unpack_from("<I", content, start)
    if start + 4 + 4 * count > len(content):
        raise ValueError(f"a vector of {count} tables")
    return [_pointed(content, start + 4 + 4 * index) for index in range(count)]


def _bytes(content: bytes, field: int | None) -> bytes:
    """A vector of bytes, or a string."""
    if field is None:
        return b""
    start = _pointed(content, field)
    (count,) = struct.unpack_from("<I", content, start)
    if start + 4 + count > len(content):
        raise ValueError(f"{count} bytes")
    return content[start + 4 : start + 4 + count]
