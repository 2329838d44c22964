"""Any network of the timm library with feature extraction as the backbone of a detector.

timm is an optional package; it is imported when such a backbone is built. Loading its weights is the work of `weights`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet.errors import ConfigError
from effdet.models.anchors import level_sizes
from effdet.models.efficientnet import IMAGENET_MEAN, IMAGENET_STD, Channels
from effdet.models.layers import normalise, recomputed

PREFIX = "timm/"
STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class TimmSpec:
    """A backbone of timm.

    Attributes:
        name: 'timm/' and timm's name.
        drop_path: stochastic depth rate of its last block; None leaves it to timm.
        in_channels: channels of the images.
        mean: of the images, one value per channel, 0..255.
        std: their spread.
    """

    name: str
    drop_path: float | None = None
    in_channels: int = 3
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD

    def build(self, num_classes: int) -> TimmBackbone:
        """The network, freshly initialised; it has no classes of its own."""
        assert num_classes == 0
        return TimmBackbone(self)


class TimmBackbone(nn.Module):
    """Gives C3, C4, C5 of a timm network. Images are normalised inside.

    Attributes:
        spec: what the network is.
        feature_channels: channels of the features C3, C4, C5.
        feature_strides: their strides in pixels.
        mean: [C] of the images, 0..255.
        std: [C], their spread.
        recomputes: whether training keeps the features alone, see `checkpoint_activations`.
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
        """Names of the modules that timm tells apart, the last first."""
        return [[f"net.{name}"] for name, module in self.net.named_children() if list(module.parameters())][::-1]

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """Saves memory in training: the network's activations are not kept but computed again going backward."""
        self.recomputes = enabled

    def features(self, images: Tensor) -> list[Tensor]:
        """C3, C4, C5 of images [B, C, H, W], 0..255."""
        height, width = images.shape[-2:]
        images = normalise(images, self.mean, self.std)
        if height % STRIDES[-1] or width % STRIDES[-1]:  # some of these networks round up, as ours do, and some down
            images = F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        features: list[Tensor] = recomputed(self.recomputes, self.net, self.net, images)
        sizes = level_sizes((height, width), 3, 5)
        return [feature[:, :, :rows, :columns] for feature, (rows, columns) in zip(features, sizes, strict=True)]


def timm_spec(name: str, drop_path: float | None = None, in_channels: int | None = None) -> TimmSpec:
    """Spec of 'timm/NAME' with the normalisation that timm's own weights of it were trained with.

    Raises:
        ConfigError: timm is not installed or has no such network.
    """
    timm = _timm(name)
    if not timm.is_model(name.removeprefix(PREFIX)):
        near = difflib.get_close_matches(name.removeprefix(PREFIX), timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(PREFIX + candidate for candidate in near)}?" if near else ""
        raise ConfigError(f"model.backbone: timm has no network '{name.removeprefix(PREFIX)}'{hint}")
    trained = timm.get_pretrained_cfg(name.removeprefix(PREFIX))
    channels = in_channels or 3
    mean, std = (tuple(255 * value for value in values) for values in (trained.mean, trained.std))
    if channels != 3:
        mean, std = ((sum(values) / len(values),) * channels for values in (mean, std))
    return TimmSpec(name, drop_path, channels, mean, std)


def make_timm_network(spec: TimmSpec, file: str | None = None) -> Any:
    """The network of timm that gives the features at strides 8, 16 and 32, with the weights of its file if given.

    Raises:
        ConfigError: timm is not installed, or the network has no features of these strides at every image size.
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
        return timm.create_model(
            name,
            features_only=True,
            out_indices=indices,
            in_chans=spec.in_channels,
            pretrained=file is not None,
            **({} if file is None else {"pretrained_cfg_overlay": {"file": file}}),
            **({} if spec.drop_path is None else {"drop_path_rate": spec.drop_path}),
        )
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"model.backbone: {spec.name} cannot give features at strides 8, 16 and 32 of images of any size "
            f"({str(error).splitlines()[0]}); choose a network with a pyramid of features, such as timm/resnet50"
        ) from None


def _probe(net: Any, indices: list[int]) -> None:
    """Runs a network once: some take images of one size alone, and some round their features in other ways."""
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
