"""What the engine asks of a task; detection and classification answer in files of their own.

The engine knows steps, epochs, files and the terminal. A task knows what images, outputs and metrics mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor, nn

from effdet.data.images import Image
from effdet.distributed import Processes
from effdet.evaluation.evaluate import Evaluator
from effdet.losses import Assignment
from effdet.models import EfficientDet, EfficientNet
from effdet.training.tasks.data import TrainingData
from effdet.weights.card import ModelCard


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass computes. Without gradient accumulation it is the batch of a process.

    Attributes:
        images: [B, C, H, W] uint8, on the device, augmented and mixed.
        targets: what the outputs are compared with: B `Target`, or class probabilities [B, K].
        rows: B rows of the images in the training table.
        assignment: the positive anchors, where they can be matched before the forward pass; None if there are none.
        count: what these images add to the normalizer: positive anchors, or images.
        normalizer: sum of `count` over all micro-batches of all processes, or its moving average over the steps. The
            losses are divided by it, so that the micro-batches of a step add up to the loss of the whole batch.
    """

    images: Tensor
    targets: Any
    rows: Sequence[int]
    assignment: Assignment | None
    count: int
    normalizer: float | Tensor


class TrainingTask(Protocol):
    """A recipe brought to life: its data, its model with the first weights, and the loss between them.

    The normalizer must be known before the first call of backward(), since the gradients of the micro-batches add up.
    A loss that matches anchors by looking at the outputs does not know its positives then. It gives a count that is
    known before, such as the objects, and scales the gradients by objects / positives after the last backward(), with
    the positives summed over micro-batches and processes: gradients are linear in 1 / normalizer, so the result is the
    same as with a normalizer known in advance.

    Attributes:
        data: training and validation images.
        model: the network to train.
        loaded_norms: names of the BatchNorm layers whose statistics were loaded with the weights.
        criterion: makes losses from outputs; its state is saved in checkpoints. `names` are those of the losses and
            `term_weights` the weights with which the terms make the total.
        first_loss: the loss whose value is known before the first step because its head is new; None for none.
        setting_names: keys of `settings`.
        metric_names: keys of the metrics of an evaluation.
        metric: the one that selects the best weights; higher is better.
    """

    data: TrainingData
    model: EfficientDet | EfficientNet
    loaded_norms: frozenset[str]
    criterion: Any
    first_loss: str | None
    setting_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    metric: str

    def __init__(self, config: Any, console: Console, processes: Processes) -> None: ...

    def card(self) -> ModelCard:
        """Describes the weights that are saved; the engine adds recipe and versions."""

    def describe(self) -> str:
        """Network, input size, classes and images in a few words."""

    @property
    def varies_by(self) -> str | None:
        """The key of the recipe because of which not all steps run the same kernels; None if they do."""

    def settings(self, epoch: int) -> Mapping[str, float]:
        """What changes from epoch to epoch (counted from 0) besides the learning rate; sets it in the model too."""

    def prepare(self, batch: Any, step: int) -> list[MicroBatch]:
        """The micro-batches of a batch: a pure function of (batch, step). The normalizer is still of this process."""

    def normalizer(self, count: int, step: int) -> float | Tensor:
        """The normalizer of a step, from the `count` of all micro-batches of all processes."""

    def loss(self, outputs: Any, micro_batch: MicroBatch) -> dict[str, Tensor]:
        """Scalars by name; "loss", the first, is the total to call backward() on."""

    def untrained(self, images: Tensor) -> Any:
        """Outputs for images [B, C, H, W] of a network whose head has learned nothing yet."""

    def smallest_features(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of the smallest training images, and of their coarsest features."""

    def evaluate(self, model: Any) -> Evaluator:
        """Runs a model over the validation images."""

    # What a replay or a memory plan needs without the data set

    @staticmethod
    def make_criterion(config: Any, class_names: Sequence[str]) -> nn.Module:
        """The criterion of a recipe.

        Raises:
            ConfigError: the recipe weights a class that the data set does not have.
        """

    @staticmethod
    def micro_batch(model: Any, images: Tensor, targets: Any, rows: Sequence[int]) -> MicroBatch:
        """A micro-batch normalized by itself."""

    @staticmethod
    def compute_loss(criterion: Any, outputs: Any, micro_batch: MicroBatch) -> dict[str, Tensor]:
        """`loss` with a criterion of `make_criterion`."""

    @staticmethod
    def named_outputs(model: Any, outputs: Any, image_size: tuple[int, int]) -> Iterator[tuple[str, Tensor]]:
        """The outputs of the network by name, a detector's by level."""

    @staticmethod
    def plain_targets(targets: Sequence[Any]) -> Any:
        """The targets of several micro-batches, joined, as plain containers of tensors in host memory."""

    @staticmethod
    def restore_targets(plain: Any, device: torch.device) -> Any:
        """The joined targets that `plain_targets` gave, on a device."""

    @staticmethod
    def describe_targets(
        targets: Any, image_size: tuple[int, int], class_names: Sequence[str]
    ) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Faults of the boxes of a batch, and what each image holds, for the report of a debug dump."""

    @staticmethod
    def draw(images: Tensor, targets: Any, class_names: Sequence[str]) -> Image:
        """A contact sheet of the images with their targets."""

    @staticmethod
    def random_targets(images: Tensor, num_classes: int) -> Any:
        """Made-up targets with many objects, for measuring the memory of a step."""

    @staticmethod
    def largest_image(config: Any, image_size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the largest training images of a recipe whose network takes `image_size`."""
