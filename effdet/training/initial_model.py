"""The network that the training of a recipe starts from: built, filled with weights, and checked against the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from effdet.config import ModelConfig
from effdet.training.debug.checks import check_num_classes
from effdet.weights.create import options_of, start_model

MEAN = ".running_mean"


def initial_model(
    config: ModelConfig, class_names: Sequence[str], console: Console
) -> tuple[Any, frozenset[str], bool]:
    """The network of a recipe for the classes of its data, with its first weights; prints how they fit.

    Returns:
        The model; the names of its BatchNorm layers whose statistics were loaded with the weights; and whether no
        weight of its class head was loaded.

    Raises:
        ConfigError: the recipe asks for another number of classes than the data has, or contradicts itself.
        WeightsError: the weights are not available or do not fit.
    """
    check_num_classes(config.num_classes, len(class_names))
    weights = config.weights or config.backbone_weights
    if weights is not None:
        console.print(f"loading the weights {weights}")
    model, report = start_model(
        options_of(config),
        len(class_names),
        config.weights,
        config.backbone_weights,
        class_names=class_names,
        keep_known_classes=config.keep_known_classes,
    )
    for line in report.lines() if report else ():
        console.print(line)
    loaded = report.loaded if report else ()
    loaded_norms = frozenset(name.removesuffix(MEAN) for name in loaded if name.endswith(MEAN))
    class_layer = f"{model.head_modules[-1]}."
    return model, loaded_norms, not any(name.startswith(class_layer) for name in loaded)
