"""Detection as the engine trains it: annotations with boxes, an EfficientDet, focal and Huber loss, COCO metrics."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping

from rich.console import Console
from torch import Tensor

from effdet.config import DetectionConfig
from effdet.data.annotations import Annotations
from effdet.data.cache import make_cache
from effdet.data.detection_dataset import DetectionDataset
from effdet.data.formats import read_annotations
from effdet.data.loader import train_batches
from effdet.data.sampling import detection_order
from effdet.distributed import SINGLE, Processes
from effdet.evaluation.coco import METRIC_NAMES, CocoEvaluator
from effdet.evaluation.evaluate import evaluate_detector
from effdet.losses import Losses
from effdet.models import EfficientDet
from effdet.models.anchors import level_sizes
from effdet.models.heads import PRIOR
from effdet.structures import Batch, Outputs
from effdet.training.debug.checks import check_boxes, notes_on_boxes
from effdet.training.initial_model import start_of
from effdet.training.optim import make_schedule
from effdet.training.tasks.losses import detection_loss, detector_losses
from effdet.training.tasks.task import Forward
from effdet.weights.card import ModelCard


class DetectionTask:
    """See `tasks.Task`."""

    setting_names = ()
    metric_names = METRIC_NAMES
    metric = "AP"

    def __init__(self, config: DetectionConfig, console: Console, processes: Processes = SINGLE) -> None:
        self.config, self.processes = config, processes
        self.train_table, self.val_table = read_tables(config, console)
        self.num_validation = len(self.val_table) if self.val_table else 0
        start = start_of(config.model, self.train_table.label_map.names, console)
        assert isinstance(start.model, EfficientDet)
        self.model, self.loaded_norms = start.model, start.norms
        self.first_loss = "class_loss" if start.new_head else None
        spec = self.model.spec
        for note in notes_on_boxes(self.train_table, spec.image_size):
            console.print(note, style="yellow")
        self.order = detection_order(config, self.train_table, spec.image_size)
        self.order.check_processes(processes.size)
        self.num_images = self.order.num_samples
        schedule = make_schedule(config.optim, config.train, self.num_images)
        self.train_set = DetectionDataset(
            self.train_table,
            spec.image_size,
            spec.fill_color,
            config.augment,
            config.seed,
            math.ceil(schedule.total_steps / schedule.steps_per_epoch),
            make_cache(config.data, len(self.train_table), processes.local_size),
            self.order.rows,
        )
        self.loss = detection_loss(config.loss, self.train_table.label_map.names)

    def card(self) -> ModelCard:
        """Describes the weights that are saved."""
        labels = self.train_table.label_map
        options = self.config.postprocess.model_dump()
        return ModelCard(self.model.spec, labels.names, labels.category_ids, postprocess=options)

    def fingerprints(self) -> dict[str, str]:
        """Hashes of the training and of the validation table."""
        tables = {"train": self.train_table, "val": self.val_table}
        return {part: table.fingerprint() for part, table in tables.items() if table is not None}

    def counts(self) -> dict[str, int]:
        """Images and objects of the training set."""
        return {"images": len(self.train_table), "objects": len(self.train_table.boxes)}

    def batches(self, start_step: int, total_steps: int, pin_memory: bool) -> Generator[Batch, None, None]:
        """The batches of the run from `start_step` on."""
        workers, rank, size = self.config.data.workers, self.processes.rank, self.processes.size
        return train_batches(self.train_set, self.order, start_step, total_steps, workers, pin_memory, rank, size)

    def smallest_features(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of the smallest training images, and of their coarsest features."""
        spec = self.model.spec
        smallest = self.order.smallest_size(spec.image_size)
        (coarsest,) = level_sizes(smallest, spec.max_level, spec.max_level)
        return smallest, coarsest

    def file_name(self, index: int) -> str:
        """File of an image, by its row in the table."""
        return str(self.train_table.file_names[index])

    def image_id(self, index: int) -> int | str:
        """The data set's own id of an image, by its row in the table."""
        own: int | str = self.train_table.image_ids[index].item()
        return own

    def settings(self, epoch: int) -> Mapping[str, float]:
        """Nothing changes from epoch to epoch."""
        return {}

    def losses(self, forward: Forward, batch: Batch, parts: int, epoch: int, step: int) -> Iterator[Losses]:
        """Class and box losses, part by part, normalised by the positives of the whole batch."""
        anchors = self.model.anchors_at((batch.images.shape[-2], batch.images.shape[-1]))
        return detector_losses(self.loss, anchors, forward, batch, parts, step, self.processes)

    def untrained(self, images: Tensor) -> Outputs:
        """What a network whose scores are all `PRIOR` gives for images [B, 3, H, W]."""
        anchors = self.model.anchors_at((images.shape[-2], images.shape[-1]))
        logits = anchors.new_full((len(images), len(anchors), self.model.num_classes), math.log(PRIOR / (1 - PRIOR)))
        return Outputs(logits, anchors.new_zeros(len(images), len(anchors), 4), anchors)

    def evaluate(self, model: EfficientDet) -> CocoEvaluator:
        """The network's detections on the validation images."""
        assert self.val_table is not None
        config = self.config
        options = config.postprocess.model_dump()
        batch_size, workers = config.eval.batch_size, config.data.workers
        return evaluate_detector(model, self.val_table, options, batch_size, workers, self.processes)

    def describe(self) -> str:
        """Network, input size, classes and images in a few words."""
        height, width = self.model.image_size
        network = f"{self.model.spec.name} {height} x {width}, {self.model.num_classes} classes"
        return f"{network}; {len(self.train_table)} images"


def read_tables(config: DetectionConfig, console: Console) -> tuple[Annotations, Annotations | None]:
    """Training and validation tables with the labels of the training part; shows what was repaired in them."""
    train_table = read_annotations(config.data, "train")
    val_table = None
    if config.data.val is not None:
        val_table = read_annotations(config.data, "val", train_table.label_map)
    for note in [*train_table.notes(), *(val_table.notes() if val_table else [])]:
        console.print(note, style="yellow")
    check_boxes(train_table)
    return train_table, val_table
