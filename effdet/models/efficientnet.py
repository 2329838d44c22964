"""EfficientNet B0 to B8, L2 and Lite0 to Lite4: their table and the one network that all of them are.

The network classifies when it has classes and gives the features C3, C4, C5 for detection in any case; pyramid and
detection heads live beside it. Module names are timm's, so that public weights load with little mapping.
Source: EfficientNet (arXiv:1905.11946), tables 1 and 2, and its reference code.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from effdet.errors import ConfigError
from effdet.models.layers import (
    Activation,
    Conv2d,
    DropPath,
    NormFactory,
    Padding,
    SqueezeExcite,
    activation,
    convolutions,
    init_backbone_conv,
)


class Stage(NamedTuple):
    """One row of the architecture table: `repeats` blocks; the first has the stride and changes the channels."""

    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int


B0_STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)


@dataclass(frozen=True)
class EfficientNetSpec:
    """One network of the family: how far B0 is scaled, and in what it differs.

    Attributes:
        width: factor of the channels.
        depth: factor of the repeats.
        image_size: side of its training images in pixels.
        dropout: rate before the classifier.
        act: activation.
        squeeze_excite: squeezed channels as a share of the block's input; 0 for no squeeze-and-excitation.
        fixed_ends: stem and head keep their channels, first and last stage their repeats (Lite).
    """

    width: float
    depth: float
    image_size: int
    dropout: float
    act: Activation = "silu"
    squeeze_excite: float = 0.25
    fixed_ends: bool = False

    @property
    def stem_channels(self) -> int:
        """Channels after the stem."""
        return 32 if self.fixed_ends else round_channels(32 * self.width)

    @property
    def head_channels(self) -> int:
        """Channels that are pooled for the classifier."""
        return 1280 if self.fixed_ends else round_channels(1280 * self.width)

    def stages(self) -> list[Stage]:
        """The table of B0, scaled."""
        last = len(B0_STAGES) - 1
        return [
            stage._replace(
                channels=round_channels(stage.channels * self.width),
                repeats=stage.repeats
                if self.fixed_ends and index in (0, last)
                else math.ceil(stage.repeats * self.depth),
            )
            for index, stage in enumerate(B0_STAGES)
        ]


def _lite(width: float, depth: float, image_size: int, dropout: float) -> EfficientNetSpec:
    return EfficientNetSpec(width, depth, image_size, dropout, act="relu6", squeeze_excite=0.0, fixed_ends=True)


EFFICIENTNETS = {
    "efficientnet_b0": EfficientNetSpec(1.0, 1.0, 224, 0.2),
    "efficientnet_b1": EfficientNetSpec(1.0, 1.1, 240, 0.2),
    "efficientnet_b2": EfficientNetSpec(1.1, 1.2, 260, 0.3),
    "efficientnet_b3": EfficientNetSpec(1.2, 1.4, 300, 0.3),
    "efficientnet_b4": EfficientNetSpec(1.4, 1.8, 380, 0.4),
    "efficientnet_b5": EfficientNetSpec(1.6, 2.2, 456, 0.4),
    "efficientnet_b6": EfficientNetSpec(1.8, 2.6, 528, 0.5),
    "efficientnet_b7": EfficientNetSpec(2.0, 3.1, 600, 0.5),
    "efficientnet_b8": EfficientNetSpec(2.2, 3.6, 672, 0.5),
    "efficientnet_l2": EfficientNetSpec(4.3, 5.3, 800, 0.5),
    "efficientnet_lite0": _lite(1.0, 1.0, 224, 0.2),
    "efficientnet_lite1": _lite(1.0, 1.1, 240, 0.2),
    "efficientnet_lite2": _lite(1.1, 1.2, 260, 0.3),
    "efficientnet_lite3": _lite(1.2, 1.4, 280, 0.3),
    "efficientnet_lite4": _lite(1.4, 1.8, 300, 0.3),
}


def round_channels(channels: float) -> int:
    """Nearest multiple of 8 that is not more than a tenth below. Source: EfficientNet reference, round_filters."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class DepthwiseBlock(nn.Module):
    """MBConv without expansion: depthwise, squeeze-and-excitation, projection; a residual where the shape is kept."""

    def __init__(
        self,
        in_channels: int,
        stage: Stage,
        stride: int,
        spec: EfficientNetSpec,
        norm: NormFactory,
        padding: Padding,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.conv_dw = Conv2d(in_channels, in_channels, stage.kernel, stride, in_channels, padding)
        self.bn1 = norm(in_channels)
        self.act = activation(spec.act)
        self.se = _squeeze_excite(in_channels, in_channels, spec)
        self.conv_pw = Conv2d(in_channels, stage.channels, 1)
        self.bn2 = norm(stage.channels)
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

    def __init__(
        self,
        in_channels: int,
        stage: Stage,
        stride: int,
        spec: EfficientNetSpec,
        norm: NormFactory,
        padding: Padding,
        drop_path: float,
    ) -> None:
        super().__init__()
        expanded = in_channels * stage.expand
        self.conv_pw = Conv2d(in_channels, expanded, 1)
        self.bn1 = norm(expanded)
        self.conv_dw = Conv2d(expanded, expanded, stage.kernel, stride, expanded, padding)
        self.bn2 = norm(expanded)
        self.act = activation(spec.act)
        self.se = _squeeze_excite(expanded, in_channels, spec)
        self.conv_pwl = Conv2d(expanded, stage.channels, 1)
        self.bn3 = norm(stage.channels)
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


class EfficientNet(nn.Module):
    """A classifier, or with no classes the trunk of a detector.

    Attributes:
        feature_channels: channels of the features C3, C4, C5.
        feature_strides: their strides in pixels.
    """

    def __init__(
        self,
        spec: EfficientNetSpec,
        num_classes: int,
        norm: NormFactory,
        padding: Padding = "same",
        drop_path: float = 0.2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        stages = spec.stages()
        self.conv_stem = Conv2d(in_channels, spec.stem_channels, 3, 2, padding=padding)
        self.bn1 = norm(spec.stem_channels)
        self.act = activation(spec.act)
        self.blocks = nn.ModuleList()
        total, built, channels = sum(stage.repeats for stage in stages), 0, spec.stem_channels
        for stage in stages:
            block = DepthwiseBlock if stage.expand == 1 else InvertedResidual
            blocks = nn.Sequential()
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(block(channels, stage, stride, spec, norm, padding, drop_path * built / total))
                channels, built = stage.channels, built + 1
            self.blocks.append(blocks)
        self.classified = num_classes > 0
        if self.classified:
            self.conv_head = Conv2d(channels, spec.head_channels, 1)
            self.bn2 = norm(spec.head_channels)
            self.dropout = nn.Dropout(spec.dropout)
            self.classifier = nn.Linear(spec.head_channels, num_classes)
            self._init_classifier(num_classes)
        for conv in convolutions(self):
            init_backbone_conv(conv)
        self._feature_stages = _last_stages_by_stride(stages)
        self.feature_strides = tuple(self._feature_stages)
        self.feature_channels = tuple(stages[index].channels for index in self._feature_stages.values())

    def _init_classifier(self, num_classes: int) -> None:
        limit = num_classes**-0.5
        nn.init.uniform_(self.classifier.weight, -limit, limit)
        nn.init.zeros_(self.classifier.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """C3, C4, C5: [B, C, H, W] normalised images -> outputs of the last blocks at strides 8, 16 and 32."""
        outputs = self._stage_outputs(images)
        return [outputs[index] for index in self._feature_stages.values()]

    def forward(self, images: Tensor) -> Tensor:
        """Class logits [B, K] of normalised images [B, C, H, W]."""
        assert self.classified, "this network was built without classes; use features()"
        features = self.act(self.bn2(self.conv_head(self._stage_outputs(images)[-1])))
        logits: Tensor = self.classifier(self.dropout(features.mean((2, 3))))
        return logits

    def _stage_outputs(self, images: Tensor) -> list[Tensor]:
        features = self.act(self.bn1(self.conv_stem(images)))
        outputs: list[Tensor] = []
        for stage in self.blocks:
            features = stage(features)
            outputs.append(features)
        return outputs


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


def build_efficientnet(
    name: str,
    num_classes: int,
    *,
    norm_eps: float = 1e-3,
    norm_momentum: float = 0.01,
    padding: Padding = "same",
    drop_path: float = 0.2,
    in_channels: int = 3,
) -> EfficientNet:
    """The network of that name in `EFFICIENTNETS`, freshly initialised; with 0 classes the trunk alone.

    Raises:
        ConfigError: there is no such network.
    """

    def norm(channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=norm_eps, momentum=norm_momentum)

    return EfficientNet(find_spec(EFFICIENTNETS, name), num_classes, norm, padding, drop_path, in_channels)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in module.parameters())
