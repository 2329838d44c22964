"""The table of file formats: what each can hold, and the functions that write it.

The order of an export is in `pipeline.py`. A new format is a row in `FORMATS` and, to run it, a row in the table of
`effdet/runtimes/opening.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from effdet.data.images import Image
from effdet.exporting.disk import folder_beside
from effdet.exporting.sensitivity import Quantization
from effdet.models import EfficientDet, EfficientNet
from effdet.types import ExportFormat, Face, StoredPrecision, Task
from effdet.weights.exported import ExportCard

Show = Callable[[str], None]  # shows a line about progress

# Writes a model to a new file, calibrated with images [H, W, C] where the precision is int8. It gives what the file
# says about itself, in which a format may have changed what it cannot do as asked.
Write = Callable[[EfficientDet | EfficientNet, ExportCard, Path, Iterable[Image], Show], ExportCard]


class Format(NamedTuple):
    """A file format.

    Attributes:
        suffix: of its files.
        precisions: that it can have.
        faces: of a detector; the first is the default.
        write: writes a file.
        store_card: replaces what a file says about itself.
        packages: distributions that write and run it, for the record.
        others: suffixes of files that belong to a file.
    """

    suffix: str
    precisions: tuple[StoredPrecision, ...]
    faces: tuple[Face, ...]
    write: Write
    store_card: Callable[[Path, ExportCard], None]
    packages: tuple[str, ...]
    others: tuple[str, ...] = ()


CLASSIFIER_FACES: tuple[Face, ...] = ("logits", "features")


def faces_of(format_name: ExportFormat, task: Task) -> tuple[Face, ...]:
    """The faces that a file of a model of a task can have, the default first."""
    return FORMATS[format_name].faces if task == "detection" else CLASSIFIER_FACES


def _write_onnx(
    model: EfficientDet | EfficientNet, export: ExportCard, path: Path, calibration: Iterable[Image], show: Show
) -> ExportCard:
    from effdet.exporting.onnx_file import write_onnx
    from effdet.exporting.quantize_onnx import quantize_onnx

    if export.precision == "int8":
        _write_int8(quantize_onnx, partial(write_onnx, model, export), path, calibration, show)
    else:
        write_onnx(model, export, path)
    return export


def _write_openvino(
    model: EfficientDet | EfficientNet, export: ExportCard, path: Path, calibration: Iterable[Image], show: Show
) -> ExportCard:
    from effdet.exporting.onnx_file import write_onnx
    from effdet.exporting.openvino_file import write_openvino
    from effdet.exporting.quantize_openvino import quantize_openvino

    if export.precision == "int8":
        write_float = partial(write_onnx, model, export, for_openvino=True)
        _write_int8(quantize_openvino, write_float, path, calibration, show)
    else:
        write_openvino(model, export, path)
    return export


def _write_int8(
    quantize: Callable[[Path, Path, Iterable[Image]], Quantization],
    write_float: Callable[[Path], None],
    path: Path,
    calibration: Iterable[Image],
    show: Show,
) -> None:
    """Writes an int8 file by a function that reads a float ONNX file, and shows what it says about the result."""
    with folder_beside(path) as folder:
        write_float(folder / "float.onnx")
        for line in quantize(folder / "float.onnx", path, calibration).lines():
            show(line)


def _write_litert(
    model: EfficientDet | EfficientNet, export: ExportCard, path: Path, calibration: Iterable[Image], show: Show
) -> ExportCard:
    from effdet.exporting.litert_file import write_litert

    return write_litert(model, export, path, calibration)


def _write_program(
    model: EfficientDet | EfficientNet, export: ExportCard, path: Path, calibration: Iterable[Image], show: Show
) -> ExportCard:
    from effdet.exporting.program_file import write_program

    write_program(model, export, path)
    return export


def _store_in_onnx(path: Path, export: ExportCard) -> None:
    from effdet.exporting.onnx_file import store_card

    store_card(path, export)


def _store_in_openvino(path: Path, export: ExportCard) -> None:
    from effdet.exporting.openvino_file import store_card

    store_card(path, export)


def _store_in_litert(path: Path, export: ExportCard) -> None:
    from effdet.exporting.litert_file import store_card

    store_card(path, export)


def _store_in_program(path: Path, export: ExportCard) -> None:
    from effdet.exporting.program_file import store_card

    store_card(path, export)


_OUTPUTS: tuple[Face, ...] = ("detections", "raw", "features")
FORMATS: dict[ExportFormat, Format] = {
    "onnx": Format(
        suffix=".onnx",
        precisions=("float32", "float16", "int8"),
        faces=_OUTPUTS,
        write=_write_onnx,
        store_card=_store_in_onnx,
        packages=("onnx", "onnxscript", "onnxruntime"),
    ),
    "openvino": Format(
        suffix=".xml",
        precisions=("float32", "float16", "int8"),
        faces=_OUTPUTS,
        write=_write_openvino,
        store_card=_store_in_openvino,
        packages=("onnx", "openvino"),
        others=(".bin",),
    ),
    "litert": Format(
        suffix=".tflite",
        precisions=("float32", "float16", "dynamic-int8", "int8"),
        faces=("raw", "coral", "mediapipe", "features"),
        write=_write_litert,
        store_card=_store_in_litert,
        packages=("litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
    ),
    "torch": Format(
        suffix=".pt2",
        precisions=("float32",),
        faces=_OUTPUTS,
        write=_write_program,
        store_card=_store_in_program,
        packages=("torchvision",),
    ),
}
