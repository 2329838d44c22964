"""The network that a recipe's training starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console

from effdet.config import ModelConfig
from effdet.models import EfficientDet, EfficientNet
from effdet.training.debug.checks import check_classes
from effdet.weights.create import options_of, start_model

MEAN = ".running_mean"


class Start(NamedTuple):
    """What a training starts from.

    Attributes:
        model: the network with its first weights.
        norms: names of its norms whose statistics came with the weights.
        new_head: whether all of the class head, or a classifier's last layer, starts at random.
    """

    model: EfficientDet | EfficientNet
    norms: frozenset[str]
    new_head: bool


def start_of(settings: ModelConfig, class_names: Sequence[str], console: Console) -> Start:
    """The network of a recipe for the classes of its data, with its first weights; tells the console how they fit.

    Raises:
        ConfigError: the recipe asks for another number of classes than the data has, or contradicts itself.
        WeightsError: the weights cannot be had or do not fit.
    """
    check_classes(settings.num_classes, len(class_names))
    model, report = start_model(
        options_of(settings),
        len(class_names),
        settings.weights,
        settings.backbone_weights,
        class_names=class_names,
        keep_known_classes=settings.keep_known_classes,
    )
    for line in report.lines() if report else ():
        console.print(line)
    loaded = report.loaded if report else ()
    head = "class_head." if isinstance(model, EfficientDet) else "classifier."
    return Start(
        model,
        norms=frozenset(name.removesuffix(MEAN) for name in loaded if name.endswith(MEAN)),
        new_head=not any(name.startswith(head) for name in loaded),
    )
