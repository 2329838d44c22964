"""Detection as the engine trains it: annotations with boxes, an EfficientDet, focal and Huber loss, COCO metrics."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping

from rich.console import Console
from torch import Tensor

from effdet.config import DetectionConfig
from effdet.data.annotations import Annotations
from effdet.data.dataset import DetectionDataset
from effdet.data.formats import read_annotations
from effdet.data.loader import train_batches
from effdet.evaluation.coco import METRIC_NAMES, CocoEvaluator
from effdet.evaluation.run import evaluate_detector
from effdet.losses import DetectionLoss, weights_of_classes
from effdet.models import EfficientDet
from effdet.models.anchors import level_sizes
from effdet.structures import Batch
from effdet.training.checks import check_parts
from effdet.training.optim import make_schedule
from effdet.training.start import first_model
from effdet.training.tasks import Forward
from effdet.weights.checkpoint import ModelCard


class DetectionTask:
    """See `tasks.Task`."""

    loss_names = ("loss", "class_loss", "box_loss")
    setting_names = ()
    metric_names = METRIC_NAMES
    metric = "AP"

    def __init__(self, config: DetectionConfig, console: Console) -> None:
        self.config = config
        self.train_table, self.val_table = read_tables(config, console)
        self.num_images, self.num_validation = len(self.train_table), len(self.val_table) if self.val_table else 0
        model = first_model(config.model, self.train_table.label_map.names, console)
        assert isinstance(model, EfficientDet)
        self.model = model
        spec = self.model.spec
        check_parts(
            config.train,
            self.num_images,
            spec.image_size,
            *level_sizes(spec.image_size, spec.max_level, spec.max_level),
        )
        schedule = make_schedule(config.optim, config.train, self.num_images)
        self.train_set = DetectionDataset(
            self.train_table,
            spec.image_size,
            spec.fill_color,
            config.augment,
            config.seed,
            math.ceil(schedule.total_steps / schedule.steps_per_epoch),
        )
        weights = weights_of_classes(config.loss.class_weights, self.train_table.label_map.names)
        self.loss = DetectionLoss(**config.loss.model_dump(exclude={"class_weights"}), class_weights=weights)

    def card(self) -> ModelCard:
        """Describes the weights that are saved."""
        labels = self.train_table.label_map
        options = self.config.postprocess.model_dump()
        return ModelCard(self.model.spec, labels.names, labels.category_ids, postprocess=options)

    def batches(self, start_step: int, total_steps: int, pin_memory: bool) -> Generator[Batch, None, None]:
        """The batches of the run from `start_step` on."""
        config = self.config
        workers = config.data.workers
        return train_batches(
            self.train_set, config.train.batch_size, config.seed, start_step, total_steps, workers, pin_memory
        )

    def file_name(self, index: int) -> str:
        """File of an image, by its row in the table."""
        return str(self.train_table.file_names[index])

    def settings(self, epoch: int) -> Mapping[str, float]:
        """Nothing changes from epoch to epoch."""
        return {}

    def losses(self, forward: Forward, batch: Batch, parts: int, epoch: int, step: int) -> Iterator[tuple[Tensor, ...]]:
        """Total, class and box loss, part by part, normalised by the positives of the whole batch."""
        pieces = batch.split(parts)
        assignments = [self.loss.assign(self.model.anchors, piece.targets) for piece in pieces]
        num_positives = sum(len(assignment) for assignment in assignments)
        for piece, assignment in zip(pieces, assignments, strict=True):
            yield self.loss(forward(piece.images), assignment, num_positives)

    def evaluate(self, model: EfficientDet) -> CocoEvaluator:
        """The network's detections on the validation images."""
        assert self.val_table is not None
        config = self.config
        options = config.postprocess.model_dump()
        return evaluate_detector(model, self.val_table, options, config.eval.batch_size, config.data.workers)

    def describe(self) -> str:
        """Network, input size, classes and images in a few words."""
        height, width = self.model.image_size
        return f"{self.model.spec.name} {height} x {width}, {self.model.num_classes} classes; {self.num_images} images"


def read_tables(config: DetectionConfig, console: Console) -> tuple[Annotations, Annotations | None]:
    """Training and validation tables with the labels of the training part; shows what was repaired in them."""
    train_table = read_annotations(config.data, "train")
    val_table = None
    if config.data.val is not None:
        val_table = read_annotations(config.data, "val", train_table.label_map)
    for note in [*train_table.notes(), *(val_table.notes() if val_table else [])]:
        console.print(note, style="yellow")
    return train_table, val_table
