"""The families of backbones: which names belong to which family, and the spec of a name.

What a family must provide is the protocol in `backbone.py`; each family is a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from effdet.models.efficientnet import EfficientNetSpec
from effdet.models.efficientnet_specs import EFFICIENTNETS
from effdet.models.options import find_spec
from effdet.models.timm_backbone import PREFIX, TimmSpec, timm_spec

AnyBackboneSpec = EfficientNetSpec | TimmSpec  # what a model card may hold

# Prefix of the names of a family -> its spec by name. The family without a prefix is the last.
FAMILIES: dict[str, Callable[[str], AnyBackboneSpec]] = {
    PREFIX: timm_spec,
    "": lambda name: find_spec(EFFICIENTNETS, name),
}


def find_backbone(name: str) -> AnyBackboneSpec:
    """The spec of a backbone by name.

    Raises:
        ConfigError: there is no such backbone, or its package is not installed; the message suggests near names.
    """
    return next(find(name) for prefix, find in FAMILIES.items() if name.startswith(prefix))
