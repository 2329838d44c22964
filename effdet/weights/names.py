"""Names of weights in other systems' files: tables of pattern and replacement, and the translation to our names.

Loading the translated weights into a model is in `loading.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from effdet.errors import WeightsError
from effdet.models import EfficientDetSpec, EfficientNetSpec, ModelSpec
from effdet.models.backbone import BackboneSpec
from effdet.models.bifpn import cell_nodes
from effdet.models.efficientdet import MIN_LEVEL
from effdet.models.efficientnet import Block
from effdet.types import Task

Rules = Sequence[tuple[str, str]]

_ENDS = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

# Their convolutions, BatchNorm layers and gates in the order of a block, and our names.
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
# A block without expansion names its BatchNorm layers and its projection differently. zylo117 wraps convolutions.
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
    """Names of timm's classifiers, which are our names."""
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
    """Names of `efficientnet_pytorch` classifiers, which number blocks through all stages."""
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
    """Names of `effdet` detectors: backbones have timm's names, and some order the heads' BatchNorm by level first."""
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
    # They number the projections of a node by the feature that is projected, we number them by the input.
    for number, plan in enumerate(cell_nodes(_num_levels(spec), spec.topology)):
        for index, position in enumerate(plan.inputs):
            theirs = rf"fpn\.cell\.0\.fnode\.{number}\.combine\.resample\.{position}\.conv\.(conv|bn)\.(\w+)"
            rules.append((theirs, rf"neck.cells.0.nodes.{number}.projections.{index}.\1.\2"))
    return rules


def zylo117_rules(spec: EfficientDetSpec) -> Rules:
    """Names of zylo117's detectors: backbones are lukemelas', nodes are named by level and direction."""
    backbone = cast(EfficientNetSpec, spec.backbone)  # as in all of zylo117's detectors
    prefix = r"backbone_net\.model\."
    rules = [(prefix + pattern, "backbone." + name) for pattern, name in lukemelas_rules(backbone)]
    rules += [
        (r"bifpn\.0\.p5_to_p6\.0\.conv\.(\w+)", r"neck.coarser.conv.\1"),
        (r"bifpn\.0\.p5_to_p6\.1\.(\w+)", r"neck.coarser.bn.\1"),
    ]
    for number, plan in enumerate(cell_nodes(_num_levels(spec))):
        level, rising = plan.level + MIN_LEVEL, number < _num_levels(spec) - 1
        node, ours = rf"bifpn\.(\d+)\.conv{level}_{'up' if rising else 'down'}\.", rf"neck.cells.\1.nodes.{number}."
        projection = rf"bifpn\.0\.p{level}_down_channel{'' if rising else '_2'}\."
        if spec.fusion == "fast":  # the others have fusion weights that they do not use
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


class System(NamedTuple):
    """A program that writes weights files.

    Attributes:
        name: its name.
        telltale: a name of a tensor by which its files are recognised.
        rules: from the spec of our model to the table of names.
        backbone_prefix: of the names of a detector's backbone.
        y_first: whether box rows are (dy, dx, dh, dw).
    """

    name: str
    telltale: str
    rules: Callable[[Any], Rules]
    backbone_prefix: str = ""
    y_first: bool = False


SYSTEMS: dict[Task, tuple[System, ...]] = {
    "detection": (
        System("this package", "class_head.predict.pointwise.weight", own_detector_rules, "backbone."),
        System("effdet", "class_net.predict.conv_pw.weight", effdet_rules, "backbone.", y_first=True),
        System(
            "zylo117",
            "classifier.header.pointwise_conv.conv.weight",
            zylo117_rules,
            "backbone_net.model.",
            y_first=True,
        ),
    ),
    "classification": (
        System("timm", "conv_stem.weight", timm_rules),
        System("torchvision", "features.0.0.weight", torchvision_rules),
        System("efficientnet_pytorch", "_conv_stem.weight", lukemelas_rules),
        System("zylo117", "_conv_stem.conv.weight", lukemelas_rules),
    ),
}


def find_system(state: Mapping[str, Tensor], task: Task) -> System | None:
    """The system that wrote the weights of a model of this task; None if they are not such weights."""
    return next((system for system in SYSTEMS[task] if system.telltale in state), None)


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


def translated(state: Mapping[str, Tensor], spec: ModelSpec, source: str) -> dict[str, Tensor]:
    """Weights of any known system under our names, for a model of the same task.

    Box rows come out x first. Names without a rule, such as those of unused fusion weights, stay as they are.
    Convolutions in neck and heads without a bias get a bias of zero.

    Raises:
        WeightsError: no known system wrote the weights, or they are of a model of another task.
    """
    system = find_system(state, spec.task)
    if system is None:
        kind = {"detection": "detector", "classification": "classifier"}[spec.task]
        raise WeightsError(
            f"{source}: not the weights of a {kind} from a known system (first name '{next(iter(state))}'); expected a "
            "checkpoint of this package, or weights of effdet, zylo117, timm, torchvision or efficientnet_pytorch"
        )
    ours = _renamed(state, system, spec)
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


def translated_backbone(state: Mapping[str, Tensor], spec: BackboneSpec) -> dict[str, Tensor]:
    """Weights of a detector's backbone, or of a classifier, under the names of our backbone.

    A backbone of another library, which only our own files hold, has its own names already.
    """
    detector = find_system(state, "detection")
    if detector is not None:
        prefix = detector.backbone_prefix
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    classifier = find_system(state, "classification")
    return dict(state) if classifier is None else _renamed(state, classifier, spec)


def _renamed(state: Mapping[str, Tensor], system: System, spec: ModelSpec | BackboneSpec) -> dict[str, Tensor]:
    renamed = rename(list(state), system.rules(spec))
    return {renamed.get(name, name): value for name, value in state.items()}


def _x_first(rows: Tensor) -> Tensor:
    """Rows of (dy, dx, dh, dw) per anchor as (dx, dy, dw, dh)."""
    return rows.reshape(-1, 4, *rows.shape[1:])[:, [1, 0, 3, 2]].reshape(rows.shape)


def _num_levels(spec: EfficientDetSpec) -> int:
    return spec.max_level - MIN_LEVEL + 1
