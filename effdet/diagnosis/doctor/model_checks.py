"""Checks that run the model in another way: other weights, channels, normalization, size, thresholds or images.

Checks of the predictions alone are in `prediction_checks.py`, those that train in `training_checks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from effdet.config import DetectionConfig
from effdet.config.schema import PostprocessConfig
from effdet.data.image_table import ImageTable
from effdet.diagnosis.doctor.patient import Patient
from effdet.diagnosis.doctor.verdict import Check
from effdet.models import EfficientDet, EfficientNet
from effdet.models.efficientnet import IMAGENET_MEAN, IMAGENET_STD
from effdet.runtimes.runtime import Runtime
from effdet.structures import Detections
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard

NORM_BATCH = 8  # images per forward pass from which BatchNorm statistics are computed anew
# How images are normalized elsewhere: name, mean and standard deviation of RGB values 0..255.
NORMALIZATIONS = (
    ("with ImageNet's mean and std", IMAGENET_MEAN, IMAGENET_STD),
    ("to -1..1", (127.5,) * 3, (127.5,) * 3),
    ("to 0..1", (0.0,) * 3, (255.0,) * 3),
    ("not at all", (0.0,) * 3, (1.0,) * 3),
)


def model_checks(patient: Patient, table: ImageTable, train: ImageTable | None, before: float) -> Iterator[Check]:
    """All checks of this file, from the certain to the speculative; an exported file has fewer.

    Args:
        patient: the model.
        table: validation images.
        train: training images; None if they cannot be read.
        before: the metric on `table`.
    """
    yield from _weights_checks(patient, table, before)
    yield from _recipe_checks(patient, table, before)
    yield from _input_checks(patient, table, before)
    if patient.model is not None and train is not None:
        yield Check(
            "BatchNorm statistics of training images",
            patient.measure(table, patient.runtime_of(_with_new_statistics(patient, train))),
            before,
            "the BatchNorm statistics in the weights do not fit the images",
            "train on with larger batches or train.batch_norm=frozen, and do not mix weights and statistics of "
            "different runs",
        )


def _weights_checks(patient: Patient, table: ImageTable, before: float) -> Iterator[Check]:
    """The weights that were trained in place of their EMA."""
    raw = patient.training.get("model")
    if raw is None or not patient.training.get("has_average"):
        return
    yield Check(
        "raw weights instead of their EMA",
        patient.measure(table, patient.runtime_of(patient.network(state=raw))),
        before,
        "the EMA of the weights was not updated, or lags far behind the weights",
        "lower train.ema_decay or train longer; in a training loop of your own, update the EMA after every step",
        "with the raw weights of last.pt",
    )


def _recipe_checks(patient: Patient, table: ImageTable, before: float) -> Iterator[Check]:
    """Default thresholds and NMS, and the input size of the training, where the recipe has others."""
    config = patient.config
    if isinstance(config, DetectionConfig) and config.postprocess != PostprocessConfig():
        usual = config.model_copy(update={"postprocess": PostprocessConfig()})
        yield Check(
            "default thresholds and NMS",
            patient.measure(table, config=usual),
            before,
            "thresholds or NMS of the recipe discard correct detections",
            "remove the section postprocess of the recipe",
        )
    trained = patient.runtime.image_size
    if config.model.image_size is not None and tuple(config.model.image_size) != tuple(trained):
        at_trained = config.model_copy(update={"model": config.model.model_copy(update={"image_size": trained})})
        yield Check(
            f"input size of the training, {trained[0]} x {trained[1]}",
            patient.measure(table, config=at_trained),
            before,
            "the input size is not the one that the model was trained at",
            f"set model.image_size=[{trained[0]},{trained[1]}]",
        )


def _input_checks(patient: Patient, table: ImageTable, before: float) -> Iterator[Check]:
    """Channels, normalization and letterbox."""
    spec: Any = patient.card.spec
    if spec.in_channels == 3:
        yield Check(
            "red and blue exchanged",
            patient.measure(table, ReversedChannels(patient.runtime)),
            before,
            "red and blue are exchanged (BGR instead of RGB) between training and inference",
            "read images as RGB in both, or exchange the input channels of the first convolution",
        )
    if patient.model is None:
        return
    for name, mean, std in _normalizations(spec):
        yield Check(
            f"images normalized {name}",
            patient.measure(table, patient.runtime_of(patient.network(_normalized(spec, mean, std)))),
            before,
            f"images are normalized in another way than in training, where they were normalized {name}",
            "store the mean and standard deviation of the training in the model's card",
        )
    if patient.card.task == "detection":
        other = "stretch" if spec.letterbox == "pad" else "pad"
        yield Check(
            f"model.letterbox={other}",
            patient.measure(table, patient.runtime_of(patient.network(replace(spec, letterbox=other)))),
            before,
            f"images are resized in another way than in training, where model.letterbox was {other}",
            f"train and evaluate with model.letterbox={other}, or with {spec.letterbox} in both",
        )


def _normalizations(spec: Any) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...]]]:
    """The normalizations that differ from the model's own: the usual ones, and its own applied twice."""
    mean, std = np.array(spec.backbone.mean), np.array(spec.backbone.std)
    for name, other_mean, other_std in NORMALIZATIONS:
        if spec.in_channels != 3 and other_mean == IMAGENET_MEAN:
            continue
        count = spec.in_channels
        wanted_mean, wanted_std = (np.resize(values, count) for values in (other_mean, other_std))
        if not (np.allclose(wanted_mean, mean, atol=2) and np.allclose(wanted_std, std, rtol=0.05)):
            yield name, tuple(wanted_mean.tolist()), tuple(wanted_std.tolist())
    yield "twice", tuple((mean + mean * std).tolist()), tuple((std * std).tolist())


def _normalized(spec: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """The spec of a network with another normalization."""
    if spec.task == "classification":
        return replace(spec, mean=mean, std=std)
    return replace(spec, backbone=replace(spec.backbone, mean=mean, std=std))


@torch.no_grad()
def _with_new_statistics(patient: Patient, train: ImageTable) -> EfficientDet | EfficientNet:
    """The network with BatchNorm statistics computed anew from training images."""
    network = patient.network().to(patient.runtime.device)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in patient.batches(train, NORM_BATCH):
        if len(batch.images) > 1:
            network(batch.images.to(patient.runtime.device))
    return network.eval()


class ReversedChannels:
    """A runtime that gets images with red and blue exchanged; see `Runtime`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.card: ModelCard = runtime.card
        self.device, self.image_size = runtime.device, runtime.image_size

    def detections(self, images: Tensor, options: PostprocessOptions) -> list[Detections]:
        """See `Runtime`."""
        return self._runtime.detections(images.flip(1), options)

    def logits(self, images: Tensor) -> Tensor:
        """See `Runtime`."""
        return self._runtime.logits(images.flip(1))
