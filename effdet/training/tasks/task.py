"""What the engine asks of a task; detection and classification answer in files of their own.

The engine knows steps, epochs, files and the terminal; a task knows what its images mean, what is lost and measured.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor

from effdet.evaluation.evaluate import Evaluator
from effdet.losses import ClassificationLoss, DetectionLoss, Losses
from effdet.models import EfficientDet, EfficientNet
from effdet.structures import Batch, LabelBatch
from effdet.weights.card import ModelCard

AnyBatch = Batch | LabelBatch
Forward = Callable[[Tensor], Any]  # images [B, 3, H, W] to the network's outputs, in the precision of the training


class Task(Protocol):
    """A recipe brought to life: its data, its model with the first weights, and what one is to the other."""

    @property
    def model(self) -> EfficientDet | EfficientNet:
        """The network to train."""

    @property
    def loaded_norms(self) -> frozenset[str]:
        """Names of the network's norms whose statistics came with the weights."""

    @property
    def num_images(self) -> int:
        """Images that an epoch trains on, each as often as it is taken."""

    @property
    def num_validation(self) -> int:
        """Images to evaluate on; 0 for no evaluation."""

    @property
    def loss(self) -> DetectionLoss | ClassificationLoss:
        """What `losses` are made by; its state is saved with the run's."""

    @property
    def first_loss(self) -> str | None:
        """The one of the losses that is known before the first step, since its head starts anew; None for none."""

    @property
    def setting_names(self) -> tuple[str, ...]:
        """What `settings` tells of an epoch."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What an evaluation tells."""

    @property
    def metric(self) -> str:
        """The one by which the best weights are chosen; more is better."""

    def card(self) -> ModelCard:
        """Describes the weights that are saved; recipe and versions are the engine's to add."""

    def fingerprints(self) -> Mapping[str, str]:
        """Hash of each part of the data set."""

    def counts(self) -> Mapping[str, int]:
        """How many images, and objects, the training set has."""

    def batches(self, start_step: int, total_steps: int, pin_memory: bool) -> Generator[AnyBatch, None, None]:
        """The batches of the run from `start_step` on."""

    def smallest_features(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of the smallest training images, and of their coarsest features."""

    def file_name(self, index: int) -> str:
        """File of an image, by its row in the table."""

    def image_id(self, index: int) -> int | str:
        """The data set's own id of an image, by its row in the table."""

    def settings(self, epoch: int) -> Mapping[str, float]:
        """What holds in an epoch, counted from 0, apart from the learning rate; put into the model too."""

    def losses(self, forward: Forward, batch: Any, parts: int, epoch: int, step: int) -> Iterator[Losses]:
        """Losses of a batch, part by part; the parts add up to the batch. The engine goes backward after each."""

    def untrained(self, images: Tensor) -> Any:
        """What a network whose head knows nothing gives for images [B, 3, H, W]."""

    def evaluate(self, model: Any) -> Evaluator:
        """The network's results on the validation images."""

    def describe(self) -> str:
        """Network, input size, classes and images in a few words."""
