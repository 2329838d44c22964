"""Any network of the timm library with feature extraction as the backbone of a detector.

timm is an optional package, imported when such a backbone is built. Loading its weights is in `effdet/weights`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from effdet.errors import ConfigError
from effdet.models.anchors import level_sizes
from effdet.models.efficientnet import IMAGENET_MEAN, IMAGENET_STD
from effdet.models.layers import Float32Buffers, for_channels, normalise, recomputed
from effdet.models.options import ModelOptions
from effdet.types import Padding

if TYPE_CHECKING:
    from effdet.models.backbone import BackboneSpec

PREFIX = "timm/"
STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class TimmSpec:
    """A backbone of timm.

    Attributes:
        name: 'timm/' and timm's name.
        drop_path: stochastic depth rate of the last block; None for timm's own.
        in_channels: channels of the images.
        mean: of the images, one value per channel, 0..255.
        std: standard deviation of the images, one value per channel.
        norm_momentum: BatchNorm momentum (PyTorch convention); None for timm's own.
    """

    library: ClassVar[str | None] = "timm"

    name: str
    drop_path: float | None = None
    in_channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    norm_momentum: float | None = None

    def with_options(self, options: ModelOptions) -> TimmSpec:
        """The backbone with the options that concern it; see `BackboneSpec`.

        Raises:
            ConfigError: phi, width or depth is given, which do not scale a network of timm.
        """
        options.refuse(f"it does not scale {self.name}, which is timm's", "phi", "width", "depth")
        channels = self.in_channels if options.in_channels is None else options.in_channels
        mean, std = (for_channels(values, channels) for values in (self.mean, self.std))
        changes = options.given("drop_path", "norm_momentum")
        return replace(self, in_channels=channels, mean=mean, std=std, **changes)

    def adapted_to(self, trained: BackboneSpec, padding: Padding | None) -> TimmSpec:
        """The backbone with mean and standard deviation of its weights; timm's networks keep their padding."""
        if trained.name != self.name:
            return self
        mean, std = (for_channels(values, self.in_channels) for values in (trained.mean, trained.std))
        return replace(self, mean=mean, std=std)

    def build(self, num_classes: int) -> TimmBackbone:
        """The network, freshly initialised; it has no classes of its own."""
        assert num_classes == 0
        return TimmBackbone(self)


class TimmBackbone(Float32Buffers):
    """C3, C4 and C5 of a network of timm. Images are normalised inside.

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

    def __init__(self, spec: TimmSpec) -> None:
        super().__init__()
        self.spec = spec
        self.recomputes = False
        self.net = make_timm_network(spec)
        self.feature_channels = tuple(self.net.feature_info.channels())
        self.feature_strides = tuple(self.net.feature_info.reduction())
        self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std, dtype=torch.float32), persistent=False)

    def layer_groups(self) -> list[list[str]]:
        """Names of the direct children of timm's network, the last first."""
        return [[f"net.{name}"] for name, module in self.net.named_children() if list(module.parameters())][::-1]

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """Saves memory in training: only the features are kept, the rest is recomputed in the backward pass."""
        self.recomputes = enabled

    def features(self, images: Tensor) -> list[Tensor]:
        """C3, C4, C5 of images [B, C, H, W], 0..255."""
        height, width = images.shape[-2:]
        images = normalise(images, self.mean, self.std).to(next(self.net.parameters()).dtype)
        if height % STRIDES[-1] or width % STRIDES[-1]:  # some of timm's networks round up, as ours do, and some down
            images = F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        features: list[Tensor] = recomputed(self.recomputes, self.net, self.net, images)
        sizes = level_sizes((height, width), 3, 5)
        return [feature[:, :, :rows, :columns] for feature, (rows, columns) in zip(features, sizes, strict=True)]


def timm_spec(name: str) -> TimmSpec:
    """Spec of 'timm/NAME' with the mean and standard deviation that timm's own weights were trained with.

    Raises:
        ConfigError: timm is not installed or has no such network.
    """
    timm = _timm(name)
    if not timm.is_model(name.removeprefix(PREFIX)):
        near = difflib.get_close_matches(name.removeprefix(PREFIX), timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(PREFIX + candidate for candidate in near)}?" if near else ""
        raise ConfigError(f"model.backbone: timm has no network '{name.removeprefix(PREFIX)}'{hint}")
    trained = timm.get_pretrained_cfg(name.removeprefix(PREFIX))
    mean, std = (tuple(255 * value for value in values) for values in (trained.mean, trained.std))
    return TimmSpec(name, mean=mean, std=std)


def make_timm_network(spec: TimmSpec, file: str | None = None) -> Any:
    """The network of timm that gives the features at strides 8, 16 and 32, with the weights of a file if given.

    Raises:
        ConfigError: timm is not installed, the network has no features of these strides at every image size, or it has
            no stochastic depth but a rate is set.
    """
    timm = _timm(spec.name)
    name = spec.name.removeprefix(PREFIX)
    try:
        plain = timm.create_model(name, features_only=True, pretrained=False)
        strides = list(plain.feature_info.reduction())
        if not set(STRIDES) <= set(strides):
            raise ValueError(f"its strides are {', '.join(map(str, dict.fromkeys(strides)))}")
        indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES]
        _probe(plain, indices)
        net = timm.create_model(
            name,
            features_only=True,
            out_indices=indices,
            in_chans=spec.in_channels,
            pretrained=file is not None,
            **({} if file is None else {"pretrained_cfg_overlay": {"file": file}}),
            **({} if spec.drop_path is None else {"drop_path_rate": spec.drop_path}),
        )
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        if "drop_path_rate" in str(error):
            raise ConfigError(
                f"drop_path is set to {spec.drop_path}, but {spec.name} has no stochastic depth; leave drop_path out"
            ) from None
        raise ConfigError(
            f"model.backbone: {spec.name} cannot give features at strides 8, 16 and 32 of images of any size "
            f"({str(error).splitlines()[0]}); choose a network with a pyramid of features, such as timm/resnet50"
        ) from None
    if spec.norm_momentum is not None:
        for layer in net.modules():
            if isinstance(layer, _BatchNorm):
                layer.momentum = spec.norm_momentum
    return net


def _probe(net: Any, indices: list[int]) -> None:
    """Runs a network once: some accept only one image size, and some round the sizes of their features differently."""
    height, width = 64, 96
    with torch.inference_mode():
        features = net.eval()(torch.zeros(1, 3, height, width))
    for index, stride in zip(indices, STRIDES, strict=True):
        expected = (1, net.feature_info.channels()[index], height // stride, width // stride)
        if tuple(features[index].shape) != expected:
            raise ValueError(f"its feature is {list(features[index].shape)} and not {list(expected)}")


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError:
        raise ConfigError(
            f"the backbone {name} needs the package timm; install it with: pip install 'efficientdet-torch[timm]'"
        ) from None
    return timm
