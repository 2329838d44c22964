"""EfficientDet D0 to D7, D7x, Lite0 to Lite4 and their kin: the table, and the detector they all are.

Backbone, neck, heads and anchors are in files of their own; the detector puts them together and computes nothing but
raw outputs, the same in training and in evaluation. Source: EfficientDet (arXiv:1911.09070), table 1, and its code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from effdet.errors import ConfigError
from effdet.models.anchors import ASPECTS, anchor_boxes, anchors_per_cell, aspects_of_ratios
from effdet.models.bifpn import BiFPN, Fusion, Resampling, Topology
from effdet.models.efficientnet import EFFICIENTNETS, EfficientNetSpec, find_spec, override_backbone
from effdet.models.heads import Head, set_prior
from effdet.models.layers import Activation
from effdet.models.timm_backbone import PREFIX, TimmSpec, timm_spec
from effdet.structures import Outputs
from effdet.types import Padding, Task

Aspects = tuple[tuple[float, float], ...]

MIN_LEVEL = 3
NORM_EPS = 1e-3  # of neck and heads


@dataclass(frozen=True)
class EfficientDetSpec:
    """One detector of the family.

    Attributes:
        name: what the detector is called.
        backbone: its backbone.
        image_size: (H, W) of its input in pixels.
        channels: width of neck and heads.
        num_cells: BiFPN cells.
        num_repeats: convolutions of a head before its last.
        anchor_scale: side of the smallest anchor in strides.
        anchor_aspects: (width, height) factors of the anchor shapes.
        max_level: coarsest level; the finest is 3.
        fusion: how the neck adds features.
        topology: how its nodes are connected.
        resampling: how features are brought to the level above or below.
        act: activation of neck and heads.
        padding: of the neck's pooling.
        norm_momentum: share of the newest batch in the norms' statistics, of neck and heads.
        black_padding: whether letterboxed images are padded with black and not with their mean.
    """

    task: ClassVar[Task] = "detection"

    name: str
    backbone: EfficientNetSpec | TimmSpec
    image_size: tuple[int, int]
    channels: int
    num_cells: int
    num_repeats: int
    anchor_scale: float = 4.0
    anchor_aspects: Aspects = ASPECTS
    max_level: int = 7
    fusion: Fusion = "fast"
    topology: Topology = "bifpn"
    resampling: Resampling = "pool"
    act: Activation = "silu"
    padding: Padding = "same"
    norm_momentum: float = 0.01
    black_padding: bool = False

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


def _d(name: str, backbone: str, side: int, channels: int, num_cells: int, num_repeats: int) -> EfficientDetSpec:
    trunk = EFFICIENTNETS[f"efficientnet_{backbone}"]
    return EfficientDetSpec(f"efficientdet_{name}", trunk, (side, side), channels, num_cells, num_repeats)


def _lite(
    name: str, backbone: str, side: int, channels: int, num_cells: int, num_repeats: int, anchor_scale: float
) -> EfficientDetSpec:
    spec = _d(name, backbone, side, channels, num_cells, num_repeats)
    return replace(spec, anchor_scale=anchor_scale, fusion="sum", act="relu6")


def _ported(spec: EfficientDetSpec, trunk: EfficientNetSpec, drop_path: float) -> EfficientDetSpec:
    """The variants that are not Google's: trained in PyTorch, with its padding and its epsilon."""
    trunk = replace(trunk, drop_path=drop_path, padding="symmetric", norm_eps=1e-5)
    return replace(spec, backbone=trunk, padding="symmetric")


def _q(name: str, backbone: str, side: int, channels: int, num_cells: int, drop_path: float) -> EfficientDetSpec:
    spec = _d(name, backbone, side, channels, num_cells, 3)
    return _ported(replace(spec, topology="qufpn"), EFFICIENTNETS[f"efficientnet_{backbone}"], drop_path)


def _v2(name: str, backbone: str, side: int, channels: int, num_cells: int, num_repeats: int) -> EfficientDetSpec:
    trunk = EFFICIENTNETS[f"efficientnetv2_{backbone}"]
    spec = EfficientDetSpec(f"efficientdetv2_{name}", trunk, (side, side), channels, num_cells, num_repeats)
    aspects = aspects_of_ratios((1.0, 2.0, 0.5))
    return _ported(replace(spec, resampling="bilinear", anchor_aspects=aspects), trunk, drop_path=0.2)


EFFICIENTDETS = {
    spec.name: spec
    for spec in (
        replace(_d("d0", "b0", 512, 64, 3, 3), backbone=replace(EFFICIENTNETS["efficientnet_b0"], drop_path=0.0)),
        _d("d1", "b1", 640, 88, 4, 3),
        _d("d2", "b2", 768, 112, 5, 3),
        _d("d3", "b3", 896, 160, 6, 4),
        _d("d4", "b4", 1024, 224, 7, 4),
        _d("d5", "b5", 1280, 288, 7, 4),
        replace(_d("d6", "b6", 1280, 384, 8, 5), fusion="sum"),
        replace(_d("d7", "b6", 1536, 384, 8, 5), fusion="sum", anchor_scale=5.0),
        replace(_d("d7x", "b7", 1536, 384, 8, 5), fusion="sum", max_level=8),
        _lite("lite0", "lite0", 320, 64, 3, 3, 3.0),
        _lite("lite1", "lite1", 384, 88, 4, 3, 3.0),
        _lite("lite2", "lite2", 448, 112, 5, 3, 3.0),
        _lite("lite3", "lite3", 512, 160, 6, 4, 4.0),
        _lite("lite3x", "lite3", 640, 200, 6, 4, 3.0),
        _lite("lite4", "lite4", 640, 224, 7, 4, 4.0),
        _q("q0", "b0", 512, 64, 3, 0.1),
        replace(_q("q1", "b1", 640, 88, 3, 0.2), resampling="bilinear"),
        _q("q2", "b2", 768, 112, 4, 0.2),
        _v2("dt", "rw_t", 768, 128, 5, 3),
        _v2("ds", "rw_s", 1024, 256, 7, 4),
    )
}

# Source: EfficientDet section 4.2, equations 1 to 3.
CHANNELS_PER_PHI = 1.35
PHI_PER_REPEAT = 3


def efficientdet_spec(
    name: str,
    *,
    backbone: str | None = None,
    phi: float | None = None,
    width: float | None = None,
    depth: float | None = None,
    image_size: tuple[int, int] | None = None,
    drop_path: float | None = None,
    padding: Padding | None = None,
    norm_momentum: float | None = None,
    in_channels: int | None = None,
    anchor_scale: float | None = None,
    anchor_aspects: Aspects | None = None,
) -> EfficientDetSpec:
    """A row of `EFFICIENTDETS` with changes; what is None stays as the table says.

    `backbone` is a name of `EFFICIENTNETS` or 'timm/NAME'. `phi` is the compound coefficient, counted from
    efficientdet_d0 or efficientdet_lite0: the neck's channels grow by 1.35 to the phi, its cells by phi, the heads'
    repeats by phi / 3, the image by a quarter per phi, and the backbone as `efficientnet_spec` tells; the named D1 to
    D7 follow this law with exceptions made by hand. `width` and `depth` are those of the backbone. The others are
    attributes of the specs.

    Raises:
        ConfigError: there is no such detector or backbone, it is scaled already, or a number makes no sense.
    """
    spec = find_spec(EFFICIENTDETS, name)
    if phi is not None:
        spec = _compound(spec, phi)
    trunk: EfficientNetSpec | TimmSpec
    if backbone is not None and backbone.startswith(PREFIX):
        if (phi, width, depth) != (None, None, None):
            raise ConfigError(f"model.phi, width and depth do not scale {backbone}, which is timm's; leave them out")
        trunk = timm_spec(backbone, drop_path, in_channels)
    else:
        own = spec.backbone if backbone is None else find_spec(EFFICIENTNETS, backbone)
        assert isinstance(own, EfficientNetSpec)  # as in all rows
        trunk = override_backbone(own, phi, width, depth, drop_path, padding, norm_momentum, in_channels)
    return replace(
        spec,
        backbone=trunk,
        image_size=image_size or spec.image_size,
        padding=padding or spec.padding,
        norm_momentum=spec.norm_momentum if norm_momentum is None else norm_momentum,
        anchor_scale=anchor_scale or spec.anchor_scale,
        anchor_aspects=anchor_aspects or spec.anchor_aspects,
    )


def _compound(spec: EfficientDetSpec, phi: float) -> EfficientDetSpec:
    if spec.name not in ("efficientdet_d0", "efficientdet_lite0"):
        raise ConfigError(
            f"phi scales a detector that is not scaled yet, but {spec.name} is; start from efficientdet_d0 or "
            "efficientdet_lite0"
        )
    side = round(spec.image_size[0] * (1 + phi / 4))
    return replace(
        spec,
        image_size=(side, side),
        channels=max(8, round(spec.channels * CHANNELS_PER_PHI**phi / 8) * 8),
        num_cells=spec.num_cells + int(phi),
        num_repeats=spec.num_repeats + int(phi / PHI_PER_REPEAT),
    )


class EfficientDet(nn.Module):
    """Images to raw outputs.

    Attributes:
        spec: what the detector is.
        num_classes: classes K that it tells apart.
        image_size: (H, W) in pixels that it is meant for; any other size works too.
        anchors: [A, 4] float32, the anchors at `image_size`, xyxy in pixels.
    """

    anchors: Tensor

    def __init__(self, spec: EfficientDetSpec, num_classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.num_classes = num_classes
        self.image_size = spec.image_size
        num_levels = spec.max_level - MIN_LEVEL + 1

        def norm(channels: int) -> nn.BatchNorm2d:
            return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=spec.norm_momentum)

        def head(outputs: int) -> Head:
            per_cell = anchors_per_cell(spec.anchor_aspects)
            return Head(spec.channels, outputs, per_cell, spec.num_repeats, num_levels, norm, spec.act)

        self.backbone = spec.backbone.build(0)
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
        self.register_buffer("anchors", self.anchors_of(spec.image_size), persistent=False)

    def anchors_at(self, image_size: tuple[int, int]) -> Tensor:
        """Anchors [A, 4] of an image size (H, W), xyxy in pixels, where the model is."""
        return self.anchors if image_size == self.image_size else self.anchors_of(image_size).to(self.anchors.device)

    def anchors_of(self, image_size: tuple[int, int]) -> Tensor:
        """Anchors [A, 4] of an image size (H, W), xyxy in pixels, in host memory."""
        spec = self.spec
        return anchor_boxes(image_size, MIN_LEVEL, spec.max_level, spec.anchor_scale, spec.anchor_aspects)

    @property
    def head_modules(self) -> tuple[str, ...]:
        """Names of the modules behind the neck, the one with an output per class last."""
        return ("box_head", "class_head")

    def layer_groups(self) -> list[list[str]]:
        """Names of the modules of each layer, from the heads over the neck to the stem of the backbone."""
        backbone = [[f"backbone.{name}" for name in names] for names in self.backbone.layer_groups()]
        return [list(self.head_modules), ["neck"], *backbone]

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """Saves memory in training for a third more time: the activations within the backbone's blocks, the neck's
        cells and the heads are not kept but computed again when the backward pass needs them.
        """
        self.backbone.checkpoint_activations(enabled)
        for part in (self.neck, self.class_head, self.box_head):
            part.recomputes = enabled

    def forward(self, images: Tensor) -> Outputs:
        """Raw outputs of images [B, C, H, W], uint8 or float, 0..255; RGB unless the spec says otherwise."""
        features = self.neck(self.backbone.features(images))
        anchors = self.anchors_at((images.shape[-2], images.shape[-1]))
        return Outputs(self.class_head(features), self.box_head(features), anchors)
