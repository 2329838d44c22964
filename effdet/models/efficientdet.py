"""EfficientDet: what one detector of the family is, and the network.

Backbone, neck, heads and anchors have files of their own; the detector connects them and computes raw outputs, the
same in training and in evaluation. The named detectors are in `efficientdet_specs.py`.
Source: EfficientDet (arXiv:1911.09070) and its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from effdet.models.anchors import ASPECTS, anchor_boxes, anchors_per_cell
from effdet.models.backbone import Backbone
from effdet.models.bifpn import BiFPN, Fusion, Resampling, Topology
from effdet.models.families import AnyBackboneSpec
from effdet.models.heads import Head, set_prior
from effdet.models.layers import Activation, Float32Buffers
from effdet.structures import Outputs
from effdet.types import Letterbox, Padding

MIN_LEVEL = 3
NORM_EPS = 1e-3  # of neck and heads
KEPT_SIZES = 16  # image sizes whose anchors a detector keeps; together they need less memory than one image's logits


@dataclass(frozen=True)
class EfficientDetSpec:
    """One detector of the family.

    Attributes:
        name: name of the detector.
        backbone: its backbone.
        image_size: (H, W) of its input in pixels.
        channels: channels of neck and heads.
        num_cells: BiFPN cells.
        num_repeats: convolutions of a head before its last.
        anchor_scale: side of the smallest anchor of a level, in strides.
        anchor_aspects: (width, height) factors of the anchor shapes.
        max_level: coarsest level; the finest is 3.
        fusion: how the neck adds features.
        topology: how its nodes are connected.
        resampling: how features are resampled to the level above or below.
        act: activation of neck and heads.
        padding: of the neck's pooling.
        norm_momentum: BatchNorm momentum (PyTorch convention) of neck and heads.
        black_padding: whether letterboxed images are padded with black instead of their mean.
        antialias: whether images are resized with antialiasing, in training as in evaluation and prediction.
        letterbox: whether images are padded or stretched to the input, in training as in evaluation and prediction.
    """

    task: ClassVar[Literal["detection"]] = "detection"

    name: str
    backbone: AnyBackboneSpec
    image_size: tuple[int, int]
    channels: int
    num_cells: int
    num_repeats: int
    anchor_scale: float = 4.0
    anchor_aspects: tuple[tuple[float, float], ...] = ASPECTS
    max_level: int = 7
    fusion: Fusion = "fast"
    topology: Topology = "bifpn"
    resampling: Resampling = "pool"
    act: Activation = "silu"
    padding: Padding = "same"
    norm_momentum: float = 0.01
    black_padding: bool = False
    antialias: bool = True
    letterbox: Letterbox = "pad"

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.backbone.in_channels

    @property
    def fill_color(self) -> tuple[int, ...]:
        """RGB colour that letterboxed images are padded with: the mean, which becomes 0, or black."""
        return (0, 0, 0) if self.black_padding else tuple(round(value) for value in self.backbone.mean)

    def build(self, num_classes: int) -> EfficientDet:
        """The detector, freshly initialised."""
        return EfficientDet(self, num_classes)


class EfficientDet(Float32Buffers):
    """Images to raw outputs.

    Attributes:
        spec: what the detector is.
        num_classes: number K of classes.
        image_size: (H, W) of the input in pixels that it is meant for; any other size works too.
        anchors: [A, 4], the anchors at `image_size`, xyxy in pixels, float32 whatever the detector is cast to.
    """

    anchors: Tensor

    def __init__(self, spec: EfficientDetSpec, num_classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.num_classes = num_classes
        self.image_size = spec.image_size
        self._anchors_by_size: dict[tuple[tuple[int, int], torch.device], Tensor] = {}
        num_levels = spec.max_level - MIN_LEVEL + 1

        def norm(channels: int) -> nn.BatchNorm2d:
            return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=spec.norm_momentum)

        def head(outputs: int) -> Head:
            per_cell = anchors_per_cell(spec.anchor_aspects)
            return Head(spec.channels, outputs, per_cell, spec.num_repeats, num_levels, norm, spec.act)

        self.backbone: Backbone = spec.backbone.build(0)
        self.neck = BiFPN(
            self.backbone.feature_channels,
            spec.channels,
            num_levels,
            spec.num_cells,
            norm,
            spec.fusion,
            spec.act,
            spec.padding,
            spec.topology,
            spec.resampling,
        )
        self.class_head = head(num_classes)
        set_prior(self.class_head)
        self.box_head = head(4)
        self.register_buffer("anchors", self._compute_anchors(spec.image_size), persistent=False)

    def anchors_at(self, image_size: tuple[int, int]) -> Tensor:
        """Anchors [A, 4] of an image size (H, W), xyxy in pixels, on the model's device; kept for the next call."""
        if image_size == self.image_size:
            return self.anchors
        device = self.anchors.device
        if torch.compiler.is_compiling():  # then this is part of the compiled program
            return self._compute_anchors(image_size).to(device)
        anchors = self._anchors_by_size.get((image_size, device))
        if anchors is None:
            with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training
                anchors = self._compute_anchors(image_size).to(device)
            if type(anchors) is Tensor:  # and not a fake tensor of a tracer
                # A new dictionary, since threads of torch's DataParallel may share the old one.
                newest = list(self._anchors_by_size.items())[1 - KEPT_SIZES :]
                self._anchors_by_size = {**dict(newest), (image_size, device): anchors}
        return anchors

    def _compute_anchors(self, image_size: tuple[int, int]) -> Tensor:
        spec = self.spec
        return anchor_boxes(image_size, MIN_LEVEL, spec.max_level, spec.anchor_scale, spec.anchor_aspects)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_anchors_by_size": {}}  # copies and pickles compute the anchors again

    @property
    def head_modules(self) -> tuple[str, ...]:
        """Names of the modules behind the neck, the one with an output per class last."""
        return ("box_head", "class_head")

    def layer_groups(self) -> list[list[str]]:
        """Names of the modules of each layer: the heads, the neck, the layers of the backbone down to the stem."""
        backbone = [[f"backbone.{name}" for name in names] for names in self.backbone.layer_groups()]
        return [list(self.head_modules), ["neck"], *backbone]

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """Saves memory in training for about a third more time.

        Activations inside the backbone's blocks, the neck's cells and the heads are not kept. The backward pass
        recomputes them.
        """
        self.backbone.checkpoint_activations(enabled)
        for module in (self.neck, self.class_head, self.box_head):
            module.recomputes = enabled

    def forward(self, images: Tensor) -> Outputs:
        """Raw outputs of images [B, C, H, W], uint8 or float, 0..255; RGB unless the spec says otherwise."""
        features = self.neck(self.backbone.features(images))
        anchors = self.anchors_at((images.shape[-2], images.shape[-1]))
        return Outputs(self.class_head(features), self.box_head(features), anchors)
