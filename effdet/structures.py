"""What passes between the rooms of the house: Target, Batch, Outputs, Detections; LabelBatch, Classification.

Plain containers with their shapes; how they are filled and used is told where that happens. Letters in shapes:
B images, C channels, H W pixels, K classes, A anchors, N objects, M detections, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """The objects of one image, in the frame of the network input.

    Attributes:
        boxes: [N, 4] float32, xyxy in pixels of the network input.
        labels: [N] int64 in 0..K-1; there is no background class.
        index: row of the image in its `Annotations` table.
        size: (H, W) of the original image in pixels, EXIF rotation applied.
        scale: network-input pixels per original pixel, (vertical, horizontal).
    """

    boxes: Tensor
    labels: Tensor
    index: int
    size: tuple[int, int]
    scale: tuple[float, float]

    def to(self, device: torch.device) -> Target:
        """The same target with its tensors on `device`."""
        return replace(
            self, boxes=self.boxes.to(device, non_blocking=True), labels=self.labels.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class Batch:
    """Images of one size with their targets.

    Attributes:
        images: [B, 3, H, W] uint8, RGB.
        targets: B targets in the same order.
    """

    images: Tensor
    targets: tuple[Target, ...]

    @property
    def indices(self) -> list[int]:
        """Row of every image in its table, B rows."""
        return [target.index for target in self.targets]

    def split(self, parts: int) -> list[Batch]:
        """The batch in at most `parts` parts of nearly equal size, none empty."""
        pieces = self.images.tensor_split(min(parts, len(self.images)))
        ends = [sum(len(piece) for piece in pieces[: count + 1]) for count in range(len(pieces))]
        return [Batch(piece, self.targets[end - len(piece) : end]) for piece, end in zip(pieces, ends, strict=True)]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; from pinned memory the copy does not wait."""
        return Batch(self.images.to(device, non_blocking=True), tuple(target.to(device) for target in self.targets))


@dataclass(frozen=True)
class LabelBatch:
    """Images of one size with the class of each.

    Attributes:
        images: [B, 3, H, W] uint8, RGB.
        labels: [B] int64 in 0..K-1.
        indices: B rows of the images in their table.
    """

    images: Tensor
    labels: Tensor
    indices: list[int]

    def split(self, parts: int) -> list[LabelBatch]:
        """The batch in at most `parts` parts of nearly equal size, none empty."""
        parts = min(parts, len(self.images))
        pieces = zip(self.images.tensor_split(parts), self.labels.tensor_split(parts), strict=True)
        rows = iter(self.indices)
        return [LabelBatch(images, labels, [next(rows) for _ in labels]) for images, labels in pieces]

    def to(self, device: torch.device) -> LabelBatch:
        """The same batch on `device`; from pinned memory the copy does not wait."""
        return replace(
            self, images=self.images.to(device, non_blocking=True), labels=self.labels.to(device, non_blocking=True)
        )


class Outputs(NamedTuple):
    """What a detector gives for a batch, the same in training and in evaluation.

    Attributes:
        class_logits: [B, A, K], before the sigmoid.
        box_deltas: [B, A, 4], (dx, dy, dw, dh) relative to the anchors, see `boxes.encode_boxes`.
        anchors: [A, 4] float32, xyxy in pixels of the network input.
    """

    class_logits: Tensor
    box_deltas: Tensor
    anchors: Tensor


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, by falling score.

    Attributes:
        boxes: [M, 4] float32, xyxy in pixels of the network input, or of the original image once the letterbox
            is undone.
        scores: [M] float32 in 0..1.
        labels: [M] int64 in 0..K-1.
        class_names: name of each label, K names; empty where the maker does not know them.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """Class name of every detection, M names."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def cpu(self) -> Detections:
        """The same detections in host memory."""
        return replace(self, boxes=self.boxes.cpu(), scores=self.scores.cpu(), labels=self.labels.cpu())


@dataclass(frozen=True)
class Classification:
    """The most probable classes of one image, by falling score.

    Attributes:
        scores: [M] float32, probabilities in 0..1.
        labels: [M] int64 in 0..K-1.
        class_names: name of each label, K names; empty where the maker does not know them.
    """

    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """Name of every class, M names."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def cpu(self) -> Classification:
        """The same classes in host memory."""
        return replace(self, scores=self.scores.cpu(), labels=self.labels.cpu())
