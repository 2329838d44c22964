"""The sections of a recipe about images: where they are, how they are loaded and how they are augmented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from effdet.config.section import Factor, Fraction, Pixels, Section
from effdet.types import Task


def _rises(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise PydanticCustomError("range", "expected a range [low, high] with the lower value first")
    return limits


_Area = Annotated[float, Field(gt=0, le=1)]
_Alpha = Annotated[float, Field(ge=0, le=1000)]
_Magnitude = Annotated[float, Field(ge=0, le=30)]
_Range = Annotated[tuple[Factor, Factor], AfterValidator(_rises)]


class SplitConfig(Section):
    """Location of one split of the data set; null follows from `data.root` and `data.format`."""

    split: str | None = Field(
        None,
        description="Name of the split as the data set calls it, such as train, trainval, train2017 or valid; VOC: or "
        "the path of a list. `effdet check` prints the names.",
    )
    images: Path | None = Field(None, strict=False, description="Folder of the images.")
    annotations: Path | None = Field(
        None,
        strict=False,
        description="COCO: the JSON file. VOC: the folder of XML files. YOLO: data.yaml, or the folder of labels. CSV: "
        "the list.",
    )


class ValidationConfig(SplitConfig):
    """Location of the validation split, or how it is split off the training split."""

    fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Fraction of the training images to validate on instead; the images are chosen by a fixed rule.",
    )
    file_list: Path | None = Field(
        None,
        strict=False,
        description="Text file with the images of the training split to validate on, one file name per line; a run "
        "with `fraction` writes one.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> ValidationConfig:
        own = [name for name in ("split", "images", "annotations") if getattr(self, name) is not None]
        if self.fraction is not None and (own or self.file_list):
            other = own[0] if own else "file_list"
            raise ValueError(f"data.val.fraction and data.val.{other} both choose the validation images; set one")
        if self.file_list is not None and own:
            raise ValueError(f"data.val.file_list and data.val.{own[0]} both choose the validation images; set one")
        return self


class DataConfig(Section):
    """The data set and how it is loaded."""

    task: ClassVar[Task]
    format: str = Field(description="Format of the annotations.")
    root: Path | None = Field(
        None, strict=False, description="Folder of the data set; docs/data.md shows the layouts that are recognized."
    )
    url: str | None = Field(
        None,
        description="Shards: address of their folder instead of `root`, such as s3://bucket/coco or https://host/coco.",
    )
    train: SplitConfig = Field(SplitConfig(), description="Training split.")
    val: ValidationConfig | None = Field(ValidationConfig(), description="Validation split; null for none.")
    classes: tuple[str, ...] | None = Field(
        None,
        strict=False,
        description="Names of the classes in label order; other classes are left out. Null uses all classes of the "
        "training split.",
    )
    rename: dict[str, str] = Field(
        {}, description="New names of classes, such as {auto: car}; classes of one name are merged."
    )
    value_range: tuple[float, float] | None = Field(
        None,
        strict=False,
        description="Images with more than 8 bits: values that become black and white, such as [0, 4095]. Null uses "
        "the range of the bit depth that the values need, see docs/data.md.",
    )
    workers: int = Field(
        2, ge=0, le=1024, description="Loader processes per training process; 0 loads in the training process itself."
    )
    cache: Literal["none", "memory", "disk"] = Field(
        "none", description="Where decoded training images are kept for later epochs, to load them faster."
    )
    cache_gb: float = Field(
        4.0,
        gt=0,
        le=1e6,
        description="Size of the cache in GB, over all processes; images that do not fit are decoded every time.",
    )
    cache_folder: Path | None = Field(
        None,
        strict=False,
        description="Folder of cache=disk; null is ~/.cache/effdet/images, or images in $EFFDET_HOME.",
    )

    @model_validator(mode="after")
    def _values_rise(self) -> DataConfig:
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            low, high = self.value_range
            raise ValueError(f"data.value_range is [{low}, {high}]; expected [low, high] with low < high")
        return self

    @model_validator(mode="after")
    def _location_fits_format(self) -> DataConfig:
        if ":/" in str(self.root):
            raise ValueError(f"data.root is '{self.root}'; expected a folder, the address of shards goes into data.url")
        if self.url is not None and "://" not in self.url:
            raise ValueError(
                f"data.url is '{self.url}'; expected an address such as s3://bucket/coco, a folder goes into data.root"
            )
        if self.url is not None and self.root is not None:
            raise ValueError("data.root and data.url both say where the data set is; set one of them to null")
        if self.url is not None and self.format != "shards":
            raise ValueError(f"data.url is for shards alone, but data.format is '{self.format}'; set it to shards")
        for name, split in (("train", self.train), ("val", self.val)):
            if self.format == "shards" and split is not None and (split.images or split.annotations):
                raise ValueError(
                    f"data.{name}.images and data.{name}.annotations are not for shards, which hold both; "
                    "leave them out or set them to null"
                )
        return self


class DetectionData(DataConfig):
    """The images with boxes and how they are loaded."""

    task: ClassVar[Task] = "detection"
    format: Literal["auto", "coco", "voc", "yolo", "csv", "shards"] = Field(
        "auto",
        description="Format of the annotations; 'auto' recognizes it, 'shards' are tar files written by "
        "`effdet shards`.",
    )
    crowd_as_objects: bool = Field(
        False, description="Train on regions marked as crowds (COCO `iscrowd: 1`) as on ordinary objects."
    )
    repeat_threshold: Fraction | None = Field(
        None,
        description="Class frequency (fraction of the images) below which images are oversampled, such as 0.001; null "
        "uses every image once per epoch. Source: LVIS (arXiv:1908.03195), repeat-factor sampling.",
    )
    background_fraction: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Fraction of an epoch's images that have no objects; 0 leaves such images out, null keeps the "
        "fraction of the data set.",
    )
    rectangular: bool = Field(
        False, description="Rectangular training: batches of images of one aspect ratio, in an input cut to it."
    )


class ClassificationData(DataConfig):
    """The images with one class each and how they are loaded."""

    task: ClassVar[Task] = "classification"
    format: Literal["auto", "folders", "csv", "shards"] = Field(
        "auto",
        description="'auto' recognizes the format; 'folders': one folder of images per class; 'csv': lists of image "
        "and class; 'shards': tar files written by `effdet shards`.",
    )


class RandAugment(Section):
    """Random operations from a list, applied one after the other. Source: RandAugment (arXiv:1909.13719)."""

    layers: int = Field(0, ge=0, le=100, description="Operations per image; 0 switches RandAugment off.")
    magnitude: _Magnitude = Field(9.0, description="Strength of the operations, 0..30.")


class DetectionRandAugment(RandAugment):
    """Random operations from a list, boxes included. Source: Learning data augmentation (arXiv:1906.11172)."""

    magnitude: _Magnitude = Field(15.0, description="Strength of the operations, 0..30.")


class DetectionAugment(Section):
    """Augmentation of the training images, in the order in which it is applied."""

    photometric: Fraction = Field(
        0.0, description="Color jitter: probability of each change of brightness, contrast, saturation, hue; SSD: 0.5."
    )
    rand_augment: DetectionRandAugment = DetectionRandAugment()
    horizontal_flip: Fraction = Field(0.5, description="Probability of a horizontal flip.")
    multi_scale: _Range | None = Field(
        None,
        strict=False,
        description="Multi-scale training: range of a random factor of the input size, per batch; null for none.",
    )
    scale_jitter: _Range | None = Field(
        (0.1, 2.0),
        strict=False,
        description="Scale jitter: range of a random scale relative to the input size, followed by a random crop; null "
        "for none.",
    )
    mosaic: Fraction = Field(0.0, description="Probability of a mosaic: the image and three others, a quarter each.")
    copy_paste: Fraction = Field(
        0.0, description="Probability of copy-paste: objects of another image pasted with their boxes."
    )
    mixup: Fraction = Field(
        0.0, description="Probability of mixup: the image blended with another, keeping the boxes of both."
    )
    close_mosaic_epochs: int = Field(
        0, ge=0, le=10**9, description="Number of last epochs without mosaic, copy_paste and mixup."
    )
    random_erasing: Fraction = Field(0.0, description="Probability of filling a random rectangle with noise.")


class ClassificationAugment(Section):
    """Augmentation of the training images, in the order in which it is applied."""

    crop_area: Annotated[tuple[_Area, _Area], AfterValidator(_rises)] | None = Field(
        (0.08, 1.0),
        strict=False,
        description="Random-resized crop: range of its area as a fraction of the image; null resizes and crops as in "
        "evaluation.",
    )
    crop_aspect: _Range = Field(
        (0.75, 1.3333333), strict=False, description="Random-resized crop: range of its aspect ratio, width / height."
    )
    horizontal_flip: Fraction = Field(0.5, description="Probability of a horizontal flip.")
    rand_augment: RandAugment = RandAugment()
    random_erasing: Fraction = Field(0.0, description="Probability of filling a random rectangle with noise.")
    mixup_alpha: float = Field(
        0.0, ge=0, le=1000, description="Alpha of mixup, which blends two images; 0 switches it off."
    )
    cutmix_alpha: float = Field(
        0.0, ge=0, le=1000, description="Alpha of CutMix, which pastes a rectangle of another image; 0 switches it off."
    )


class ProgressiveConfig(Section):
    """Progressive learning: stages of equal length with growing image size and regularization.

    Each key is a list with one value per stage; null keeps the value of the other sections.
    Source: EfficientNetV2 (arXiv:2104.00298), section 4.
    """

    image_size: tuple[Pixels, ...] | None = Field(
        None, strict=False, description="Side of the square training images in pixels."
    )
    rand_augment_magnitude: tuple[_Magnitude, ...] | None = Field(
        None, strict=False, description="Strength of RandAugment, 0..30."
    )
    mixup_alpha: tuple[_Alpha, ...] | None = Field(None, strict=False, description="Alpha of mixup.")
    cutmix_alpha: tuple[_Alpha, ...] | None = Field(None, strict=False, description="Alpha of CutMix.")
    dropout: tuple[Fraction, ...] | None = Field(
        None, strict=False, description="Dropout probability before the last layer."
    )

    @model_validator(mode="after")
    def _lists_have_one_length(self) -> ProgressiveConfig:
        lengths = {key: len(values) for key, values in self if values is not None}
        if not any(lengths.values()):
            raise ValueError(
                "progressive has no stages; give image_size as a list such as [128, 192, 256], or leave progressive out"
            )
        if len(set(lengths.values())) > 1:
            given = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise ValueError(f"progressive: every list needs one value per stage, but their lengths are {given}")
        return self

    @property
    def num_stages(self) -> int:
        """Number of stages."""
        return next(len(values) for _, values in self if values is not None)
