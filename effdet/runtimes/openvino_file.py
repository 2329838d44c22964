"""Runs files of OpenVINO (.xml with a .bin beside it) on the CPU, and reads their metadata without OpenVINO.

Writing them is in `effdet/exporting/openvino_file.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray

from effdet.errors import ConfigError, WeightsError
from effdet.plain_data import shortened
from effdet.runtimes.exported import Graph
from effdet.weights.exported import KEY

_LONGEST = 600  # characters of a message of OpenVINO


def read_metadata(path: Path) -> str | None:
    """The JSON text of this package in a file of OpenVINO; None if it has none. OpenVINO is not needed.

    Raises:
        WeightsError: the file is damaged, not one of OpenVINO, or its weights are missing.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    except ElementTree.ParseError as error:
        raise WeightsError(f"{path}: damaged ({error}); export it again") from None
    if root.tag != "net" or "version" not in root.attrib:
        raise WeightsError(f"{path}: not a model of OpenVINO; expected the .xml file of one")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise WeightsError(f"{path}: its weights are missing; copy {weights.name} to the same folder")
    entry = root.find(f"rt_info/{KEY}")
    return None if entry is None else entry.get("value")


def device_of(device: torch.device) -> torch.device:
    """The CPU, where files of OpenVINO run."""
    return torch.device("cpu")


def open_graph(path: Path, device: torch.device, threads: int | None = None) -> Graph:
    """The graph of a file of OpenVINO, ready to run on the CPU.

    The arithmetic of float weights is float32, on processors with bfloat16 too.

    Args:
        path: the .xml file.
        device: not used.
        threads: threads of one call; None for the runtime's own choice.

    Raises:
        ConfigError: OpenVINO is not installed.
        WeightsError: OpenVINO cannot run the file.
    """
    try:
        import openvino
    except ImportError:
        raise ConfigError(
            f'{path}: openvino is not installed; run pip install "efficientdet-torch[openvino]"'
        ) from None
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: OpenVINO {openvino.__version__} cannot run it: {_reason(error)}; update openvino or export the "
            "file again"
        ) from None
    request = compiled.create_infer_request()
    names = [output.any_name for output in compiled.outputs]

    def run(images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        results = request.infer([images], share_inputs=True)
        return {name: results[index] for index, name in enumerate(names)}

    return run


def _reason(error: RuntimeError) -> str:
    """The last line of a message of OpenVINO, which says what failed; those before it are places in its code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[-1].rstrip("."), _LONGEST) if lines else "unknown"
