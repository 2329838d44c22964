"""Detection as the engine trains it: images with boxes, an EfficientDet, focal and box losses, COCO metrics."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from effdet.config import DetectionConfig, DetectionLossConfig
from effdet.data.cache import make_cache
from effdet.data.damage import check_sizes
from effdet.data.detection_dataset import DetectionDataset
from effdet.data.formats.table import check_not_only_crowds
from effdet.data.images import Image
from effdet.data.sampling import detection_order
from effdet.data.train_order import SIDE_STEP
from effdet.distributed import SINGLE, Processes
from effdet.errors import ConfigError
from effdet.evaluation import voc
from effdet.evaluation.average_precision import METRIC_NAMES
from effdet.evaluation.coco import has_voc_metrics
from effdet.evaluation.evaluate import Evaluator, evaluate
from effdet.losses import DetectionLoss, assign
from effdet.models import EfficientDet
from effdet.models.anchors import anchors_per_cell, level_sizes
from effdet.models.efficientdet import MIN_LEVEL
from effdet.models.heads import PRIOR
from effdet.report.sheet import draw_detection_batch
from effdet.runtimes.pytorch import TorchRuntime
from effdet.structures import Batch, Outputs, Target
from effdet.text import count_of
from effdet.training.debug.checks import box_warnings, check_boxes
from effdet.training.initial_model import initial_model
from effdet.training.optim import make_schedule
from effdet.training.tasks.data import TrainingData, show_tables
from effdet.training.tasks.task import MicroBatch
from effdet.types import DetectionLossOptions
from effdet.weights.card import ModelCard

RANDOM_OBJECTS = 100  # in each image of `random_targets`
PADDED_POSITIVES = 2048  # for each image, on a GPU


class DetectionTask:
    """See `tasks.task.TrainingTask`."""

    setting_names: tuple[str, ...] = ()
    metric_names: tuple[str, ...] = METRIC_NAMES
    metric = "AP"

    def __init__(self, config: DetectionConfig, console: Console, processes: Processes = SINGLE) -> None:
        self.config, self.processes = config, processes
        tables = show_tables(config.data, console)
        train_table = tables.train
        check_sizes([table for table in tables[:2] if table is not None], config.data.root)
        check_boxes(train_table)
        check_not_only_crowds(train_table)
        names = train_table.label_map.names
        self.model, self.loaded_norms, new_head = initial_model(config.model, names, console)
        self.first_loss = "class_loss" if new_head else None
        spec = self.model.spec
        for note in box_warnings(train_table, spec.image_size, spec.letterbox):
            console.print(note, style="yellow")
        order = detection_order(config, train_table, spec.image_size, spec.letterbox)
        order.check_processes(processes.size)
        schedule = make_schedule(config.optim, config.train, order.num_samples)
        dataset = DetectionDataset(
            train_table,
            spec.image_size,
            spec.fill_color,
            spec.antialias,
            spec.letterbox,
            config.augment,
            config.seed,
            math.ceil(schedule.total_steps / schedule.steps_per_epoch),
            make_cache(config.data, len(train_table), processes.local_size),
            order.rows,
        )
        self.data = TrainingData(tables, order, dataset, config.data.workers, processes)
        if tables.val is not None and has_voc_metrics(tables.val):
            self.metric_names = (*METRIC_NAMES, *voc.METRIC_NAMES)
        self.criterion = self.make_criterion(config.loss, names)

    def card(self) -> ModelCard:
        """Describes the weights that are saved."""
        labels = self.data.train_table.label_map
        return ModelCard(
            self.model.spec,
            labels.names,
            labels.category_ids,
            postprocess=self.config.postprocess.model_dump(),
            value_range=self.data.train_table.value_range,
        )

    def describe(self) -> str:
        """Network, input size, classes and images in a few words."""
        height, width = self.model.image_size
        network = f"{self.model.spec.name} {height} x {width}, {count_of(self.model.num_classes, 'class', 'classes')}"
        return f"{network}; {count_of(len(self.data.train_table), 'image')}"

    @property
    def varies_by(self) -> str | None:
        """The key because of which batches differ in size."""
        if self.config.augment.multi_scale is not None:
            return "augment.multi_scale"
        return "data.rectangular" if self.data.order.size_of_row is not None else None

    def settings(self, epoch: int) -> Mapping[str, float]:
        """Nothing changes from epoch to epoch."""
        return {}

    def prepare(self, batch: Batch, step: int) -> list[MicroBatch]:
        """The micro-batches of a batch, with their anchors matched."""
        batch = batch.to(self.model.anchors.device)
        return [
            self.micro_batch(self.model, chunk.images, chunk.targets, chunk.indices)
            for chunk in batch.split(self.config.train.accumulation_steps)
        ]

    def normalizer(self, count: int, step: int) -> Tensor:
        """The positive anchors of the whole batch, averaged over the steps where the recipe says so: a scalar."""
        positives = torch.full((), float(count), device=self.model.anchors.device)  # without waiting for a GPU
        return self.criterion.average_positives(positives, step)

    def loss(self, outputs: Outputs, micro_batch: MicroBatch) -> dict[str, Tensor]:
        """Focal loss and box losses, normalized by the positive anchors of the whole batch."""
        return self.compute_loss(self.criterion, outputs, micro_batch)

    def untrained(self, images: Tensor) -> Outputs:
        """Outputs for images [B, C, H, W] of a network whose scores are all `PRIOR`."""
        anchors = self.model.anchors_at((images.shape[-2], images.shape[-1]))
        logits = anchors.new_full((len(images), len(anchors), self.model.num_classes), math.log(PRIOR / (1 - PRIOR)))
        return Outputs(logits, anchors.new_zeros(len(images), len(anchors), 4), anchors)

    def smallest_features(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of the smallest training images, and of their coarsest features."""
        spec = self.model.spec
        smallest = self.data.order.smallest_size(spec.image_size)
        (coarsest,) = level_sizes(smallest, spec.max_level, spec.max_level)
        return smallest, coarsest

    def evaluate(self, model: EfficientDet) -> Evaluator:
        """Runs a model over the validation images."""
        runtime = TorchRuntime(model, self.card(), next(model.buffers()).device)
        return evaluate(runtime, self.data.val_table, self.config, self.processes)

    @staticmethod
    def make_criterion(config: DetectionLossConfig, class_names: Sequence[str]) -> DetectionLoss:
        """The criterion of a recipe.

        Raises:
            ConfigError: the recipe weights a class that the data set does not have.
        """
        options = DetectionLossOptions(
            **{field.name: getattr(config, field.name) for field in fields(DetectionLossOptions)}
        )
        return DetectionLoss(options, class_weights(config.class_weights, class_names))

    @staticmethod
    def micro_batch(model: EfficientDet, images: Tensor, targets: Sequence[Target], rows: Sequence[int]) -> MicroBatch:
        """A micro-batch normalized by itself, its anchors matched.

        On a GPU the positives are padded, so that micro-batches of as many images run the same kernels.
        """
        assignment = assign(model.anchors_at((images.shape[-2], images.shape[-1])), targets)
        count = len(assignment.anchor)
        if images.device.type == "cuda":
            assignment = assignment.padded(padded_rows(count, len(images)))
        return MicroBatch(images, targets, rows, assignment, count, count)

    @staticmethod
    def compute_loss(criterion: DetectionLoss, outputs: Outputs, micro_batch: MicroBatch) -> dict[str, Tensor]:
        """Losses by name, the total first."""
        targets = micro_batch.targets if micro_batch.assignment is None else micro_batch.assignment
        losses: dict[str, Tensor] = criterion(outputs, targets, micro_batch.normalizer)
        return losses

    @staticmethod
    def named_outputs(
        model: EfficientDet, outputs: Outputs, image_size: tuple[int, int]
    ) -> Iterator[tuple[str, Tensor]]:
        """Logits and deltas of each level by name."""
        spec = model.spec
        sizes = level_sizes(image_size, MIN_LEVEL, spec.max_level)
        counts = [height * width * anchors_per_cell(spec.anchor_aspects) for height, width in sizes]
        for name, values in (("class_logits", outputs.class_logits), ("box_deltas", outputs.box_deltas)):
            for level, of_level in enumerate(torch.split(values, counts, dim=1), MIN_LEVEL):
                yield f"{name} P{level}", of_level

    @staticmethod
    def plain_targets(targets: Sequence[Sequence[Target]]) -> list[dict[str, Any]]:
        """The targets of several micro-batches, joined, as dictionaries of tensors in host memory."""
        return [dict(vars(target.to(torch.device("cpu")))) for some in targets for target in some]

    @staticmethod
    def restore_targets(plain: Sequence[Mapping[str, Any]], device: torch.device) -> tuple[Target, ...]:
        """The targets that `plain_targets` gave, on a device."""
        return tuple(Target(**target).to(device) for target in plain)

    @staticmethod
    def describe_targets(
        targets: Sequence[Target], image_size: tuple[int, int], class_names: Sequence[str]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Faults of the boxes of a batch, counted, and the objects of each image; sides in input pixels."""
        boxes = torch.cat([target.boxes for target in targets])
        labels = torch.cat([target.labels for target in targets])
        height, width = image_size
        finite = boxes.isfinite().all(1)
        sides = (boxes[:, 2:] - boxes[:, :2])[finite]
        outside = (boxes[:, :2] >= boxes.new_tensor([width, height])).any(1) | (boxes[:, 2:] <= 0).any(1)
        summary = {
            "count": len(boxes),
            "not_finite": int((~finite).sum()),
            "without_area": int((sides <= 0).any(1).sum()),
            "outside_their_image": int((outside & finite).sum()),
            "smallest_side": float(sides.min()) if len(sides) else None,
            "largest_side": float(sides.max()) if len(sides) else None,
            "labels": [int(labels.min()), int(labels.max())] if len(labels) else None,
        }
        smallest = [
            float((target.boxes[:, 2:] - target.boxes[:, :2]).min()) if len(target.boxes) else None
            for target in targets
        ]
        lines = [
            {"objects": len(target.boxes), "smallest_side": side}
            for target, side in zip(targets, smallest, strict=True)
        ]
        return summary, lines

    @staticmethod
    def draw(images: Tensor, targets: Sequence[Target], class_names: Sequence[str]) -> Image:
        """A contact sheet of the images with boxes and class names; boxes with NaN or Inf are left out."""
        return draw_detection_batch(images, targets, class_names)

    @staticmethod
    def random_targets(images: Tensor, num_classes: int) -> tuple[Target, ...]:
        """The same `RANDOM_OBJECTS` boxes of random classes in each image."""
        height, width = images.shape[-2:]
        generator = torch.Generator().manual_seed(0)
        corners = torch.rand(RANDOM_OBJECTS, 2, generator=generator) * 0.8
        sides = torch.rand(RANDOM_OBJECTS, 2, generator=generator) * 0.19 + 0.01
        boxes = torch.cat([corners, corners + sides], 1) * torch.tensor([width, height, width, height])
        labels = torch.randint(num_classes, (RANDOM_OBJECTS,), generator=generator)
        return (Target(boxes, labels, 0, (height, width), (1.0, 1.0)).to(images.device),) * len(images)

    @staticmethod
    def largest_image(config: DetectionConfig, image_size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the largest training images under multi-scale training."""
        factor = 1.0 if config.augment.multi_scale is None else config.augment.multi_scale[1]
        height, width = (math.ceil(side * factor / SIDE_STEP) * SIDE_STEP for side in image_size)
        return height, width


def padded_rows(positives: int, images: int) -> int:
    """Rows to which the positives of some images are padded: the same for all but very crowded images."""
    rows = PADDED_POSITIVES * images
    while rows < positives:
        rows *= 2
    return rows


def class_weights(weights: Mapping[str, float], class_names: Sequence[str]) -> Tensor | None:
    """Weights by class name as a tensor in label order, [K] float32, 1 where none is given; None without any.

    Raises:
        ConfigError: a name is not among the classes.
    """
    known = set(class_names)
    for name in weights:
        if name not in known:
            near = difflib.get_close_matches(name, class_names, n=1, cutoff=0.6)
            hint = f"did you mean '{near[0]}'?" if near else f"its classes are {', '.join(class_names[:10])}"
            hint += ", ..." if not near and len(class_names) > 10 else ""
            raise ConfigError(f"loss.class_weights: the training set has no class '{name}'; {hint}")
    return torch.tensor([weights.get(name, 1.0) for name in class_names]) if weights else None
