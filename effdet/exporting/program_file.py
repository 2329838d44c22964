"""Writes programs of torch.export (.pt2), which PyTorch runs without the code of this package.

Running them is in `effdet/runtimes/program.py`.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from effdet.exporting.network import exported_network, traced
from effdet.files import atomic_write
from effdet.models import EfficientDet, EfficientNet
from effdet.runtimes.program import CARD_FILE
from effdet.types import PostprocessOptions
from effdet.weights.exported import ExportCard


class _Named(nn.Module):
    """A network whose outputs have names."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.names = network, network.names

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs by name of images [B, H, W, C] uint8."""
        outputs = self.network(images)
        return dict(zip(self.names, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))


def write_program(model: EfficientDet | EfficientNet, export: ExportCard, path: Path) -> None:
    """Writes a model with the face of `export` as a program, with `export` inside.

    Args:
        model: in float32 on the CPU.
        export: what to write.
        path: the new file.

    Raises:
        ConfigError: the model has no such face, or its NMS is soft.
        ExportError: torch.export cannot trace the network.
    """
    height, width = export.image_size
    examples = torch.zeros(export.batch_size or 2, height, width, model.spec.in_channels, dtype=torch.uint8)
    dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=1024)}} if export.batch_size is None else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = traced(_Named(exported_network(model, export, suppress)), examples, dynamic)
        content = io.BytesIO()  # PyTorch aborts the process where a disk is full
        torch.export.save(program, content, extra_files={CARD_FILE: export.to_json()})
    path.write_bytes(content.getbuffer())


def store_card(path: Path, export: ExportCard) -> None:
    """Replaces what a program says about itself."""
    with atomic_write(path) as partial, zipfile.ZipFile(path) as old, zipfile.ZipFile(partial, "w") as new:
        for entry in old.infolist():
            is_card = entry.filename.rpartition("/")[2] == CARD_FILE
            new.writestr(entry.filename, export.to_json() if is_card else old.read(entry))


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, options: PostprocessOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """NMS by torchvision's operator; see `Suppression` for arguments and results.

    Boxes of different images, and of different classes for NMS within classes, are moved far apart so that they do not
    overlap, in float64 to lose no precision. So one NMS is enough for a batch whose size is not fixed.
    """
    batch: Any = scores.shape[0]
    if isinstance(batch, int):  # one NMS per image is faster, since it compares all boxes that it gets
        one = [slice(image, image + 1) for image in range(batch)]
        kept = torch.cat([_kept(boxes[i], scores[i], labels[i], options) for i in one])
    else:
        kept = _kept(boxes, scores, labels, options)
    # Rows that stay move to the front in their order, the others to one row behind the last, which is cut off.
    most = options.max_detections
    row = kept.cumsum(1) - 1
    row = torch.where(kept & (row < most), row, most)
    counts = kept.sum(1).clamp(max=most)

    def front(values: Tensor) -> Tensor:
        index = row if values.ndim == 2 else row[:, :, None].expand(-1, -1, 4)
        return values.new_zeros((batch, most + 1, *values.shape[2:])).scatter(1, index, values)[:, :most]

    boxes, scores, labels = front(boxes), front(scores), front(labels)
    within = torch.arange(most, device=boxes.device) < counts[:, None]
    return boxes * within[:, :, None], scores * within, labels * within, counts


def _kept(boxes: Tensor, scores: Tensor, labels: Tensor, options: PostprocessOptions) -> Tensor:
    """Which candidates NMS keeps, [B, M] bool."""
    apart = boxes.double()
    extent = apart.max() - apart.min() + 1
    groups = torch.arange(scores.shape[0], device=boxes.device)[:, None].expand_as(labels)
    if options.nms == "class":
        groups = groups * (labels.max() + 1) + labels
    apart = (apart + (groups * extent)[:, :, None]).reshape(-1, 4)
    flat = scores.reshape(-1)
    valid = torch.nonzero(flat > 0).squeeze(1)
    keep = valid[nms(apart[valid], flat[valid].double(), options.iou_threshold)]
    return torch.zeros_like(flat, dtype=torch.bool).index_fill(0, keep, True).reshape(scores.shape)
