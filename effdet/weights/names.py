"""Names of weights in other systems' files, as small tables of pattern and replacement, and their translation to ours.

Putting the translated weights into a model is the work of `loading.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from effdet.errors import WeightsError
from effdet.models.bifpn import cell_nodes
from effdet.models.efficientdet import MIN_LEVEL, EfficientDetSpec
from effdet.models.efficientnet import Block, EfficientNetSpec

Rules = Sequence[tuple[str, str]]

_ENDS = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

# Their conv-norm pairs and gates, in the order of a block, and ours.
TORCHVISION_BLOCKS: dict[Block, Rules] = {
    "separable": (
        (r"0\.0\.(\w+)", r"conv_dw.\1"),
        (r"0\.1\.(\w+)", r"bn1.\1"),
        (r"1\.fc1\.(\w+)", r"se.conv_reduce.\1"),
        (r"1\.fc2\.(\w+)", r"se.conv_expand.\1"),
        (r"2\.0\.(\w+)", r"conv_pw.\1"),
        (r"2\.1\.(\w+)", r"bn2.\1"),
    ),
    "inverted": (
        (r"0\.0\.(\w+)", r"conv_pw.\1"),
        (r"0\.1\.(\w+)", r"bn1.\1"),
        (r"1\.0\.(\w+)", r"conv_dw.\1"),
        (r"1\.1\.(\w+)", r"bn2.\1"),
        (r"2\.fc1\.(\w+)", r"se.conv_reduce.\1"),
        (r"2\.fc2\.(\w+)", r"se.conv_expand.\1"),
        (r"3\.0\.(\w+)", r"conv_pwl.\1"),
        (r"3\.1\.(\w+)", r"bn3.\1"),
    ),
    "conv": (
        (r"0\.0\.(\w+)", r"conv.\1"),
        (r"0\.1\.(\w+)", r"bn1.\1"),
    ),
    "fused": (
        (r"0\.0\.(\w+)", r"conv_exp.\1"),
        (r"0\.1\.(\w+)", r"bn1.\1"),
        (r"1\.0\.(\w+)", r"conv_pwl.\1"),
        (r"1\.1\.(\w+)", r"bn2.\1"),
    ),
}
# A block without expansion names its norms and its projection differently. zylo117 wraps convolutions once more.
LUKEMELAS_BLOCKS: dict[Block, Rules] = {
    "separable": (
        (r"_depthwise_conv\.(?:conv\.)?(\w+)", r"conv_dw.\1"),
        (r"_bn1\.(\w+)", r"bn1.\1"),
        (r"_se_(reduce|expand)\.(?:conv\.)?(\w+)", r"se.conv_\1.\2"),
        (r"_project_conv\.(?:conv\.)?(\w+)", r"conv_pw.\1"),
        (r"_bn2\.(\w+)", r"bn2.\1"),
    ),
    "inverted": (
        (r"_expand_conv\.(?:conv\.)?(\w+)", r"conv_pw.\1"),
        (r"_bn0\.(\w+)", r"bn1.\1"),
        (r"_depthwise_conv\.(?:conv\.)?(\w+)", r"conv_dw.\1"),
        (r"_bn1\.(\w+)", r"bn2.\1"),
        (r"_se_(reduce|expand)\.(?:conv\.)?(\w+)", r"se.conv_\1.\2"),
        (r"_project_conv\.(?:conv\.)?(\w+)", r"conv_pwl.\1"),
        (r"_bn2\.(\w+)", r"bn3.\1"),
    ),
}


def timm_rules(spec: EfficientNetSpec) -> Rules:
    """Names of timm's classifiers are ours."""
    return ((r"((?:conv_stem|bn1|blocks|conv_head|bn2|classifier)\..+)", r"\1"),)


def torchvision_rules(spec: EfficientNetSpec) -> Rules:
    """Names of torchvision's classifiers: one list of stages from stem to head."""
    stages = spec.scaled_stages()
    rules = [
        (r"features\.0\.0\.(\w+)", r"conv_stem.\1"),
        (r"features\.0\.1\.(\w+)", r"bn1.\1"),
        (rf"features\.{len(stages) + 1}\.0\.(\w+)", r"conv_head.\1"),
        (rf"features\.{len(stages) + 1}\.1\.(\w+)", r"bn2.\1"),
        (r"classifier\.1\.(\w+)", r"classifier.\1"),
    ]
    for number, stage in enumerate(stages):
        for repeat in range(stage.repeats):
            theirs, ours = rf"features\.{number + 1}\.{repeat}\.block\.", f"blocks.{number}.{repeat}."
            rules += [(theirs + pattern, ours + name) for pattern, name in TORCHVISION_BLOCKS[stage.block]]
    return rules


def lukemelas_rules(spec: EfficientNetSpec) -> Rules:
    """Names of `efficientnet_pytorch` classifiers, which count blocks through all stages."""
    rules = [
        (r"_conv_stem\.(?:conv\.)?(\w+)", r"conv_stem.\1"),
        (r"_bn0\.(\w+)", r"bn1.\1"),
        (r"_conv_head\.(\w+)", r"conv_head.\1"),
        (r"_bn1\.(\w+)", r"bn2.\1"),
        (r"_fc\.(\w+)", r"classifier.\1"),
    ]
    blocks = [
        (stage.block, f"blocks.{number}.{repeat}.")
        for number, stage in enumerate(spec.scaled_stages())
        for repeat in range(stage.repeats)
    ]
    for flat, (block, ours) in enumerate(blocks):
        rules += [(rf"_blocks\.{flat}\.{pattern}", ours + name) for pattern, name in LUKEMELAS_BLOCKS.get(block, ())]
    return rules


def effdet_rules(spec: EfficientDetSpec) -> Rules:
    """Names of `effdet` detectors; backbones have timm's names, and some order the heads' norms by level first."""
    node = r"fpn\.cell\.(\d+)\.fnode\.(\d+)\."
    rules = [
        (r"backbone\.(.+)", r"backbone.\1"),
        (r"fpn\.resample\.3\.conv\.(conv|bn)\.(\w+)", r"neck.coarser.\1.\2"),
        (node + r"combine\.edge_weights", r"neck.cells.\1.nodes.\2.weights"),
        (node + r"after_combine\.conv\.conv_dw\.(\w+)", r"neck.cells.\1.nodes.\2.conv.depthwise.\3"),
        (node + r"after_combine\.conv\.conv_pw\.(\w+)", r"neck.cells.\1.nodes.\2.conv.pointwise.\3"),
        (node + r"after_combine\.conv\.bn\.(\w+)", r"neck.cells.\1.nodes.\2.bn.\3"),
        (r"(class|box)_net\.conv_rep\.(\d+)\.conv_dw\.(\w+)", r"\1_head.convs.\2.depthwise.\3"),
        (r"(class|box)_net\.conv_rep\.(\d+)\.conv_pw\.(\w+)", r"\1_head.convs.\2.pointwise.\3"),
        (r"(class|box)_net\.bn_rep\.(\d+)\.(\d+)\.bn\.(\w+)", r"\1_head.norms.\2.\3.\4"),
        (r"(class|box)_net\.bn_rep\.(\d+)\.(\d+)\." + _ENDS, r"\1_head.norms.\3.\2.\4"),
        (r"(class|box)_net\.predict\.conv_dw\.(\w+)", r"\1_head.predict.depthwise.\2"),
        (r"(class|box)_net\.predict\.conv_pw\.(\w+)", r"\1_head.predict.pointwise.\2"),
    ]
    # They number the projections of a node by the feature that is projected, we by its place among the inputs.
    for number, plan in enumerate(cell_nodes(_num_levels(spec), spec.topology)):
        for place, position in enumerate(plan.inputs):
            theirs = rf"fpn\.cell\.0\.fnode\.{number}\.combine\.resample\.{position}\.conv\.(conv|bn)\.(\w+)"
            rules.append((theirs, rf"neck.cells.0.nodes.{number}.projections.{place}.\1.\2"))
    return rules


def zylo117_rules(spec: EfficientDetSpec) -> Rules:
    """Names of zylo117's detectors: backbones are lukemelas', nodes are called by level and direction."""
    assert isinstance(spec.backbone, EfficientNetSpec)
    prefix = r"backbone_net\.model\."
    rules = [(prefix + pattern, "backbone." + name) for pattern, name in lukemelas_rules(spec.backbone)]
    rules += [
        (r"bifpn\.0\.p5_to_p6\.0\.conv\.(\w+)", r"neck.coarser.conv.\1"),
        (r"bifpn\.0\.p5_to_p6\.1\.(\w+)", r"neck.coarser.bn.\1"),
    ]
    for number, plan in enumerate(cell_nodes(_num_levels(spec))):
        level, rising = plan.level + MIN_LEVEL, number < _num_levels(spec) - 1
        node, ours = rf"bifpn\.(\d+)\.conv{level}_{'up' if rising else 'down'}\.", rf"neck.cells.\1.nodes.{number}."
        projection = rf"bifpn\.0\.p{level}_down_channel{'' if rising else '_2'}\."
        if spec.fusion == "fast":  # others carry fusion weights that they do not use
            rules.append((rf"bifpn\.(\d+)\.p{level}_w{1 if rising else 2}", ours + "weights"))
        rules += [
            (node + r"depthwise_conv\.conv\.(\w+)", ours + r"conv.depthwise.\2"),
            (node + r"pointwise_conv\.conv\.(\w+)", ours + r"conv.pointwise.\2"),
            (node + r"bn\.(\w+)", ours + r"bn.\2"),
            (projection + r"0\.conv\.(\w+)", rf"neck.cells.0.nodes.{number}.projections.0.conv.\1"),
            (projection + r"1\.(\w+)", rf"neck.cells.0.nodes.{number}.projections.0.bn.\1"),
        ]
    for theirs, head in (("classifier", "class_head"), ("regressor", "box_head")):
        rules += [
            (rf"{theirs}\.conv_list\.(\d+)\.(depthwise|pointwise)_conv\.conv\.(\w+)", rf"{head}.convs.\1.\2.\3"),
            (rf"{theirs}\.bn_list\.(\d+)\.(\d+)\.(\w+)", rf"{head}.norms.\2.\1.\3"),
            (rf"{theirs}\.header\.(depthwise|pointwise)_conv\.conv\.(\w+)", rf"{head}.predict.\1.\2"),
        ]
    return rules


def own_detector_rules(spec: EfficientDetSpec) -> Rules:
    """Our own names."""
    return ((r"((?:backbone|neck|class_head|box_head)\..+)", r"\1"),)


class DetectorSystem(NamedTuple):
    """Who wrote a detector's weights: by which name that is seen, and what the names become."""

    name: str
    telltale: str
    rules: Callable[[EfficientDetSpec], Rules]
    trunk_prefix: str
    y_first: bool  # whether box rows are (dy, dx, dh, dw)


class ClassifierSystem(NamedTuple):
    """Who wrote a classifier's weights."""

    name: str
    telltale: str
    rules: Callable[[EfficientNetSpec], Rules]


OWN = DetectorSystem("this package", "class_head.predict.pointwise.weight", own_detector_rules, "backbone.", False)
DETECTOR_SYSTEMS = (
    OWN,
    DetectorSystem("effdet", "class_net.predict.conv_pw.weight", effdet_rules, "backbone.", True),
    DetectorSystem(
        "zylo117", "classifier.header.pointwise_conv.conv.weight", zylo117_rules, "backbone_net.model.", True
    ),
)
CLASSIFIER_SYSTEMS = (
    ClassifierSystem("timm", "conv_stem.weight", timm_rules),
    ClassifierSystem("torchvision", "features.0.0.weight", torchvision_rules),
    ClassifierSystem("efficientnet_pytorch", "_conv_stem.weight", lukemelas_rules),
    ClassifierSystem("zylo117", "_conv_stem.conv.weight", lukemelas_rules),
)


def detector_system(state: Mapping[str, Tensor]) -> DetectorSystem | None:
    """The system that wrote a detector's weights; None where they are not those of a detector."""
    return next((system for system in DETECTOR_SYSTEMS if system.telltale in state), None)


def classifier_system(state: Mapping[str, Tensor]) -> ClassifierSystem | None:
    """The system that wrote a classifier's weights; None where they are not those of a classifier."""
    return next((system for system in CLASSIFIER_SYSTEMS if system.telltale in state), None)


def rename(names: Sequence[str], rules: Rules) -> dict[str, str]:
    """Their name -> our name, by the first rule that matches the whole name; names without a rule are left out."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed = {}
    for name in names:
        for pattern, replacement in compiled:
            match = pattern.fullmatch(name)
            if match:
                renamed[name] = match.expand(replacement)
                break
    return renamed


def translated(
    state: Mapping[str, Tensor], spec: EfficientDetSpec | EfficientNetSpec, source: str
) -> dict[str, Tensor]:
    """Weights of any known system under our names, for a network of the same kind.

    Raises:
        WeightsError: no known system wrote them, or they are of a network of the other kind.
    """
    if isinstance(spec, EfficientDetSpec):
        detector = detector_system(state)
        if detector is not None:
            return translated_detector(state, detector, spec)
    else:
        classifier = classifier_system(state)
        if classifier is not None:
            return translated_classifier(state, classifier, spec)
    kind = "detector" if isinstance(spec, EfficientDetSpec) else "classifier"
    raise WeightsError(
        f"{source}: not the weights of a {kind} of a known system (first name '{next(iter(state))}'); expected a "
        "checkpoint of this package, or weights of effdet, zylo117, timm, torchvision or efficientnet_pytorch"
    )


def trunk_of(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The backbone's weights of a detector's, under the names of a classifier; a classifier's as they are."""
    system = detector_system(state)
    if system is None:
        return state
    prefix = system.trunk_prefix
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def translated_detector(
    state: Mapping[str, Tensor], system: DetectorSystem, spec: EfficientDetSpec
) -> dict[str, Tensor]:
    """Weights of a detector under our names.

    Box rows come out x first. What has no name of ours, such as fusion weights that are not used, keeps its own.
    Convolutions before a norm that have no bias get one of zero.
    """
    renamed = rename(list(state), system.rules(spec))
    ours = {renamed.get(name, name): value for name, value in state.items()}
    if system.y_first:
        for suffix in ("weight", "bias"):
            name = f"box_head.predict.pointwise.{suffix}"
            if name in ours:
                ours[name] = _x_first(ours[name])
    for name in [
        name for name in ours if re.fullmatch(r"(neck|class_head|box_head)\..*(conv|pointwise)\.weight", name)
    ]:
        ours.setdefault(name.removesuffix("weight") + "bias", torch.zeros(len(ours[name])))
    return ours


def translated_classifier(
    state: Mapping[str, Tensor], system: ClassifierSystem, spec: EfficientNetSpec
) -> dict[str, Tensor]:
    """Weights of a classifier under our names; what has none keeps its own."""
    renamed = rename(list(state), system.rules(spec))
    return {renamed.get(name, name): value for name, value in state.items()}


def _x_first(rows: Tensor) -> Tensor:
    """Rows of (dy, dx, dh, dw) per anchor as (dx, dy, dw, dh)."""
    return rows.reshape(-1, 4, *rows.shape[1:])[:, [1, 0, 3, 2]].reshape(rows.shape)


def _num_levels(spec: EfficientDetSpec) -> int:
    return spec.max_level - MIN_LEVEL + 1
