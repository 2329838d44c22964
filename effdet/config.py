"""The recipe of a run: a YAML file becomes one frozen, typed `Config`, in which every default stands once.

Architecture numbers are not here but in the tables of `models/`. Only `data`, `training`, `inference` and `cli` see a
Config; models, losses and post-processing take plain values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from effdet.errors import ConfigError

Side = Annotated[int, Field(ge=32, strict=True)]
Positive = Annotated[float, Field(gt=0)]
ImageSize = Annotated[tuple[Side, Side], Field(strict=False)]
Pair = Annotated[tuple[Positive, Positive], Field(strict=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """What all sections share: frozen, exact types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


class ModelConfig(Section):
    """Which network, for how many classes, started from what."""

    name: str = Field("efficientdet_d0", description="Name of the network; `effdet models` lists them.")
    num_classes: int | None = Field(
        None, ge=1, description="Classes of the head; null takes as many as the training set has."
    )
    image_size: ImageSize | None = Field(
        None, description="(height, width) of the network input in pixels; null takes the network's own."
    )
    weights: str | None = Field(
        None,
        description="Start of the weights: 'imagenet' for the backbone, the path of a weights file, or null.",
    )
    padding: Literal["same", "symmetric"] = Field(
        "same", description="Padding of strided convolutions; 'same' as in TensorFlow, as the released weights need."
    )
    drop_path: Fraction | None = Field(
        None, description="Stochastic depth rate of the last backbone block; null takes the network's own."
    )
    norm_momentum: Fraction = Field(
        0.01,
        description="Share of the newest batch in the norms' running statistics; short runs want 0.1.",
    )
    anchor_scale: float | None = Field(
        None, gt=0, description="Side of the smallest anchor in strides; null takes the network's own."
    )
    anchor_aspects: Annotated[tuple[Pair, ...], Field(strict=False, min_length=1)] | None = Field(
        None, description="(width, height) factors of the anchor shapes; null takes the network's own."
    )


class SplitConfig(Section):
    """Where one part of the data set lies; what is null follows from `data.root` and `data.format`."""

    split: str | None = Field(
        None, description="COCO: folder name such as train2017; VOC: list name such as trainval, or the path of a list."
    )
    images: Annotated[Path, Field(strict=False)] | None = Field(None, description="Folder of the images.")
    annotations: Annotated[Path, Field(strict=False)] | None = Field(
        None, description="COCO: the JSON file; VOC: the folder of XML files."
    )


class DataConfig(Section):
    """The data set and how it is loaded."""

    format: Literal["coco", "voc"] = Field("coco", description="Format of the annotations.")
    root: Annotated[Path, Field(strict=False)] | None = Field(
        None, description="Folder of the data set; COCO: train2017/ val2017/ annotations/, VOC: as in the devkit."
    )
    train: SplitConfig = Field(SplitConfig(), description="The part to train on.")
    val: SplitConfig | None = Field(SplitConfig(), description="The part to evaluate on; null for none.")
    classes: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None, description="VOC: class names in label order; null takes the sorted names found in the training part."
    )
    workers: int = Field(2, ge=0, description="Processes that load images; 0 loads in the main process.")

    @model_validator(mode="after")
    def _classes_are_for_voc(self) -> DataConfig:
        if self.format == "coco" and self.classes is not None:
            raise ValueError("data.classes is for Pascal VOC alone; a COCO file names its classes itself, leave it out")
        return self


class AugmentConfig(Section):
    """Random changes of the training images, in the order in which they are applied."""

    horizontal_flip: Fraction = Field(0.5, description="Probability of mirroring an image.")
    scale_jitter: Pair | None = Field(
        (0.1, 2.0), description="Range of the random scale relative to the input size, with crop; null for none."
    )

    @model_validator(mode="after")
    def _scales_rise(self) -> AugmentConfig:
        if self.scale_jitter is not None and self.scale_jitter[0] > self.scale_jitter[1]:
            raise ValueError("augment.scale_jitter is a range, the smaller scale first")
        return self


class LossConfig(Section):
    """Constants of the detection loss. Source: EfficientDet reference, hparams."""

    alpha: Fraction = Field(0.25, description="Weight of positives in the focal loss; negatives weigh 1 - alpha.")
    gamma: float = Field(1.5, ge=0, description="Focusing exponent of the focal loss.")
    label_smoothing: Fraction = Field(0.0, description="Smoothing of the class targets.")
    huber_delta: float = Field(0.1, gt=0, description="Where the box loss turns from square to linear, in deltas.")
    box_weight: float = Field(50.0, ge=0, description="Weight of the box loss beside the class loss.")


class OptimConfig(Section):
    """The optimiser and its schedule, linear warm-up and cosine."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="Optimiser.")
    learning_rate: float = Field(
        0.08, gt=0, description="Peak learning rate, for `reference_batch` images per optimiser step."
    )
    reference_batch: int | None = Field(
        64,
        ge=1,
        description="Batch for which the learning rate is given, scaled linearly; null takes the rate as it is.",
    )
    momentum: Fraction = Field(0.9, description="Momentum of SGD, or beta 1 of AdamW.")
    weight_decay: float = Field(4e-5, ge=0, description="Weight decay; never on norms, biases and fusion weights.")
    warmup_epochs: float = Field(1.0, ge=0, description="Length of the linear warm-up in epochs.")
    warmup_start: Fraction = Field(0.1, description="First learning rate as a share of the peak.")
    clip_norm: float | None = Field(
        10.0, gt=0, description="Largest global norm of the gradients; null for no clipping."
    )


class TrainConfig(Section):
    """Length, batches, precision and bookkeeping of the training."""

    epochs: int = Field(300, ge=1, description="Passes over the training set.")
    max_steps: int | None = Field(
        None, ge=1, description="Stop after this many optimiser steps; the schedule ends there too."
    )
    batch_size: int = Field(64, ge=1, description="Images per optimiser step.")
    accumulate: int = Field(1, ge=1, description="Parts in which a batch is computed, to save memory.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic of the network; auto takes bf16 where the hardware is fast at it."
    )
    channels_last: bool = Field(True, description="Memory layout of images and weights.")
    ema_decay: Fraction | None = Field(
        0.9998, description="Decay of the weight average that is evaluated and saved; null for none."
    )
    freeze: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="Modules kept as they are, norms included: backbone, backbone.blocks.0, neck, ...",
    )
    log_every: int = Field(20, ge=1, description="Steps between two lines of the log.")


class EvalConfig(Section):
    """When and how the validation part is evaluated."""

    every_epochs: int = Field(1, ge=0, description="Epochs between evaluations; 0 evaluates after the last epoch only.")
    batch_size: int = Field(8, ge=1, description="Images per forward pass.")


class PostprocessConfig(Section):
    """From logits to detections in evaluation; predict has its own threshold."""

    score_threshold: Fraction = Field(0.001, description="Smallest score of a detection.")
    suppression: Literal["class", "agnostic", "soft"] = Field(
        "class", description="NMS within a class, NMS across classes, or Gaussian soft-NMS within a class."
    )
    iou_threshold: Fraction = Field(0.5, description="Overlap from which hard NMS suppresses the lower score.")
    soft_sigma: float = Field(0.5, gt=0, description="Width of the Gaussian of soft-NMS.")
    max_candidates: int = Field(
        5000, ge=1, description="Best-scoring (anchor, class) pairs of an image that enter NMS."
    )
    max_detections: int = Field(100, ge=1, description="Most detections of an image.")


class Config(Section):
    """The whole recipe."""

    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of the weights, of the order of images and of their augmentation."
    )
    output_dir: Annotated[Path, Field(strict=False)] | None = Field(
        None, description="Folder of the run; null is runs/ and the name of the recipe."
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    postprocess: PostprocessConfig = PostprocessConfig()

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain containers: what is written to config.yaml and stored in checkpoints."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The tree as YAML; `load_config` reads it back to an equal Config."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Config of a YAML file and of `section.key=value` overrides.

    `base: other.yaml` names a parent, relative to the file: mappings merge, everything else replaces.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a key is unknown, given twice or of the wrong type.
    """
    tree = _read_tree(Path(path), ())
    return make_config(tree, overrides, source=str(path))


def make_config(tree: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "config") -> Config:
    """Config of a plain mapping and of `section.key=value` overrides.

    Args:
        tree: the mapping, as `Config.to_dict` gives it or as a YAML file holds it.
        overrides: changes to it.
        source: what the mapping is called in messages.

    Raises:
        ConfigError: a key is unknown or of the wrong type; the message lists all such keys, one a line.
    """
    given: set[str] = set()
    for override in overrides:
        key, change = _parse_override(override)
        tree = _merge(tree, change)
        given.update([key, *_dotted_keys(change)])
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            parts = [str(part) for part in item["loc"]]
            key = ".".join(part for part in parts if not part.startswith(("function-", "tuple[", "constrained-")))
            place = "command line" if given & {key, ".".join(key.split(".")[:2])} else source
            if item["type"] == "extra_forbidden":
                lines.append(f"{place}: unknown key '{key}'{_suggestion(key)}")
            elif item["type"] == "value_error":  # said by a validator of ours, in whole
                lines.append(f"{place}: {item['msg'].removeprefix('Value error, ')}")
            else:
                lines.append(f"{place}: '{key}' is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}")
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _parse_override(override: str) -> tuple[str, dict[str, Any]]:
    """Dotted key of `section.key=value`, and the change as a nested mapping."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"command line: expected section.key=value, got '{override}'")
    try:
        change = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise ConfigError(f"command line: the value of '{override}' is not valid YAML") from None
    for part in reversed(key.split(".")):
        change = {part: change}
    return key, change


def _suggestion(key: str) -> str:
    known = list(_dotted_keys(Config().model_dump()))
    near = [candidate for candidate in known if candidate.split(".")[-1] == key.split(".")[-1]]  # in another section
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(repr(candidate) for candidate in near)}?"
    return f"; sections are {', '.join(Config.model_fields)}" if "." not in key else ""


def _dotted_keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted_keys(value, f"{prefix}{key}.")


def _merge(parent: Any, child: Any) -> Any:
    if not isinstance(parent, Mapping) or not isinstance(child, Mapping):
        return child
    return {**parent, **{key: _merge(parent.get(key), value) for key, value in child.items()}}


def _read_tree(path: Path, seen: tuple[Path, ...]) -> Mapping[str, Any]:
    """The mapping of one YAML file with its parents merged in; `seen` are the files that led here."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: 'base' leads back to this file; a recipe cannot be its own parent")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(f"{path}: no such recipe; expected a YAML file such as configs/d0.yaml") from None
    except (UnicodeDecodeError, PermissionError) as error:
        raise ConfigError(f"{path}: cannot be read as a YAML file: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections such as 'model:', got a {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: 'base' is {base!r}; expected the name of one YAML file")
    merged: Mapping[str, Any] = _merge(_read_tree(path.parent / base, (*seen, path.resolve())), tree)
    return merged


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and reads 1e-3 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _add_exponent_floats() -> None:
    import re

    pattern = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
    _Loader.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+0123456789"))


_add_exponent_floats()
