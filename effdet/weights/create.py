"""Models with trained weights: of the zoo, of our own files or of other systems; the whole model or its backbone.

What a name of weights means is in `pretrained.py`, how a load is refused in `loading.py`, the names of other systems in
`names.py`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.config import ClassifierConfig, DetectorConfig, ModelConfig
from effdet.errors import ConfigError, WeightsError
from effdet.files import full_path
from effdet.models import (
    EFFICIENTDETS,
    EFFICIENTNETS,
    EfficientDet,
    EfficientNet,
    ModelOptions,
    ModelSpec,
    make_spec,
)
from effdet.models.options import find_spec
from effdet.text import reason_of
from effdet.types import Task
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, read_tensors
from effdet.weights.class_layer import carry_rows, choose_rows, class_layer
from effdet.weights.loading import LoadReport, load_state, some_of
from effdet.weights.names import translated, translated_backbone
from effdet.weights.pretrained import (
    DEFAULT_NUM_CLASSES,
    PretrainedWeights,
    is_file_name,
    make_adapted_spec,
    read_entry,
    read_pretrained,
    used_labels,
)
from effdet.weights.progress import fetch
from effdet.weights.timm_files import read_timm_file
from effdet.weights.zoo import find_entry

# Prefixes of names in a model: of its backbone, and of what it has besides the backbone.
BACKBONE: dict[Task, str] = {"detection": "backbone.", "classification": ""}
HEADS: dict[Task, tuple[str, ...]] = {
    "detection": ("neck.", "class_head.", "box_head."),
    "classification": ("conv_head.", "bn2.", "classifier."),
}
UNUSED = ("bifpn.",)  # fusion weights in files of zylo117's largest detectors, which do not use them

# Libraries that read their weights files themselves: from a backbone's spec and a file to the backbone's weights.
LIBRARY_FILES: dict[str, Callable[[Any, str], dict[str, Tensor]]] = {"timm": read_timm_file}

log = logging.getLogger("effdet")


def create_model(
    model: str | ModelOptions,
    num_classes: int | None = None,
    weights: str | None = None,
    *,
    backbone_weights: str | None = None,
    class_names: Sequence[str] = (),
    keep_known_classes: bool = False,
) -> EfficientDet | EfficientNet:
    """A detector or classifier, with trained weights if asked for, in training mode.

        create_model("efficientdet_d2", weights="coco")
        create_model(ModelOptions("efficientnetv2_s", in_channels=4), num_classes=10)

    A report of the weights that were loaded, initialised and unused goes to the logger 'effdet': as a warning if any
    were initialised or unused, which Python prints even if logging is not configured, else at level INFO.

    Args:
        model: a name of `list_models()`, or options.
        num_classes: number K of classes. By default as many as the weights have (for COCO the 80 that are used), and
            without weights COCO's 90 category ids or ImageNet's 1000 classes.
        weights: 'coco' or 'imagenet', a name of `effdet weights list`, or the path of a weights file. A classifier's
            weights initialise the backbone of a detector.
        backbone_weights: the same, but only the backbone is loaded, from a detector or from a classifier.
        class_names: names of the K classes, for `keep_known_classes`.
        keep_known_classes: keeps the outputs of classes that exist in both models, by name.

    Raises:
        ConfigError: there is no model of that name, or an argument does not make sense.
        WeightsError: the weights cannot be read or downloaded, or do not fit.
    """
    options = ModelOptions(model) if isinstance(model, str) else model
    network, report = start_model(
        options,
        num_classes,
        weights,
        backbone_weights,
        class_names=class_names,
        keep_known_classes=keep_known_classes,
    )
    if report is not None:
        log.log(logging.INFO if report.complete else logging.WARNING, "%s", "\n".join(report.lines()))
    return network


def options_of(config: ModelConfig) -> ModelOptions:
    """The options in a recipe's section `model`.

    Raises:
        ConfigError: the recipe's task has no model of that name.
    """
    tables: dict[type[ModelConfig], Mapping[str, ModelSpec]] = {
        DetectorConfig: EFFICIENTDETS,
        ClassifierConfig: EFFICIENTNETS,
    }
    find_spec(tables[type(config)], config.name)
    names = {field.name for field in fields(ModelOptions)}
    return ModelOptions(**{key: value for key, value in dict(config).items() if key in names})


def start_model(
    options: ModelOptions,
    num_classes: int | None = None,
    weights: str | None = None,
    backbone_weights: str | None = None,
    *,
    class_names: Sequence[str] = (),
    keep_known_classes: bool = False,
) -> tuple[EfficientDet | EfficientNet, LoadReport | None]:
    """A model with its first weights, in training mode, and the report of the load if weights were loaded.

    Its input, padding and anchors are those that the weights were trained with, except for padding and anchors in
    `options`. The arguments are those of `create_model`.

    Raises:
        ConfigError: there is no such model, or the arguments contradict each other.
        WeightsError: the weights cannot be read or downloaded, or do not fit.
    """
    spec = make_spec(options)
    _check_arguments(num_classes, weights, backbone_weights, class_names, keep_known_classes)
    num_classes = num_classes or len(class_names) or None
    default = DEFAULT_NUM_CLASSES[spec.task]
    named = backbone_weights if weights is None else weights
    if named is None:
        return spec.build(num_classes or default), None
    library = spec.backbone.library
    if library is not None and not _is_own_file(named):
        model = spec.build(num_classes or default)
        state = LIBRARY_FILES[library](spec.backbone, named)
        return model, load_state(model, _prefixed(state, "backbone."), named, fresh=HEADS[spec.task])
    with _odd_shapes_refused(named):
        pretrained = read_pretrained(named, spec)
        spec = make_adapted_spec(options, pretrained.spec, backbone_only=weights is None)
        chosen = None
        if num_classes is None and weights is not None and pretrained.task == spec.task:
            chosen = used_labels(pretrained.class_names) or None
            num_classes = len(chosen) if chosen else pretrained.num_classes
        model = spec.build(num_classes or default)
        if weights is None:
            return model, _load_backbone(model, pretrained)
        return model, _load_whole(model, pretrained, chosen, class_names, keep_known_classes)


@contextlib.contextmanager
def _odd_shapes_refused(source: str) -> Iterator[None]:
    """A context in which tensors of shapes that no such model has are an error of the weights."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        raise WeightsError(
            f"{source}: the weights have shapes that no model of this package has ({reason_of(error)}); check the file"
        ) from None


def _check_arguments(
    num_classes: int | None,
    weights: str | None,
    backbone_weights: str | None,
    class_names: Sequence[str],
    keep_known_classes: bool,
) -> None:
    """Refuses arguments of `create_model` that contradict each other."""
    if num_classes is not None and num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}; expected at least 1")
    if weights is not None and backbone_weights is not None:
        raise ConfigError("weights and backbone_weights are both given; give the one that the training starts from")
    if class_names and len(class_names) != (num_classes or len(class_names)):
        raise ConfigError(f"{len(class_names)} class names are given for {num_classes} classes; expected one for each")
    if keep_known_classes and weights is None:
        raise ConfigError(
            "keep_known_classes keeps outputs of other weights, but no weights with a head are given; set weights"
        )


def named_checkpoint(name: str, file: Path | None = None) -> Checkpoint:
    """A model of the zoo, in evaluation mode, with its card; with COCO's 80 classes.

    Args:
        name: a name of the zoo, or of a model for its default weights.
        file: its weights file; by default the file in the cache, downloaded if it is not there.

    Raises:
        WeightsError: there is no such entry, or its file cannot be read or downloaded, or does not fit.
    """
    entry = find_entry(name)
    pretrained = read_entry(entry, fetch(entry) if file is None else file)
    assert pretrained.spec is not None
    names = pretrained.class_names or tuple(f"class {label}" for label in range(pretrained.num_classes))
    ids = pretrained.category_ids or tuple(range(pretrained.num_classes))
    labels = used_labels(names)
    model = pretrained.spec.build(len(labels))
    _load_whole(model, pretrained, labels, (), keep_known_classes=False)
    card = ModelCard(pretrained.spec, tuple(names[label] for label in labels), tuple(ids[label] for label in labels))
    return Checkpoint(model.eval(), card, {})


def open_checkpoint(weights: str | Path) -> Checkpoint:
    """Model and card of one of our checkpoints, or of a name of the zoo.

    Raises:
        WeightsError: there is no such file or name, or the file is damaged.
    """
    if is_file_name(str(weights)):
        return load_checkpoint(weights)
    return named_checkpoint(str(weights))


def _load_whole(
    model: EfficientDet | EfficientNet,
    pretrained: PretrainedWeights,
    chosen: Sequence[int] | None,
    class_names: Sequence[str],
    keep_known_classes: bool,
) -> LoadReport:
    """Loads everything that fits: from weights of the same task the whole model, else the backbone."""
    task = model.spec.task
    if pretrained.task != task:
        if task == "classification":
            raise WeightsError(
                f"{pretrained.source}: these are a detector's weights, but the model is a classifier; load only their "
                "backbone with backbone_weights"
            )
        if keep_known_classes:
            raise ConfigError(
                f"keep_known_classes: {pretrained.source} is a classifier and has no head for a detector; leave it out"
            )
        return _load_backbone(model, pretrained)
    state = _with_stem(translated(pretrained.state, model.spec, pretrained.source), model)
    layer = class_layer(state)
    fresh: list[str] = []
    head = ""
    if layer is None:  # a classifier's backbone without a head
        fresh = list(HEADS[task])
    elif chosen is not None:
        state = choose_rows(state, pretrained.num_classes, chosen)
    elif keep_known_classes:
        state, head = _kept_rows(state, pretrained, model, class_names)
    elif model.num_classes != pretrained.num_classes or not _same_classes(class_names, pretrained.class_names):
        state = {name: value for name, value in state.items() if not name.startswith(f"{layer}.")}
        fresh = [f"{layer}."]
        head = f"the head had {pretrained.num_classes} classes and now has {model.num_classes} of its own"
    return replace(_load(model, state, pretrained, fresh, UNUSED), head=head)


def _load_backbone(model: EfficientDet | EfficientNet, pretrained: PretrainedWeights) -> LoadReport:
    """Loads the backbone of a detector, or all of a classifier except its head."""
    task, unused = model.spec.task, HEADS["classification"]
    state = translated_backbone(pretrained.state, model.spec.backbone)
    if task == "classification":  # a head under these names would be loaded
        state = {name: value for name, value in state.items() if not name.startswith(unused)}
    state = _with_stem(_prefixed(state, BACKBONE[task]), model)
    return _load(model, state, pretrained, HEADS[task], [BACKBONE[task] + name for name in unused])


def _prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def _load(
    model: EfficientDet | EfficientNet,
    state: Mapping[str, Tensor],
    pretrained: PretrainedWeights,
    fresh: Sequence[str],
    unused: Sequence[str],
) -> LoadReport:
    try:
        return load_state(model, state, pretrained.source, fresh=fresh, unused=unused)
    except WeightsError as error:
        near = nearest_networks(pretrained)
        hint = f"; the nearest models are {', '.join(near)}" if near else ""
        raise WeightsError(f"{error}{hint}") from None


def _kept_rows(
    state: Mapping[str, Tensor],
    pretrained: PretrainedWeights,
    model: EfficientDet | EfficientNet,
    class_names: Sequence[str],
) -> tuple[dict[str, Tensor], str]:
    """The state with the rows of classes that exist in both models, and a description for the report."""
    if not class_names or not pretrained.class_names:
        whose = "the model's" if not class_names else f"those of {pretrained.source}"
        raise ConfigError(f"keep_known_classes compares class names, but {whose} are not known")
    carried, kept = carry_rows(state, pretrained.class_names, model.state_dict(), class_names)
    carried_names = set(kept)
    others = [name for name in class_names if name not in carried_names]
    rows = f"rows kept of {len(kept)} classes" + (f" ({some_of(kept)})" if kept else "")
    return carried, rows + (f", new for {len(others)} ({some_of(others)})" if others else "")


def _same_classes(own: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether as many rows mean the same classes, as far as names are known."""
    return not own or not theirs or tuple(own) == tuple(theirs)


def _with_stem(state: dict[str, Tensor], model: EfficientDet | EfficientNet) -> dict[str, Tensor]:
    """The state with the first convolution adapted from RGB to the channels of the model's images.

    The kernels of red, green and blue are repeated over the channels and scaled by 3 over their number. One channel
    gets the sum of the three, so that a grey image gives what it gave as RGB.
    """
    channels = model.spec.in_channels
    name, own = next((name, value) for name, value in model.state_dict().items() if value.ndim == 4)
    if name not in state or channels == 3 or own.shape[1] != channels or state[name].shape[1] != 3:
        return state
    rgb = state[name]
    if channels == 1:
        return {**state, name: rgb.sum(dim=1, keepdim=True)}
    repeated = rgb.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return {**state, name: repeated * (3 / channels)}


def _is_own_file(weights: str) -> bool:
    path = full_path(weights)
    return path.is_file() and path.suffix != ".safetensors" and is_checkpoint(read_tensors(path))


def nearest_networks(pretrained: PretrainedWeights) -> list[str]:
    """Names of up to three models that have the most tensors in common with some weights, the nearest first."""
    tables: dict[Task, Mapping[str, ModelSpec]] = {"detection": EFFICIENTDETS, "classification": EFFICIENTNETS}
    fractions = {}
    for name, spec in tables[pretrained.task].items():
        with torch.device("meta"):
            own = spec.build(1).state_dict()
        state = translated(pretrained.state, spec, pretrained.source)
        common = sum(key in own and own[key].shape == value.shape for key, value in state.items())
        fractions[name] = common / max(len(own), len(state))
    best = sorted(fractions, key=lambda name: -fractions[name])[:3]
    return [name for name in best if fractions[name] > 0.5]
