"""Names of weights in other systems' files, as small tables of pattern and replacement, and their translation to ours.

Putting the translated weights into a model is the work of `loading.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from effdet.models.efficientnet import EfficientNetSpec

Rules = Sequence[tuple[str, str]]

# Projections belong to the first input of a node always, so that the input's own number carries no information.
EFFDET_RULES: Rules = (
    (r"backbone\.(.+)", r"backbone.\1"),
    (r"fpn\.resample\.3\.conv\.(conv|bn)\.(\w+)", r"neck.coarser.\1.\2"),
    (r"fpn\.cell\.(\d+)\.fnode\.(\d+)\.combine\.edge_weights", r"neck.cells.\1.nodes.\2.weights"),
    (
        r"fpn\.cell\.(\d+)\.fnode\.(\d+)\.combine\.resample\.\d+\.conv\.(conv|bn)\.(\w+)",
        r"neck.cells.\1.nodes.\2.projections.0.\3.\4",
    ),
    (
        r"fpn\.cell\.(\d+)\.fnode\.(\d+)\.after_combine\.conv\.conv_dw\.(\w+)",
        r"neck.cells.\1.nodes.\2.conv.depthwise.\3",
    ),
    (
        r"fpn\.cell\.(\d+)\.fnode\.(\d+)\.after_combine\.conv\.conv_pw\.(\w+)",
        r"neck.cells.\1.nodes.\2.conv.pointwise.\3",
    ),
    (r"fpn\.cell\.(\d+)\.fnode\.(\d+)\.after_combine\.conv\.bn\.(\w+)", r"neck.cells.\1.nodes.\2.bn.\3"),
    (r"(class|box)_net\.conv_rep\.(\d+)\.conv_dw\.(\w+)", r"\1_head.convs.\2.depthwise.\3"),
    (r"(class|box)_net\.conv_rep\.(\d+)\.conv_pw\.(\w+)", r"\1_head.convs.\2.pointwise.\3"),
    (r"(class|box)_net\.bn_rep\.(\d+)\.(\d+)\.bn\.(\w+)", r"\1_head.norms.\2.\3.\4"),
    (r"(class|box)_net\.predict\.conv_dw\.(\w+)", r"\1_head.predict.depthwise.\2"),
    (r"(class|box)_net\.predict\.conv_pw\.(\w+)", r"\1_head.predict.pointwise.\2"),
)


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


def from_effdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an `effdet` detector (tf_efficientdet_*) under our names; its box rows are y first, ours x first."""
    translated = {ours: state[theirs] for theirs, ours in rename(list(state), EFFDET_RULES).items()}
    for suffix in ("weight", "bias"):
        name = f"box_head.predict.pointwise.{suffix}"
        if name in translated:
            rows = translated[name]
            translated[name] = rows.reshape(-1, 4, *rows.shape[1:])[:, [1, 0, 3, 2]].reshape(rows.shape)
    return translated


def from_lukemelas(state: Mapping[str, Tensor], spec: EfficientNetSpec) -> dict[str, Tensor]:
    """Weights of an `efficientnet_pytorch` classifier under our names; it counts blocks through all stages."""
    rules = lukemelas_rules(spec)
    return {ours: state[theirs] for theirs, ours in rename(list(state), rules).items()}


def lukemelas_rules(spec: EfficientNetSpec) -> Rules:
    """The table for one network: a block without expansion names its norms and its projection differently."""
    rules = [
        (r"_conv_stem\.(\w+)", r"conv_stem.\1"),
        (r"_bn0\.(\w+)", r"bn1.\1"),
        (r"_conv_head\.(\w+)", r"conv_head.\1"),
        (r"_bn1\.(\w+)", r"bn2.\1"),
        (r"_fc\.(\w+)", r"classifier.\1"),
    ]
    flat = 0
    for number, stage in enumerate(spec.stages()):
        expanded = stage.expand != 1
        for repeat in range(stage.repeats):
            theirs, ours = rf"_blocks\.{flat}\.", rf"blocks.{number}.{repeat}."
            rules += [
                (theirs + r"_expand_conv\.(\w+)", ours + r"conv_pw.\1"),
                (theirs + r"_bn0\.(\w+)", ours + r"bn1.\1"),
                (theirs + r"_depthwise_conv\.(\w+)", ours + r"conv_dw.\1"),
                (theirs + r"_bn1\.(\w+)", ours + (r"bn2.\1" if expanded else r"bn1.\1")),
                (theirs + r"_se_(reduce|expand)\.(\w+)", ours + r"se.conv_\1.\2"),
                (theirs + r"_project_conv\.(\w+)", ours + (r"conv_pwl.\1" if expanded else r"conv_pw.\1")),
                (theirs + r"_bn2\.(\w+)", ours + (r"bn3.\1" if expanded else r"bn2.\1")),
            ]
            flat += 1
    return rules
