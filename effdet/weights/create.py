"""Models with trained weights: of the zoo, of a file of ours or of another system, whole or only for the backbone.

What a name of weights stands for is told in `origin.py`, how a load is refused in `loading.py`, how names of other
systems read in `names.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from effdet.config import ClassifierConfig, DetectorConfig, ModelConfig
from effdet.errors import ConfigError, WeightsError
from effdet.models.efficientdet import EFFICIENTDETS, Aspects, EfficientDet, EfficientDetSpec, efficientdet_spec
from effdet.models.efficientnet import EFFICIENTNETS, EfficientNet, EfficientNetSpec, efficientnet_spec, find_spec
from effdet.models.timm_backbone import TimmBackbone, TimmSpec, make_timm_network
from effdet.types import Padding
from effdet.weights.checkpoint import Checkpoint, ModelCard, is_checkpoint, load_checkpoint, read_tensors
from effdet.weights.class_layer import carry_rows, choose_rows, class_layer
from effdet.weights.loading import LoadReport, load_state, some_of
from effdet.weights.names import translated, trunk_of
from effdet.weights.pretrained import (
    COCO_SLOTS,
    IMAGENET_CLASSES,
    Origin,
    Spec,
    adapted,
    is_file_name,
    read_entry,
    read_origin,
    trunk_spec,
    used_labels,
)
from effdet.weights.progress import fetch
from effdet.weights.zoo import find_entry

CLASSIFIER_HEAD = ("conv_head.", "bn2.", "classifier.")  # what a trunk has no use for
UNUSED = ("bifpn.",)  # fusion weights that zylo117's largest detectors carry

log = logging.getLogger("effdet")


def create_model(
    name: str,
    num_classes: int | None = None,
    weights: str | None = None,
    *,
    backbone_weights: str | None = None,
    class_names: Sequence[str] = (),
    keep_known_classes: bool = False,
    image_size: tuple[int, int] | None = None,
    backbone: str | None = None,
    phi: float | None = None,
    width: float | None = None,
    depth: float | None = None,
    in_channels: int | None = None,
    padding: Padding | None = None,
) -> EfficientDet | EfficientNet:
    """A detector or classifier by name, with trained weights where asked for, in training mode.

    Args:
        name: a name of `list_models()`.
        num_classes: classes K; without it as many as the weights have (of COCO the 80 that are used), and without
            weights COCO's 90 label slots or ImageNet's 1000 classes.
        weights: 'coco' or 'imagenet', a name of `effdet weights list`, or the path of a weights file. A classifier's
            weights start the backbone of a detector.
        backbone_weights: the same, of which the backbone alone is taken, from a detector as from a classifier.
        class_names: names of the K classes, for `keep_known_classes`.
        keep_known_classes: whether the head starts with the rows of those classes whose names the weights know.
        image_size: (H, W) of the input in pixels; without it the network's own.
        backbone: of a detector, another one: a classifier's name or 'timm/NAME'.
        phi: compound coefficient, see `efficientdet_spec` and `efficientnet_spec`.
        width: factor of the backbone's channels.
        depth: factor of the backbone's repeats.
        in_channels: channels of the images; the first layer is adapted from RGB weights.
        padding: 'same' as in TensorFlow, or 'symmetric'; without it as the weights were trained.

    Raises:
        ConfigError: there is no model of that name, or an argument makes no sense.
        WeightsError: the weights cannot be had or do not fit.
    """
    find_spec({**EFFICIENTDETS, **EFFICIENTNETS}, name)
    if num_classes is not None and num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}; expected at least 1")
    spec: Spec
    if name in EFFICIENTNETS:
        if backbone is not None:
            raise ConfigError(f"{name} is a classifier and has no other backbone; name it itself: '{backbone}'")
        spec = efficientnet_spec(
            name,
            phi=phi,
            width=width,
            depth=depth,
            image_size=image_size,
            padding=padding,
            in_channels=in_channels,
        )
    else:
        spec = efficientdet_spec(
            name,
            backbone=backbone,
            phi=phi,
            width=width,
            depth=depth,
            image_size=image_size,
            padding=padding,
            in_channels=in_channels,
        )
    model, report = start_model(
        spec,
        num_classes,
        weights,
        backbone_weights,
        class_names=class_names,
        keep_known_classes=keep_known_classes,
        padding=padding,
    )
    for line in report.lines() if report else ():
        log.info(line)
    return model


def spec_of(config: ModelConfig) -> Spec:
    """The network that a recipe describes, before weights have their say.

    Raises:
        ConfigError: there is no such network, or a setting does not fit it.
    """
    if isinstance(config, ClassifierConfig):
        return efficientnet_spec(
            config.name,
            phi=config.phi,
            width=config.width,
            depth=config.depth,
            image_size=config.image_size,
            dropout=config.dropout,
            drop_path=config.drop_path,
            padding=config.padding,
            norm_momentum=config.norm_momentum,
        )
    assert isinstance(config, DetectorConfig)
    return efficientdet_spec(
        config.name,
        backbone=config.backbone,
        phi=config.phi,
        width=config.width,
        depth=config.depth,
        image_size=config.image_size,
        drop_path=config.drop_path,
        padding=config.padding,
        norm_momentum=config.norm_momentum,
        anchor_scale=config.anchor_scale,
        anchor_aspects=config.anchor_aspects,
    )


def start_model(
    spec: Spec,
    num_classes: int | None,
    weights: str | None = None,
    backbone_weights: str | None = None,
    *,
    class_names: Sequence[str] = (),
    keep_known_classes: bool = False,
    padding: Padding | None = None,
    anchor_scale: float | None = None,
    anchor_aspects: Aspects | None = None,
) -> tuple[EfficientDet | EfficientNet, LoadReport | None]:
    """The network of a spec with its first weights, in training mode, and the report of the load.

    Input, padding and anchors follow the weights, as their numbers mean something with these alone; `padding`,
    `anchor_scale` and `anchor_aspects` are what the user insists on. The other arguments are those of `create_model`.

    Raises:
        ConfigError: the arguments contradict each other.
        WeightsError: the weights cannot be had or do not fit.
    """
    if weights is not None and backbone_weights is not None:
        raise ConfigError("weights and backbone_weights are both given; give the one that the training starts from")
    if class_names and len(class_names) != (num_classes or len(class_names)):
        raise ConfigError(f"{len(class_names)} class names are given for {num_classes} classes; expected one for each")
    if keep_known_classes and weights is None:
        raise ConfigError(
            "keep_known_classes keeps rows of the head of other weights, but no weights with a head are given"
        )
    num_classes = num_classes or len(class_names) or None
    named = backbone_weights if weights is None else weights
    slots = COCO_SLOTS if isinstance(spec, EfficientDetSpec) else IMAGENET_CLASSES
    if named is None:
        return spec.build(num_classes or slots), None
    if isinstance(spec, EfficientDetSpec) and isinstance(spec.backbone, TimmSpec) and not _is_own(named):
        model = spec.build(num_classes or slots)
        return model, _load_timm(model, named)
    origin = read_origin(named, spec)
    trained = origin.spec
    if weights is None and trained is not None:
        trained = trunk_spec(trained)
    adapted_spec = adapted(spec, trained, padding, anchor_scale, anchor_aspects)
    chosen = None
    if num_classes is None and weights is not None and origin.is_detector == isinstance(spec, EfficientDetSpec):
        chosen = used_labels(origin.class_names) or None
        num_classes = len(chosen) if chosen else origin.num_classes
    network = adapted_spec.build(num_classes or slots)
    if weights is None:
        return network, _load_trunk(network, origin)
    return network, _load_whole(network, origin, chosen, class_names, keep_known_classes)


def named_checkpoint(name: str, file: Path | None = None) -> Checkpoint:
    """A model of the zoo, in evaluation mode, with its card; of COCO's classes the 80 that are used.

    Args:
        name: a name of the zoo, or of a network for its default weights.
        file: its weights file; without it the one of the cache, downloaded if it is not there.

    Raises:
        WeightsError: there is no such entry, or its file cannot be had or does not fit.
    """
    entry = find_entry(name)
    origin = read_entry(entry, fetch(entry) if file is None else file)
    assert origin.spec is not None
    names = origin.class_names or tuple(f"class {label}" for label in range(origin.num_classes))
    ids = origin.category_ids or tuple(range(origin.num_classes))
    labels = used_labels(names)
    model = origin.spec.build(len(labels))
    _load_whole(model, origin, labels, (), keep_known_classes=False)
    card = ModelCard(origin.spec, tuple(names[label] for label in labels), tuple(ids[label] for label in labels))
    return Checkpoint(model.eval(), card, {})


def open_checkpoint(weights: str | Path) -> Checkpoint:
    """Model and card of a checkpoint of ours, or of a name of the zoo.

    Raises:
        WeightsError: there is neither, or it is damaged.
    """
    if is_file_name(str(weights)):
        return load_checkpoint(weights)
    return named_checkpoint(str(weights))


def _load_whole(
    model: EfficientDet | EfficientNet,
    origin: Origin,
    chosen: Sequence[int] | None,
    class_names: Sequence[str],
    keep_known_classes: bool,
) -> LoadReport:
    """Fills a model with all that fits: of the same kind of network everything, else the backbone."""
    if origin.is_detector and isinstance(model, EfficientNet):
        raise WeightsError(
            f"{origin.source}: these are a detector's weights, but the model is a classifier; take their backbone "
            "alone with backbone_weights"
        )
    if not origin.is_detector and isinstance(model, EfficientDet):
        if keep_known_classes:
            raise ConfigError(
                f"keep_known_classes: {origin.source} is a classifier and has no head for a detector; leave it out"
            )
        return _load_trunk(model, origin)
    spec = model.spec
    assert isinstance(spec, (EfficientDetSpec, EfficientNetSpec))
    state = _with_stem(translated(origin.state, spec, origin.source), model)
    layer = class_layer(state)
    fresh: list[str] = []
    head = ""
    if layer is None:  # a classifier's trunk
        fresh = list(CLASSIFIER_HEAD)
    elif chosen is not None:
        state = choose_rows(state, origin.num_classes, chosen)
    elif keep_known_classes:
        state, head = _kept_rows(state, origin, model, class_names)
    elif model.num_classes != origin.num_classes or not _same_classes(class_names, origin.class_names):
        state = {name: value for name, value in state.items() if not name.startswith(f"{layer}.")}
        fresh = [f"{layer}."]
        head = f"the head had {origin.num_classes} classes and now has {model.num_classes} of its own"
    return replace(_load(model, state, origin, fresh, UNUSED), head=head)


def _load_trunk(model: EfficientDet | EfficientNet, origin: Origin) -> LoadReport:
    """Fills the backbone of a detector, or all of a classifier but its head."""
    if isinstance(model, EfficientDet) and isinstance(model.backbone, TimmBackbone):
        state = {f"backbone.{name}": value for name, value in trunk_of(origin.state).items()}
        return load_state(model, state, origin.source, fresh=("neck.", "class_head.", "box_head."))
    trunk = model.backbone if isinstance(model, EfficientDet) else model
    assert isinstance(trunk, EfficientNet)
    state = _with_stem(translated(trunk_of(origin.state), trunk.spec, origin.source), trunk)
    if isinstance(model, EfficientNet):
        state = {name: value for name, value in state.items() if not name.startswith(CLASSIFIER_HEAD)}
        return _load(model, state, origin, CLASSIFIER_HEAD, ())
    state = {f"backbone.{name}": value for name, value in state.items()}
    unused = [f"backbone.{prefix}" for prefix in CLASSIFIER_HEAD]
    return _load(model, state, origin, ("neck.", "class_head.", "box_head."), unused)


def _load(
    model: EfficientDet | EfficientNet,
    state: Mapping[str, Tensor],
    origin: Origin,
    fresh: Sequence[str],
    unused: Sequence[str],
) -> LoadReport:
    try:
        return load_state(model, state, origin.source, fresh=fresh, unused=unused)
    except WeightsError as error:
        near = nearest_networks(origin)
        hint = f"; they are nearest to {', '.join(near)}" if near else ""
        raise WeightsError(f"{error}{hint}") from None


def _kept_rows(
    state: Mapping[str, Tensor], origin: Origin, model: nn.Module, class_names: Sequence[str]
) -> tuple[dict[str, Tensor], str]:
    """The state with the rows of classes that both know, and what to say of it."""
    if not class_names or not origin.class_names:
        whose = "the model's" if not class_names else f"those of {origin.source}"
        raise ConfigError(f"keep_known_classes goes by class names, but {whose} are not known")
    carried, kept = carry_rows(state, origin.class_names, model.state_dict(), class_names)
    others = [name for name in class_names if name not in kept]
    rows = f"rows kept of {len(kept)} classes" + (f" ({some_of(kept)})" if kept else "")
    return carried, rows + (f", new for {len(others)} ({some_of(others)})" if others else "")


def _same_classes(own: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether rows of one count mean the same classes, as far as names are known."""
    return not own or not theirs or tuple(own) == tuple(theirs)


def _with_stem(state: dict[str, Tensor], model: EfficientDet | EfficientNet) -> dict[str, Tensor]:
    """The state with its first layer for the channels of the model's images, if it was for RGB.

    The kernels of red, green and blue are repeated over the channels and scaled by 3 over their count, so that one
    channel gets the sum of the three, which is what grey images meant to them.
    """
    name = "backbone.conv_stem.weight" if isinstance(model, EfficientDet) else "conv_stem.weight"
    own = model.state_dict().get(name)
    if own is None or name not in state or state[name].shape[1] != 3 or own.shape[1] == 3:
        return state
    channels, rgb = own.shape[1], state[name]
    if channels == 1:
        return {**state, name: rgb.sum(dim=1, keepdim=True)}
    repeated = rgb.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return {**state, name: repeated * (3 / channels)}


def _is_own(weights: str) -> bool:
    path = Path(weights).expanduser()
    return path.is_file() and path.suffix != ".safetensors" and is_checkpoint(read_tensors(path))


def _load_timm(model: EfficientDet, weights: str) -> LoadReport:
    """Fills a backbone of timm from a file of its weights."""
    spec = model.spec.backbone
    assert isinstance(spec, TimmSpec)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"no weights '{weights}' of {spec.name} are known; download them with timm and give the path of the file"
        )
    first, second = (_timm_state(spec, path) for _ in range(2))
    missing = [name for name, value in first.items() if not value.equal(second[name])]  # as drawn at random
    if missing:
        raise WeightsError(
            f"{path}: these weights are not of {spec.name}: {len(missing)} tensors are missing ('{missing[0]}')"
        )
    state = {f"backbone.net.{name}": value for name, value in first.items()}
    return load_state(model, state, weights, fresh=("neck.", "class_head.", "box_head."))


def _timm_state(spec: TimmSpec, path: Path) -> dict[str, Tensor]:
    """Weights of a new backbone of timm, as far as they are not in the file drawn at random."""
    try:
        state: dict[str, Tensor] = make_timm_network(spec, str(path)).state_dict()
    except Exception:  # each network of timm reads files its own way
        raise WeightsError(
            f"{path}: timm cannot load these weights into {spec.name}; expected the file that it has for this network"
        ) from None
    return state


def nearest_networks(origin: Origin) -> list[str]:
    """Names of the at most three networks that share the most tensors with some weights, the nearest first."""
    kind: Mapping[str, Spec] = EFFICIENTDETS if origin.is_detector else EFFICIENTNETS
    shares = {}
    for name, spec in kind.items():
        with torch.device("meta"):
            own = spec.build(1).state_dict()
        state = translated(origin.state, spec, origin.source)
        common = sum(key in own and own[key].shape == value.shape for key, value in state.items())
        shares[name] = common / max(len(own), len(state))
    best = sorted(shares, key=lambda name: -shares[name])[:3]
    return [name for name in best if shares[name] > 0.5]
