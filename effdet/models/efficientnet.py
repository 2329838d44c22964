"""EfficientNet B0 to B8, L2, Lite0 to Lite4 and V2: their tables and the one network that all of them are.

The network classifies when it has classes and gives the features C3, C4, C5 for detection in any case; pyramid and
detection heads live beside it. Module names are timm's, so that public weights load with little mapping.
Source: EfficientNet (arXiv:1905.11946), tables 1 and 2; EfficientNetV2 (arXiv:2104.00298), table 4; reference code.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from effdet.errors import ConfigError
from effdet.models.layers import (
    Activation,
    Conv2d,
    DropPath,
    SqueezeExcite,
    activation,
    convolutions,
    init_backbone_conv,
    normalise,
    recomputed,
)
from effdet.types import Interpolation, Padding, Task

Block = Literal["separable", "inverted", "conv", "fused"]
Channels = tuple[float, ...]  # one value per image channel, 0..255

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB values 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)


class Stage(NamedTuple):
    """One row of an architecture table: `repeats` blocks; the first has the stride and changes the channels."""

    block: Block
    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int


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


@dataclass(frozen=True)
class EfficientNetSpec:
    """One network of the family: a table of stages, how far it is scaled, and how its images are prepared.

    Attributes:
        name: what the network is called.
        stages: its table before scaling.
        width: factor of the channels.
        depth: factor of the repeats.
        image_size: (H, W) of the images that it is meant for, in pixels; any other size works too.
        dropout: rate before the classifier.
        stem: channels of the stem before scaling.
        head: pooled channels before scaling.
        act: activation.
        squeeze_excite: squeezed channels as a share of a block's input; 0 for no squeeze-and-excitation.
        fixed_ends: stem and head keep their channels, first and last stage their repeats (Lite).
        round_limit: least share of the exact channels that rounding to multiples of 8 may leave.
        drop_path: stochastic depth rate that the last block comes near to.
        padding: of strided convolutions.
        norm_eps: epsilon of the norms.
        norm_momentum: share of the newest batch in their statistics.
        in_channels: channels of the images.
        mean: of the images, one value per channel, 0..255.
        std: their spread.
        crop: share of the resized image's sides that a test image keeps around its centre.
        interpolation: with which test images are resized.
    """

    task: ClassVar[Task] = "classification"
    max_level: ClassVar[int] = 5  # of the coarsest features

    name: str
    stages: tuple[Stage, ...]
    width: float
    depth: float
    image_size: tuple[int, int]
    dropout: float
    stem: int = 32
    head: int = 1280
    act: Activation = "silu"
    squeeze_excite: float = 0.25
    fixed_ends: bool = False
    round_limit: float = 0.9
    drop_path: float = 0.2
    padding: Padding = "same"
    norm_eps: float = 1e-3
    norm_momentum: float = 0.01
    in_channels: int = 3
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    crop: float = 1.0
    interpolation: Interpolation = "bicubic"

    @property
    def stem_channels(self) -> int:
        """Channels after the stem."""
        return self.stem if self.fixed_ends else self.scaled(self.stem)

    @property
    def head_channels(self) -> int:
        """Channels that are pooled for the classifier."""
        return self.head if self.fixed_ends else self.scaled(self.head)

    def scaled(self, channels: int) -> int:
        """Channels times the width, as a multiple of 8. Source: EfficientNet reference, round_filters."""
        exact = channels * self.width
        rounded = max(8, int(exact + 4) // 8 * 8)
        return rounded + 8 if rounded < self.round_limit * exact else rounded

    def scaled_stages(self) -> list[Stage]:
        """The table after scaling."""
        last = len(self.stages) - 1
        return [
            stage._replace(
                channels=self.scaled(stage.channels),
                repeats=stage.repeats
                if self.fixed_ends and index in (0, last)
                else math.ceil(stage.repeats * self.depth),
            )
            for index, stage in enumerate(self.stages)
        ]

    def build(self, num_classes: int) -> EfficientNet:
        """The network, freshly initialised; with 0 classes the trunk alone."""
        return EfficientNet(self, num_classes)


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


def _v2(
    name: str,
    stages: tuple[Stage, ...],
    side: int,
    dropout: float,
    interpolation: Interpolation = "bilinear",
    mean: Channels = (128.0, 128.0, 128.0),
    std: Channels = (128.0, 128.0, 128.0),
) -> EfficientNetSpec:
    return EfficientNetSpec(
        f"efficientnetv2_{name}",
        stages,
        1.0,
        1.0,
        (side, side),
        dropout,
        stem=stages[0].channels,
        round_limit=0.0,
        interpolation=interpolation,
        mean=mean,
        std=std,
    )


def _v2_b(name: str, width: float, depth: float, side: int, dropout: float) -> EfficientNetSpec:
    spec = EfficientNetSpec(f"efficientnetv2_{name}", V2_B0_STAGES, width, depth, (side, side), dropout)
    return replace(spec, round_limit=0.0, crop=side / (side + 32))


def _v2_rw(name: str, stages: tuple[Stage, ...], width: float, depth: float, side: int, head: int) -> EfficientNetSpec:
    """The variants that timm trained; they round their channels as EfficientNet does."""
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

# Compound coefficients. Source: EfficientNet section 3.3, grid search of alpha, beta, gamma.
DEPTH_PER_PHI, WIDTH_PER_PHI, RESOLUTION_PER_PHI = 1.2, 1.1, 1.15


def efficientnet_spec(
    name: str,
    *,
    phi: float | None = None,
    width: float | None = None,
    depth: float | None = None,
    image_size: tuple[int, int] | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
    padding: Padding | None = None,
    norm_momentum: float | None = None,
    in_channels: int | None = None,
) -> EfficientNetSpec:
    """A row of `EFFICIENTNETS` with changes; what is None stays as the table says.

    `phi` is the compound coefficient, counted from a network that is not scaled itself such as efficientnet_b0:
    channels grow by 1.1 to the phi, repeats by 1.2 to the phi, the image by 1.15 to the phi; the named B1 to B8 follow
    this law with coefficients rounded by hand. The others are attributes of `EfficientNetSpec`; mean and spread of
    images that are not RGB are the averages of the three.

    Raises:
        ConfigError: there is no such network, it is scaled already, or a number makes no sense.
    """
    spec = override_backbone(
        find_spec(EFFICIENTNETS, name), phi, width, depth, drop_path, padding, norm_momentum, in_channels
    )
    return replace(
        spec,
        image_size=image_size or spec.image_size,
        dropout=spec.dropout if dropout is None else dropout,
    )


def override_backbone(
    spec: EfficientNetSpec,
    phi: float | None,
    width: float | None,
    depth: float | None,
    drop_path: float | None,
    padding: Padding | None,
    norm_momentum: float | None,
    in_channels: int | None,
) -> EfficientNetSpec:
    """The changes of `efficientnet_spec` that concern a detector's backbone too."""
    for key, factor in (("width", width), ("depth", depth)):
        if factor is not None and factor <= 0:
            raise ConfigError(f"{key} is {factor}; expected more than 0")
    if phi is not None:
        spec = _compound(spec, phi)
    if in_channels is not None and in_channels != spec.in_channels:
        if in_channels < 1:
            raise ConfigError(f"in_channels is {in_channels}; expected at least 1")
        mean, std = ((sum(values) / len(values),) * in_channels for values in (spec.mean, spec.std))
        spec = replace(spec, in_channels=in_channels, mean=mean, std=std)
    return replace(
        spec,
        width=spec.width if width is None else width,
        depth=spec.depth if depth is None else depth,
        drop_path=spec.drop_path if drop_path is None else drop_path,
        padding=padding or spec.padding,
        norm_momentum=spec.norm_momentum if norm_momentum is None else norm_momentum,
    )


def _compound(spec: EfficientNetSpec, phi: float) -> EfficientNetSpec:
    if (spec.width, spec.depth) != (1.0, 1.0):
        bases = ", ".join(name for name, row in EFFICIENTNETS.items() if (row.width, row.depth) == (1.0, 1.0))
        raise ConfigError(f"phi scales a network that is not scaled yet, but {spec.name} is; start from one of {bases}")
    side = round(spec.image_size[0] * RESOLUTION_PER_PHI**phi)
    return replace(spec, width=WIDTH_PER_PHI**phi, depth=DEPTH_PER_PHI**phi, image_size=(side, side))


class ConvBlock(nn.Module):
    """Fused-MBConv without expansion: one convolution with norm and activation; a residual where the shape is kept."""

    def __init__(self, in_channels: int, stage: Stage, stride: int, spec: EfficientNetSpec, drop_path: float) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, stage.channels, stage.kernel, stride, padding=spec.padding)
        self.bn1 = _norm(stage.channels, spec)
        self.act = activation(spec.act)
        self.residual = stride == 1 and in_channels == stage.channels
        self.drop_path = DropPath(drop_path)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', ceil(H/s), ceil(W/s)]."""
        branch: Tensor = self.act(self.bn1(self.conv(features)))
        return self.drop_path(branch) + features if self.residual else branch


class FusedBlock(nn.Module):
    """Fused-MBConv: one convolution that expands, projection; a residual where the shape is kept.

    Source: EfficientNetV2, figure 2; no released network has squeeze-and-excitation here.
    """

    def __init__(self, in_channels: int, stage: Stage, stride: int, spec: EfficientNetSpec, drop_path: float) -> None:
        super().__init__()
        expanded = in_channels * stage.expand
        self.conv_exp = Conv2d(in_channels, expanded, stage.kernel, stride, padding=spec.padding)
        self.bn1 = _norm(expanded, spec)
        self.act = activation(spec.act)
        self.conv_pwl = Conv2d(expanded, stage.channels, 1)
        self.bn2 = _norm(stage.channels, spec)
        self.residual = stride == 1 and in_channels == stage.channels
        self.drop_path = DropPath(drop_path)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', ceil(H/s), ceil(W/s)]."""
        branch: Tensor = self.act(self.bn1(self.conv_exp(features)))
        branch = self.bn2(self.conv_pwl(branch))
        return self.drop_path(branch) + features if self.residual else branch


class SeparableBlock(nn.Module):
    """MBConv without expansion: depthwise, squeeze-and-excitation, projection; a residual where the shape is kept."""

    def __init__(self, in_channels: int, stage: Stage, stride: int, spec: EfficientNetSpec, drop_path: float) -> None:
        super().__init__()
        self.conv_dw = Conv2d(in_channels, in_channels, stage.kernel, stride, in_channels, spec.padding)
        self.bn1 = _norm(in_channels, spec)
        self.act = activation(spec.act)
        self.se = _squeeze_excite(in_channels, in_channels, spec)
        self.conv_pw = Conv2d(in_channels, stage.channels, 1)
        self.bn2 = _norm(stage.channels, spec)
        self.residual = stride == 1 and in_channels == stage.channels
        self.drop_path = DropPath(drop_path)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', ceil(H/s), ceil(W/s)]."""
        branch: Tensor = self.se(self.act(self.bn1(self.conv_dw(features))))
        branch = self.bn2(self.conv_pw(branch))
        return self.drop_path(branch) + features if self.residual else branch


class InvertedResidual(nn.Module):
    """MBConv: expansion, depthwise, squeeze-and-excitation, projection; a residual where the shape is kept.

    Source: EfficientNet section 4; MobileNetV2 figure 3; order of layers from the reference code.
    """

    def __init__(self, in_channels: int, stage: Stage, stride: int, spec: EfficientNetSpec, drop_path: float) -> None:
        super().__init__()
        expanded = in_channels * stage.expand
        self.conv_pw = Conv2d(in_channels, expanded, 1)
        self.bn1 = _norm(expanded, spec)
        self.conv_dw = Conv2d(expanded, expanded, stage.kernel, stride, expanded, spec.padding)
        self.bn2 = _norm(expanded, spec)
        self.act = activation(spec.act)
        self.se = _squeeze_excite(expanded, in_channels, spec)
        self.conv_pwl = Conv2d(expanded, stage.channels, 1)
        self.bn3 = _norm(stage.channels, spec)
        self.residual = stride == 1 and in_channels == stage.channels
        self.drop_path = DropPath(drop_path)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', ceil(H/s), ceil(W/s)]."""
        branch: Tensor = self.act(self.bn1(self.conv_pw(features)))
        branch = self.se(self.act(self.bn2(self.conv_dw(branch))))
        branch = self.bn3(self.conv_pwl(branch))
        return self.drop_path(branch) + features if self.residual else branch


def _squeeze_excite(channels: int, block_input: int, spec: EfficientNetSpec) -> nn.Module:
    if spec.squeeze_excite == 0:
        return nn.Identity()
    return SqueezeExcite(channels, max(1, int(block_input * spec.squeeze_excite)), spec.act)


def _norm(channels: int, spec: EfficientNetSpec) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=spec.norm_eps, momentum=spec.norm_momentum)


BLOCKS: dict[Block, type[SeparableBlock | InvertedResidual | ConvBlock | FusedBlock]] = {
    "separable": SeparableBlock,
    "inverted": InvertedResidual,
    "conv": ConvBlock,
    "fused": FusedBlock,
}


class EfficientNet(nn.Module):
    """A classifier, or with no classes the trunk of a detector. Images are normalised inside.

    Attributes:
        spec: what the network is.
        feature_channels: channels of the features C3, C4, C5.
        feature_strides: their strides in pixels.
        mean: [C] of the images, 0..255.
        std: [C], their spread.
        recomputes: whether training keeps the outputs of the blocks alone, see `checkpoint_activations`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: EfficientNetSpec, num_classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.recomputes = False
        stages = spec.scaled_stages()
        self.conv_stem = Conv2d(spec.in_channels, spec.stem_channels, 3, 2, padding=spec.padding)
        self.bn1 = _norm(spec.stem_channels, spec)
        self.act = activation(spec.act)
        self.blocks = nn.ModuleList()
        total, built, channels = sum(stage.repeats for stage in stages), 0, spec.stem_channels
        for stage in stages:
            blocks = nn.Sequential()
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(BLOCKS[stage.block](channels, stage, stride, spec, spec.drop_path * built / total))
                channels, built = stage.channels, built + 1
            self.blocks.append(blocks)
        self.num_classes = num_classes
        if num_classes:
            self.conv_head = Conv2d(channels, spec.head_channels, 1)
            self.bn2 = _norm(spec.head_channels, spec)
            self.dropout = nn.Dropout(spec.dropout)
            self.classifier = nn.Linear(spec.head_channels, num_classes)
            self._init_classifier(num_classes)
        for conv in convolutions(self):
            init_backbone_conv(conv)
        self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std, dtype=torch.float32), persistent=False)
        self._feature_stages = _last_stages_by_stride(stages)
        self.feature_strides = tuple(self._feature_stages)
        self.feature_channels = tuple(stages[index].channels for index in self._feature_stages.values())

    def _init_classifier(self, num_classes: int) -> None:
        # The reference's limit follows the classes and is made for a thousand: with few, the first logits explode.
        limit = max(num_classes, 1000) ** -0.5
        nn.init.uniform_(self.classifier.weight, -limit, limit)
        nn.init.zeros_(self.classifier.bias)

    @property
    def head_modules(self) -> tuple[str, ...]:
        """Names of the modules behind the backbone, the one with an output per class last."""
        return ("conv_head", "bn2", "classifier") if self.num_classes else ()

    def layer_groups(self) -> list[list[str]]:
        """Names of the modules of each layer, from the head over the stages, the last first, to the stem."""
        stages = [[f"blocks.{number}"] for number in reversed(range(len(self.blocks)))]
        head = [list(self.head_modules)] if self.head_modules else []
        return [*head, *stages, ["conv_stem", "bn1"]]

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """Saves memory in training: of each block the output alone is kept, the rest computed again going backward."""
        self.recomputes = enabled

    def features(self, images: Tensor) -> list[Tensor]:
        """C3, C4, C5 of images [B, C, H, W], 0..255: outputs of the last blocks at strides 8, 16 and 32."""
        outputs = self._stage_outputs(images)
        return [outputs[index] for index in self._feature_stages.values()]

    def embed(self, images: Tensor) -> Tensor:
        """Pooled vectors [B, C'] of images [B, C, H, W], 0..255: what the last layer classifies."""
        assert self.num_classes, "this network was built without classes; use features()"
        features = self.act(self.bn2(self.conv_head(self._stage_outputs(images)[-1])))
        vectors: Tensor = features.mean((2, 3))
        return vectors

    def forward(self, images: Tensor) -> Tensor:
        """Class logits [B, K] of images [B, C, H, W], uint8 or float, 0..255."""
        logits: Tensor = self.classifier(self.dropout(self.embed(images)))
        return logits

    def _stage_outputs(self, images: Tensor) -> list[Tensor]:
        features = recomputed(self.recomputes, self, self._stem, images)
        outputs: list[Tensor] = []
        for stage in self.blocks:
            assert isinstance(stage, nn.Sequential)
            for block in stage:
                features = recomputed(self.recomputes, block, block, features)
            outputs.append(features)
        return outputs

    def _stem(self, images: Tensor) -> Tensor:
        features: Tensor = self.act(self.bn1(self.conv_stem(normalise(images, self.mean, self.std))))
        return features


def _last_stages_by_stride(stages: list[Stage]) -> dict[int, int]:
    """Stride -> the last stage of that stride, for strides 8, 16 and 32."""
    last: dict[int, int] = {}
    stride = 2
    for index, stage in enumerate(stages):
        stride *= stage.stride
        last[stride] = index
    return {stride: index for stride, index in last.items() if stride >= 8}


Spec = TypeVar("Spec")


def find_spec(table: Mapping[str, Spec], name: str) -> Spec:
    """The row of a table of networks.

    Raises:
        ConfigError: there is no such network; the message suggests near names.
    """
    if name not in table:
        near = difflib.get_close_matches(name, table, n=3, cutoff=0.5) or list(table)
        raise ConfigError(f"unknown model '{name}'; did you mean {' or '.join(near)}?")
    return table[name]


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in module.parameters())
