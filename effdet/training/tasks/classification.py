"""Classification as the engine trains it: images with a class each, an EfficientNet, cross-entropy, accuracy."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from effdet.config import ClassificationConfig
from effdet.data.augment.mix_batch import mix_batch
from effdet.data.cache import make_cache
from effdet.data.classification_dataset import ClassificationDataset
from effdet.data.formats import read_labels
from effdet.data.labels import ImageLabels
from effdet.data.loader import train_batches
from effdet.data.sampling import TrainOrder
from effdet.distributed import SINGLE, Processes
from effdet.evaluation.accuracy import METRIC_NAMES, AccuracyEvaluator
from effdet.evaluation.evaluate import evaluate_classifier
from effdet.losses import ClassificationLoss, Losses
from effdet.models import EfficientNet
from effdet.models.anchors import level_sizes
from effdet.structures import LabelBatch
from effdet.training.debug.checks import notes_on_labels
from effdet.training.initial_model import start_of
from effdet.training.optim import make_schedule
from effdet.training.tasks.losses import classifier_losses
from effdet.training.tasks.task import Forward
from effdet.weights.card import ModelCard


class ClassificationTask:
    """See `tasks.Task`."""

    setting_names = ("image_height", "image_width", "rand_augment_magnitude", "mixup_alpha", "cutmix_alpha", "dropout")
    metric_names = METRIC_NAMES
    metric = "top1"

    def __init__(self, config: ClassificationConfig, console: Console, processes: Processes = SINGLE) -> None:
        self.config, self.processes = config, processes
        self.train_table, self.val_table = read_tables(config, console)
        self.num_images, self.num_validation = len(self.train_table), len(self.val_table) if self.val_table else 0
        start = start_of(config.model, self.train_table.label_map.names, console)
        assert isinstance(start.model, EfficientNet)
        self.model, self.loaded_norms = start.model, start.norms
        self.first_loss = "loss" if start.new_head else None
        spec = self.model.spec
        self.order = TrainOrder(self.num_images, config.train.batch_size, config.seed, shards=self.train_table.shards)
        self.order.check_processes(processes.size)
        self.loss = ClassificationLoss(config.loss.label_smoothing)
        schedule = make_schedule(config.optim, config.train, self.num_images)
        self.train_set = ClassificationDataset(
            self.train_table,
            spec.image_size,
            spec.crop,
            spec.interpolation,
            config.augment,
            config.progressive,
            math.ceil(schedule.total_steps / schedule.steps_per_epoch),
            config.seed,
            make_cache(config.data, self.num_images, processes.local_size),
        )

    def card(self) -> ModelCard:
        """Describes the weights that are saved."""
        labels = self.train_table.label_map
        return ModelCard(self.model.spec, labels.names, labels.category_ids)

    def fingerprints(self) -> dict[str, str]:
        """Hashes of the training and of the validation table."""
        tables = {"train": self.train_table, "val": self.val_table}
        return {part: table.fingerprint() for part, table in tables.items() if table is not None}

    def counts(self) -> dict[str, int]:
        """Images of the training set."""
        return {"images": len(self.train_table)}

    def batches(self, start_step: int, total_steps: int, pin_memory: bool) -> Generator[LabelBatch, None, None]:
        """The batches of the run from `start_step` on."""
        workers, rank, size = self.config.data.workers, self.processes.rank, self.processes.size
        return train_batches(self.train_set, self.order, start_step, total_steps, workers, pin_memory, rank, size)

    def smallest_features(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of the smallest training images, and of their coarsest features."""
        sizes = [self.train_set.settings_of(epoch).image_size for epoch in range(self.train_set.epochs)]
        smallest = min(sizes, key=lambda size: size[0] * size[1])
        (coarsest,) = level_sizes(smallest, 5, 5)
        return smallest, coarsest

    def file_name(self, index: int) -> str:
        """File of an image, by its row in the table."""
        return str(self.train_table.file_names[index])

    def image_id(self, index: int) -> int | str:
        """An image has no id but its file."""
        return self.file_name(index)

    def settings(self, epoch: int) -> Mapping[str, float]:
        """Image size and strength of the regularisation in an epoch; sets the model's dropout."""
        stage = self.train_set.settings_of(epoch)
        dropout = self.model.spec.dropout if stage.dropout is None else stage.dropout
        self.model.dropout.p = dropout
        height, width = stage.image_size
        magnitude = stage.rand_augment_magnitude if self.config.augment.rand_augment.layers else 0.0
        return dict(
            zip(
                self.setting_names,
                (height, width, magnitude, stage.mixup_alpha, stage.cutmix_alpha, dropout),
                strict=True,
            )
        )

    def mixed(self, batch: LabelBatch, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] uint8 as the network sees them in a step, and targets [B, K]; see `mix_batch`."""
        stage = self.train_set.settings_of(epoch)
        seeds = [self.config.seed, step, *([self.processes.rank] if self.processes.rank else [])]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seeds, spawn_key=(2,))))
        return mix_batch(batch.images, batch.labels, self.model.num_classes, stage.mixup_alpha, stage.cutmix_alpha, rng)

    def losses(self, forward: Forward, batch: LabelBatch, parts: int, epoch: int, step: int) -> Iterator[Losses]:
        """Cross-entropy, part by part, normalised by the images of the whole batch; a process mixes its share."""
        images, targets = self.mixed(batch, epoch, step)
        return classifier_losses(self.loss, forward, images, targets, parts, self.processes)

    def untrained(self, images: Tensor) -> Tensor:
        """Logits [B, K] of a network that takes all classes of images [B, 3, H, W] for equally probable."""
        return torch.zeros(len(images), self.model.num_classes, device=images.device)

    def evaluate(self, model: EfficientNet) -> AccuracyEvaluator:
        """The network's answers on the validation images."""
        assert self.val_table is not None
        batch_size, workers = self.config.eval.batch_size, self.config.data.workers
        return evaluate_classifier(model, self.val_table, batch_size, workers, self.processes)

    def describe(self) -> str:
        """Network, input size, classes and images in a few words."""
        height, width = self.model.spec.image_size
        return f"{self.model.spec.name} {height} x {width}, {self.model.num_classes} classes; {self.num_images} images"


def read_tables(config: ClassificationConfig, console: Console) -> tuple[ImageLabels, ImageLabels | None]:
    """Training and validation tables with the labels of the training part; shows what was left out of them."""
    train_table = read_labels(config.data, "train")
    val_table = None
    if config.data.val is not None:
        val_table = read_labels(config.data, "val", train_table.label_map)
    for note in [*train_table.notes(), *notes_on_labels(train_table), *(val_table.notes() if val_table else [])]:
        console.print(note, style="yellow")
    return train_table, val_table
