"""What a detector needs of a backbone: the protocol of its network and of its spec.

A new family is one file with a spec and a network that have these members, and a line in `families.py`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from effdet.models.options import ModelOptions
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
