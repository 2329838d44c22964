"""Opens anything that runs: a checkpoint, a name of public weights, or an exported file, told apart by its suffix.

Running is in the modules beside this one. A module of exported files has three functions: `read_metadata(path)` gives
the JSON text in a file without the runtime, or None; `device_of(device)` gives the device where a file runs if `device`
is asked for; `open_graph(path, device, threads)` gives the graph, ready to run on it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from effdet.devices import inference_dtype
from effdet.errors import ConfigError, WeightsError
from effdet.files import full_path
from effdet.runtimes.exported import ExportedRuntime, Graph
from effdet.runtimes.metadata import EXPECTED, describe_graph, read_description
from effdet.runtimes.pytorch import TorchRuntime
from effdet.runtimes.runtime import Runtime
from effdet.types import Precision
from effdet.weights.card import ModelCard
from effdet.weights.create import open_checkpoint
from effdet.weights.exported import ExportCard, read_export_card

# The module of each suffix of exported files.
EXPORTED = {".onnx": "onnx_file", ".xml": "openvino_file", ".tflite": "litert_file", ".pt2": "program"}
log = logging.getLogger("effdet")
KINDS = ".pt (checkpoint), .onnx, .xml (OpenVINO), .tflite (LiteRT) and .pt2 (torch.export)"


class ModelFile(NamedTuple):
    """A model that was read and does not run yet.

    Attributes:
        card: of the model.
        start: makes it ready to run on a device in a precision; exported files have a precision of their own.
        exported: whether it is an exported file.
    """

    card: ModelCard
    start: Callable[[torch.device, Precision], Runtime]
    exported: bool = False


def open_model(weights: str | Path, *, threads: int | None = None, metadata: str | Path | None = None) -> ModelFile:
    """The model of a checkpoint, of a name of public weights, or of an exported file.

    Args:
        weights: a file, or the name of public weights.
        threads: CPU threads of the runtime; None for its own choice.
        metadata: what describes an exported file that does not describe itself: the checkpoint that was exported, or a
            JSON file with the text that `ExportCard.to_json` gives.

    Raises:
        WeightsError: the file is missing, damaged or of an unknown kind, or the public weights are not available.
        ConfigError: an argument does not fit the kind of file.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; expected at least 1")
    path = full_path(weights)
    if path.suffix.lower() in EXPORTED:
        return _exported(path, threads, metadata)
    if metadata is not None:
        raise ConfigError(f"metadata is for exported files, but {weights} is not one; leave it out")
    checkpoint = _checkpoint(weights, path)

    def start(device: torch.device, precision: Precision = "auto") -> Runtime:
        if threads is not None:
            torch.set_num_threads(threads)
        return TorchRuntime(checkpoint.model, checkpoint.card, device, inference_dtype(precision, device))

    return ModelFile(checkpoint.card, start)


def _checkpoint(weights: str | Path, path: Path) -> Any:
    """The checkpoint; a file of another kind is refused with the kinds that can be read."""
    if path.is_file() and path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        raise WeightsError(f"{path}: holds the weights of {path.with_suffix('.xml')}; give that file")
    try:
        return open_checkpoint(weights)
    except WeightsError as error:
        if not path.is_file() or path.suffix in (".pt", ".pth"):
            raise
        raise WeightsError(f"{error}; files that can be opened end in {KINDS}") from None


def _exported(path: Path, threads: int | None, metadata: str | Path | None) -> ModelFile:
    """The model of an exported file."""
    if not path.is_file():
        beside = sorted(other.name for other in path.parent.glob("*") if other.suffix.lower() in EXPORTED)
        held = f"{path.parent} has {', '.join(beside[:8])}" if beside else "write it with: effdet export"
        raise WeightsError(f"{path}: no such file; {held}")
    module = runtime_module(path)
    text = module.read_metadata(path) if metadata is None else None
    if metadata is not None and Path(metadata).suffix.lower() in EXPORTED:
        raise ConfigError(f"{metadata}: is an exported file; {EXPECTED}")
    if metadata is not None:
        described = read_description(metadata)
    elif text is not None:
        described = read_export_card(text, path)
    else:
        raise WeightsError(
            f"{path}: has no metadata of this package, which says the classes, the input and the thresholds; give "
            "--metadata best.pt (the checkpoint that was exported) or --metadata FILE.json with its metadata"
        )

    def start(device: torch.device, precision: Precision = "auto") -> Runtime:
        graph: Graph = module.open_graph(path, device, threads)
        runs_on: torch.device = module.device_of(device)
        if runs_on != device:
            log.warning("%s: runs on the %s, because its runtime does not use %s here", path, runs_on, device)
        export = described
        if not isinstance(export, ExportCard):
            export = describe_graph(graph, export, str(path))
        if precision != "auto":
            raise ConfigError(f"precision is {precision}, but {path} has its own, {export.precision}; leave it out")
        return ExportedRuntime(graph, export, runs_on, str(path))

    return ModelFile(described.model if isinstance(described, ExportCard) else described, start, exported=True)


def runtime_module(path: Path) -> Any:
    """The module that reads and runs an exported file."""
    return importlib.import_module(f"effdet.runtimes.{EXPORTED[path.suffix.lower()]}")
