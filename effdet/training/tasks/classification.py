"""Classification as the engine trains it: images with a class each, an EfficientNet, cross-entropy, accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from effdet.config import ClassificationConfig, ClassificationLossConfig
from effdet.data.augment.mix_batch import mix_batch
from effdet.data.cache import make_cache
from effdet.data.classification_dataset import ClassificationDataset
from effdet.data.damage import check_sizes
from effdet.data.images import Image
from effdet.data.sampling import classification_order
from effdet.distributed import SINGLE, Processes
from effdet.evaluation.accuracy import METRIC_NAMES
from effdet.evaluation.evaluate import Evaluator, evaluate
from effdet.losses import ClassificationLoss
from effdet.models import EfficientNet
from effdet.models.anchors import level_sizes
from effdet.report.sheet import draw_classification_batch
from effdet.runtimes.pytorch import TorchRuntime
from effdet.structures import LabelBatch
from effdet.text import count_of
from effdet.training.debug.checks import label_warnings
from effdet.training.initial_model import initial_model
from effdet.training.optim import make_schedule
from effdet.training.tasks.data import TrainingData, show_tables
from effdet.training.tasks.task import MicroBatch
from effdet.weights.card import ModelCard


class ClassificationTask:
    """See `tasks.task.TrainingTask`."""

    setting_names: tuple[str, ...] = (
        "image_height",
        "image_width",
        "rand_augment_magnitude",
        "mixup_alpha",
        "cutmix_alpha",
        "dropout",
    )
    metric_names: tuple[str, ...] = METRIC_NAMES
    metric = "top1"

    def __init__(self, config: ClassificationConfig, console: Console, processes: Processes = SINGLE) -> None:
        self.config, self.processes = config, processes
        tables = show_tables(config.data, console)
        train_table = tables.train
        check_sizes([table for table in tables[:2] if table is not None], config.data.root)
        for note in label_warnings(train_table):
            console.print(note, style="yellow")
        names = train_table.label_map.names
        self.model, self.loaded_norms, new_head = initial_model(config.model, names, console)
        self.first_loss = "loss" if new_head else None
        spec = self.model.spec
        order = classification_order(config, train_table)
        order.check_processes(processes.size)
        self.criterion = self.make_criterion(config.loss, names)
        schedule = make_schedule(config.optim, config.train, len(train_table))
        dataset = ClassificationDataset(
            train_table,
            spec.image_size,
            spec.crop,
            spec.interpolation,
            config.augment,
            config.progressive,
            math.ceil(schedule.total_steps / schedule.steps_per_epoch),
            config.seed,
            make_cache(config.data, len(train_table), processes.local_size),
        )
        self.data = TrainingData(tables, order, dataset, config.data.workers, processes)

    def card(self) -> ModelCard:
        """Describes the weights that are saved."""
        labels = self.data.train_table.label_map
        return ModelCard(
            self.model.spec, labels.names, labels.category_ids, value_range=self.data.train_table.value_range
        )

    def describe(self) -> str:
        """Network, input size, classes and images in a few words."""
        height, width = self.model.spec.image_size
        network = f"{self.model.spec.name} {height} x {width}, {count_of(self.model.num_classes, 'class', 'classes')}"
        return f"{network}; {count_of(self.data.num_images, 'image')}"

    @property
    def varies_by(self) -> str | None:
        """The section because of which epochs differ in image size or dropout."""
        return "progressive" if self.config.progressive is not None else None

    def settings(self, epoch: int) -> Mapping[str, float]:
        """Image size and strength of the regularization in an epoch; sets the dropout of the model."""
        stage = self.data.dataset.settings_of(epoch)
        dropout = self.model.spec.dropout if stage.dropout is None else stage.dropout
        self.model.dropout.p = dropout
        height, width = stage.image_size
        magnitude = stage.rand_augment_magnitude if self.config.augment.rand_augment.layers else 0.0
        values = (height, width, magnitude, stage.mixup_alpha, stage.cutmix_alpha, dropout)
        return dict(zip(self.setting_names, values, strict=True))

    def prepare(self, batch: LabelBatch, step: int) -> list[MicroBatch]:
        """The micro-batches of a batch after mixup and CutMix, for which each process draws by itself."""
        batch = batch.to(self.model.mean.device)
        stage = self.data.dataset.settings_of(step // self.data.order.steps_per_epoch)
        rank = self.processes.rank
        seeds = [self.config.seed, step, *([rank] if rank else [])]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seeds, spawn_key=(2,))))
        images, targets = mix_batch(
            batch.images, batch.labels, self.model.num_classes, stage.mixup_alpha, stage.cutmix_alpha, rng
        )
        count = min(self.config.train.accumulation_steps, len(images))
        rows = [chunk.tolist() for chunk in np.array_split(batch.indices, count)]
        chunks = zip(images.tensor_split(count), targets.tensor_split(count), rows, strict=True)
        return [self.micro_batch(self.model, *chunk) for chunk in chunks]

    def normalizer(self, count: int, step: int) -> int | Tensor:
        """The images of the whole batch; on a GPU a scalar in its memory, which a CUDA graph can read."""
        device = self.model.mean.device
        return torch.full((), float(count), device=device) if device.type == "cuda" else count

    def loss(self, outputs: Tensor, micro_batch: MicroBatch) -> dict[str, Tensor]:
        """Cross-entropy, averaged over the images of the whole batch."""
        return self.compute_loss(self.criterion, outputs, micro_batch)

    def untrained(self, images: Tensor) -> Tensor:
        """Logits [B, K] of a network for which all classes of images [B, C, H, W] are equally probable."""
        return torch.zeros(len(images), self.model.num_classes, device=images.device)

    def smallest_features(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of the smallest training images, and of their coarsest features."""
        dataset = self.data.dataset
        sizes = [dataset.settings_of(epoch).image_size for epoch in range(dataset.epochs)]
        smallest = min(sizes, key=lambda size: size[0] * size[1])
        level = self.model.spec.max_level
        (coarsest,) = level_sizes(smallest, level, level)
        return smallest, coarsest

    def evaluate(self, model: EfficientNet) -> Evaluator:
        """Runs a model over the validation images."""
        runtime = TorchRuntime(model, self.card(), next(model.buffers()).device)
        return evaluate(runtime, self.data.val_table, self.config, self.processes)

    @staticmethod
    def make_criterion(config: ClassificationLossConfig, class_names: Sequence[str]) -> ClassificationLoss:
        """The criterion of a recipe."""
        return ClassificationLoss(config.label_smoothing)

    @staticmethod
    def micro_batch(model: EfficientNet, images: Tensor, targets: Tensor, rows: Sequence[int]) -> MicroBatch:
        """A micro-batch normalized by itself."""
        return MicroBatch(images, targets, rows, None, len(images), len(images))

    @staticmethod
    def compute_loss(criterion: ClassificationLoss, outputs: Tensor, micro_batch: MicroBatch) -> dict[str, Tensor]:
        """The cross-entropy by name."""
        losses: dict[str, Tensor] = criterion(outputs, micro_batch.targets, micro_batch.normalizer)
        return losses

    @staticmethod
    def named_outputs(
        model: EfficientNet, outputs: Tensor, image_size: tuple[int, int]
    ) -> Iterator[tuple[str, Tensor]]:
        """The logits by name."""
        yield "logits", outputs

    @staticmethod
    def plain_targets(targets: Sequence[Tensor]) -> Tensor:
        """Class probabilities of several micro-batches, joined, in host memory."""
        return torch.cat(list(targets)).cpu()

    @staticmethod
    def restore_targets(plain: Tensor, device: torch.device) -> Tensor:
        """The targets that `plain_targets` gave, on a device."""
        return plain.to(device)

    @staticmethod
    def describe_targets(
        targets: Tensor, image_size: tuple[int, int], class_names: Sequence[str]
    ) -> tuple[None, list[dict[str, Any]]]:
        """Probabilities above 0 of each image by class name; there are no boxes."""
        rows = (zip(class_names, row, strict=True) for row in targets.tolist())
        return None, [{"classes": {name: probability for name, probability in row if probability > 0}} for row in rows]

    @staticmethod
    def draw(images: Tensor, targets: Tensor, class_names: Sequence[str]) -> Image:
        """A contact sheet of the images with their class, or the two most probable ones where images are mixed."""
        return draw_classification_batch(images, targets, class_names)

    @staticmethod
    def random_targets(images: Tensor, num_classes: int) -> Tensor:
        """All classes equally probable."""
        return torch.full((len(images), num_classes), 1 / num_classes, device=images.device)

    @staticmethod
    def largest_image(config: ClassificationConfig, image_size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the largest training images of all progressive stages."""
        if config.progressive is None or config.progressive.image_size is None:
            return image_size
        side = max(config.progressive.image_size)
        return side, side
