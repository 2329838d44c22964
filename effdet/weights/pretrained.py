"""What a user means by a weights name: a file, one of the zoo, 'imagenet' or 'coco'; and what is known of it.

Nothing is put into a model here; that is told in `sources.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from effdet.errors import WeightsError
from effdet.models.anchors import anchors_per_cell
from effdet.models.efficientdet import EFFICIENTDETS, Aspects, EfficientDetSpec
from effdet.models.efficientnet import EFFICIENTNETS, EfficientNetSpec
from effdet.types import Padding
from effdet.weights.checkpoint import card_in, is_checkpoint, read_tensors
from effdet.weights.names import classifier_system, detector_system
from effdet.weights.progress import fetch
from effdet.weights.zoo import ZooEntry, default_entry, entry_of_file, find_entry

Spec = EfficientDetSpec | EfficientNetSpec

COCO_SLOTS = 90  # category ids 1 to 90, of which 80 are used
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Origin:
    """Trained weights, read.

    Attributes:
        source: what they are called in messages.
        state: tensors under the names of the system that wrote them.
        spec: the network that they are of, with the input that they were trained on; None for a foreign file.
        class_names: name of each row of their head, empty where that is not known.
        category_ids: the data set's own id of each.
    """

    source: str
    state: Mapping[str, Tensor]
    spec: Spec | None
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """Rows of their head, per anchor; 0 for a trunk."""
        if self.spec is None:
            return _rows(self.state)
        return len(self.class_names) or _rows(self.state, _anchors(self.spec))

    @property
    def is_detector(self) -> bool:
        """Whether they are a detector's, and not a classifier's."""
        return detector_system(self.state) is not None


def read_origin(weights: str, spec: Spec) -> Origin:
    """The weights that a user calls `weights` for a network of `spec`.

    Args:
        weights: the path of a file; a name of the zoo, or of a network for its default weights; 'imagenet' for those of
            the network or of its backbone; 'coco' for those of the detector.
        spec: the network that they are wanted for.

    Raises:
        WeightsError: there are no such weights, or they cannot be had or read.
    """
    if weights in ("imagenet", "coco"):
        entry = _default(weights, spec)
    elif is_file_name(weights):
        return read_file(weights)
    else:
        entry = find_entry(weights)
    return read_entry(entry, fetch(entry))


def read_file(path: str | Path) -> Origin:
    """The weights of a file, ours or another system's; a file of the zoo is known by its name.

    Raises:
        WeightsError: there is no such file, or it holds no weights of a known system.
    """
    entry = entry_of_file(Path(path).name)
    if entry is not None:
        return read_entry(entry, Path(path).expanduser())
    content, source = read_tensors(path), str(path)
    if is_checkpoint(content):
        card = card_in(content, path)
        return Origin(source, content["model"], card.spec, card.class_names, card.category_ids)
    state = _state_in(content, source)
    return Origin(source, state, None, *_classes_of(_rows(state)))


def read_entry(entry: ZooEntry, file: Path) -> Origin:
    """The weights of an entry of the zoo, from its file.

    Raises:
        WeightsError: the file holds no weights of a known system.
    """
    spec, state = spec_of_entry(entry), _state_in(read_tensors(file), str(file))
    if (detector_system(state) is not None) != entry.is_detector:
        theirs, ours = ("a classifier", "a detector") if entry.is_detector else ("a detector", "a classifier")
        raise WeightsError(f"{file}: holds {theirs}, but {entry.name} is {ours}; name what the file holds")
    rows = _rows(state, _anchors(spec))
    if rows == 0:
        raise WeightsError(f"{file}: holds a trunk without a head; expected all weights of {entry.architecture}")
    return Origin(entry.name, state, spec, *_classes_of(rows))


def spec_of_entry(entry: ZooEntry) -> Spec:
    """The network of an entry with the input that its weights were trained on."""
    size = (entry.image_size, entry.image_size)
    if entry.is_detector:
        detector = EFFICIENTDETS[entry.architecture]
        assert isinstance(detector.backbone, EfficientNetSpec)
        assert entry.anchor_aspects is not None
        trunk = replace(
            detector.backbone, padding=entry.padding, norm_eps=entry.norm_eps, mean=entry.mean, std=entry.std
        )
        return replace(
            detector,
            backbone=trunk,
            image_size=size,
            padding=entry.padding,
            anchor_aspects=entry.anchor_aspects,
            black_padding=entry.black_padding,
        )
    return replace(
        EFFICIENTNETS[entry.architecture],
        image_size=size,
        padding=entry.padding,
        norm_eps=entry.norm_eps,
        mean=entry.mean,
        std=entry.std,
        crop=entry.crop,
        interpolation=entry.interpolation,
    )


def adapted(
    spec: Spec,
    trained: Spec | None,
    padding: Padding | None,
    anchor_scale: float | None,
    anchor_aspects: Aspects | None,
) -> Spec:
    """A network that treats its input as the weights' network does, so that they mean the same in it.

    Args:
        spec: the network to be built.
        trained: the network that the weights are of; None where that is not known.
        padding: what the user insists on.
        anchor_scale: what the user insists on.
        anchor_aspects: what the user insists on.
    """
    if trained is None:
        return spec
    if isinstance(spec, EfficientNetSpec):
        spec = _adapted_trunk(spec, trunk_spec(trained), padding)
        if isinstance(trained, EfficientNetSpec):
            spec = replace(spec, crop=trained.crop, interpolation=trained.interpolation)
        return spec
    if isinstance(spec.backbone, EfficientNetSpec):
        spec = replace(spec, backbone=_adapted_trunk(spec.backbone, trunk_spec(trained), padding))
    elif isinstance(trained, EfficientDetSpec) and trained.backbone.name == spec.backbone.name:
        spec = replace(spec, backbone=replace(spec.backbone, mean=trained.backbone.mean, std=trained.backbone.std))
    if isinstance(trained, EfficientDetSpec):
        spec = replace(
            spec,
            padding=padding or trained.padding,
            anchor_scale=anchor_scale or trained.anchor_scale,
            anchor_aspects=anchor_aspects or trained.anchor_aspects,
            black_padding=trained.black_padding,
        )
    return spec


def _adapted_trunk(
    spec: EfficientNetSpec, trained: EfficientNetSpec | None, padding: Padding | None
) -> EfficientNetSpec:
    if trained is None:
        return spec
    mean, std = trained.mean, trained.std
    if spec.in_channels != trained.in_channels:
        mean, std = ((sum(values) / len(values),) * spec.in_channels for values in (mean, std))
    return replace(spec, padding=padding or trained.padding, norm_eps=trained.norm_eps, mean=mean, std=std)


def trunk_spec(spec: Spec) -> EfficientNetSpec | None:
    """The backbone of a detector, or the classifier itself; None for a backbone of timm."""
    trunk = spec.backbone if isinstance(spec, EfficientDetSpec) else spec
    return trunk if isinstance(trunk, EfficientNetSpec) else None


def _default(weights: str, spec: Spec) -> ZooEntry:
    detector = weights == "coco"
    if detector and isinstance(spec, EfficientNetSpec):
        raise WeightsError(f"weights 'coco' are a detector's, but {spec.name} is a classifier; 'imagenet' fits it")
    name = spec.name if detector or isinstance(spec, EfficientNetSpec) else spec.backbone.name
    entry = default_entry(name, detector)
    if entry is None:
        raise WeightsError(
            f"no public '{weights}' weights of {name} are known; give the path of a weights file, or null"
        )
    return entry


def is_file_name(weights: str) -> bool:
    """Whether a user means a file: one that exists, the folder of one, or what looks like the path of one."""
    path = Path(weights).expanduser()
    return (
        path.is_file()
        or ("/" in weights and path.is_dir())
        or path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".tar")
        or weights[:1] in (".", "/", "~")
    )


def _state_in(content: Mapping[str, Any], source: str) -> Mapping[str, Tensor]:
    """The state dict inside a file of another system, averaged weights first."""
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
    if detector_system(content) is None and classifier_system(content) is None:
        raise WeightsError(
            f"{source}: weights of an unknown system (first name '{next(iter(content))}'); expected a checkpoint of "
            "this package, or weights of effdet, zylo117, timm, torchvision or efficientnet_pytorch"
        )
    return content


def _rows(state: Mapping[str, Tensor], anchors: int = 9) -> int:
    """Classes of a state dict, 0 for a trunk; a detector has a row for each of the anchors of a cell."""
    system = detector_system(state)
    if system is not None:
        return len(state[system.telltale]) // anchors
    head = next((name for name in ("classifier.weight", "classifier.1.weight", "_fc.weight") if name in state), None)
    return 0 if head is None else len(state[head])


def _anchors(spec: Spec) -> int:
    """Rows of the head for each class."""
    return anchors_per_cell(spec.anchor_aspects) if isinstance(spec, EfficientDetSpec) else 1


def _classes_of(rows: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and ids of the rows of a public head: COCO's 90 slots, ImageNet's 1000 classes; else none are known."""
    if rows == COCO_SLOTS:
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

        names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]  # the first is the background
        return tuple(names), tuple(range(1, COCO_SLOTS + 1))
    if rows == IMAGENET_CLASSES:
        from torchvision.models import EfficientNet_B0_Weights

        return tuple(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]), tuple(range(IMAGENET_CLASSES))
    return (), ()


def used_labels(class_names: tuple[str, ...]) -> list[int]:
    """Labels of the rows that stand for a class; COCO's head has slots that none was ever given."""
    return [label for label, name in enumerate(class_names) if name != "N/A"]
