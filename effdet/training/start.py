"""The network that a recipe's training starts from."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from effdet.config import DetectorConfig, ModelConfig
from effdet.models import EfficientDet, EfficientNet
from effdet.training.checks import check_classes
from effdet.weights.sources import spec_of, start_model


def first_model(settings: ModelConfig, class_names: Sequence[str], console: Console) -> EfficientDet | EfficientNet:
    """The network of a recipe for the classes of its data, with its first weights; tells the console how they fit.

    Raises:
        ConfigError: the recipe asks for another number of classes than the data has, or contradicts itself.
        WeightsError: the weights cannot be had or do not fit.
    """
    check_classes(settings.num_classes, len(class_names))
    scale, aspects = None, None
    if isinstance(settings, DetectorConfig):
        scale, aspects = settings.anchor_scale, settings.anchor_aspects
    model, report = start_model(
        spec_of(settings),
        len(class_names),
        settings.weights,
        settings.backbone_weights,
        class_names=class_names,
        keep_rows=settings.keep_rows,
        padding=settings.padding,
        anchor_scale=scale,
        anchor_aspects=aspects,
    )
    for line in report.lines() if report else ():
        console.print(line)
    return model
