"""EfficientNet and EfficientNetV2: what one network of the family is, its blocks, and the network.

The network classifies when it has classes, and gives the features C3, C4, C5 in any case. The named networks are in
`efficientnet_specs.py`; pyramid and detection heads have files of their own. Module names are timm's, so that public
weights load with little mapping.
Source: EfficientNet (arXiv:1905.11946); EfficientNetV2 (arXiv:2104.00298); reference code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from effdet.errors import ConfigError
from effdet.models.layers import (
    Activation,
    Conv2d,
    DropPath,
    Float32Buffers,
    SqueezeExcite,
    activation,
    convolutions,
    for_channels,
    init_backbone_conv,
    normalise,
    recomputed,
)
from effdet.models.options import ModelOptions
from effdet.types import Interpolation, Padding

if TYPE_CHECKING:
    from effdet.models.backbone import BackboneSpec

Block = Literal["separable", "inverted", "conv", "fused"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB values 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)

# Compound coefficients. Source: EfficientNet section 3.3, grid search of alpha, beta, gamma.
DEPTH_PER_PHI, WIDTH_PER_PHI, RESOLUTION_PER_PHI = 1.2, 1.1, 1.15


class Stage(NamedTuple):
    """One row of an architecture table: `repeats` blocks; the first has the stride and changes the channels."""

    block: Block
    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int


@dataclass(frozen=True)
class EfficientNetSpec:
    """One network of the family: its stages, their scaling, and how its images are prepared.

    Attributes:
        name: name of the network.
        stages: its table before scaling.
        width: factor of the channels.
        depth: factor of the repeats.
        image_size: (H, W) of the images that it is meant for, in pixels; any other size works too.
        dropout: rate before the classifier.
        stem: channels of the stem before scaling.
        head: pooled channels before scaling.
        act: activation.
        squeeze_excite: squeezed channels as a fraction of a block's input; 0 for no squeeze-and-excitation.
        fixed_ends: stem and head keep their channels, first and last stage their repeats (Lite).
        round_limit: rounding to multiples of 8 may not go below this fraction of the exact channels.
        drop_path: stochastic depth rate, which grows over the blocks from 0 to almost this.
        padding: of strided convolutions.
        norm_eps: epsilon of the BatchNorm layers.
        norm_momentum: BatchNorm momentum (PyTorch convention).
        in_channels: channels of the images.
        mean: of the images, one value per channel, 0..255.
        std: standard deviation of the images, one value per channel.
        crop: fraction of the resized image's sides that evaluation keeps around the centre.
        interpolation: how images are resized for evaluation.
    """

    task: ClassVar[Literal["classification"]] = "classification"
    library: ClassVar[str | None] = None
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
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: float = 1.0
    interpolation: Interpolation = "bicubic"

    @property
    def backbone(self) -> EfficientNetSpec:
        """The spec itself: a classifier is its own backbone."""
        return self

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

    def with_options(self, options: ModelOptions) -> EfficientNetSpec:
        """The network with the options that concern backbones; see `BackboneSpec`.

        Raises:
            ConfigError: phi is given, but the network is scaled already.
        """
        spec = self if options.phi is None else self._compounded(options.phi)
        if options.in_channels is not None:
            mean, std = (for_channels(values, options.in_channels) for values in (spec.mean, spec.std))
            spec = replace(spec, in_channels=options.in_channels, mean=mean, std=std)
        return replace(spec, **options.given("width", "depth", "drop_path", "padding", "norm_momentum"))

    def _compounded(self, phi: float) -> EfficientNetSpec:
        if (self.width, self.depth) != (1.0, 1.0):
            raise ConfigError(
                f"phi scales a network that is not scaled yet, but {self.name} is; start from efficientnet_b0, "
                "efficientnet_lite0, efficientnetv2_b0 or another network whose width and depth are 1"
            )
        side = round(self.image_size[0] * RESOLUTION_PER_PHI**phi)
        return replace(self, width=WIDTH_PER_PHI**phi, depth=DEPTH_PER_PHI**phi, image_size=(side, side))

    def adapted_to(self, trained: BackboneSpec, padding: Padding | None) -> EfficientNetSpec:
        """The network with the conventions that weights were trained with; see `BackboneSpec`."""
        if not isinstance(trained, EfficientNetSpec):
            return self
        mean, std = (for_channels(values, self.in_channels) for values in (trained.mean, trained.std))
        return replace(self, padding=padding or trained.padding, norm_eps=trained.norm_eps, mean=mean, std=std)

    def build(self, num_classes: int) -> EfficientNet:
        """The network, freshly initialised; 0 classes for a backbone without a classifier."""
        return EfficientNet(self, num_classes)


class ConvBlock(nn.Module):
    """Fused-MBConv without expansion: convolution, BatchNorm, activation; a residual where the shape stays the same."""

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
    """Fused-MBConv: one convolution that expands, projection; a residual where the shape stays the same.

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
    """MBConv without expansion: depthwise, squeeze-and-excitation, projection; a residual where the shape stays
    the same.
    """

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
    """MBConv: expansion, depthwise, squeeze-and-excitation, projection; a residual where the shape stays
    the same.

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


class EfficientNet(Float32Buffers):
    """A classifier, or with 0 classes the backbone of a detector. Images are normalised inside.

    Attributes:
        spec: what the network is.
        feature_channels: channels of the features C3, C4, C5.
        feature_strides: their strides in pixels.
        mean: [C] of the images, 0..255, float32 whatever the network is cast to.
        std: [C] standard deviation of the images, float32 too.
        recomputes: whether training recomputes activations, see `checkpoint_activations`.
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
        # The reference's limit depends on the classes and is meant for 1000: with few the first logits are huge.
        limit = max(num_classes, 1000) ** -0.5
        nn.init.uniform_(self.classifier.weight, -limit, limit)
        nn.init.zeros_(self.classifier.bias)

    @property
    def backbone(self) -> EfficientNet:
        """The network itself: a classifier is its own backbone."""
        return self

    @property
    def head_modules(self) -> tuple[str, ...]:
        """Names of the modules behind the backbone, the one with an output per class last."""
        return ("conv_head", "bn2", "classifier") if self.num_classes else ()

    def layer_groups(self) -> list[list[str]]:
        """Names of the modules of each layer: the head, the stages from last to first, the stem."""
        stages = [[f"blocks.{number}"] for number in reversed(range(len(self.blocks)))]
        head = [list(self.head_modules)] if self.head_modules else []
        return [*head, *stages, ["conv_stem", "bn1"]]

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """Saves memory in training: only the blocks' outputs are kept, the rest is recomputed in the backward pass."""
        self.recomputes = enabled

    def features(self, images: Tensor) -> list[Tensor]:
        """C3, C4, C5 of images [B, C, H, W], 0..255: outputs of the last blocks at strides 8, 16 and 32."""
        outputs = self._stage_outputs(images)
        return [outputs[index] for index in self._feature_stages.values()]

    def embed(self, images: Tensor) -> Tensor:
        """Pooled vectors [B, C'] of images [B, C, H, W], 0..255: the input of the last layer."""
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
        images = normalise(images, self.mean, self.std).to(self.conv_stem.weight.dtype)
        features: Tensor = self.act(self.bn1(self.conv_stem(images)))
        return features


def _last_stages_by_stride(stages: list[Stage]) -> dict[int, int]:
    """Stride -> the last stage of that stride, for strides 8, 16 and 32."""
    last: dict[int, int] = {}
    stride = 2
    for index, stage in enumerate(stages):
        stride *= stage.stride
        last[stride] = index
    return {stride: index for stride, index in last.items() if stride >= 8}
