"""Which model to build: a name from the tables, and the settings that differ from its row.

The rows are in `efficientdet_specs.py` and `efficientnet_specs.py`; `effdet.models.make_spec` applies options to them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from effdet.errors import ConfigError
from effdet.types import Letterbox, Padding

Row = TypeVar("Row")


@dataclass(frozen=True)
class ModelOptions:
    """A model by name, with changes.

    None keeps the value of the table. Where pretrained weights are loaded, padding, anchors, antialiasing,
    letterbox, mean and standard deviation that are None follow the weights, because they were trained with them.

        effdet.create_model(effdet.ModelOptions("efficientdet_d0", image_size=(384, 640), padding="symmetric"))

    Attributes:
        name: a name of `list_models()`.
        backbone: another backbone for a detector: the name of a classifier, or 'timm/NAME'.
        phi: compound coefficient, which scales efficientdet_d0, efficientdet_lite0 or a classifier that is not scaled
            yet. Channels of the backbone grow by 1.1 to the phi, its blocks by 1.2 to the phi. A classifier's image
            grows by 1.15 to the phi. A detector's image grows by a quarter per phi, the channels of its neck and heads
            by 1.35 to the phi, its BiFPN cells by phi and the convolutions of its heads by phi / 3.
        width: factor of the backbone's channels.
        depth: factor of the backbone's blocks.
        image_size: (H, W) of the input in pixels.
        dropout: rate before the last layer of a classifier.
        drop_path: stochastic depth rate of the backbone's last block.
        padding: of strided convolutions: 'same' as in TensorFlow, 'symmetric' as in PyTorch.
        norm_momentum: BatchNorm momentum (PyTorch convention) of all layers.
        in_channels: channels of the images; the first layer is adapted from RGB weights.
        anchor_scale: side of the smallest anchor of a level, in strides.
        anchor_aspects: (width, height) factors of the anchor shapes.
        antialias: whether a detector's images are resized with antialiasing.
        letterbox: whether a detector's images are padded or stretched to the input.

    Raises:
        ConfigError: a number is out of its range; the message names the option.
    """

    name: str
    backbone: str | None = None
    phi: float | None = None
    width: float | None = None
    depth: float | None = None
    image_size: tuple[int, int] | None = None
    dropout: float | None = None
    drop_path: float | None = None
    padding: Padding | None = None
    norm_momentum: float | None = None
    in_channels: int | None = None
    anchor_scale: float | None = None
    anchor_aspects: tuple[tuple[float, float], ...] | None = None
    antialias: bool | None = None
    letterbox: Letterbox | None = None

    def __post_init__(self) -> None:
        for key, value in self.given("width", "depth", "anchor_scale").items():
            if value <= 0:
                raise ConfigError(f"{key} is {value}; expected more than 0")
        for key, value in self.given("dropout", "drop_path", "norm_momentum").items():
            if not 0 <= value <= 1:
                raise ConfigError(f"{key} is {value}; expected 0 to 1")
        if self.in_channels is not None and self.in_channels < 1:
            raise ConfigError(f"in_channels is {self.in_channels}; expected at least 1")
        if self.image_size is not None and min(self.image_size) < 1:
            raise ConfigError(f"image_size is {self.image_size}; expected a height and a width of at least 1 pixel")

    def given(self, *names: str) -> dict[str, Any]:
        """The options among `names` that are set, by name."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def refuse(self, reason: str, *names: str) -> None:
        """Refuses options that the model has no use for.

        Raises:
            ConfigError: one of `names` is set; the message names it and gives the reason.
        """
        for name, value in self.given(*names).items():
            raise ConfigError(f"{name} is set to {value!r}, but {reason}; leave {name} out")


def find_spec(table: Mapping[str, Row], name: str) -> Row:
    """The row of a table of models.

    Raises:
        ConfigError: there is no such model; the message suggests near names.
    """
    if name not in table:
        near = difflib.get_close_matches(name, table, n=3, cutoff=0.5) or list(table)
        raise ConfigError(f"unknown model '{name}'; did you mean {' or '.join(near)}?")
    return table[name]
