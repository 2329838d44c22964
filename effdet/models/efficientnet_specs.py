"""The named EfficientNets: B0 to B8, L2, Lite0 to Lite4, V2 and the two V2 networks of timm.

Tables alone; what a spec means and how it is built is in `efficientnet.py`.
Source: EfficientNet (arXiv:1905.11946), tables 1 and 2; EfficientNetV2 (arXiv:2104.00298), table 4; reference code.
"""

from __future__ import annotations

from dataclasses import replace

from effdet.models.efficientnet import EfficientNetSpec, Stage
from effdet.models.options import ModelOptions, find_spec

B0_STAGES = (
    Stage("separable", 3, 1, 1, 16, 1),
    Stage("inverted", 3, 2, 6, 24, 2),
    Stage("inverted", 5, 2, 6, 40, 2),
    Stage("inverted", 3, 2, 6, 80, 3),
    Stage("inverted", 5, 1, 6, 112, 3),
    Stage("inverted", 5, 2, 6, 192, 4),
    Stage("inverted", 3, 1, 6, 320, 1),
)
V2_B0_STAGES = (
    Stage("conv", 3, 1, 1, 16, 1),
    Stage("fused", 3, 2, 4, 32, 2),
    Stage("fused", 3, 2, 4, 48, 2),
    Stage("inverted", 3, 2, 4, 96, 3),
    Stage("inverted", 3, 1, 6, 112, 5),
    Stage("inverted", 3, 2, 6, 192, 8),
)
V2_S_STAGES = (
    Stage("conv", 3, 1, 1, 24, 2),
    Stage("fused", 3, 2, 4, 48, 4),
    Stage("fused", 3, 2, 4, 64, 4),
    Stage("inverted", 3, 2, 4, 128, 6),
    Stage("inverted", 3, 1, 6, 160, 9),
    Stage("inverted", 3, 2, 6, 256, 15),
)
V2_M_STAGES = (
    Stage("conv", 3, 1, 1, 24, 3),
    Stage("fused", 3, 2, 4, 48, 5),
    Stage("fused", 3, 2, 4, 80, 5),
    Stage("inverted", 3, 2, 4, 160, 7),
    Stage("inverted", 3, 1, 6, 176, 14),
    Stage("inverted", 3, 2, 6, 304, 18),
    Stage("inverted", 3, 1, 6, 512, 5),
)
V2_L_STAGES = (
    Stage("conv", 3, 1, 1, 32, 4),
    Stage("fused", 3, 2, 4, 64, 7),
    Stage("fused", 3, 2, 4, 96, 7),
    Stage("inverted", 3, 2, 4, 192, 10),
    Stage("inverted", 3, 1, 6, 224, 19),
    Stage("inverted", 3, 2, 6, 384, 25),
    Stage("inverted", 3, 1, 6, 640, 7),
)
V2_XL_STAGES = (
    Stage("conv", 3, 1, 1, 32, 4),
    Stage("fused", 3, 2, 4, 64, 8),
    Stage("fused", 3, 2, 4, 96, 8),
    Stage("inverted", 3, 2, 4, 192, 16),
    Stage("inverted", 3, 1, 6, 256, 24),
    Stage("inverted", 3, 2, 6, 512, 32),
    Stage("inverted", 3, 1, 6, 640, 8),
)
V2_RW_S_STAGES = (Stage("fused", 3, 1, 1, 24, 2), *V2_S_STAGES[1:5], Stage("inverted", 3, 2, 6, 272, 15))


def _v1(name: str, width: float, depth: float, side: int, dropout: float) -> EfficientNetSpec:
    crop = side / (side + 32)
    return EfficientNetSpec(f"efficientnet_{name}", B0_STAGES, width, depth, (side, side), dropout, crop=crop)


def _lite(name: str, width: float, depth: float, side: int, dropout: float) -> EfficientNetSpec:
    return replace(
        _v1(name, width, depth, side, dropout),
        act="relu6",
        squeeze_excite=0.0,
        fixed_ends=True,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    )


def _v2(name: str, stages: tuple[Stage, ...], side: int, dropout: float) -> EfficientNetSpec:
    return EfficientNetSpec(
        f"efficientnetv2_{name}",
        stages,
        1.0,
        1.0,
        (side, side),
        dropout,
        stem=stages[0].channels,
        round_limit=0.0,
        interpolation="bilinear",
        mean=(128.0, 128.0, 128.0),
        std=(128.0, 128.0, 128.0),
    )


def _v2_b(name: str, width: float, depth: float, side: int, dropout: float) -> EfficientNetSpec:
    spec = EfficientNetSpec(f"efficientnetv2_{name}", V2_B0_STAGES, width, depth, (side, side), dropout)
    return replace(spec, round_limit=0.0, crop=side / (side + 32))


def _v2_rw(name: str, stages: tuple[Stage, ...], width: float, depth: float, side: int, head: int) -> EfficientNetSpec:
    """The networks that timm trained; their channels are rounded as EfficientNet's."""
    spec = EfficientNetSpec(f"efficientnetv2_{name}", stages, width, depth, (side, side), 0.2, stem=24, head=head)
    return replace(spec, padding="symmetric", norm_eps=1e-5)


EFFICIENTNETS = {
    spec.name: spec
    for spec in (
        _v1("b0", 1.0, 1.0, 224, 0.2),
        _v1("b1", 1.0, 1.1, 240, 0.2),
        _v1("b2", 1.1, 1.2, 260, 0.3),
        _v1("b3", 1.2, 1.4, 300, 0.3),
        _v1("b4", 1.4, 1.8, 380, 0.4),
        _v1("b5", 1.6, 2.2, 456, 0.4),
        _v1("b6", 1.8, 2.6, 528, 0.5),
        _v1("b7", 2.0, 3.1, 600, 0.5),
        _v1("b8", 2.2, 3.6, 672, 0.5),
        _v1("l2", 4.3, 5.3, 800, 0.5),
        _lite("lite0", 1.0, 1.0, 224, 0.2),
        _lite("lite1", 1.0, 1.1, 240, 0.2),
        _lite("lite2", 1.1, 1.2, 260, 0.3),
        _lite("lite3", 1.2, 1.4, 280, 0.3),
        _lite("lite4", 1.4, 1.8, 300, 0.3),
        _v2("s", V2_S_STAGES, 384, 0.2),
        _v2("m", V2_M_STAGES, 480, 0.3),
        _v2("l", V2_L_STAGES, 480, 0.4),
        _v2("xl", V2_XL_STAGES, 512, 0.4),
        _v2_b("b0", 1.0, 1.0, 224, 0.2),
        _v2_b("b1", 1.0, 1.1, 240, 0.2),
        _v2_b("b2", 1.1, 1.2, 260, 0.3),
        _v2_b("b3", 1.2, 1.4, 300, 0.3),
        _v2_rw("rw_t", V2_S_STAGES, 0.8, 0.9, 288, 1280),
        _v2_rw("rw_s", V2_RW_S_STAGES, 1.0, 1.0, 384, 1792),
    )
}


def classifier_spec(options: ModelOptions) -> EfficientNetSpec:
    """The classifier of some options.

    Raises:
        ConfigError: there is no such classifier, an option does not fit it, or phi cannot scale it.
    """
    row = find_spec(EFFICIENTNETS, options.name)
    options.refuse(f"{row.name} is a classifier and is its own backbone", "backbone")
    options.refuse(f"{row.name} is a classifier and has no anchors", "anchor_scale", "anchor_aspects")
    return replace(row.with_options(options), **options.given("image_size", "dropout"))
