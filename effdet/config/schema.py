"""The recipe of a run as one frozen, typed tree, in which every key has its type, its default and its description.

The sections about images are in `data_sections.py`; reading YAML into the tree is in `loading.py`. Architecture numbers
are in the tables of `models/`, and defaults that code without a recipe needs too in `effdet/types.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from effdet.config.data_sections import (
    ClassificationAugment,
    ClassificationData,
    DataConfig,
    DetectionAugment,
    DetectionData,
    ProgressiveConfig,
)
from effdet.config.migration import VERSION
from effdet.config.section import Count, Factor, Fraction, ImageSize, Positive, Section
from effdet.types import (
    BatchNormMode,
    DetectionLossOptions,
    IouKind,
    Letterbox,
    NmsMethod,
    Padding,
    PostprocessOptions,
    Precision,
    Task,
)


class ModelConfig(Section):
    """Which model, for how many classes, and its initial weights. Null means the model's own value."""

    name: str = Field(description="Name of the model; `effdet models` lists them.")
    num_classes: int | None = Field(
        None, ge=1, le=10**6, description="Number of classes; null uses the classes of the training set."
    )
    image_size: ImageSize | None = Field(
        None,
        strict=False,
        description="Input size [height, width] in pixels, or one number for a square; null uses the model's own.",
    )
    weights: str | None = Field(
        None,
        description="Initial weights: 'imagenet' or 'coco', a name of `effdet weights list`, the path of a weights "
        "file, or null for random weights. A classifier's weights initialize the backbone of a detector.",
    )
    backbone_weights: str | None = Field(
        None,
        description="Initial weights of the backbone alone, written like `weights`; a detector gives its backbone.",
    )
    keep_known_classes: bool = Field(
        False,
        description="Initialize the outputs of classes that the weights know by name from the weights, the others at "
        "random.",
    )
    phi: float | None = Field(
        None,
        ge=0,
        le=16,
        description="Compound coefficient that scales the smallest model of a family; null does not scale.",
    )
    width: float | None = Field(
        None,
        gt=0,
        le=32,
        description="Width coefficient: factor of the backbone's channels; null uses the model's own.",
    )
    depth: float | None = Field(
        None,
        gt=0,
        le=32,
        description="Depth coefficient: factor of the backbone's block repeats; null uses the model's own.",
    )
    padding: Padding | None = Field(
        None,
        description="Padding of strided convolutions: 'same' as in TensorFlow, 'symmetric' as in PyTorch; null follows "
        "the weights, or the model where there are none.",
    )
    drop_path: Fraction | None = Field(
        None, description="Stochastic depth: drop probability of the last backbone block; null uses the model's own."
    )
    norm_momentum: Fraction = Field(
        0.01,
        description="BatchNorm momentum (PyTorch convention): weight of the newest batch in the running statistics; "
        "use 0.1 for short runs.",
    )


class DetectorConfig(ModelConfig):
    """Which detector, for how many classes, and its initial weights. Null means the model's own value."""

    name: str = Field("efficientdet_d0", description="Name of the detector; `effdet models` lists them.")
    backbone: str | None = Field(
        None,
        description="Another backbone: the name of a classifier, or timm/NAME for one of the timm library; null uses "
        "the model's own.",
    )
    anchor_scale: Factor | None = Field(
        None, description="Side of the smallest anchor of a level, in strides; null uses the model's own."
    )
    anchor_aspects: tuple[Annotated[tuple[Factor, Factor], Field(strict=False)], ...] | None = Field(
        None,
        strict=False,
        min_length=1,
        max_length=100,
        description="Anchor shapes as (width, height) factors; null uses the model's own.",
    )
    antialias: bool | None = Field(
        None,
        description="Whether images are resized with antialiasing, in training, evaluation and prediction alike; null "
        "follows the weights of a detector, and is true for a new one. It makes large photos load faster.",
    )
    letterbox: Letterbox | None = Field(
        None,
        description="How images fit the input, in training, evaluation and prediction alike: 'pad' keeps their aspect "
        "and fills the rest with a colour; 'stretch' resizes both axes to the input, as MediaPipe, Coral and Frigate "
        "do; null follows the weights of a detector, and is 'pad' for a new one.",
    )


class ClassifierConfig(ModelConfig):
    """Which classifier, for how many classes, and its initial weights. Null means the model's own value."""

    name: str = Field("efficientnet_b0", description="Name of the classifier; `effdet models` lists them.")
    dropout: Fraction | None = Field(
        None, description="Dropout probability before the last layer; null uses the model's own."
    )


class DetectionLossConfig(Section):
    """Focal loss of the classes, Huber and IoU loss of the boxes. Source: EfficientDet reference, hparams."""

    alpha: Fraction = Field(
        DetectionLossOptions.alpha,
        description="Focal loss: weight of positive anchors; negative ones have 1 - alpha.",
    )
    gamma: float = Field(DetectionLossOptions.gamma, ge=0, description="Focal loss: focusing exponent.")
    label_smoothing: Fraction = Field(
        DetectionLossOptions.label_smoothing, description="Label smoothing of the class targets."
    )
    class_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="Weights of the class loss by class name, such as {bicycle: 2}; other classes have 1."
    )
    positives_momentum: float = Field(
        DetectionLossOptions.positives_momentum,
        ge=0,
        lt=1,
        description="0 normalizes the losses by the positive anchors of the batch; a momentum such as 0.9 normalizes "
        "by their moving average over the steps, which is steadier for small batches.",
    )
    huber_delta: float = Field(
        DetectionLossOptions.huber_delta,
        gt=0,
        description="Huber loss: where it turns from quadratic to linear, in units of the box deltas.",
    )
    box_weight: float = Field(
        DetectionLossOptions.box_weight, ge=0, description="Weight of the Huber loss of the boxes; 0 leaves it out."
    )
    iou: IouKind | None = Field(
        DetectionLossOptions.iou,
        description="IoU loss of the decoded boxes, added to the Huber loss; null for none. It counts a quarter per "
        "positive anchor, as in the reference. With `box_weight: 0` it is the only box loss.",
    )
    iou_weight: float = Field(DetectionLossOptions.iou_weight, gt=0, description="Weight of the IoU loss.")

    @model_validator(mode="after")
    def _learns_boxes(self) -> DetectionLossConfig:
        if self.box_weight == 0 and self.iou is None:
            raise ValueError("no loss is left for the boxes: with loss.box_weight=0 set loss.iou, such as giou")
        return self


class ClassificationLossConfig(Section):
    """The cross-entropy of the classes."""

    label_smoothing: Fraction = Field(
        0.1, description="Label smoothing of the class targets. Source: EfficientNet reference."
    )


class OptimConfig(Section):
    """The optimizer and its learning rate: linear warm-up, then decay. Source: EfficientDet reference, hparams."""

    name: Literal["sgd", "adamw", "rmsprop"] = Field("sgd", description="Optimizer.")
    learning_rate: float = Field(
        0.08, gt=0, description="Peak learning rate, for `base_batch_size` images per optimizer step."
    )
    base_batch_size: int | None = Field(
        64,
        ge=1,
        description="Batch size that `learning_rate` is for; the rate scales linearly with `train.batch_size`. Null "
        "does not scale it.",
    )
    lr_multipliers: dict[str, Positive] = Field(
        {},
        description="Factors of the learning rate by module, such as {backbone: 0.1}; the innermost module counts.",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Layer-wise learning rate decay: factor per layer group from the heads to the stem, on top of "
        "`lr_multipliers`.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD and RMSProp, beta 1 of AdamW.")
    weight_decay: float = Field(
        4e-5, ge=0, description="Weight decay; never on BatchNorm layers, biases and fusion weights."
    )
    warmup_epochs: float = Field(1.0, ge=0, description="Length of the linear warm-up in epochs.")
    warmup_start_factor: Fraction = Field(0.1, description="Learning rate of the first step as a fraction of the peak.")
    schedule: Literal["cosine", "exponential"] = Field(
        "cosine", description="Decay after the warm-up: cosine to zero, or exponential in steps."
    )
    decay_factor: float = Field(
        0.97, gt=0, le=1, description="Exponential schedule: factor of each decay. Source: EfficientNet."
    )
    decay_epochs: float = Field(
        2.4, gt=0, description="Exponential schedule: epochs between two decays, counted from 0. Source: EfficientNet."
    )
    grad_clip_norm: float | None = Field(
        10.0, gt=0, description="Gradient clipping: largest global L2 norm; null for no clipping."
    )


class TrainConfig(Section):
    """Length, batch size, precision and saving of the training. Source: EfficientDet reference, hparams."""

    epochs: Count = Field(300, description="Epochs: passes over the training set.")
    max_steps: Count | None = Field(
        None, description="Stop after this many optimizer steps; the schedule ends there too. Null: no limit."
    )
    batch_size: int = Field(64, ge=1, le=10**6, description="Images per optimizer step, over all processes.")
    accumulation_steps: int = Field(
        1, ge=1, le=10**6, description="Gradient accumulation: micro-batches per optimizer step, to save memory."
    )
    activation_checkpointing: bool = Field(
        False,
        description="Activation checkpointing: recompute activations in the backward pass, for much less memory and "
        "about a third more time.",
    )
    precision: Precision = Field(
        "auto",
        description="fp32, or mixed precision (AMP): bf16, or fp16 with loss scaling for GPUs without bf16. auto is "
        "bf16 where the hardware is fast at it, else fp32.",
    )
    compile: bool = Field(
        False, description="Compile the model with torch.compile: minutes at the start, faster steps on some GPUs."
    )
    cuda_graphs: bool = Field(
        True,
        description="CUDA graphs: start the kernels of a step with one call. Used on one GPU where all batches have "
        "the same shape; the log says whether.",
    )
    channels_last: bool = Field(True, description="Store images and weights in channels-last memory format.")
    ema_decay: Fraction | None = Field(
        0.9998, description="Decay of the EMA of the weights, which is evaluated and saved; null for no EMA."
    )
    freeze: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Modules that are not trained, BatchNorm statistics included: backbone, backbone.blocks.0, neck, "
        "...",
    )
    batch_norm: BatchNormMode = Field(
        "auto",
        description="BatchNorm mode: batch statistics per process (batch), SyncBatchNorm (sync) or frozen. auto: batch "
        "statistics (SyncBatchNorm on several GPUs) from 8 images per forward pass; below 8, pretrained BatchNorm "
        "layers stay frozen and new ones use batch statistics.",
    )
    log_every: Count = Field(20, description="Optimizer steps between two records of the log.")
    save_every_minutes: float | None = Field(
        10.0, gt=0, description="Minutes between saves of last.pt within an epoch; null saves at its end only."
    )
    max_hours: float | None = Field(
        None, gt=0, description="Save and stop after this many hours, to be resumed later; null for no limit."
    )
    patience: Count | None = Field(
        None,
        description="Early stopping: stop after this many evaluations without improvement; null never stops early.",
    )
    timeout_minutes: float = Field(
        30.0, gt=0, le=10**6, description="Several processes: minutes that one waits for the others before it gives up."
    )
    deterministic: bool = Field(
        False, description="Use deterministic operations only, so that runs repeat exactly on GPUs too; slower."
    )


class EvalConfig(Section):
    """When and how the validation split is evaluated during training."""

    every_epochs: int = Field(
        1, ge=0, le=10**9, description="Epochs between evaluations; 0 evaluates after the last epoch only."
    )
    batch_size: int = Field(8, ge=1, le=10**6, description="Images per forward pass.")


class LogConfig(Section):
    """Experiment trackers, besides log.jsonl, log.csv and curves.png in the run's folder."""

    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), strict=False, description="Experiment trackers that get every metric too; each is an extra to install."
    )
    project: str = Field(
        "effdet", min_length=1, description="Project in Weights & Biases, experiment in MLflow; the run is its folder."
    )

    @model_validator(mode="after")
    def _names_each_once(self) -> LogConfig:
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError("log.trackers names a tracker twice; leave one out")
        return self


class PostprocessConfig(Section):
    """From raw outputs to detections, in evaluation and prediction."""

    score_threshold: Fraction = Field(
        PostprocessOptions.score_threshold,
        description="Confidence threshold of evaluation; `effdet predict` has its own.",
    )
    nms: NmsMethod = Field(
        PostprocessOptions.nms,
        description="NMS within each class (class), across classes (agnostic), or Gaussian soft-NMS within each class "
        "(soft).",
    )
    iou_threshold: Fraction = Field(
        PostprocessOptions.iou_threshold,
        description="NMS: IoU above which the box with the lower score is dropped.",
    )
    soft_sigma: float = Field(PostprocessOptions.soft_sigma, gt=0, description="Soft-NMS: sigma of the Gaussian.")
    max_candidates: int = Field(
        PostprocessOptions.max_candidates,
        ge=1,
        le=10**6,
        description="(anchor, class) pairs per image that enter NMS, best scores first.",
    )
    max_detections: int = Field(
        PostprocessOptions.max_detections, ge=1, le=10**6, description="Detections per image, best scores first."
    )


class Config(Section):
    """What the recipes of all tasks have in common; a recipe is a `DetectionConfig` or a `ClassificationConfig`."""

    version: int = Field(
        VERSION, ge=VERSION, le=VERSION, description="Version of the recipe's keys; the program writes it."
    )
    task: Task = Field(description="What the model is trained for: detection or classification.")
    seed: int = Field(
        0, ge=0, lt=2**32, description="Random seed of the initial weights, the order of the images and augmentation."
    )
    output_dir: Path | None = Field(
        None, strict=False, description="Folder of the run; null is runs/ and the name of the recipe."
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
    def _early_stopping_has_evaluations(self) -> Config:
        if self.train.patience is not None and (self.data.val is None or self.eval.every_epochs == 0):
            raise ValueError(
                "train.patience (early stopping) needs evaluations during training; set data.val and "
                "eval.every_epochs, or leave train.patience out"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain containers, as written to config.yaml and stored in checkpoints."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The recipe as YAML; `load_config` reads it back to an equal Config."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


class DetectionConfig(Config):
    """The whole recipe of a detector."""

    task: Literal["detection"] = Field("detection", description="What the model is trained for.")
    model: DetectorConfig = DetectorConfig()
    data: DetectionData = DetectionData()
    augment: DetectionAugment = DetectionAugment()
    loss: DetectionLossConfig = DetectionLossConfig()
    postprocess: PostprocessConfig = PostprocessConfig()


class ClassificationConfig(Config):
    """The whole recipe of a classifier."""

    task: Literal["classification"] = Field("classification", description="What the model is trained for.")
    model: ClassifierConfig = ClassifierConfig()
    data: ClassificationData = ClassificationData()
    augment: ClassificationAugment = ClassificationAugment()
    loss: ClassificationLossConfig = ClassificationLossConfig()
    progressive: ProgressiveConfig | None = None

    @model_validator(mode="after")
    def _stages_are_possible(self) -> ClassificationConfig:
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


TASKS: dict[Task, type[DetectionConfig] | type[ClassificationConfig]] = {
    "detection": DetectionConfig,
    "classification": ClassificationConfig,
}
