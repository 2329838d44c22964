"""EfficientDet D0 to D7, D7x and Lite0 to Lite4: their table and the detector they all are.

Backbone, neck, heads and anchors are in files of their own; the detector puts them together and computes nothing but
raw outputs, the same in training and in evaluation. Source: EfficientDet (arXiv:1911.09070), table 1, and its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from effdet.models.anchors import ASPECTS, anchor_boxes, anchors_per_cell
from effdet.models.bifpn import BiFPN, Fusion
from effdet.models.efficientnet import EFFICIENTNETS, EfficientNet, build_efficientnet, find_spec
from effdet.models.heads import Head, set_prior
from effdet.models.layers import Activation, Padding, normalise
from effdet.structures import Outputs

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB values 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class EfficientDetSpec:
    """One detector of the family.

    Attributes:
        backbone: name in `EFFICIENTNETS`.
        image_size: side of its square input in pixels.
        channels: width of neck and heads.
        num_cells: BiFPN cells.
        num_repeats: convolutions of a head before its last.
        anchor_scale: side of the smallest anchor in strides.
        max_level: coarsest level; the finest is 3.
        fusion: how the neck adds features.
        drop_path: rate of the last backbone block.
        mean: RGB mean of the images, 0..255.
        std: RGB spread of the images.
    """

    backbone: str
    image_size: int
    channels: int
    num_cells: int
    num_repeats: int
    anchor_scale: float = 4.0
    max_level: int = 7
    fusion: Fusion = "fast"
    drop_path: float = 0.2
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def act(self) -> Activation:
        """Activation of backbone, neck and heads."""
        return EFFICIENTNETS[self.backbone].act


@dataclass(frozen=True)
class _LiteSpec(EfficientDetSpec):
    anchor_scale: float = 3.0
    fusion: Fusion = "sum"
    mean: tuple[float, float, float] = (127.0, 127.0, 127.0)
    std: tuple[float, float, float] = field(default=(128.0, 128.0, 128.0))


EFFICIENTDETS: dict[str, EfficientDetSpec] = {
    "efficientdet_d0": EfficientDetSpec("efficientnet_b0", 512, 64, 3, 3, drop_path=0.0),
    "efficientdet_d1": EfficientDetSpec("efficientnet_b1", 640, 88, 4, 3),
    "efficientdet_d2": EfficientDetSpec("efficientnet_b2", 768, 112, 5, 3),
    "efficientdet_d3": EfficientDetSpec("efficientnet_b3", 896, 160, 6, 4),
    "efficientdet_d4": EfficientDetSpec("efficientnet_b4", 1024, 224, 7, 4),
    "efficientdet_d5": EfficientDetSpec("efficientnet_b5", 1280, 288, 7, 4),
    "efficientdet_d6": EfficientDetSpec("efficientnet_b6", 1280, 384, 8, 5, fusion="sum"),
    "efficientdet_d7": EfficientDetSpec("efficientnet_b6", 1536, 384, 8, 5, anchor_scale=5.0, fusion="sum"),
    "efficientdet_d7x": EfficientDetSpec("efficientnet_b7", 1536, 384, 8, 5, max_level=8, fusion="sum"),
    "efficientdet_lite0": _LiteSpec("efficientnet_lite0", 320, 64, 3, 3),
    "efficientdet_lite1": _LiteSpec("efficientnet_lite1", 384, 88, 4, 3),
    "efficientdet_lite2": _LiteSpec("efficientnet_lite2", 448, 112, 5, 3),
    "efficientdet_lite3": _LiteSpec("efficientnet_lite3", 512, 160, 6, 4, anchor_scale=4.0),
    "efficientdet_lite3x": _LiteSpec("efficientnet_lite3", 640, 200, 6, 4),
    "efficientdet_lite4": _LiteSpec("efficientnet_lite4", 640, 224, 7, 4, anchor_scale=4.0),
}
MIN_LEVEL = 3


class EfficientDet(nn.Module):
    """Images to raw outputs.

    Attributes:
        image_size: (H, W) in pixels that the model is meant for; any other size works too.
        anchors: [A, 4] float32, the anchors at `image_size`, xyxy in pixels.
        mean: [3] RGB mean that is subtracted from images, 0..255.
        std: [3] RGB spread that they are divided by.
    """

    anchors: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: EfficientNet,
        neck: BiFPN,
        class_head: Head,
        box_head: Head,
        *,
        image_size: tuple[int, int],
        max_level: int,
        anchor_scale: float,
        anchor_aspects: Sequence[tuple[float, float]],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.class_head, self.box_head = backbone, neck, class_head, box_head
        self.image_size = image_size
        self.max_level = max_level
        self.anchor_scale = anchor_scale
        self.anchor_aspects = tuple(anchor_aspects)
        self.register_buffer("anchors", self.anchors_of(image_size), persistent=False)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    @property
    def num_classes(self) -> int:
        """Classes K that the model tells apart."""
        return self.class_head.outputs

    @property
    def fill_color(self) -> tuple[int, int, int]:
        """RGB colour that letterboxed images are padded with: the mean, which becomes 0."""
        red, green, blue = (round(value) for value in self.mean.tolist())
        return red, green, blue

    def anchors_of(self, image_size: tuple[int, int]) -> Tensor:
        """Anchors [A, 4] of an image size (H, W), xyxy in pixels, in host memory."""
        return anchor_boxes(image_size, MIN_LEVEL, self.max_level, self.anchor_scale, self.anchor_aspects)

    def forward(self, images: Tensor) -> Outputs:
        """Raw outputs of RGB images [B, 3, H, W], uint8 or float, 0..255."""
        features = self.neck(self.backbone.features(normalise(images, self.mean, self.std)))
        size = (images.shape[-2], images.shape[-1])
        anchors = self.anchors if size == self.image_size else self.anchors_of(size).to(images.device)
        return Outputs(self.class_head(features), self.box_head(features), anchors)


def build_efficientdet(
    name: str,
    num_classes: int,
    *,
    image_size: tuple[int, int] | None = None,
    padding: Padding = "same",
    drop_path: float | None = None,
    anchor_scale: float | None = None,
    anchor_aspects: Sequence[tuple[float, float]] | None = None,
    backbone_norm_eps: float = 1e-3,
    norm_momentum: float = 0.01,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> EfficientDet:
    """The detector of that name in `EFFICIENTDETS`, freshly initialised; what is None follows from the table.

    Raises:
        ConfigError: there is no such detector.
    """
    spec = find_spec(EFFICIENTDETS, name)
    aspects = tuple(anchor_aspects or ASPECTS)
    num_levels = spec.max_level - MIN_LEVEL + 1

    def norm(channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=1e-3, momentum=norm_momentum)

    def head(outputs: int) -> Head:
        return Head(spec.channels, outputs, anchors_per_cell(aspects), spec.num_repeats, num_levels, norm, spec.act)

    backbone = build_efficientnet(
        spec.backbone,
        num_classes=0,
        norm_eps=backbone_norm_eps,
        norm_momentum=norm_momentum,
        padding=padding,
        drop_path=spec.drop_path if drop_path is None else drop_path,
    )
    neck = BiFPN(
        backbone.feature_channels, spec.channels, num_levels, spec.num_cells, norm, spec.fusion, spec.act, padding
    )
    class_head = head(num_classes)
    set_prior(class_head)
    return EfficientDet(
        backbone,
        neck,
        class_head,
        head(4),
        image_size=image_size or (spec.image_size, spec.image_size),
        max_level=spec.max_level,
        anchor_scale=anchor_scale or spec.anchor_scale,
        anchor_aspects=aspects,
        mean=mean or spec.mean,
        std=std or spec.std,
    )
