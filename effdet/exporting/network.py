"""The network as it is exported: uint8 images in the order of image files, and the outputs of each face.

Writers of file formats are in the modules beside this one; what the faces mean is at `effdet.types.Face`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from effdet.boxes import decode_boxes
from effdet.errors import ConfigError, ExportError
from effdet.models import EfficientDet, EfficientNet
from effdet.models.folding import fold
from effdet.postprocess import best_pairs, finite_sums, logit, select_rows
from effdet.text import reason_of
from effdet.types import PostprocessOptions
from effdet.weights.exported import ExportCard

# NMS in the operators of a file format. From boxes [B, M, 4], scores [B, M] sorted in descending order, with 0 for
# those below the threshold, labels [B, M] and options to boxes [B, N, 4], scores [B, N], labels [B, N] and counts [B],
# where N is max_detections; rows after the count are 0.
Suppression = Callable[[Tensor, Tensor, Tensor, PostprocessOptions], tuple[Tensor, Tensor, Tensor, Tensor]]


class RawDetector(nn.Module):
    """A detector with the face "raw": images to class_logits [B, A, K] and boxes [B, A, 4] xyxy in input pixels."""

    names = ("class_logits", "boxes")

    def __init__(self, model: EfficientDet) -> None:
        super().__init__()
        self.network = fold(model)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of images [B, H, W, 3] uint8 RGB."""
        outputs = self.network(images.permute(0, 3, 1, 2))
        return outputs.class_logits, decode_boxes(outputs.box_deltas, outputs.anchors)


class SuppressingDetector(nn.Module):
    """A detector with the face "detections": the best candidates, decoded, and NMS.

    An image whose raw outputs are NaN or Inf has no detections, and its scores are NaN.
    """

    names = ("boxes", "scores", "labels", "counts")

    def __init__(
        self, model: EfficientDet, options: PostprocessOptions, suppress: Suppression, in_groups: bool = True
    ) -> None:
        super().__init__()
        self.network, self.options, self.suppress, self.in_groups = fold(model), options, suppress, in_groups

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs of images [B, H, W, 3] uint8 RGB."""
        outputs = self.network(images.permute(0, 3, 1, 2))
        num_anchors, num_classes = outputs.class_logits.shape[1:]
        count = min(self.options.max_candidates, num_anchors * num_classes)
        values, anchor, label = best_pairs(outputs.class_logits, count, in_groups=self.in_groups)
        boxes = decode_boxes(select_rows(outputs.box_deltas, anchor), outputs.anchors[anchor])
        scores = values.sigmoid() * (values >= logit(self.options.score_threshold))
        boxes, scores, label, counts = self.suppress(boxes, scores, label, self.options)
        # NaN would pass NMS as an image without objects. Comparing with a number, unlike isfinite, is never optimized
        # away by a runtime.
        sums = finite_sums(outputs.class_logits) + finite_sums(outputs.box_deltas)
        finite = sums.abs() < torch.finfo(torch.float32).max
        return boxes, scores.where(finite[:, None], torch.nan), label, counts * finite


class ExportedClassifier(nn.Module):
    """A classifier with the face "logits": images to logits [B, K]."""

    names = ("logits",)

    def __init__(self, model: EfficientNet) -> None:
        super().__init__()
        self.network = fold(model)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images [B, H, W, 3] uint8 RGB."""
        logits: Tensor = self.network(images.permute(0, 3, 1, 2))
        return logits


class ExportedBackbone(nn.Module):
    """The backbone of a detector or a classifier with the face "features": images to C3, C4 and C5."""

    names = ("c3", "c4", "c5")

    def __init__(self, model: EfficientDet | EfficientNet) -> None:
        super().__init__()
        folded: Any = fold(model)
        self.network = folded.backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features [B, C, H', W'] of images [B, H, W, 3] uint8 RGB."""
        return tuple(self.network.features(images.permute(0, 3, 1, 2)))


def exported_network(
    model: EfficientDet | EfficientNet, export: ExportCard, suppress: Suppression, in_groups: bool = True
) -> RawDetector | SuppressingDetector | ExportedClassifier | ExportedBackbone:
    """The network with the outputs of a face, whose anchors of the exported image size are constants.

    Args:
        model: a detector or a classifier, which stays as it is.
        export: the face, its options and the image size.
        suppress: NMS of the face "detections".
        in_groups: how its candidates are searched, see `best_pairs`.

    Raises:
        ConfigError: the model has no such face, or the NMS is soft.
    """
    detector = isinstance(model, EfficientDet)
    faces = ("detections", "raw", "features") if detector else ("logits", "features")
    if export.face not in faces:
        kind = "detector" if detector else "classifier"
        raise ConfigError(f"a {kind} has no outputs '{export.face}' in this format; choose from {', '.join(faces)}")
    network: RawDetector | SuppressingDetector | ExportedClassifier | ExportedBackbone
    if export.face == "features":
        network = ExportedBackbone(model)
    elif isinstance(model, EfficientNet):
        network = ExportedClassifier(model)
    else:
        network = RawDetector(model)
        if export.face == "detections":
            assert export.postprocess is not None
            if export.postprocess.nms == "soft":
                raise ConfigError(
                    "soft-NMS cannot be inside an exported file; export with --nms class or agnostic, or --face raw"
                )
            network = SuppressingDetector(model, export.postprocess, suppress, in_groups)
        inner = network.network
        inner.anchors, inner.image_size = inner.anchors_at(export.image_size), export.image_size
    return network.eval()


def traced(network: nn.Module, images: Tensor, dynamic: Any) -> torch.export.ExportedProgram:
    """The program of a network for images; `dynamic` names its sides that are not fixed, see `torch.export.export`.

    Raises:
        ExportError: torch.export cannot trace the network.
    """
    try:
        return torch.export.export(network, (images,), dynamic_shapes=dynamic)
    except Exception as error:  # torch raises whatever the tracing of a network meets
        raise ExportError(f"the network cannot be traced by torch.export: {reason_of(error)}") from error
