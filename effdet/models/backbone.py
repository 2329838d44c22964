"""What a detector needs of a backbone, and the families of backbones.

A new family is one file with a spec and a network that have the members below, and a line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

from torch import Tensor

from effdet.models.efficientnet import EfficientNetSpec
from effdet.models.efficientnet_specs import EFFICIENTNETS
from effdet.models.options import ModelOptions, find_spec
from effdet.models.timm_backbone import PREFIX, TimmSpec, timm_spec
from effdet.types import Padding


class Backbone(Protocol):
    """A torch module that turns images into the features C3, C4 and C5."""

    mean: Tensor  # [C] of the images, 0..255, float32
    std: Tensor  # [C] of the images, float32

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of C3, C4 and C5."""

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Strides of C3, C4 and C5 in pixels: 8, 16 and 32."""

    def features(self, images: Tensor) -> list[Tensor]:
        """C3, C4, C5 [B, C', H', W'] of images [B, C, H, W], 0..255; sizes round up, H' = ceil(H / stride)."""

    def layer_groups(self) -> list[list[str]]:
        """Names of the modules of each layer, the layer next to the neck first, the stem last."""

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """Whether training recomputes activations in the backward pass instead of keeping them in memory."""


class BackboneSpec(Protocol):
    """A backbone before it is built: a frozen dataclass of plain values, so that a model card can hold it."""

    library: ClassVar[str | None]  # whose weights files are read by code of its own, such as timm; None for ours

    @property
    def name(self) -> str:
        """Its name, with the prefix of its family."""

    @property
    def in_channels(self) -> int:
        """Channels C of the images."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the images, one value per channel, 0..255."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the images, one value per channel."""

    def with_options(self, options: ModelOptions) -> BackboneSpec:
        """The backbone with the options that concern backbones.

        Raises:
            ConfigError: an option does not fit the family.
        """

    def adapted_to(self, trained: BackboneSpec, padding: Padding | None) -> BackboneSpec:
        """The backbone with mean, standard deviation and the other conventions that weights were trained with.

        Args:
            trained: the backbone that the weights belong to; another family changes nothing.
            padding: the padding that the user asks for; None follows the weights.
        """

    def build(self, num_classes: int) -> Backbone:
        """The network, freshly initialised; 0 classes for a backbone without a classifier."""


AnyBackboneSpec = EfficientNetSpec | TimmSpec  # what a model card may hold

# Prefix of the names of a family -> its spec by name. The family without a prefix is the last.
FAMILIES: dict[str, Callable[[str], AnyBackboneSpec]] = {
    PREFIX: timm_spec,
    "": lambda name: find_spec(EFFICIENTNETS, name),
}


def find_backbone(name: str) -> AnyBackboneSpec:
    """The spec of a backbone by name.

    Raises:
        ConfigError: there is no such backbone, or its package is not installed; the message suggests near names.
    """
    return next(find(name) for prefix, find in FAMILIES.items() if name.startswith(prefix))
