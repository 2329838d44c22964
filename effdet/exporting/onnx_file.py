"""Writes ONNX files by torch's exporter, with readable names of outputs and operators and with metadata.

NMS is in `onnx_nms.py`. Running ONNX files is in `effdet/runtimes/onnx_file.py`.
"""

from __future__ import annotations

import ast
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from effdet.errors import ConfigError, ExportError
from effdet.exporting.disk import disk_errors_named
from effdet.exporting.network import exported_network, traced
from effdet.exporting.onnx_nms import suppression, translations
from effdet.exporting.plain_metadata import metadata_of
from effdet.files import atomic_write
from effdet.models import EfficientDet, EfficientNet
from effdet.version import __version__
from effdet.weights.exported import ExportCard

OPSET = 18  # the one that torch's exporter writes; all current runtimes read it
LARGEST_HALF = 65504.0  # of float16
_WEIGHTED = ("Conv", "Gemm", "MatMul")


def write_onnx(model: EfficientDet | EfficientNet, export: ExportCard, path: Path, for_openvino: bool = False) -> None:
    """Writes an ONNX file of a model. Its input is `images`, uint8 [B, H, W, C]; its outputs are those of the face.

    With the precision float16 the weights are stored as float16 and the arithmetic is float32, so that it runs
    everywhere. Nothing is left on an error.

    Args:
        model: a detector or a classifier, which stays as it is.
        export: what the file says about itself: face, batch size, image size and options are read from it.
        path: the file.
        for_openvino: whether the operators that find the candidates are those which are fastest in OpenVINO, not in
            ONNX Runtime.

    Raises:
        ConfigError: packages are missing, or the model has no such face.
        ExportError: ONNX has no such operator, or the file cannot be written.
    """
    check_installed("onnx", "onnxscript")
    content = onnx_model(model, export, for_openvino)
    write_content(content, path)


def store_card(path: Path, export: ExportCard) -> None:
    """Replaces what an ONNX file says about itself.

    Raises:
        ConfigError: a package is missing.
        ExportError: the file cannot be written.
    """
    check_installed("onnx")
    import onnx

    content = onnx.load(path)
    _set_metadata(content, export)
    write_content(content, path)


def check_installed(*packages: str, extra: str = "onnx") -> None:
    """Raises ConfigError if a package is not installed; the message says which extra brings it."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed; "
            f'run pip install "efficientdet-torch[{extra}]"'
        )


def onnx_model(model: EfficientDet | EfficientNet, export: ExportCard, for_openvino: bool = False) -> Any:
    """The content of the file, an `onnx.ModelProto`; see `write_onnx`."""
    network = exported_network(model, export, suppression(len(export.model.class_names)), in_groups=not for_openvino)
    height, width = export.image_size
    batch = export.batch_size or 2
    images = torch.zeros(batch, height, width, model.spec.in_channels, dtype=torch.uint8)
    dynamic = {"images": {0: torch.export.Dim("batch", min=1)}} if export.batch_size is None else None
    with _quiet(), torch.no_grad():
        program = traced(network, images, dynamic)
        try:
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=list(network.names),
                dynamic_shapes=dynamic,
                custom_translation_table=translations(),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(_untranslated(error, program)) from error
        assert converted is not None
        content = converted.model_proto
    _rename_nodes(content)
    _pad_pools(content)
    if export.precision == "float16":
        _store_halves(content)
    content.producer_name, content.producer_version = "efficientdet-torch", __version__
    _set_metadata(content, export)
    return content


@contextmanager
def without_logs(level: int) -> Iterator[None]:
    """Within it, log messages up to a level are not printed."""
    disabled = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, warnings and log messages of torch's exporter are not printed."""
    with without_logs(logging.CRITICAL), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _untranslated(error: BaseException, program: torch.export.ExportedProgram) -> str:
    """Which operator of which layer ONNX does not have, from the errors of the exporter."""
    reason = ""
    last: BaseException | None = error
    while last is not None:
        reason = re.sub(r"\s+", " ", str(last)) or reason
        match = re.search(r"target=(?:torch\.ops\.)?([\w.]+)", str(last))
        if match:
            layer = _layer_of(match[1], program)
            return f"ONNX opset {OPSET} has no operator for {match[1]}{layer}; replace that layer or use another format"
        last = last.__cause__
    return f"the model cannot be written as ONNX: {reason[:300]}"


def _layer_of(operator: str, program: torch.export.ExportedProgram) -> str:
    """Such as " of the layer backbone.blocks.0"; empty if unknown."""
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack and str(node.target) == operator:
            return f" of the layer {_short(list(stack.values())[-1][0])}"
    return ""


def _short(module: str) -> str:
    """The path of a module in the model, from its path in the exported network."""
    return module.removeprefix("network.")


def _rename_nodes(content: Any) -> None:
    """Names operators and weights after their layers and removes traces of Python code, which hold local paths."""
    graph = content.graph
    used: Counter[str] = Counter()
    for node in graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope not in ("", "network")]
        name = f"{_short(modules[-1]) if modules else 'outputs'}/{node.op_type}"
        used[name] += 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"
        node.input[:] = [_short(value) for value in node.input]
        node.doc_string = ""
    for tensor in graph.initializer:
        tensor.name = _short(tensor.name)
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
    graph.name = "effdet"


def _pad_pools(content: Any) -> None:
    """Writes the padding of max-pools 3x3 with stride 2 as numbers of pixels instead of `ceil_mode`.

    An axis without padding has an even size and gets a pixel at its end. OpenVINO crashes on `ceil_mode` for features
    smaller than the kernel.
    """
    for node in content.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "MaxPool" and attributes["ceil_mode"].i:
            before = attributes["pads"].ints[:2]
            attributes["ceil_mode"].i = 0
            attributes["pads"].ints[:] = [*before, 1, 1]


def _store_halves(content: Any) -> None:
    """Stores the weights of convolutions and linear layers as float16, each with a cast to float32."""
    import numpy as np
    import onnx

    weights = {node.input[1]: node.name for node in content.graph.node if node.op_type in _WEIGHTED}
    casts = []
    for tensor in content.graph.initializer:
        if tensor.name not in weights or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if np.abs(values).max() > LARGEST_HALF:
            raise ExportError(
                f"{weights[tensor.name]}: has weights beyond {LARGEST_HALF:.0f}, the largest of float16; use float32"
            )
        name = f"{tensor.name}.float16"
        casts.append(
            onnx.helper.make_node("Cast", [name], [tensor.name], to=onnx.TensorProto.FLOAT, name=f"{name}/Cast")
        )
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name))
    nodes = [*casts, *content.graph.node]
    del content.graph.node[:]
    content.graph.node.extend(nodes)


def _set_metadata(content: Any, export: ExportCard) -> None:
    del content.metadata_props[:]
    for key, text in metadata_of(export).items():
        content.metadata_props.add(key=key, value=text)


def write_content(content: Any, path: Path) -> None:
    """Writes an `onnx.ModelProto`.

    Raises:
        ExportError: the file cannot be written.
    """
    with disk_errors_named(path), atomic_write(path) as partial:
        partial.write_bytes(content.SerializeToString())
