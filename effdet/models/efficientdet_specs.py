"""The named EfficientDets: D0 to D7, D7x, Lite0 to Lite4, Q0 to Q2 and the two on EfficientNetV2.

Tables alone; what a spec means and how it is built is in `efficientdet.py`.
Source: EfficientDet (arXiv:1911.09070), table 1, and its code; efficientdet-pytorch for Lite3x, Q and V2.
"""

from __future__ import annotations

from dataclasses import replace

from effdet.errors import ConfigError
from effdet.models.anchors import aspects_of_ratios
from effdet.models.efficientdet import EfficientDetSpec
from effdet.models.efficientnet import EfficientNetSpec
from effdet.models.efficientnet_specs import EFFICIENTNETS
from effdet.models.families import find_backbone
from effdet.models.options import ModelOptions, find_spec

# Source: EfficientDet section 4.2, equations 1 to 3.
CHANNELS_PER_PHI = 1.35
PHI_PER_REPEAT = 3


def _d(name: str, backbone: str, side: int, channels: int, num_cells: int, num_repeats: int) -> EfficientDetSpec:
    own = EFFICIENTNETS[f"efficientnet_{backbone}"]
    return EfficientDetSpec(f"efficientdet_{name}", own, (side, side), channels, num_cells, num_repeats)


def _lite(
    name: str, backbone: str, side: int, channels: int, num_cells: int, num_repeats: int, anchor_scale: float
) -> EfficientDetSpec:
    spec = _d(name, backbone, side, channels, num_cells, num_repeats)
    return replace(spec, anchor_scale=anchor_scale, fusion="sum", act="relu6")


def _ported(spec: EfficientDetSpec, backbone: EfficientNetSpec, drop_path: float) -> EfficientDetSpec:
    """A detector that is not Google's: trained in PyTorch, with its padding and its epsilon."""
    backbone = replace(backbone, drop_path=drop_path, padding="symmetric", norm_eps=1e-5)
    return replace(spec, backbone=backbone, padding="symmetric")


def _q(name: str, backbone: str, side: int, channels: int, num_cells: int, drop_path: float) -> EfficientDetSpec:
    spec = _d(name, backbone, side, channels, num_cells, 3)
    return _ported(replace(spec, topology="qufpn"), EFFICIENTNETS[f"efficientnet_{backbone}"], drop_path)


def _v2(name: str, backbone: str, side: int, channels: int, num_cells: int, num_repeats: int) -> EfficientDetSpec:
    own = EFFICIENTNETS[f"efficientnetv2_{backbone}"]
    spec = EfficientDetSpec(f"efficientdetv2_{name}", own, (side, side), channels, num_cells, num_repeats)
    aspects = aspects_of_ratios((1.0, 2.0, 0.5))
    return _ported(replace(spec, resampling="bilinear", anchor_aspects=aspects), own, drop_path=0.2)


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


def detector_spec(options: ModelOptions) -> EfficientDetSpec:
    """The detector of some options.

    Raises:
        ConfigError: there is no such detector or backbone, an option does not fit it, or phi cannot scale it.
    """
    spec = find_spec(EFFICIENTDETS, options.name)
    options.refuse(f"{spec.name} is a detector and has no dropout", "dropout")
    if options.phi is not None:
        spec = _compounded(spec, options.phi)
    backbone = spec.backbone if options.backbone is None else find_backbone(options.backbone)
    names = ("image_size", "padding", "norm_momentum", "anchor_scale", "anchor_aspects", "antialias", "letterbox")
    changes = options.given(*names)
    return replace(spec, backbone=backbone.with_options(options), **changes)


def _compounded(spec: EfficientDetSpec, phi: float) -> EfficientDetSpec:
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
