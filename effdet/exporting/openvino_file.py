"""Writes files of OpenVINO (.xml with a .bin beside it), made from the ONNX file of the same model.

Running them is in `effdet/runtimes/openvino_file.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from effdet.errors import ExportError
from effdet.exporting.disk import disk_errors_named, folder_beside
from effdet.exporting.onnx_file import check_installed, write_onnx
from effdet.exporting.plain_metadata import metadata_of
from effdet.files import atomic_write
from effdet.models import EfficientDet, EfficientNet
from effdet.weights.exported import ExportCard


def write_openvino(model: EfficientDet | EfficientNet, export: ExportCard, path: Path) -> None:
    """Writes a model for OpenVINO; inputs, outputs and precisions are those of `write_onnx`.

    Args:
        model: a detector or a classifier, which stays as it is.
        export: what the file says about itself.
        path: the .xml file; the weights are written to the .bin file beside it.

    Raises:
        ConfigError: packages are missing, or the model has no such face.
        ExportError: OpenVINO has no such operator, or the files cannot be written.
    """
    check_installed("openvino", extra="openvino")
    with folder_beside(path) as folder:
        write_onnx(model, export, folder / "model.onnx", for_openvino=True)
        convert_onnx(folder / "model.onnx", metadata_of(export), path)


def convert_onnx(source: Path, metadata: Mapping[str, str], path: Path) -> None:
    """Writes an ONNX file as files of OpenVINO, with metadata.

    Raises:
        ExportError: OpenVINO has no such operator, or the files cannot be written.
    """
    import openvino

    try:
        with folder_beside(path) as folder:
            graph = openvino.Core().read_model(source)  # convert_model has telemetry, which may use the network
            for key, text in metadata.items():
                graph.set_rt_info(text, key)
            openvino.save_model(graph, folder / path.name, compress_to_fp16=False)
            del graph  # it may still read the weights
            os.replace((folder / path.name).with_suffix(".bin"), path.with_suffix(".bin"))
            os.replace(folder / path.name, path)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-300:]
        raise ExportError(f"OpenVINO {openvino.__version__} cannot convert the model: {reason}") from error


def store_card(path: Path, export: ExportCard) -> None:
    """Replaces what a file of OpenVINO says about itself; the weights stay as they are.

    Raises:
        ExportError: the file cannot be written.
    """
    tree = ElementTree.parse(path)
    info = tree.getroot().find("rt_info")
    assert info is not None
    for key, text in metadata_of(export).items():
        entry = info.find(key)
        if entry is None:
            entry = ElementTree.SubElement(info, key)
        entry.set("value", text)
    with disk_errors_named(path), atomic_write(path) as partial:
        tree.write(partial, encoding="utf-8", xml_declaration=True)
