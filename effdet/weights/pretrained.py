"""Pretrained weights by name: a file, a name of the zoo, 'imagenet' or 'coco'; and what is known about them.

Nothing is loaded into a model here; that is in `create.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from effdet.errors import WeightsError
from effdet.files import full_path
from effdet.models import EFFICIENTDETS, EFFICIENTNETS, ModelOptions, ModelSpec, make_spec
from effdet.models.anchors import anchors_per_cell
from effdet.types import Task
from effdet.weights.checkpoint import card_in, is_checkpoint, read_tensors
from effdet.weights.names import find_system
from effdet.weights.progress import fetch
from effdet.weights.zoo import default_entry, entry_of_file, find_entry
from effdet.weights.zoo_entry import ZooEntry

COCO_CATEGORIES = 90  # category ids 1 to 90, of which 80 are used
IMAGENET_CLASSES = 1000
# Classes of a model if nobody says how many.
DEFAULT_NUM_CLASSES: dict[Task, int] = {"detection": COCO_CATEGORIES, "classification": IMAGENET_CLASSES}
TASK_OF_DATA: dict[str, Task] = {"coco": "detection", "imagenet": "classification"}  # of the weights called so


@dataclass(frozen=True)
class PretrainedWeights:
    """Trained weights and what is known about them.

    Attributes:
        source: their name in messages.
        state: tensors under the names of the system that wrote them.
        spec: the model that they belong to, with the input that they were trained on; None for a file of another
            system.
        class_names: name of each row of the head; empty if unknown.
        category_ids: the data set's own id of each row.
    """

    source: str
    state: Mapping[str, Tensor]
    spec: ModelSpec | None
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """Rows of the head, per anchor; 0 for a backbone without a head."""
        if self.spec is None:
            return _rows(self.state)
        return len(self.class_names) or _rows(self.state, _rows_per_class(self.spec))

    @property
    def task(self) -> Task:
        """Whether they are of a detector or of a classifier."""
        return _task_of(self.state)


def read_pretrained(weights: str, spec: ModelSpec) -> PretrainedWeights:
    """Pretrained weights by name, for a model of `spec`.

    Args:
        weights: the path of a file; a name of the zoo; the name of a model for its default weights; 'imagenet' for the
            weights of the classifier or of the detector's backbone; 'coco' for the weights of the detector.
        spec: the model that they are for.

    Raises:
        WeightsError: there are no such weights, or they cannot be downloaded or read.
    """
    if weights in TASK_OF_DATA:
        entry = _default(weights, spec)
    elif is_file_name(weights):
        return read_file(weights)
    else:
        entry = find_entry(weights)
    return read_entry(entry, fetch(entry))


def read_file(path: str | Path) -> PretrainedWeights:
    """The weights in a file, ours or another system's; a file of the zoo is recognised by its name.

    Raises:
        WeightsError: there is no such file, or it holds no weights from a known system.
    """
    entry = entry_of_file(Path(path).name)
    if entry is not None:
        return read_entry(entry, full_path(path))
    content, source = read_tensors(path), str(path)
    if is_checkpoint(content):
        card = card_in(content, path)
        return PretrainedWeights(source, content["model"], card.spec, card.class_names, card.category_ids)
    state = _state_in(content, source)
    return PretrainedWeights(source, state, None, *_classes_of(_rows(state)))


def read_entry(entry: ZooEntry, file: Path) -> PretrainedWeights:
    """The weights of an entry of the zoo, from its file.

    Raises:
        WeightsError: the file holds no weights from a known system, or weights of another task.
    """
    spec, state = spec_of_entry(entry), _state_in(read_tensors(file), str(file))
    kind = {"detection": "a detector", "classification": "a classifier"}
    if _task_of(state) != entry.task:
        raise WeightsError(
            f"{file}: holds {kind[_task_of(state)]}, but {entry.name} is {kind[entry.task]}; name what the file holds"
        )
    rows = _rows(state, _rows_per_class(spec))
    if rows == 0:
        raise WeightsError(f"{file}: holds a backbone without a head; expected all weights of {entry.architecture}")
    return PretrainedWeights(entry.name, state, spec, *_classes_of(rows))


def spec_of_entry(entry: ZooEntry) -> ModelSpec:
    """The model of an entry, with the input that its weights were trained on."""
    size = (entry.image_size, entry.image_size)
    detector = EFFICIENTDETS.get(entry.architecture)
    trained = replace(
        EFFICIENTNETS[entry.architecture if detector is None else detector.backbone.name],
        padding=entry.padding,
        norm_eps=entry.norm_eps,
        mean=entry.mean,
        std=entry.std,
    )
    if detector is None:
        return replace(trained, image_size=size, crop=entry.crop, interpolation=entry.interpolation)
    return replace(
        detector,
        backbone=detector.backbone.adapted_to(trained, None),
        image_size=size,
        padding=entry.padding,
        anchor_aspects=entry.anchor_aspects or detector.anchor_aspects,
        black_padding=entry.black_padding,
        antialias=entry.antialias,
    )


def make_adapted_spec(options: ModelOptions, trained: ModelSpec | None, *, backbone_only: bool = False) -> ModelSpec:
    """The spec of some options with the input, padding and anchors that weights were trained with.

    Args:
        options: the model to build; padding, anchors, antialiasing and letterbox that are set here win.
        trained: the model that the weights belong to; None if unknown.
        backbone_only: whether only the backbone of the weights is used.

    Raises:
        ConfigError: see `make_spec`.
    """
    spec = make_spec(options)
    if trained is None:
        return spec
    if spec.task == "classification":
        spec = spec.adapted_to(trained.backbone, options.padding)
        if trained.task == "classification":
            spec = replace(spec, crop=trained.crop, interpolation=trained.interpolation)
        return spec
    spec = replace(spec, backbone=spec.backbone.adapted_to(trained.backbone, options.padding))
    if trained.task == "classification" or backbone_only:
        return spec
    return replace(
        spec,
        padding=options.padding or trained.padding,
        anchor_scale=options.anchor_scale or trained.anchor_scale,
        anchor_aspects=options.anchor_aspects or trained.anchor_aspects,
        black_padding=trained.black_padding,
        antialias=trained.antialias if options.antialias is None else options.antialias,
        letterbox=options.letterbox or trained.letterbox,
    )


def fetch_default(weights: str, spec: ModelSpec) -> Path:
    """The file of the 'coco' or 'imagenet' weights of a model, downloaded if need be.

    Raises:
        WeightsError: there are none, or they cannot be downloaded.
    """
    return fetch(_default(weights, spec))


def _default(weights: str, spec: ModelSpec) -> ZooEntry:
    task = TASK_OF_DATA[weights]
    if task == "detection" and spec.task == "classification":
        raise WeightsError(f"weights 'coco' are a detector's, but {spec.name} is a classifier; 'imagenet' fits it")
    name = spec.name if task == spec.task else spec.backbone.name
    entry = default_entry(name, task)
    if entry is None:
        raise WeightsError(
            f"no public '{weights}' weights of {name} are known; give the path of a weights file, or null"
        )
    return entry


def is_file_name(weights: str) -> bool:
    """Whether a name means a file: an existing file or folder, or a text that looks like a path."""
    path = full_path(weights)
    return (
        path.is_file()
        or ("/" in weights and path.is_dir())
        or path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".tar")
        or weights[:1] in (".", "/", "~")
    )


def _state_in(content: Mapping[str, Any], source: str) -> Mapping[str, Tensor]:
    """The state dict inside a file of another system; the EMA of the weights is preferred."""
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    content = {key: value for key, value in content.items() if not str(key).endswith("anchors.boxes")}
    if not content or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        raise WeightsError(f"{source}: holds no state dict; expected names with a tensor each")
    for prefix in ("module.", "model."):  # wrappers of other systems
        if all(key.startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    if find_system(content, "detection") is None and find_system(content, "classification") is None:
        raise WeightsError(
            f"{source}: weights from an unknown system (first name '{next(iter(content))}'); expected a checkpoint of "
            "this package, or weights of effdet, zylo117, timm, torchvision or efficientnet_pytorch"
        )
    return content


def _task_of(state: Mapping[str, Tensor]) -> Task:
    return "classification" if find_system(state, "detection") is None else "detection"


def _rows(state: Mapping[str, Tensor], per_class: int = 9) -> int:
    """Classes of a state dict, 0 without a head; a detector has a row for each class and anchor of a cell."""
    system = find_system(state, "detection")
    if system is not None:
        return len(state[system.telltale]) // per_class
    head = next((name for name in ("classifier.weight", "classifier.1.weight", "_fc.weight") if name in state), None)
    return 0 if head is None else len(state[head])


def _rows_per_class(spec: ModelSpec) -> int:
    return anchors_per_cell(spec.anchor_aspects) if spec.task == "detection" else 1


def _classes_of(rows: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and ids of the rows of a public head: COCO's 90 categories, ImageNet's 1000 classes; else unknown."""
    if rows == COCO_CATEGORIES:
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

        names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]  # the first is the background
        return tuple(names), tuple(range(1, COCO_CATEGORIES + 1))
    if rows == IMAGENET_CLASSES:
        from torchvision.models import EfficientNet_B0_Weights

        return tuple(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]), tuple(range(IMAGENET_CLASSES))
    return (), ()


def used_labels(class_names: tuple[str, ...]) -> list[int]:
    """Labels of the rows that stand for a class; 10 of COCO's 90 category ids are not used."""
    return [label for label, name in enumerate(class_names) if name != "N/A"]
