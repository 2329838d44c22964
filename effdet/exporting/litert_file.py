"""From a network to a .tflite file, converted by litert-torch: for phones, Coral, Frigate and MediaPipe Tasks.

Operators behind the network, quantization and metadata have files of their own beside this one. litert-torch allows
only old versions of typing_extensions, through xdsl: install the extra `litert` after everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effdet.errors import ConfigError, ExportError
from effdet.exporting.disk import disk_errors_named
from effdet.exporting.litert_faces import CORAL_OUTPUTS, add_coral_postprocess, add_decoding, normalized_anchors
from effdet.exporting.litert_flatbuffer import (
    LiteRTGraph,
    correct_nearest_resizing,
    not_installed,
    quiet,
    remove_input_transposes,
)
from effdet.exporting.litert_metadata import NAME, detector_metadata, with_labels
from effdet.exporting.litert_quantize import INPUT, finish_int8, quantize
from effdet.files import atomic_write
from effdet.models import EfficientDet, EfficientNet
from effdet.models.folding import fold
from effdet.types import Face
from effdet.weights.exported import KEY, ExportCard

FACES: tuple[Face, ...] = ("raw", "coral", "mediapipe", "logits", "features")
_SWAPPED: tuple[Face, ...] = ("coral", "mediapipe")  # whose deltas are dy, dx, dh, dw
MEDIAPIPE_THRESHOLD = 0.3  # confidence in the metadata; programs give their own


def write_litert(
    model: EfficientDet | EfficientNet,
    export: ExportCard,
    path: Path,
    calibration: Iterable[NDArray[np.uint8]] = (),
) -> ExportCard:
    """Writes a .tflite file of a model. Its input is `images`, uint8 RGB [B, H, W, 3], normalization inside.

    Outputs by face, all float32:
        raw: class_logits [B, A, K], boxes [B, A, 4] xyxy in pixels of the input.
        coral: boxes [1, M, 4] as (ymin, xmin, ymax, xmax) divided by the sides of the image, classes [1, M], scores
            [1, M] and count [1], of the operator TFLite_Detection_PostProcess. With int8, Coral's compiler maps the
            network to the Edge TPU: `edgetpu_compiler FILE`.
        mediapipe: location [1, A, 4] as deltas (dy, dx, dh, dw), score [1, A, K] as logits; anchors, labels and how to
            decode them are in the metadata.
        logits: logits [B, K] of a classifier.
        features: c3, c4, c5 [B, C, H', W'].

    Args:
        model: the model, of which a folded copy is converted.
        export: what the file says about itself; it decides face, precision, batch size and post-processing.
        path: the file.
        calibration: for int8, images [H, W, 3] uint8 RGB at the size of the input.

    Returns:
        What the file says about itself: for the face "coral" with NMS over the boxes of all classes, see
        `add_coral_postprocess`.

    Raises:
        ConfigError: litert-torch is not installed, or the face does not fit the model, the batch size or the
            post-processing.
        ExportError: the model has an operator that LiteRT does not have; the message names it and its layer.
    """
    _check(model, export)
    if export.postprocess is not None:
        export = replace(export, postprocess=replace(export.postprocess, nms="agnostic"))
    size, num_classes = export.image_size, len(export.model.class_names)
    uniform = _uniform_normalization(model) if export.precision == "int8" else None
    network = _Network(model, export.face, export.precision == "int8", uniform is not None).eval()
    batch = export.batch_size or 1
    content = _convert(network, (batch, *size, model.spec.in_channels))
    graph = LiteRTGraph(content)
    remove_input_transposes(graph)
    correct_nearest_resizing(graph)
    graph.name_tensors([INPUT], list(network.names))
    mean, std = uniform or (0.0, 1.0)
    content = quantize(graph.content(), export.precision, calibration, mean, std)
    graph = LiteRTGraph(content)
    if export.precision == "int8":
        finish_int8(graph)
    _add_face(graph, model, export, size, num_classes)
    _write(graph, export, path)
    return export


def store_card(path: Path, export: ExportCard) -> None:
    """Replaces what a .tflite file says about itself.

    Raises:
        ConfigError: ai-edge-litert is not installed.
    """
    _write(LiteRTGraph(path.read_bytes()), export, path)


def _write(graph: LiteRTGraph, export: ExportCard, path: Path) -> None:
    graph.set_metadata(KEY, export.to_json().encode())
    content = graph.content()
    if export.face == "mediapipe":
        content = with_labels(content, export.model.class_names)
    with disk_errors_named(path), atomic_write(path) as partial:
        partial.write_bytes(content)


def _check(model: EfficientDet | EfficientNet, export: ExportCard) -> None:
    """Raises ConfigError if the face does not fit the model, the batch size or the post-processing."""
    detector = isinstance(model, EfficientDet)
    fitting: tuple[Face, ...] = ("raw", "coral", "mediapipe", "features") if detector else ("logits", "features")
    if export.face not in fitting:
        raise ConfigError(
            f"LiteRT has no face '{export.face}' for a {'detector' if detector else 'classifier'}; give one of "
            f"{', '.join(fitting)}"
        )
    if export.batch_size is None:
        raise ConfigError("LiteRT files have a fixed batch size; give one, such as 1")
    if export.face in _SWAPPED and export.batch_size != 1:
        raise ConfigError(f"the face '{export.face}' has one image per call, got a batch size of {export.batch_size}")
    if (export.postprocess is None) == (export.face == "coral"):
        raise ConfigError(f"the face '{export.face}' {'needs' if export.face == 'coral' else 'has no'} post-processing")
    if export.postprocess is not None and export.postprocess.nms == "soft":
        raise ConfigError("the face 'coral' has no soft-NMS; give postprocess.nms=agnostic, or export with --face raw")


class _Network(nn.Module):
    """The network before its face: images [B, H, W, C] to raw outputs.

    Its input is uint8, or float for int8: normalised images if `normalized`, else 0..255.
    """

    def __init__(self, model: EfficientDet | EfficientNet, face: Face, quantized: bool, normalized: bool) -> None:
        super().__init__()
        self.network: Any = fold(model)
        self.features_only = face == "features"
        self.quantized = quantized
        detector = isinstance(model, EfficientDet)
        self.names = ("c3", "c4", "c5") if self.features_only else (_RAW_NAMES if detector else ("logits",))
        if face in _SWAPPED:
            _swap_deltas(self.network)
        backbone = self.network.backbone
        if quantized:
            self.scale: Any = None if normalized else _normalization(backbone.mean, backbone.std)
            backbone.mean.zero_()
            backbone.std.fill_(1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs by `names`."""
        images = images.permute(0, 3, 1, 2)
        if self.quantized and self.scale is not None:
            images = self.scale(images)
        if self.features_only:
            return tuple(self.network.backbone.features(images))
        outputs = self.network(images)
        return (outputs,) if isinstance(outputs, Tensor) else (outputs.class_logits, outputs.box_deltas)


_RAW_NAMES = ("class_logits", "box_deltas")


def _uniform_normalization(model: EfficientDet | EfficientNet) -> tuple[float, float] | None:
    """Mean and standard deviation if they are the same for all channels, so that quantized pixels are normalised."""
    mean, std = model.backbone.mean, model.backbone.std
    if bool((mean == mean[0]).all()) and bool((std == std[0]).all()):
        return float(mean[0]), float(std[0])
    return None


def _normalization(mean: Tensor, std: Tensor) -> nn.Conv2d:
    """The normalization of images 0..255 as a convolution, which can be quantized."""
    channels = len(mean)
    conv = nn.Conv2d(channels, channels, 1, groups=channels).requires_grad_(False)
    conv.weight.copy_((1 / std)[:, None, None, None])
    assert conv.bias is not None
    conv.bias.copy_(-mean / std)
    return conv


def _swap_deltas(network: Any) -> None:
    """Reorders the outputs of the box head from dx, dy, dw, dh to dy, dx, dh, dw."""
    conv = network.box_head.predict.pointwise
    order = torch.arange(conv.out_channels).view(-1, 2, 2).flip(2).flatten()
    conv.weight, conv.bias = (nn.Parameter(values[order], requires_grad=False) for values in (conv.weight, conv.bias))


def _convert(network: _Network, shape: tuple[int, ...]) -> bytes:
    """The content of the .tflite file of a network, with the input [B, H, W, C]."""
    try:
        with quiet():
            import litert_torch
    except ImportError:
        raise not_installed("litert-torch") from None
    images = torch.zeros(shape, dtype=torch.float32 if network.quantized else torch.uint8)
    with quiet(), torch.no_grad():
        try:
            return bytes(litert_torch.convert(network, (images,)).model_content())
        except (RuntimeError, NotImplementedError, ValueError) as error:
            reason = _reason(error, network, images)
    raise ExportError(f"LiteRT cannot run this model: {reason}")


def _reason(error: Exception, network: nn.Module, images: Tensor) -> str:
    """Why a network was not converted: the operator and its layer, or the first line of the error."""
    missing = re.search(r"Lowering not found: (\S+)", str(error))
    if missing is None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    operator = missing[1]
    program = torch.export.export(network, (images,)).run_decompositions()
    for node in program.graph.nodes:
        layers = node.meta.get("nn_module_stack")
        if str(node.target) == operator and layers:
            path = list(layers.values())[-1][0]
            return f"it has no operator for {operator}, which the layer '{path}' needs"
    return f"it has no operator for {operator}"


def _add_face(
    graph: LiteRTGraph,
    model: EfficientDet | EfficientNet,
    export: ExportCard,
    size: tuple[int, int],
    num_classes: int,
) -> None:
    """Adds what the face needs behind the network, and names inputs and outputs."""
    names = [tensor.name for tensor in (graph.subgraph.tensors[number] for number in graph.subgraph.outputs)]
    if not isinstance(model, EfficientDet) or export.face == "features":
        graph.name_tensors([INPUT], [name if isinstance(name, str) else name.decode() for name in names])
        return
    class_logits, deltas = (int(tensor) for tensor in graph.subgraph.outputs)
    anchors = model.anchors_at(size).cpu().numpy()
    swapped = normalized_anchors(anchors, size)
    if export.face == "raw":
        boxes = add_decoding(graph, deltas, anchors)
        graph.subgraph.outputs = [class_logits, boxes]
        graph.name_tensors([INPUT], ["class_logits", "boxes"])
    elif export.face == "coral":
        assert export.postprocess is not None
        graph.subgraph.outputs = add_coral_postprocess(
            graph, class_logits, deltas, swapped, num_classes, export.postprocess
        )
        graph.model.signatureDefs = None  # Coral's library would look for outputs by the names of a signature
        graph.name_tensors([INPUT], list(CORAL_OUTPUTS))
    else:
        graph.subgraph.outputs = [deltas, class_logits]
        graph.name_tensors([INPUT], ["location", "score"])
        metadata = detector_metadata(swapped, num_classes, MEDIAPIPE_THRESHOLD, export.model.spec.name, 0.0, 1.0)
        graph.set_metadata(NAME, metadata)
