"""The recipe of a run: a YAML file becomes one frozen, typed `Config`, in which every default stands once.

Architecture numbers are not here but in the tables of `models/`. Only `data`, `training`, `inference` and `cli` see a
Config; models, losses and post-processing take plain values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from effdet.types import DetectionLossOptions, IouKind, NmsMethod, Padding, PostprocessOptions, Precision

Side = Annotated[int, Field(ge=32, strict=True)]
Positive = Annotated[float, Field(gt=0)]
ImageSize = Annotated[tuple[Side, Side], Field(strict=False)]
Pair = Annotated[tuple[Positive, Positive], Field(strict=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Magnitude = Annotated[float, Field(ge=0, le=30)]  # of RandAugment
Value = TypeVar("Value")
PerStage = Annotated[tuple[Value, ...], Field(strict=False)]


class Section(BaseModel):
    """What all sections share: frozen, exact types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


class ModelConfig(Section):
    """Which network, for how many classes, started from what."""

    name: str = Field(description="Name of the network; `effdet models` lists them.")
    num_classes: int | None = Field(
        None, ge=1, description="Classes of the head; null takes as many as the training set has."
    )
    image_size: ImageSize | None = Field(
        None, description="(height, width) of the network input in pixels; null takes the network's own."
    )
    weights: str | None = Field(
        None,
        description="Start of the weights: 'imagenet' or 'coco', a name of `effdet weights list`, the path of a "
        "weights file, or null. A classifier's weights start the backbone of a detector.",
    )
    backbone_weights: str | None = Field(
        None, description="Start of the backbone alone, written like `weights`; of a detector's weights its backbone."
    )
    keep_known_classes: bool = Field(
        False, description="Whether the head starts with the rows of those classes whose names the weights know."
    )
    phi: float | None = Field(
        None, ge=0, description="Compound coefficient that scales the smallest network of a family; null for none."
    )
    width: float | None = Field(
        None, gt=0, description="Factor of the backbone's channels; null takes the network's own."
    )
    depth: float | None = Field(
        None, gt=0, description="Factor of the backbone's repeats; null takes the network's own."
    )
    padding: Padding | None = Field(
        None,
        description="Padding of strided convolutions; null is as the weights were trained, or else the network's own.",
    )
    drop_path: Fraction | None = Field(
        None, description="Stochastic depth rate of the last backbone block; null takes the network's own."
    )
    norm_momentum: Fraction = Field(
        0.01,
        description="Share of the newest batch in the norms' running statistics; short runs want 0.1.",
    )


class DetectorConfig(ModelConfig):
    """Which detector, for how many classes, started from what."""

    name: str = Field("efficientdet_d0", description="Name of the detector; `effdet models` lists them.")
    backbone: str | None = Field(
        None, description="Another backbone: a classifier's name, or timm/NAME of the timm library; null for its own."
    )
    anchor_scale: float | None = Field(
        None, gt=0, description="Side of the smallest anchor in strides; null takes the network's own."
    )
    anchor_aspects: Annotated[tuple[Pair, ...], Field(strict=False, min_length=1)] | None = Field(
        None, description="(width, height) factors of the anchor shapes; null takes the network's own."
    )


class ClassifierConfig(ModelConfig):
    """Which classifier, for how many classes, started from what."""

    name: str = Field("efficientnet_b0", description="Name of the classifier; `effdet models` lists them.")
    dropout: Fraction | None = Field(
        None, description="Dropout rate before the last layer; null takes the network's own."
    )


class SplitConfig(Section):
    """Where one part of the data set lies; what is null follows from `data.root` and `data.format`."""

    split: str | None = Field(
        None,
        description="COCO: folder name such as train2017; VOC: list name such as trainval, or the path of a list; "
        "folders: name of the folder that holds the class folders; CSV: name of the list without its suffix; "
        "shards: name of the index without its suffix.",
    )
    images: Annotated[Path, Field(strict=False)] | None = Field(None, description="Folder of the images.")
    annotations: Annotated[Path, Field(strict=False)] | None = Field(
        None, description="COCO: the JSON file; VOC: the folder of XML files; CSV: the list."
    )


class DataConfig(Section):
    """The data set and how it is loaded."""

    format: str = Field(description="Format of the annotations.")
    root: Annotated[Path, Field(strict=False)] | None = Field(None, description="Folder of the data set.")
    url: str | None = Field(
        None,
        description="Shards: address of their folder in place of `root`, such as s3://bucket/coco or https://host/coco.",
    )
    train: SplitConfig = Field(SplitConfig(), description="The part to train on.")
    val: SplitConfig | None = Field(SplitConfig(), description="The part to evaluate on; null for none.")
    workers: int = Field(
        2, ge=0, description="Processes that load images, for each training process; 0 loads in that one itself."
    )
    cache: Literal["none", "memory", "disk"] = Field(
        "none", description="Where training images are kept decoded for the next epochs, which are then loaded faster."
    )
    cache_gb: float = Field(
        4.0,
        gt=0,
        le=1e6,
        description="Most room for them in GB, of all processes together; what finds none is decoded each time.",
    )
    cache_folder: Annotated[Path, Field(strict=False)] | None = Field(
        None, description="Where cache=disk keeps them; null takes ~/.cache/effdet/images, or images in $EFFDET_HOME."
    )

    @model_validator(mode="after")
    def _addresses_are_of_shards(self) -> DataConfig:
        if ":/" in str(self.root):
            raise ValueError(
                f"data.root is '{self.root}'; expected a folder, the address of shards is written data.url=..."
            )
        if self.url is not None and "://" not in self.url:
            raise ValueError(
                f"data.url is '{self.url}'; expected an address such as s3://bucket/coco, a folder is data.root"
            )
        if self.url is not None and self.root is not None:
            raise ValueError("data.root and data.url both say where the data set lies; set one of them to null")
        if self.url is not None and self.format != "shards":
            raise ValueError(f"data.url is for shards alone, but data.format is '{self.format}'; set it to shards")
        for part, split in (("train", self.train), ("val", self.val)):
            if self.format == "shards" and split is not None and (split.images or split.annotations):
                raise ValueError(
                    f"data.{part}.images and data.{part}.annotations are not for shards, which hold both; "
                    f"leave them out or set them to null"
                )
        return self


class DetectionData(DataConfig):
    """The images with boxes and how they are loaded."""

    format: Literal["coco", "voc", "shards"] = Field(
        "coco", description="Format of the annotations; 'shards': tar files as `effdet shards` writes them."
    )
    root: Annotated[Path, Field(strict=False)] | None = Field(
        None,
        description="Folder of the data set; COCO: train2017/ val2017/ annotations/, VOC: as in the devkit, shards: "
        "train.index.npz val.index.npz and the tar files.",
    )
    classes: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None, description="VOC: class names in label order; null takes the sorted names found in the training part."
    )
    repeat_threshold: Fraction | None = Field(
        None,
        description="Share of the images below which a class is rare, such as 0.001; images with rare classes are "
        "taken more often. Null takes every image once. Source: LVIS, repeat-factor sampling.",
    )
    background_fraction: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of an epoch's samples that images without objects make up; 0 leaves them out, null takes "
        "them as they are.",
    )
    rectangular: bool = Field(
        False, description="Whether training batches are of images of one shape, in an input shrunk to it."
    )

    @model_validator(mode="after")
    def _classes_are_for_voc(self) -> DetectionData:
        if self.format != "voc" and self.classes is not None:
            raise ValueError(
                "data.classes is for Pascal VOC alone; COCO files and shards name the classes themselves, leave it out"
            )
        return self


class ClassificationData(DataConfig):
    """The images with a class each and how they are loaded."""

    format: Literal["folders", "csv", "shards"] = Field(
        "folders",
        description="'folders': a folder of images per class; 'csv': lists of image and class; 'shards': tar files as "
        "`effdet shards` writes them.",
    )
    root: Annotated[Path, Field(strict=False)] | None = Field(
        None,
        description="Folder of the data set; folders: train/CLASS/*.jpg val/CLASS/*.jpg, CSV: train.csv val.csv, "
        "shards: train.index.npz val.index.npz and the tar files.",
    )


class RandAugment(Section):
    """Random changes drawn from a list, one after the other. Source: RandAugment (arXiv:1909.13719)."""

    layers: int = Field(0, ge=0, description="Changes per image; 0 switches RandAugment off.")
    magnitude: Magnitude = Field(9.0, description="Strength of the changes, 0..30.")


class DetectionRandAugment(RandAugment):
    """Random changes drawn from a list, boxes moved along. Source: Learning data augmentation (arXiv:1906.11172)."""

    magnitude: Magnitude = Field(15.0, description="Strength of the changes, 0..30.")


class DetectionAugment(Section):
    """Random changes of the training images, in the order in which they are applied."""

    photometric: Fraction = Field(
        0.0, description="Probability of each change of brightness, contrast, saturation and hue; 0.5 in SSD."
    )
    rand_augment: DetectionRandAugment = DetectionRandAugment()
    horizontal_flip: Fraction = Field(0.5, description="Probability of mirroring an image.")
    multi_scale: Pair | None = Field(
        None, description="Range of the factor of the input size that is drawn for every batch; null for none."
    )
    scale_jitter: Pair | None = Field(
        (0.1, 2.0), description="Range of the random scale relative to the input size, with crop; null for none."
    )
    mosaic: Fraction = Field(0.0, description="Probability of joining an image with three others, a quarter each.")
    copy_paste: Fraction = Field(0.0, description="Probability of pasting objects of another image, with their boxes.")
    mixup: Fraction = Field(0.0, description="Probability of blending an image with another, the boxes of both kept.")
    close_mosaic_epochs: int = Field(
        0, ge=0, description="Last epochs of the run without mosaic, copy_paste and mixup."
    )
    random_erasing: Fraction = Field(0.0, description="Probability of filling a random rectangle with noise.")

    @model_validator(mode="after")
    def _scales_rise(self) -> DetectionAugment:
        for key in ("multi_scale", "scale_jitter"):
            limits = getattr(self, key)
            if limits is not None and limits[0] > limits[1]:
                raise ValueError(f"augment.{key} is a range, the smaller scale first")
        return self


class ClassificationAugment(Section):
    """Random changes of the training images, in the order in which they are applied."""

    crop_area: Pair | None = Field(
        (0.08, 1.0),
        description="Range of the random crop's share of the image; null takes the resize and crop of the evaluation.",
    )
    crop_aspect: Pair = Field((0.75, 1.3333333), description="Range of the random crop's width to height.")
    horizontal_flip: Fraction = Field(0.5, description="Probability of mirroring an image.")
    rand_augment: RandAugment = RandAugment()
    random_erasing: Fraction = Field(0.0, description="Probability of filling a random rectangle with noise.")
    mixup_alpha: float = Field(0.0, ge=0, description="Alpha of mixup, which blends two images; 0 switches it off.")
    cutmix_alpha: float = Field(
        0.0, ge=0, description="Alpha of CutMix, which pastes a rectangle of another image; 0 switches it off."
    )

    @model_validator(mode="after")
    def _ranges_rise(self) -> ClassificationAugment:
        for key in ("crop_area", "crop_aspect"):
            limits = getattr(self, key)
            if limits is not None and limits[0] > limits[1]:
                raise ValueError(f"augment.{key} is a range, the smaller value first")
        if self.crop_area is not None and self.crop_area[1] > 1:
            raise ValueError("augment.crop_area is a share of the image, at most 1")
        return self


class DetectionLossConfig(Section):
    """Constants of the detection loss. Source: EfficientDet reference, hparams."""

    alpha: Fraction = Field(
        DetectionLossOptions.alpha, description="Weight of positives in the focal loss; negatives weigh 1 - alpha."
    )
    gamma: float = Field(DetectionLossOptions.gamma, ge=0, description="Focusing exponent of the focal loss.")
    label_smoothing: Fraction = Field(
        DetectionLossOptions.label_smoothing, description="Smoothing of the class targets."
    )
    class_weights: dict[str, NotNegative] = Field(
        {}, description="Factors of the class loss by class name, such as {bicycle: 2}; classes left out have 1."
    )
    positives_momentum: float = Field(
        DetectionLossOptions.positives_momentum,
        ge=0,
        lt=1,
        description="Losses are divided by the positive anchors of their batch; a momentum such as 0.9 divides by "
        "their moving average over the steps, steadier where batches are small.",
    )
    huber_delta: float = Field(
        DetectionLossOptions.huber_delta,
        gt=0,
        description="Where the Huber loss turns from square to linear, in deltas.",
    )
    box_weight: float = Field(
        DetectionLossOptions.box_weight,
        ge=0,
        description="Weight of the Huber loss of the deltas beside the class loss; 0 leaves it out.",
    )
    iou: IouKind | None = Field(
        DetectionLossOptions.iou,
        description="An IoU loss of the decoded boxes, added to the Huber loss; with `box_weight: 0` it is the only "
        "box loss. It counts a quarter of a positive anchor's, as in the reference.",
    )
    iou_weight: float = Field(DetectionLossOptions.iou_weight, gt=0, description="Weight of the IoU loss.")

    @model_validator(mode="after")
    def _learns_boxes(self) -> DetectionLossConfig:
        if self.box_weight == 0 and self.iou is None:
            raise ValueError("no loss is left for the boxes: with loss.box_weight=0 set loss.iou, such as giou")
        return self


class ClassificationLossConfig(Section):
    """Constants of the cross-entropy."""

    label_smoothing: Fraction = Field(0.1, description="Smoothing of the class targets.")


class OptimConfig(Section):
    """The optimiser and the course of its learning rate: linear warm-up, then decay."""

    name: Literal["sgd", "adamw", "rmsprop"] = Field("sgd", description="Optimiser.")
    learning_rate: float = Field(
        0.08, gt=0, description="Peak learning rate, for `base_batch_size` images per optimiser step."
    )
    base_batch_size: int | None = Field(
        64,
        ge=1,
        description="Batch for which the learning rate is given, scaled linearly; null takes the rate as it is.",
    )
    lr_multipliers: dict[str, Positive] = Field(
        {},
        description="Factors of the learning rate by module, such as {backbone: 0.1}; the innermost module counts.",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor of the learning rate for each step from heads over neck and stages to the stem, beside "
        "`lr_multipliers`.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD and RMSProp, or beta 1 of AdamW.")
    weight_decay: float = Field(4e-5, ge=0, description="Weight decay; never on norms, biases and fusion weights.")
    warmup_epochs: float = Field(1.0, ge=0, description="Length of the linear warm-up in epochs.")
    warmup_start_factor: Fraction = Field(0.1, description="First learning rate as a share of the peak.")
    schedule: Literal["cosine", "exponential"] = Field(
        "cosine", description="Decay after the warm-up: a cosine to zero, or a factor every few epochs."
    )
    decay_factor: float = Field(0.97, gt=0, le=1, description="Exponential schedule: the factor.")
    decay_epochs: float = Field(
        2.4, gt=0, description="Exponential schedule: epochs, counted from 0, between two factors."
    )
    grad_clip_norm: float | None = Field(
        10.0, gt=0, description="Largest global norm of the gradients; null for no clipping."
    )


class TrainConfig(Section):
    """Length, batches, precision and bookkeeping of the training."""

    epochs: int = Field(300, ge=1, description="Passes over the training set.")
    max_steps: int | None = Field(
        None, ge=1, description="Stop after this many optimiser steps; the schedule ends there too."
    )
    batch_size: int = Field(64, ge=1, description="Images per optimiser step, over all processes.")
    accumulation_steps: int = Field(1, ge=1, description="Parts in which a batch is computed, to save memory.")
    checkpoint_activations: bool = Field(
        False,
        description="Whether activations are not kept but computed again in the backward pass: much less memory for "
        "about a third more time.",
    )
    precision: Precision = Field(
        "auto",
        description="Arithmetic of the network; auto takes bf16 where the hardware is fast at it. fp16, for GPUs that "
        "lack bf16, scales the loss.",
    )
    compile: bool = Field(
        False,
        description="Whether torch.compile makes one program of the network: minutes at the start, worth trying on "
        "GPUs.",
    )
    channels_last: bool = Field(True, description="Memory layout of images and weights.")
    ema_decay: Fraction | None = Field(
        0.9998, description="Decay of the weight average that is evaluated and saved; null for none."
    )
    freeze: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="Modules kept as they are, norms included: backbone, backbone.blocks.0, neck, ...",
    )
    batch_norm: Literal["auto", "batch", "sync", "frozen"] = Field(
        "auto",
        description="Statistics of the batch norms: of the images computed together (batch), over all processes (sync) "
        "or as they are (frozen); auto keeps those that came with the weights under 8 images, and synchronises GPUs.",
    )
    log_every: int = Field(20, ge=1, description="Steps between two lines of the log.")
    save_minutes: float | None = Field(
        10.0, gt=0, description="Minutes after which last.pt is saved within an epoch too; null for its end only."
    )
    max_hours: float | None = Field(
        None, gt=0, description="Time after which the run saves and leaves, to be resumed later; null for no limit."
    )
    patience: int | None = Field(
        None, ge=1, description="Evaluations without a better result after which the run ends; null for no early end."
    )
    timeout_minutes: float = Field(
        30.0, gt=0, description="How long a process waits for the others before it gives up; for runs of several."
    )
    deterministic: bool = Field(
        False, description="Whether only operations are used that give the same result every time, on GPUs too."
    )


class ProgressiveConfig(Section):
    """Stages of rising image size and regularisation that share the epochs equally. Source: EfficientNetV2, section 4.

    Each key is a list with one value per stage; a key that is null stays as the other sections say.
    """

    image_size: PerStage[Side] | None = Field(None, description="Side of the square training images in pixels.")
    rand_augment_magnitude: PerStage[Magnitude] | None = Field(None, description="Strength of RandAugment, 0..30.")
    mixup_alpha: PerStage[NotNegative] | None = Field(None, description="Alpha of mixup.")
    cutmix_alpha: PerStage[NotNegative] | None = Field(None, description="Alpha of CutMix.")
    dropout: PerStage[Fraction] | None = Field(None, description="Dropout rate before the last layer.")

    @model_validator(mode="after")
    def _stages_agree(self) -> ProgressiveConfig:
        lengths = {key: len(values) for key, values in self if values is not None}
        if not any(lengths.values()):
            raise ValueError(
                "progressive: names no stages; give image_size as a list such as [128, 192, 256], or leave out"
            )
        if len(set(lengths.values())) > 1:
            given = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise ValueError(f"progressive: every list needs one value per stage, but the lists are of lengths {given}")
        return self

    @property
    def num_stages(self) -> int:
        """How many stages there are."""
        return next(len(values) for _, values in self if values is not None)


class EvalConfig(Section):
    """When and how the validation part is evaluated."""

    every_epochs: int = Field(1, ge=0, description="Epochs between evaluations; 0 evaluates after the last epoch only.")
    batch_size: int = Field(8, ge=1, description="Images per forward pass.")


class LogConfig(Section):
    """Where the figures of a training go, besides log.jsonl, log.csv and curves.png in the run's folder."""

    to: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], Field(strict=False)] = Field(
        (), description="Trackers that get every figure too: tensorboard, wandb, mlflow; each is an extra to install."
    )
    project: str = Field(
        "effdet", min_length=1, description="Project of Weights & Biases, experiment of MLflow; the run is its folder."
    )

    @model_validator(mode="after")
    def _each_once(self) -> LogConfig:
        if len(set(self.to)) < len(self.to):
            raise ValueError("log.to names a tracker twice; leave one out")
        return self


class PostprocessConfig(Section):
    """From logits to detections in evaluation; predict has its own threshold."""

    score_threshold: Fraction = Field(PostprocessOptions.score_threshold, description="Smallest score of a detection.")
    nms: NmsMethod = Field(
        PostprocessOptions.nms,
        description="NMS within a class, NMS across classes, or Gaussian soft-NMS within a class.",
    )
    iou_threshold: Fraction = Field(
        PostprocessOptions.iou_threshold, description="Overlap from which hard NMS suppresses the lower score."
    )
    soft_sigma: float = Field(PostprocessOptions.soft_sigma, gt=0, description="Width of the Gaussian of soft-NMS.")
    max_candidates: int = Field(
        PostprocessOptions.max_candidates,
        ge=1,
        description="Best-scoring (anchor, class) pairs of an image that enter NMS.",
    )
    max_detections: int = Field(PostprocessOptions.max_detections, ge=1, description="Most detections of an image.")


class Config(Section):
    """What the recipes of both tasks share; a recipe is a `DetectionConfig` or a `ClassificationConfig`."""

    task: str = Field(description="What the network is trained for: detection or classification.")
    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of the weights, of the order of images and of their augmentation."
    )
    output_dir: Annotated[Path, Field(strict=False)] | None = Field(
        None, description="Folder of the run; null is runs/ and the name of the recipe."
    )
    model: ModelConfig
    data: DataConfig
    augment: Section
    loss: Section
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _patience_has_evaluations(self) -> Config:
        if self.train.patience is not None and (self.data.val is None or self.eval.every_epochs == 0):
            raise ValueError(
                "train.patience ends a run that gets no better, but there are no evaluations to tell; set data.val and "
                "eval.every_epochs, or leave train.patience out"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain containers: what is written to config.yaml and stored in checkpoints."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The tree as YAML; `load_config` reads it back to an equal Config."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


class DetectionConfig(Config):
    """The whole recipe of a detector."""

    task: Literal["detection"] = Field("detection", description="What the network is trained for.")
    model: DetectorConfig = DetectorConfig()
    data: DetectionData = DetectionData()
    augment: DetectionAugment = DetectionAugment()
    loss: DetectionLossConfig = DetectionLossConfig()
    postprocess: PostprocessConfig = PostprocessConfig()


class ClassificationConfig(Config):
    """The whole recipe of a classifier."""

    task: Literal["classification"] = Field("classification", description="What the network is trained for.")
    model: ClassifierConfig = ClassifierConfig()
    data: ClassificationData = ClassificationData()
    augment: ClassificationAugment = ClassificationAugment()
    loss: ClassificationLossConfig = ClassificationLossConfig()
    progressive: ProgressiveConfig | None = None

    @model_validator(mode="after")
    def _magnitude_needs_layers(self) -> ClassificationConfig:
        if self.progressive and self.progressive.rand_augment_magnitude and not self.augment.rand_augment.layers:
            raise ValueError(
                "progressive.rand_augment_magnitude changes RandAugment, but augment.rand_augment.layers is 0; "
                "set it to 2"
            )
        if self.progressive and self.progressive.num_stages > self.train.epochs:
            raise ValueError(
                f"progressive has {self.progressive.num_stages} stages, but train.epochs is {self.train.epochs}; "
                "give an epoch or more to each"
            )
        return self


TASKS: dict[str, type[DetectionConfig] | type[ClassificationConfig]] = {
    "detection": DetectionConfig,
    "classification": ClassificationConfig,
}
